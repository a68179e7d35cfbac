//! A hundred builds of one source, in processes that differ in all that must not show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use modelship_image_builder::{CompressOptions, Compression, Layer, Tree, TreeOptions};
use proptest::prelude::*;

/// Builds in one process.
const BUILDS: usize = 10;
/// Two processes run with each of these.
const LOCALES: [&str; 5] = ["C", "C.UTF-8", "tr_TR.UTF-8", "de_DE", "ja_JP.eucJP"];

/// What one build must always come to: plain, gzip, zstd.
const GOLDEN: [&str; 3] = [
    "sha256:48d2424579839c6d656f279e99d7b385f34c33830eb12f424e91d0173210ebcc",
    "sha256:d2a77d4970b16bdb0277cf41ba9d5fe3557bef943960d2d0fbbb31598d5b4191",
    "sha256:6c2c5b9572a8a87d22aee3b2eef72726e0241b66e75bbb1159fa8b76125ee006",
];

/// Small pseudo-random numbers, the same everywhere.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.next(at + 1));
        }
    }
}

/// Names and contents: several directories, long and foreign names, and one file of more than
/// one block of the compressor.
fn source() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = (0..24)
        .map(|n| {
            let size = [0, 1, 511, 512, 513, 5000][n % 6];
            let name = format!("pkg{}/sub-{}/módulo_{n}.py", n % 3, n % 4);
            (name, vec![u8::try_from(n).unwrap(); size])
        })
        .collect();
    let big = (0..1_100_000_u32).map(|n| (n.wrapping_mul(n) >> 12).to_le_bytes()[0]);
    files.push(("data/big.bin".to_owned(), big.collect()));
    files.push((format!("{}/x", "long".repeat(30)), b"x".to_vec()));
    files.push(("B".to_owned(), b"upper case sorts first".to_vec()));
    files.push(("a/run.sh".to_owned(), b"#!/bin/sh\n".to_vec()));
    files.push(("notes.md".to_owned(), b"left out".to_vec()));
    files.push((".dockerignore".to_owned(), b"*.md\n".to_vec()));
    files
}

/// Writes the files in some order, each with the mode the process's mask leaves.
fn check_out(dir: &Path, files: &[(String, Vec<u8>)]) {
    for (name, content) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mode = if content.starts_with(b"#!") {
            0o777
        } else {
            0o666
        };
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(mode).open(&path);
        file.unwrap().write_all(content).unwrap();
    }
}

async fn digests(tree: &Tree, threads: usize) -> [String; 3] {
    let spool = tempfile::tempdir().unwrap();
    let mut found = [const { String::new() }; 3];
    let all = [Compression::None, Compression::Gzip, Compression::Zstd];
    for (digest, compression) in found.iter_mut().zip(all) {
        let mut options = CompressOptions::from(compression);
        options.threads = NonZeroUsize::new(threads);
        let layer = Layer::tree(tree.clone()).unwrap();
        let layer = layer.compressed(spool.path(), options).await.unwrap();
        let layer = layer.measure().await.unwrap();
        *digest = layer.descriptor().unwrap().digest().to_string();
    }
    found
}

/// Where a child process writes what it found; only set in one.
const OUT: &str = "MODELSHIP_TEST_DIGESTS";
const SEED: &str = "MODELSHIP_TEST_SEED";

/// The part of a child process: builds under another mask, from directories made in other orders.
#[tokio::test]
async fn a_child_process_builds() {
    let Some(out) = std::env::var_os(OUT) else {
        return;
    };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let mut numbers = Numbers(seed);
    let mask = [0o000, 0o002, 0o022, 0o027, 0o077][numbers.next(5)];
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    let mut found = String::new();
    for build in 0..BUILDS {
        let dir = tempfile::tempdir().unwrap();
        let mut files = source();
        numbers.shuffle(&mut files);
        check_out(dir.path(), &files);
        symlink("/etc/passwd", dir.path().join("a/link")).unwrap();
        fs::hard_link(dir.path().join("B"), dir.path().join("a/again")).unwrap();
        let tree = Tree::from_dir("/app", dir.path(), &TreeOptions::default()).unwrap();
        let threads = [1, 2, 4][build % 3];
        found.push_str(&digests(&tree, threads).await.join(" "));
        found.push('\n');
    }
    fs::write(out, found).unwrap();
}

#[test]
fn a_hundred_builds_in_ten_processes_come_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let mut found = BTreeMap::new();
    for (pair, locale) in LOCALES.into_iter().enumerate() {
        let children = [0, 1].map(|half| {
            let seed = pair * 2 + half;
            let out = dir.path().join(seed.to_string());
            let child = Command::new(&program)
                .args(["--exact", "determinism::a_child_process_builds"])
                .env(OUT, &out)
                .env(SEED, seed.to_string())
                .env("LC_ALL", locale)
                .env("LANG", locale)
                .env("TZ", ["UTC", "Asia/Tokyo"][half])
                .env("SOURCE_DATE_EPOCH", (seed * 1_000_000).to_string())
                .current_dir([dir.path(), Path::new("/")][half])
                .stdout(Stdio::null())
                .spawn();
            (child.unwrap(), out)
        });
        for (mut child, out) in children {
            assert!(child.wait().unwrap().success());
            for line in fs::read_to_string(out).unwrap().lines() {
                *found.entry(line.to_owned()).or_insert(0) += 1;
            }
        }
    }
    assert_eq!(
        found,
        BTreeMap::from([(GOLDEN.join(" "), BUILDS * 2 * LOCALES.len())])
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn order_and_modes_of_any_directory_do_not_show(
        (files, shuffled) in arb_files(), mode in prop_oneof![Just(0o600), Just(0o664)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut found = BTreeSet::new();
        for (threads, files, mode) in [(1, &files, 0o644), (2, &shuffled, mode), (4, &files, mode)] {
            let dir = tempfile::tempdir().unwrap();
            check_out(dir.path(), files);
            for (name, _) in files {
                let mode = fs::Permissions::from_mode(mode);
                fs::set_permissions(dir.path().join(name), mode).unwrap();
            }
            let tree = Tree::from_dir("/x", dir.path(), &TreeOptions::default()).unwrap();
            found.insert(runtime.block_on(digests(&tree, threads)));
        }
        prop_assert_eq!(found.len(), 1);
    }
}

type Files = Vec<(String, Vec<u8>)>;

/// Files in byte order, and the same in some other.
fn arb_files() -> impl Strategy<Value = (Files, Files)> {
    let name = prop_oneof![
        "[a-c]{1,2}",
        "[a-z .-]{0,8}[a-z]",
        "[α-ωа-я]{1,60}",
        "[x]{90,200}"
    ];
    let path = (name.clone(), name).prop_map(|(dir, name)| format!("{dir}.d/{name}"));
    let content = prop::collection::vec(any::<u8>(), 0..1500);
    prop::collection::btree_map(path, content, 0..12)
        .prop_map(|files| files.into_iter().collect::<Vec<_>>())
        .prop_flat_map(|files| (Just(files.clone()), Just(files).prop_shuffle()))
}
