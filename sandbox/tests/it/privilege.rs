//! The same as an ordinary user, and on the rung that needs root.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use modelship_sandbox::{ErrorKind, Exit, Rung, Sandbox};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rootfs::{LAYER, empty, finish, output, probe, task, wrote};

const NOBODY: u32 = 65534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs every other test once more as an ordinary user.
#[test]
fn as_nobody() {
    if !is_root() {
        return;
    }
    // A copy, as the original may lie where an ordinary user must not look.
    let dir = empty();
    rustix::fs::chmod(dir.path(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let program = dir.path().join("it");
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    let output = Command::new(program)
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir("/")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn everybody_gets_user_namespaces_first() {
    let layer = probe();
    let process = task(&layer, ["idle"]).spawn().await.unwrap();
    assert_eq!(process.rung(), Rung::UserNamespaces);
}

#[tokio::test]
async fn root_can_do_without_a_user_namespace_and_nobody_else() {
    let layer = probe();
    let sandbox = task(&layer, ["polite"])
        .user_namespace(false)
        .user(1000, 1001);
    if !is_root() {
        assert_eq!(
            sandbox.spawn().await.unwrap_err().kind(),
            ErrorKind::Forbidden
        );
        return;
    }
    let mut process = sandbox.spawn().await.unwrap();
    assert_eq!(process.rung(), Rung::RootWithoutUserNamespace);
    assert_eq!(process.notes(), []);
    wrote(&mut process, "ready").await;
    // Init can signal the program although neither has a capability.
    assert_eq!(
        process.stop(Duration::from_mins(10)).await.unwrap().exit,
        Exit::Code(7)
    );

    let words = |words: &[&str]| {
        let words = ["/bin/probe"].iter().chain(words).copied();
        task(&layer, [])
            .command(words)
            .user_namespace(false)
            .user(1000, 1001)
    };
    assert_eq!(output(&words(&["ids"])).await, "1000:1001 pid 2\n");
    assert_eq!(output(&words(&["ifaces"])).await, "lo\n");
    for path in ["/tmp/file", "/dev/shm/file", "/dev/stdout", "/dev/null"] {
        assert_eq!(
            finish(&words(&["put", path, "x"])).await.0,
            Exit::Code(0),
            "{path}"
        );
    }
    // Here the image's files belong to root, as they do in a cluster.
    assert_eq!(
        finish(&words(&["put", "/file", "x"])).await.1,
        "/file: EACCES\n"
    );
    let status = output(&words(&["cat", "/proc/self/status"])).await;
    assert!(
        status.contains("CapEff:\t0000000000000000") && status.contains("Groups:\t \n"),
        "{status}"
    );
}

#[tokio::test]
async fn python_of_the_host_serves_over_http() {
    if !Path::new("/usr/bin/python3").exists() {
        return;
    }
    let layer = empty();
    for dir in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{dir}"), layer.path().join(dir)).unwrap();
    }
    let mut process = Sandbox::new([layer.path()])
        .bind_readonly("/usr", "/usr")
        .command([
            "/usr/bin/python3",
            "-um",
            "http.server",
            "--bind",
            "127.0.0.1",
            "8080",
        ])
        .env("LANG", "C.UTF-8")
        .workdir("/srv")
        .user(65532, 65532)
        .spawn()
        .await
        .unwrap();
    wrote(&mut process, "Serving HTTP").await;
    let mut stream = process.connect(8080).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("200 OK"), "{answer}");
    assert!(
        process
            .stop(Duration::from_mins(10))
            .await
            .unwrap()
            .lacks_term_handler()
    );
}

#[tokio::test]
async fn user_0_cannot_change_the_host_through_proc() {
    let layer = probe();
    // Values that would do no harm if they got through: a host name of its own, and help.
    for (path, text) in [
        ("/proc/sys/kernel/hostname", "inside"),
        ("/proc/sysrq-trigger", "h"),
    ] {
        for user_namespace in [true, false] {
            if !user_namespace && !is_root() {
                continue;
            }
            let sandbox = task(&layer, ["put", path, text]).user_namespace(user_namespace);
            let (exit, output) = finish(&sandbox).await;
            assert_eq!(exit, Exit::Code(1));
            // Not every kernel has every one of them.
            assert!(
                output.ends_with("EROFS\n") || !Path::new(path).exists(),
                "{output}"
            );
        }
    }
    // The process's own part stays writable.
    output(&task(&layer, ["put", "/proc/self/comm", "renamed"])).await;
}

/// Runs [`helper_that_tells_its_rung`] where no further user namespace can be made, as user 0 of a
/// namespace, after `prefix`; answers what it told.
fn told_without_user_namespaces(prefix: &str) -> String {
    let layer = probe();
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && exec {prefix} \"$0\" --exact \
         privilege::helper_that_tells_its_rung --ignored --nocapture"
    );
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", &script]);
    command
        .arg(std::env::current_exe().unwrap())
        .env(LAYER, layer.path());
    let output = command
        .output()
        .expect("the tests need `unshare` of util-linux");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

#[test]
fn root_falls_back_when_user_namespaces_are_refused() {
    let text = told_without_user_namespaces("");
    assert!(
        text.contains("told: root without a user namespace, exit code 5"),
        "{text}"
    );
}

#[test]
fn without_any_way_the_error_says_what_to_change() {
    let text = told_without_user_namespaces("setpriv --bounding-set=-all --inh-caps=-all");
    assert!(text.contains("told: Forbidden create namespaces"), "{text}");
    assert!(
        text.contains("kernel.apparmor_restrict_unprivileged_userns"),
        "{text}"
    );
}

#[tokio::test]
#[ignore = "a helper process of the two tests above"]
async fn helper_that_tells_its_rung() {
    let Some(layer) = std::env::var_os(LAYER) else {
        return;
    };
    let sandbox = Sandbox::new([Path::new(&layer)]).command(["/bin/probe", "exit", "5"]);
    match sandbox.spawn().await {
        Ok(mut process) => {
            let exit = process.wait().await.unwrap();
            println!("told: {}, {exit}", process.rung());
        }
        Err(error) => println!(
            "told: {:?} {error} ({})",
            error.kind(),
            error.hint().unwrap_or_default()
        ),
    }
}
