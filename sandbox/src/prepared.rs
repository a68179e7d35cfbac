//! Everything a forked child needs, in the form system calls take it, allocated before the fork.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::report::Rung;
use crate::sandbox::{Limits, Sandbox};
use crate::sys::StringArray;

/// The kernel's limit of overlay layers (`OVL_MAX_STACK`).
const MAX_LAYERS: usize = 500;
/// Where programs are looked for when the environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const STAGE: &str = "describe sandbox";

/// One attempt to start a sandbox, ready for use after a fork.
pub(crate) struct Prepared {
    pub(crate) rung: Rung,
    /// Layers bottom to top.
    pub(crate) layers: Vec<CString>,
    /// Room for a descriptor of each layer, so that pushing does not allocate.
    pub(crate) layer_fds: Vec<OwnedFd>,
    pub(crate) binds: Vec<Bind>,
    /// Room for a descriptor of each bind.
    pub(crate) bind_fds: Vec<OwnedFd>,
    /// Room for the overlay's mount options.
    pub(crate) options: Vec<u8>,
    pub(crate) overlay: bool,
    pub(crate) read_only: bool,
    /// The host directory for what is written, when that is not memory.
    pub(crate) scratch: Option<CString>,
    /// The bound of everything written into memory, in bytes, as tmpfs takes it.
    pub(crate) written: CString,
    pub(crate) user: u32,
    pub(crate) group: u32,
    pub(crate) uid_map: Vec<u8>,
    pub(crate) gid_map: Vec<u8>,
    pub(crate) workdir: CString,
    /// The directories on the way to the working directory, and it, outermost first.
    pub(crate) workdir_path: Vec<CString>,
    /// The paths at which the program may be, in order.
    pub(crate) candidates: Vec<CString>,
    pub(crate) argv: StringArray,
    pub(crate) env: StringArray,
    pub(crate) limits: Limits,
}

/// A host path shown inside, read-only.
pub(crate) struct Bind {
    pub(crate) source: CString,
    pub(crate) target: CString,
    /// The directories on the way to the target, outermost first.
    pub(crate) parents: Vec<CString>,
    pub(crate) directory: bool,
}

impl Prepared {
    /// Checks the description and lays everything out for an attempt on `rung`.
    pub(crate) fn new(sandbox: &Sandbox, rung: Rung, scratch: Option<&Path>) -> Result<Self> {
        let layers = layers(sandbox)?;
        let binds = sandbox
            .binds
            .iter()
            .map(|(from, to)| bind(from, to))
            .collect::<Result<Vec<_>>>()?;
        let (user, group) = sandbox.user;
        let workdir = inside(&sandbox.workdir)?;
        Ok(Self {
            rung,
            layer_fds: Vec::with_capacity(layers.len()),
            options: Vec::with_capacity(layers.len() * 12 + 128),
            layers,
            bind_fds: Vec::with_capacity(binds.len()),
            binds,
            overlay: sandbox.overlay,
            read_only: sandbox.read_only,
            scratch: scratch
                .map(|dir| c_string(dir, "scratch directory"))
                .transpose()?,
            written: c_string(sandbox.limits.written_bytes.to_string(), "limit")?,
            user,
            group,
            uid_map: format!("{user} {} 1\n", rustix::process::geteuid().as_raw()).into_bytes(),
            gid_map: format!("{group} {} 1\n", rustix::process::getegid().as_raw()).into_bytes(),
            workdir_path: ancestors(&workdir)?,
            workdir: c_string(&workdir, "working directory")?,
            candidates: candidates(sandbox)?,
            argv: StringArray::new(argv(sandbox)?),
            env: StringArray::new(env(sandbox)?),
            limits: sandbox.limits,
        })
    }
}

fn invalid(object: impl Into<String>, detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, STAGE, object, detail)
}

fn c_string(text: impl AsRef<OsStr>, what: &str) -> Result<CString> {
    CString::new(text.as_ref().as_bytes()).map_err(|_| invalid(what, "it contains a zero byte"))
}

fn layers(sandbox: &Sandbox) -> Result<Vec<CString>> {
    let count = sandbox.layers.len();
    if count == 0 || count > MAX_LAYERS {
        return Err(invalid(
            "root layers",
            format!("{count} given, need 1 to {MAX_LAYERS}"),
        ));
    }
    if !sandbox.overlay && count > 1 {
        return Err(invalid("root layers", "several layers need an overlay"));
    }
    sandbox
        .layers
        .iter()
        .map(|layer| c_string(layer, "root layer"))
        .collect()
}

/// The path normalised, which must be absolute and free of `..`.
fn inside(path: &Path) -> Result<PathBuf> {
    let shown = path.display().to_string();
    if !path.is_absolute() {
        return Err(invalid(shown, "a path inside the sandbox must be absolute"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(invalid(
            shown,
            "a path inside the sandbox must not contain `..`",
        ));
    }
    Ok(path.components().collect())
}

/// The path and the directories above it except the root, outermost first.
fn ancestors(path: &Path) -> Result<Vec<CString>> {
    let mut all = path
        .ancestors()
        .filter(|dir| dir.parent().is_some())
        .map(|dir| c_string(dir, "path"))
        .collect::<Result<Vec<_>>>()?;
    all.reverse();
    Ok(all)
}

fn bind(source: &Path, target: &Path) -> Result<Bind> {
    let shown = || source.display().to_string();
    let metadata = source.metadata().map_err(|error| {
        let kind = if error.kind() == std::io::ErrorKind::NotFound {
            ErrorKind::NotFound
        } else {
            ErrorKind::Io
        };
        Error::new(kind, "open bind source", shown(), "it cannot be read").with_source(error)
    })?;
    let target = inside(target)?;
    let Some(parent) = target.parent() else {
        return Err(invalid(
            shown(),
            "it cannot be bound over the root directory",
        ));
    };
    Ok(Bind {
        source: c_string(source, "bind source")?,
        parents: ancestors(parent)?,
        target: c_string(&target, "bind target")?,
        directory: metadata.is_dir(),
    })
}

fn argv(sandbox: &Sandbox) -> Result<Vec<CString>> {
    if sandbox
        .argv
        .first()
        .is_none_or(|program| program.is_empty())
    {
        return Err(invalid("command", "it names no program"));
    }
    sandbox
        .argv
        .iter()
        .map(|word| c_string(word, "command"))
        .collect()
}

fn env(sandbox: &Sandbox) -> Result<Vec<CString>> {
    let pair = |(key, value): (&std::ffi::OsString, &std::ffi::OsString)| {
        let name = key.to_string_lossy();
        if key.is_empty() || key.as_bytes().contains(&b'=') {
            return Err(invalid(
                format!("environment variable `{name}`"),
                "its name is not allowed",
            ));
        }
        let mut text = key.clone();
        text.push("=");
        text.push(value);
        c_string(text, &format!("environment variable `{name}`"))
    };
    sandbox.env.iter().map(pair).collect()
}

/// Where execvp(3) would look for the program, in the environment it is going to have.
fn candidates(sandbox: &Sandbox) -> Result<Vec<CString>> {
    let Some(program) = sandbox.argv.first() else {
        return Ok(Vec::new());
    };
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(program, "command")?]);
    }
    let path = sandbox
        .env
        .get(OsStr::new("PATH"))
        .map_or(DEFAULT_PATH, |path| path.as_bytes());
    path.split(|byte| *byte == b':')
        .map(|dir| if dir.is_empty() { &b"."[..] } else { dir })
        .map(|dir| c_string(Path::new(OsStr::from_bytes(dir)).join(program), "command"))
        .collect()
}
