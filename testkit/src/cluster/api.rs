//! Plain requests to the API server, independent of the client under test.

use std::fmt;
use std::time::Duration;

use reqwest::{Certificate, Client, Method, Response, StatusCode};
use serde_json::Value;

use super::broken;
use super::pki::Pki;
use crate::Missing;

/// The API server as its administrator sees it. Paths start with a slash.
#[derive(Clone)]
pub struct Api {
    client: Client,
    server: String,
}

impl Api {
    pub(super) fn new(server: &str, pki: &Pki) -> Result<Self, Missing> {
        let admin = pki.identity("admin")?;
        let pem = format!("{}{}", admin.certificate_pem, admin.key_pem);
        let ca = Certificate::from_pem(pki.ca_pem().as_bytes()).map_err(broken)?;
        let client = Client::builder()
            .no_proxy()
            .tls_certs_only([ca])
            .identity(reqwest::Identity::from_pem(pem.as_bytes()).map_err(broken)?)
            .timeout(Duration::from_secs(30))
            // Tests have a runtime each: no connection may outlive the one that made it.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(broken)?;
        Ok(Self {
            client,
            server: server.to_owned(),
        })
    }

    /// The server's URL.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Whether the server calls itself ready.
    pub async fn is_ready(&self) -> bool {
        let answer = self
            .client
            .get(format!("{}/readyz", self.server))
            .send()
            .await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// Reads an object or a list; `None` where there is none.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn get(&self, path: &str) -> Result<Option<Value>, Missing> {
        let response = self.send(Method::GET, path, None).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        checked(response, "get", path).await.map(Some)
    }

    /// Creates an object.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value, Missing> {
        checked(
            self.send(Method::POST, path, Some(object)).await?,
            "create",
            path,
        )
        .await
    }

    /// Merges a patch into an object (RFC 7396).
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn patch(&self, path: &str, patch: &Value) -> Result<Value, Missing> {
        checked(
            self.send(Method::PATCH, path, Some(patch)).await?,
            "patch",
            path,
        )
        .await
    }

    /// Deletes an object or a collection, without waiting for its end.
    ///
    /// # Errors
    /// When the server refuses or does not answer.
    pub async fn delete(&self, path: &str) -> Result<(), Missing> {
        checked(self.send(Method::DELETE, path, None).await?, "delete", path)
            .await
            .map(drop)
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response, Missing> {
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let mut request = self
            .client
            .request(method, format!("{}{path}", self.server));
        if let Some(body) = body {
            request = request.header("content-type", kind).body(body.to_string());
        }
        request
            .send()
            .await
            .map_err(|error| broken(format!("{path}: {error:?}")))
    }
}

async fn checked(response: Response, what: &str, path: &str) -> Result<Value, Missing> {
    let status = response.status();
    let body = response.text().await.map_err(broken)?;
    if !status.is_success() {
        return Err(broken(format!("{what} {path}: {status} {body}")));
    }
    serde_json::from_str(&body).map_err(|error| broken(format!("{what} {path}: {error}")))
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}
