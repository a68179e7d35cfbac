//! The image that the tests build, and a way to compare directories.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use modelship_image_builder::{ByteStream, Image, Layer, Platform, Tree};

/// A long name that needs a PAX record, and one that is not ASCII.
pub(crate) const LONG: &str = "app/a-name-of-more-than-one-hundred-bytes-which-no-plain-tar-header\
    -can-hold-because-its-field-ends-before/weights.index.json";
pub(crate) const FOREIGN: &str = "app/données/größe.txt";

/// A tree with every kind of entry.
pub(crate) fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.insert_bytes("app/main.py", 0o755, "print('hello')\n")
        .unwrap();
    tree.insert_bytes(LONG, 0o644, "{}").unwrap();
    tree.insert_bytes(FOREIGN, 0o644, vec![b'x'; 512]).unwrap();
    tree.insert_bytes("app/empty", 0o644, "").unwrap();
    tree.insert_hardlink("app/again", FOREIGN).unwrap();
    tree.insert_symlink("app/link", "données/größe.txt")
        .unwrap();
    tree.insert_dir("app/void", 0o755).unwrap();
    tree.insert_dir("tmp", 0o1777).unwrap();
    tree
}

/// A model of `len` bytes of a fixed pattern.
pub(crate) fn model(len: usize) -> Layer {
    let data: Bytes = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
    Layer::stream("/models/m/weights.bin", len as u64, move |from| {
        let rest = data.slice(usize::try_from(from).unwrap()..);
        let parts: Vec<_> = rest
            .chunks(10_000)
            .map(Bytes::copy_from_slice)
            .map(Ok)
            .collect();
        futures::stream::iter(parts).boxed()
    })
    .unwrap()
}

/// An image of these layers with settings and annotations.
pub(crate) fn image(layers: Vec<Layer>) -> Image {
    let scratch = Image::scratch(&Platform::linux("amd64").unwrap());
    layers
        .into_iter()
        .fold(scratch, Image::with_layer)
        .with_config(|c| {
            c.entrypoint(["/app/main.py"])
                .env("MODEL_DIR", "/models/m")
                .expose(8080)
        })
        .with_annotation(
            "org.opencontainers.image.base.name",
            "registry.invalid/base",
        )
}

/// All bytes of a stream.
pub(crate) async fn bytes(stream: ByteStream) -> Vec<u8> {
    let parts: Vec<Bytes> = stream.try_collect().await.unwrap();
    parts.concat()
}

/// A tree of small files.
pub(crate) fn files(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::new();
    for (path, content) in files {
        tree.insert_bytes(path, 0o644, (*content).to_owned())
            .unwrap();
    }
    tree
}

/// A directory as path → (mode, content or link target).
pub(crate) type Listing = BTreeMap<String, (u32, Vec<u8>)>;

/// Lists a directory. Hard links appear as files.
pub(crate) fn listing(root: &Path) -> Listing {
    let mut found = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(dir) = ahead.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_symlink() {
                std::fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if meta.is_file() {
                std::fs::read(&path).unwrap()
            } else {
                ahead.push(path.clone());
                vec![]
            };
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            found.insert(name, (meta.permissions().mode() & 0o7777, content));
        }
    }
    found
}
