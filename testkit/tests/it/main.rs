//! Each service starts, answers, stops, and leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod judges;
mod killed;
mod node;
mod proxy;
mod registries;
mod services;

use std::path::Path;

/// Whether the process exists, and is not a dead one waiting to be collected.
fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .trim()
            .starts_with('Z')
    })
}

/// Drops `service` and asserts that its process and its folder, that of its log, are gone.
fn assert_leaves_nothing<T>(
    service: T,
    process: impl Fn(&T) -> &modelship_testkit::process::Process,
) {
    let pid = process(&service).pid();
    let folder = process(&service)
        .log_path()
        .parent()
        .map(Path::to_path_buf)
        .unwrap();
    assert!(is_alive(pid) && folder.is_dir());
    drop(service);
    assert!(!is_alive(pid), "process {pid} is still there");
    assert!(!folder.exists(), "{} is still there", folder.display());
}
