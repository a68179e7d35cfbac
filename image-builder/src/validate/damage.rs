//! One damage of each kind to a good layout, and the problem it is reported as.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ProblemKind;
use crate::hash::digest;
use crate::layer::Layer;
use crate::tree::Tree;
use crate::{Image, Platform, layout};

struct Good {
    dir: tempfile::TempDir,
    index: Value,
    manifest: Value,
    config: Value,
}

impl Good {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = Tree::new();
        tree.insert_bytes("a", 0o644, "content").unwrap();
        let image = Image::scratch(&Platform::linux("arm64").unwrap())
            .with_layer(Layer::tree(tree).unwrap());
        let sealed = layout::write(dir.path(), &image, "1.0", &|_| ())
            .await
            .unwrap();
        let index = fs::read(dir.path().join("index.json")).unwrap();
        Self {
            index: serde_json::from_slice(&index).unwrap(),
            manifest: serde_json::from_slice(&sealed.manifest).unwrap(),
            config: serde_json::from_slice(&sealed.config).unwrap(),
            dir,
        }
    }

    fn blob(&self, descriptor: &Value) -> PathBuf {
        let hex = &descriptor["digest"].as_str().unwrap()["sha256:".len()..];
        self.dir.path().join("blobs/sha256").join(hex)
    }

    fn put(&self, descriptor: &mut Value, bytes: &[u8]) {
        descriptor["digest"] = digest(bytes).to_string().into();
        descriptor["size"] = bytes.len().into();
        fs::write(self.blob(descriptor), bytes).unwrap();
    }

    /// Writes config, manifest and index as they are now, each with the digest of the former.
    fn write(&mut self) {
        let mut descriptor = self.manifest["config"].take();
        self.put(&mut descriptor, self.config.to_string().as_bytes());
        self.manifest["config"] = descriptor;
        let mut descriptor = self.index["manifests"][0].take();
        self.put(&mut descriptor, self.manifest.to_string().as_bytes());
        self.index["manifests"][0] = descriptor;
        self.write_index();
    }

    fn write_index(&self) {
        fs::write(self.dir.path().join("index.json"), self.index.to_string()).unwrap();
    }

    /// Stores other bytes as the layer, with the digests that they have.
    fn layer(&mut self, bytes: &[u8]) {
        let mut descriptor = self.manifest["layers"][0].take();
        self.put(&mut descriptor, bytes);
        self.config["rootfs"]["diff_ids"][0] = descriptor["digest"].clone();
        self.manifest["layers"][0] = descriptor;
        self.write();
    }

    fn layer_path(&self) -> PathBuf {
        self.blob(&self.manifest["layers"][0])
    }
}

async fn kinds(dir: &Path) -> Vec<ProblemKind> {
    let report = layout::validate(dir).await.unwrap();
    report.problems.iter().map(|problem| problem.kind).collect()
}

/// What is damaged, how, and as what it is reported.
type Case = (&'static str, fn(&mut Good), &'static [ProblemKind]);

fn damages_of_blobs() -> Vec<Case> {
    vec![
        ("nothing", |good| good.write(), &[]),
        (
            "a byte of the layer",
            |good| {
                let mut bytes = fs::read(good.layer_path()).unwrap();
                bytes[520] ^= 1;
                fs::write(good.layer_path(), bytes).unwrap();
            },
            &[ProblemKind::Digest, ProblemKind::DiffId],
        ),
        (
            "a cut layer",
            |good| {
                let bytes = fs::read(good.layer_path()).unwrap();
                fs::write(good.layer_path(), &bytes[..600]).unwrap();
            },
            &[ProblemKind::Size],
        ),
        (
            "bytes behind a layer",
            |good| {
                let mut bytes = fs::read(good.layer_path()).unwrap();
                bytes.push(0);
                fs::write(good.layer_path(), bytes).unwrap();
            },
            &[ProblemKind::Size],
        ),
        (
            "no layer",
            |good| fs::remove_file(good.layer_path()).unwrap(),
            &[ProblemKind::Missing],
        ),
        (
            "no config",
            |good| fs::remove_file(good.blob(&good.manifest["config"])).unwrap(),
            &[ProblemKind::Missing],
        ),
        (
            "no manifest",
            |good| fs::remove_file(good.blob(&good.index["manifests"][0])).unwrap(),
            &[ProblemKind::Missing],
        ),
    ]
}

fn damages_of_contents() -> Vec<Case> {
    vec![
        (
            "another diff id",
            |good| {
                good.config["rootfs"]["diff_ids"][0] = digest(b"x").to_string().into();
                good.write();
            },
            &[ProblemKind::DiffId],
        ),
        (
            "no diff id",
            |good| {
                good.config["rootfs"]["diff_ids"] = json!([]);
                good.write();
            },
            &[ProblemKind::Malformed],
        ),
        (
            "a layer that is no archive",
            |good| good.layer(&[b'x'; 700]),
            &[ProblemKind::Malformed],
        ),
        (
            "an archive twice in a layer",
            |good| {
                let bytes = fs::read(good.layer_path()).unwrap();
                let twice = [&bytes[..1024], &bytes].concat();
                good.layer(&twice);
            },
            &[ProblemKind::DuplicatePath],
        ),
        (
            "history",
            |good| {
                good.config["history"] = json!([{}, {}]);
                good.write();
            },
            &[ProblemKind::History],
        ),
        (
            "a config against the rules",
            |good| {
                good.config["created"] = "yesterday".into();
                good.write();
            },
            &[ProblemKind::Schema],
        ),
    ]
}

fn damages_of_the_index() -> Vec<Case> {
    vec![
        (
            "an index against the rules",
            |good| {
                good.index["manifests"][0]["annotations"]["number"] = 1.into();
                good.write_index();
            },
            // The entry is no descriptor then, and not followed.
            &[ProblemKind::Schema],
        ),
        (
            "another size in the index",
            |good| {
                good.index["manifests"][0]["size"] = 1.into();
                good.write_index();
            },
            &[ProblemKind::Digest],
        ),
        (
            "another type in the index",
            |good| {
                let docker = "application/vnd.docker.distribution.manifest.v2+json";
                good.index["manifests"][0]["mediaType"] = docker.into();
                good.write_index();
            },
            &[ProblemKind::Schema],
        ),
        (
            "another platform in the index",
            |good| {
                good.index["manifests"][0]["platform"]["architecture"] = "amd64".into();
                good.write_index();
            },
            &[ProblemKind::Platform],
        ),
    ]
}

#[tokio::test]
async fn each_kind_of_problem_is_reported_as_that() {
    let cases = [
        damages_of_blobs(),
        damages_of_contents(),
        damages_of_the_index(),
    ];
    for (what, damage, expected) in cases.into_iter().flatten() {
        let mut good = Good::new().await;
        damage(&mut good);
        assert_eq!(kinds(good.dir.path()).await, expected, "{what}");
    }
}

#[tokio::test]
async fn all_problems_are_listed_not_only_the_first() {
    let mut good = Good::new().await;
    good.config["created"] = "yesterday".into();
    good.config["history"] = json!([{}, {}]);
    good.config["rootfs"]["diff_ids"][0] = digest(b"x").to_string().into();
    good.write();
    good.index["manifests"][0]["platform"]["os"] = "windows".into();
    good.write_index();
    let mut bytes = fs::read(good.layer_path()).unwrap();
    bytes[520] ^= 1;
    fs::write(good.layer_path(), bytes).unwrap();
    let found = kinds(good.dir.path()).await;
    for kind in [
        ProblemKind::Schema,
        ProblemKind::History,
        ProblemKind::Digest,
        ProblemKind::DiffId,
        ProblemKind::Platform,
    ] {
        assert!(found.contains(&kind), "{kind:?} {found:?}");
    }
}
