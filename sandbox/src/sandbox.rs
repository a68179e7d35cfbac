//! The description of a sandbox: a builder that only collects.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::launch;
use crate::process::Process;

/// Called with each line of output, without its line end.
pub(crate) type LineSink = Arc<dyn Fn(&str) + Send + Sync>;

/// How much of each half of the output is kept unless told otherwise, in bytes.
const LOG_BYTES: usize = 64 * 1024;

/// A process to run in an unpacked root file system.
///
/// Nothing is touched until [`Sandbox::spawn`], which can be called again for a fresh process.
#[derive(Clone)]
#[must_use]
pub struct Sandbox {
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) argv: Vec<OsString>,
    pub(crate) env: BTreeMap<OsString, OsString>,
    pub(crate) workdir: PathBuf,
    pub(crate) user: (u32, u32),
    pub(crate) binds: Vec<(PathBuf, PathBuf)>,
    pub(crate) limits: Limits,
    pub(crate) scratch: Option<PathBuf>,
    pub(crate) log_bytes: usize,
    pub(crate) on_line: Option<LineSink>,
    pub(crate) read_only: bool,
    pub(crate) overlay: bool,
    pub(crate) user_namespace: bool,
}

impl Sandbox {
    /// Starts from unpacked directories, bottom to top, which are never modified.
    ///
    /// Where two hold the same path the upper one is seen, with overlayfs's own whiteouts: a
    /// character device 0/0 hides the path below it.
    pub fn new(root_layers: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self {
            layers: root_layers.into_iter().map(Into::into).collect(),
            argv: Vec::new(),
            env: BTreeMap::new(),
            workdir: PathBuf::from("/"),
            user: (0, 0),
            binds: Vec::new(),
            limits: Limits::default(),
            scratch: None,
            log_bytes: LOG_BYTES,
            on_line: None,
            read_only: false,
            overlay: true,
            user_namespace: true,
        }
    }

    /// The program and its arguments. A name without `/` is looked up in the `PATH` set by
    /// [`Sandbox::env`], or else in the usual directories.
    pub fn command(mut self, argv: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.argv = argv.into_iter().map(Into::into).collect();
        self
    }

    /// Sets an environment variable. The process has these and no others.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// The working directory inside; made when missing, as container runtimes do. Default `/`.
    pub fn workdir(mut self, path: impl Into<PathBuf>) -> Self {
        self.workdir = path.into();
        self
    }

    /// The numeric user and group inside. Default 0 and 0, as for an image without a user.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = (uid, gid);
        self
    }

    /// Shows a file or directory of the host inside, read-only.
    pub fn bind_readonly(mut self, host: impl Into<PathBuf>, inside: impl Into<PathBuf>) -> Self {
        self.binds.push((host.into(), inside.into()));
        self
    }

    /// Bounds what the process may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Keeps what is written to the root in a fresh directory below `dir`, removed at the end,
    /// instead of in memory. `dir` must be on a file system that overlayfs accepts as upper.
    pub fn scratch(mut self, dir: impl Into<PathBuf>) -> Self {
        self.scratch = Some(dir.into());
        self
    }

    /// How many bytes of output are kept from its start, and as many from its end.
    pub fn log_bytes(mut self, bytes: usize) -> Self {
        self.log_bytes = bytes;
        self
    }

    /// Calls `sink` with every line of output as it comes, bytes that are not UTF-8 replaced.
    ///
    /// The output is not read on while it runs, so it should be quick.
    pub fn on_line(mut self, sink: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_line = Some(Arc::new(sink));
        self
    }

    /// Makes the root read-only, apart from `/tmp`, `/run`, `/dev/shm`.
    pub fn read_only(mut self, yes: bool) -> Self {
        self.read_only = yes;
        self
    }

    /// Whether to use overlayfs (the default). Without it there can be one layer, read-only.
    pub fn overlay(mut self, yes: bool) -> Self {
        self.overlay = yes;
        self
    }

    /// Whether to try a user namespace first (the default). Without, only root can spawn, and a
    /// root process inside is root on the host, without capabilities.
    pub fn user_namespace(mut self, yes: bool) -> Self {
        self.user_namespace = yes;
        self
    }

    /// Starts the process and returns when its program runs.
    ///
    /// Must be awaited inside a Tokio runtime with I/O enabled. Dropping the future ends whatever
    /// it has started.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a description that cannot be run, [`ErrorKind::NotFound`] for a
    /// missing layer, program or interpreter, [`ErrorKind::Forbidden`] where the host refuses
    /// namespaces, [`ErrorKind::Unsupported`] where the kernel lacks something, else
    /// [`ErrorKind::Io`].
    pub async fn spawn(&self) -> Result<Process> {
        let sandbox = self.clone();
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                "start process",
                "runtime",
                "there is no Tokio runtime",
            )
            .with_source(error)
        })?;
        let started = runtime
            .spawn_blocking(move || launch::launch(&sandbox))
            .await;
        let launched = started.map_err(|error| Error::io("start process", "launcher", error))??;
        Process::new(launched, self)
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names only: the values of an environment may be secret.
        let names: Vec<_> = self.env.keys().collect();
        f.debug_struct("Sandbox")
            .field("layers", &self.layers)
            .field("argv", &self.argv)
            .field("env", &names)
            .field("workdir", &self.workdir)
            .field("user", &self.user)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Bounds on what the process, and each process it starts, may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Private writable memory of one process in bytes (`RLIMIT_DATA`); beyond it allocation
    /// fails. Default none.
    pub data_bytes: Option<u64>,
    /// Open files of one process (`RLIMIT_NOFILE`). Default none of its own.
    pub open_files: Option<u64>,
    /// Processes and threads (`RLIMIT_NPROC`). The kernel does not hold root to it. Default none.
    pub processes: Option<u64>,
    /// Bytes written to memory-backed files, in all: `/tmp`, `/run`, `/dev/shm` and, without
    /// [`Sandbox::scratch`], the root. Default 1 GiB.
    pub written_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            data_bytes: None,
            open_files: None,
            processes: None,
            written_bytes: 1 << 30,
        }
    }
}

impl Limits {
    /// Sets [`Limits::data_bytes`].
    #[must_use]
    pub fn with_data_bytes(mut self, bytes: u64) -> Self {
        self.data_bytes = Some(bytes);
        self
    }

    /// Sets [`Limits::open_files`].
    #[must_use]
    pub fn with_open_files(mut self, count: u64) -> Self {
        self.open_files = Some(count);
        self
    }

    /// Sets [`Limits::processes`].
    #[must_use]
    pub fn with_processes(mut self, count: u64) -> Self {
        self.processes = Some(count);
        self
    }

    /// Sets [`Limits::written_bytes`].
    #[must_use]
    pub fn with_written_bytes(mut self, bytes: u64) -> Self {
        self.written_bytes = bytes;
        self
    }
}
