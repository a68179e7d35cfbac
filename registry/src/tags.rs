//! Listing tags.

use serde::Deserialize;

use crate::auth::Scope;
use crate::error::{ErrorKind, Result};
use crate::pages::Pages;
use crate::transport::Transport;

const STAGE: &str = "list tags";

#[derive(Deserialize)]
struct List {
    tags: Option<Vec<String>>,
}

/// All tags (distribution-spec, listing tags); none for an unknown repository.
pub(crate) async fn list(transport: &Transport, scope: &Scope) -> Result<Vec<String>> {
    let mut pages = Pages::new(transport, STAGE, scope, transport.endpoint.tags());
    let mut found = Vec::new();
    loop {
        let page = match pages.next().await {
            Ok(Some(page)) => page,
            Ok(None) => return Ok(found),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
            Err(error) => return Err(error),
        };
        let list: List = serde_json::from_slice(&page.body).map_err(|error| {
            pages
                .error("the answer is not a list of tags")
                .with_source(error)
        })?;
        found.extend(list.tags.unwrap_or_default());
    }
}
