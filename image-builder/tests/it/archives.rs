//! Archives between us and the tools that load and save images.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use modelship_image_builder::{
    Image, Index, Layer, Platform, Sealed, layout, tarball, unpack_image,
};
use modelship_testkit::process::{Launch, Process};
use modelship_testkit::{DockerRegistry, Judge, Missing, Scratch, Tool, need, tool};

use crate::sample::{self, FOREIGN, LONG};

/// The image in an OCI archive (`oci.tar`) and in one for Docker (`docker.tar`).
async fn write(dir: &Path, image: &Image) -> Sealed {
    tarball::write_oci(&dir.join("oci.tar"), image, "1.0", &|_| ())
        .await
        .unwrap();
    tarball::write_docker(&dir.join("docker.tar"), image, "team/app:1.0", &|_| ())
        .await
        .unwrap()
}

fn plain() -> Image {
    let tree = Layer::tree(sample::tree()).unwrap();
    sample::image(vec![sample::model(300_000), tree])
}

async fn mixed(dir: &Path) -> Image {
    let more = sample::files(&[("etc/app.conf", "on=1")]);
    let gzip = Layer::tree(more).unwrap();
    let gzip = gzip.gzip(&dir.join("spool")).await.unwrap();
    plain().with_layer(gzip)
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

/// What the image unpacks to by our own means.
async fn unpacked(image: &Image) -> sample::Listing {
    let root = tempfile::tempdir().unwrap();
    unpack_image(image, root.path()).await.unwrap();
    let listing = sample::listing(root.path());
    assert!(listing.contains_key(LONG) && listing.contains_key(FOREIGN));
    listing
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
    let own =
        ["oci.tar", "docker.tar"].map(|name| format!("oci-archive:{}:1.0", path(dir.path(), name)));
    for from in &own {
        let said = judge
            .ask(Tool::Skopeo, &["inspect", "--format", "{{.Digest}}", from])
            .await;
        let Some(said) = need(said) else { return };
        assert_eq!(said.succeeded(), digest);
    }
    let back = path(dir.path(), "back.tar");
    let to = format!("oci-archive:{back}:1.0");
    let copied = judge
        .ask(Tool::Skopeo, &["copy", "--preserve-digests", &own[0], &to])
        .await
        .unwrap();
    copied.succeeded();
    let opened = tarball::open(Path::new(&back), "1.0").await.unwrap();
    assert_eq!(opened.seal().unwrap().manifest, sealed.manifest);
    tarball::validate(Path::new(&back))
        .await
        .unwrap()
        .into_result()
        .unwrap();

    // As Docker's archive: the other list in the same file, and one that skopeo writes.
    let from = format!(
        "docker-archive:{}:team/app:1.0",
        path(dir.path(), "docker.tar")
    );
    let saved = path(dir.path(), "saved.tar");
    let to = format!("docker-archive:{saved}:team/app:2.0");
    let copied = judge
        .ask(Tool::Skopeo, &["copy", &from, &to])
        .await
        .unwrap();
    copied.succeeded();
    let saved = Path::new(&saved);
    let name = "docker.io/team/app:2.0";
    let names = tarball::references(saved).await.unwrap();
    assert!(
        names.iter().all(|given| name.ends_with(given.as_str())),
        "{names:?}"
    );
    let opened = tarball::open(saved, &names[0]).await.unwrap();
    tarball::validate(saved)
        .await
        .unwrap()
        .into_result()
        .unwrap();
    assert_eq!(unpacked(&opened).await, unpacked(&image).await);
    assert_eq!(opened.setting("User"), image.setting("User"));
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
        let file = path(dir.path(), name);
        let loaded = judge
            .ask(Tool::Podman, &["load", "--quiet", "--input", &file])
            .await;
        let Some(loaded) = need(loaded) else { return };
        loaded.succeeded();
        let format = "{{.Id}} {{.Config.User}} {{.Config.Entrypoint}}";
        let seen = judge
            .ask(Tool::Podman, &["image", "inspect", "--format", format, id])
            .await
            .unwrap();
        assert_eq!(
            seen.succeeded(),
            format!("{id} 65532:65532 [/app/main.py]"),
            "{name}"
        );
        let mounted = judge
            .ask(Tool::Podman, &["image", "mount", id])
            .await
            .unwrap();
        if is_root() {
            let root = mounted.succeeded();
            assert_eq!(sample::listing(Path::new(root)), expected, "{name}");
            judge
                .ask(Tool::Podman, &["image", "unmount", id])
                .await
                .unwrap()
                .succeeded();
        }
        if name == "oci.tar" {
            judge
                .ask(Tool::Podman, &["rmi", "--force", id])
                .await
                .unwrap()
                .succeeded();
        }
    }
    for format in ["docker-archive", "oci-archive"] {
        let saved = path(dir.path(), &format!("{format}.tar"));
        let name = "localhost/team/app:1.0";
        judge
            .ask(Tool::Podman, &["tag", id, name])
            .await
            .unwrap()
            .succeeded();
        let args = [
            "save", "--quiet", "--format", format, "--output", &saved, name,
        ];
        judge.ask(Tool::Podman, &args).await.unwrap().succeeded();
        let saved = Path::new(&saved);
        tarball::validate(saved)
            .await
            .unwrap()
            .into_result()
            .unwrap();
        let names = tarball::references(saved).await.unwrap();
        let opened = tarball::open(saved, &names[0]).await.unwrap();
        assert_eq!(unpacked(&opened).await, expected, "{format}");
    }
}

fn is_root() -> bool {
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
    let archive = path(dir.path(), "docker.tar");
    let pushed = judge
        .ask(Tool::Crane, &["push", "--insecure", &archive, &target])
        .await;
    let Some(pushed) = need(pushed) else { return };
    pushed.succeeded();
    judge
        .ask(
            Tool::Crane,
            &["validate", "--insecure", "--remote", &target],
        )
        .await
        .unwrap()
        .succeeded();
    let exported = path(dir.path(), "exported.tar");
    judge
        .ask(Tool::Crane, &["export", "--insecure", &target, &exported])
        .await
        .unwrap()
        .succeeded();
    let root = dir.path().join("root");
    let mut archive = tar::Archive::new(fs::File::open(&exported).unwrap());
    archive.set_preserve_permissions(true);
    archive.unpack(&root).unwrap();
    let theirs = sample::listing(&root);
    for (name, (_, content)) in unpacked(&image).await {
        assert_eq!(
            theirs.get(&name).map(|(_, content)| content),
            Some(&content),
            "{name}"
        );
    }
}

/// A containerd of our own, with its images in `dir`.
struct Containerd {
    _process: Process,
    dir: Scratch,
}

impl Containerd {
    async fn start() -> Result<Self, Missing> {
        if !is_root() {
            return Err(Missing::absent("containerd", "it needs root"));
        }
        let dir = Scratch::new().map_err(|e| Missing::broken("containerd", e))?;
        let socket = dir.join("c.sock");
        let config = format!(
            "version = 2\nroot = \"{root}/root\"\nstate = \"{root}/state\"\n\
             disabled_plugins = [\"io.containerd.internal.v1.opt\", \"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{root}/c.sock\"\n",
            root = dir.path().display()
        );
        fs::write(dir.join("config.toml"), config).map_err(|e| Missing::broken("containerd", e))?;
        let mut process = Launch::new("containerd", tool::path(Tool::Containerd)?)?
            .args(["--config".as_ref(), dir.join("config.toml").as_os_str()])
            .start(&dir.join("containerd.log"))?;
        let listens = || async { tokio::net::UnixStream::connect(&socket).await.is_ok() };
        process.wait_ready(Duration::from_mins(1), listens).await?;
        Ok(Self {
            _process: process,
            dir,
        })
    }

    /// Runs `ctr`, and gives what it printed.
    async fn ctr(&self, args: &[&str]) -> Result<String, Missing> {
        let program =
            tool::program("ctr").ok_or_else(|| Missing::absent("containerd", "no ctr"))?;
        let output = tokio::process::Command::new(program)
            .arg("--address")
            .arg(self.dir.join("c.sock"))
            .args(args)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|e| Missing::broken("ctr", e))?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {args:?}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[tokio::test]
async fn containerd_imports_and_unpacks_our_archives() {
    let dir = Scratch::new().unwrap();
    let image = mixed(dir.path()).await;
    let sealed = write(dir.path(), &image).await;
    let Some(containerd) = need(Containerd::start().await) else {
        return;
    };
    for (file, base, name) in [
        ("docker.tar", "x.invalid/unused", "docker.io/team/app:1.0"),
        ("oci.tar", "x.invalid/app", "x.invalid/app:1.0"),
    ] {
        let file = path(dir.path(), file);
        let args = [
            "images",
            "import",
            "--snapshotter",
            "native",
            "--base-name",
            base,
            &file,
        ];
        need(containerd.ctr(&args).await).unwrap();
        let listed = containerd.ctr(&["images", "list"]).await.unwrap();
        let line = listed.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("{name}: {listed}"));
        assert!(
            line.contains(sealed.manifest_descriptor.digest().as_ref()),
            "{line}"
        );
    }
    let checked = containerd
        .ctr(&["images", "check", "--snapshotter", "native"])
        .await
        .unwrap();
    assert_eq!(checked.matches("complete (4/4)").count(), 2, "{checked}");
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let target = root.to_str().unwrap();
    let name = "docker.io/team/app:1.0";
    let args = ["images", "mount", "--snapshotter", "native", name, target];
    containerd.ctr(&args).await.unwrap();
    let theirs = sample::listing(&root);
    containerd
        .ctr(&["images", "unmount", target])
        .await
        .unwrap();
    assert_eq!(theirs, unpacked(&image).await);
    // And what containerd exports, we open.
    let exported = path(dir.path(), "exported.tar");
    containerd
        .ctr(&["images", "export", &exported, name])
        .await
        .unwrap();
    let exported = Path::new(&exported);
    tarball::validate(exported)
        .await
        .unwrap()
        .into_result()
        .unwrap();
    let digest = sealed.manifest_descriptor.digest().to_string();
    for reference in [name, &digest] {
        let opened = tarball::open(exported, reference).await.unwrap();
        assert_eq!(opened.seal().unwrap().manifest, sealed.manifest);
    }
}

#[tokio::test]
async fn an_index_keeps_its_digest_from_tool_to_tool() {
    let dir = Scratch::new().unwrap();
    let shared = Layer::tree(sample::tree()).unwrap();
    let index = ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"]
        .into_iter()
        .fold(Index::new(), |index, platform| {
            let platform: Platform = platform.parse().unwrap();
            let own = sample::files(&[("platform", &platform.to_string())]);
            let image = Image::scratch(&platform)
                .with_layer(shared.clone())
                .with_layer(Layer::tree(own).unwrap());
            index.with(image).unwrap()
        });
    let file = dir.path().join("index.tar");
    let sealed = tarball::write_oci_index(&file, &index, "1.0", &|_| ())
        .await
        .unwrap();
    let layout_dir = dir.path().join("layout");
    layout::write_index(&layout_dir, &index, "1.0", &|_| ())
        .await
        .unwrap();
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let Some(judge) = need(Judge::of(&registry)) else {
        return;
    };
    let target = format!("{}/many:1.0", registry.host());
    let from = format!("oci-archive:{}:1.0", file.display());
    let to = format!("docker://{target}");
    let args = [
        "copy",
        "--all",
        "--preserve-digests",
        "--dest-tls-verify=false",
        &from,
        &to,
    ];
    let Some(copied) = need(judge.ask(Tool::Skopeo, &args).await) else {
        return;
    };
    copied.succeeded();
    let Some(said) = need(
        judge
            .ask(Tool::Crane, &["digest", "--insecure", &target])
            .await,
    ) else {
        return;
    };
    let digest = sealed.index_descriptor.digest().to_string();
    assert_eq!(said.succeeded(), digest);
    let args = [
        "digest",
        "--insecure",
        "--platform",
        "linux/arm64/v8",
        &target,
    ];
    let said = judge.ask(Tool::Crane, &args).await.unwrap();
    let arm64 = sealed
        .images
        .iter()
        .map(|image| image.manifest_descriptor.digest().to_string());
    assert!(
        arm64
            .collect::<Vec<_>>()
            .contains(&said.succeeded().to_owned())
    );
    // And back into a layout, where each machine finds its own.
    let back = dir.path().join("back");
    let to = format!("oci:{}:1.0", back.display());
    let args = [
        "copy",
        "--all",
        "--preserve-digests",
        "--src-tls-verify=false",
        &format!("docker://{target}"),
        &to,
    ];
    judge.ask(Tool::Skopeo, &args).await.unwrap().succeeded();
    layout::validate(&back)
        .await
        .unwrap()
        .into_result()
        .unwrap();
    let arm: Platform = "linux/arm/v8".parse().unwrap();
    let opened = layout::open_for(&back, "1.0", &arm).await.unwrap();
    assert_eq!(opened.platform().unwrap().to_string(), "linux/arm/v7");
}
