//! The fault proxy in front of a real registry: what passes, and what each fault does.

mod answers;
mod push;
mod seeded;
mod strict;

use modelship_testkit::fault_proxy::{Fault, Plan, What};
use modelship_testkit::{DockerRegistry, FaultProxy, need};
use reqwest::{Method, Response, redirect};
use sha2::{Digest, Sha256};

/// A registry, a proxy in front of it, and a client that only does what it is told.
struct Bench {
    proxy: FaultProxy,
    registry: DockerRegistry,
    client: reqwest::Client,
}

impl Bench {
    async fn new(plan: Plan) -> Option<Self> {
        let registry = need(DockerRegistry::open().await)?;
        let proxy = need(FaultProxy::start(&registry.url(), plan).await)?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .redirect(redirect::Policy::none())
            .build()
            .unwrap();
        Some(Self {
            proxy,
            registry,
            client,
        })
    }

    async fn one(on: impl Into<modelship_testkit::fault_proxy::On>, what: What) -> Option<Self> {
        Self::new(Plan::of([Fault::new(on, what)])).await
    }

    /// Sends a request to `target`: a path with its query, or a whole URL.
    async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> reqwest::Result<Response> {
        let url = match target.starts_with('/') {
            true => format!("{}{target}", self.proxy.url()),
            false => target.to_owned(),
        };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let empty = body.is_empty() && (method == "POST" || method == "PUT");
        let mut request = self.client.request(method, url).body(body);
        if empty {
            request = request.header("Content-Length", "0");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await
    }

    async fn open(&self) -> String {
        let answer = self.send("POST", "/v2/a/blobs/uploads/", &[], Vec::new());
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 202);
        location(&answer)
    }

    async fn patch(&self, location: &str, body: &[u8]) -> reqwest::Result<Response> {
        let kind = [("Content-Type", "application/octet-stream")];
        self.send("PATCH", location, &kind, body.to_vec()).await
    }

    async fn commit(&self, location: &str, digest: &str) -> reqwest::Result<Response> {
        let target = format!("{location}&digest={digest}");
        self.send("PUT", &target, &[], Vec::new()).await
    }

    /// Pushes a blob as a client does that meets no fault.
    async fn push(&self, body: &[u8]) -> String {
        let digest = digest(body);
        let location = location(&self.patch(&self.open().await, body).await.unwrap());
        let answer = self.commit(&location, &digest).await.unwrap();
        assert_eq!(answer.status(), 201);
        digest
    }

    fn applied(&self) -> Vec<What> {
        let applied = self.proxy.applied().into_iter();
        applied.map(|applied| applied.what).collect()
    }
}

fn location(answer: &Response) -> String {
    answer.headers()["location"].to_str().unwrap().to_owned()
}

fn digest(body: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(body)))
}

/// Whether the error is a connection that the other side reset.
fn is_reset(error: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::ConnectionReset;
        }
        source = error.source();
    }
    false
}
