//! Building upon the images of others: each kind of base, made here by rewriting one of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use modelship_image_builder::{
    Image, Layer, Platform, Sealed, layout, tarball, unpack_image, validate,
};
use modelship_testkit::judge::skopeo;
use modelship_testkit::{Scratch, need};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::sample;

/// A layout with one plain image, whose parts a test rewrites.
struct Fixture {
    dir: PathBuf,
    manifest: Value,
    config: Value,
}

impl Fixture {
    async fn new(dir: &Path) -> Self {
        let image = Image::scratch(&Platform::linux("amd64").unwrap())
            .with_layer(Layer::tree(sample::tree()).unwrap())
            .with_layer(Layer::tree(sample::files(&[("etc/base", "base")])).unwrap())
            .with_config(|c| c.env("PATH", "/bin").root());
        let dir = dir.join("base");
        let sealed = layout::write(&dir, &image, "own", &|_| ()).await.unwrap();
        Self {
            dir,
            manifest: serde_json::from_slice(&sealed.manifest).unwrap(),
            config: serde_json::from_slice(&sealed.config).unwrap(),
        }
    }

    /// Stores a blob, and gives its descriptor.
    fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        let hex = hex::encode(Sha256::digest(bytes));
        fs::write(self.dir.join("blobs/sha256").join(&hex), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": format!("sha256:{hex}"), "size": bytes.len() })
    }

    /// Stores config and manifest as they are now, and gives the manifest's descriptor.
    fn seal(&mut self) -> Value {
        let media_type = self.manifest["config"]["mediaType"]
            .as_str()
            .unwrap()
            .to_owned();
        self.manifest["config"] = self.put(&media_type, self.config.to_string().as_bytes());
        let media_type = self.manifest["mediaType"].as_str().unwrap();
        self.put(media_type, self.manifest.to_string().as_bytes())
    }

    /// Names a descriptor `base`.
    fn name(&self, mut descriptor: Value) {
        descriptor["annotations"] = json!({ "org.opencontainers.image.ref.name": "base" });
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
    }

    async fn open(&self) -> Image {
        layout::validate(&self.dir)
            .await
            .unwrap()
            .into_result()
            .unwrap();
        layout::open(&self.dir, "base").await.unwrap()
    }
}

/// Builds upon the base, and has the result validated by us and read by skopeo.
async fn build_upon(base: Image, dir: &Path) -> (Sealed, Value) {
    let count = base.layers().len();
    let image = base
        .with_layer(sample::model(100_000))
        .with_layer(Layer::tree(sample::files(&[("app/own.py", "own")])).unwrap())
        .with_config(|c| c.entrypoint(["/app/own.py"]).env("MODEL_DIR", "/models/m"));
    let out = dir.join("out");
    let sealed = layout::write(&out, &image, "1.0", &|_| ()).await.unwrap();
    layout::validate(&out).await.unwrap().into_result().unwrap();
    let archive = dir.join("out.tar");
    let same = tarball::write_docker(&archive, &image, "app:1.0", &|_| ())
        .await
        .unwrap();
    assert_eq!(same.manifest, sealed.manifest);
    tarball::validate(&archive)
        .await
        .unwrap()
        .into_result()
        .unwrap();
    let opened = layout::open(&out, "1.0").await.unwrap();
    let root = dir.join("root");
    unpack_image(&opened, &root).await.unwrap();
    for (name, content) in [("etc/base", "base"), ("app/own.py", "own")] {
        assert_eq!(fs::read_to_string(root.join(name)).unwrap(), content);
    }
    let text = String::from_utf8(sealed.manifest.to_vec()).unwrap();
    assert!(!text.contains("docker"), "{text}");
    let config: Value = serde_json::from_slice(&sealed.config).unwrap();
    let layers = |entry: &&Value| entry["empty_layer"] != json!(true);
    assert_eq!(
        config["history"]
            .as_array()
            .unwrap()
            .iter()
            .filter(layers)
            .count(),
        count + 2
    );
    let from = format!("oci:{}:1.0", out.display());
    if let Some(said) = need(skopeo(&["inspect", "--config", &from]).await) {
        let seen: Value = serde_json::from_str(said.succeeded()).unwrap();
        assert_eq!(seen["rootfs"], config["rootfs"]);
        assert_eq!(seen["config"]["Entrypoint"], json!(["/app/own.py"]));
    }
    (sealed, config)
}

#[tokio::test]
async fn a_docker_base() {
    let dir = Scratch::new().unwrap();
    let mut base = Fixture::new(dir.path()).await;
    base.manifest["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json".into();
    base.manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json".into();
    for layer in base.manifest["layers"].as_array_mut().unwrap() {
        layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar".into();
    }
    let descriptor = base.seal();
    base.name(descriptor);
    let opened = base.open().await;
    build_upon(opened, dir.path()).await;
}

#[tokio::test]
async fn a_zstd_base() {
    let dir = Scratch::new().unwrap();
    let mut base = Fixture::new(dir.path()).await;
    for at in 0..2 {
        let layer = &base.manifest["layers"][at];
        let hex = layer["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        let plain = fs::read(base.dir.join("blobs/sha256").join(hex)).unwrap();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let zstd = ruzstd::encoding::compress_to_vec(&plain[..], level);
        let stored = base.put("application/vnd.oci.image.layer.v1.tar+zstd", &zstd);
        base.manifest["layers"][at] = stored;
    }
    let descriptor = base.seal();
    base.name(descriptor);
    let opened = base.open().await;
    let (sealed, _) = build_upon(opened, dir.path()).await;
    let zstd = sealed.layers[0].media_type().to_string();
    assert_eq!(zstd, "application/vnd.oci.image.layer.v1.tar+zstd");
}

#[tokio::test]
async fn bases_with_no_or_wrong_history_get_one_that_fits() {
    let wrong = json!([{ "created_by": "only one" }]);
    for history in [Value::Null, json!([]), wrong.clone()] {
        let dir = Scratch::new().unwrap();
        let mut base = Fixture::new(dir.path()).await;
        let config = base.config.as_object_mut().unwrap();
        match &history {
            Value::Null => drop(config.remove("history")),
            some => drop(config.insert("history".to_owned(), some.clone())),
        }
        let descriptor = base.seal();
        base.name(descriptor);
        let opened = layout::open(&base.dir, "base").await.unwrap();
        // Only one that claims another number of layers is a problem.
        assert_eq!(
            validate(&opened).await.unwrap().is_valid(),
            history != wrong
        );
        build_upon(opened, dir.path()).await;
    }
}

#[tokio::test]
async fn settings_and_unknown_fields_of_a_base_survive() {
    let dir = Scratch::new().unwrap();
    let mut base = Fixture::new(dir.path()).await;
    let health =
        json!({ "Test": ["CMD", "true"], "Interval": 5_000_000_000_u64, "StartInterval": 1 });
    base.config["config"]["Healthcheck"] = health.clone();
    base.config["config"]["Shell"] = json!(["/bin/bash", "-c"]);
    base.config["config"]["OnBuild"] = json!(["RUN x"]);
    base.config["config"]["ArgsEscaped"] = json!(true);
    base.config["config"]["User"] = "1000:1000".into();
    base.config["os.version"] = "1.2".into();
    base.config["variant"] = "v3".into();
    base.config["x-of-a-later-version"] = json!({ "b": [1], "a": null });
    let empty = json!({ "created_by": "USER 1000", "empty_layer": true });
    base.config["history"]
        .as_array_mut()
        .unwrap()
        .insert(1, empty);
    let descriptor = base.seal();
    base.name(descriptor);
    let opened = base.open().await;
    let (_, config) = build_upon(opened, dir.path()).await;
    let settings = &config["config"];
    assert_eq!(settings["Healthcheck"], health);
    assert_eq!(settings["OnBuild"], json!(["RUN x"]));
    assert_eq!(settings["ArgsEscaped"], json!(true));
    // The base's user stays; only an image from scratch gets one of ours.
    assert_eq!(settings["User"], "1000:1000");
    assert_eq!(settings["Env"], json!(["PATH=/bin", "MODEL_DIR=/models/m"]));
    assert_eq!(
        (&config["variant"], &config["os.version"]),
        (&json!("v3"), &json!("1.2"))
    );
    assert_eq!(
        config["x-of-a-later-version"],
        json!({ "a": null, "b": [1] })
    );
    assert_eq!(config["history"].as_array().unwrap().len(), 5);
    // And a health check of the app replaces the base's.
    let own = layout::open(&dir.path().join("out"), "1.0").await.unwrap();
    let own = own.with_config(|c| c.healthcheck(["/app/own.py"], Duration::from_secs(9)));
    assert_eq!(
        own.setting("Healthcheck").unwrap()["Test"],
        json!(["CMD", "/app/own.py"])
    );
}

#[tokio::test]
async fn an_attested_index_base() {
    let dir = Scratch::new().unwrap();
    let mut base = Fixture::new(dir.path()).await;
    let mut image = base.seal();
    image["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let statement = base.put("application/vnd.in-toto+json", b"{}");
    let config = base.put("application/vnd.oci.image.config.v1+json", b"{\"architecture\":\"unknown\",\"os\":\"unknown\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\"]}}");
    let attestation = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": [statement],
    });
    let mut attestation = base.put(
        "application/vnd.oci.image.manifest.v1+json",
        attestation.to_string().as_bytes(),
    );
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    attestation["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let index = "application/vnd.oci.image.index.v1+json";
    let text = json!({ "schemaVersion": 2, "mediaType": index, "manifests": [attestation, image] });
    base.name(base.put(index, text.to_string().as_bytes()));
    let opened = base.open().await;
    assert_eq!(opened.platform().unwrap().to_string(), "linux/amd64");
    build_upon(opened, dir.path()).await;
}
