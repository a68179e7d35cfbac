//! Every single-bit damage of a small layout is found, or provably without effect.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::layer::Layer;
use crate::layout;
use crate::tree::Tree;
use crate::{Image, Platform};

fn files(dir: &Path) -> Vec<PathBuf> {
    let blobs = fs::read_dir(dir.join("blobs/sha256")).unwrap();
    let mut files: Vec<_> = blobs.map(|entry| entry.unwrap().path()).collect();
    files.extend(["index.json", "oci-layout"].map(|name| dir.join(name)));
    files.sort();
    files
}

/// What an index refers to, without names and other annotations.
fn meaning(index: &[u8]) -> Vec<Value> {
    let json: Value = serde_json::from_slice(index).unwrap();
    let entries = json["manifests"].as_array().unwrap().iter();
    let kept = ["mediaType", "digest", "size"];
    entries
        .map(|entry| kept.iter().map(|name| entry[*name].clone()).collect())
        .collect()
}

#[tokio::test]
async fn each_flipped_bit_is_found_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let mut tree = Tree::new();
    tree.insert_bytes("a", 0o644, "content").unwrap();
    let plain = Layer::tree(tree.clone()).unwrap();
    tree.insert_bytes("b", 0o644, "more").unwrap();
    let gzip = Layer::tree(tree).unwrap();
    let gzip = gzip.gzip(&dir.path().join("spool")).await.unwrap();
    let image = Image::scratch(&Platform::linux("arm64").unwrap())
        .with_layer(plain)
        .with_layer(gzip)
        .with_config(|c| c.entrypoint(["/a"]).env("A", "1"));
    layout::write(&layout, &image, "1.0", &|_| ())
        .await
        .unwrap();
    assert!(layout::validate(&layout).await.unwrap().is_valid());
    for file in files(&layout) {
        let good = fs::read(&file).unwrap();
        let is_index = file.ends_with("index.json");
        for at in 0..good.len() {
            // More of the index, which no digest protects: another letter, another case.
            let bits = if is_index { vec![0, 5] } else { vec![at % 8] };
            for bit in bits {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                fs::write(&file, &bad).unwrap();
                let is_accepted = match layout::validate(&layout).await {
                    Ok(report) => report.is_valid(),
                    Err(_) => false,
                };
                if is_accepted {
                    assert!(is_index, "{} at {at}", file.display());
                    assert_eq!(meaning(&bad), meaning(&good), "bit {bit} at {at}");
                }
            }
        }
        fs::write(&file, &good).unwrap();
    }
}
