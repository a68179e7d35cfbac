//! The client's part of the OCI distribution specification, checked on each request.

mod grammar;
mod manifest;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::rewrite::target_of;
use super::route::{Kind, Route};
use crate::http::{Headers, Request};
pub(super) use manifest::MANIFEST_BYTES;
use session::{Place, Session, octet_stream};

/// Something done against a section of the specification.
#[derive(Debug)]
pub(super) struct Finding {
    section: &'static str,
    text: String,
}

impl Finding {
    fn new(section: &'static str, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { section, text }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (distribution-spec, \"{}\")", self.text, self.section)
    }
}

/// A repository and a digest in it.
type Object = (String, String);

/// What is known of the registry from what went through.
#[derive(Debug, Default)]
pub(super) struct Strict {
    hosts: [String; 2],
    sessions: BTreeMap<String, Session>,
    blobs: BTreeSet<Object>,
    manifests: BTreeSet<Object>,
    tagged: BTreeSet<Object>,
    by_digest: BTreeSet<Object>,
    /// The digest of what was last pushed as a reference.
    pushed: BTreeMap<Object, String>,
}

/// A request, and what came of it.
pub(super) struct Answered<'a> {
    pub(super) host: usize,
    pub(super) target: &'a str,
    pub(super) route: &'a Route,
    pub(super) status: u16,
    pub(super) headers: &'a Headers,
}

impl Strict {
    pub(super) fn new(hosts: [String; 2]) -> Self {
        Self {
            hosts,
            ..Self::default()
        }
    }

    /// Checks the head of a request.
    pub(super) fn check(&self, host: usize, request: &Request, route: &Route) -> Vec<Finding> {
        let mut found = grammar(route);
        let mut wrong = |section, text: &str| found.push(Finding::new(section, text));
        let (reads, has_body) = (
            request.method == "GET" || request.method == "HEAD",
            request.has_body(),
        );
        if reads && has_body {
            wrong("Endpoints", "a GET or HEAD with a body");
        }
        match route.kind {
            Kind::Other => wrong("Endpoints", "not an end point of the specification"),
            Kind::OpenSession if has_body => {
                wrong("Single POST", "bytes in a POST without a digest");
            }
            Kind::OpenSession | Kind::Mount
                if request.headers.get("content-length") != Some("0") =>
            {
                wrong(
                    "Pushing a blob in chunks",
                    "a POST without Content-Length: 0",
                );
            }
            Kind::Mount if route.query("from").is_none() => {
                wrong(
                    "Mounting a blob from another repository",
                    "no repository to mount from",
                );
            }
            Kind::SinglePost => octet_stream("Single POST", request, &mut found),
            Kind::PutManifest if request.headers.get("content-type").is_none() => {
                wrong("Pushing Manifests", "no Content-Type");
            }
            _ => {}
        }
        if let Some(key) = route.session() {
            let place = (host, request.target.clone());
            match self.sessions.get(&key) {
                Some(session) => found.extend(session.check(&place, request, route)),
                None => found.extend(Session::default().check(&place, request, route)),
            }
        }
        found
    }

    /// The session of a request of one.
    pub(super) fn session(&self, route: &Route) -> Option<&Session> {
        self.sessions.get(&route.session()?)
    }

    pub(super) fn took(&mut self, route: &Route, bytes: u64, forwarded: bool) {
        if let Some(key) = route.session() {
            self.sessions.entry(key).or_default().took(bytes, forwarded);
        }
    }

    /// Notes what the registry answered, whether or not the client gets it.
    pub(super) fn answered(&mut self, seen: &Answered<'_>, body: u64) {
        if let Some(key) = seen.route.session() {
            let session = self.sessions.entry(key).or_default();
            session.answered(seen.route.kind, seen.status, seen.headers, body);
        }
    }

    /// Notes what the client is told.
    pub(super) fn told(&mut self, seen: &Answered<'_>) {
        let place = self.place(seen);
        let kind = seen.route.kind;
        if seen.status == 202 && matches!(kind, Kind::OpenSession | Kind::Mount | Kind::SinglePost)
        {
            let opened = place.as_ref().and_then(|(_, target)| {
                let key = Route::of("PATCH", target).session()?;
                Some(self.sessions.entry(key).or_default())
            });
            if let Some(session) = opened {
                session.opened(seen.headers.get("oci-chunk-min-length"));
                session.place = place;
            }
        } else if let Some(session) = seen.route.session() {
            let session = self.sessions.entry(session).or_default();
            session.told(kind, seen.status, seen.headers);
            match seen.status {
                307 | 308 => session.redirect = place,
                _ if kind == Kind::Commit => {}
                _ => session.place = place.or_else(|| session.place.take()),
            }
        }
        self.told_object(seen);
    }

    fn place(&self, seen: &Answered<'_>) -> Option<Place> {
        let location = seen.headers.get("location")?;
        let target = target_of(location, seen.target);
        let host = match location.split_once("://") {
            None => seen.host,
            Some((_, rest)) => {
                let host = rest.split('/').next().unwrap_or_default();
                let known = self.hosts.iter().position(|known| known == host);
                known.unwrap_or(usize::MAX)
            }
        };
        Some((host, target))
    }

    /// Notes which blobs and manifests the client knows to be there.
    fn told_object(&mut self, seen: &Answered<'_>) {
        let route = seen.route;
        let object = |digest: &str| (route.name.clone(), digest.to_owned());
        let header = seen.headers.get("docker-content-digest");
        match (route.kind, seen.status) {
            (Kind::HeadBlob | Kind::GetBlob, 200 | 206) => {
                self.blobs.insert(object(&route.last));
            }
            (Kind::HeadBlob | Kind::GetBlob, 404) => {
                self.blobs.remove(&object(&route.last));
            }
            (Kind::Commit | Kind::SinglePost, 201) => {
                self.blobs.extend(route.query("digest").map(object));
            }
            (Kind::Mount, 201) => self.blobs.extend(route.query("mount").map(object)),
            (Kind::HeadManifest | Kind::GetManifest, 200) => {
                self.manifests.extend(header.map(object));
                if route.last.contains(':') {
                    self.manifests.insert(object(&route.last));
                }
            }
            (Kind::PutManifest, 201) => {
                let digest = self.pushed.get(&object(&route.last));
                self.manifests.extend(digest.map(|digest| object(digest)));
            }
            _ => {}
        }
    }

    /// The sessions that the client was given and has neither committed nor cancelled.
    pub(super) fn open_sessions(&self) -> Vec<String> {
        let open = self.sessions.values().filter(|session| session.is_open());
        open.filter_map(|session| session.place.as_ref())
            .map(|(_, target)| target.clone())
            .collect()
    }
}

/// Checks the names in the path and in the query.
fn grammar(route: &Route) -> Vec<Finding> {
    const PULL: &str = "Pulling manifests";
    let mut found = Vec::new();
    if matches!(route.kind, Kind::Ping | Kind::Token | Kind::Other) {
        return found;
    }
    let names = [Some(route.name.as_str()), route.query("from")];
    for name in names.into_iter().flatten() {
        if !grammar::is_name(name) {
            let text = format!("{name:?} is not the name of a repository");
            found.push(Finding::new(PULL, text));
        }
    }
    match route.kind {
        Kind::GetBlob | Kind::HeadBlob | Kind::DeleteBlob | Kind::Referrers => {
            digest("Pulling blobs", &route.last, &mut found);
        }
        Kind::GetManifest | Kind::HeadManifest | Kind::PutManifest | Kind::DeleteManifest => {
            if !grammar::is_tag(&route.last) && !grammar::is_digest(&route.last) {
                let text = format!("{:?} is neither a tag nor a digest", route.last);
                found.push(Finding::new(PULL, text));
            }
        }
        Kind::Mount => digest(
            "Mounting a blob from another repository",
            route.query("mount").unwrap_or_default(),
            &mut found,
        ),
        Kind::SinglePost => {
            let value = route.query("digest").unwrap_or_default();
            digest("Single POST", value, &mut found);
        }
        _ => {}
    }
    found
}

fn digest(section: &'static str, digest: &str, found: &mut Vec<Finding>) {
    if !grammar::is_digest(digest) {
        let text = format!("{digest:?} is not a digest");
        found.push(Finding::new(section, text));
    }
}
