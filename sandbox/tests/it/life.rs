//! The end of a process and of its tree.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use modelship_sandbox::{Exit, Sandbox};

use crate::rootfs::{LAYER, empty, marked, output, probe, task, wrote};

const LONG: Duration = Duration::from_mins(10);

/// A name for a command line that no other process has.
fn marker(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

#[tokio::test]
async fn stop_lets_a_program_end_by_itself() {
    let layer = probe();
    let mut process = task(&layer, ["polite"]).spawn().await.unwrap();
    wrote(&mut process, "ready").await;
    assert_eq!(process.try_exit().unwrap(), None);
    let stopped = process.stop(LONG).await.unwrap();
    assert_eq!((stopped.exit, stopped.killed), (Exit::Code(7), false));
    assert!(!stopped.lacks_term_handler());
    // Asking again changes nothing.
    assert_eq!(process.stop(LONG).await.unwrap().exit, Exit::Code(7));
    assert_eq!(process.wait().await.unwrap(), Exit::Code(7));
    assert_eq!(process.try_exit().unwrap(), Some(Exit::Code(7)));
}

#[tokio::test]
async fn a_program_without_a_handler_is_told() {
    let layer = probe();
    let mut process = task(&layer, ["idle"]).spawn().await.unwrap();
    let stopped = process.stop(LONG).await.unwrap();
    assert_eq!((stopped.exit, stopped.killed), (Exit::Signal(15), false));
    assert!(stopped.lacks_term_handler());
}

#[tokio::test]
async fn stop_kills_after_the_grace_period() {
    let layer = probe();
    let mut process = task(&layer, ["stubborn"]).spawn().await.unwrap();
    wrote(&mut process, "ready").await;
    let stopped = process.stop(Duration::from_millis(50)).await.unwrap();
    assert_eq!((stopped.exit, stopped.killed), (Exit::Signal(9), true));
    assert!(process.logs().to_string().contains("ready"));
}

#[tokio::test]
async fn what_a_program_leaves_behind_ends_with_it() {
    let layer = probe();
    let marker = marker("family");
    let mut process = task(&layer, ["family", &marker]).spawn().await.unwrap();
    wrote(&mut process, "ready\nready").await;
    assert_eq!(marked(&marker).len(), 2);
    let stopped = process.stop(LONG).await.unwrap();
    assert_eq!(stopped.exit, Exit::Signal(15));
    // Waiting is over only when all are gone, the one that ignores SIGTERM too.
    assert_eq!(marked(&marker), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn dropping_a_process_kills_its_tree() {
    let layer = probe();
    let marker = marker("dropped");
    let mut process = task(&layer, ["family", &marker]).spawn().await.unwrap();
    wrote(&mut process, "ready\nready").await;
    drop(process);
    assert_eq!(marked(&marker), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_dropped_wait_can_be_taken_up_again() {
    let layer = probe();
    let mut process = task(&layer, ["polite"]).spawn().await.unwrap();
    wrote(&mut process, "ready").await;
    tokio::select! { biased; _ = process.wait() => panic!("ended"), () = std::future::ready(()) => {} }
    assert_eq!(process.stop(LONG).await.unwrap().exit, Exit::Code(7));
}

#[tokio::test]
async fn orphans_are_reaped() {
    let layer = probe();
    assert_eq!(output(&task(&layer, ["orphans", "50"])).await, "only me\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sandboxes_run_at_once() {
    let layer = probe();
    let runs = (0..24).map(|code| {
        let sandbox = task(&layer, ["exit", &code.to_string()]);
        tokio::spawn(async move { sandbox.spawn().await.unwrap().wait().await.unwrap() })
    });
    let runs: Vec<_> = runs.collect();
    for (code, run) in runs.into_iter().enumerate() {
        assert_eq!(run.await.unwrap(), Exit::Code(i32::try_from(code).unwrap()));
    }
}

/// Runs one of the ignored tests below in a process of its own.
fn helper(name: &str, layer: &std::path::Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env(LAYER, layer);
    command
}

/// The sandbox a helper process is to make.
fn helper_sandbox(task: &[&str]) -> Option<Sandbox> {
    let layer = std::env::var_os(LAYER)?;
    let words = ["/bin/probe"].iter().chain(task).copied();
    Some(Sandbox::new([PathBuf::from(layer)]).command(words))
}

#[test]
fn the_tree_dies_with_its_caller() {
    let layer = probe();
    let marker = format!("orphaned-{}", std::process::id());
    let mut caller = helper("life::helper_that_is_killed", layer.path());
    let mut caller = caller
        .env("MARKER", &marker)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(caller.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert!(lines.any(|line| line.contains("sandbox is ready")));
    assert_eq!(marked(&marker).len(), 2);
    // SIGKILL: the caller has no chance to clean up.
    caller.kill().unwrap();
    caller.wait().unwrap();
    while !marked(&marker).is_empty() {
        std::thread::yield_now();
    }
}

#[tokio::test]
#[ignore = "a helper process of the_tree_dies_with_its_caller"]
async fn helper_that_is_killed() {
    let marker = std::env::var("MARKER").unwrap_or_default();
    let Some(sandbox) = helper_sandbox(&["family", &marker]) else {
        return;
    };
    let mut process = sandbox.spawn().await.unwrap();
    wrote(&mut process, "ready\nready").await;
    println!("sandbox is ready");
    std::future::pending::<()>().await;
}

#[test]
fn nothing_is_left_over() {
    let layer = probe();
    let output = helper("life::helper_that_counts", layer.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

/// What this process holds: children, descriptors, mounts.
fn holdings() -> (BTreeSet<String>, usize, String) {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let children = tasks.flat_map(|task| {
        let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().count();
    (
        children.collect(),
        descriptors,
        fs::read_to_string("/proc/self/mountinfo").unwrap(),
    )
}

#[tokio::test]
#[ignore = "a helper process of nothing_is_left_over"]
async fn helper_that_counts() {
    let Some(sandbox) = helper_sandbox(&["polite"]) else {
        return;
    };
    let scratch = empty();
    let sandbox = sandbox.scratch(scratch.path());
    // The first run makes what a runtime keeps, such as its pool of threads.
    sandbox.spawn().await.unwrap().stop(LONG).await.unwrap();
    let before = holdings();
    for round in 0..10 {
        let mut process = sandbox.spawn().await.unwrap();
        wrote(&mut process, "ready").await;
        assert!(process.connect(1).await.is_err());
        if round % 2 == 0 {
            process.stop(LONG).await.unwrap();
        }
        drop(process);
        sandbox
            .clone()
            .command(["absent"])
            .spawn()
            .await
            .unwrap_err();
    }
    // The reader of a dropped process's output ends on its own.
    while holdings().1 != before.1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(holdings(), before);
    assert!(before.0.is_empty());
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}
