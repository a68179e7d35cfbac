//! The faults that change the registry's answer.

use bytes::{Bytes, BytesMut};

use super::forward::Turn;
use super::plan::What;
use super::route::Kind;
use crate::http::Answer;

/// Changes the head of an answer; gives the faults that did.
pub(super) fn rewrite(turn: &Turn<'_>, answer: &mut Answer) -> Vec<What> {
    let struck = turn.faults.iter().filter(|what| {
        let mut location = |form| relocate(turn, answer, form);
        match what {
            What::StaleRange(bytes) => stale(answer, *bytes),
            What::CreatedOnPatch => {
                let applies = turn.route.kind == Kind::Patch && answer.status == 202;
                if applies {
                    answer.status = 201;
                }
                applies
            }
            What::MissingLocation => {
                let had = answer.headers.get("location").is_some();
                answer.headers.remove("location");
                had
            }
            What::RelativeLocation => location(Form::Path),
            What::BareLocation => location(Form::Last),
            What::AbsoluteLocation => location(Form::Url(turn.host)),
            What::ForeignLocation => location(Form::Url(1)),
            What::MinChunk(bytes) => {
                let opens = matches!(turn.route.kind, Kind::OpenSession | Kind::Mount);
                let applies = opens && answer.status == 202;
                if applies {
                    let value = bytes.to_string();
                    answer.headers.set("OCI-Chunk-Min-Length", value);
                }
                applies
            }
            _ => false,
        }
    });
    struck.cloned().collect()
}

/// The forms of a `Location`.
enum Form {
    Path,
    Last,
    Url(usize),
}

fn relocate(turn: &Turn<'_>, answer: &mut Answer, form: Form) -> bool {
    let Some(location) = answer.headers.get("location") else {
        return false;
    };
    let target = target_of(location, &turn.request.target);
    let location = match form {
        Form::Url(host) => format!("http://{}{target}", turn.shared.hosts[host]),
        Form::Last => {
            // From `…/uploads` without a slash at its end, the last part resolves elsewhere.
            let path = turn.request.target.split('?').next().unwrap_or_default();
            let folder = &path[..=path.rfind('/').unwrap_or(0)];
            target.strip_prefix(folder).unwrap_or(&target).to_owned()
        }
        Form::Path => target,
    };
    answer.headers.set("Location", location);
    true
}

/// Path and query of a `Location` in the answer to a request for `asked` (RFC 3986, section 5.2).
pub(super) fn target_of(location: &str, asked: &str) -> String {
    if let Some((_, rest)) = location.split_once("://") {
        return match rest.find('/') {
            Some(at) => rest[at..].to_owned(),
            None => "/".to_owned(),
        };
    }
    if location.starts_with('/') {
        return location.to_owned();
    }
    let path = asked.split('?').next().unwrap_or_default();
    let folder = &path[..=path.rfind('/').unwrap_or(0)];
    format!("{folder}{location}")
}

/// Shows `bytes` fewer in `Range: 0-LAST`. Nothing and one byte are both `0-0`, as registries do.
fn stale(answer: &mut Answer, bytes: u64) -> bool {
    let last = answer.headers.get("range").and_then(|range| {
        let (_, last) = range.rsplit_once('-')?;
        last.parse::<u64>().ok()
    });
    let Some(last) = last.filter(|last| *last > 0 && bytes > 0) else {
        return false;
    };
    let range = format!("0-{}", last.saturating_sub(bytes));
    answer.headers.set("Range", range);
    true
}

/// Changes the byte at `at`, if it is there.
pub(super) fn corrupt(data: Bytes, at: Option<u64>) -> Bytes {
    let at = at.and_then(|at| usize::try_from(at).ok());
    let Some(at) = at.filter(|at| *at < data.len()) else {
        return data;
    };
    let mut data = BytesMut::from(data);
    data[at] ^= 0xff;
    data.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_resolve_to_their_target() {
        for (location, target) in [
            (
                "http://h:1/v2/a/blobs/uploads/2?_state=x",
                "/v2/a/blobs/uploads/2?_state=x",
            ),
            ("/v2/a/blobs/uploads/2", "/v2/a/blobs/uploads/2"),
            ("2?_state=x", "/v2/a/blobs/uploads/2?_state=x"),
            ("http://h", "/"),
        ] {
            assert_eq!(
                target_of(location, "/v2/a/blobs/uploads/1?_state=y"),
                target
            );
        }
    }
}
