//! The system calls that `rustix` does not wrap: the home of this crate's unsafe code.
//!
//! Everything a forked child may call is async-signal-safe: one system call, no allocation, no
//! lock. Process creation itself is `unsafe`, because its caller has to keep to that too.

use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{Errno, Result};
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The kernel's answer to the last failed libc call.
fn last_errno() -> Errno {
    // `last_os_error` only reads the thread's errno.
    Errno::from_raw_os_error(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

/// The result of a libc call that answers -1 on failure.
fn check(answer: c_int) -> Result<c_int> {
    if answer == -1 {
        Err(last_errno())
    } else {
        Ok(answer)
    }
}

/// Ends the process when dropped, so that an unwinding child never returns into its parent's code.
struct ExitOnDrop;

impl Drop for ExitOnDrop {
    fn drop(&mut self) {
        exit_now(70);
    }
}

/// Ends this process at once, without destructors and exit handlers.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: `_exit` takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}

/// Runs `child` in a new process made with the `clone` flags; its answer is the exit code.
///
/// # Safety
/// The caller may have threads, so `child` must not allocate, take a lock or touch anything
/// another thread may have left half-changed; `flags` must not share memory (`CLONE_VM`).
pub(crate) unsafe fn clone_process(flags: c_int, child: impl FnOnce() -> u8) -> Result<Pid> {
    let none = 0_usize;
    // SAFETY: without CLONE_VM and with a null stack this is fork(2): the child continues on its
    // own copy of this stack. The further arguments are unused with these flags, so their order,
    // which differs between architectures, does not matter.
    let answer = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
    if answer == 0 {
        let _guard = ExitOnDrop;
        let code = child();
        exit_now(c_int::from(code));
    }
    if answer < 0 {
        return Err(last_errno());
    }
    i32::try_from(answer)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::SRCH)
}

/// The calling thread's signal mask as it was, restored on drop.
pub(crate) struct BlockedSignals(libc::sigset_t, PhantomData<*const ()>);

impl BlockedSignals {
    /// Blocks every signal for the calling thread, so that a child starts with all blocked.
    pub(crate) fn new() -> Self {
        Self(set_mask(&full_set()), PhantomData)
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        set_mask(&self.0);
    }
}

/// Lets the calling process receive every signal.
pub(crate) fn unblock_signals() {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set it is given and cannot fail on a valid pointer.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    set_mask(&set);
}

fn full_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `sigfillset` initialises the set it is given and cannot fail on a valid pointer.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn set_mask(mask: &libc::sigset_t) -> libc::sigset_t {
    let mut old = full_set();
    // SAFETY: both pointers are to valid sets; the call fails only for an unknown `how`.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, &raw mut old) };
    old
}

/// Gives every signal its default action, as handlers of the caller must not run in the child.
pub(crate) fn reset_signal_handlers() {
    // SAFETY: all-zero is a valid `sigaction`: SIG_DFL, no flags, empty mask.
    let action: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=64 {
        // SAFETY: the action is valid and SIG_DFL runs no code of ours. Signals that cannot be
        // changed answer EINVAL, which is what we want for them.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

/// A descriptor that becomes readable when any signal is pending.
pub(crate) fn signal_fd() -> Result<OwnedFd> {
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    let set = full_set();
    // SAFETY: the set is valid; the call makes a new descriptor and touches nothing else.
    let fd = check(unsafe { libc::signalfd(-1, &raw const set, flags) })?;
    // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes every descriptor above the standard three except `keep`, which must be sorted.
///
/// # Safety
/// Only for a process just made by [`clone_process`]: whatever owned those descriptors there must
/// never be used or dropped again.
pub(crate) unsafe fn close_all_but(keep: &[RawFd]) -> Result<()> {
    let mut first: c_uint = 3;
    for &fd in keep {
        let Ok(fd) = c_uint::try_from(fd) else {
            continue;
        };
        if fd > first {
            // SAFETY: the caller gives up every descriptor in this range.
            unsafe { close_range(first, fd - 1)? };
        }
        first = first.max(fd + 1);
    }
    // SAFETY: as above.
    unsafe { close_range(first, c_uint::MAX) }
}

/// # Safety
/// The caller gives up every descriptor in the range.
unsafe fn close_range(first: c_uint, last: c_uint) -> Result<()> {
    // The raw call, as not every C library has a wrapper for it.
    // SAFETY: no pointer is passed; ownership is the caller's promise.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if answer == -1 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

/// Adds mount attributes (`MOUNT_ATTR_*`) to the mount `fd` stands on, and to those below it when
/// `recursive` (mount_setattr(2)).
pub(crate) fn add_mount_attributes(
    fd: BorrowedFd<'_>,
    attributes: u64,
    recursive: bool,
) -> Result<()> {
    let mut attr = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and the structure is as large as the size says; the
    // kernel only reads both.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw mut attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == -1 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

/// Raises the loopback interface of the socket's network namespace (netdevice(7)).
pub(crate) fn raise_loopback(socket: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = c_short_flags();
    // SAFETY: SIOCSIFFLAGS reads a name and the flags from an `ifreq`, both set above.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })?;
    Ok(())
}

/// `IFF_UP | IFF_RUNNING` in the width `ifreq` has.
fn c_short_flags() -> libc::c_short {
    libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(libc::c_short::MAX)
}

/// Leaves the caller's session keyring, whose keys a child could read, for an empty one
/// (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
pub(crate) fn leave_session_keyring() -> Result<()> {
    // SAFETY: a null name asks for an anonymous keyring; nothing is read or written.
    let answer =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, 0_usize) };
    if answer == -1 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

/// A null-terminated array of C strings, as execve(2) takes it, made before a fork.
pub(crate) struct StringArray {
    pointers: Vec<*const c_char>,
    /// What the pointers point into; a `CString`'s bytes do not move when the vector does.
    _strings: Vec<CString>,
}

impl StringArray {
    /// Makes the array.
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let end = std::iter::once(std::ptr::null());
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain(end)
            .collect();
        Self {
            pointers,
            _strings: strings,
        }
    }
}

/// Replaces this process by the program at `path`; returns only the reason why that failed.
pub(crate) fn exec(path: &CStr, argv: &StringArray, env: &StringArray) -> Errno {
    // SAFETY: the path and every element are C strings kept alive by their owners, and both arrays
    // end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), argv.pointers.as_ptr(), env.pointers.as_ptr()) };
    last_errno()
}

/// Watches a descriptor with the current runtime, which takes it over.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` always answers the same descriptor and keeps it open until the
    // `AsyncFd`, which owns it, is dropped; nobody in this crate takes it out or swaps it.
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    watched.map_err(|error| error.into_parts().1)
}
