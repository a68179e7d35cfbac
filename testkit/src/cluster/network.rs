//! Address ranges of a cluster that are not in use on this machine.

use std::fs;

use super::broken;
use crate::Missing;

/// A range `10.N.0.0/16`, shared out between pods and Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network(u8);

impl Network {
    /// For a cluster without a node, whose addresses are only numbers.
    pub(super) const UNUSED: Self = Self(96);

    /// The first range to which no route leads, so that the node hides nothing of the host.
    pub(super) fn free() -> Result<Self, Missing> {
        let routes = fs::read_to_string("/proc/net/route").map_err(broken)?;
        let taken = |network: &Self| !network.overlaps(&routes);
        let free = (200..=251).rev().map(Self).find(taken);
        free.ok_or_else(|| broken("routes lead to all of 10.200.0.0 to 10.251.0.0"))
    }

    /// All addresses of the cluster.
    pub(super) fn all(self) -> String {
        format!("10.{}.0.0/16", self.0)
    }

    /// The addresses of pods.
    pub(super) fn pods(self) -> String {
        format!("10.{}.0.0/24", self.0)
    }

    /// The address of the node, which is that of the bridge between its pods.
    pub(super) fn node(self) -> String {
        format!("10.{}.0.1", self.0)
    }

    /// The addresses of Services.
    pub(super) fn services(self) -> String {
        format!("10.{}.128.0/20", self.0)
    }

    /// The first of them, which is the API server's.
    pub(super) fn api(self) -> String {
        format!("10.{}.128.1", self.0)
    }

    /// Whether a route of `/proc/net/route` leads there, other than the default route.
    ///
    /// Its second and eighth columns are destination and mask, in hexadecimal and network order,
    /// read as a little-endian number.
    fn overlaps(self, routes: &str) -> bool {
        let own = (10 << 24) | (u32::from(self.0) << 16);
        let number = |text: Option<&&str>| u32::from_str_radix(text?, 16).ok().map(u32::swap_bytes);
        routes.lines().skip(1).any(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            let (destination, mask) = (number(columns.get(1)), number(columns.get(7)));
            let (Some(destination), Some(mask)) = (destination, mask) else {
                return false;
            };
            let common = mask & 0xffff_0000;
            mask != 0 && own & common == destination & common
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_the_routes_that_lead_into_a_range() {
        let routes = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
            eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
            eth0 0005FB0A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        assert!(Network(251).overlaps(routes));
        assert!(!Network(250).overlaps(routes));
        let wide = format!("{routes}eth1 0000000A 00000000 0001 0 0 0 000000FF 0 0 0\n");
        assert!(Network(250).overlaps(&wide));
    }
}
