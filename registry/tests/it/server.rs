//! A scripted HTTP server on loopback: it answers as told, and breaks as told.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// One request as it arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    /// What was read of the body.
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn is(&self, method: &str, part: &str) -> bool {
        self.method == method && self.target.contains(part)
    }
}

/// What to do with a request.
pub(crate) enum Reply {
    /// Read the body, then answer.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Read so many bytes of the body, then break the connection.
    CutAfter(usize),
    /// Read the body, then close without an answer.
    Lose,
    /// Answer with these headers, announcing this length, and break after the body given.
    Truncate(u16, Vec<(&'static str, String)>, usize, Vec<u8>),
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Vec::new())
    }

    pub(crate) fn located(status: u16, location: impl Into<String>) -> Self {
        Self::Answer(status, vec![("Location", location.into())], Vec::new())
    }
}

/// The server; it stops with the test's runtime.
pub(crate) struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Decides on a request whose body has not been read; the earlier requests are given too.
type Script = dyn Fn(&Seen, &[Seen]) -> Reply + Send + Sync;

impl Server {
    pub(crate) async fn start(
        script: impl Fn(&Seen, &[Seen]) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, script): (_, Arc<Script>) = (Arc::clone(&seen), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&log), Arc::clone(&script)));
            }
        });
        Self { port, seen }
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        self.seen()
            .iter()
            .filter(|seen| seen.is(method, part))
            .count()
    }
}

async fn serve(stream: TcpStream, log: Arc<Mutex<Vec<Seen>>>, script: Arc<Script>) {
    let mut stream = BufReader::new(stream);
    while let Some(mut seen) = head(&mut stream).await {
        let length = seen
            .header("content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let reply = {
            let before = log.lock().unwrap().clone();
            script(&seen, &before)
        };
        let wanted = if let Reply::CutAfter(count) = &reply {
            length.min(*count)
        } else {
            length
        };
        // What arrived before a break is kept.
        let mut body = (&mut stream).take(wanted as u64);
        let _ = body.read_to_end(&mut seen.body).await;
        let arrived = seen.body.len() == wanted;
        log.lock().unwrap().push(seen.clone());
        if !arrived {
            return;
        }
        let (status, headers, length, body) = match reply {
            Reply::CutAfter(_) | Reply::Lose => return,
            Reply::Answer(status, headers, body) => (status, headers, body.len(), body),
            Reply::Truncate(status, headers, length, body) => (status, headers, length, body),
        };
        let mut text = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {length}\r\n");
        for (key, value) in headers {
            write!(text, "{key}: {value}\r\n").unwrap();
        }
        text.push_str("\r\n");
        let is_head = seen.method == "HEAD";
        let sent = stream.write_all(text.as_bytes()).await.is_ok()
            && (is_head || stream.write_all(&body).await.is_ok())
            && stream.flush().await.is_ok();
        if !sent || length != body.len() {
            return;
        }
    }
}

async fn head(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    let text = String::from_utf8(text).unwrap();
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect();
    Some(Seen {
        method,
        target,
        headers,
        body: Vec::new(),
    })
}
