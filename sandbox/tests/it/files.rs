//! The root file system: layers, writes, binds.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use modelship_sandbox::{Exit, RootKind, Sandbox};
use rustix::fs::{CWD, FileType, Mode};

use crate::rootfs::{empty, finish, output, probe, snapshot, stacked, task};

#[tokio::test]
async fn upper_layers_shadow_lower_ones() {
    let (bottom, middle, top) = (probe(), empty(), empty());
    for (layer, text) in [(&bottom, "bottom"), (&middle, "middle"), (&top, "top")] {
        fs::write(layer.path().join("all"), text).unwrap();
        fs::write(layer.path().join(text), text).unwrap();
    }
    fs::write(bottom.path().join("two"), "bottom").unwrap();
    fs::write(middle.path().join("two"), "middle").unwrap();
    fs::write(bottom.path().join("hidden"), "bottom").unwrap();
    // overlayfs's whiteout, which anybody may make.
    let whiteout = top.path().join("hidden");
    rustix::fs::mknodat(CWD, &whiteout, FileType::CharacterDevice, Mode::empty(), 0).unwrap();

    let layers = [&bottom, &middle, &top];
    for (path, text) in [
        ("/all", "top"),
        ("/two", "middle"),
        ("/bottom", "bottom"),
        ("/top", "top"),
    ] {
        assert_eq!(output(&stacked(&layers, ["cat", path])).await, text);
    }
    let (exit, text) = finish(&stacked(&layers, ["cat", "/hidden"])).await;
    assert_eq!((exit, text.as_str()), (Exit::Code(1), "/hidden: ENOENT\n"));
}

#[tokio::test]
async fn a_hundred_layers_with_awkward_names_are_stacked() {
    let bottom = probe();
    let parent = empty();
    let mut layers = vec![bottom.path().to_owned()];
    for number in 0..100 {
        let layer = parent.path().join(format!(
            "a rather long name: with, \\ odd \"marks\" {number}"
        ));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join(format!("file{number}")), "").unwrap();
        layers.push(layer);
    }
    let listed = output(&Sandbox::new(layers).command(["/bin/probe", "ls", "/"])).await;
    assert_eq!(
        listed
            .lines()
            .filter(|name| name.starts_with("file"))
            .count(),
        100
    );
}

#[tokio::test]
async fn writes_never_reach_the_layers() {
    let (bottom, top) = (probe(), empty());
    fs::write(bottom.path().join("old"), "before").unwrap();
    let before = (snapshot(bottom.path()), snapshot(top.path()));
    for path in ["/old", "/new", "/bin/probe2", "/tmp/new"] {
        output(&stacked(&[&bottom, &top], ["put", path, "after"]).workdir("/made")).await;
    }
    assert_eq!(before, (snapshot(bottom.path()), snapshot(top.path())));
    assert_eq!(output(&task(&bottom, ["cat", "/old"])).await, "before");
}

#[tokio::test]
async fn scratch_on_disk_is_used_and_removed() {
    let (layer, scratch) = (probe(), empty());
    let sandbox = task(&layer, ["locked"]).scratch(scratch.path());
    let mut process = sandbox.spawn().await.unwrap();
    assert_eq!(process.wait().await.unwrap(), Exit::Code(0));
    let written = snapshot(scratch.path())
        .into_iter()
        .any(|(path, _)| path.ends_with("upper/locked"));
    assert!(written);
    drop(process);
    assert_eq!(snapshot(scratch.path()), []);

    let failed = Sandbox::new([layer.path()])
        .command(["absent"])
        .scratch(scratch.path());
    failed.spawn().await.unwrap_err();
    assert_eq!(snapshot(scratch.path()), []);
}

#[tokio::test]
async fn a_read_only_root_leaves_only_the_temporary_directories() {
    let layer = probe();
    let (exit, text) = finish(&task(&layer, ["put", "/new", "x"]).read_only(true)).await;
    assert_eq!((exit, text.as_str()), (Exit::Code(1), "/new: EROFS\n"));
    output(&task(&layer, ["put", "/tmp/new", "x"]).read_only(true)).await;
}

#[tokio::test]
async fn one_layer_can_be_bound_without_an_overlay() {
    let layer = probe();
    for dir in ["proc", "dev", "tmp"] {
        fs::create_dir(layer.path().join(dir)).unwrap();
    }
    let sandbox = task(&layer, ["idle"]).overlay(false);
    let process = sandbox.spawn().await.unwrap();
    assert_eq!(process.root(), RootKind::ReadOnlyBind);
    assert_eq!(process.notes(), [modelship_sandbox::Note::NoRun]);
    drop(process);
    let (exit, text) = finish(&task(&layer, ["put", "/new", "x"]).overlay(false)).await;
    assert_eq!((exit, text.as_str()), (Exit::Code(1), "/new: EROFS\n"));
    output(&task(&layer, ["put", "/tmp/new", "x"]).overlay(false)).await;
    assert!(!layer.path().join("new").exists());
}

#[tokio::test]
async fn binds_show_host_paths_read_only() {
    let (layer, host) = (probe(), empty());
    fs::write(host.path().join("file"), "of the host").unwrap();
    let sandbox = |words| {
        task(&layer, words)
            .bind_readonly(host.path(), "/mnt/dir")
            .bind_readonly(host.path().join("file"), "/mnt/one")
    };
    assert_eq!(
        output(&sandbox(["cat", "/mnt/dir/file"])).await,
        "of the host"
    );
    assert_eq!(output(&sandbox(["cat", "/mnt/one"])).await, "of the host");
    for path in ["/mnt/dir/file", "/mnt/one", "/mnt/dir/new"] {
        let words = ["/bin/probe", "put", path, "x"];
        let (exit, text) = finish(&sandbox(["exit", "0"]).command(words)).await;
        assert_eq!((exit, text), (Exit::Code(1), format!("{path}: EROFS\n")));
    }
    let absent = task(&layer, ["exit", "0"]).bind_readonly("/absent/path", "/mnt");
    assert!(
        absent
            .spawn()
            .await
            .unwrap_err()
            .to_string()
            .contains("/absent/path")
    );
}

#[tokio::test]
async fn links_in_an_image_do_not_lead_to_the_host() {
    let (layer, host) = (probe(), empty());
    fs::set_permissions(host.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let outside = host.path().display().to_string();
    for name in ["tmp", "mnt", "run"] {
        symlink(
            format!("../../../../../..{outside}"),
            layer.path().join(name),
        )
        .unwrap();
    }
    symlink(&outside, layer.path().join("work")).unwrap();
    let sandbox = task(&layer, ["put", "/escaped", "x"]).bind_readonly(layer.path(), "/mnt/inner");
    // The links dangle inside, so mounting there is refused or noted, never done outside.
    if let Ok(mut process) = sandbox.spawn().await {
        process.wait().await.unwrap();
    }
    let (exit, _) = finish(&task(&layer, ["put", "/work/escaped", "x"])).await;
    assert_eq!(exit, Exit::Code(1));
    assert_eq!(snapshot(host.path()), []);
}
