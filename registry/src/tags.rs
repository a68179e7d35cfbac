//! Listing tags, page by page.

use http::{HeaderMap, Method, StatusCode, header};
use serde::Deserialize;

use crate::auth::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::net;
use crate::transport::{Call, Transport};

const STAGE: &str = "list tags";
const PAGE_MAX: usize = 4 << 20;
const PAGES_MAX: usize = 1000;

#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
}

/// All tags (distribution-spec, listing tags).
pub(crate) async fn list(transport: &Transport, scope: &Scope) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut url = transport.endpoint.tags();
    let error = |detail| {
        Error::new(
            ErrorKind::Protocol,
            STAGE,
            transport.endpoint.name(),
            detail,
        )
    };
    for _ in 0..PAGES_MAX {
        let response = transport
            .send(&Call::new(STAGE, Method::GET, url.clone(), scope))
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(found);
        }
        if !response.status().is_success() {
            return Err(transport
                .unexpected(response, STAGE, transport.endpoint.name())
                .await);
        }
        let next = match next_page(response.headers()) {
            Some(link) => Some(transport.endpoint.resolve(&url, &link)?),
            None => None,
        };
        let body = net::read_body(
            response,
            STAGE,
            PAGE_MAX,
            transport.net.options.request_timeout,
        )
        .await?;
        let page: Page = serde_json::from_slice(&body)
            .map_err(|source| error("the answer is not a list of tags").with_source(source))?;
        found.extend(page.tags.unwrap_or_default());
        match next {
            Some(next) if transport.endpoint.owns(&next) => url = next,
            Some(_) => return Err(error("the next page is on another host")),
            None => return Ok(found),
        }
    }
    Err(error("the list does not end"))
}

/// The target of `Link: <target>; rel="next"` (RFC 8288).
fn next_page(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::LINK)?.to_str().ok()?;
    let (target, rest) = text.trim().strip_prefix('<')?.split_once('>')?;
    let relation = rest.to_ascii_lowercase().replace('"', "");
    relation.contains("rel=next").then(|| target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_is_found() {
        let next = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LINK, text.parse().unwrap());
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
