//! The `debian` module against the machine's own package sources: the whole Python base, run.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use futures::TryStreamExt;
use modelship_image_builder::debian::{DebianBase, DebianTree, Sources, debian_architecture};
use modelship_image_builder::{ErrorKind, NodeKind, Tree};
use tokio::io::AsyncWriteExt;

use crate::debian::describe;

/// Writes a tree below `root`.
async fn write(tree: &Tree, root: &Path) {
    for (path, node) in tree.iter() {
        let at = root.join(path);
        match &node.kind {
            NodeKind::Dir => std::fs::create_dir(&at).unwrap(),
            NodeKind::Symlink(target) => symlink(target, &at).unwrap(),
            NodeKind::File(content) => {
                let mut file = tokio::fs::File::create(&at).await.unwrap();
                let mut chunks = content.open(0);
                while let Some(chunk) = chunks.try_next().await.unwrap() {
                    file.write_all(&chunk).await.unwrap();
                }
                file.flush().await.unwrap();
                let mode = std::fs::Permissions::from_mode(node.mode);
                std::fs::set_permissions(&at, mode).unwrap();
            }
            other => panic!("{path}: {other:?}"),
        }
    }
}

/// Runs Python inside `root`, as root of a user namespace; `None` where that is not allowed.
fn run(root: &Path, program: &str) -> Option<String> {
    let namespaces = Command::new("unshare").args(["-Ur", "true"]).status();
    if !namespaces.is_ok_and(|status| status.success()) {
        return None;
    }
    let output = Command::new("unshare")
        .args(["-Ur", "chroot"])
        .arg(root)
        .args(["/usr/bin/python3", "-c", program])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stderr}");
    Some(stdout.into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_own_sources_give_a_python_that_runs() {
    let (Ok(sources), Some(architecture)) = (
        Sources::from_apt(Path::new("/etc/apt")),
        debian_architecture(std::env::consts::ARCH),
    ) else {
        return skip("there are no Debian package sources");
    };
    let cache = tempfile::tempdir().unwrap();
    let base = DebianBase::python(architecture, cache.path());
    let start = Instant::now();
    let lock = match base.lock(&sources, &|_| {}).await {
        Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout) => {
            return skip(&error.to_string());
        }
        other => other.unwrap(),
    };
    println!(
        "lock: {} packages, {} bytes, {:?}",
        lock.packages().len(),
        lock.total_size(),
        start.elapsed()
    );
    let start = Instant::now();
    let made: DebianTree = base.assemble(&lock, &sources, &|_| {}).await.unwrap();
    println!("assemble with download: {:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(
        base.lock(&sources, &|_| {}).await.unwrap().to_json(),
        lock.to_json()
    );
    println!("lock again: {:?}", start.elapsed());
    let start = Instant::now();
    let again = base.assemble(&lock, &sources, &|_| {}).await.unwrap();
    println!("assemble from cache: {:?}", start.elapsed());
    let text = describe(made.tree()).await;
    assert_eq!(text, describe(again.tree()).await);

    let python = made.python().unwrap().clone();
    assert!(
        python.version.starts_with(&format!("{}.", python.minor())),
        "{python:?}"
    );
    let root = tempfile::tempdir().unwrap();
    write(made.tree(), root.path()).await;
    let program = "import flask, numpy, gunicorn, ssl, sqlite3, ctypes, sys, pwd\n\
        numpy.linalg.inv(numpy.eye(3))\n\
        assert len(ssl.create_default_context().get_ca_certs()) > 50\n\
        assert pwd.getpwuid(65532).pw_name == 'nonroot'\n\
        print('.'.join(map(str, sys.version_info[:3])))";
    let Some(version) = run(root.path(), program) else {
        return skip("user namespaces are not allowed here");
    };
    assert_eq!(version.trim(), python.version);

    let extra = base
        .lock_layered(&lock, ["python3-pytest"], &sources, &|_| {})
        .await
        .unwrap();
    assert!(extra.get("python3").is_none() && extra.get("python3-pytest").is_some());
    let tests = base
        .assemble(&extra, &sources, &|_| {})
        .await
        .unwrap()
        .into_tree();
    let mut both = made.into_tree();
    both.merge(tests).unwrap();
    let root = tempfile::tempdir().unwrap();
    write(&both, root.path()).await;
    run(
        root.path(),
        "import pytest, flask; print(pytest.__version__)",
    )
    .unwrap();
}

/// Says on the test's output why it proves nothing here; never in continuous integration.
fn skip(reason: &str) {
    let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!in_ci, "{reason}");
    println!("skipped: {reason}");
}
