//! The fixed-size messages between the caller and the init process of a sandbox.
//!
//! Two `SOCK_SEQPACKET` pairs: `control` carries requests in and sockets out, `status` carries
//! [`Report`]s out. Nothing here allocates: init is a fork of a threaded program.

use rustix::io::Errno;

use crate::report::Exit;

/// A step of the set-up, for the error message when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    Namespaces,
    MapIds,
    IsolateMounts,
    Loopback,
    OpenLayer,
    OpenBind,
    Scratch,
    Overlay,
    Pivot,
    Mounts,
    Bind,
    Workdir,
    ReadOnly,
    Privileges,
    Limits,
    Start,
    Exec,
    Interpreter,
}

impl Stage {
    const ALL: [Self; 18] = [
        Self::Namespaces,
        Self::MapIds,
        Self::IsolateMounts,
        Self::Loopback,
        Self::OpenLayer,
        Self::OpenBind,
        Self::Scratch,
        Self::Overlay,
        Self::Pivot,
        Self::Mounts,
        Self::Bind,
        Self::Workdir,
        Self::ReadOnly,
        Self::Privileges,
        Self::Limits,
        Self::Start,
        Self::Exec,
        Self::Interpreter,
    ];

    /// The stage as it stands in an error.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "create namespaces",
            Self::MapIds => "map user and group",
            Self::IsolateMounts => "isolate mounts",
            Self::Loopback => "raise loopback",
            Self::OpenLayer => "open root layer",
            Self::OpenBind => "open bind source",
            Self::Scratch => "mount scratch",
            Self::Overlay => "mount overlay",
            Self::Pivot => "pivot root",
            Self::Mounts => "mount system directories",
            Self::Bind => "mount bind",
            Self::Workdir => "enter working directory",
            Self::ReadOnly => "make root read-only",
            Self::Privileges => "drop privileges",
            Self::Limits => "set limits",
            Self::Start => "start process",
            Self::Exec => "run program",
            Self::Interpreter => "run interpreter of program",
        }
    }
}

/// Why the set-up failed: the step, the kernel's answer, and which of several objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) errno: Errno,
    pub(crate) index: u32,
}

/// Turns a failed system call into a [`Failure`] of a stage.
pub(crate) trait At<T> {
    /// Names the stage.
    fn at(self, stage: Stage) -> Result<T, Failure>;
    /// Names the stage and the object's place in its list.
    fn at_index(self, stage: Stage, index: usize) -> Result<T, Failure>;
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.at_index(stage, 0)
    }

    fn at_index(self, stage: Stage, index: usize) -> Result<T, Failure> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        self.map_err(|errno| Failure {
            stage,
            errno,
            index,
        })
    }
}

/// What init tells the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The process could not be started.
    Failed(Failure),
    /// The program runs; the bits are [`Note`](crate::Note)s.
    Started(u32),
    /// The process ended, and init with it.
    Exited(Exit),
}

impl Report {
    /// The length of every report in bytes.
    pub(crate) const LEN: usize = 10;

    /// The report's bytes.
    pub(crate) fn encode(self) -> [u8; Self::LEN] {
        let (tag, stage, first, second) = match self {
            Self::Failed(f) => (1, f.stage as u8, f.errno.raw_os_error(), f.index),
            Self::Started(notes) => (2, 0, 0, notes),
            Self::Exited(Exit::Code(code)) => (3, 0, code, 0),
            Self::Exited(Exit::Signal(signal)) => (4, 0, signal, 0),
        };
        let mut bytes = [0; Self::LEN];
        bytes[0] = tag;
        bytes[1] = stage;
        bytes[2..6].copy_from_slice(&first.to_ne_bytes());
        bytes[6..10].copy_from_slice(&second.to_ne_bytes());
        bytes
    }

    /// Reads a report back; `None` for anything that is not one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[tag, stage], numbers) = bytes.split_first_chunk()?;
        let (first, second) = numbers.split_first_chunk()?;
        let first = i32::from_ne_bytes(*first);
        let second = u32::from_ne_bytes(second.try_into().ok()?);
        Some(match tag {
            1 => Self::Failed(Failure {
                stage: *Stage::ALL.get(usize::from(stage))?,
                errno: Errno::from_raw_os_error(first),
                index: second,
            }),
            2 => Self::Started(second),
            3 => Self::Exited(Exit::Code(first)),
            4 => Self::Exited(Exit::Signal(first)),
            _ => return None,
        })
    }
}

/// What the caller asks of init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// A fresh TCP socket of the network namespace.
    Socket,
    /// A signal to the program.
    Signal(u8),
}

impl Request {
    /// The request's bytes.
    pub(crate) fn encode(self) -> [u8; 2] {
        match self {
            Self::Socket => [1, 0],
            Self::Signal(number) => [2, number],
        }
    }

    /// Reads a request back; `None` for anything that is not one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [1, 0] => Some(Self::Socket),
            [2, number] => Some(Self::Signal(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_stage_survives_the_trip() {
        for stage in Stage::ALL {
            let report = Report::Failed(Failure {
                stage,
                errno: Errno::PERM,
                index: 7,
            });
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
    }

    proptest! {
        #[test]
        fn reports_survive_the_trip(code: i32, notes: u32) {
            for report in [
                Report::Started(notes),
                Report::Exited(Exit::Code(code)),
                Report::Exited(Exit::Signal(code)),
            ] {
                prop_assert_eq!(Report::decode(&report.encode()), Some(report));
            }
        }

        #[test]
        fn requests_survive_the_trip(number: u8) {
            for request in [Request::Socket, Request::Signal(number)] {
                prop_assert_eq!(Request::decode(&request.encode()), Some(request));
            }
        }

        #[test]
        fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
            let _ = Report::decode(&bytes);
            let _ = Request::decode(&bytes);
        }
    }
}
