//! Committing a session by its digest, and finding out what became of a commit.

use http::{Method, StatusCode, header};
use oci_spec::image::Digest;
use reqwest::Response;

use super::session::Transfer;
use super::tries::Tries;
use super::{Failure, STAGE};
use crate::endpoint::with_digest;
use crate::error::{ErrorKind, Result};
use crate::net;

impl Transfer<'_> {
    /// Commits the session. An answer that is lost or late is settled by looking for the blob;
    /// a commit that did not arrive is sent again, since the session has all bytes.
    pub(super) async fn commit(
        &self,
        digest: Digest,
        tries: &mut Tries<'_>,
    ) -> Result<Digest, Failure> {
        loop {
            let failure = match self.commit_once(&digest).await {
                Ok(()) => return Ok(digest),
                Err(failure) => failure,
            };
            let again = matches!(failure, Failure::Again(..));
            let (error, asked) = match self.or_committed(digest.clone(), failure).await {
                Err(Failure::Again(error, asked)) if again => (error, asked),
                settled => return settled,
            };
            let Some(pause) = tries.pause(asked) else {
                return Err(Failure::Again(error, asked));
            };
            self.upload.report_retry(tries.number(), &error);
            tries.fail();
            tokio::time::sleep(pause).await;
        }
    }

    async fn commit_once(&self, digest: &Digest) -> Result<(), Failure> {
        let transport = self.upload.transport;
        let url = with_digest(&self.session, digest);
        let request = transport
            .net
            .client
            .put(url.clone())
            .header(header::CONTENT_LENGTH, 0);
        let (request, used) = transport.sign(request, &url, &self.upload.scope).await?;
        let limit = transport.net.options.commit_timeout;
        let response = match tokio::time::timeout(limit, request.send()).await {
            Ok(sent) => sent
                .map_err(|error| net::transport_error(STAGE, &url, error))
                .map_err(Failure::of_one_try)?,
            Err(_) => return Err(Failure::of_one_try(net::timeout_error(STAGE, &url, limit))),
        };
        match response.status() {
            status if status.is_success() => self.check_commit(&response, digest),
            // The token ran out during the transfer; the bytes are there, so ask once more.
            StatusCode::UNAUTHORIZED if transport.endpoint.owns(&url) => {
                Err(self.refused(&used, &response).await)
            }
            _ => Err(self.verdict(response, &Method::PUT, 0).await),
        }
    }

    /// The commit may have landed although its answer did not.
    pub(super) async fn or_committed(
        &self,
        digest: Digest,
        failure: Failure,
    ) -> Result<Digest, Failure> {
        match failure {
            Failure::Again(..) | Failure::Gone(..) if self.upload.exists(&digest).await? => {
                Ok(digest)
            }
            failure => Err(failure),
        }
    }

    pub(super) fn check_commit(&self, response: &Response, digest: &Digest) -> Result<(), Failure> {
        let said = response
            .headers()
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok());
        match said {
            Some(said) if said != digest.as_ref() => {
                let detail = format!("the registry stored {digest} under another digest");
                let error = self.upload.error(ErrorKind::Protocol, detail);
                Err(Failure::Fatal(error))
            }
            _ => Ok(()),
        }
    }
}
