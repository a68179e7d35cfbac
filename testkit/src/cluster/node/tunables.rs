//! Kernel settings that a node changes for all of the machine, and that are put back.

use std::fs;
use std::path::Path;

/// What the kubelet, kube-proxy and the bridge plugin write.
const NAMES: [&str; 10] = [
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/all/arp_ignore",
    "net/ipv4/conf/all/arp_announce",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// The settings as they were.
pub(super) struct Tunables(Vec<(&'static str, String)>);

impl Tunables {
    /// Reads those that this kernel has.
    pub(super) fn read() -> Self {
        let read = |name| {
            Some((
                name,
                fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?,
            ))
        };
        Self(NAMES.into_iter().filter_map(read).collect())
    }

    /// Writes those that have changed.
    pub(super) fn restore(&self) {
        for (name, value) in &self.0 {
            let path = Path::new("/proc/sys").join(name);
            if fs::read_to_string(&path).is_ok_and(|now| now != *value) {
                let _ = fs::write(path, value);
            }
        }
    }
}
