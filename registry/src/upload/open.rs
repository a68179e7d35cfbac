//! Opening an upload session, by way of a mount where one is possible.

use http::{Method, StatusCode};
use oci_spec::image::Digest;
use reqwest::Response;
use url::Url;

use super::{Failure, STAGE, Upload};
use crate::blob::Event;
use crate::error::{Error, Result};
use crate::transport::Call;

/// How an upload began.
pub(super) enum Begun {
    /// The blob is there now.
    Mounted(Digest),
    /// A session, and the least chunk the registry asks for.
    Session(Url, Option<u64>),
}

/// Opens a session. A registry that does not mount answers with a session instead
/// (distribution-spec, mounting a blob), which is then used.
pub(super) async fn begin(upload: &Upload<'_>) -> Result<Begun, Failure> {
    let transport = upload.transport;
    let mounts = transport.uploads.profile.mounts;
    let from = upload.blob.mount_from().filter(|_| mounts);
    if let (Some(digest), Some(from)) = (upload.blob.digest(), from) {
        match mount(upload, digest, from).await {
            Ok(begun) => return Ok(begun),
            // Registries refuse mounts in many ways; none of them is about the upload itself.
            Err(Failure::Fatal(error)) if error.is_retryable() => return Err(error.into()),
            Err(_) => {}
        }
    }
    let url = transport.endpoint.uploads();
    let call = Call::new(STAGE, Method::POST, url, &upload.scope);
    let response = transport.send(&call).await?;
    if response.status() == StatusCode::ACCEPTED {
        return session(upload, &response);
    }
    Err(transport
        .unexpected(response, STAGE, upload.object())
        .await
        .into())
}

async fn mount(upload: &Upload<'_>, digest: &Digest, from: &str) -> Result<Begun, Failure> {
    let transport = upload.transport;
    let scope = upload.scope.clone().and_pull(from);
    let mut url = transport.endpoint.uploads();
    url.query_pairs_mut()
        .append_pair("mount", digest.as_ref())
        .append_pair("from", from);
    let call = Call::new(STAGE, Method::POST, url, &scope);
    let response = transport.send(&call).await?;
    match response.status() {
        StatusCode::CREATED => {
            (upload.progress)(Event::Mounted {
                blob: upload.index,
                digest: digest.clone(),
                size: upload.blob.size(),
                from: from.to_owned(),
            });
            Ok(Begun::Mounted(digest.clone()))
        }
        StatusCode::ACCEPTED => session(upload, &response),
        _ => Err(transport
            .unexpected(response, STAGE, upload.object())
            .await
            .into()),
    }
}

fn session(upload: &Upload<'_>, response: &Response) -> Result<Begun, Failure> {
    let location = upload.transport.location(response, STAGE);
    let lost = |error: Error| {
        // The session may exist, but nobody knows where; another may come with its address.
        if response.headers().contains_key(http::header::LOCATION) {
            Failure::Fatal(error)
        } else {
            Failure::Gone(error)
        }
    };
    let least = response
        .headers()
        .get("oci-chunk-min-length")
        .and_then(|value| value.to_str().ok()?.trim().parse().ok());
    Ok(Begun::Session(location.map_err(lost)?, least))
}
