//! The `debian` module against the machine's own package sources: the whole Python base, run.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use modelship_image_builder::debian::{DebianBase, DebianLock, Sources, debian_architecture};
use modelship_image_builder::{ErrorKind, Layer, unpack};
use modelship_testkit::{Missing, need};

/// What the base must be able to do; prints the version of Python.
const PROGRAM: &str = "import flask, numpy, gunicorn, ssl, sqlite3, ctypes, sys, pwd\n\
    numpy.linalg.inv(numpy.eye(3))\n\
    assert len(ssl.create_default_context().get_ca_certs()) > 50\n\
    assert pwd.getpwuid(65532).pw_name == 'nonroot'\n\
    print('.'.join(map(str, sys.version_info[:3])))";

/// The sources of this machine, and what the Python base resolves to with them.
async fn locked(cache: &Path) -> Result<(DebianBase, Sources, DebianLock), Missing> {
    let lacking = |reason: &str| Missing::absent("Debian package sources", reason);
    let sources = match Sources::from_apt(Path::new("/etc/apt")) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(lacking(&error.to_string()));
        }
        other => other.unwrap(),
    };
    let architecture = debian_architecture(std::env::consts::ARCH)
        .ok_or_else(|| lacking("Debian has no such architecture"))?;
    let base = DebianBase::python(architecture, cache);
    match base.lock(&sources, &|_| {}).await {
        Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout) => {
            Err(lacking(&error.to_string()))
        }
        other => Ok((base, sources, other.unwrap())),
    }
}

/// Runs Python inside `root`, as root of a user namespace.
fn run(root: &Path, program: &str) -> Result<String, Missing> {
    let probe = Command::new("unshare").args(["-Ur", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        return Err(Missing::absent("user namespaces", "not allowed here"));
    }
    let output = Command::new("unshare")
        .args(["-Ur", "chroot"])
        .arg(root)
        .args(["/usr/bin/python3", "-c", program])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_own_sources_give_a_python_that_runs() {
    let cache = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let Some((base, sources, lock)) = need(locked(cache.path()).await) else {
        return;
    };
    let names: Vec<_> = lock
        .packages()
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    println!("{}", names.join(" "));
    let (count, size) = (lock.packages().len(), lock.total_size());
    println!(
        "lock: {count} packages, {size} bytes, {:?}",
        start.elapsed()
    );

    let start = Instant::now();
    let made = base.assemble(&lock, &sources, &|_| {}).await.unwrap();
    println!("assemble, downloading: {:?}", start.elapsed());
    let start = Instant::now();
    let again = base.lock(&sources, &|_| {}).await.unwrap();
    assert_eq!(again.to_json(), lock.to_json());
    println!("lock, indexes cached: {:?}", start.elapsed());
    let start = Instant::now();
    let again = base.assemble(&lock, &sources, &|_| {}).await.unwrap();
    println!("assemble, packages cached: {:?}", start.elapsed());

    let python = made.python().unwrap().clone();
    let layer = Layer::tree(made.into_tree()).unwrap();
    let again = Layer::tree(again.into_tree()).unwrap();
    let digest = layer.measure().await.unwrap().diff_id();
    assert_eq!(digest, again.measure().await.unwrap().diff_id());

    let start = Instant::now();
    let spool = tempfile::tempdir().unwrap();
    let gzip = layer.clone().gzip(spool.path()).await.unwrap();
    let (raw, packed) = (layer.len(), gzip.len());
    println!(
        "layer: {raw} bytes, {packed} gzipped in {:?}",
        start.elapsed()
    );

    let root = tempfile::tempdir().unwrap();
    unpack(&layer, root.path()).await.unwrap();
    let Some(version) = need(run(root.path(), PROGRAM)) else {
        return;
    };
    assert_eq!(version, python.version);
    assert!(version.starts_with(&format!("{}.", python.minor())));

    let progress = |_| {};
    let extra = base.lock_layered(&lock, ["python3-pytest"], &sources, &progress);
    let extra = extra.await.unwrap();
    assert!(extra.get("python3").is_none() && extra.get("python3-pytest").is_some());
    let tests = base.assemble(&extra, &sources, &|_| {}).await.unwrap();
    let tests = Layer::tree(tests.into_tree()).unwrap();
    unpack(&tests, root.path()).await.unwrap();
    run(root.path(), "import pytest, flask").unwrap();
}
