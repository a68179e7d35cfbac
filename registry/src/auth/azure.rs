//! Azure's own credential types as a source of Entra ID tokens (feature `azure`).

use std::sync::Arc;

use azure_core::credentials::TokenCredential;
use futures::FutureExt as _;

use crate::auth::credentials::Credentials;
use crate::auth::entra::AccessToken;
use crate::error::BoxError;

impl Credentials {
    /// An Entra ID identity: a workload identity, a managed identity, a service principal or a
    /// developer's login, as the `azure_identity` crate makes them. As
    /// [`entra_from`](Self::entra_from) otherwise.
    pub fn entra(credential: Arc<dyn TokenCredential>, tenant: Option<&str>) -> Self {
        let source = Arc::new(move |scope: String| {
            let credential = Arc::clone(&credential);
            async move {
                let token = credential.get_token(&[&scope], None).await?;
                Ok::<_, BoxError>(AccessToken::new(token.token.secret()))
            }
            .boxed()
        });
        Self::entra_from(source, tenant)
    }
}
