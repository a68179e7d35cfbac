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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::credentials::Kind;
    use azure_core::credentials::{AccessToken as AzureToken, TokenRequestOptions};
    use azure_core::time::OffsetDateTime;
    use futures::future::BoxFuture;

    #[derive(Debug)]
    struct Fixed;

    // What `#[async_trait]` makes of the method, written out.
    impl TokenCredential for Fixed {
        fn get_token<'a, 'b, 'c, 'd, 'e>(
            &'a self,
            scopes: &'b [&'c str],
            _: Option<TokenRequestOptions<'d>>,
        ) -> BoxFuture<'e, azure_core::Result<AzureToken>>
        where
            'a: 'e,
            'b: 'e,
            'c: 'e,
            'd: 'e,
        {
            let secret = format!("hunter2 for {}", scopes.join(" "));
            async { Ok(AzureToken::new(secret, OffsetDateTime::UNIX_EPOCH)) }.boxed()
        }
    }

    #[tokio::test]
    async fn azures_credentials_are_asked_for_the_registrys_scope() {
        let credentials = Credentials::entra(Arc::new(Fixed), Some("tenant"));
        let Kind::Refresh(vault) = &credentials.kind else {
            unreachable!("an Entra ID identity is exchanged for refresh tokens");
        };
        let entra = vault.entra().unwrap();
        assert_eq!(entra.tenant.as_deref(), Some("tenant"));
        let token = (entra.source)("s/.default".to_owned()).await.unwrap();
        assert_eq!(token.reveal(), "hunter2 for s/.default");
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
