//! The machine that is measured, and what this process took of it.

use std::fs;

use crate::Result;

/// Cores and kernel, for the head of a table.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    format!("{cores} cores, Linux {}, load {load}", kernel.trim())
}

/// The peak of this process's resident memory, in MiB.
pub(crate) fn peak_rss_mib() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    peak(&status).ok_or_else(|| "/proc/self/status has no VmHWM".into())
}

fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.div_ceil(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_rounded_up_to_mib() {
        assert_eq!(
            peak("Name:\tx\nVmHWM:\t    2049 kB\nVmRSS: 1 kB\n"),
            Some(3)
        );
        assert_eq!(peak("Name:\tx\n"), None);
        assert!(peak_rss_mib().unwrap() > 0);
    }
}
