//! A token server of our own, as registries send their clients to.

mod jwt;
mod server;

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::Missing;
use jwt::Signer;

/// The issuer's name in its tokens.
const NAME: &str = "testkit-issuer";
/// The audience of its tokens.
const SERVICE: &str = "testkit-registry";

/// A token server on loopback, over plain HTTP.
///
/// It speaks Docker's token protocol at `/token` (`GET` with Basic credentials or none; `POST` with
/// `grant_type` of `password` or `refresh_token`) and that of Azure's registry: `/oauth2/exchange`
/// turns an Entra token into a refresh token, `/oauth2/token` turns that into an access token.
pub struct TokenIssuer {
    issuing: Arc<Issuing>,
    port: u16,
    listener: AbortHandle,
}

/// What a [`TokenIssuer`] grants, and to whom.
#[derive(Clone)]
pub struct Options {
    /// Names and passwords.
    pub users: Vec<(String, String)>,
    /// Whether those without credentials get a token.
    pub anonymous: bool,
    /// How long registries accept a token, which is its `expires_in` too. The `exp` in the token is
    /// a minute less, for registries accept a token for a minute after it.
    pub life_seconds: u64,
    /// How many requests fail with 503 before the first that does not.
    pub fail_first: usize,
    /// Which of several scopes are looked at.
    pub reads: Reads,
    /// The actions granted of a scope, to a user or to nobody.
    pub grant: fn(&Scope, Option<&str>) -> Vec<String>,
}

impl Default for Options {
    /// One user, `tester` with the password `secret`; all that is asked, for five minutes.
    fn default() -> Self {
        Self {
            users: vec![("tester".to_owned(), "secret".to_owned())],
            anonymous: false,
            life_seconds: 300,
            fail_first: 0,
            reads: Reads::All,
            grant: |scope, _| scope.actions.clone(),
        }
    }
}

/// Which of several scopes an issuer looks at: vendors differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// All.
    #[default]
    All,
    /// Only the first.
    First,
    /// Only the last.
    Last,
}

impl Reads {
    fn of(self, scopes: &[Scope]) -> &[Scope] {
        match self {
            Self::All => scopes,
            Self::First => &scopes[..scopes.len().min(1)],
            Self::Last => &scopes[scopes.len().saturating_sub(1)..],
        }
    }
}

/// What is asked for: `repository:NAME:pull,push`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Such as `repository`.
    pub kind: String,
    /// The repository.
    pub name: String,
    /// Such as `pull` and `push`.
    pub actions: Vec<String>,
}

impl Scope {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        Some(Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions.split(',').map(str::to_owned).collect(),
        })
    }

    fn with(self, actions: Vec<String>) -> Self {
        Self { actions, ..self }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind, self.name, self.actions.join(","))
    }
}

/// How a client said who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Not at all.
    None,
    /// `Authorization: Basic`.
    Basic,
    /// A form with name and password.
    Password,
    /// A form with a refresh token.
    RefreshToken,
    /// A form with an Entra token.
    AccessToken,
}

/// A request for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The `grant_type` of a form.
    pub grant_type: Option<String>,
    /// The `service`.
    pub service: Option<String>,
    /// The scopes, one by one.
    pub scopes: Vec<String>,
    /// Which credentials came.
    pub credentials: Credentials,
    /// The status of the answer.
    pub status: u16,
}

struct Issuing {
    options: Options,
    signer: Signer,
    refresh_token: String,
    aad_token: String,
    requests: Mutex<Vec<TokenRequest>>,
}

impl Issuing {
    fn seen(&self) -> MutexGuard<'_, Vec<TokenRequest>> {
        // A poisoned lock is that of a test which has failed already.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenIssuer {
    /// Starts an issuer.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(options: Options) -> Result<Self, Missing> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let socket = socket.await.map_err(broken)?;
        let port = socket.local_addr().map_err(broken)?.port();
        let secret = || hex::encode(rand::random::<[u8; 16]>());
        let issuing = Arc::new(Issuing {
            options,
            signer: Signer::new()?,
            refresh_token: secret(),
            aad_token: secret(),
            requests: Mutex::default(),
        });
        let listener = tokio::spawn(server::listen(socket, Arc::clone(&issuing)));
        Ok(Self {
            issuing,
            port,
            listener: listener.abort_handle(),
        })
    }

    /// The base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The URL that registries send their clients to.
    pub fn realm(&self) -> String {
        format!("{}/token", self.url())
    }

    /// The issuer's name in its tokens.
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// The service that its tokens are for.
    pub fn service(&self) -> &'static str {
        SERVICE
    }

    /// The certificate that registries trust tokens by.
    pub fn root_pem(&self) -> &str {
        self.issuing.signer.root_pem()
    }

    /// A refresh token that it accepts: what `identitytoken` holds in a Docker configuration.
    pub fn refresh_token(&self) -> &str {
        &self.issuing.refresh_token
    }

    /// The Entra token that `/oauth2/exchange` accepts.
    pub fn entra_token(&self) -> &str {
        &self.issuing.aad_token
    }

    /// The requests so far, answered or failed.
    pub fn requests(&self) -> Vec<TokenRequest> {
        self.issuing.seen().clone()
    }
}

impl Drop for TokenIssuer {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("life_seconds", &self.life_seconds)
            .field("reads", &self.reads)
            .finish_non_exhaustive()
    }
}

fn broken(error: impl fmt::Display) -> Missing {
    Missing::broken("token issuer", error)
}
