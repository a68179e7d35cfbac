//! A proxy between a client and a real registry that strikes requests with exact faults, and that
//! checks the client's part of the OCI distribution specification.

mod forward;
mod inject;
mod plan;
mod record;
mod rewrite;
mod route;
mod seeded;
mod strict;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

pub use plan::{Fault, On, Plan, Reply, What};
pub use record::{Applied, Exchange};
pub use route::Kind;

use crate::Missing;
use record::Shared;

/// An HTTP/1.1 proxy in front of a registry, on two loopback ports: its own and, for the faults
/// that send the client to another host, a foreign one. Both end when it is dropped.
///
/// Bodies flow through as they come, so that the registry sees a part of a body that breaks off.
/// The client's `Host` goes to the registry, whose `Location`s therefore name the proxy. The
/// foreign host adds the credentials that the main host was last given, as a storage service
/// accepts those in its signed URLs; what the client sent to it is in the [`Exchange`].
pub struct FaultProxy {
    shared: Arc<Shared>,
    listeners: [AbortHandle; 2],
}

impl FaultProxy {
    /// Starts in front of the registry at `upstream`, such as `http://127.0.0.1:5000`.
    ///
    /// # Errors
    /// When `upstream` is no such URL, or no port can be had.
    pub async fn start(upstream: &str, plan: Plan) -> Result<Self, Missing> {
        let address = upstream
            .strip_prefix("http://")
            .and_then(|rest| rest.trim_end_matches('/').parse::<SocketAddr>().ok())
            .ok_or_else(|| broken(format!("{upstream} is not http://ADDRESS:PORT")))?;
        let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let sockets = [bind().await.map_err(broken)?, bind().await.map_err(broken)?];
        let host = |socket: &TcpListener| socket.local_addr().map(|address| address.to_string());
        let hosts = [
            host(&sockets[0]).map_err(broken)?,
            host(&sockets[1]).map_err(broken)?,
        ];
        let shared = Arc::new(Shared::new(address, hosts, plan.faults));
        let mut index = 0..;
        let listeners = sockets.map(|socket| {
            let host = index.next().unwrap_or_default();
            tokio::spawn(listen(socket, host, Arc::clone(&shared))).abort_handle()
        });
        Ok(Self { shared, listeners })
    }

    /// Where it listens: `127.0.0.1:PORT`, the first part of an image's reference.
    pub fn host(&self) -> String {
        self.shared.hosts[0].clone()
    }

    /// The other host, which [`What::ForeignLocation`] and [`What::Redirect`] send the client to.
    pub fn foreign_host(&self) -> String {
        self.shared.hosts[1].clone()
    }

    /// The base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.host())
    }

    /// The client's requests, in the order of their arrival.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.state().exchanges.clone()
    }

    /// Those of one kind.
    pub fn exchanges_of(&self, kind: Kind) -> Vec<Exchange> {
        let state = self.shared.state();
        let exchanges = state.exchanges.iter();
        exchanges
            .filter(|exchange| exchange.kind == kind)
            .cloned()
            .collect()
    }

    /// What the client did against the specification, with the section.
    pub fn violations(&self) -> Vec<String> {
        self.shared.state().violations.clone()
    }

    /// The upload sessions that the client was given and has neither committed nor cancelled, as
    /// path and query, less those that the registry has forgotten.
    pub fn open_sessions(&self) -> Vec<String> {
        self.shared.state().strict.open_sessions()
    }

    /// The faults that struck.
    pub fn applied(&self) -> Vec<Applied> {
        self.shared.state().applied.clone()
    }

    /// The bytes of blobs that the client sent and the proxy took.
    pub fn body_bytes(&self) -> u64 {
        self.shared.state().body_bytes
    }
}

async fn listen(socket: TcpListener, host: usize, shared: Arc<Shared>) {
    // Dropped with this task, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if let Ok((stream, _)) = socket.accept().await {
            connections.spawn(forward::serve(stream, host, Arc::clone(&shared)));
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("host", &self.host())
            .finish_non_exhaustive()
    }
}

fn broken(error: impl fmt::Display) -> Missing {
    Missing::broken("fault proxy", error)
}
