//! Credentials for one registry, and where they were found.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::auth::Learned;
use crate::auth::docker_config::DockerConfig;
use crate::auth::entra::{Entra, TokenSource};
use crate::auth::refresh::Vault;
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;

/// What to show a registry. `Debug` shows the kind and the source, never the secret.
///
/// Clones share the tokens that registries give for them, so that two repositories of one
/// registry that are opened with clones ask once.
#[derive(Clone)]
pub struct Credentials {
    pub(crate) kind: Kind,
    source: String,
    learned: Arc<Mutex<HashMap<String, Arc<Learned>>>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("kind", &self.kind)
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// The kinds of credentials.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Nothing; public repositories only.
    Anonymous,
    /// A user name and a password, or a token in the place of one.
    Basic { username: String, password: Secret },
    /// An OAuth 2 refresh token, which `docker login` and `az acr login` store as
    /// `identitytoken`, or one got by exchange; it is used at the registry's token endpoint.
    /// Clones share what the registry replaced it by.
    Refresh(Arc<Vault>),
    /// A bearer token made elsewhere, sent as it is.
    Bearer(Secret),
}

impl Credentials {
    fn new(kind: Kind, source: &str) -> Self {
        Self {
            kind,
            source: source.to_owned(),
            learned: Arc::default(),
        }
    }

    /// What is known of the registry at `origin`.
    pub(crate) fn learned_of(&self, origin: &str) -> Arc<Learned> {
        let mut learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(learned.entry(origin.to_owned()).or_default())
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
    /// Registry takes its own refresh tokens this way; for an Entra ID token see
    /// [`entra_from`](Self::entra_from).
    ///
    /// A refresh token that the registry sends instead replaces it in memory, for all clones.
    pub fn identity_token(token: impl Into<String>) -> Self {
        let vault = Vault::given(Secret::new(token));
        Self::new(Kind::Refresh(Arc::new(vault)), "the given identity token")
    }

    /// An Entra ID identity whose access tokens come from `source`, for Azure Container
    /// Registry. Such a token is exchanged at the registry for a refresh token (`POST
    /// /oauth2/exchange`), and that for access tokens by scope (`POST /oauth2/token`). The
    /// refresh token is kept in memory, for all clones, and exchanged anew before it expires.
    ///
    /// `tenant` is needed where the identity is known in more than one. The Entra ID token is
    /// sent to the registry's own host only.
    pub fn entra_from(source: TokenSource, tenant: Option<&str>) -> Self {
        let vault = Vault::exchanged(Entra {
            source,
            tenant: tenant.map(str::to_owned),
        });
        Self::new(Kind::Refresh(Arc::new(vault)), "the Entra ID identity")
    }

    /// The `authorizationToken` of Amazon ECR's `GetAuthorizationToken`: base64 of
    /// `AWS:password`, good for twelve hours.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is not of that form.
    pub fn ecr(authorization_token: &str) -> Result<Self> {
        let decoded = STANDARD.decode(authorization_token.trim()).ok();
        let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = text.as_deref().and_then(|text| text.split_once(':'));
        let (username, password) = pair.ok_or_else(|| {
            let detail = "is not base64 of user:password";
            Error::new(
                ErrorKind::Invalid,
                "read credentials",
                "the ECR authorization token",
                detail,
            )
            .with_hint("give authorizationData[].authorizationToken of GetAuthorizationToken")
        })?;
        Ok(Self::basic(username, password).with_source("the given ECR authorization token"))
    }

    /// A GitHub token for `ghcr.io`: a personal access token with the scope `write:packages`, or
    /// the `GITHUB_TOKEN` of a workflow. GitHub looks at the token only, not at a user name.
    ///
    /// A registry that wants it as a bearer token, without its token endpoint, takes base64 of
    /// it in [`bearer_token`](Self::bearer_token).
    pub fn github(token: impl Into<String>) -> Self {
        Self::basic("x-access-token", token).with_source("the given GitHub token")
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
            Credentials::github("hunter2"),
            Credentials::ecr(&STANDARD.encode("AWS:hunter2")).unwrap(),
        ] {
            let text = format!("{credentials:?}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn an_ecr_token_is_a_password() {
        let found = Credentials::ecr(&STANDARD.encode("AWS:pass:word")).unwrap();
        assert!(matches!(&found.kind, Kind::Basic { username, password }
                if username == "AWS" && password.reveal() == "pass:word"));
        for bad in ["hunter2", "aHVudGVyMg==", ""] {
            let error = Credentials::ecr(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}
