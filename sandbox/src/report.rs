//! What a caller is told about how the sandbox stands: the rung, the root, what is missing.

use std::fmt;

/// The way of isolation that this host allowed, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rung {
    /// All namespaces below a user namespace of its own; needs no privilege.
    UserNamespaces,
    /// The same namespaces without a user namespace; only root can make them.
    RootWithoutUserNamespace,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UserNamespaces => "user namespaces",
            Self::RootWithoutUserNamespace => "root without a user namespace",
        })
    }
}

/// How the root file system was put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RootKind {
    /// An overlay of the layers; writes go to an upper directory and are discarded.
    Overlay,
    /// The only layer, bound read-only, because overlayfs was refused or not wanted.
    ReadOnlyBind,
}

impl fmt::Display for RootKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overlay => "overlay",
            Self::ReadOnlyBind => "read-only bind",
        })
    }
}

/// Something the process would find in a cluster and does not find here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Note {
    /// `/proc` could not be mounted, as is usual inside a container with a masked `/proc`.
    NoProc,
    /// `/dev` could not be populated.
    NoDev,
    /// `/tmp` is not a writable directory of its own.
    NoTmp,
    /// `/run` is not a writable directory of its own.
    NoRun,
    /// Overlayfs was refused, so the root is read-only.
    NoOverlay,
}

impl Note {
    const ALL: [Self; 5] = [
        Self::NoProc,
        Self::NoDev,
        Self::NoTmp,
        Self::NoRun,
        Self::NoOverlay,
    ];

    /// The note's bit in the report that comes out of the namespace.
    pub(crate) fn bit(self) -> u32 {
        match self {
            Self::NoProc => 1,
            Self::NoDev => 2,
            Self::NoTmp => 4,
            Self::NoRun => 8,
            Self::NoOverlay => 16,
        }
    }

    /// The notes whose bits are set.
    pub(crate) fn from_bits(bits: u32) -> Vec<Self> {
        Self::ALL
            .into_iter()
            .filter(|note| bits & note.bit() != 0)
            .collect()
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoProc => "/proc could not be mounted",
            Self::NoDev => "/dev could not be populated",
            Self::NoTmp => "/tmp is not writable",
            Self::NoRun => "/run is not writable",
            Self::NoOverlay => "overlayfs was refused, the root is read-only",
        })
    }
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It returned this exit code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Whether it returned 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// What [`Process::stop`](crate::Process::stop) saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stopped {
    /// How the process ended.
    pub exit: Exit,
    /// Whether it outlived the grace period and had to be killed.
    pub killed: bool,
}

impl Stopped {
    /// Whether the program has no handler for SIGTERM.
    ///
    /// In a container it would be process 1, for which the kernel ignores signals without a
    /// handler (pid_namespaces(7)), so it would use up the whole grace period of every rollout.
    /// Here an init process stands in front of it, so SIGTERM ends it.
    pub fn lacks_term_handler(&self) -> bool {
        self.killed || self.exit == Exit::Signal(libc::SIGTERM)
    }
}
