//! An upload session: what the registry has of it, and what the client was told.

use super::Finding;
use super::grammar::bare_range;
use crate::fault_proxy::route::{Kind, Route};
use crate::http::Body;
use crate::http::{Headers, Request};

const CHUNKS: &str = "Pushing a blob in chunks";
const PUT: &str = "POST then PUT";

/// A host of the proxy, and path and query there.
pub(super) type Place = (usize, String);

#[derive(Debug, Default)]
pub(in crate::fault_proxy) struct Session {
    /// Where the client was told to go on; `None` while no answer has told it.
    pub(super) place: Option<Place>,
    /// Where the last answer redirected to.
    pub(super) redirect: Option<Place>,
    /// What the registry has at least, and at most: they differ after a request that broke.
    low: u64,
    high: u64,
    /// What an answer said that the registry has.
    shown: Option<(u64, u64)>,
    min_chunk: u64,
    /// Length of the chunk that was taken last.
    pub(in crate::fault_proxy) last_chunk: Option<u64>,
    /// All bytes that came for it.
    pub(in crate::fault_proxy) bytes: u64,
    /// Whether it is over at the registry.
    over: bool,
    /// How the client was told that it is over.
    ended: Option<&'static str>,
}

impl Session {
    /// Whether the client knows it and has not ended it.
    pub(super) fn is_open(&self) -> bool {
        self.place.is_some() && !self.over
    }

    pub(super) fn check(&self, at: &Place, request: &Request, route: &Route) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Some(how) = self.ended {
            found.push(Finding::new(PUT, format!("the session was {how} before")));
        }
        self.check_place(at, route, &mut found);
        match route.kind {
            Kind::Patch => self.check_patch(request, &mut found),
            Kind::Commit => self.check_commit(request, route, &mut found),
            _ => {}
        }
        found
    }

    /// The last `Location`, unchanged but for the digest of the closing `PUT`.
    fn check_place(&self, at: &Place, route: &Route, found: &mut Vec<Finding>) {
        let Some((host, target)) = &self.place else {
            found.push(Finding::new(PUT, "no answer has named this session"));
            return;
        };
        let same = if route.kind == Kind::Commit {
            at.1.strip_prefix(target.as_str())
                .and_then(|rest| rest.strip_prefix(if target.contains('?') { '&' } else { '?' }))
                .is_some_and(|rest| rest.starts_with("digest=") && !rest.contains('&'))
        } else {
            at.1 == *target
        };
        if !(same && at.0 == *host) && self.redirect.as_ref() != Some(at) {
            let text = format!("not the last Location, which was {target} on host {host}");
            found.push(Finding::new(CHUNKS, text));
        }
    }

    fn check_patch(&self, request: &Request, found: &mut Vec<Finding>) {
        octet_stream(CHUNKS, request, found);
        let Some(length) = declared(request) else {
            found.push(Finding::new(CHUNKS, "no Content-Length"));
            return;
        };
        self.check_range(request, length, found);
    }

    fn check_commit(&self, request: &Request, route: &Route, found: &mut Vec<Finding>) {
        match route.query("digest") {
            Some(digest) => super::digest(PUT, digest, found),
            None => found.push(Finding::new(PUT, "the closing PUT has no digest")),
        }
        match declared(request) {
            None => found.push(Finding::new(PUT, "no Content-Length")),
            Some(0) => {}
            Some(length) => {
                octet_stream(PUT, request, found);
                self.check_range(request, length, found);
            }
        }
    }

    fn check_range(&self, request: &Request, length: u64, found: &mut Vec<Finding>) {
        let mut wrong = |text: String| found.push(Finding::new(CHUNKS, text));
        if let Some(last) = self.last_chunk.filter(|last| *last < self.min_chunk) {
            let min = self.min_chunk;
            wrong(format!(
                "the chunk before had {last} bytes, less than {min}"
            ));
        }
        let Some(range) = request.headers.get("content-range") else {
            if self.high > 0 {
                wrong("a further chunk without Content-Range".to_owned());
            }
            return;
        };
        let Some((first, last)) = bare_range(range) else {
            return wrong(format!("Content-Range {range:?} is not START-END"));
        };
        if last - first + 1 != length {
            wrong(format!(
                "Content-Range {range} with Content-Length {length}"
            ));
        }
        let within = |(low, high): (u64, u64)| (low..=high).contains(&first);
        if !within((self.low, self.high)) && !self.shown.is_some_and(within) {
            let have = self.low;
            wrong(format!(
                "Content-Range {range}, and the session has {have} bytes"
            ));
        }
    }

    /// Bytes came, and went on to the registry or not.
    pub(super) fn took(&mut self, bytes: u64, forwarded: bool) {
        self.bytes += bytes;
        if forwarded {
            self.high += bytes;
        }
    }

    /// What the registry answered in truth.
    pub(super) fn answered(&mut self, kind: Kind, status: u16, headers: &Headers, body: u64) {
        let has = headers.get("range").and_then(shown_bytes);
        match (kind, status) {
            (Kind::Patch, 200..300) => {
                let has = has.filter(|(low, high)| low == high);
                let has = has.map_or(self.low + body, |(low, _)| low);
                (self.low, self.high) = (has, has);
                self.last_chunk = Some(body);
            }
            (Kind::Status, 200..300) => {
                if let Some(has) = has {
                    (self.low, self.high) = has;
                }
            }
            (Kind::Commit | Kind::Cancel, 200..300) | (_, 404) => self.over = true,
            _ => {}
        }
    }

    /// What the client is told.
    pub(super) fn told(&mut self, kind: Kind, status: u16, headers: &Headers) {
        let shown = headers.get("range").and_then(shown_bytes);
        self.shown = shown.or(self.shown);
        match (kind, status) {
            (Kind::Commit, 200..300) => self.ended = Some("committed"),
            (Kind::Cancel, 200..300) => self.ended = Some("cancelled"),
            _ => {}
        }
    }

    pub(super) fn opened(&mut self, min_chunk: Option<&str>) {
        self.min_chunk = min_chunk.and_then(|min| min.parse().ok()).unwrap_or(0);
    }
}

/// The bytes behind `Range: 0-LAST`. Registries say `0-0` for nothing and for one byte.
fn shown_bytes(range: &str) -> Option<(u64, u64)> {
    let last = range.rsplit_once('-')?.1.parse::<u64>().ok()?;
    Some(if last == 0 {
        (0, 1)
    } else {
        (last + 1, last + 1)
    })
}

fn declared(request: &Request) -> Option<u64> {
    request.headers.get("content-length")?;
    match request.body {
        Body::Length(length) => Some(length),
        _ => None,
    }
}

pub(super) fn octet_stream(section: &'static str, request: &Request, found: &mut Vec<Finding>) {
    let kind = request.headers.get("content-type").unwrap_or("none");
    if !kind.eq_ignore_ascii_case("application/octet-stream") {
        let text = format!("Content-Type is {kind}, not application/octet-stream");
        found.push(Finding::new(section, text));
    }
}
