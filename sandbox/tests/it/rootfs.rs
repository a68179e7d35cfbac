//! Root file systems for the tests: a directory with one static program, built by the C compiler.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use modelship_sandbox::{Exit, Process, Sandbox};
use tempfile::TempDir;

/// The variable that tells a helper process, an ignored test run on its own, where its layer is.
pub(crate) const LAYER: &str = "SANDBOX_TEST_LAYER";

/// A fresh layer, removed on drop, that holds `/bin/probe` (see `probe.c`).
pub(crate) fn probe() -> TempDir {
    let layer = empty();
    fs::create_dir(layer.path().join("bin")).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/probe.c");
    // The compiler writes the program itself: a descriptor of ours open for writing could be
    // inherited by a fork of another test, and make the exec fail with ETXTBSY.
    let output = layer.path().join("bin/probe");
    let status = Command::new("cc")
        .arg("-static")
        .arg("-o")
        .arg(output)
        .arg(source)
        .status();
    assert!(status.expect("the tests need a C compiler, `cc`").success());
    layer
}

/// A fresh empty layer.
pub(crate) fn empty() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A sandbox over one layer that runs a task of the probe.
pub(crate) fn task<const N: usize>(layer: &TempDir, words: [&str; N]) -> Sandbox {
    stacked(&[layer], words)
}

/// A sandbox over several layers, bottom to top, that runs a task of the probe.
pub(crate) fn stacked<const N: usize>(layers: &[&TempDir], words: [&str; N]) -> Sandbox {
    let layers = layers.iter().map(|layer| layer.path().to_owned());
    Sandbox::new(layers).command(["/bin/probe"].into_iter().chain(words))
}

/// Runs to the end; answers how it ended and everything it wrote.
pub(crate) async fn finish(sandbox: &Sandbox) -> (Exit, String) {
    let mut process = sandbox
        .spawn()
        .await
        .unwrap_or_else(|error| panic!("{error}: {error:?}"));
    let exit = process.wait().await.unwrap();
    (exit, process.logs().to_string())
}

/// Runs to a successful end and answers what it wrote.
pub(crate) async fn output(sandbox: &Sandbox) -> String {
    let (exit, output) = finish(sandbox).await;
    assert_eq!(exit, Exit::Code(0), "{output}");
    output
}

/// Waits until the process has written `text`.
pub(crate) async fn wrote(process: &mut Process, text: &str) {
    loop {
        let logs = process.logs().to_string();
        if logs.contains(text) {
            return;
        }
        assert_eq!(process.try_exit().unwrap(), None, "{logs}");
        tokio::task::yield_now().await;
    }
}

/// The host's processes that have `marker` in their command line.
pub(crate) fn marked(marker: &str) -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    processes
        .filter(|process| {
            let words = fs::read(process.join("cmdline")).unwrap_or_default();
            let mut words = words.split(|byte| *byte == 0);
            words.any(|word| word == marker.as_bytes())
        })
        .collect()
}

/// Every path below `dir` with its content, to see that nothing was changed.
pub(crate) fn snapshot(dir: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
                all.push((entry.path(), None));
            } else {
                all.push((entry.path(), fs::read(entry.path()).ok()));
            }
        }
    }
    all.sort();
    all
}
