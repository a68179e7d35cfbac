//! A running sandbox: connect to it, wait for it, stop it, read what it said.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SendFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::init::take_socket;
use crate::launch::{Init, Launched, exit_of};
use crate::logs::{Logs, Output};
use crate::report::{Exit, Note, RootKind, Rung, Stopped};
use crate::sandbox::Sandbox;
use crate::scratch::Scratch;
use crate::sys;
use crate::wire::Request;

const OBJECT: &str = "sandbox";

/// A process running in a sandbox.
///
/// Dropping it kills the whole tree and waits until that is gone, which takes milliseconds; end it
/// with [`Process::stop`] where a thread must not be held up. When the caller's own process dies,
/// however it dies, the tree dies with it.
#[must_use]
pub struct Process {
    // Before the scratch directory: the tree must be dead when that is removed.
    init: Init,
    gone: AsyncFd<OwnedFd>,
    status: OwnedFd,
    broker: Broker,
    output: Output,
    exit: Option<Exit>,
    rung: Rung,
    root: RootKind,
    notes: Vec<Note>,
    _scratch: Option<Scratch>,
}

impl Process {
    /// Ties a sandbox to the current runtime.
    pub(crate) fn new(launched: Launched, sandbox: &Sandbox) -> Result<Self> {
        let Launched {
            init,
            control,
            status,
            log,
            rung,
            root,
            notes,
            scratch,
        } = launched;
        let failed = |error: std::io::Error| Error::io("watch process", OBJECT, error);
        let gone = init.pidfd().map_err(|errno| failed(errno.into()))?;
        let gone = sys::watch(gone, Interest::READABLE).map_err(failed)?;
        let broker = Broker {
            control: sys::watch(control, Interest::READABLE | Interest::WRITABLE)
                .map_err(failed)?,
            owed: Mutex::new(0),
        };
        let output =
            Output::new(log, sandbox.log_bytes, sandbox.on_line.clone()).map_err(failed)?;
        Ok(Self {
            init,
            gone,
            status,
            broker,
            output,
            exit: None,
            rung,
            root,
            notes,
            _scratch: scratch,
        })
    }

    /// Which way of isolation this host allowed.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// How the root file system was put together.
    pub fn root(&self) -> RootKind {
        self.root
    }

    /// What the process does not find here and would find elsewhere.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Connects to 127.0.0.1:`port` inside the sandbox.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`] while nothing listens there, which is worth another try;
    /// [`ErrorKind::NotRunning`] after the process ended.
    pub async fn connect(&self, port: u16) -> Result<TcpStream> {
        let address = format!("127.0.0.1:{port}");
        let socket = self.broker.socket(&address).await?;
        // The socket is non-blocking and not connected, which is what this conversion expects.
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        socket
            .connect((Ipv4Addr::LOCALHOST, port).into())
            .await
            .map_err(|error| {
                Error::new(
                    ErrorKind::Unreachable,
                    "connect into sandbox",
                    address,
                    "nothing accepted the connection",
                )
                .with_hint("the process may still be starting; look at its output")
                .with_source(error)
            })
    }

    /// Waits until the process has ended, and every process it left behind is gone.
    ///
    /// Can be dropped and called again.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the runtime cannot watch the process.
    pub async fn wait(&mut self) -> Result<Exit> {
        loop {
            if let Some(exit) = self.try_exit()? {
                self.output.finish().await;
                return Ok(exit);
            }
            let mut ready = self
                .gone
                .readable()
                .await
                .map_err(|error| Error::io("wait for process", OBJECT, error))?;
            ready.clear_ready();
        }
    }

    /// How the process ended, or `None` while it, or a process it left behind, still runs.
    ///
    /// # Errors
    /// None today; the signature leaves room.
    pub fn try_exit(&mut self) -> Result<Option<Exit>> {
        if self.exit.is_none() && self.init.reap() {
            self.exit = Some(exit_of(&self.status));
        }
        Ok(self.exit)
    }

    /// Sends SIGTERM to the process, waits up to `grace`, then kills the whole tree.
    ///
    /// # Errors
    /// As [`Process::wait`].
    pub async fn stop(&mut self, grace: Duration) -> Result<Stopped> {
        if let Some(exit) = self.try_exit()? {
            return Ok(Stopped {
                exit,
                killed: false,
            });
        }
        self.broker.signal(libc::SIGTERM).await;
        if let Ok(exit) = tokio::time::timeout(grace, self.wait()).await {
            return Ok(Stopped {
                exit: exit?,
                killed: false,
            });
        }
        self.init.kill();
        let exit = self.wait().await?;
        // It may have ended by itself between the timeout and the kill.
        Ok(Stopped {
            exit,
            killed: exit == Exit::Signal(libc::SIGKILL),
        })
    }

    /// What the process has written to its standard output and error so far.
    pub fn logs(&self) -> Logs {
        self.output.logs()
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("rung", &self.rung)
            .field("root", &self.root)
            .field("notes", &self.notes)
            .field("exit", &self.exit)
            .finish_non_exhaustive()
    }
}

/// The caller's end of the channel on which init hands out sockets.
struct Broker {
    control: AsyncFd<OwnedFd>,
    /// Sockets asked for and not taken, as when a `connect` was dropped; all are alike, so the
    /// next one takes them.
    owed: Mutex<usize>,
}

impl Broker {
    /// A fresh socket of the sandbox's network namespace; `address` is for the error.
    async fn socket(&self, address: &str) -> Result<OwnedFd> {
        let ended = |source: std::io::Error| {
            Error::new(
                ErrorKind::NotRunning,
                "connect into sandbox",
                address,
                "the process has ended",
            )
            .with_hint("look at its output")
            .with_source(source)
        };
        let mut owed = self.owed.lock().await;
        if *owed == 0 {
            self.send(Request::Socket).await.map_err(ended)?;
            *owed += 1;
        }
        let take = |fd: &OwnedFd| Ok(take_socket(fd)?);
        let answer = self
            .control
            .async_io(Interest::READABLE, take)
            .await
            .map_err(ended)?;
        *owed -= 1;
        answer.ok_or_else(|| {
            Error::new(
                ErrorKind::Io,
                "connect into sandbox",
                address,
                "no socket could be made inside",
            )
        })
    }

    /// Sends the program a signal; one that has ended needs none.
    async fn signal(&self, number: i32) {
        if let Ok(number) = u8::try_from(number) {
            let _ = self.send(Request::Signal(number)).await;
        }
    }

    async fn send(&self, request: Request) -> std::io::Result<()> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let send = |fd: &OwnedFd| loop {
            match rustix::net::send(fd, &request.encode(), flags) {
                Err(Errno::INTR) => {}
                outcome => return Ok(outcome.map(drop)?),
            }
        };
        self.control.async_io(Interest::WRITABLE, send).await
    }
}
