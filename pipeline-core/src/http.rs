//! One HTTP/1.1 request over a connection that the caller made: into a sandbox, or to a release.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::BoxError;

/// Answers larger than this are cut off with an error: a probe is not a download.
const LARGEST_ANSWER: usize = 4 * 1024 * 1024;

/// The answer of an app.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The first bytes of the body, for an error message.
    pub(crate) fn excerpt(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// Sends one request over `stream` and reads the whole answer, within `limit`.
pub(crate) async fn ask(
    stream: TcpStream,
    host: &str,
    path: &str,
    json: Option<&serde_json::Value>,
    limit: Duration,
) -> Result<Answer, BoxError> {
    tokio::time::timeout(limit, exchange(stream, host, path, json))
        .await
        .map_err(|_| BoxError::from(format!("no answer within {} s", limit.as_secs())))?
}

async fn exchange(
    stream: TcpStream,
    host: &str,
    path: &str,
    json: Option<&serde_json::Value>,
) -> Result<Answer, BoxError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .uri(path)
        .header("host", host)
        .header("connection", "close");
    let request = match json {
        None => request.method("GET").body(Full::new(Bytes::new())),
        Some(value) => request
            .method("POST")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(value)?))),
    }?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER)
            .collect()
            .await?
            .to_bytes();
        Ok::<_, BoxError>(Answer { status, body })
    };
    // The connection has to be driven beside the exchange; both end with this future.
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(error.into()),
        },
    }
}
