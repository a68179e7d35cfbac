//! What a node leaves on the machine outside its processes, and its removal.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::{BRIDGE, CGROUP};
use crate::Missing;
use crate::cluster::broken;
use crate::tool;

/// Whether a node has not been taken down: its traces have the same names each time.
pub(super) fn exist() -> bool {
    Path::new("/sys/class/net").join(BRIDGE).exists() || cgroups().iter().any(|path| path.exists())
}

/// Removes the traces of the nodes whose folders these are. What cannot be removed stays for the
/// next start, which fails on it with a reason.
pub(super) fn remove(folders: &[PathBuf]) {
    let shim = |folder: &PathBuf| {
        let folder = folder.display().to_string();
        processes(move |command| {
            command
                .first()
                .is_some_and(|name| name.contains("containerd-shim"))
                && command.iter().any(|argument| argument.starts_with(&folder))
        })
    };
    // The shims first: they would act on the end of what they supervise.
    kill(folders.iter().flat_map(shim));
    let deadline = Instant::now() + Duration::from_secs(10);
    while kill(cgroups().iter().flat_map(|path| members(path))) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    for folder in folders {
        unmount_below(folder);
    }
    let _ = ip(&["link", "del", BRIDGE]);
    for program in ["iptables", "ip6tables"] {
        remove_rules(program);
    }
    for group in cgroups() {
        remove_cgroup(&group);
    }
    remove_files();
}

/// The processes whose command line `wanted` likes.
pub(super) fn processes(wanted: impl Fn(&[String]) -> bool) -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let words = String::from_utf8_lossy(&command);
        let words: Vec<_> = words
            .trim_end_matches('\0')
            .split('\0')
            .map(str::to_owned)
            .collect();
        wanted(&words).then_some(pid)
    })
}

/// Kills them, and says whether there were any.
fn kill(pids: impl Iterator<Item = Pid>) -> bool {
    pids.fold(false, |_, pid| {
        let _ = kill_process(pid, Signal::KILL);
        true
    })
}

/// Makes the group above those of the pods, in each hierarchy; the kubelet insists on it.
pub(super) fn make_cgroup() -> Result<(), Missing> {
    for path in cgroups() {
        fs::create_dir_all(&path).map_err(broken)?;
        // A new cpuset has no processors; it cannot be used before it gets some (cpuset(7)).
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let above = path
                .parent()
                .map(|parent| parent.join(name))
                .filter(|file| file.exists());
            if let Some(above) = above.filter(|_| path.join(name).exists()) {
                fs::copy(above, path.join(name)).map_err(broken)?;
            }
        }
    }
    Ok(())
}

/// The group in each hierarchy of version 1, or in the one of version 2.
fn cgroups() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root.join(CGROUP)];
    }
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten();
    let hierarchies = hierarchies.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    hierarchies.map(|entry| entry.path().join(CGROUP)).collect()
}

fn groups_below(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.map(|entry| entry.path()).collect()
}

fn members(group: &Path) -> Vec<Pid> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = list
        .lines()
        .filter_map(|line| Pid::from_raw(line.parse().ok()?));
    own.chain(groups_below(group).iter().flat_map(|below| members(below)))
        .collect()
}

fn remove_cgroup(group: &Path) {
    for below in groups_below(group) {
        remove_cgroup(&below);
    }
    let _ = fs::remove_dir(group);
}

/// Unmounts the last first, so that what lies above is gone before what carries it.
fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let below: Vec<_> = points
        .filter(|point| Path::new(point).starts_with(folder))
        .collect();
    for point in below.iter().rev() {
        let _ = unmount(*point, UnmountFlags::DETACH);
    }
}

/// Removes the chains of kube-proxy and what jumps to them.
fn remove_rules(program: &str) {
    for table in ["mangle", "nat", "filter"] {
        let rules = run(&format!("{program}-save"), &["-t", table], "");
        let rules = rules.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        if let Some(script) = removal(table, &rules.unwrap_or_default()) {
            let _ = run(&format!("{program}-restore"), &["--noflush"], &script);
        }
    }
}

/// A script for iptables-restore(8), in the words of iptables-save(8), or none if nothing is left.
fn removal(table: &str, rules: &str) -> Option<String> {
    let chain = |line: &str| line.strip_prefix(':')?.split(' ').next().map(str::to_owned);
    let ours = |name: &String| name.starts_with("KUBE-");
    let chains: Vec<_> = rules.lines().filter_map(chain).filter(ours).collect();
    if chains.is_empty() {
        return None;
    }
    let mut script = format!("*{table}\n");
    for rule in rules.lines().filter_map(|line| line.strip_prefix("-A ")) {
        if !rule.starts_with("KUBE-") && rule.contains(" KUBE-") {
            let _ = writeln!(script, "-D {rule}");
        }
    }
    for option in ["-F", "-X"] {
        for chain in &chains {
            let _ = writeln!(script, "{option} {chain}");
        }
    }
    Some(script + "COMMIT\n")
}

/// Removes what has a fixed place outside our folder, as far as nobody else uses it.
fn remove_files() {
    for folder in ["/run/containerd/s", "/var/lib/kubelet/device-plugins"] {
        for path in files(folder) {
            let refused = UnixStream::connect(&path)
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            if refused {
                let _ = fs::remove_file(path);
            }
        }
    }
    remove_network_notes();
    // Links to pods' logs, which were in our folder.
    for path in files("/var/log/containers") {
        if path.is_symlink() && !path.exists() {
            let _ = fs::remove_file(path);
        }
    }
    for folder in [
        "/run/containerd/s",
        "/run/containerd",
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet",
        "/var/lib/cni/results",
        "/var/lib/cni",
        "/var/log/containers",
    ] {
        // Refused unless it is empty.
        let _ = fs::remove_dir(folder);
    }
}

/// Removes the network plugins' notes about our pods; the addresses themselves are in our folder.
///
/// They are called `NETWORK-CONTAINER-eth0`, and `cni-loopback-CONTAINER-lo` for the same container.
fn remove_network_notes() {
    let notes = Path::new("/var/lib/cni/results");
    for path in files("/var/lib/cni/results") {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let container = name
            .strip_prefix(CGROUP)
            .and_then(|name| name.strip_prefix('-'));
        if let Some(container) = container.and_then(|name| name.strip_suffix("-eth0")) {
            let _ = fs::remove_file(notes.join(format!("cni-loopback-{container}-lo")));
            let _ = fs::remove_file(path);
        }
    }
}

fn files(folder: &str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// Runs `ip`.
pub(super) fn ip(args: &[&str]) -> Result<(), Missing> {
    let output = run("ip", args, "").ok_or_else(|| Missing::absent("iproute2", "no ip"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(broken(format!(
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    )))
}

fn run(program: &str, args: &[&str], input: &str) -> Option<Output> {
    let mut child = Command::new(tool::program(program)?)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(input.as_bytes()).ok()?;
    child.wait_with_output().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_our_chains_and_the_jumps_to_them_only() {
        let rules = "*filter\n:INPUT ACCEPT [0:0]\n:KUBE-A - [0:0]\n:OTHER - [0:0]\n\
            -A INPUT -m comment --comment \"to services\" -j KUBE-A\n\
            -A INPUT -j OTHER\n-A KUBE-A -j ACCEPT\nCOMMIT\n";
        let script = "*filter\n-D INPUT -m comment --comment \"to services\" -j KUBE-A\n\
            -F KUBE-A\n-X KUBE-A\nCOMMIT\n";
        assert_eq!(removal("filter", rules).unwrap(), script);
        assert_eq!(
            removal("filter", "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"),
            None
        );
    }
}
