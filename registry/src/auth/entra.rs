//! Entra ID access tokens, which Azure Container Registry exchanges for tokens of its own.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::error::BoxError;
use crate::secret::Secret;

/// The scope of an Entra ID token for registries of Azure's public cloud.
const PUBLIC: &str = "https://containerregistry.azure.net/.default";

/// An access token of an identity provider. `Debug` shows nothing of it.
#[derive(Clone, Debug)]
pub struct AccessToken(Secret);

impl AccessToken {
    /// Wraps the token as the provider issued it.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(Secret::new(secret))
    }

    pub(crate) fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

/// Gets an access token for the scope it is given, such as
/// `https://containerregistry.azure.net/.default`.
///
/// It is called once per exchange, which is about every three hours, so the token has to live
/// only as long as that one request.
pub type TokenSource =
    Arc<dyn Fn(String) -> BoxFuture<'static, Result<AccessToken, BoxError>> + Send + Sync>;

/// Where Entra ID tokens come from, and whose they are.
#[derive(Clone)]
pub(crate) struct Entra {
    pub(crate) source: TokenSource,
    pub(crate) tenant: Option<String>,
}

impl fmt::Debug for Entra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entra")
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}

/// The scope to ask for, by the cloud that a registry's host name is of.
pub(crate) fn scope_of(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    if host.ends_with(".azurecr.cn") {
        "https://containerregistry.azure.cn/.default".to_owned()
    } else if host.ends_with(".azurecr.us") {
        "https://containerregistry.azure.us/.default".to_owned()
    } else {
        PUBLIC.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cloud_is_in_the_name() {
        assert_eq!(scope_of("acme.azurecr.io"), PUBLIC);
        assert_eq!(scope_of("registry.invalid"), PUBLIC);
        assert!(scope_of("acme.azurecr.cn").contains("azure.cn/"));
        assert!(scope_of("Acme.AzureCR.us").contains("azure.us/"));
        assert_eq!(scope_of("acme.azurecr.us.evil.invalid"), PUBLIC);
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", AccessToken::new("hunter2")).contains("hunter2"));
    }
}
