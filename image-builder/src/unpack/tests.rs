//! Tests of unpacking: whiteouts, faithful trees, and archives made to escape.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use bytes::Bytes;
use oci_spec::image::{Descriptor, MediaType};
use proptest::prelude::*;
use tar::{EntryType, Header};

use super::*;
use crate::hash::digest;
use crate::stream::of_bytes;
use crate::testing::arb_tree;
use crate::tree::{NodeKind, Tree};

/// A member of a hand-made archive: type, mode, name, link target, content.
pub(super) type Raw<'a> = (EntryType, u32, &'a str, &'a str, &'a str);

pub(super) const FILE: EntryType = EntryType::Regular;
pub(super) const DIR: EntryType = EntryType::Directory;
pub(super) const LINK: EntryType = EntryType::Symlink;
pub(super) const HARD: EntryType = EntryType::Link;

pub(super) fn archive(members: &[Raw<'_>]) -> Vec<u8> {
    let mut out = vec![];
    for (kind, mode, name, link, content) in members {
        let mut header = Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(7);
        header.set_size(content.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        out.extend(header.as_bytes());
        out.extend(content.as_bytes());
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

pub(super) fn stored(bytes: Vec<u8>, media_type: MediaType) -> Layer {
    let bytes = Bytes::from(bytes);
    let descriptor = Descriptor::new(media_type, bytes.len() as u64, digest(&bytes));
    let diff_id = digest(&bytes);
    Layer::known(descriptor, diff_id, move |from| of_bytes(&bytes, from))
}

pub(super) fn layer(members: &[Raw<'_>]) -> Layer {
    stored(archive(members), MediaType::ImageLayer)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn modes_times_and_links_are_kept_and_devices_are_not() {
    let root = tempfile::tempdir().unwrap();
    let members = [
        (DIR, 0o1777, "tmp/", "", ""),
        (DIR, 0o555, "locked/", "", ""),
        (FILE, 0o4711, "locked/tool", "", "tool"),
        (FILE, 0o444, "./a", "", "a"),
        (HARD, 0o444, "b", "a", ""),
        (LINK, 0o777, "out", "/etc/passwd", ""),
        (EntryType::Char, 0o666, "dev/null", "", ""),
        (EntryType::Fifo, 0o666, "pipe", "", ""),
    ];
    unpack(&layer(&members), root.path()).await.unwrap();
    let at = |name: &str| root.path().join(name);
    assert_eq!(mode(&at("tmp")), 0o1777);
    assert_eq!(mode(&at("locked")), 0o755);
    assert_eq!(mode(&at("locked/tool")), 0o711);
    assert_eq!(mode(&at("a")), 0o644);
    assert_eq!(fs::metadata(at("a")).unwrap().mtime(), 7);
    assert_eq!(
        fs::metadata(at("a")).unwrap().ino(),
        fs::metadata(at("b")).unwrap().ino()
    );
    assert_eq!(fs::read_link(at("out")).unwrap(), Path::new("/etc/passwd"));
    assert!(!at("dev/null").exists() && !at("pipe").exists());
}

#[tokio::test]
async fn whiteouts_hide_lower_layers_only() {
    let root = tempfile::tempdir().unwrap();
    let lower = [
        (FILE, 0o644, "d/old", "", "x"),
        (FILE, 0o644, "d/sub/old", "", "x"),
        (FILE, 0o644, "gone", "", "x"),
        (FILE, 0o644, "tree/x", "", "x"),
    ];
    let upper = [
        (FILE, 0o644, "d/new", "", "y"),
        (FILE, 0o644, "d/sub/new", "", "y"),
        (FILE, 0o644, "d/.wh..wh..opq", "", ""),
        (FILE, 0o644, ".wh.gone", "", ""),
        (FILE, 0o644, ".wh.tree", "", ""),
        (FILE, 0o644, ".wh.never", "", ""),
        (FILE, 0o644, "none/.wh.never", "", ""),
    ];
    unpack(&layer(&lower), root.path()).await.unwrap();
    unpack(&layer(&upper), root.path()).await.unwrap();
    let at = |name: &str| root.path().join(name);
    assert!(at("d/new").exists() && at("d/sub/new").exists());
    for name in [
        "d/old",
        "d/sub/old",
        "gone",
        "tree",
        "d/.wh..wh..opq",
        "none",
    ] {
        assert!(fs::symlink_metadata(at(name)).is_err(), "{name}");
    }
}

#[tokio::test]
async fn kinds_replace_each_other_and_links_on_the_way_stay_inside() {
    let root = tempfile::tempdir().unwrap();
    let lower = [
        (DIR, 0o755, "usr/lib", "", ""),
        (LINK, 0o777, "lib", "/usr/lib", ""),
        (LINK, 0o777, "etc", "usr/../usr/lib", ""),
        (FILE, 0o644, "file", "", "x"),
        (LINK, 0o777, "dir", "usr", ""),
    ];
    let upper = [
        (FILE, 0o644, "lib/a", "", "a"),
        (FILE, 0o644, "etc/b", "", "b"),
        (DIR, 0o755, "file", "", ""),
        (DIR, 0o755, "dir", "", ""),
    ];
    unpack(&layer(&lower), root.path()).await.unwrap();
    unpack(&layer(&upper), root.path()).await.unwrap();
    let at = |name: &str| root.path().join(name);
    assert!(at("usr/lib/a").exists() && at("usr/lib/b").exists());
    assert!(fs::symlink_metadata(at("file")).unwrap().is_dir());
    assert!(fs::symlink_metadata(at("dir")).unwrap().is_dir());
}

#[tokio::test]
async fn nothing_outside_the_root_is_touched() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let outside_dir = outside.path().to_str().unwrap();
    let secret_path = secret.to_str().unwrap();
    let up = format!("..{}", "/..".repeat(8));
    let up_link = format!("{up}{outside_dir}");
    let hostile: Vec<Vec<Raw<'_>>> = vec![
        vec![(FILE, 0o644, "../evil", "", "x")],
        vec![(FILE, 0o644, "a/../../evil", "", "x")],
        vec![(FILE, 0o644, secret_path, "", "x")],
        vec![
            (LINK, 0o777, "l", &up_link, ""),
            (FILE, 0o644, "l/secret", "", "x"),
        ],
        vec![
            (HARD, 0o644, "h", "../secret", ""),
            (FILE, 0o644, "h", "", "x"),
        ],
        vec![(HARD, 0o644, "h", secret_path, "")],
        vec![
            (LINK, 0o777, "l", &up_link, ""),
            (HARD, 0o644, "h", "l/secret", ""),
        ],
        vec![
            (LINK, 0o777, "l", &up_link, ""),
            (FILE, 0o644, "l/.wh.secret", "", ""),
        ],
        vec![
            (LINK, 0o777, "l", &up_link, ""),
            (FILE, 0o644, "l/.wh..wh..opq", "", ""),
        ],
        vec![(FILE, 0o644, ".wh...", "", "")],
        vec![(FILE, 0o644, ".wh..", "", "")],
        vec![(FILE, 0o644, ".wh.", "", "")],
        vec![
            (LINK, 0o777, "a", "b", ""),
            (LINK, 0o777, "b", "a", ""),
            (FILE, 0o644, "a/x", "", ""),
        ],
        vec![(FILE, 0o644, "f", "", ""), (FILE, 0o644, "f/x", "", "")],
        vec![(HARD, 0o644, "h", "nothing", "")],
        vec![(EntryType::GNUSparse, 0o644, "s", "", "")],
    ];
    for members in hostile {
        let root = tempfile::tempdir_in(outside.path()).unwrap();
        let error = unpack(&layer(&members), root.path())
            .await
            .expect_err(members[0].2);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        drop(root);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(
            fs::read_dir(outside.path()).unwrap().count(),
            1,
            "{members:?}"
        );
    }
}

#[tokio::test]
async fn an_absolute_link_leads_into_the_root_not_to_the_host() {
    let outside = tempfile::tempdir().unwrap();
    let root = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let members = [
        (LINK, 0o777, "l", target, ""),
        (FILE, 0o644, "l/x", "", "x"),
    ];
    unpack(&layer(&members), root.path()).await.unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(
        root.path()
            .join(target.trim_start_matches('/'))
            .join("x")
            .exists()
    );
}

#[tokio::test]
async fn a_file_never_writes_through_a_link_that_was_there() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let root = tempfile::tempdir().unwrap();
    symlink(&secret, root.path().join("f")).unwrap();
    unpack(&layer(&[(FILE, 0o644, "f", "", "x")]), root.path())
        .await
        .unwrap();
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert!(
        fs::symlink_metadata(root.path().join("f"))
            .unwrap()
            .is_file()
    );
}

#[tokio::test]
async fn damaged_and_multi_member_gzip() {
    use std::io::Write;
    let tar = archive(&[(FILE, 0o644, "f", "", "content")]);
    let member = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut members = member(&tar[..700]);
    members.extend(member(&tar[700..]));
    let root = tempfile::tempdir().unwrap();
    unpack(
        &stored(members.clone(), MediaType::ImageLayerGzip),
        root.path(),
    )
    .await
    .unwrap();
    assert_eq!(
        fs::read_to_string(root.path().join("f")).unwrap(),
        "content"
    );
    let last = members.len() - 6;
    members[last] ^= 1;
    let error = unpack(&stored(members, MediaType::ImageLayerGzip), root.path()).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_cut_layer_is_an_error() {
    let mut tar = archive(&[(FILE, 0o644, "f", "", "content")]);
    tar.truncate(600);
    let root = tempfile::tempdir().unwrap();
    let error = unpack(&stored(tar, MediaType::ImageLayer), root.path())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

fn check_same(tree: &Tree, root: &Path) {
    let mut count = 0;
    for (path, node) in tree.iter() {
        let at = root.join(path);
        let meta = fs::symlink_metadata(&at).unwrap();
        count += 1;
        match &node.kind {
            NodeKind::Dir => assert!(meta.is_dir() && mode(&at) == node.mode),
            NodeKind::File(content) => {
                assert_eq!(&fs::read(&at).unwrap(), content.as_bytes().unwrap());
                assert_eq!(mode(&at), node.mode);
            }
            NodeKind::Symlink(target) => {
                assert_eq!(fs::read_link(&at).unwrap(), Path::new(target));
            }
            NodeKind::Hardlink(target) => {
                assert_eq!(meta.ino(), fs::metadata(root.join(target)).unwrap().ino());
            }
        }
    }
    assert_eq!(entries_below(root), count);
}

fn entries_below(dir: &Path) -> usize {
    let count = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let is_dir = entry.file_type().unwrap().is_dir();
        1 + if is_dir {
            entries_below(&entry.path())
        } else {
            0
        }
    };
    fs::read_dir(dir).unwrap().map(count).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn unpacking_gives_the_tree(tree in arb_tree()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let root = tempfile::tempdir().unwrap();
        let layer = Layer::tree(tree.clone()).unwrap();
        runtime.block_on(unpack(&layer, root.path())).unwrap();
        check_same(&tree, root.path());
        // Once more over itself, as when a layer is applied again after a kill.
        runtime.block_on(unpack(&layer, root.path())).unwrap();
        check_same(&tree, root.path());
    }
}
