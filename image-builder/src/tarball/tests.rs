//! Tests of archives: round trips, old `docker save` archives, and hostile ones.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use oci_spec::image::{Descriptor, MediaType};
use proptest::prelude::*;
use tar::{EntryType, Header};

use super::*;
use crate::hash::digest;
use crate::layer::Layer;
use crate::progress::Event;
use crate::stream::{collect, of_bytes};
use crate::tree::{Node, Tree};
use crate::{layout, validate};

fn quiet(_: Event) {}

fn layer(name: &str, size: usize) -> Layer {
    let mut tree = Tree::new();
    tree.insert_bytes(name, 0o644, vec![b'x'; size]).unwrap();
    Layer::tree(tree).unwrap()
}

fn image(names: &[&str]) -> Image {
    image_for("linux/amd64", names)
}

fn image_for(platform: &str, names: &[&str]) -> Image {
    let scratch = Image::scratch(&platform.parse().unwrap());
    names
        .iter()
        .fold(scratch, |image, name| image.with_layer(layer(name, 700)))
}

async fn bytes(layer: &Layer) -> Bytes {
    collect(layer.open(0), 1 << 20, "x").await.unwrap()
}

async fn check(path: &Path, reference: &str, sealed: &Sealed) {
    let opened = open(path, reference).await.unwrap();
    assert_eq!(opened.seal().unwrap().manifest, sealed.manifest);
    crate::validate(&opened)
        .await
        .unwrap()
        .into_result()
        .unwrap();
    for (one, other) in opened.layers().iter().zip(&sealed.layers) {
        assert_eq!(bytes(one).await, bytes(other).await);
    }
}

/// The members of an archive as the `tar` crate reads it.
fn members(path: &Path) -> Vec<String> {
    let mut archive = ::tar::Archive::new(fs::File::open(path).unwrap());
    let names = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        assert_eq!(entry.header().mtime().unwrap(), 1);
        entry.path().unwrap().to_str().unwrap().to_owned()
    });
    names.collect()
}

#[tokio::test]
async fn an_oci_archive_comes_back_as_it_was_written_and_is_the_same_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/image.tar");
    let sealed = write_oci(&path, &image(&["a", "b"]), "1.0", &quiet)
        .await
        .unwrap();
    check(&path, "1.0", &sealed).await;
    check(&path, sealed.manifest_descriptor.digest().as_ref(), &sealed).await;
    assert!(super::validate(&path).await.unwrap().is_valid());
    assert_eq!(references(&path).await.unwrap(), ["1.0"]);
    // Written again from the archive itself, over it, with all digests known.
    let first = fs::read(&path).unwrap();
    let again = open(&path, "1.0").await.unwrap();
    write_oci(&path, &again, "1.0", &quiet).await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    // And a layout gives the same image.
    let layout = dir.path().join("layout");
    let stored = layout::write(&layout, &again, "1.0", &quiet).await.unwrap();
    assert_eq!(stored.manifest, sealed.manifest);
}

#[tokio::test]
async fn golden_archives_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let image = image(&["a", "b"]);
    write_oci(&path, &image, "1.0", &quiet).await.unwrap();
    let oci = digest(&fs::read(&path).unwrap()).to_string();
    write_docker(&path, &image, "app:1.0", &quiet)
        .await
        .unwrap();
    let docker = digest(&fs::read(&path).unwrap()).to_string();
    let golden = [
        "sha256:dcd97355b306cf18644f62f4ba80a1a52afde31daa29d37295b1552e772d6f5b",
        "sha256:735d998037fc4a9d41ae6f506710a52a52937871f1374c88a3c64987eae5f807",
    ];
    assert_eq!([oci.as_str(), docker.as_str()], golden);
}

/// Of every seventh byte of an archive one bit is flipped: this is found, or changes nothing that anybody
/// reads.
#[tokio::test]
async fn a_damaged_archive_is_found_or_gives_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let sealed = write_docker(&path, &image(&["a"]), "app:1.0", &quiet)
        .await
        .unwrap();
    let digest = sealed.manifest_descriptor.digest().as_ref();
    let good = fs::read(&path).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(&path, &bad).unwrap();
        let is_valid = match super::validate(&path).await {
            Ok(report) => report.is_valid(),
            Err(_) => false,
        };
        if is_valid {
            let opened = open(&path, digest).await.unwrap();
            assert_eq!(opened.seal().unwrap().manifest, sealed.manifest, "{at}");
        }
    }
}

#[tokio::test]
async fn a_layer_that_comes_twice_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let known = layer("a", 700).measure().await.unwrap();
    let image = image(&["a", "b", "a"]).with_layer(known);
    let sealed = write_oci(&path, &image, "x", &quiet).await.unwrap();
    check(&path, "x", &sealed).await;
    // Two layers, config, manifest, index, marker, and two directories.
    assert_eq!(members(&path).len(), 8);
}

#[tokio::test]
async fn a_docker_archive_is_an_oci_archive_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let gzip = layer("c", 5).gzip(&dir.path().join("spool")).await.unwrap();
    let image = image(&["a"]).with_layer(gzip);
    let tag = "registry.invalid/team/app:1.4.2";
    let sealed = write_docker(&path, &image, tag, &quiet).await.unwrap();
    for name in [tag, "1.4.2"] {
        check(&path, name, &sealed).await;
    }
    assert!(super::validate(&path).await.unwrap().is_valid());
    let error = write_docker(&path, &image, "no tag", &quiet).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn what_fails_leaves_the_former_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    fs::write(&path, "former").unwrap();
    let honest = layer("a", 10).measure().await.unwrap();
    let other = layer("b", 10);
    let (descriptor, diff_id) = (honest.descriptor().unwrap(), honest.diff_id().unwrap());
    let lie = Layer::known(descriptor, diff_id, move |from| other.open(from));
    let image = image(&["x"]).with_layer(lie);
    let error = write_oci(&path, &image, "x", &quiet).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    assert_eq!(fs::read_to_string(&path).unwrap(), "former");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_index_gives_each_machine_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let platforms = ["linux/arm/v6", "linux/amd64", "linux/arm/v7"];
    let index = platforms.iter().fold(Index::new(), |index, platform| {
        index
            .with(image_for(
                platform,
                &["shared", platform.rsplit('/').next().unwrap()],
            ))
            .unwrap()
    });
    let (path, layout) = (dir.path().join("image.tar"), dir.path().join("layout"));
    let sealed = write_oci_index(&path, &index, "1.0", &quiet).await.unwrap();
    let stored = layout::write_index(&layout, &index, "1.0", &quiet)
        .await
        .unwrap();
    assert_eq!(stored.index, sealed.index);
    assert!(super::validate(&path).await.unwrap().is_valid());
    assert!(layout::validate(&layout).await.unwrap().is_valid());
    for (wanted, got) in [
        ("linux/arm/v8", "linux/arm/v7"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/amd64/v3", "linux/amd64"),
    ] {
        let wanted: Platform = wanted.parse().unwrap();
        for opened in [
            open_for(&path, "1.0", &wanted).await.unwrap(),
            layout::open_for(&layout, "1.0", &wanted).await.unwrap(),
        ] {
            assert_eq!(opened.platform().unwrap().to_string(), got);
            validate(&opened).await.unwrap().into_result().unwrap();
        }
    }
    let none: Platform = "linux/arm/v5".parse().unwrap();
    let error = open_for(&path, "1.0", &none).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = open(&path, "1.0").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint().unwrap().contains("linux/arm/v6"), "{error:?}");
    // Each of its images can be had by its digest.
    for image in &sealed.images {
        let digest = image.manifest_descriptor.digest().as_ref();
        check(&path, digest, image).await;
        layout::open(&layout, digest).await.unwrap();
    }
    // Another image beside it leaves it whole; one in its place takes all of it away.
    let other = image_for("linux/amd64", &["other"]);
    layout::write(&layout, &other, "2.0", &quiet).await.unwrap();
    assert!(layout::validate(&layout).await.unwrap().is_valid());
    layout::write(&layout, &other, "1.0", &quiet).await.unwrap();
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    assert_eq!(blobs.count(), 3);
}

/// A member of a hand-made archive: type, name, link target, content.
type Raw<'a> = (EntryType, &'a str, &'a str, &'a [u8]);

const FILE: EntryType = EntryType::Regular;

fn archive(members: &[Raw<'_>]) -> Vec<u8> {
    let mut out = vec![];
    for (kind, name, link, content) in members {
        let mut header = Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        out.extend(header.as_bytes());
        out.extend(*content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn write(dir: &Path, members: &[Raw<'_>]) -> PathBuf {
    let path = dir.join("saved.tar");
    fs::write(&path, archive(members)).unwrap();
    path
}

/// What `docker save` wrote before version 25: plain layers, one of them a link to another.
#[tokio::test]
async fn old_docker_archives_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let sealed = {
        let mut known = vec![];
        for name in ["a", "b", "a"] {
            known.push(layer(name, 700).measure().await.unwrap());
        }
        let gzip = layer("c", 9).gzip(&dir.path().join("spool")).await.unwrap();
        let image = known.into_iter().fold(image(&[]), Image::with_layer);
        image.with_layer(gzip).seal().unwrap()
    };
    let (a, b) = (
        bytes(&sealed.layers[0]).await,
        bytes(&sealed.layers[1]).await,
    );
    let c = bytes(&sealed.layers[3]).await;
    let config = format!("{}.json", sealed.config_descriptor.digest().digest());
    let saved = json!([{
        "Config": config, "RepoTags": ["app:1"],
        "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar", "./4/layer.tar"],
    }]);
    let saved = saved.to_string();
    let good: Vec<Raw<'_>> = vec![
        (EntryType::Directory, "1/", "", b""),
        (FILE, "1/VERSION", "", b"1.0"),
        (FILE, "1/layer.tar", "", &a),
        (FILE, "2/layer.tar", "", &b),
        (EntryType::Symlink, "3/layer.tar", "../1/layer.tar", b""),
        (FILE, "4/layer.tar", "", &c),
        (FILE, &config, "", &sealed.config),
        (FILE, "manifest.json", "", saved.as_bytes()),
        (FILE, "repositories", "", b"{}"),
    ];
    let path = write(dir.path(), &good);
    assert_eq!(references(&path).await.unwrap(), ["app:1"]);
    let id = sealed.config_descriptor.digest().as_ref();
    for reference in ["app:1", id] {
        check(&path, reference, &sealed).await;
    }
    assert!(super::validate(&path).await.unwrap().is_valid());
    let error = open(&path, "app:2").await.unwrap_err();
    assert_eq!(error.hint(), Some("the archive has app:1"));
    let arm: Platform = "linux/arm64".parse().unwrap();
    assert!(open_for(&path, "app:1", &arm).await.is_err());

    // Another config under this name, and another layer in the place of one.
    let mut bad = good.clone();
    bad[6].3 = b"{}";
    let error = open(&write(dir.path(), &bad), "app:1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    let mut bad = good.clone();
    bad[2].3 = &b;
    let path = write(dir.path(), &bad);
    assert!(!super::validate(&path).await.unwrap().is_valid());
}

const LINK: EntryType = EntryType::Symlink;
const LIST: Raw<'_> = (
    FILE,
    "manifest.json",
    "",
    br#"[{"Config":"c","RepoTags":["x:1"],"Layers":["l"]}]"#,
);
const CONFIG: Raw<'_> = (
    FILE,
    "c",
    "",
    br#"{"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#,
);

/// Checks that an archive of these members is refused.
async fn is_refused(members: &[Raw<'_>]) {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), members);
    let error = open(&path, "x:1").await.expect_err("it is refused");
    let kind = error.kind();
    assert!(
        matches!(kind, ErrorKind::Invalid | ErrorKind::NotFound),
        "{members:?}: {error}"
    );
}

#[tokio::test]
async fn hostile_archives_are_refused() {
    let extra: [&[Raw<'_>]; 11] = [
        &[(FILE, "../x", "", b"")],
        &[(FILE, "/etc/x", "", b"")],
        &[(LINK, "l", "../../etc/passwd", b"")],
        &[(LINK, "l", "/etc/passwd", b"")],
        &[(EntryType::Link, "l", "../x", b"")],
        &[(LINK, "l", "m", b""), (LINK, "m", "l", b"")],
        &[(FILE, "l", "", b"1"), (FILE, "l", "", b"2")],
        &[(FILE, "l", "", b"1"), (FILE, "./l", "", b"2")],
        &[(EntryType::Directory, "l", "", b"")],
        &[(EntryType::GNUSparse, "l", "", b"")],
        &[],
    ];
    for extra in extra {
        is_refused(&[&[LIST, CONFIG], extra].concat()).await;
    }
    is_refused(&[LIST, (FILE, "l", "", b"")]).await;
    is_refused(&[CONFIG]).await;
    is_refused(&[(FILE, "manifest.json", "", b"{}")]).await;
    is_refused(&[]).await;
}

#[tokio::test]
async fn what_is_no_archive_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let gzip = dir.path().join("saved.tar.gz");
    fs::write(&gzip, b"\x1f\x8b\x08\0\0\0\0\0").unwrap();
    for (path, kind) in [
        (gzip.as_path(), ErrorKind::Unsupported),
        (dir.path(), ErrorKind::Invalid),
        (&dir.path().join("no"), ErrorKind::NotFound),
    ] {
        assert_eq!(open(path, "x").await.unwrap_err().kind(), kind);
    }
}

#[tokio::test]
async fn too_many_members_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("many.tar");
    let mut out = vec![];
    for n in 0..100_002 {
        let name = format!("f{n}");
        let mut header = Header::new_ustar();
        header.set_path(&name).unwrap();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        out.extend(header.as_bytes());
    }
    fs::write(&path, out).unwrap();
    let error = open(&path, "x").await.unwrap_err();
    assert!(error.to_string().contains("100 000"), "{error}");
}

/// The list of `docker save` behind a layer of nine gibibytes, of which nothing is read.
#[tokio::test]
async fn a_huge_layer_is_passed_over() {
    use std::io::{Seek, SeekFrom, Write};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.tar");
    let len = (9_u64 << 30) + 1;
    let empty = |_| of_bytes(&Bytes::new(), 0);
    let node = Node::file(0o644, crate::Content::stream(len, empty));
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&crate::frame::header("l", &node, 1))
        .unwrap();
    let pad = crate::frame::padding(len);
    let over = i64::try_from(len + pad).unwrap();
    file.seek(SeekFrom::Current(over)).unwrap();
    let id = digest(b"");
    let config = json!({ "os": "linux", "architecture": "amd64", "rootfs": { "diff_ids": [id.to_string()], "type": "layers" } });
    let config = config.to_string();
    let saved = br#"[{"Config":"c","RepoTags":["x:1"],"Layers":["l"]}]"#;
    let rest = archive(&[
        (FILE, "c", "", config.as_bytes()),
        (FILE, "manifest.json", "", saved),
    ]);
    file.write_all(&rest).unwrap();
    let opened = open(&path, "x:1").await.unwrap();
    assert_eq!(opened.layers()[0].len(), len);
    // Cut inside the layer, it is no archive any more.
    file.set_len(len / 2).unwrap();
    assert_eq!(
        open(&path, "x:1").await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn a_cut_archive_never_opens_as_another_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    let sealed = write_docker(&path, &image(&["a", "b"]), "x:1", &quiet)
        .await
        .unwrap();
    let whole = fs::read(&path).unwrap();
    let cut = dir.path().join("cut.tar");
    for len in (0..whole.len()).step_by(256) {
        fs::write(&cut, &whole[..len]).unwrap();
        if let Ok(opened) = open(&cut, "x:1").await {
            assert_eq!(opened.seal().unwrap().config, sealed.config);
        }
    }
}

/// An index as others write it: attestations, artifacts, nesting.
#[tokio::test]
async fn attestations_are_passed_over_and_deep_nesting_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let sealed = layout::write(&layout, &image(&["a"]), "plain", &quiet)
        .await
        .unwrap();
    let put = |json: serde_json::Value| {
        let bytes = json.to_string();
        let id = digest(bytes.as_bytes());
        fs::write(layout.join("blobs/sha256").join(id.digest()), &bytes).unwrap();
        Descriptor::new(MediaType::ImageIndex, bytes.len() as u64, id)
    };
    let entry = |platform: Option<serde_json::Value>| {
        let mut entry = serde_json::to_value(&sealed.manifest_descriptor).unwrap();
        if let Some(platform) = platform {
            entry["platform"] = platform;
        }
        entry
    };
    let index = |entries: Vec<serde_json::Value>| json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries });
    let amd64 = json!({ "os": "linux", "architecture": "amd64" });
    let unknown = json!({ "os": "unknown", "architecture": "unknown" });
    let mut artifact = entry(None);
    artifact["artifactType"] = "application/x.test".into();
    let attested = put(index(vec![
        entry(Some(unknown)),
        artifact,
        entry(Some(amd64)),
    ]));
    let nested = put(index(vec![serde_json::to_value(&attested).unwrap()]));
    let deep = put(index(vec![serde_json::to_value(&nested).unwrap()]));
    let bare = put(index(vec![entry(None)]));
    let name = |name: &str, descriptor: &Descriptor| {
        let file = layout.join("index.json");
        let mut top = IndexFile::parse(&fs::read(&file).unwrap(), "x").unwrap();
        top.set(name, descriptor, None).unwrap();
        fs::write(&file, top.bytes()).unwrap();
    };
    for (at, descriptor) in [&attested, &nested, &deep, &bare].into_iter().enumerate() {
        name(&at.to_string(), descriptor);
    }
    let amd64: Platform = "linux/amd64".parse().unwrap();
    let arm64: Platform = "linux/arm64".parse().unwrap();
    for reference in ["0", "1", "3"] {
        let opened = layout::open(&layout, reference).await.unwrap();
        assert_eq!(opened.seal().unwrap().manifest, sealed.manifest);
        layout::open_for(&layout, reference, &amd64).await.unwrap();
        let error = layout::open_for(&layout, reference, &arm64).await;
        assert_eq!(
            error.unwrap_err().kind(),
            ErrorKind::NotFound,
            "{reference}"
        );
    }
    let error = layout::open(&layout, "2").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(layout::validate(&layout).await.unwrap().is_valid());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..4096)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("noise.tar");
        fs::write(&path, noise).unwrap();
        prop_assert!(runtime.block_on(open(&path, "x")).is_err());
    }

    /// Archives whose members have the right names and any content.
    #[test]
    fn odd_archives_never_panic(members in prop::collection::vec(odd_member(), 0..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &members);
        let outcome = runtime.block_on(async {
            let _ = references(&path).await;
            let _ = super::validate(&path).await;
            open(&path, "x:1").await
        });
        // The one image that can come of it is the one of the list, with its config.
        if let Ok(image) = outcome {
            prop_assert_eq!(image.seal().unwrap().config, CONFIG.3);
        }
    }
}

fn odd_member() -> impl Strategy<Value = Raw<'static>> {
    const INDEX: &[u8] = br#"{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2,"annotations":{"org.opencontainers.image.ref.name":"x:1"}}]}"#;
    const BLOB: &str =
        "blobs/sha256/44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let kinds = prop::sample::select(vec![FILE, FILE, FILE, LINK, EntryType::Link]);
    let names = vec!["manifest.json", "index.json", "oci-layout", "c", "l", BLOB];
    let names = prop::sample::select(names);
    let links = prop::sample::select(vec!["", "c", "l", "manifest.json", "../x"]);
    let contents = vec![
        LIST.3,
        CONFIG.3,
        INDEX,
        b"{}",
        b"[]",
        b"",
        b"[[[",
        b"\x1f\x8b",
    ];
    let contents = prop::sample::select(contents);
    (kinds, names, links, contents).prop_map(|(kind, name, link, content)| {
        let content: &[u8] = if kind == FILE { content } else { b"" };
        (kind, name, link, content)
    })
}
