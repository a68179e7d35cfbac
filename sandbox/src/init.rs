//! The life of process 1 of a sandbox: set up, start the program, hand out sockets, reap, end.
//!
//! It is a fork of a threaded program, so nothing here allocates or takes a lock. When it ends,
//! the kernel kills everything else in its PID namespace (pid_namespaces(7)).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType,
};
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};

use crate::prepared::Prepared;
use crate::report::{Exit, Rung};
use crate::wire::{At, Failure, Report, Request, Stage};
use crate::{app, mounts, privileges, sys};

/// Init's ends of the channels to the caller.
pub(crate) struct Ends {
    /// Requests in, sockets out; its end-of-file says that the caller is gone.
    pub(crate) control: OwnedFd,
    /// Reports out.
    pub(crate) status: OwnedFd,
    /// Where the program's output goes.
    pub(crate) log: OwnedFd,
}

/// Runs the sandbox to its end and answers init's exit code.
pub(crate) fn run(prepared: &mut Prepared, ends: &Ends) -> u8 {
    let started = set_up(prepared, ends).and_then(|notes| {
        let signals = sys::signal_fd().at(Stage::Start)?;
        Ok((start(prepared, ends)?, signals, notes))
    });
    match started {
        Ok((app, signals, notes)) => {
            send(ends, Report::Started(notes));
            serve(app, &signals, ends)
        }
        Err(failure) => {
            send(ends, Report::Failed(failure));
            1
        }
    }
}

/// Reports to the caller; one that is gone is noticed by [`serve`].
pub(crate) fn send(ends: &Ends, report: Report) {
    let _ = rustix::net::send(&ends.status, &report.encode(), SendFlags::NOSIGNAL);
}

/// Everything up to a process that may start the program; answers the notes.
fn set_up(prepared: &mut Prepared, ends: &Ends) -> Result<u32, Failure> {
    detach(ends).at(Stage::Start)?;
    if prepared.rung == Rung::UserNamespaces {
        map_ids(prepared).at(Stage::MapIds)?;
    }
    mounts::isolate().at(Stage::IsolateMounts)?;
    let socket = inet_socket().at(Stage::Loopback)?;
    sys::raise_loopback(socket.as_fd()).at(Stage::Loopback)?;
    drop(socket);
    // Cosmetic: what the host is called is no business of the program.
    let _ = rustix::system::sethostname(b"sandbox");
    let notes = mounts::build(prepared)?;
    // The log pipe belongs to the caller; `/dev/stdout` reopens it as the program's user.
    let _ = privileges::give(&ends.log, prepared);
    privileges::drop_all(prepared).at(Stage::Privileges)?;
    // Keeps the program from reading this fork of the caller, its environment for one.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Stage::Privileges)?;
    Ok(notes)
}

/// Cuts every tie to the caller except the three channels.
fn detach(ends: &Ends) -> rustix::io::Result<()> {
    sys::reset_signal_handlers();
    let mut keep = [
        ends.control.as_raw_fd(),
        ends.status.as_raw_fd(),
        ends.log.as_raw_fd(),
    ];
    keep.sort_unstable();
    // SAFETY: this is a fresh fork, which uses no descriptor of the caller but these three.
    unsafe { sys::close_all_but(&keep)? };
    // A kernel without keyrings, or a filter that hides them, leaves nothing to cut.
    let _ = sys::leave_session_keyring();
    rustix::process::setsid()?;
    rustix::process::umask(Mode::empty());
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}

/// Maps the one user and group inside to the caller's (user_namespaces(7)).
fn map_ids(prepared: &Prepared) -> rustix::io::Result<()> {
    // Without privilege a group map may only be written once setgroups(2) is denied.
    match write_file(c"/proc/self/setgroups", b"deny") {
        Err(Errno::NOENT) | Ok(()) => {}
        Err(errno) => return Err(errno),
    }
    write_file(c"/proc/self/uid_map", &prepared.uid_map)?;
    write_file(c"/proc/self/gid_map", &prepared.gid_map)
}

fn write_file(path: &std::ffi::CStr, bytes: &[u8]) -> rustix::io::Result<()> {
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(drop)
}

/// Starts the program and waits until it is executed, or has reported why not.
fn start(prepared: &Prepared, ends: &Ends) -> Result<Pid, Failure> {
    // CLONE_VFORK without CLONE_VM: an ordinary fork, whose parent sleeps until the exec.
    let flags = libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: this process has one thread, and `app::run` only makes system calls.
    unsafe { sys::clone_process(flags, || app::run(prepared, ends)) }.at(Stage::Start)
}

/// Answers requests, passes signals on and reaps until the program or the caller ends.
fn serve(app: Pid, signals: &OwnedFd, ends: &Ends) -> u8 {
    loop {
        let mut fds = [
            PollFd::new(&ends.control, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return 1,
        }
        if let Some(exit) = handle_signals(app, signals) {
            send(ends, Report::Exited(exit));
            return 0;
        }
        if !handle_request(app, ends) {
            return 0;
        }
    }
}

/// Takes one pending signal: reaps on SIGCHLD, passes any other on. `Some` once the program ended.
fn handle_signals(app: Pid, signals: &OwnedFd) -> Option<Exit> {
    // `signalfd_siginfo` is 128 bytes and starts with the signal's number.
    let mut info = [0_u8; 128];
    if rustix::io::read(signals, &mut info) != Ok(info.len()) {
        return None;
    }
    let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
    if number != libc::SIGCHLD {
        pass_on(app, number);
        return None;
    }
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == app {
            return Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, signal) => Exit::Signal(signal.unwrap_or(libc::SIGKILL)),
            });
        }
    }
    None
}

fn pass_on(app: Pid, number: i32) {
    if let Some(signal) = Signal::from_named_raw(number) {
        // The program is not reaped yet, so the number cannot be another's.
        let _ = rustix::process::kill_process(app, signal);
    }
}

/// Takes one request, if there is one; false once the caller is gone.
fn handle_request(app: Pid, ends: &Ends) -> bool {
    let mut bytes = [0_u8; 8];
    match rustix::net::recv(&ends.control, &mut bytes[..], RecvFlags::DONTWAIT) {
        Ok((0, _)) => false,
        Ok((length, _)) => {
            match bytes.get(..length).and_then(Request::decode) {
                Some(Request::Socket) => hand_out_socket(ends),
                Some(Request::Signal(number)) => pass_on(app, i32::from(number)),
                None => {}
            }
            true
        }
        Err(Errno::AGAIN | Errno::INTR) => true,
        Err(_) => false,
    }
}

/// Sends the caller a fresh socket of this network namespace, or an empty answer.
fn hand_out_socket(ends: &Ends) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let socket = inet_socket();
    let fds;
    if let Ok(socket) = &socket {
        fds = [socket.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let _ = rustix::net::sendmsg(&ends.control, &[IoSlice::new(&[0])], &mut ancillary, flags);
}

fn inet_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
}

/// The caller's side of [`hand_out_socket`]: takes one answer; the inner `None` is a refusal.
pub(crate) fn take_socket(control: impl AsFd) -> rustix::io::Result<Option<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let answer = rustix::net::recvmsg(control, &mut buffers, &mut ancillary, flags)?;
    if answer.bytes == 0 {
        return Err(Errno::PIPE);
    }
    let fd = ancillary.drain().find_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(fd)
}
