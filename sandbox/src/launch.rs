//! Starting a sandbox from the caller's side: channels, fork, and the ladder of rungs.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use tempfile::TempDir;

use crate::error::{Error, ErrorKind, Result};
use crate::init::{self, Ends};
use crate::prepared::Prepared;
use crate::report::{Exit, Note, RootKind, Rung};
use crate::sandbox::Sandbox;
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
    pub(crate) scratch: Option<TempDir>,
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

    /// Waits, blocking, until the whole tree is gone; kill it first.
    pub(crate) fn wait_gone(&mut self) {
        self.wait(WaitOptions::empty());
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
        self.wait_gone();
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

/// Whether the host refused the namespaces themselves, so that another rung may do.
fn is_refusal(failure: Failure) -> bool {
    let early = matches!(
        failure.stage,
        Stage::Namespaces | Stage::MapIds | Stage::IsolateMounts | Stage::Loopback
    );
    // ENOSPC: max_user_namespaces is reached or 0; EINVAL: no such namespaces in this kernel.
    let refused = [
        Errno::PERM,
        Errno::ACCESS,
        Errno::NOSPC,
        Errno::INVAL,
        Errno::NOSYS,
        Errno::USERS,
    ];
    early && refused.contains(&failure.errno)
}

/// One try on one rung; the inner error is what happened inside.
fn attempt(sandbox: &Sandbox, rung: Rung) -> Result<Result<Launched, Failure>> {
    let scratch = sandbox.scratch.as_deref().map(make_scratch).transpose()?;
    let mut prepared = Prepared::new(sandbox, rung, scratch.as_ref().map(TempDir::path))?;
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

/// Makes the directory for what is written, with what overlayfs needs in it.
fn make_scratch(dir: &Path) -> Result<TempDir> {
    let failed = |error| Error::io("make scratch directory", dir.display().to_string(), error);
    let scratch = tempfile::Builder::new()
        .prefix("sandbox-")
        .tempdir_in(dir)
        .map_err(failed)?;
    for name in ["upper", "work"] {
        let path = scratch.path().join(name);
        fs::create_dir(&path).map_err(failed)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
    }
    Ok(scratch)
}

/// Removes a scratch directory, in which the program may have left directories it cannot open.
pub(crate) fn remove_scratch(scratch: TempDir) {
    fn open_up(dir: &Path) {
        let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open_up(&entry.path());
            }
        }
    }
    open_up(scratch.path());
    // What is left then belongs to another user; there is no one to tell.
    let _ = scratch.close();
}

/// Turns a failure inside into an error a person can act on.
fn explain(sandbox: &Sandbox, failure: Failure) -> Error {
    let cause = std::io::Error::from(failure.errno);
    let stage = failure.stage.name();
    let missing = failure.errno == Errno::NOENT || failure.errno == Errno::NOTDIR;
    let error = |kind, object: String, detail: &str| Error::new(kind, stage, object, detail);
    let error = if is_refusal(failure) {
        error(
            ErrorKind::Forbidden,
            "sandbox".into(),
            "the host refused it",
        )
        .with_hint(
            "allow unprivileged user namespaces, on Ubuntu `sysctl \
             kernel.apparmor_restrict_unprivileged_userns=0`, elsewhere `sysctl \
             user.max_user_namespaces`, in a container its seccomp profile; or run as root",
        )
    } else {
        let object = object(sandbox, failure);
        match failure.stage {
            Stage::Exec | Stage::Interpreter | Stage::OpenLayer | Stage::OpenBind if missing => {
                error(ErrorKind::NotFound, object, not_found(failure.stage))
            }
            Stage::Workdir if missing => {
                error(ErrorKind::NotFound, object, not_found(failure.stage))
            }
            Stage::Overlay => error(
                ErrorKind::Unsupported,
                object,
                "overlayfs refused the layers",
            )
            .with_hint("use Linux 5.12 or later and local file systems, or a single layer"),
            Stage::Scratch | Stage::Pivot | Stage::ReadOnly => {
                error(ErrorKind::Unsupported, object, "the kernel refused it")
                    .with_hint("use Linux 5.12 or later")
            }
            _ => error(ErrorKind::Io, object, "the operating system refused it"),
        }
    };
    error.with_source(cause)
}

fn not_found(stage: Stage) -> &'static str {
    match stage {
        Stage::Exec => "there is no such program in the root layers",
        Stage::Interpreter => "the program is there, but not the interpreter or loader it names",
        _ => "there is no such directory",
    }
}

/// What the failed step was about.
fn object(sandbox: &Sandbox, failure: Failure) -> String {
    let index = usize::try_from(failure.index).unwrap_or(usize::MAX);
    let path = match failure.stage {
        Stage::OpenLayer => sandbox
            .layers
            .get(index)
            .map(|layer| layer.display().to_string()),
        Stage::OpenBind => sandbox
            .binds
            .get(index)
            .map(|(host, _)| host.display().to_string()),
        Stage::Bind => sandbox
            .binds
            .get(index)
            .map(|(_, inside)| inside.display().to_string()),
        Stage::Workdir => Some(sandbox.workdir.display().to_string()),
        Stage::Exec | Stage::Interpreter => sandbox
            .argv
            .first()
            .map(|program| program.to_string_lossy().into_owned()),
        _ => None,
    };
    path.unwrap_or_else(|| "sandbox".to_owned())
}
