//! Who we are to a registry: challenges answered, tokens cached, credentials kept to their host.

#[cfg(feature = "azure")]
mod azure;
mod challenge;
mod credentials;
mod docker_config;
mod entra;
mod helper;
mod life;
mod refresh;
mod token;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, HeaderValue};
use tokio::sync::Mutex as AsyncMutex;

use challenge::Challenge;
use credentials::Kind;
use token::{Ask, Token};

use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::net::Net;
use crate::secret::Secret;

pub use credentials::Credentials;
pub use docker_config::DockerConfig;
pub use entra::{AccessToken, TokenSource};
pub(crate) use token::Scope;

/// What a request is signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Authorization {
    None,
    Basic { username: String, password: Secret },
    Bearer(Secret),
}

impl Authorization {
    /// The value of the `Authorization` header, marked sensitive.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        use base64::Engine as _;
        let text = match self {
            Self::None => return None,
            Self::Basic { username, password } => {
                let pair = format!("{username}:{}", password.reveal());
                format!(
                    "Basic {}",
                    base64::engine::general_purpose::STANDARD.encode(pair)
                )
            }
            Self::Bearer(token) => format!("Bearer {}", token.reveal()),
        };
        // A token with control characters is no token; the request then goes without it.
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

type Slot = Arc<AsyncMutex<Option<Token>>>;

/// What was learned of one registry: what it wants, and the tokens it gave.
#[derive(Default)]
pub(crate) struct Learned {
    challenge: Mutex<Option<Challenge>>,
    slots: Mutex<HashMap<Scope, Slot>>,
}

/// The authenticator of one repository. Those of one registry that were given clones of the same
/// credentials share what they learn.
pub(crate) struct Auth {
    net: Net,
    endpoint: Arc<Endpoint>,
    credentials: Credentials,
    learned: Arc<Learned>,
}

// A challenge may carry a signed URL, so it is left out.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("endpoint", &self.endpoint.name())
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

impl Auth {
    pub(crate) fn new(net: Net, endpoint: Arc<Endpoint>, credentials: Credentials) -> Self {
        let learned = credentials.learned_of(&endpoint.origin());
        Self {
            net,
            endpoint,
            credentials,
            learned,
        }
    }

    fn known_challenge(&self) -> Option<Challenge> {
        self.learned
            .challenge
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What to sign a request of `scope` with; a fresh token is fetched where one is needed.
    pub(crate) async fn authorization(&self, scope: &Scope) -> Result<Authorization> {
        if let Kind::Bearer(token) = &self.credentials.kind {
            return Ok(Authorization::Bearer(token.clone()));
        }
        match (self.known_challenge(), &self.credentials.kind) {
            (Some(Challenge::Bearer { realm, service }), _) => self
                .token(scope, &realm, service.as_deref())
                .await
                .map(Authorization::Bearer),
            (Some(Challenge::Basic), Kind::Basic { username, password }) => {
                Ok(Authorization::Basic {
                    username: username.clone(),
                    password: password.clone(),
                })
            }
            _ => Ok(Authorization::None),
        }
    }

    fn slot(&self, scope: &Scope) -> Slot {
        let mut slots = self
            .learned
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(scope.clone()).or_default())
    }

    /// The token of `scope`. Its slot stays locked while it is fetched, so that parallel
    /// uploads fetch one token and not one each.
    async fn token(&self, scope: &Scope, realm: &str, service: Option<&str>) -> Result<Secret> {
        let slot = self.slot(scope);
        let mut held = slot.lock().await;
        if let Some(token) = held.as_ref().filter(|token| token.is_fresh()) {
            return Ok(token.secret.clone());
        }
        let ask = Ask {
            net: &self.net,
            endpoint: &self.endpoint,
            credentials: &self.credentials,
            realm,
            service,
        };
        let token = ask.fetch(scope).await?;
        let secret = token.secret.clone();
        *held = Some(token);
        Ok(secret)
    }

    /// Takes note of a 401 to a request signed with `used`; says whether signing anew may help.
    pub(crate) async fn refused(
        &self,
        used: &Authorization,
        headers: &HeaderMap,
        scope: &Scope,
    ) -> bool {
        if let Some(challenge) = Challenge::from_headers(headers) {
            *self
                .learned
                .challenge
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(challenge);
        }
        match (self.known_challenge(), &self.credentials.kind, used) {
            (_, Kind::Bearer(_), _) | (None, ..) => false,
            (Some(Challenge::Basic), kind, Authorization::None) => {
                matches!(kind, Kind::Basic { .. })
            }
            (Some(Challenge::Basic), ..) => false,
            (Some(Challenge::Bearer { .. }), _, used) => {
                self.forget(scope, used).await;
                true
            }
        }
    }

    /// Drops the cached token of `scope` if it is the one in `used`; another task may have
    /// renewed it meanwhile.
    async fn forget(&self, scope: &Scope, used: &Authorization) {
        let Authorization::Bearer(used) = used else {
            return;
        };
        let slot = self.slot(scope);
        let mut held = slot.lock().await;
        if held.as_ref().is_some_and(|token| token.secret == *used) {
            *held = None;
        }
    }

    /// The error for a 401 with these headers that signing anew did not cure: some registries
    /// say by it that the credentials are known but may not do this.
    pub(crate) fn denied(&self, stage: &'static str, headers: &HeaderMap) -> Error {
        if !self.credentials.is_anonymous() && challenge::is_insufficient(headers) {
            return self.forbidden(stage);
        }
        self.unauthorized(stage)
    }

    /// The error for a 401 that signing anew did not cure.
    pub(crate) fn unauthorized(&self, stage: &'static str) -> Error {
        let registry = self.endpoint.registry();
        let detail = if self.credentials.is_anonymous() {
            format!(
                "{registry} wants credentials, and there are none ({})",
                self.credentials.source()
            )
        } else {
            format!("{registry} does not accept {}", self.credentials.source())
        };
        Error::new(ErrorKind::Unauthorized, stage, self.endpoint.name(), detail)
            .with_hint(advice(&self.credentials))
    }

    /// The error for a 403.
    pub(crate) fn forbidden(&self, stage: &'static str) -> Error {
        let detail = format!("{} may not do this", self.credentials.source());
        Error::new(ErrorKind::Forbidden, stage, self.endpoint.name(), detail).with_hint(
            if stage.starts_with("delete") {
                "grant the account the right to delete in this repository"
            } else {
                "grant the account pull and push on this repository"
            },
        )
    }
}

/// What to do when credentials are refused.
pub(crate) fn advice(credentials: &Credentials) -> String {
    if credentials.is_anonymous() {
        "log in to the registry, so that the docker config holds credentials for this host"
            .to_owned()
    } else {
        format!(
            "log in to the registry again, or check {}; it may be wrong or expired",
            credentials.source()
        )
    }
}
