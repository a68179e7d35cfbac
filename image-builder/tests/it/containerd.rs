//! Our archives in containerd, the runtime of Kubernetes' nodes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use modelship_image_builder::tarball;
use modelship_testkit::process::{Launch, Process};
use modelship_testkit::{DockerRegistry, Judge, Missing, Scratch, Tool, need, tool};

use crate::archives::{ask, is_root, mixed, path, unpacked, write};
use crate::sample;

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

    /// Runs `ctr` with the words of `line`, and gives what it printed.
    async fn ctr(&self, line: &str) -> Result<String, Missing> {
        let program = tool::program("ctr");
        let program = program.ok_or_else(|| Missing::absent("containerd", "no ctr"))?;
        let output = tokio::process::Command::new(program)
            .arg("--address")
            .arg(self.dir.join("c.sock"))
            .args(line.split(' '))
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|e| Missing::broken("ctr", e))?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {line}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The files of an image, unpacked by containerd.
    async fn files(&self, name: &str) -> sample::Listing {
        let root = self.dir.join("mounted");
        fs::create_dir_all(&root).unwrap();
        let target = root.display();
        let line = format!("images mount --snapshotter native {name} {target}");
        self.ctr(&line).await.unwrap();
        let listing = sample::listing(&root);
        let line = format!("images unmount {target}");
        self.ctr(&line).await.unwrap();
        listing
    }
}

#[tokio::test]
async fn containerd_imports_our_archives_and_we_open_what_it_exports() {
    let dir = Scratch::new().unwrap();
    let image = mixed(dir.path()).await;
    let sealed = write(dir.path(), &image).await;
    let digest = sealed.manifest_descriptor.digest().to_string();
    let Some(containerd) = need(Containerd::start().await) else {
        return;
    };
    let expected = unpacked(&image).await;
    for (file, base, name) in [
        ("docker.tar", "x.invalid/unused", "docker.io/team/app:1.0"),
        ("oci.tar", "x.invalid/app", "x.invalid/app:1.0"),
    ] {
        let file = path(dir.path(), file);
        let line = format!("images import --snapshotter native --base-name {base} {file}");
        let Some(_) = need(containerd.ctr(&line).await) else {
            return;
        };
        let listed = containerd.ctr("images list").await.unwrap();
        let mut lines = listed.lines().filter(|line| line.starts_with(name));
        assert!(lines.any(|line| line.contains(&digest)), "{name}: {listed}");
        assert_eq!(containerd.files(name).await, expected);
    }
    let checked = containerd.ctr("images check --snapshotter native").await;
    let checked = checked.unwrap();
    assert_eq!(checked.matches("complete (4/4)").count(), 2, "{checked}");
    let (exported, name) = (path(dir.path(), "exported.tar"), "docker.io/team/app:1.0");
    let line = format!("images export {exported} {name}");
    containerd.ctr(&line).await.unwrap();
    let exported = Path::new(&exported);
    let report = tarball::validate(exported).await.unwrap();
    report.into_result().unwrap();
    for reference in [name, &digest] {
        let opened = tarball::open(exported, reference).await.unwrap();
        assert_eq!(opened.seal().unwrap().manifest, sealed.manifest);
    }
}

#[tokio::test]
async fn containerd_pulls_our_image_by_its_digest() {
    let dir = Scratch::new().unwrap();
    let image = mixed(dir.path()).await;
    let sealed = write(dir.path(), &image).await;
    let Some(containerd) = need(Containerd::start().await) else {
        return;
    };
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
    let name = format!("{target}@{}", sealed.manifest_descriptor.digest());
    let line = format!("images pull --plain-http --snapshotter native {name}");
    let Some(_) = need(containerd.ctr(&line).await) else {
        return;
    };
    assert_eq!(containerd.files(&name).await, unpacked(&image).await);
}
