//! HTTP/1.1 on a raw connection (RFC 9112): heads, bodies and resets, exact to the byte.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The longest head that is read.
const HEAD_BYTES: usize = 64 * 1024;
/// The most that one read takes in.
const READ_BYTES: usize = 64 * 1024;

/// One end of the proxy: a connection, and what came through it and is not used yet.
pub(crate) struct Wire {
    stream: TcpStream,
    inbox: BytesMut,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Small heads must not wait for the acknowledgement of the previous one.
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            inbox: BytesMut::new(),
        }
    }

    /// Splits into a half that reads and a half that writes.
    pub(crate) fn halves(&mut self) -> (Reader<'_>, Writer<'_>) {
        let reader = Reader {
            stream: &self.stream,
            inbox: &mut self.inbox,
        };
        (reader, Writer(&self.stream))
    }

    pub(crate) fn reader(&mut self) -> Reader<'_> {
        self.halves().0
    }

    pub(crate) fn writer(&self) -> Writer<'_> {
        Writer(&self.stream)
    }

    /// Ends with a RST, so that the other side sees "connection reset by peer".
    pub(crate) fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }

    /// Ends so that the last answer arrives: closing with bytes unread would reset the connection
    /// (RFC 9112, section 9.6).
    pub(crate) async fn linger(mut self) {
        use tokio::io::AsyncWriteExt;
        let _ = self.stream.shutdown().await;
        let rest = async {
            while self.reader().fill().await.is_ok_and(|read| read > 0) {
                self.inbox.clear();
            }
        };
        let _ = timeout(Duration::from_millis(500), rest).await;
    }
}

/// The reading half of a [`Wire`].
pub(crate) struct Reader<'a> {
    stream: &'a TcpStream,
    inbox: &'a mut BytesMut,
}

impl Reader<'_> {
    /// Reads what is there, at least a byte; 0 at the end. Nothing is lost when it is cancelled.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            self.inbox.reserve(READ_BYTES);
            match self.stream.try_read_buf(self.inbox) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    /// The bytes up to the empty line; `None` when the connection ended before the first.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Bytes>> {
        let mut seen = 0;
        loop {
            let found = self.inbox[seen..]
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(at) = found {
                return Ok(Some(self.inbox.split_to(seen + at + 4).freeze()));
            }
            seen = self.inbox.len().saturating_sub(3);
            if seen > HEAD_BYTES {
                return Err(io::Error::other("the head is too long"));
            }
            if self.fill().await? == 0 {
                return match self.inbox.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.inbox.iter().position(|byte| *byte == b'\n') {
                let line = self.inbox.split_to(at + 1);
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.inbox.len() > HEAD_BYTES {
                return Err(io::Error::other("the line is too long"));
            }
            if self.fill().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn take(&mut self, max: u64) -> io::Result<Bytes> {
        if self.inbox.is_empty() && self.fill().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        let size = self.inbox.len().min(max).min(READ_BYTES);
        Ok(self.inbox.split_to(size).freeze())
    }
}

/// The writing half of a [`Wire`].
pub(crate) struct Writer<'a>(&'a TcpStream);

impl Writer<'_> {
    pub(crate) async fn send(&self, data: impl AsRef<[u8]>) -> io::Result<()> {
        let mut data = data.as_ref();
        while !data.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(data) {
                Ok(sent) => data.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What is left of a message's body (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks; so many bytes are left of this one.
    Chunked { left: u64 },
    /// All until the connection ends.
    UntilClose,
    /// Nothing.
    Done,
}

impl Body {
    /// The next bytes, at most `max`; `None` at the end of the body.
    pub(crate) async fn next(
        &mut self,
        from: &mut Reader<'_>,
        max: u64,
    ) -> io::Result<Option<Bytes>> {
        match *self {
            Self::Done | Self::Length(0) => Ok(None),
            Self::Length(left) => {
                let data = from.take(left.min(max)).await?;
                *self = Self::Length(left - data.len() as u64);
                Ok(Some(data))
            }
            Self::Chunked { left } => self.chunk(left, from, max).await,
            Self::UntilClose => {
                if from.inbox.is_empty() && from.fill().await? == 0 {
                    *self = Self::Done;
                    return Ok(None);
                }
                Ok(Some(from.take(max).await?))
            }
        }
    }

    async fn chunk(
        &mut self,
        mut left: u64,
        from: &mut Reader<'_>,
        max: u64,
    ) -> io::Result<Option<Bytes>> {
        if left == 0 {
            let line = from.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            left = u64::from_str_radix(size, 16)
                .map_err(|_| io::Error::other("a chunk has no size"))?;
            if left == 0 {
                while !from.line().await?.is_empty() {}
                *self = Self::Done;
                return Ok(None);
            }
        }
        let data = from.take(left.min(max)).await?;
        left -= data.len() as u64;
        if left == 0 {
            from.line().await?;
        }
        *self = Self::Chunked { left };
        Ok(Some(data))
    }

    pub(crate) fn is_chunked(self) -> bool {
        matches!(self, Self::Chunked { .. })
    }
}

/// `data` as one chunk.
pub(crate) fn as_chunk(data: &[u8]) -> Bytes {
    let mut chunk = BytesMut::from(format!("{:x}\r\n", data.len()).as_bytes());
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    chunk.freeze()
}
