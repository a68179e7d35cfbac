//! Fetches files of an archive into a cache, each checked against the size and digest it must have.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::{Client, Proxy, StatusCode};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;
use url::Url;

use super::apt::{Sources, redact};
use crate::error::{Error, ErrorKind, Result};

const STAGE: &str = "fetch";
const TRIES: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a server may stay silent in the middle of a body.
const READ_TIMEOUT: Duration = Duration::from_mins(1);
const CHUNK: usize = 64 * 1024;

type Chunks = BoxStream<'static, Result<Bytes>>;

/// What a file must be.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    /// Lower-case hexadecimal, also the name in the cache.
    pub(super) sha256: String,
    /// Bytes.
    pub(super) size: u64,
}

/// Where a download goes, what it must be, and who hears of it.
struct Target<'a> {
    expected: &'a Expected,
    path: &'a Path,
    received: &'a (dyn Fn(i64) + Send + Sync),
}

/// A client for archives.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    client: Client,
}

impl Fetcher {
    /// A client that goes through the proxies of `sources` and looks at no environment.
    pub(super) fn new(sources: &Sources) -> Result<Self> {
        let failed = |error: reqwest::Error| {
            Error::new(
                ErrorKind::Invalid,
                STAGE,
                "http client",
                "it cannot be set up",
            )
            .with_source(error.without_url())
        };
        let mut builder = Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("modelship/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = &sources.http_proxy {
            builder = builder.proxy(Proxy::http(proxy.clone()).map_err(failed)?);
        }
        if let Some(proxy) = &sources.https_proxy {
            builder = builder.proxy(Proxy::https(proxy.clone()).map_err(failed)?);
        }
        Ok(Self {
            client: builder.build().map_err(failed)?,
        })
    }

    /// Reads a small file of at most `limit` bytes into memory.
    pub(super) async fn small(&self, url: &Url, limit: usize) -> Result<Vec<u8>> {
        retried(|| async {
            let mut chunks = self.open(url).await?;
            let mut body = Vec::new();
            while let Some(chunk) = chunks.next().await {
                body.extend_from_slice(&chunk?);
                if body.len() > limit {
                    let detail = format!("it is larger than {limit} bytes");
                    return Err(Error::new(ErrorKind::Invalid, STAGE, redact(url), detail));
                }
            }
            Ok(body)
        })
        .await
    }

    /// Makes `path` hold the `expected` file, from the first of `urls` that has it, unless it
    /// already does. `received` is told how many more bytes have arrived; what a failed try had
    /// received is taken back with a negative number.
    pub(super) async fn file(
        &self,
        urls: &[Url],
        expected: &Expected,
        path: &Path,
        received: &(dyn Fn(i64) + Send + Sync),
    ) -> Result<()> {
        if is_intact(path, expected).await? {
            received(signed(expected.size));
            return Ok(());
        }
        let mut last = Error::new(
            ErrorKind::NotFound,
            STAGE,
            &expected.sha256,
            "no source may have it",
        )
        .with_hint("configure the sources the lock was made from");
        let target = Target {
            expected,
            path,
            received,
        };
        for url in urls {
            match retried(|| self.download(url, &target)).await {
                Ok(()) => return Ok(()),
                // Wrong content is worth hearing about; a mirror that lacks it is not the last word.
                Err(error) if error.kind() == ErrorKind::DigestMismatch => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn download(&self, url: &Url, target: &Target<'_>) -> Result<()> {
        let mut seen = 0;
        let outcome = self.download_counted(url, target, &mut seen).await;
        if outcome.is_err() {
            (target.received)(-signed(seen));
        }
        outcome
    }

    async fn download_counted(&self, url: &Url, target: &Target<'_>, seen: &mut u64) -> Result<()> {
        let Target { expected, path, .. } = *target;
        let mut chunks = self.open(url).await?;
        let part = temporary(path)?;
        let failed = |error| Error::io(STAGE, path, "cannot write to the cache", error);
        let mut output = tokio::fs::File::from_std(part.reopen().map_err(failed)?);
        let mut hasher = Sha256::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            if *seen + chunk.len() as u64 > expected.size {
                let detail = format!("it is longer than the {} bytes it must have", expected.size);
                return Err(mismatch(url, detail));
            }
            *seen += chunk.len() as u64;
            (target.received)(signed(chunk.len() as u64));
            hasher.update(&chunk);
            output.write_all(&chunk).await.map_err(failed)?;
        }
        output.flush().await.map_err(failed)?;
        if *seen != expected.size {
            let detail = format!("it has {seen} bytes where {} are expected", expected.size);
            return Err(mismatch(url, detail));
        }
        let found = hex::encode(hasher.finalize());
        if found != expected.sha256 {
            let detail = format!(
                "its SHA-256 is {found} where {} is expected",
                expected.sha256
            );
            return Err(mismatch(url, detail));
        }
        keep(part, path)
    }

    /// Opens a URL for reading.
    async fn open(&self, url: &Url) -> Result<Chunks> {
        if url.scheme() == "file" {
            return open_file(url);
        }
        let sent = self.client.get(url.clone()).send().await;
        let response = sent.map_err(|error| transport(url, error))?;
        if let Some(error) = refusal(url, response.status()) {
            return Err(error);
        }
        let url = url.clone();
        let body = response.bytes_stream();
        Ok(body
            .map(move |chunk| chunk.map_err(|error| transport(&url, error)))
            .boxed())
    }
}

/// Runs `operation` up to three times as long as it fails in a way that may pass.
async fn retried<T, F: Future<Output = Result<T>>>(operation: impl Fn() -> F) -> Result<T> {
    let mut tried = 1;
    loop {
        match operation().await {
            Err(error) if error.is_retryable() && tried < TRIES => {
                tokio::time::sleep(Duration::from_millis(200) * (1 << tried)).await;
                tried += 1;
            }
            outcome => return outcome,
        }
    }
}

fn refusal(url: &Url, status: StatusCode) -> Option<Error> {
    if status.is_success() {
        return None;
    }
    let passing = status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        );
    let kind = if passing {
        ErrorKind::Unreachable
    } else {
        ErrorKind::NotFound
    };
    Some(
        Error::new(
            kind,
            STAGE,
            redact(url),
            format!("the server answered {status}"),
        )
        .with_hint(
            "check that the archive still carries it; a lock of an old state may need a snapshot",
        ),
    )
}

fn transport(url: &Url, error: reqwest::Error) -> Error {
    let kind = if error.is_timeout() {
        ErrorKind::Timeout
    } else {
        ErrorKind::Unreachable
    };
    Error::new(kind, STAGE, redact(url), "the transfer failed")
        .with_hint("check the network, and the proxy in apt's configuration")
        .with_source(error.without_url())
}

fn mismatch(url: &Url, detail: String) -> Error {
    Error::new(ErrorKind::DigestMismatch, STAGE, redact(url), detail)
        .with_hint("the mirror may be in the middle of an update, or a proxy altered the file")
}

fn open_file(url: &Url) -> Result<Chunks> {
    let path = url.to_file_path().map_err(|()| {
        Error::new(
            ErrorKind::Invalid,
            STAGE,
            redact(url),
            "it is no path of this machine",
        )
    })?;
    let file = std::fs::File::open(&path)
        .map_err(|error| Error::io(STAGE, &path, "cannot open it", error))?;
    let read = move |mut file: std::fs::File| {
        let path = path.clone();
        async move {
            let mut buffer = vec![0; CHUNK];
            let read = tokio::task::spawn_blocking(move || {
                let read = file.read(&mut buffer)?;
                buffer.truncate(read);
                Ok((Bytes::from(buffer), file))
            });
            match read
                .await
                .map_err(std::io::Error::other)
                .and_then(|read| read)
            {
                Ok((bytes, _)) if bytes.is_empty() => Ok(None),
                Ok(more) => Ok(Some(more)),
                Err(error) => Err(Error::io(STAGE, &path, "cannot read it", error)),
            }
        }
    };
    Ok(futures::stream::try_unfold(file, read).boxed())
}

/// Whether `path` already holds the expected bytes. A damaged file is removed.
async fn is_intact(path: &Path, expected: &Expected) -> Result<bool> {
    let (path, expected) = (path.to_owned(), expected.clone());
    blocking(move || {
        let Ok(mut file) = std::fs::File::open(&path) else {
            return Ok(false);
        };
        let read = |error| Error::io(STAGE, &path, "cannot read the cached file", error);
        let size = file.metadata().map_err(read)?.len();
        let mut hasher = Sha256::new();
        if size == expected.size {
            copy_hashed(&mut file, &mut std::io::sink(), &mut hasher).map_err(read)?;
            if hex::encode(hasher.finalize()) == expected.sha256 {
                return Ok(true);
            }
        }
        std::fs::remove_file(&path).map_err(read)?;
        Ok(false)
    })
    .await
}

/// An error about reading `path`: `Invalid` when its content is at fault, else as the system says.
pub(super) fn unreadable(
    stage: &'static str,
    path: &Path,
    detail: &str,
    error: std::io::Error,
) -> Error {
    use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    match error.kind() {
        InvalidData | InvalidInput | Other | UnexpectedEof => {
            let object = path.display().to_string();
            Error::new(ErrorKind::Invalid, stage, object, detail).with_source(error)
        }
        _ => Error::io(stage, path, detail, error),
    }
}

/// Copies all of `from` to `to`, feeding the hasher on the way, and counts the bytes.
pub(super) fn copy_hashed(
    from: &mut impl Read,
    to: &mut impl Write,
    hasher: &mut Sha256,
) -> std::io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(total);
        }
        hasher.update(&buffer[..read]);
        to.write_all(&buffer[..read])?;
        total += read as u64;
    }
}

/// A file that will take the name `path` once complete.
pub(super) fn temporary(path: &Path) -> Result<NamedTempFile> {
    let dir = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    std::fs::create_dir_all(&dir)
        .and_then(|()| NamedTempFile::new_in(&dir))
        .map_err(|error| Error::io(STAGE, &dir, "cannot write to the cache", error))
}

/// Gives a complete file its name in one step, so that no other process sees half of it.
pub(super) fn keep(part: NamedTempFile, path: &Path) -> Result<()> {
    part.persist(path)
        .map(drop)
        .map_err(|error| Error::io(STAGE, path, "cannot write to the cache", error.error))
}

/// Runs file work where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(Error::new(
                ErrorKind::Io,
                STAGE,
                "worker",
                "a worker thread ended early",
            )
            .with_source(error))
        })
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
