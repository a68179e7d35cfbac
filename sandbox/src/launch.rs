//! Starting a sandbox from the caller's side: channels, fork, and the ladder of rungs.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};

use crate::error::{Error, ErrorKind, Result};
use crate::explain::{explain, is_refusal};
use crate::init::{self, Ends};
use crate::prepared::Prepared;
use crate::report::{Exit, Note, RootKind, Rung};
use crate::sandbox::Sandbox;
use crate::scratch::Scratch;
use crate::sys;
use crate::wire::{Failure, Report, Stage};

const START: &str = "start process";

/// A running sandbox, before it is tied to a runtime.
///
/// The order of the fields matters: the tree must be dead before its directory is removed.
pub(crate) struct Launched {
    pub(crate) init: Init,
    pub(crate) control: OwnedFd,
    pub(crate) status: OwnedFd,
    pub(crate) log: OwnedFd,
    pub(crate) rung: Rung,
    pub(crate) root: RootKind,
    pub(crate) notes: Vec<Note>,
    pub(crate) scratch: Option<Scratch>,
}

/// Process 1 of a sandbox; killed and reaped on drop, and all processes inside with it.
pub(crate) struct Init {
    pid: Option<Pid>,
}

impl Init {
    /// A descriptor that is readable once the whole tree is gone.
    pub(crate) fn pidfd(&self) -> rustix::io::Result<OwnedFd> {
        rustix::process::pidfd_open(self.pid.ok_or(Errno::SRCH)?, PidfdFlags::empty())
    }

    /// Kills the whole tree. Reaping it is left to [`Init::reap`] or the drop.
    pub(crate) fn kill(&self) {
        if let Some(pid) = self.pid {
            // Not reaped yet, so the number cannot be another process's.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// Reaps the tree if it has ended; true once it is reaped.
    pub(crate) fn reap(&mut self) -> bool {
        self.wait(WaitOptions::NOHANG);
        self.pid.is_none()
    }

    fn wait(&mut self, options: WaitOptions) -> Option<WaitStatus> {
        let pid = self.pid?;
        // __WALL, because init sends no SIGCHLD: a `waitpid(-1)` elsewhere in the caller's program
        // must not take it away.
        let options = options | WaitOptions::from_bits_retain(libc::__WALL.cast_unsigned());
        loop {
            match rustix::process::waitpid(Some(pid), options) {
                Ok(None) => return None,
                Ok(Some((_, status))) => {
                    self.pid = None;
                    return Some(status);
                }
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.pid = None;
                    return None;
                }
            }
        }
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        self.kill();
        self.wait(WaitOptions::empty());
    }
}

/// Starts the sandbox on the best rung this host allows. Blocks until the program runs.
pub(crate) fn launch(sandbox: &Sandbox) -> Result<Launched> {
    let root = rustix::process::geteuid().is_root();
    if !sandbox.user_namespace {
        if !root {
            let detail = "only root can do without a user namespace";
            return Err(Error::new(ErrorKind::Forbidden, START, "sandbox", detail));
        }
        return attempt(sandbox, Rung::RootWithoutUserNamespace)?.map_err(|f| explain(sandbox, f));
    }
    match attempt(sandbox, Rung::UserNamespaces)? {
        Err(failure) if root && is_refusal(failure) => {
            attempt(sandbox, Rung::RootWithoutUserNamespace)?.map_err(|f| explain(sandbox, f))
        }
        outcome => outcome.map_err(|failure| explain(sandbox, failure)),
    }
}

/// One try on one rung; the inner error is what happened inside.
fn attempt(sandbox: &Sandbox, rung: Rung) -> Result<Result<Launched, Failure>> {
    let scratch = sandbox.scratch.as_deref().map(Scratch::new).transpose()?;
    let mut prepared = Prepared::new(sandbox, rung, scratch.as_ref().map(Scratch::path))?;
    let io = |errno: Errno| Error::io(START, "channels", std::io::Error::from(errno));
    let (control, init_control) = socket_pair().map_err(io)?;
    let (status, init_status) = socket_pair().map_err(io)?;
    let (log, init_log) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io)?;
    let ends = Ends {
        control: init_control,
        status: init_status,
        log: init_log,
    };

    let pid = {
        let _signals = sys::BlockedSignals::new();
        // SAFETY: `init::run` only makes system calls and uses memory allocated by now.
        unsafe { sys::clone_process(namespaces(rung), || init::run(&mut prepared, &ends)) }
    };
    drop(ends);
    let init = match pid {
        Ok(pid) => Init { pid: Some(pid) },
        Err(errno) => {
            return Ok(Err(Failure {
                stage: Stage::Namespaces,
                errno,
                index: 0,
            }));
        }
    };
    let notes = match receive(&status) {
        Some(Report::Started(notes)) => Note::from_bits(notes),
        Some(Report::Failed(failure)) => return Ok(Err(failure)),
        _ => {
            return Err(Error::new(
                ErrorKind::Io,
                START,
                "init process",
                "it died while setting up",
            ));
        }
    };
    let bound = !sandbox.overlay || notes.contains(&Note::NoOverlay);
    let root = if bound {
        RootKind::ReadOnlyBind
    } else {
        RootKind::Overlay
    };
    Ok(Ok(Launched {
        init,
        control,
        status,
        log,
        rung,
        root,
        notes,
        scratch,
    }))
}

fn namespaces(rung: Rung) -> i32 {
    let user = if rung == Rung::UserNamespaces {
        libc::CLONE_NEWUSER
    } else {
        0
    };
    // No exit signal in the low byte: see `Init::wait`.
    user | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
}

fn socket_pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// The next report, waiting for it; `None` when there will be no more.
fn receive(status: &OwnedFd) -> Option<Report> {
    let mut bytes = [0_u8; Report::LEN];
    loop {
        match rustix::net::recv(status, &mut bytes[..], RecvFlags::empty()) {
            Ok((length, _)) => return Report::decode(bytes.get(..length)?),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// How the program of a tree that is gone ended.
pub(crate) fn exit_of(status: impl AsFd) -> Exit {
    let mut bytes = [0_u8; Report::LEN];
    while let Ok((length, _)) =
        rustix::net::recv(status.as_fd(), &mut bytes[..], RecvFlags::DONTWAIT)
    {
        match bytes.get(..length).and_then(Report::decode) {
            Some(Report::Exited(exit)) => return exit,
            Some(_) => {}
            None => break,
        }
    }
    // Init was killed before it could tell, and took the program with it.
    Exit::Signal(libc::SIGKILL)
}
