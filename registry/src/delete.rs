//! Deleting manifests, tags and blobs (distribution-spec, content management).

use http::{Method, StatusCode};
use oci_spec::image::Digest;
use url::Url;

use crate::auth::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::repository::Repository;
use crate::transport::Call;

/// # Deleting
///
/// Registries may not allow it at all ([`ErrorKind::Unsupported`]), and may want rights beyond
/// those of a push ([`ErrorKind::Forbidden`]).
impl Repository {
    /// Deletes the manifest `digest`, and with it every tag that points at it. Blobs stay until
    /// the registry collects its garbage. What refers to it is not touched.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when it is not there, [`ErrorKind::Unsupported`] where deleting
    /// is switched off; else what the registry says.
    pub async fn delete_manifest(&self, digest: &Digest) -> Result<()> {
        let url = self.transport.endpoint.manifest(digest.as_ref());
        let hint = "switch deleting on in the registry's configuration";
        self.delete("delete manifest", url, digest.as_ref(), hint)
            .await
    }

    /// Deletes the tag only; the manifest stays.
    ///
    /// # Errors
    ///
    /// As for [`delete_manifest`](Self::delete_manifest). Many registries cannot do this.
    pub async fn delete_tag(&self, tag: &str) -> Result<()> {
        self.check_tag(tag)?;
        let url = self.transport.endpoint.manifest(tag);
        let hint = "point the tag at another manifest, or delete the manifest by its digest, which removes all its tags";
        self.delete("delete tag", url, tag, hint).await
    }

    /// Deletes a blob. Manifests that name it are broken from then on.
    ///
    /// # Errors
    ///
    /// As for [`delete_manifest`](Self::delete_manifest).
    pub async fn delete_blob(&self, digest: &Digest) -> Result<()> {
        let url = self.transport.endpoint.blob(digest);
        let hint = "leave it to the registry's garbage collection";
        self.delete("delete blob", url, digest.as_ref(), hint).await
    }

    async fn delete(&self, stage: &'static str, url: Url, place: &str, hint: &str) -> Result<()> {
        let scope = Scope::delete(self.transport.endpoint.repository());
        let call = Call::new(stage, Method::DELETE, url, &scope);
        let response = self.transport.send(&call).await?;
        let status = response.status();
        if matches!(status.as_u16(), 200 | 202 | 204) {
            return Ok(());
        }
        let object = self.object(place);
        let error = self.transport.unexpected(response, stage, &*object).await;
        let refused = matches!(
            status,
            StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
        );
        if refused {
            let detail = format!("the registry does not do this ({status})");
            return Err(Error::new(ErrorKind::Unsupported, stage, object, detail)
                .with_source(error)
                .with_hint(hint));
        }
        Err(error)
    }
}
