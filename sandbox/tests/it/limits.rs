//! Bounds on memory, files, processes and writes.

use modelship_sandbox::{Exit, Limits};

use crate::rootfs::{empty, finish, output, probe, task};

#[tokio::test]
async fn memory_is_bounded() {
    let layer = probe();
    let limits = Limits::default().with_data_bytes(64 << 20);
    let (exit, text) = finish(&task(&layer, ["alloc", "256"]).limits(limits)).await;
    assert_eq!((exit, text.as_str()), (Exit::Code(1), "malloc: ENOMEM\n"));
    assert_eq!(
        output(&task(&layer, ["alloc", "16"]).limits(limits)).await,
        "allocated\n"
    );
    assert_eq!(output(&task(&layer, ["alloc", "256"])).await, "allocated\n");
}

#[tokio::test]
async fn open_files_are_bounded() {
    let layer = probe();
    let limits = Limits::default().with_open_files(32);
    // Three are the standard ones.
    assert_eq!(
        output(&task(&layer, ["open"]).limits(limits)).await,
        "29 EMFILE\n"
    );
}

#[tokio::test]
async fn a_bound_above_the_callers_own_is_lowered_to_that() {
    let layer = probe();
    let limits = Limits::default().with_open_files(u64::MAX);
    assert_eq!(
        output(&task(&layer, ["exit", "0"]).limits(limits)).await,
        ""
    );
}

#[tokio::test]
async fn processes_are_bounded_unless_the_caller_is_root() {
    let layer = probe();
    let limits = Limits::default().with_processes(16);
    let forked = output(&task(&layer, ["fork", "64"]).limits(limits)).await;
    let forked: u32 = forked.trim().parse().unwrap();
    assert_eq!(
        forked < 64,
        !rustix::process::geteuid().is_root(),
        "{forked}"
    );
}

#[tokio::test]
async fn writes_to_memory_are_bounded_together() {
    let layer = probe();
    let limits = Limits::default().with_written_bytes(4 << 20);
    for path in ["/file", "/tmp/file", "/dev/shm/file"] {
        let (exit, text) = finish(&task(&layer, ["fill", path, "8000000"]).limits(limits)).await;
        assert_eq!((exit, text), (Exit::Code(1), format!("{path}: ENOSPC\n")));
    }
    // With the root on disk only the temporary directories are.
    let scratch = empty();
    let sandbox = task(&layer, ["fill", "/file", "8000000"])
        .limits(limits)
        .scratch(scratch.path());
    output(&sandbox).await;
}
