//! Giving up privilege inside the sandbox. Runs after the fork, so it only makes system calls.

use std::os::fd::AsFd;

use rustix::io::{Errno, Result};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use crate::prepared::Prepared;
use crate::report::Rung;

/// Makes the program's user own `fd`'s file.
pub(crate) fn give(fd: impl AsFd, prepared: &Prepared) -> Result<()> {
    let (user, group) = (Uid::from_raw(prepared.user), Gid::from_raw(prepared.group));
    rustix::fs::fchown(fd, Some(user), Some(group))
}

/// Becomes the program's user, for good, without any capability.
pub(crate) fn drop_all(prepared: &Prepared) -> Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Past the last capability this kernel knows.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    // Executing a program as user 0 shall grant nothing (capabilities(7)).
    let bits = CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED;
    rustix::thread::set_capabilities_secure_bits(bits)?;
    if prepared.rung == Rung::RootWithoutUserNamespace {
        let (user, group) = (Uid::from_raw(prepared.user), Gid::from_raw(prepared.group));
        match rustix::thread::set_thread_groups(&[]) {
            // Inside a user namespace that denies setgroups(2) the groups cannot be shed by anyone.
            Ok(()) | Err(Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)
}
