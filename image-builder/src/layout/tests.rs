//! Tests of layouts: round trips, replacement, damage, concurrency.

use std::path::PathBuf;
use std::sync::Mutex;

use super::*;
use crate::platform::Platform;
use crate::progress::Event;
use crate::stream::collect;
use crate::tree::Tree;

fn quiet(_: Event) {}

fn layer(name: &str, size: usize) -> Layer {
    let mut tree = Tree::new();
    tree.insert_bytes(name, 0o644, vec![b'x'; size]).unwrap();
    Layer::tree(tree).unwrap()
}

fn image(names: &[&str]) -> Image {
    let scratch = Image::scratch(&Platform::linux("amd64").unwrap());
    names
        .iter()
        .fold(scratch, |image, name| image.with_layer(layer(name, 700)))
}

fn blob_names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn an_image_comes_back_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new/layout");
    let sealed = write(&dir, &image(&["a", "b"]), "1.0", &quiet)
        .await
        .unwrap();
    let digest = sealed.manifest_descriptor.digest().to_string();
    for reference in ["1.0", &digest] {
        let opened = open(&dir, reference).await.unwrap();
        assert_eq!(opened.seal().unwrap().manifest, sealed.manifest);
        for (layer, original) in opened.layers().iter().zip(image(&["a", "b"]).layers()) {
            let stored = collect(layer.open(0), 1 << 20, "x").await.unwrap();
            let made = collect(original.open(0), 1 << 20, "x").await.unwrap();
            assert_eq!(stored, made);
        }
    }
    assert_eq!(references(&dir).await.unwrap().len(), 1);
}

#[tokio::test]
async fn each_layer_that_is_stored_is_told_by_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let stored = Mutex::new(vec![]);
    let sink = |event| {
        if let Event::Stored { digest, size } = event {
            stored.lock().unwrap().push((digest.to_string(), size));
        }
    };
    let sealed = write(dir.path(), &image(&["a", "b"]), "x", &sink)
        .await
        .unwrap();
    let layers = sealed.layers.iter().map(|layer| {
        let descriptor = layer.descriptor().unwrap();
        (descriptor.digest().to_string(), descriptor.size())
    });
    assert_eq!(stored.into_inner().unwrap(), layers.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_second_write_moves_nothing_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let first = write(dir.path(), &image(&["a"]), "x", &quiet)
        .await
        .unwrap();
    let index = std::fs::read(dir.path().join("index.json")).unwrap();
    let events = Mutex::new(vec![]);
    let again = open(dir.path(), "x").await.unwrap();
    let sink = |event| events.lock().unwrap().push(event);
    let second = write(dir.path(), &again, "x", &sink).await.unwrap();
    assert_eq!(first.manifest, second.manifest);
    assert_eq!(std::fs::read(dir.path().join("index.json")).unwrap(), index);
    let events = events.into_inner().unwrap();
    assert!(matches!(events[..], [Event::Reused { .. }]), "{events:?}");
}

#[tokio::test]
async fn a_replaced_name_leaves_no_garbage_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &image(&["a", "b"]), "one", &quiet)
        .await
        .unwrap();
    write(dir.path(), &image(&["b"]), "two", &quiet)
        .await
        .unwrap();
    assert_eq!(blob_names(dir.path()).len(), 6);
    std::fs::write(dir.path().join("blobs/sha256/.unfinished-1"), "x").unwrap();
    write(dir.path(), &image(&["c"]), "one", &quiet)
        .await
        .unwrap();
    assert_eq!(blob_names(dir.path()).len(), 6);
    open(dir.path(), "two").await.unwrap();
    let names: Vec<_> = references(dir.path())
        .await
        .unwrap()
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    assert_eq!(names, ["two", "one"]);
}

#[tokio::test]
async fn what_is_built_upon_a_base_keeps_its_layers() {
    let dir = tempfile::tempdir().unwrap();
    let base = write(dir.path(), &image(&["a"]), "base", &quiet)
        .await
        .unwrap();
    let built = open(dir.path(), "base")
        .await
        .unwrap()
        .with_layer(layer("b", 3));
    let sealed = write(dir.path(), &built, "app", &quiet).await.unwrap();
    assert_eq!(sealed.layers[0].descriptor(), base.layers[0].descriptor());
    assert_eq!(sealed.layers.len(), 2);
}

#[tokio::test]
async fn a_layer_that_is_not_what_it_claims_leaves_the_layout_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &image(&["a"]), "x", &quiet)
        .await
        .unwrap();
    let before = (
        blob_names(dir.path()),
        std::fs::read(dir.path().join("index.json")).unwrap(),
    );
    let honest = layer("a", 10).measure().await.unwrap();
    let other = layer("b", 10);
    let lie = Layer::known(
        honest.descriptor().unwrap(),
        honest.diff_id().unwrap(),
        move |from| other.open(from),
    );
    let error = write(dir.path(), &image(&[]).with_layer(lie), "x", &quiet)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    let after = (
        blob_names(dir.path()),
        std::fs::read(dir.path().join("index.json")).unwrap(),
    );
    assert_eq!(before, after);
}

#[tokio::test]
async fn foreign_directories_and_wrong_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("precious"), "x").unwrap();
    let error = write(dir.path(), &image(&[]), "x", &quiet)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    for name in ["", "a b", "sha256:x", "é"] {
        let error = write(&PathBuf::from("unused"), &image(&[]), name, &quiet)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_missing_image_is_named_with_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        open(dir.path(), "x").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    write(dir.path(), &image(&["a"]), "1.0", &quiet)
        .await
        .unwrap();
    let error = open(dir.path(), "2.0").await.unwrap_err();
    assert_eq!(error.hint(), Some("the layout has 1.0"));
}

#[tokio::test]
async fn damaged_manifests_are_found_on_opening() {
    let dir = tempfile::tempdir().unwrap();
    let sealed = write(dir.path(), &image(&["a"]), "x", &quiet)
        .await
        .unwrap();
    let path = Blobs::new(dir.path())
        .path(sealed.manifest_descriptor.digest())
        .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.push(b' ');
    std::fs::write(&path, bytes).unwrap();
    let error = open(dir.path(), "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_the_same_time_all_win() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..8).map(|n| format!("v{n}")).collect();
    let layout = dir.path();
    let writes = names.iter().map(|name| {
        let image = image(&[name.as_str(), "shared"]);
        async move { write(layout, &image, name, &quiet).await }
    });
    futures::future::try_join_all(writes).await.unwrap();
    assert_eq!(references(dir.path()).await.unwrap().len(), 8);
    for name in &names {
        let opened = open(dir.path(), name).await.unwrap();
        for layer in opened.layers() {
            collect(layer.open(0), 1 << 20, "x").await.unwrap();
        }
    }
}
