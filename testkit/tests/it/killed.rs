//! A test that is killed leaves no server, and its folder goes with the next test.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use modelship_testkit::{DockerRegistry, Scratch, Tool, need, tool};

use crate::is_alive;

const CHILD: &str = "MODELSHIP_TESTKIT_KILLED_CHILD";

/// Starts a registry, says where, and waits to be killed. Only as a child of the test below.
#[test]
fn child_that_waits_to_be_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    // On a thread that ends: the server must outlive it.
    let start = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(DockerRegistry::open()).unwrap()
    };
    let registry = std::thread::spawn(start).join().unwrap();
    assert!(is_alive(registry.process().pid()));
    println!(
        "\nSTARTED {} {}",
        registry.process().pid(),
        registry.process().log_path().display()
    );
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_test_leaves_nothing() {
    let Some(_) = need(tool::path(Tool::DockerRegistry)) else {
        return;
    };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "killed::child_that_waits_to_be_killed",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let line = lines
        .into_iter()
        .find(|line| line.starts_with("STARTED "))
        .unwrap();
    let (pid, log) = line["STARTED ".len()..].split_once(' ').unwrap();
    let pid: u32 = pid.parse().unwrap();
    let folder = std::path::Path::new(log).parent().unwrap();
    assert!(is_alive(pid) && folder.is_dir());

    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_alive(pid) {
        assert!(
            Instant::now() < deadline,
            "the registry outlived the test that started it"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    let _next = Scratch::new().unwrap();
    assert!(!folder.exists());
}
