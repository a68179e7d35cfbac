//! Refresh tokens: got by exchange or given, kept in memory, replaced when the registry does so.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use http::header;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use crate::auth::entra::{self, Entra};
use crate::auth::life;
use crate::auth::token::{Answer, Ask, Reply, Scope, Token};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;

const STAGE: &str = "exchange Entra ID token";
/// A refresh token of Azure Container Registry lives three hours where it does not say so.
const LIFE: Duration = Duration::from_hours(3);

/// Refresh tokens, by registry: one is never shown to another registry than its issuer's.
pub(crate) struct Vault {
    given: Option<Secret>,
    entra: Option<Entra>,
    held: Mutex<HashMap<String, Held>>,
}

#[derive(Clone)]
struct Held {
    secret: Secret,
    /// When to exchange anew; never for one that was given.
    renew: Option<Instant>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault")
            .field("given", &self.given)
            .field("entra", &self.entra)
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// Of one refresh token.
    pub(crate) fn given(token: Secret) -> Self {
        Self {
            given: Some(token),
            entra: None,
            held: Mutex::default(),
        }
    }

    /// Of what Entra ID tokens are exchanged for.
    pub(crate) fn exchanged(entra: Entra) -> Self {
        Self {
            given: None,
            entra: Some(entra),
            held: Mutex::default(),
        }
    }

    /// The refresh token as it was given.
    #[cfg(test)]
    pub(crate) fn reveal(&self) -> &str {
        self.given.as_ref().map_or("", Secret::reveal)
    }

    #[cfg(all(test, feature = "azure"))]
    pub(crate) fn entra(&self) -> Option<&Entra> {
        self.entra.as_ref()
    }

    /// An access token for `scope`, by `grant_type=refresh_token`. One request at a time: the
    /// first use of a refresh token may put an end to it.
    pub(crate) async fn token(&self, ask: &Ask<'_>, realm: &Url, scope: &Scope) -> Result<Token> {
        let registry = ask.endpoint.registry().to_owned();
        let mut held = self.held.lock().await;
        let known = held
            .get(&registry)
            .filter(|held| held.renew.is_none_or(|renew| Instant::now() < renew))
            .cloned();
        let (mut refresh, mut is_new) = match known {
            Some(known) => (known, false),
            None => (self.obtain(ask, realm).await?, true),
        };
        loop {
            match grant(ask, realm, scope, &refresh.secret).await {
                Ok(reply) => {
                    if let Some(next) = &reply.answer.refresh_token {
                        refresh = self.hold(next, &reply);
                    }
                    held.insert(registry, refresh);
                    return ask.accept(&reply);
                }
                // The registry may have ended it early, such as when its keys were changed.
                Err(error) if error.kind() == ErrorKind::Unauthorized && !is_new => {
                    held.remove(&registry);
                    if self.entra.is_none() {
                        return Err(error);
                    }
                    refresh = self.obtain(ask, realm).await?;
                    is_new = true;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn hold(&self, secret: &str, reply: &Reply) -> Held {
        // What is exchanged can be exchanged anew in time; what was given can only be used.
        let life = life::left(life::Stated::default(), secret).unwrap_or(LIFE);
        Held {
            secret: Secret::new(secret),
            renew: self
                .entra
                .is_some()
                .then(|| reply.asked_at + life::usable(life)),
        }
    }

    async fn obtain(&self, ask: &Ask<'_>, realm: &Url) -> Result<Held> {
        match (&self.given, &self.entra) {
            (Some(given), _) => Ok(Held {
                secret: given.clone(),
                renew: None,
            }),
            (None, Some(entra)) => self.exchange(ask, realm, entra).await,
            (None, None) => Err(ask.error(ErrorKind::Invalid, "there is no refresh token")),
        }
    }

    /// Entra ID token in, refresh token out (Azure Container Registry, `POST /oauth2/exchange`).
    async fn exchange(&self, ask: &Ask<'_>, realm: &Url, entra: &Entra) -> Result<Held> {
        let failed = |kind, detail| Error::new(kind, STAGE, ask.endpoint.registry(), detail);
        // An Entra ID token is good for every registry of its owner, so no other host than the
        // registry the user named may see it.
        if !ask.endpoint.is_host_of(realm) {
            let detail = "its token endpoint is on another host, so it is no Azure registry";
            return Err(failed(ErrorKind::Unsupported, detail)
                .with_hint("use the credentials that this registry issues"));
        }
        let url = realm
            .join("/oauth2/exchange")
            .map_err(|_| failed(ErrorKind::Protocol, "its token endpoint is not a URL"))?;
        let host = ask.endpoint.host();
        let access = (entra.source)(entra::scope_of(host))
            .await
            .map_err(|error| {
                failed(ErrorKind::Unauthorized, "no Entra ID token could be had")
                    .with_source(error)
                    .with_hint("check the identity this program runs as, or log in to Azure again")
            })?;
        let mut fields = vec![
            ("grant_type", "access_token"),
            ("service", ask.service.unwrap_or(host)),
            ("access_token", access.reveal()),
        ];
        fields.extend(entra.tenant.as_deref().map(|tenant| ("tenant", tenant)));
        let reply = ask.send(STAGE, &url, || post(ask, &url, &fields)).await?;
        let refresh = reply.answer.refresh_token.as_deref().unwrap_or_default();
        if refresh.is_empty() {
            let detail = "the answer to the exchange has no refresh token";
            return Err(failed(ErrorKind::Protocol, detail));
        }
        Ok(self.hold(refresh, &reply))
    }
}

async fn grant(ask: &Ask<'_>, realm: &Url, scope: &Scope, refresh: &Secret) -> Result<Reply> {
    let mut fields = ask.fields(scope);
    fields.push(("grant_type", "refresh_token"));
    fields.push(("client_id", "modelship"));
    fields.push(("refresh_token", refresh.reveal()));
    ask.send(super::token::STAGE, realm, || post(ask, realm, &fields))
        .await
}

/// A form whose secrets stay where they are sent: a body that is a stream is not sent again to
/// where a redirect points.
fn post(ask: &Ask<'_>, url: &Url, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
    let form = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    let length = form.len();
    let body = futures::stream::once(std::future::ready(Ok::<_, std::convert::Infallible>(form)));
    ask.net
        .client
        .post(url.clone())
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::CONTENT_LENGTH, length)
        .body(reqwest::Body::wrap_stream(body))
}

impl Answer {
    /// The access token, under either of its names.
    pub(crate) fn access(&self) -> Option<&str> {
        self.token
            .as_deref()
            .or(self.access_token.as_deref())
            .filter(|text| !text.is_empty())
    }
}
