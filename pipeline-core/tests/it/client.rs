//! Users of the app: one question at a time, or many while something else happens.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// How long a user waits, connection included.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(50);
/// More than a test can ask in an hour: a bound, not a target.
const MOST: usize = 50_000;

/// One who asks the app through the address of its Service.
#[derive(Clone, Debug)]
pub(crate) struct User {
    address: IpAddr,
    request: Value,
    predictions: Value,
}

impl User {
    /// A user at `address` who knows the golden request in the file `golden`.
    pub(crate) fn new(address: &str, golden: &Path) -> Self {
        let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
        Self {
            address: address.parse().unwrap(),
            request: golden["request"].clone(),
            predictions: golden["expect"]["predictions"].clone(),
        }
    }

    /// Asks for a prediction, which must be right.
    pub(crate) async fn score(&self) -> Result<(), String> {
        let answer = self.ask("/score", Some(&self.request)).await?;
        if answer["predictions"] == self.predictions {
            return Ok(());
        }
        Err(format!("/score answered {answer}"))
    }

    /// What the app says that it is.
    pub(crate) async fn version(&self) -> Value {
        self.ask("/version", None).await.unwrap()
    }

    /// Asks `path` over a connection of its own; the answer must be a success.
    async fn ask(&self, path: &str, body: Option<&Value>) -> Result<Value, String> {
        let asked = tokio::time::timeout(PATIENCE, self.exchange(path, body));
        let (status, bytes) = asked
            .await
            .map_err(|_| format!("{path}: no answer within {PATIENCE:?}"))?
            .map_err(|error| format!("{path}: {error}"))?;
        let text = String::from_utf8_lossy(&bytes);
        if status != 200 {
            return Err(format!("{path} answered {status}: {text}"));
        }
        serde_json::from_str(&text).map_err(|error| format!("{path}: {error}: {text}"))
    }

    async fn exchange(
        &self,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect((self.address, 80)).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .uri(path)
            .method(if body.is_some() { "POST" } else { "GET" })
            .header("host", self.address.to_string())
            .header("content-type", "application/json")
            .header("connection", "close")
            .body(Full::new(Bytes::from(
                body.map(Value::to_string).unwrap_or_default(),
            )))?;
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await?.to_bytes();
        connection.await??;
        Ok((status, bytes))
    }
}

/// What a crowd of questions met.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// How many questions were asked.
    pub(crate) count: usize,
    /// What went wrong, each with its moment since the start.
    pub(crate) failures: Vec<String>,
    /// The longest time to an answer.
    pub(crate) slowest: Duration,
}

/// A user who asks without pause until told to stop: readiness, and now and then a prediction.
#[derive(Debug)]
pub(crate) struct Crowd {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Asked>,
}

impl Crowd {
    /// Begins to ask.
    pub(crate) fn start(user: User) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let started = Instant::now();
            let mut asked = Asked::default();
            while asked.count < MOST && !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let answer = if asked.count % 10 == 9 {
                    user.score().await
                } else {
                    user.ask("/healthz", None).await.map(drop)
                };
                asked.count += 1;
                asked.slowest = asked.slowest.max(begun.elapsed());
                if let Err(problem) = answer {
                    asked
                        .failures
                        .push(format!("after {:.1?}: {problem}", started.elapsed()));
                }
                tokio::time::sleep(PAUSE).await;
            }
            asked
        });
        Self { stop, task }
    }

    /// Ends the questions, and says how they were answered.
    pub(crate) async fn stop(self) -> Asked {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}
