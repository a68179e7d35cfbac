//! Credentials for one registry, and where they were found.

use crate::auth::docker_config::DockerConfig;
use crate::error::Result;
use crate::secret::Secret;

/// What to show a registry. `Debug` shows the kind and the source, never the secret.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub(crate) kind: Kind,
    source: String,
}

/// The kinds of credentials.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Nothing; public repositories only.
    Anonymous,
    /// A user name and a password, or a token in the place of one.
    Basic { username: String, password: Secret },
    /// An OAuth 2 refresh token, which `docker login` and `az acr login` store as
    /// `identitytoken`; it is exchanged at the registry's token endpoint.
    Refresh(Secret),
    /// A bearer token made elsewhere, sent as it is.
    Bearer(Secret),
}

impl Credentials {
    fn new(kind: Kind, source: &str) -> Self {
        Self {
            kind,
            source: source.to_owned(),
        }
    }

    /// No credentials.
    pub fn anonymous() -> Self {
        Self::new(Kind::Anonymous, "no credentials")
    }

    /// A user name and password (or an access token in its place).
    pub fn basic(username: impl Into<String>, password: impl Into<String>) -> Self {
        let kind = Kind::Basic {
            username: username.into(),
            password: Secret::new(password),
        };
        Self::new(kind, "the given user name and password")
    }

    /// A refresh token (`identitytoken`), to be exchanged for access tokens by
    /// `grant_type=refresh_token` at the token endpoint the registry names. Azure Container
    /// Registry takes its own refresh tokens this way; an Entra ID token has to be exchanged for
    /// one first.
    pub fn identity_token(token: impl Into<String>) -> Self {
        Self::new(
            Kind::Refresh(Secret::new(token)),
            "the given identity token",
        )
    }

    /// A bearer token the registry accepts as it is.
    pub fn bearer_token(token: impl Into<String>) -> Self {
        Self::new(Kind::Bearer(Secret::new(token)), "the given bearer token")
    }

    /// What `config` holds for `registry` (a host, with its port if it has one), running a
    /// credential helper where one is configured; anonymous when it holds nothing.
    ///
    /// # Errors
    ///
    /// When a configured credential helper is absent or fails, or an entry cannot be decoded.
    pub async fn for_registry(config: &DockerConfig, registry: &str) -> Result<Self> {
        config.credentials(registry).await
    }

    /// Names the source in errors, such as "docker config /home/me/.docker/config.json".
    #[must_use]
    pub fn with_source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// Where the credentials come from; fit for a message.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether there are none.
    pub fn is_anonymous(&self) -> bool {
        matches!(self.kind, Kind::Anonymous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        for credentials in [
            Credentials::basic("me", "hunter2"),
            Credentials::identity_token("hunter2"),
            Credentials::bearer_token("hunter2"),
        ] {
            let text = format!("{credentials:?}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
