//! The output of a process: its start and its end, each bounded, and its lines as they come.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

use crate::sandbox::LineSink;

/// How much is read at once, in bytes.
const CHUNK: usize = 8 * 1024;
/// The longest line handed to a sink in one piece, in bytes.
const MAX_LINE: usize = 8 * 1024;

/// What a process wrote: all of it, or its start and its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Logs {
    /// The first bytes.
    pub head: Vec<u8>,
    /// The last bytes that are not in the head.
    pub tail: Vec<u8>,
    /// Whether bytes between the two were dropped.
    pub truncated: bool,
    /// How many bytes were dropped.
    pub dropped_bytes: u64,
}

/// Prints head and tail as text, with a line in between where bytes were dropped.
impl fmt::Display for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.head))?;
        if self.truncated {
            write!(f, "\n[... {} bytes dropped ...]\n", self.dropped_bytes)?;
        }
        f.write_str(&String::from_utf8_lossy(&self.tail))
    }
}

/// The first `bound` bytes and the last `bound` bytes of what is pushed.
struct Buffer {
    bound: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: u64,
}

impl Buffer {
    fn new(bound: usize) -> Self {
        Self {
            bound,
            head: Vec::new(),
            tail: VecDeque::new(),
            dropped: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let (head, rest) = bytes.split_at(bytes.len().min(self.bound - self.head.len()));
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let excess = self.tail.len().saturating_sub(self.bound);
        self.tail.drain(..excess);
        self.dropped += excess as u64;
    }

    fn logs(&self) -> Logs {
        Logs {
            head: self.head.clone(),
            tail: self.tail.iter().copied().collect(),
            truncated: self.dropped > 0,
            dropped_bytes: self.dropped,
        }
    }
}

/// Cuts a byte stream into lines of bounded length.
struct Lines {
    sink: LineSink,
    partial: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.flush();
            } else {
                self.partial.push(byte);
                if self.partial.len() == MAX_LINE {
                    self.flush();
                }
            }
        }
    }

    fn flush(&mut self) {
        let line = String::from_utf8_lossy(&self.partial);
        (self.sink)(line.strip_suffix('\r').unwrap_or(&line));
        self.partial.clear();
    }

    fn finish(&mut self) {
        if !self.partial.is_empty() {
            self.flush();
        }
    }
}

/// The caller's end of the process's output, read by a task of its own.
pub(crate) struct Output {
    buffer: Arc<Mutex<Buffer>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    /// Starts reading; the task ends with the last process that holds the other end.
    pub(crate) fn new(log: OwnedFd, bound: usize, sink: Option<LineSink>) -> io::Result<Self> {
        let pipe = Receiver::from_owned_fd(log)?;
        let buffer = Arc::new(Mutex::new(Buffer::new(bound)));
        let lines = sink.map(|sink| Lines {
            sink,
            partial: Vec::new(),
        });
        let reader = tokio::spawn(read(pipe, Arc::clone(&buffer), lines));
        Ok(Self {
            buffer,
            reader: Some(reader),
        })
    }

    /// Waits until everything is read; all writers must be gone. Can be dropped and called again.
    pub(crate) async fn finish(&mut self) {
        if let Some(reader) = &mut self.reader {
            // A panic of the line sink has ended the reading early; the logs are still there.
            let _ = reader.await;
            self.reader = None;
        }
    }

    /// What was read so far.
    pub(crate) fn logs(&self) -> Logs {
        // The buffer is whole between any two statements, so a poisoned lock does no harm.
        self.buffer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .logs()
    }
}

async fn read(mut pipe: Receiver, buffer: Arc<Mutex<Buffer>>, mut lines: Option<Lines>) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(length) = pipe.read(&mut chunk).await {
        let bytes = chunk.get(..length).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        buffer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(bytes);
        if let Some(lines) = &mut lines {
            lines.push(bytes);
        }
    }
    if let Some(lines) = &mut lines {
        lines.finish();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn head_and_tail_are_the_ends_of_what_was_pushed(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            bound in 0_usize..60,
        ) {
            let mut buffer = Buffer::new(bound);
            for chunk in &chunks {
                buffer.push(chunk);
            }
            let all = chunks.concat();
            let logs = buffer.logs();
            let head = all.len().min(bound);
            let tail = (all.len() - head).min(bound);
            prop_assert_eq!(&logs.head, &all[..head]);
            prop_assert_eq!(&logs.tail, &all[all.len() - tail..]);
            prop_assert_eq!(logs.dropped_bytes, (all.len() - head - tail) as u64);
            prop_assert_eq!(logs.truncated, logs.dropped_bytes > 0);
        }

        #[test]
        fn lines_do_not_depend_on_the_chunks(text in "[a-z\n]{0,200}", cut in 1_usize..20) {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let sink = Arc::clone(&seen);
            let mut lines = Lines {
                sink: Arc::new(move |line| sink.lock().unwrap().push(line.to_owned())),
                partial: Vec::new(),
            };
            for chunk in text.as_bytes().chunks(cut) {
                lines.push(chunk);
            }
            lines.finish();
            let expected: Vec<_> = text.lines().map(str::to_owned).collect();
            prop_assert_eq!(&*seen.lock().unwrap(), &expected);
        }
    }
}
