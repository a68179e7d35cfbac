//! Kernel settings that a node changes for all of the machine, and that are put back.

use std::fs::{self, File};
use std::io::{self, Read, Write};
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

/// The settings as they were, which are also kept in a file: a killed node cannot put them back,
/// so the next one does.
pub(super) struct Tunables {
    values: Vec<(String, String)>,
    file: File,
}

impl Tunables {
    /// Reads those that this kernel has, unless the file holds what a killed node found.
    pub(super) fn keep(mut file: File) -> io::Result<Self> {
        let mut kept = String::new();
        file.read_to_string(&mut kept)?;
        if kept.is_empty() {
            let read = |name: &&str| fs::read_to_string(Path::new("/proc/sys").join(name)).ok();
            let read = |name| Some(format!("{name}={}\n", read(&name)?.trim()));
            kept = NAMES.into_iter().filter_map(read).collect();
            file.write_all(kept.as_bytes())?;
        }
        let values = kept.lines().filter_map(|line| line.split_once('='));
        let values = values
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok(Self { values, file })
    }

    /// Writes those that have changed, and forgets them.
    pub(super) fn restore(&self) {
        for (name, value) in &self.values {
            let path = Path::new("/proc/sys").join(name);
            if fs::read_to_string(&path).is_ok_and(|now| now.trim() != value) {
                let _ = fs::write(path, value);
            }
        }
        let _ = self.file.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_node_found_counts_until_it_is_put_back() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let open = || {
            File::options()
                .read(true)
                .write(true)
                .open(path.path())
                .unwrap()
        };
        let first = Tunables::keep(open()).unwrap().values;
        assert!(first.iter().any(|(name, _)| name == "kernel/panic"));
        fs::write(path.path(), "no/such/setting=3\n").unwrap();
        let kept = Tunables::keep(open()).unwrap();
        assert_eq!(
            kept.values,
            [("no/such/setting".to_owned(), "3".to_owned())]
        );
        kept.restore();
        assert_eq!(Tunables::keep(open()).unwrap().values, first);
    }
}
