//! Our own layer below the storage library: what a store says in the headers of its answers is
//! kept, its wishes to be left alone are obeyed, and answers to other questions are refused.

mod checksum;
mod governor;
mod growth;
mod retry_after;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderMap, Method, StatusCode};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};

pub(crate) use checksum::Stated;
pub(crate) use governor::{Governor, Slot};

/// Makes clients whose answers pass through [`Service`].
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    below: Arc<dyn HttpConnector>,
    governor: Arc<Governor>,
}

impl Connector {
    pub(crate) fn new(below: Arc<dyn HttpConnector>, governor: Arc<Governor>) -> Self {
        Self { below, governor }
    }

    pub(crate) fn governor(&self) -> &Arc<Governor> {
        &self.governor
    }
}

impl HttpConnector for Connector {
    /// The storage library signs its default headers where it adds them itself; the client below
    /// would add them once more to every other request, unsigned, which S3 refuses.
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let options = options.clone().with_default_headers(HeaderMap::new());
        Ok(HttpClient::new(Service {
            below: self.below.connect(&options)?,
            governor: Arc::clone(&self.governor),
        }))
    }
}

/// One request: waits while the host asks to be left alone, and shows the answer's headers as an
/// extension of type [`HeaderMap`].
#[derive(Debug)]
struct Service {
    below: HttpClient,
    governor: Arc<Governor>,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.governor.pause().await;
        let asked = (request.method() == Method::GET)
            .then(|| request.headers().get(RANGE).cloned())
            .flatten();
        let mut answer = self.below.execute(request).await?;
        if is_throttling(answer.status()) {
            self.governor
                .throttled(retry_after::parse(answer.headers()));
        }
        if let Some(asked) = asked.as_ref().and_then(|asked| asked.to_str().ok())
            && answer.status().is_success()
        {
            check_range(asked, &answer)
                .map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        }
        let headers = answer.headers().clone();
        answer.extensions_mut().insert(headers);
        Ok(answer)
    }
}

fn is_throttling(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    )
}

/// An answer that is not to the range that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OtherRange {
    /// The whole object, or nothing that says which part: the store does not know ranges.
    NotPartial,
    /// Another part, or a part that ends before the object should.
    Differs { asked: String, got: String },
}

impl fmt::Display for OtherRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPartial => f.write_str("the answer to a ranged request is not partial"),
            Self::Differs { asked, got } => {
                write!(f, "asked for {asked:?}, the answer has {got:?}")
            }
        }
    }
}

impl StdError for OtherRange {}

/// Compares `Range` with `Content-Range` (RFC 9110, section 14.4).
fn check_range(asked: &str, answer: &HttpResponse) -> Result<(), OtherRange> {
    let got = answer.headers().get(CONTENT_RANGE);
    let Some(got) = got.and_then(|got| got.to_str().ok()) else {
        return Err(OtherRange::NotPartial);
    };
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        return Err(OtherRange::NotPartial);
    }
    // Only ranges with both ends are compared: the engine sends no others.
    let bounds = asked.strip_prefix("bytes=").unwrap_or(asked);
    let whole = bounds
        .split_once('-')
        .is_some_and(|(from, to)| !from.is_empty() && !to.is_empty());
    let part = got.trim().strip_prefix("bytes ").unwrap_or(got);
    if !whole || part.split('/').next() == Some(bounds) {
        return Ok(());
    }
    Err(OtherRange::Differs {
        asked: asked.to_owned(),
        got: got.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, range: Option<&str>) -> HttpResponse {
        let mut builder = http::Response::builder().status(status);
        if let Some(range) = range {
            builder = builder.header(CONTENT_RANGE, range);
        }
        builder.body(Vec::new().into()).unwrap()
    }

    #[test]
    fn only_the_range_that_was_asked_for_is_taken() {
        let good = answer(206, Some("bytes 5-9/100"));
        assert_eq!(check_range("bytes=5-9", &good), Ok(()));
        assert_eq!(check_range("bytes=5-", &good), Ok(()));
        for bad in [
            answer(200, None),
            answer(206, None),
            answer(200, Some("bytes 5-9/100")),
        ] {
            assert_eq!(check_range("bytes=5-9", &bad), Err(OtherRange::NotPartial));
        }
        for other in [
            "bytes 5-8/100",
            "bytes 4-9/100",
            "bytes 5-9",
            "items 5-9/100",
        ] {
            let result = check_range("bytes=5-9", &answer(206, Some(other)));
            assert_eq!(result.is_ok(), other == "bytes 5-9", "{other}");
        }
    }
}
