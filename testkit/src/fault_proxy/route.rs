//! Which end point of the distribution API a request is for.

use crate::http::parse_query;

/// The kind of a request, by the end points of the OCI distribution specification, "Endpoints".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// `GET /v2/` (end-1).
    Ping,
    /// `GET` of a blob (end-2).
    GetBlob,
    /// `HEAD` of a blob (end-2).
    HeadBlob,
    /// `GET` of a manifest (end-3).
    GetManifest,
    /// `HEAD` of a manifest (end-3).
    HeadManifest,
    /// `POST` that opens an upload session (end-4a).
    OpenSession,
    /// `POST` with the whole blob (end-4b).
    SinglePost,
    /// `POST` that asks to mount a blob of another repository (end-11).
    Mount,
    /// `PATCH` with some of a blob (end-5).
    Patch,
    /// `PUT` that ends a session (end-6).
    Commit,
    /// `GET` of a session's state (end-13).
    Status,
    /// `DELETE` of a session (end-14).
    Cancel,
    /// `PUT` of a manifest (end-7).
    PutManifest,
    /// `GET` of the tags (end-8).
    Tags,
    /// `DELETE` of a manifest (end-9).
    DeleteManifest,
    /// `DELETE` of a blob (end-10).
    DeleteBlob,
    /// `GET` of the referrers (end-12).
    Referrers,
    /// A request for a token.
    Token,
    /// None of these.
    Other,
}

/// A target taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) kind: Kind,
    /// The repository.
    pub(super) name: String,
    /// The digest, the reference, or the id of the session.
    pub(super) last: String,
    /// The query, decoded.
    pub(super) query: Vec<(String, String)>,
}

impl Route {
    pub(super) fn of(method: &str, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = parse_query(query);
        let has = |name: &str| query.iter().any(|(known, _)| known == name);
        let (place, name, last) = place(path);
        let kind = match (method, place) {
            ("GET", Place::Base) => Kind::Ping,
            ("GET", Place::Blob) => Kind::GetBlob,
            ("HEAD", Place::Blob) => Kind::HeadBlob,
            ("DELETE", Place::Blob) => Kind::DeleteBlob,
            ("GET", Place::Manifest) => Kind::GetManifest,
            ("HEAD", Place::Manifest) => Kind::HeadManifest,
            ("PUT", Place::Manifest) => Kind::PutManifest,
            ("DELETE", Place::Manifest) => Kind::DeleteManifest,
            ("POST", Place::Uploads) if has("mount") => Kind::Mount,
            ("POST", Place::Uploads) if has("digest") => Kind::SinglePost,
            ("POST", Place::Uploads) => Kind::OpenSession,
            ("PATCH", Place::Session) => Kind::Patch,
            ("PUT", Place::Session) => Kind::Commit,
            ("GET", Place::Session) => Kind::Status,
            ("DELETE", Place::Session) => Kind::Cancel,
            ("GET", Place::Tags) => Kind::Tags,
            ("GET", Place::Referrers) => Kind::Referrers,
            ("GET" | "POST", Place::Token) => Kind::Token,
            _ => Kind::Other,
        };
        Self {
            kind,
            name: name.to_owned(),
            last: last.to_owned(),
            query,
        }
    }

    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let same = |(known, _): &&(String, String)| known == name;
        self.query
            .iter()
            .find(same)
            .map(|(_, value)| value.as_str())
    }

    /// What names the session, of a request of one.
    pub(super) fn session(&self) -> Option<String> {
        matches!(
            self.kind,
            Kind::Patch | Kind::Commit | Kind::Status | Kind::Cancel
        )
        .then(|| session(&self.name, &self.last))
    }
}

/// The name of a session among all.
pub(super) fn session(name: &str, id: &str) -> String {
    format!("{name}#{id}")
}

#[derive(Clone, Copy)]
enum Place {
    Base,
    Blob,
    Manifest,
    Uploads,
    Session,
    Tags,
    Referrers,
    Token,
    Elsewhere,
}

/// The place of a path, the repository, and the last part.
fn place(path: &str) -> (Place, &str, &str) {
    let Some(rest) = path.strip_prefix("/v2/") else {
        let place = match path {
            "/token" | "/auth/token" | "/oauth2/token" | "/oauth2/exchange" => Place::Token,
            _ => Place::Elsewhere,
        };
        return (place, "", "");
    };
    if rest.is_empty() {
        return (Place::Base, "", "");
    }
    let name = rest
        .strip_suffix("/blobs/uploads/")
        .or_else(|| rest.strip_suffix("/blobs/uploads"));
    if let Some(name) = name {
        return (Place::Uploads, name, "");
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return (Place::Tags, name, "");
    }
    for (mark, place) in [
        ("/blobs/uploads/", Place::Session),
        ("/blobs/", Place::Blob),
        ("/manifests/", Place::Manifest),
        ("/referrers/", Place::Referrers),
    ] {
        if let Some((name, last)) = rest.rsplit_once(mark) {
            return (place, name, last);
        }
    }
    (Place::Elsewhere, "", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_points_are_told_apart() {
        for (method, target, kind, name, last) in [
            ("GET", "/v2/", Kind::Ping, "", ""),
            (
                "POST",
                "/v2/a/b/blobs/uploads/",
                Kind::OpenSession,
                "a/b",
                "",
            ),
            (
                "POST",
                "/v2/a/blobs/uploads/?mount=sha256%3Aaa&from=b",
                Kind::Mount,
                "a",
                "",
            ),
            (
                "POST",
                "/v2/a/blobs/uploads/?digest=x",
                Kind::SinglePost,
                "a",
                "",
            ),
            (
                "PATCH",
                "/v2/a/blobs/uploads/u-1?_state=z",
                Kind::Patch,
                "a",
                "u-1",
            ),
            (
                "PUT",
                "/v2/a/blobs/uploads/u-1?digest=z",
                Kind::Commit,
                "a",
                "u-1",
            ),
            ("GET", "/v2/a/blobs/uploads/u-1", Kind::Status, "a", "u-1"),
            (
                "HEAD",
                "/v2/blobs/blobs/sha256:aa",
                Kind::HeadBlob,
                "blobs",
                "sha256:aa",
            ),
            ("PUT", "/v2/a/manifests/1.0", Kind::PutManifest, "a", "1.0"),
            ("GET", "/v2/a/tags/list?n=1", Kind::Tags, "a", ""),
            (
                "GET",
                "/v2/a/referrers/sha256:aa",
                Kind::Referrers,
                "a",
                "sha256:aa",
            ),
            ("POST", "/oauth2/token", Kind::Token, "", ""),
            ("GET", "/metrics", Kind::Other, "", ""),
        ] {
            let route = Route::of(method, target);
            let seen = (route.kind, route.name.as_str(), route.last.as_str());
            assert_eq!(seen, (kind, name, last), "{method} {target}");
        }
        let mount = Route::of("POST", "/v2/a/blobs/uploads/?mount=sha256%3Aaa&from=b");
        assert_eq!(mount.query("mount"), Some("sha256:aa"));
    }
}
