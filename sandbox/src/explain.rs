//! Failures inside the namespaces, turned into errors a person can act on.

use rustix::io::Errno;

use crate::error::{Error, ErrorKind};
use crate::sandbox::Sandbox;
use crate::wire::{Failure, Stage};

/// Whether the host refused the namespaces themselves, so that another rung may do.
pub(crate) fn is_refusal(failure: Failure) -> bool {
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

/// Turns a failure inside into an error a person can act on.
pub(crate) fn explain(sandbox: &Sandbox, failure: Failure) -> Error {
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
            Stage::Exec
            | Stage::Interpreter
            | Stage::OpenLayer
            | Stage::OpenBind
            | Stage::Workdir
                if missing =>
            {
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
