//! How a program is started, and what it finds around itself.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use modelship_sandbox::{ErrorKind, Exit, RootKind, Sandbox};

use crate::rootfs::{empty, finish, output, probe, task};

#[tokio::test]
async fn exit_codes_and_signals_are_told_apart() {
    let layer = probe();
    for code in [0, 1, 42, 255] {
        let (exit, _) = finish(&task(&layer, ["exit", &code.to_string()])).await;
        assert_eq!(exit, Exit::Code(code));
        assert_eq!(exit.success(), code == 0);
    }
    for signal in [6, 9, 11, 15] {
        let (exit, _) = finish(&task(&layer, ["raise", &signal.to_string()])).await;
        assert_eq!(exit, Exit::Signal(signal));
    }
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let layer = probe();
    for program in ["/bin/absent", "absent", "./absent", "/bin/probe/absent"] {
        let error = Sandbox::new([layer.path()])
            .command([program])
            .spawn()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.to_string().contains(program), "{error}");
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn a_missing_interpreter_is_told_from_a_missing_program() {
    let layer = probe();
    let script = layer.path().join("bin/script");
    fs::write(&script, "#!/bin/absent\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let error = Sandbox::new([layer.path()])
        .command(["/bin/script"])
        .spawn()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.stage().contains("interpreter"), "{error}");
}

#[tokio::test]
async fn a_program_that_may_not_be_run_is_an_error() {
    let layer = probe();
    fs::write(layer.path().join("bin/data"), "no program").unwrap();
    let error = Sandbox::new([layer.path()])
        .command(["data"])
        .spawn()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert_eq!(error.stage(), "run program");
}

#[tokio::test]
async fn a_missing_layer_is_named() {
    let layer = probe();
    let absent = layer.path().join("absent");
    let layers = [layer.path(), absent.as_path()];
    let error = Sandbox::new(layers)
        .command(["/bin/probe"])
        .spawn()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("absent"), "{error}");
}

#[tokio::test]
async fn nonsense_is_refused_before_anything_starts() {
    let layer = empty();
    let good = Sandbox::new([layer.path()]).command(["x"]);
    let nonsense = [
        Sandbox::new(Vec::<String>::new()).command(["x"]),
        Sandbox::new([layer.path()]),
        Sandbox::new([layer.path(), layer.path()])
            .command(["x"])
            .overlay(false),
        good.clone().command(["x\0y"]),
        good.clone().env("A=B", "c"),
        good.clone().env("", "c"),
        good.clone().workdir("relative"),
        good.clone().workdir("/a/../b"),
        good.clone().bind_readonly("/", "/"),
    ];
    for sandbox in nonsense {
        let error = sandbox.spawn().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{sandbox:?}");
    }
}

#[tokio::test]
async fn the_program_is_looked_up_in_the_path_it_is_given() {
    let layer = probe();
    let sandbox = Sandbox::new([layer.path()]).command(["probe", "exit", "3"]);
    assert_eq!(finish(&sandbox).await.0, Exit::Code(3));
    let elsewhere = sandbox.clone().env("PATH", "/sbin:/bin");
    assert_eq!(finish(&elsewhere).await.0, Exit::Code(3));
    let nowhere = sandbox.env("PATH", "/sbin");
    assert_eq!(
        nowhere.spawn().await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn the_environment_is_exactly_what_is_given() {
    let layer = probe();
    assert_eq!(output(&task(&layer, ["env"])).await, "");
    let sandbox = task(&layer, ["env"])
        .env("B", "2 =x")
        .env("A", "")
        .env("B", "3");
    assert_eq!(output(&sandbox).await, "A=\nB=3\n");
}

#[tokio::test]
async fn the_environment_is_not_shown_by_debug() {
    let sandbox = Sandbox::new(["/x"]).env("TOKEN", "hunter2");
    let shown = format!("{sandbox:?}");
    assert!(shown.contains("TOKEN") && !shown.contains("hunter2"));
}

#[tokio::test]
async fn the_user_and_the_working_directory_are_as_asked() {
    let layer = probe();
    let sandbox = task(&layer, ["ids"]).user(1000, 1001);
    assert_eq!(output(&sandbox).await, "1000:1001 pid 2\n");
    assert_eq!(output(&task(&layer, ["ids"])).await, "0:0 pid 2\n");
    let sandbox = task(&layer, ["cwd"]).workdir("/made/on/the/way");
    assert_eq!(output(&sandbox).await, "/made/on/the/way\n");
}

#[tokio::test]
async fn no_descriptor_of_the_caller_reaches_the_program() {
    let layer = probe();
    let leak = tempfile::tempfile().unwrap();
    // Without close-on-exec, as a careless library may leave it.
    let copy = rustix::io::fcntl_dupfd_cloexec(&leak, 200).unwrap();
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).unwrap();
    assert!(copy.as_raw_fd() >= 200);
    let listed = output(&task(&layer, ["ls", "/proc/self/fd"])).await;
    assert_eq!(listed, "0\n1\n2\n");
}

#[tokio::test]
async fn the_program_has_no_privilege() {
    let layer = probe();
    let status = output(&task(&layer, ["cat", "/proc/self/status"])).await;
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            status.contains(&format!("{set}:\t0000000000000000")),
            "{status}"
        );
    }
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
}

#[tokio::test]
async fn the_caller_is_not_visible_inside() {
    let layer = probe();
    let listed = output(&task(&layer, ["ls", "/proc"])).await;
    let processes: Vec<_> = listed
        .lines()
        .filter(|name| name.parse::<u32>().is_ok())
        .collect();
    assert_eq!(processes, ["2"], "neither init nor a process of the host");
    for secret in [
        "/proc/1/environ",
        "/proc/1/cmdline",
        "/proc/1/mem",
        "/proc/1/root/etc/passwd",
    ] {
        let (exit, _) = finish(&task(&layer, ["cat", secret])).await;
        assert_eq!(exit, Exit::Code(1), "{secret}");
    }
    // Nor can it end init, which ignores signals from inside.
    assert_eq!(output(&task(&layer, ["kill", "1"])).await, "");
}

#[tokio::test]
async fn usual_devices_and_directories_are_there() {
    let layer = probe();
    let process = task(&layer, ["idle"]).spawn().await.unwrap();
    assert_eq!(process.notes(), []);
    assert_eq!(process.root(), RootKind::Overlay);
    for path in [
        "/tmp/file",
        "/run/file",
        "/dev/shm/file",
        "/dev/null",
        "/dev/stdout",
        "/file",
    ] {
        assert_eq!(
            finish(&task(&layer, ["put", path, "text"])).await.0,
            Exit::Code(0),
            "{path}"
        );
    }
    assert_eq!(output(&task(&layer, ["cat", "/dev/null"])).await, "");
    let hosts = output(&task(&layer, ["cat", "/etc/hosts"])).await;
    assert!(hosts.contains("127.0.0.1\tlocalhost"));
}

#[tokio::test]
async fn long_output_keeps_its_head_and_its_tail() {
    let layer = probe();
    let sandbox = task(&layer, ["spam", "1000000"]).log_bytes(100);
    let mut process = sandbox.spawn().await.unwrap();
    assert_eq!(process.wait().await.unwrap(), Exit::Code(0));
    let logs = process.logs();
    assert_eq!(
        (logs.head.len(), logs.tail.len(), logs.truncated),
        (100, 100, true)
    );
    let all = "first line\n".len() + 1_000_000 + "\nlast line\n".len();
    assert_eq!(logs.dropped_bytes, all as u64 - 200);
    assert!(logs.head.starts_with(b"first line\n") && logs.tail.ends_with(b"\nlast line\n"));
    assert!(logs.to_string().contains("bytes dropped"));
}

#[tokio::test]
async fn lines_of_both_streams_are_handed_on() {
    let layer = probe();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let sandbox =
        task(&layer, ["both"]).on_line(move |line| sink.lock().unwrap().push(line.to_owned()));
    output(&sandbox).await;
    assert_eq!(*seen.lock().unwrap(), ["out", "err"]);
}

#[test]
fn without_a_runtime_it_is_an_error() {
    let mut future = Box::pin(async { Sandbox::new(["/x"]).command(["x"]).spawn().await });
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(outcome) = future.as_mut().poll(&mut context) else {
        panic!("pending")
    };
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Invalid);
}
