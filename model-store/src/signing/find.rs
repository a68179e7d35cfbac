//! Finds the signature among the files of a version.

use futures::TryStreamExt as _;

use super::bundle::MAX_BUNDLE;
use super::refused::STAGE;
use super::{SignaturePolicy, Verified, Verifier};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::model::ModelVersion;
use crate::store::ModelStore;

impl ModelStore {
    /// Reads the signature of `model` from the file that `verifier` names, and verifies it. `None`
    /// says that the policy lets the version pass unsigned.
    ///
    /// # Errors
    /// `Untrusted` for a required signature that is missing, one larger than 16 MiB, and as
    /// [`Verifier::verify`]; those of [`ModelStore::read`].
    pub async fn verify_signature(
        &self,
        model: &ModelVersion,
        verifier: &Verifier,
        policy: SignaturePolicy,
    ) -> Result<Option<Verified>> {
        let object = format!("{}@{}", model.url(), model.version());
        let refuse = |detail: String| Error::new(ErrorKind::Untrusted, STAGE, &object, detail);
        let path = verifier.signature_file();
        match (policy, model.file(path)) {
            (SignaturePolicy::Off, _) | (SignaturePolicy::IfPresent, None) => Ok(None),
            (SignaturePolicy::Required, None) => {
                let detail = format!("a signature is required, and there is no {path:?}");
                Err(refuse(detail)
                    .with_hint("sign the model before it is published, into that very file"))
            }
            (_, Some(file)) if file.size > MAX_BUNDLE => {
                Err(refuse(format!("{path:?} is larger than 16 MiB"))
                    .with_hint("that is no signature: sign the model into that file"))
            }
            (_, Some(_)) => {
                let bundle = self.small_file(model, path).await?;
                verifier.verify(model, &bundle).map(Some)
            }
        }
    }

    /// A file of known, small size; a read gives no more bytes than the lock says.
    async fn small_file(&self, model: &ModelVersion, path: &str) -> Result<Vec<u8>> {
        let chunks: Result<Vec<_>, BoxError> = self.read(model, path, 0)?.try_collect().await;
        chunks
            .map(|chunks| chunks.concat())
            .map_err(|error| match error.downcast::<Error>() {
                Ok(own) => *own,
                Err(other) => {
                    Error::new(ErrorKind::Io, STAGE, path, "cannot be read").with_source(other)
                }
            })
    }
}
