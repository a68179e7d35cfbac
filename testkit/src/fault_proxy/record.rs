//! What the proxy has seen and done.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::plan::{Fault, On, What};
use super::route::{Kind, Route};
use super::strict::{Answered, Finding, Strict};
use crate::http::{Answer, Headers, Request};

/// A request of the client, and what it was answered.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The port that was asked: 0 is the proxy's own, 1 the other host's.
    pub host: usize,
    /// Which end point.
    pub kind: Kind,
    /// The method.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// All fields of the request's head, as sent.
    pub headers: Vec<(String, String)>,
    /// Bytes of the request's body that the proxy took. What the client had sent beyond a reset is
    /// not known.
    pub body_bytes: u64,
    /// The status that was sent to the client, unless the connection ended first.
    pub status: Option<u16>,
}

impl Exchange {
    /// The value of a request's field, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let same = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .find(same)
            .map(|(_, value)| value.as_str())
    }
}

/// A fault that struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The fault.
    pub what: What,
    /// Which of the [exchanges](super::FaultProxy::exchanges), from 0.
    pub exchange: usize,
    /// Which end point.
    pub kind: Kind,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Bytes of the request's body that had come.
    pub request_bytes: u64,
    /// Bytes of blob that had come in the request's session, this request included: the most that
    /// a client has to send again because of the fault.
    pub session_bytes: u64,
}

/// What the connections share.
pub(super) struct Shared {
    pub(super) upstream: SocketAddr,
    /// `ADDRESS:PORT` of the main host and of the foreign one.
    pub(super) hosts: [String; 2],
    faults: Vec<Fault>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    counts: Vec<u32>,
    pub(super) exchanges: Vec<Exchange>,
    pub(super) applied: Vec<Applied>,
    pub(super) violations: Vec<String>,
    pub(super) body_bytes: u64,
    /// The last credentials that the main host was given.
    authorization: Option<String>,
    pub(super) strict: Strict,
}

impl State {
    /// Records what an exchange did against the specification.
    fn find(&mut self, exchange: usize, found: Vec<Finding>) {
        let Exchange { method, target, .. } = &self.exchanges[exchange];
        let text = |finding| format!("#{exchange} {method} {target}: {finding}");
        self.violations.extend(found.into_iter().map(text));
    }
}

impl Shared {
    pub(super) fn new(upstream: SocketAddr, hosts: [String; 2], faults: Vec<Fault>) -> Self {
        let state = State {
            counts: vec![0; faults.len()],
            strict: Strict::new(hosts.clone()),
            ..State::default()
        };
        Self {
            upstream,
            hosts,
            faults,
            state: Mutex::new(state),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is that of a test which has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn violation(&self, text: String) {
        self.state().violations.push(text);
    }

    /// Notes a request; gives its number and the faults that are to strike it.
    pub(super) fn arrive(
        &self,
        host: usize,
        request: &Request,
        route: &Route,
    ) -> (usize, Vec<What>) {
        let mut state = self.state();
        let mut strikes = Vec::new();
        for (fault, count) in self.faults.iter().zip(&mut state.counts) {
            let looks = match fault.on {
                On::Is(kind) => kind == route.kind,
                On::UploadBody => is_upload(route.kind) && request.has_body(),
                On::Any => true,
            };
            if looks && request.target.contains(&fault.part) {
                *count += 1;
                if fault.strikes(*count) {
                    strikes.push(fault.what.clone());
                }
            }
        }
        if let (0, Some(value)) = (host, request.headers.get("authorization")) {
            state.authorization = Some(value.to_owned());
        }
        state.exchanges.push(Exchange {
            host,
            kind: route.kind,
            method: request.method.clone(),
            target: request.target.clone(),
            headers: request.headers.0.clone(),
            body_bytes: 0,
            status: None,
        });
        let exchange = state.exchanges.len() - 1;
        let found = state.strict.check(host, request, route);
        state.find(exchange, found);
        (exchange, strikes)
    }

    /// Notes that bytes of the body came, and went on to the registry or not.
    pub(super) fn took(&self, exchange: usize, route: &Route, bytes: u64, forwarded: bool) {
        let mut state = self.state();
        state.exchanges[exchange].body_bytes += bytes;
        if is_upload(route.kind) {
            state.body_bytes += bytes;
        }
        state.strict.took(route, bytes, forwarded);
    }

    /// Looks at a manifest that has come wholly.
    pub(super) fn manifest(&self, exchange: usize, request: &Request, route: &Route, body: &[u8]) {
        let mut state = self.state();
        let found = state.strict.manifest(request, route, body);
        state.find(exchange, found);
    }

    /// Notes that a fault struck.
    pub(super) fn apply(&self, exchange: usize, route: &Route, what: &What) {
        let mut state = self.state();
        let session = state.strict.session(route);
        let session_bytes = session.map_or(0, |session| session.bytes);
        let seen = &state.exchanges[exchange];
        let applied = Applied {
            what: what.clone(),
            exchange,
            kind: seen.kind,
            method: seen.method.clone(),
            target: seen.target.clone(),
            request_bytes: seen.body_bytes,
            session_bytes,
        };
        state.applied.push(applied);
    }

    /// Notes what the registry answered, before faults and whether or not the client gets it.
    pub(super) fn answered(&self, exchange: usize, route: &Route, answer: &Answer) {
        let mut state = self.state();
        let Exchange {
            host,
            target,
            body_bytes,
            ..
        } = state.exchanges[exchange].clone();
        let seen = Answered {
            host,
            target: &target,
            route,
            status: answer.status,
            headers: &answer.headers,
        };
        state.strict.answered(&seen, body_bytes);
    }

    /// Notes what the client is about to be told.
    pub(super) fn tell(&self, exchange: usize, route: &Route, status: u16, headers: &Headers) {
        let mut state = self.state();
        state.exchanges[exchange].status = Some(status);
        let Exchange { host, target, .. } = state.exchanges[exchange].clone();
        state.strict.told(&Answered {
            host,
            target: &target,
            route,
            status,
            headers,
        });
    }

    /// Whether the chunk before this one was smaller than `min`.
    pub(super) fn follows_small(&self, route: &Route, min: u64) -> bool {
        let state = self.state();
        let session = state.strict.session(route);
        let last = session.and_then(|session| session.last_chunk);
        route.kind == Kind::Patch && last.is_some_and(|last| last < min)
    }

    pub(super) fn authorization(&self) -> Option<String> {
        self.state().authorization.clone()
    }
}

/// Whether the request's body is bytes of a blob.
fn is_upload(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Patch | Kind::Commit | Kind::SinglePost | Kind::OpenSession | Kind::Mount
    )
}
