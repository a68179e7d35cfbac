//! A store in this process, below the storage library: it answers as Azure or S3 do, counts, and
//! does what it is told to do wrong.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::response::Builder;
use http::{Method, StatusCode};
use hyper::body::{Body, Frame};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use sha2::{Digest as _, Sha256};

use crate::pool::Pool;
use crate::store_url::Scheme;

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    None,
    /// The connection breaks after some bytes.
    Cut(usize),
    /// Nothing comes after some bytes, and the connection stays.
    Stall(usize),
    /// The answer never begins.
    Silence,
    /// The answer begins late.
    Late(Duration),
    /// No connection.
    Refused,
    /// An answer with this status, and these headers about when to come again.
    Status(u16, Vec<(&'static str, String)>),
    /// The body ends early, with a length that says so or does not.
    Short {
        after: usize,
        honest: bool,
    },
    /// More bytes than were asked for.
    Excess,
    /// The bytes beside those that were asked for, said so.
    Shifted,
    /// The whole object with status 200.
    NotPartial,
    /// Another object of this size takes the place of the old one before the answer.
    Replaced(usize),
    /// One byte is another one.
    Flipped(usize),
}

pub(super) struct Object {
    pub(super) bytes: Vec<u8>,
    pub(super) generation: u32,
    md5: String,
    sha256: String,
}

impl Object {
    pub(super) fn new(size: usize, generation: u32) -> Self {
        let bytes = content(size, generation);
        Self {
            md5: STANDARD.encode(md5::Md5::digest(&bytes)),
            sha256: STANDARD.encode(Sha256::digest(&bytes)),
            bytes,
            generation,
        }
    }
}

/// What was asked and answered so far.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) requests: usize,
    pub(super) heads: usize,
    pub(super) unranged: usize,
    /// Requests that are running, and that ran at once at most.
    pub(super) running: usize,
    pub(super) most_running: usize,
    /// Bytes held at most: pieces of answers and the reader's buffers.
    pub(super) most_held: usize,
    pub(super) with_checksum_mode: usize,
}

pub(super) struct State {
    pub(super) objects: BTreeMap<String, Object>,
    pub(super) faults: VecDeque<Fault>,
    pub(super) seen: Seen,
    pub(super) pool: Option<Pool>,
    /// The store takes no notice of `If-Match`.
    pub(super) ignores_tags: bool,
    /// The bytes of one piece, and how long each of them takes.
    pub(super) pieces: (usize, Duration),
}

#[derive(Clone)]
pub(super) struct Server {
    scheme: Scheme,
    state: Arc<Mutex<State>>,
    /// Bytes of answers that somebody still has.
    live: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}

impl Server {
    pub(super) fn new(scheme: Scheme, faults: Vec<Fault>) -> Self {
        Self {
            scheme,
            state: Arc::new(Mutex::new(State {
                objects: BTreeMap::new(),
                faults: faults.into(),
                seen: Seen::default(),
                pool: None,
                ignores_tags: false,
                pieces: (1000, Duration::from_millis(1)),
            })),
            live: Arc::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Measures what is held now.
    pub(super) fn measure(&self) {
        let mut state = self.state();
        let buffers = state.pool.as_ref().map_or(0, Pool::held);
        let held = self.live.load(Ordering::SeqCst) + buffers;
        state.seen.most_held = state.seen.most_held.max(held);
    }

    fn answer(&self, request: &HttpRequest, fault: &Fault) -> HttpResponse {
        let mut state = self.state();
        let name = request.uri().path().rsplit('/').next().unwrap_or_default();
        if let Fault::Replaced(size) = fault
            && let Some(object) = state.objects.get_mut(name)
        {
            *object = Object::new(*size, object.generation + 1);
        }
        let Some(object) = state.objects.get(name) else {
            return status(404);
        };
        let tag = tag(object);
        let wanted = header(request, "if-match");
        if wanted.is_some_and(|wanted| wanted != tag) && !state.ignores_tags {
            return status(412);
        }
        let range = header(request, "range").map(parse_range);
        if range
            .as_ref()
            .is_some_and(|range| range.start >= object.bytes.len())
        {
            return status(416);
        }
        let whole = 0..object.bytes.len();
        let builder = self.headers(object, &tag, range.as_ref().is_none_or(|r| *r == whole));
        if request.method() == Method::HEAD {
            let length = object.bytes.len();
            return builder
                .header("content-length", length)
                .body(Vec::new().into())
                .unwrap();
        }
        let pieces = state.pieces;
        let (builder, bytes) = part(builder, object, range, fault);
        self.body(builder, bytes, fault, pieces)
    }

    fn headers(&self, object: &Object, tag: &str, whole: bool) -> Builder {
        let mut builder = http::Response::builder()
            .header("etag", tag)
            .header("last-modified", "Sun, 22 Nov 2026 08:00:00 GMT");
        match self.scheme {
            Scheme::Azure => builder = builder.header("x-ms-blob-content-md5", &object.md5),
            _ if whole => {
                builder = builder
                    .header("x-amz-checksum-sha256", &object.sha256)
                    .header("x-amz-checksum-type", "FULL_OBJECT");
            }
            _ => {}
        }
        builder
    }

    fn body(
        &self,
        builder: Builder,
        mut bytes: Vec<u8>,
        fault: &Fault,
        (piece, pause): (usize, Duration),
    ) -> HttpResponse {
        let promised = bytes.len();
        let mut end = End::Done;
        match fault {
            Fault::Cut(after) => (end, ()) = (End::Broken, bytes.truncate(*after)),
            Fault::Stall(after) => (end, ()) = (End::Never, bytes.truncate(*after)),
            Fault::Short { after, .. } => bytes.truncate(*after),
            Fault::Excess => bytes.extend(b"more"),
            Fault::Flipped(at) if !bytes.is_empty() => {
                let at = at % bytes.len();
                bytes[at] ^= 1;
            }
            _ => {}
        }
        let honest = matches!(fault, Fault::Short { honest: true, .. } | Fault::Excess);
        let length = if honest { bytes.len() } else { promised };
        let body = Answer {
            server: self.clone(),
            bytes: bytes.into(),
            piece,
            pause,
            sleeping: None,
            end,
        };
        let builder = builder.header("content-length", length);
        builder.body(HttpResponseBody::new(body)).unwrap()
    }
}

/// The bytes that are asked for, and what the answer says they are.
fn part(
    builder: Builder,
    object: &Object,
    range: Option<Range<usize>>,
    fault: &Fault,
) -> (Builder, Vec<u8>) {
    let size = object.bytes.len();
    let (Some(mut part), false) = (range, matches!(fault, Fault::NotPartial)) else {
        return (builder, object.bytes.clone());
    };
    part.end = part.end.min(size);
    match fault {
        Fault::Shifted if part.start > 0 => part = part.start - 1..part.end - 1,
        Fault::Shifted => part.end = (part.end + 1).min(size),
        _ => {}
    }
    let shown = format!("bytes {}-{}/{size}", part.start, part.end - 1);
    let builder = builder
        .status(StatusCode::PARTIAL_CONTENT)
        .header("content-range", shown);
    (builder, object.bytes[part].to_vec())
}

#[async_trait]
impl HttpService for Server {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let fault = {
            let mut state = self.state();
            let seen = &mut state.seen;
            seen.requests += 1;
            seen.heads += usize::from(request.method() == Method::HEAD);
            let bare = request.method() == Method::GET && header(&request, "range").is_none();
            seen.unranged += usize::from(bare);
            let mode = header(&request, "x-amz-checksum-mode").is_some();
            seen.with_checksum_mode += usize::from(mode);
            state.faults.pop_front().unwrap_or(Fault::None)
        };
        let _running = Running::new(self);
        match &fault {
            Fault::Silence => std::future::pending().await,
            Fault::Late(pause) => tokio::time::sleep(*pause).await,
            Fault::Refused => {
                let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                return Err(HttpError::new(HttpErrorKind::Connect, refused));
            }
            Fault::Status(code, headers) => {
                let mut answer = status(*code);
                for (name, value) in headers {
                    answer.headers_mut().insert(*name, value.parse().unwrap());
                }
                return Ok(answer);
            }
            _ => {}
        }
        Ok(self.answer(&request, &fault))
    }
}

/// Makes clients that talk to a [`Server`].
#[derive(Debug)]
pub(super) struct Line(pub(super) Server);

impl HttpConnector for Line {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// Counts a request as long as it runs.
struct Running(Server);

impl Running {
    fn new(server: &Server) -> Self {
        let mut state = server.state();
        state.seen.running += 1;
        state.seen.most_running = state.seen.most_running.max(state.seen.running);
        drop(state);
        Self(server.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state().seen.running -= 1;
    }
}

/// Bytes that are counted as long as they live.
struct Counted {
    bytes: Bytes,
    live: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.live.fetch_sub(self.bytes.len(), Ordering::SeqCst);
    }
}

#[derive(Clone, Copy)]
enum End {
    Done,
    Broken,
    Never,
}

/// A body that comes piece by piece.
struct Answer {
    server: Server,
    bytes: Bytes,
    piece: usize,
    pause: Duration,
    sleeping: Option<Pin<Box<tokio::time::Sleep>>>,
    end: End,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if this.bytes.is_empty() {
            return match this.end {
                End::Done => Poll::Ready(None),
                End::Never => Poll::Pending,
                End::Broken => {
                    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    Poll::Ready(Some(Err(HttpError::new(
                        HttpErrorKind::Interrupted,
                        broken,
                    ))))
                }
            };
        }
        let pause = this.pause;
        let sleeping = this
            .sleeping
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
        ready!(sleeping.as_mut().poll(context));
        this.sleeping = None;
        let bytes = this.bytes.split_to(this.piece.min(this.bytes.len()));
        let live = Arc::clone(&this.server.live);
        live.fetch_add(bytes.len(), Ordering::SeqCst);
        this.server.measure();
        let bytes = Bytes::from_owner(Counted { bytes, live });
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

/// The bytes of one generation of an object; those of two differ almost everywhere.
pub(super) fn content(size: usize, generation: u32) -> Vec<u8> {
    let at = |n: usize| {
        (n ^ (n >> 8))
            .wrapping_mul(31)
            .wrapping_add(generation as usize * 101)
    };
    (0..size).map(|n| at(n).to_le_bytes()[0]).collect()
}

/// A tag that says nothing about the content, as Azure's.
pub(super) fn tag(object: &Object) -> String {
    format!("\"0x8D{:08}\"", object.generation)
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

fn parse_range(text: &str) -> Range<usize> {
    let (from, to) = text
        .strip_prefix("bytes=")
        .unwrap()
        .split_once('-')
        .unwrap();
    from.parse().unwrap()..to.parse::<usize>().unwrap() + 1
}

fn status(code: u16) -> HttpResponse {
    let builder = http::Response::builder().status(code);
    builder.body(Vec::new().into()).unwrap()
}
