//! The same inputs give the same bytes, whatever the host did with them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use modelship_image_builder::{Layer, layout, unpack, unpack_image};

use crate::sample;

/// Files as a checkout would leave them under some umask, written in some order.
fn checkout(dir: &Path, reversed: bool, dirs: u32, files: u32) {
    let mut names = ["a/one.py", "a/two.py", "b/c/three.py", "run.sh", "z.txt"];
    if reversed {
        names.reverse();
    }
    for name in names {
        let path = dir.join(name);
        let parent = path.parent().unwrap();
        fs::create_dir_all(parent).unwrap();
        fs::write(&path, name).unwrap();
        let execute = if name == "run.sh" { 0o100 } else { 0 };
        fs::set_permissions(&path, fs::Permissions::from_mode(files | execute)).unwrap();
        fs::set_permissions(parent, fs::Permissions::from_mode(dirs)).unwrap();
    }
}

#[tokio::test]
async fn umask_and_order_of_creation_do_not_show() {
    let mut digests = vec![];
    for (reversed, dirs, files) in [
        (false, 0o755, 0o644),
        (true, 0o700, 0o600),
        (true, 0o775, 0o664),
    ] {
        let dir = tempfile::tempdir().unwrap();
        checkout(dir.path(), reversed, dirs, files);
        let layer = Layer::directory("/app", dir.path())
            .unwrap()
            .measure()
            .await
            .unwrap();
        digests.push(layer.diff_id().unwrap());
    }
    digests.dedup();
    let golden = "sha256:c6e631038492f6a3eb63de3a0568e4d0b30fd31732f6a6f0b09d9cf26c28764a";
    assert_eq!(
        digests.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [golden]
    );
}

#[tokio::test]
async fn two_builds_of_an_image_are_the_same_files() {
    let work = tempfile::tempdir().unwrap();
    let mut listings = vec![];
    for place in ["one", "two"] {
        let dir = work.path().join(place);
        let code = Layer::tree(sample::tree())
            .unwrap()
            .gzip(&dir.join("spool"))
            .await
            .unwrap();
        let image = sample::image(vec![sample::model(1_000_000), code]);
        layout::write(&dir.join("oci"), &image, "x", &|_| ())
            .await
            .unwrap();
        listings.push(sample::listing(&dir.join("oci")));
    }
    assert_eq!(listings[0], listings[1]);
}

#[tokio::test]
async fn a_layer_unpacks_to_what_went_in() {
    let dir = tempfile::tempdir().unwrap();
    checkout(dir.path(), false, 0o755, 0o644);
    let layer = Layer::directory("/", dir.path()).unwrap();
    let root = tempfile::tempdir().unwrap();
    unpack(&layer, root.path()).await.unwrap();
    let mut expected = sample::listing(dir.path());
    // Only the owner's execute bit counts; it becomes everybody's.
    expected.get_mut("run.sh").unwrap().0 = 0o755;
    assert_eq!(sample::listing(root.path()), expected);
}

#[tokio::test]
async fn a_written_image_is_read_from_the_layout_and_not_from_its_source() {
    let work = tempfile::tempdir().unwrap();
    let source = work.path().join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f"), "content").unwrap();
    let image = sample::image(vec![Layer::directory("/d", &source).unwrap()]);
    let sealed = layout::write(&work.path().join("oci"), &image, "x", &|_| ())
        .await
        .unwrap();
    fs::remove_dir_all(&source).unwrap();
    let again = sealed.layers[0].measure().await.unwrap();
    assert_eq!(again.descriptor(), sealed.layers[0].descriptor());
    assert!(!sample::bytes(sealed.layers[0].open(0)).await.is_empty());
    let opened = layout::open(&work.path().join("oci"), "x").await.unwrap();
    unpack_image(&opened, &work.path().join("root"))
        .await
        .unwrap();
    assert_eq!(
        fs::read_to_string(work.path().join("root/d/f")).unwrap(),
        "content"
    );
}
