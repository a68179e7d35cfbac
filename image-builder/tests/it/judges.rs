//! What tools that share no code with us say about our images and archives.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use futures::{StreamExt, TryStreamExt};
use modelship_image_builder::{Layer, Sealed, layout, unpack_image};
use modelship_testkit::judge::{crane, podman, skopeo, umoci};
use modelship_testkit::{DockerRegistry, Judge, Scratch, Tool, need, tool};

use crate::readers::run;
use crate::sample::{self, FOREIGN, LONG};

/// A layout of one image with an uncompressed model, an uncompressed tree and a gzip layer.
async fn write(dir: &Path) -> Sealed {
    let tree = Layer::tree(sample::tree()).unwrap();
    let gzip = Layer::stream("/etc/app.conf", 4, |from| {
        let rest = &b"on=1"[usize::try_from(from).unwrap()..];
        futures::stream::iter([Ok(bytes::Bytes::from_static(rest))]).boxed()
    });
    let gzip = gzip.unwrap().gzip(&dir.join("spool")).await.unwrap();
    let image = sample::image(vec![sample::model(300_000), tree, gzip]);
    layout::write(&dir.join("oci"), &image, "1.0", &|_| ())
        .await
        .unwrap()
}

fn oci(dir: &Path, layout: &str) -> String {
    format!("oci:{}:1.0", dir.join(layout).display())
}

#[tokio::test]
async fn skopeo_copies_our_image_without_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let sealed = write(dir.path()).await;
    let (from, to) = (oci(dir.path(), "oci"), oci(dir.path(), "copy"));
    let inspected = skopeo(&["inspect", "--format", "{{.Digest}}", &from]).await;
    let Some(inspected) = need(inspected) else {
        return;
    };
    assert_eq!(
        inspected.succeeded(),
        sealed.manifest_descriptor.digest().to_string()
    );
    let Some(copied) = need(skopeo(&["copy", "--preserve-digests", &from, &to]).await) else {
        return;
    };
    copied.succeeded();
    let blobs = |layout: &str| sample::listing(&dir.path().join(layout).join("blobs"));
    assert_eq!(blobs("oci"), blobs("copy"));
    // And what skopeo wrote, we read.
    let copy = layout::open(&dir.path().join("copy"), "1.0").await.unwrap();
    assert_eq!(copy.seal().unwrap().manifest, sealed.manifest);
    let report = layout::validate(&dir.path().join("copy")).await.unwrap();
    assert!(report.into_result().is_ok());
}

#[tokio::test]
async fn umoci_unpacks_what_we_unpack() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path()).await;
    let image = format!("{}:1.0", dir.path().join("oci").display());
    let bundle = dir.path().join("bundle");
    let args = [
        "unpack",
        "--rootless",
        "--image",
        &image,
        bundle.to_str().unwrap(),
    ];
    let Some(unpacked) = need(umoci(&args).await) else {
        return;
    };
    unpacked.succeeded();
    let opened = layout::open(&dir.path().join("oci"), "1.0").await.unwrap();
    unpack_image(&opened, &dir.path().join("root"))
        .await
        .unwrap();
    let theirs = sample::listing(&bundle.join("rootfs"));
    let ours = sample::listing(&dir.path().join("root"));
    assert_eq!(ours, theirs);
    // Two names of one file are that to both.
    for root in [bundle.join("rootfs"), dir.path().join("root")] {
        let inode = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().ino();
        assert_eq!(inode("app/again"), inode(FOREIGN));
        assert_ne!(inode("app/empty"), inode(FOREIGN));
    }
    assert!(ours.contains_key(LONG) && ours.contains_key(FOREIGN));
}

#[tokio::test]
async fn podman_takes_our_image_in() {
    // Podman names an image after its directory, and refuses capital letters.
    let dir = Scratch::new().unwrap();
    write(dir.path()).await;
    let pulled = podman(&["pull", "--quiet", &oci(dir.path(), "oci")]).await;
    let Some(pulled) = need(pulled) else { return };
    assert!(!pulled.succeeded().is_empty());
}

#[tokio::test]
async fn crane_validates_a_compressed_image_in_a_registry() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Layer::tree(sample::tree()).unwrap();
    let gzip = tree.gzip(&dir.path().join("spool")).await.unwrap();
    layout::write(
        &dir.path().join("oci"),
        &sample::image(vec![gzip]),
        "1.0",
        &|_| (),
    )
    .await
    .unwrap();
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let Some(judge) = need(Judge::of(&registry)) else {
        return;
    };
    let target = format!("{}/app:1.0", registry.host());
    let to = format!("docker://{target}");
    let from = oci(dir.path(), "oci");
    let args = [
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
        &from,
        &to,
    ];
    let Some(copied) = need(judge.ask(Tool::Skopeo, &args).await) else {
        return;
    };
    copied.succeeded();
    let Some(said) = need(crane(&["validate", "--insecure", "--remote", &target]).await) else {
        return;
    };
    said.succeeded();
}

#[tokio::test]
async fn gnu_tar_lists_and_extracts_our_archive() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("layer.tar");
    let layer = Layer::tree(sample::tree()).unwrap();
    fs::write(&file, sample::bytes(layer.open(0)).await).unwrap();
    let file = file.to_str().unwrap();
    let Some(listed) = need(run("tar", &["--list", "--file", file, "--verbose", "--utc"]).await)
    else {
        return;
    };
    assert_eq!(listed.stderr, "");
    let text = listed.succeeded();
    assert!(
        text.lines().all(|line| line.contains(" 1970-01-01 00:00 ")),
        "{text}"
    );
    assert!(
        text.contains("drwxrwxrwt 0/0") && text.contains(" link to "),
        "{text}"
    );
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let args = [
        "--extract",
        "--preserve-permissions",
        "--no-same-owner",
        "--file",
        file,
        "-C",
    ];
    let args = [&args[..], &[root.to_str().unwrap()]].concat();
    let Some(extracted) = need(run("tar", &args).await) else {
        return;
    };
    extracted.succeeded();
    let ours = dir.path().join("ours");
    modelship_image_builder::unpack(&layer, &ours)
        .await
        .unwrap();
    assert_eq!(sample::listing(&root), sample::listing(&ours));
}

/// The archive of a model of zeros as a sparse file: only its head is really written.
async fn huge_archive(path: &Path, len: u64) {
    let layer = Layer::stream("/models/huge", len, |_| {
        futures::stream::repeat(bytes::Bytes::from_static(&[0; 4096]))
            .map(Ok)
            .boxed()
    });
    let layer = layer.unwrap();
    let mut head = vec![];
    let mut stream = layer.open(0);
    while head.len() < 16 * 1024 {
        head.extend(stream.try_next().await.unwrap().unwrap());
    }
    fs::write(path, &head).unwrap();
    File::options()
        .append(true)
        .open(path)
        .unwrap()
        .set_len(layer.len())
        .unwrap();
}

#[tokio::test]
async fn files_beyond_eight_gibibytes_are_read_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("layer.tar");
    let len = (9 << 30) + 1;
    huge_archive(&file, len).await;
    let file = file.to_str().unwrap();
    let Some(listed) = need(run("tar", &["--list", "--verbose", "--file", file]).await) else {
        return;
    };
    let text = listed.succeeded();
    assert!(
        text.contains(&format!(" {len} ")) && text.contains("models/huge"),
        "{text}"
    );
    let script = "import sys, tarfile\nfor m in tarfile.open(sys.argv[1]): print(m.name, m.size)";
    let Some(listed) = need(run("python3", &["-c", script, file]).await) else {
        return;
    };
    let last = format!("models/huge {len}");
    assert_eq!(listed.succeeded().lines().last(), Some(last.as_str()));
    let Some(bsdtar) = need(tool::path(Tool::Bsdtar)) else {
        return;
    };
    let listed = run(bsdtar.to_str().unwrap(), &["-tvf", file])
        .await
        .unwrap();
    let text = listed.succeeded();
    assert!(
        text.contains(&format!(" {len} ")) && text.contains("models/huge"),
        "{text}"
    );
}
