//! Lists that a registry hands out page by page (distribution-spec, pagination by `Link`).

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use url::Url;

use crate::auth::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::net;
use crate::transport::{Call, Transport};

const PAGE_MAX: usize = 4 << 20;
const PAGES_MAX: usize = 10_000;
/// Bytes of all pages together.
const LIST_MAX: usize = 64 << 20;

/// A list on its way.
pub(crate) struct Pages<'a> {
    transport: &'a Transport,
    stage: &'static str,
    scope: &'a Scope,
    next: Option<Url>,
    seen: HashSet<Url>,
    size: usize,
}

/// One page.
pub(crate) struct Page {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(
        transport: &'a Transport,
        stage: &'static str,
        scope: &'a Scope,
        first: Url,
    ) -> Self {
        Self {
            transport,
            stage,
            scope,
            next: Some(first),
            seen: HashSet::new(),
            size: 0,
        }
    }

    /// The next page, or `None` after the last. Pages that go round in circles, to another host
    /// or on without end are an error.
    pub(crate) async fn next(&mut self) -> Result<Option<Page>> {
        let Some(url) = self.next.take() else {
            return Ok(None);
        };
        if self.seen.len() >= PAGES_MAX || self.size > LIST_MAX {
            return Err(self.error("the list does not end"));
        }
        if !self.seen.insert(url.clone()) {
            return Err(self.error("the pages go round in circles"));
        }
        let mut call = Call::new(self.stage, Method::GET, url.clone(), self.scope);
        call.accept = Some("application/vnd.oci.image.index.v1+json, application/json");
        let response = self.transport.send(&call).await?;
        if !response.status().is_success() {
            let name = self.transport.endpoint.name();
            return Err(self.transport.unexpected(response, self.stage, name).await);
        }
        let headers = response.headers().clone();
        if let Some(link) = next_page(&headers) {
            let next = self.transport.endpoint.resolve(&url, &link)?;
            if !self.transport.endpoint.owns(&next) {
                return Err(self.error("the next page is on another host"));
            }
            self.next = Some(next);
        }
        let limit = self.transport.net.options.request_timeout;
        let body = net::read_body(response, self.stage, PAGE_MAX, limit).await?;
        self.size += body.len();
        Ok(Some(Page { headers, body }))
    }

    pub(crate) fn error(&self, detail: &str) -> Error {
        let name = self.transport.endpoint.name();
        Error::new(ErrorKind::Protocol, self.stage, name, detail)
    }
}

/// The target of `Link: <target>; rel="next"` (RFC 8288).
fn next_page(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(header::LINK).iter();
    let mut links = values.filter_map(|value| value.to_str().ok());
    links.find_map(|text| {
        let (target, rest) = text.trim().strip_prefix('<')?.split_once('>')?;
        let relation = rest.to_ascii_lowercase().replace('"', "");
        relation.contains("rel=next").then(|| target.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_is_found() {
        let next = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::LINK,
                "<https://docs.invalid>; rel=help".parse().unwrap(),
            );
            headers.append(header::LINK, text.parse().unwrap());
            next_page(&headers)
        };
        assert_eq!(
            next("</v2/a/tags/list?last=b&n=1>; rel=\"next\"").unwrap(),
            "/v2/a/tags/list?last=b&n=1"
        );
        assert_eq!(next("</x>; rel=prev"), None);
        assert_eq!(next("junk"), None);
    }
}
