//! Where bytes come from: a file or memory, in part or unpacked, read as a stream that can skip.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::bufread::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use lzma_rust2::XzReader;

/// Bytes that a cursor holds; also the longest piece it can show at once.
pub(super) const BUFFER: usize = 64 << 10;
/// Most memory that an LZMA dictionary may take: `xz -9` uses 64 MiB.
const LZMA_KIB: u32 = 80 << 10;

/// Why reading stopped.
#[derive(Debug)]
pub(super) enum Failure {
    /// The storage failed, or the work was cancelled: nothing is known about the bytes.
    Io(io::Error),
    /// The bytes break the rules of their format.
    Broken(String),
    /// The bytes go beyond a limit of the policy.
    Limit(String),
}

impl Failure {
    pub(super) fn broken(detail: impl Into<String>) -> Self {
        Self::Broken(detail.into())
    }

    /// An error of a decoder: damage, unless it comes from below.
    fn from_decoder(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidData
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::OutOfMemory
            | io::ErrorKind::Unsupported => {
                Self::broken(format!("the compression is damaged: {error}"))
            }
            _ => Self::Io(error),
        }
    }
}

/// The result of reading.
pub(super) type Scan<T> = Result<T, Failure>;

#[derive(Clone, Copy)]
enum Kind<'a> {
    File(&'a File),
    Bytes(&'a [u8]),
}

/// A stretch of a file or of memory.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    kind: Kind<'a>,
    start: u64,
    len: u64,
    cancelled: &'a AtomicBool,
}

impl<'a> Source<'a> {
    pub(super) fn file(file: &'a File, len: u64, cancelled: &'a AtomicBool) -> Self {
        Self {
            kind: Kind::File(file),
            start: 0,
            len,
            cancelled,
        }
    }

    pub(super) fn bytes(bytes: &'a [u8], cancelled: &'a AtomicBool) -> Self {
        Self {
            kind: Kind::Bytes(bytes),
            start: 0,
            len: bytes.len() as u64,
            cancelled,
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The stretch of `len` bytes from `start`, if it lies inside.
    pub(super) fn slice(&self, start: u64, len: u64) -> Option<Self> {
        let end = start.checked_add(len)?;
        (end <= self.len).then(|| Self {
            start: self.start + start,
            len,
            ..*self
        })
    }

    /// Reads at `offset` as much as there is room for and bytes for.
    pub(super) fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("the check was cancelled"));
        }
        let left = self.len.saturating_sub(offset);
        let want = usize::try_from(left).map_or(into.len(), |left| left.min(into.len()));
        let into = &mut into[..want];
        match self.kind {
            Kind::File(file) => file.read_at(into, self.start + offset),
            Kind::Bytes(bytes) => {
                let start = usize::try_from(self.start + offset).unwrap_or(usize::MAX);
                let from = bytes.get(start..).unwrap_or_default();
                let count = from.len().min(want);
                into[..count].copy_from_slice(&from[..count]);
                Ok(count)
            }
        }
    }

    /// Reads from the beginning.
    pub(super) fn reader(self) -> impl Read + 'a {
        Window {
            source: self,
            at: 0,
        }
    }

    /// Exactly `len` bytes from `offset`; for small pieces only.
    pub(super) fn piece(&self, offset: u64, len: usize) -> Scan<Vec<u8>> {
        let mut piece = vec![0; len];
        let mut done = 0;
        while done < len {
            match self.read_at(offset + done as u64, &mut piece[done..]) {
                Ok(0) => return Err(Failure::broken("the file ends too early")),
                Ok(count) => done += count,
                Err(error) => return Err(Failure::Io(error)),
            }
        }
        Ok(piece)
    }
}

/// A position in a source that moves.
struct Window<'a> {
    source: Source<'a>,
    at: u64,
}

impl Read for Window<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read_at(self.at, into)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// How a content is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not at all.
    None,
    /// gzip, RFC 1952, of one or more members.
    Gzip,
    /// zlib, RFC 1950.
    Zlib,
    /// Raw deflate, RFC 1951, as in a zip archive.
    Deflate,
    /// The xz container.
    Xz,
}

/// How many bytes may still be unpacked from one file, however often and deep.
pub(super) type Budget = Rc<Cell<u64>>;

/// A content that can be opened again and again: a source, how it is packed, and which part of
/// what it unpacks to.
#[derive(Clone)]
pub(super) struct Content<'a> {
    source: Source<'a>,
    packing: Packing,
    skip: u64,
    take: Option<u64>,
    /// The size that it is said to unpack to.
    exact: Option<u64>,
    budget: Budget,
}

impl<'a> Content<'a> {
    pub(super) fn new(source: Source<'a>, packing: Packing, budget: Budget) -> Self {
        Self {
            source,
            packing,
            skip: 0,
            take: None,
            exact: None,
            budget,
        }
    }

    /// Demands that it unpacks to exactly this size.
    pub(super) fn exactly(mut self, size: u64) -> Self {
        self.exact = Some(size);
        self
    }

    /// The source, where nothing is packed and offsets can be read directly.
    pub(super) fn plain(&self) -> Option<Source<'a>> {
        (self.packing == Packing::None).then_some(self.source)
    }

    pub(super) fn budget(&self) -> Budget {
        Rc::clone(&self.budget)
    }

    /// The part of `len` bytes from `start`.
    pub(super) fn slice(&self, start: u64, len: u64) -> Option<Self> {
        let mut part = self.clone();
        if self.packing == Packing::None {
            part.source = self.source.slice(start, len)?;
        } else {
            part.skip = self.skip.checked_add(start)?;
            part.take = Some(len);
        }
        Some(part)
    }

    /// Everything from `start` on.
    pub(super) fn from(&self, start: u64) -> Option<Self> {
        if self.packing == Packing::None {
            return self.slice(start, self.source.len.checked_sub(start)?);
        }
        let mut part = self.clone();
        part.skip = self.skip.checked_add(start)?;
        part.take = match self.take {
            Some(take) => Some(take.checked_sub(start)?),
            None => None,
        };
        Some(part)
    }

    /// A cursor at the beginning.
    pub(super) fn open(&self) -> Scan<Cursor<'a>> {
        let window = Window {
            source: self.source,
            at: 0,
        };
        if self.packing == Packing::None {
            return Ok(Cursor::new(Box::new(window)));
        }
        let packed = BufReader::with_capacity(BUFFER, window);
        let decoder: Box<dyn Read + 'a> = match self.packing {
            Packing::None | Packing::Deflate => Box::new(Whole::new(DeflateDecoder::new(packed))),
            Packing::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Packing::Zlib => Box::new(Whole::new(ZlibDecoder::new(packed))),
            Packing::Xz => Box::new(XzReader::new_mem_limit(packed, true, LZMA_KIB)),
        };
        let mut unpacked = Unpacked {
            decoder,
            budget: Rc::clone(&self.budget),
            left: self.take,
            missing: self.exact,
        };
        unpacked.discard(self.skip)?;
        Ok(Cursor::new(Box::new(unpacked)))
    }
}

/// What a cursor draws from.
trait Input {
    /// Reads some bytes; 0 is the end.
    fn fill(&mut self, into: &mut [u8]) -> Scan<usize>;
    /// Passes over bytes that must be there.
    fn skip(&mut self, count: u64) -> Scan<()>;
}

impl Input for Window<'_> {
    fn fill(&mut self, into: &mut [u8]) -> Scan<usize> {
        self.read(into).map_err(Failure::Io)
    }

    fn skip(&mut self, count: u64) -> Scan<()> {
        match self.at.checked_add(count) {
            Some(at) if at <= self.source.len => {
                self.at = at;
                Ok(())
            }
            _ => Err(cut_short()),
        }
    }
}

/// A decoder whose packed bytes must all belong to it: another reader may go on where this one
/// stops, and see what follows.
struct Whole<D> {
    decoder: D,
}

impl<D> Whole<D> {
    fn new(decoder: D) -> Self {
        Self { decoder }
    }
}

/// Gives back what a decoder reads from.
trait Drained {
    fn drained(&mut self) -> io::Result<bool>;
}

impl<R: io::BufRead> Drained for DeflateDecoder<R> {
    fn drained(&mut self) -> io::Result<bool> {
        self.get_mut().fill_buf().map(<[u8]>::is_empty)
    }
}

impl<R: io::BufRead> Drained for ZlibDecoder<R> {
    fn drained(&mut self) -> io::Result<bool> {
        self.get_mut().fill_buf().map(<[u8]>::is_empty)
    }
}

impl<D: Read + Drained> Read for Whole<D> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(into)?;
        if count == 0 && !into.is_empty() && !self.decoder.drained()? {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "bytes follow the end of the packed stream",
            ));
        }
        Ok(count)
    }
}

/// What a decoder gives, on a budget.
struct Unpacked<'a> {
    decoder: Box<dyn Read + 'a>,
    budget: Budget,
    /// How much belongs to the part, where it is one.
    left: Option<u64>,
    /// How much is still to come, where its size is stated.
    missing: Option<u64>,
}

impl Unpacked<'_> {
    fn pull(&mut self, into: &mut [u8]) -> Scan<usize> {
        let count = self.decoder.read(into).map_err(Failure::from_decoder)?;
        let Some(rest) = self.budget.get().checked_sub(count as u64) else {
            return Err(Failure::Limit(
                "it unpacks to more bytes than the limit".into(),
            ));
        };
        self.budget.set(rest);
        if let Some(missing) = &mut self.missing {
            match missing.checked_sub(count as u64) {
                Some(rest) if count > 0 || rest == 0 || into.is_empty() => *missing = rest,
                _ => {
                    return Err(Failure::broken(
                        "it does not unpack to the size that is stated",
                    ));
                }
            }
        }
        Ok(count)
    }

    fn discard(&mut self, mut count: u64) -> Scan<()> {
        let mut waste = [0; 16 << 10];
        while count > 0 {
            let want = usize::try_from(count).map_or(waste.len(), |count| count.min(waste.len()));
            match self.pull(&mut waste[..want])? {
                0 => return Err(cut_short()),
                done => count -= done as u64,
            }
        }
        Ok(())
    }
}

impl Input for Unpacked<'_> {
    fn fill(&mut self, into: &mut [u8]) -> Scan<usize> {
        let Some(left) = self.left else {
            return self.pull(into);
        };
        let want = usize::try_from(left).map_or(into.len(), |left| left.min(into.len()));
        let count = if want == 0 {
            0
        } else {
            self.pull(&mut into[..want])?
        };
        self.left = Some(left - count as u64);
        Ok(count)
    }

    fn skip(&mut self, count: u64) -> Scan<()> {
        if let Some(left) = self.left {
            self.left = Some(left.checked_sub(count).ok_or_else(cut_short)?);
        }
        self.discard(count)
    }
}

fn cut_short() -> Failure {
    Failure::broken("it ends in the middle")
}

/// A line of text, without its newline.
pub(super) enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Too long to be of interest; it was passed over.
    Long,
}

/// Reads forward through a content, with a bounded buffer.
pub(super) struct Cursor<'a> {
    input: Box<dyn Input + 'a>,
    buffer: Box<[u8]>,
    next: usize,
    end: usize,
    /// The offset of the buffer's first byte.
    base: u64,
}

impl<'a> Cursor<'a> {
    fn new(input: Box<dyn Input + 'a>) -> Self {
        Self {
            input,
            buffer: vec![0; BUFFER].into(),
            next: 0,
            end: 0,
            base: 0,
        }
    }

    /// The offset of the next byte.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.next as u64
    }

    /// Has at least `count` bytes in the buffer, unless the content ends before.
    fn ensure(&mut self, count: usize) -> Scan<bool> {
        if self.end - self.next >= count {
            return Ok(true);
        }
        self.buffer.copy_within(self.next..self.end, 0);
        self.base += self.next as u64;
        self.end -= self.next;
        self.next = 0;
        while self.end < count {
            match self.input.fill(&mut self.buffer[self.end..])? {
                0 => return Ok(false),
                more => self.end += more,
            }
        }
        Ok(true)
    }

    /// Whether nothing is left.
    pub(super) fn at_end(&mut self) -> Scan<bool> {
        self.ensure(1).map(|some| !some)
    }

    /// Up to `count` of the next bytes, which stay next; at most [`BUFFER`]. Damage behind the first
    /// of them is for whoever reads on.
    pub(super) fn peek(&mut self, count: usize) -> Scan<&[u8]> {
        let count = count.min(BUFFER);
        match self.ensure(count) {
            Err(Failure::Broken(_)) if self.end > self.next => {}
            Err(failure) => return Err(failure),
            Ok(_) => {}
        }
        let end = self.end.min(self.next + count);
        Ok(&self.buffer[self.next..end])
    }

    /// The next `count` bytes, at most [`BUFFER`].
    pub(super) fn bytes(&mut self, count: usize) -> Scan<&[u8]> {
        if count > BUFFER || !self.ensure(count)? {
            return Err(cut_short());
        }
        self.next += count;
        Ok(&self.buffer[self.next - count..self.next])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Scan<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Scan<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Scan<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Scan<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Scan<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Passes over `count` bytes, which must be there.
    pub(super) fn skip(&mut self, count: u64) -> Scan<()> {
        let held = (self.end - self.next) as u64;
        if count <= held {
            self.next += usize::try_from(count).unwrap_or(0);
            return Ok(());
        }
        self.input.skip(count - held)?;
        self.base = self.offset() + count;
        self.next = 0;
        self.end = 0;
        Ok(())
    }

    /// Reads to the next newline, which must be there.
    pub(super) fn line(&mut self) -> Scan<Line<'_>> {
        let mut seen = 0;
        loop {
            let held = &self.buffer[self.next..self.end];
            if let Some(length) = held[seen..].iter().position(|byte| *byte == b'\n') {
                let start = self.next;
                self.next += seen + length + 1;
                return Ok(Line::Whole(&self.buffer[start..start + seen + length]));
            }
            seen = held.len();
            if seen == BUFFER {
                return self.long_line();
            }
            if !self.ensure(seen + 1)? {
                return Err(cut_short());
            }
        }
    }

    fn long_line(&mut self) -> Scan<Line<'_>> {
        loop {
            let held = &self.buffer[self.next..self.end];
            if let Some(length) = held.iter().position(|byte| *byte == b'\n') {
                self.next += length + 1;
                return Ok(Line::Long);
            }
            self.next = self.end;
            if self.at_end()? {
                return Err(cut_short());
            }
        }
    }
}
