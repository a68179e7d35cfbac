//! Server processes: started with a log, awaited until ready, stopped on every path out.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rand::Rng;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{Missing, tool};

const POLL: Duration = Duration::from_millis(20);
const LOG_TAIL_BYTES: usize = 4096;

/// A command that becomes a [`Process`].
#[derive(Debug)]
pub struct Launch {
    name: String,
    command: Command,
    grace: Duration,
}

impl Launch {
    /// Prepares `program`, called `name` in messages.
    ///
    /// # Errors
    /// When `setpriv` (util-linux) is missing, which ties the life of the program to ours.
    pub fn new(name: &str, program: impl AsRef<OsStr>) -> Result<Self, Missing> {
        let setpriv = tool::program("setpriv")
            .ok_or_else(|| Missing::absent(name, "setpriv of util-linux is not installed"))?;
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.stdin(Stdio::null()).process_group(0);
        Ok(Self {
            name: name.to_owned(),
            command,
            grace: Duration::from_secs(5),
        })
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the environment, where secrets go: arguments are visible to all users.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Starts the program with its output in the file `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the program cannot be started.
    pub fn start(mut self, log: &Path) -> Result<Process, Missing> {
        let failed = |error: io::Error| Missing::broken(&self.name, format!("start: {error}"));
        let output = File::create(log).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        self.command.stdout(output).stderr(errors);
        let child = spawn(self.command).map_err(failed)?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let group = group.ok_or_else(|| Missing::broken(&self.name, "start: no process id"))?;
        Ok(Process {
            name: self.name,
            child,
            group,
            log: log.to_owned(),
            grace: self.grace,
        })
    }
}

/// A running program in a process group of its own.
///
/// Dropping it ends the whole group: SIGTERM, then SIGKILL after five seconds. When this process
/// is killed, the kernel kills the program.
pub struct Process {
    name: String,
    child: Child,
    group: Pid,
    log: PathBuf,
    grace: Duration,
}

impl Process {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that receives what the program prints.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last lines of the log, at most 4 KiB.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    }

    /// Waits until `probe` says that the program is ready.
    ///
    /// # Errors
    /// When the program ends, or is not ready within `limit`; the end of its log is in the reason.
    pub async fn wait_ready<F>(
        &mut self,
        limit: Duration,
        mut probe: impl FnMut() -> F,
    ) -> Result<(), Missing>
    where
        F: Future<Output = bool>,
    {
        let deadline = Instant::now() + limit;
        loop {
            let ready = probe().await;
            // Looked at after the probe: another process may answer on a port we lost to it.
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(&format!("ended at start ({status})")));
            }
            if ready {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.failed(&format!("not ready within {limit:?}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for a program that ends by itself.
    ///
    /// # Errors
    /// When it does not succeed; the end of its log is in the reason.
    pub fn wait(mut self) -> Result<(), Missing> {
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failed(&format!("ended with {status}"))),
            Err(error) => Err(self.failed(&error.to_string())),
        }
    }

    /// Ends the program now, and says how it ended.
    pub fn stop(mut self) -> String {
        self.end()
    }

    fn failed(&self, what: &str) -> Missing {
        Missing::broken(
            &self.name,
            format!("{what}; its log ends with: {}", self.log_tail()),
        )
    }

    fn end(&mut self) -> String {
        if let Ok(Some(status)) = self.child.try_wait() {
            // What it started may still be there, and its group id cannot be taken by others then.
            let _ = kill_process_group(self.group, Signal::KILL);
            return status.to_string();
        }
        let _ = kill_process_group(self.group, Signal::TERM);
        let deadline = Instant::now() + self.grace;
        let mut status = self.child.try_wait();
        while matches!(status, Ok(None)) && Instant::now() < deadline {
            thread::sleep(POLL);
            status = self.child.try_wait();
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        match self.child.wait() {
            Ok(status) if status.signal() == Some(9) => format!("{status} after {:?}", self.grace),
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// One program to start, and where to answer.
type Job = (Command, mpsc::Sender<io::Result<Child>>);

/// Spawns on a thread that lives as long as this process.
///
/// The parent death signal is tied to the *thread* that spawned (prctl(2), `PR_SET_PDEATHSIG`): a
/// server shared by several tests must not die with the thread of the first.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in jobs {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let gone = || io::Error::other("the spawning thread has ended");
    let (answer, child) = mpsc::channel();
    let sender = spawner.lock().map_err(|_| gone())?.clone();
    sender.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

/// A loopback port that is free now.
///
/// Someone else may take it before it is used, so a start is repeated through [`retry_taken`].
/// It lies below the kernel's own range (32768 and up), so no outgoing connection takes it, and
/// below the node ports of Kubernetes (30000 and up).
pub fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(18_000..30_000);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Repeats a start which failed because a port was taken in between, up to three times.
///
/// # Errors
/// What the last try failed with.
pub async fn retry_taken<T, F>(mut start: impl FnMut() -> F) -> Result<T, Missing>
where
    F: Future<Output = Result<T, Missing>>,
{
    let taken = |missing: &Missing| {
        let reason = missing.reason.to_lowercase();
        reason.contains("already in use") || reason.contains("eaddrinuse")
    };
    for _ in 0..2 {
        match start().await {
            Err(missing) if taken(&missing) => {}
            done => return done,
        }
    }
    start().await
}

/// A client for loopback only: no proxy, and no certificate authority but the given one.
///
/// # Errors
/// When the authority is not a PEM certificate.
pub(crate) fn client(service: &str, ca_pem: Option<&str>) -> Result<reqwest::Client, Missing> {
    let broken = |error: reqwest::Error| Missing::broken(service, format!("client: {error}"));
    let mut roots = Vec::new();
    if let Some(pem) = ca_pem {
        roots.push(reqwest::Certificate::from_pem(pem.as_bytes()).map_err(broken)?);
    }
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10));
    client.tls_certs_only(roots).build().map_err(broken)
}
