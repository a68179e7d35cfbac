//! Archives between us and the tools that load and save images.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use modelship_image_builder::{
    Image, Index, Layer, Platform, Sealed, layout, tarball, unpack_image,
};
use modelship_testkit::{DockerRegistry, Judge, Scratch, Tool, need};

use crate::sample::{self, FOREIGN, LONG};

/// The image in an OCI archive (`oci.tar`) and in one for Docker (`docker.tar`).
pub(crate) async fn write(dir: &Path, image: &Image) -> Sealed {
    tarball::write_oci(&dir.join("oci.tar"), image, "1.0", &|_| ())
        .await
        .unwrap();
    tarball::write_docker(&dir.join("docker.tar"), image, "team/app:1.0", &|_| ())
        .await
        .unwrap()
}

pub(crate) fn plain() -> Image {
    let tree = Layer::tree(sample::tree()).unwrap();
    sample::image(vec![sample::model(300_000), tree])
}

pub(crate) async fn mixed(dir: &Path) -> Image {
    let more = sample::files(&[("etc/app.conf", "on=1")]);
    let gzip = Layer::tree(more).unwrap();
    let gzip = gzip.gzip(&dir.join("spool")).await.unwrap();
    plain().with_layer(gzip)
}

pub(crate) fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

/// Asks a judge that must say yes, with the words of `line` for arguments; `None` if it is not
/// there.
pub(crate) async fn ask(judge: &Judge, tool: Tool, line: &str) -> Option<String> {
    let args: Vec<&str> = line.split(' ').collect();
    let said = need(judge.ask(tool, &args).await)?;
    Some(said.succeeded().to_owned())
}

/// What the image unpacks to by our own means.
pub(crate) async fn unpacked(image: &Image) -> sample::Listing {
    let root = tempfile::tempdir().unwrap();
    unpack_image(image, root.path()).await.unwrap();
    let listing = sample::listing(root.path());
    assert!(listing.contains_key(LONG) && listing.contains_key(FOREIGN));
    listing
}

/// The one image of an archive that somebody else wrote, everything in it validated.
async fn read(file: &str) -> Image {
    let file = Path::new(file);
    let report = tarball::validate(file).await.unwrap();
    report.into_result().unwrap();
    let names = tarball::references(file).await.unwrap();
    tarball::open(file, &names[0]).await.unwrap()
}

#[tokio::test]
async fn skopeo_reads_our_archives_and_we_read_those_of_skopeo() {
    let dir = Scratch::new().unwrap();
    let image = mixed(dir.path()).await;
    let sealed = write(dir.path(), &image).await;
    let digest = sealed.manifest_descriptor.digest().to_string();
    let Some(judge) = need(Judge::new()) else {
        return;
    };
    let at = |name| path(dir.path(), name);
    for name in ["oci.tar", "docker.tar"] {
        let line = format!(
            "inspect --format {{{{.Digest}}}} oci-archive:{}:1.0",
            at(name)
        );
        let Some(said) = ask(&judge, Tool::Skopeo, &line).await else {
            return;
        };
        assert_eq!(said, digest);
    }
    let (from, to) = (at("oci.tar"), at("back.tar"));
    let line = format!("copy --preserve-digests oci-archive:{from}:1.0 oci-archive:{to}:1.0");
    ask(&judge, Tool::Skopeo, &line).await.unwrap();
    assert_eq!(read(&to).await.seal().unwrap().manifest, sealed.manifest);

    // As Docker's archive: the other list in the same file, and one that skopeo writes.
    let (from, to) = (at("docker.tar"), at("saved.tar"));
    let line = format!("copy docker-archive:{from}:team/app:1.0 docker-archive:{to}:team/app:2.0");
    ask(&judge, Tool::Skopeo, &line).await.unwrap();
    let opened = read(&to).await;
    assert_eq!(unpacked(&opened).await, unpacked(&image).await);
    assert_eq!(opened.setting("User"), image.setting("User"));
}

/// What podman says of an image it has, and the image's files where it may mount.
async fn is_held_by_podman(judge: &Judge, id: &str, expected: &sample::Listing) {
    let format = "{{.Id}},{{.Config.User}},{{.Config.Entrypoint}}";
    let line = format!("image inspect --format {format} {id}");
    let seen = ask(judge, Tool::Podman, &line).await.unwrap();
    assert_eq!(seen, format!("{id},65532:65532,[/app/main.py]"));
    if is_root() {
        let line = format!("image mount {id}");
        let root = ask(judge, Tool::Podman, &line).await.unwrap();
        assert_eq!(&sample::listing(Path::new(&root)), expected);
        let line = format!("image unmount {id}");
        ask(judge, Tool::Podman, &line).await.unwrap();
    }
}

#[tokio::test]
async fn podman_loads_our_archives_and_we_open_what_podman_saves() {
    let dir = Scratch::new().unwrap();
    let image = mixed(dir.path()).await;
    let sealed = write(dir.path(), &image).await;
    let id = sealed.config_descriptor.digest().digest();
    let Some(judge) = need(Judge::new()) else {
        return;
    };
    let expected = unpacked(&image).await;
    for name in ["oci.tar", "docker.tar"] {
        let line = format!("load --quiet --input {}", path(dir.path(), name));
        let Some(_) = ask(&judge, Tool::Podman, &line).await else {
            return;
        };
        is_held_by_podman(&judge, id, &expected).await;
        if name == "oci.tar" {
            let line = format!("rmi --force {id}");
            ask(&judge, Tool::Podman, &line).await.unwrap();
        }
    }
    for format in ["docker-archive", "oci-archive"] {
        let saved = path(dir.path(), format);
        let name = "localhost/team/app:1.0";
        let line = format!("tag {id} {name}");
        ask(&judge, Tool::Podman, &line).await.unwrap();
        let line = format!("save --quiet --format {format} --output {saved} {name}");
        ask(&judge, Tool::Podman, &line).await.unwrap();
        assert_eq!(unpacked(&read(&saved).await).await, expected, "{format}");
    }
}

#[tokio::test]
async fn podman_pulls_what_skopeo_copied_without_a_change() {
    let dir = Scratch::new().unwrap();
    let image = mixed(dir.path()).await;
    let sealed = write(dir.path(), &image).await;
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let Some(judge) = need(Judge::of(&registry)) else {
        return;
    };
    let target = format!("{}/app", registry.host());
    let from = format!("oci-archive:{}:1.0", path(dir.path(), "oci.tar"));
    let line = format!("copy --preserve-digests {from} docker://{target}:1.0");
    let Some(_) = ask(&judge, Tool::Skopeo, &line).await else {
        return;
    };
    let digest = sealed.manifest_descriptor.digest();
    let line = format!("pull --quiet {target}@{digest}");
    let Some(id) = ask(&judge, Tool::Podman, &line).await else {
        return;
    };
    assert_eq!(id, sealed.config_descriptor.digest().digest());
    is_held_by_podman(&judge, &id, &unpacked(&image).await).await;
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

#[tokio::test]
async fn crane_pushes_our_archive_and_its_tar_reads_our_layers() {
    let dir = Scratch::new().unwrap();
    // All layers alike, as crane wants them.
    let image = plain();
    write(dir.path(), &image).await;
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let Some(judge) = need(Judge::of(&registry)) else {
        return;
    };
    let target = format!("{}/app:1.0", registry.host());
    let line = format!(
        "push --insecure {} {target}",
        path(dir.path(), "docker.tar")
    );
    let Some(_) = ask(&judge, Tool::Crane, &line).await else {
        return;
    };
    let line = format!("validate --insecure --remote {target}");
    ask(&judge, Tool::Crane, &line).await.unwrap();
    let exported = path(dir.path(), "exported.tar");
    let line = format!("export --insecure {target} {exported}");
    ask(&judge, Tool::Crane, &line).await.unwrap();
    let root = dir.path().join("root");
    let mut archive = tar::Archive::new(fs::File::open(&exported).unwrap());
    archive.unpack(&root).unwrap();
    let theirs = sample::listing(&root);
    for (name, (_, content)) in unpacked(&image).await {
        let found = theirs.get(&name).map(|(_, content)| content);
        assert_eq!(found, Some(&content), "{name}");
    }
}

/// Images of three platforms that share a layer.
fn index() -> Index {
    let shared = Layer::tree(sample::tree()).unwrap();
    let add = |index: Index, platform: &str| {
        let platform: Platform = platform.parse().unwrap();
        let own = sample::files(&[("platform", &platform.to_string())]);
        let image = Image::scratch(&platform)
            .with_layer(shared.clone())
            .with_layer(Layer::tree(own).unwrap());
        index.with(image).unwrap()
    };
    let platforms = ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"];
    platforms.into_iter().fold(Index::new(), add)
}

#[tokio::test]
async fn an_index_keeps_its_digest_from_tool_to_tool() {
    let dir = Scratch::new().unwrap();
    let file = dir.path().join("index.tar");
    let written = tarball::write_oci_index(&file, &index(), "1.0", &|_| ()).await;
    let sealed = written.unwrap();
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let Some(judge) = need(Judge::of(&registry)) else {
        return;
    };
    let target = format!("{}/many:1.0", registry.host());
    let from = format!("oci-archive:{}:1.0", file.display());
    let line = format!("copy --all --preserve-digests {from} docker://{target}");
    let Some(_) = ask(&judge, Tool::Skopeo, &line).await else {
        return;
    };
    let line = format!("digest --insecure {target}");
    let Some(said) = ask(&judge, Tool::Crane, &line).await else {
        return;
    };
    assert_eq!(said, sealed.index_descriptor.digest().to_string());
    let line = format!("digest --insecure --platform linux/arm64/v8 {target}");
    let said = ask(&judge, Tool::Crane, &line).await.unwrap();
    // Sorted by name: amd64, arm, arm64.
    let arm64 = sealed.images[2].manifest_descriptor.digest();
    assert_eq!(said, arm64.to_string());
    // And back into a layout, where each machine finds its own.
    let back = dir.path().join("back");
    let to = format!("oci:{}:1.0", back.display());
    let line = format!("copy --all --preserve-digests docker://{target} {to}");
    ask(&judge, Tool::Skopeo, &line).await.unwrap();
    let report = layout::validate(&back).await.unwrap();
    report.into_result().unwrap();
    let arm: Platform = "linux/arm/v8".parse().unwrap();
    let opened = layout::open_for(&back, "1.0", &arm).await.unwrap();
    assert_eq!(opened.platform().unwrap().to_string(), "linux/arm/v7");
}
