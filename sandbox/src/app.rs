//! The last steps before the program: limits, descriptors, working directory, exec.
//!
//! Runs after the fork, so it only makes system calls.

use std::ffi::CStr;

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use crate::init::{Ends, send};
use crate::prepared::Prepared;
use crate::sys;
use crate::wire::{At, Failure, Report, Stage};

/// Becomes the program; answers an exit code only when that failed, after reporting why.
pub(crate) fn run(prepared: &Prepared, ends: &Ends) -> u8 {
    let failure = match ready(prepared, ends) {
        Ok(()) => exec(prepared),
        Err(failure) => failure,
    };
    send(ends, Report::Failed(failure));
    127
}

fn ready(prepared: &Prepared, ends: &Ends) -> Result<(), Failure> {
    rustix::process::setsid().at(Stage::Start)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::chdir(prepared.workdir.as_c_str()).at(Stage::Workdir)?;
    // The image's own /dev/null where it is there, so that what is inside stays inside.
    let read = OFlags::RDONLY | OFlags::CLOEXEC;
    if let Ok(null) = rustix::fs::open(c"/dev/null", read, Mode::empty()) {
        rustix::stdio::dup2_stdin(&null).at(Stage::Start)?;
    }
    rustix::stdio::dup2_stdout(&ends.log).at(Stage::Start)?;
    rustix::stdio::dup2_stderr(&ends.log).at(Stage::Start)?;
    limit(prepared).at(Stage::Limits)?;
    sys::unblock_signals();
    Ok(())
}

fn limit(prepared: &Prepared) -> rustix::io::Result<()> {
    let limits = [
        (Resource::Core, Some(0)),
        (Resource::Data, prepared.limits.data_bytes),
        (Resource::Nofile, prepared.limits.open_files),
        (Resource::Nproc, prepared.limits.processes),
    ];
    for (resource, bound) in limits {
        let Some(bound) = bound else { continue };
        // A hard limit can only be lowered, so the caller's own one stays the upper bound.
        let ceiling = rustix::process::getrlimit(resource)
            .maximum
            .unwrap_or(u64::MAX);
        let bound = Some(bound.min(ceiling));
        rustix::process::setrlimit(
            resource,
            Rlimit {
                current: bound,
                maximum: bound,
            },
        )?;
    }
    Ok(())
}

/// Tries the candidates in order, as execvp(3) does; answers why none could be run.
fn exec(prepared: &Prepared) -> Failure {
    let mut failure = Failure {
        stage: Stage::Exec,
        errno: Errno::NOENT,
        index: 0,
    };
    for path in &prepared.candidates {
        match sys::exec(path, &prepared.argv, &prepared.env) {
            // The file is there, so what is missing is what should run it.
            Errno::NOENT if exists(path) => {
                return Failure {
                    stage: Stage::Interpreter,
                    errno: Errno::NOENT,
                    index: 0,
                };
            }
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => failure.errno = Errno::ACCESS,
            errno => return Failure { errno, ..failure },
        }
    }
    failure
}

fn exists(path: &CStr) -> bool {
    rustix::fs::accessat(CWD, path, Access::EXISTS, AtFlags::empty()).is_ok()
}
