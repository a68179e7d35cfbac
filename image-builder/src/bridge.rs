//! From an asynchronous byte stream to a blocking reader on a thread of its own.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures::StreamExt;
use tokio::sync::mpsc;

use crate::error::{Error, ErrorKind, Result};
use crate::stream::ByteStream;

/// The chunks that may wait between stream and reader.
const WAITING: usize = 4;

enum Message {
    Chunk(Bytes),
    End,
}

/// The blocking end: reads what the stream gives. If the stream fails or is dropped before its
/// end, reading fails too, so an interrupted stream never looks like a short one.
pub(crate) struct StreamReader {
    messages: mpsc::Receiver<Message>,
    chunk: Bytes,
    ended: bool,
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.messages.blocking_recv() {
                Some(Message::Chunk(chunk)) => self.chunk = chunk,
                Some(Message::End) => self.ended = true,
                None => return Err(io::Error::other("the byte stream was interrupted")),
            }
        }
        let count = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Runs `work` on a blocking thread over the bytes of `stream`.
///
/// Dropping the future interrupts the reader, which ends `work`.
pub(crate) async fn with_reader<T: Send + 'static>(
    mut stream: ByteStream,
    object: &str,
    work: impl FnOnce(StreamReader) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, messages) = mpsc::channel(WAITING);
    let reader = StreamReader {
        messages,
        chunk: Bytes::new(),
        ended: false,
    };
    let worker = tokio::task::spawn_blocking(move || work(reader));
    let mut failed = None;
    loop {
        let message = match stream.next().await {
            Some(Ok(chunk)) => Message::Chunk(chunk),
            Some(Err(error)) => {
                failed = Some(Error::from_stream("read content", object, error));
                break;
            }
            None => Message::End,
        };
        let ended = matches!(message, Message::End);
        // A closed channel means that the worker has what it needs, or has failed.
        if sender.send(message).await.is_err() || ended {
            break;
        }
    }
    drop(sender);
    // Also after a failure, so that nothing that `work` made is left when this returns.
    let worked = worker.await;
    if let Some(error) = failed {
        return Err(error);
    }
    worked.map_err(|e| {
        Error::new(
            ErrorKind::Io,
            "read content",
            object,
            "the worker thread failed",
        )
        .with_source(e)
    })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    fn read_all(mut reader: StreamReader) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        reader
            .read_to_end(&mut all)
            .map_err(|e| Error::new(ErrorKind::Io, "s", "o", "d").with_source(e))?;
        Ok(all)
    }

    #[tokio::test]
    async fn all_bytes_arrive_in_order() {
        let parts: Vec<_> = (0..100_u8).map(|n| Ok(Bytes::from(vec![n; 7]))).collect();
        let all = with_reader(stream::iter(parts).boxed(), "x", read_all)
            .await
            .unwrap();
        assert_eq!(all.len(), 700);
        assert!(all.is_sorted());
    }

    #[tokio::test]
    async fn a_failing_stream_fails_the_whole() {
        let parts = [Ok(Bytes::from_static(b"a")), Err("broken".into())];
        let error = with_reader(stream::iter(parts).boxed(), "x", read_all).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Io);
    }

    #[tokio::test]
    async fn work_may_stop_early() {
        let endless = stream::repeat_with(|| Ok(Bytes::from(vec![0; 1024]))).boxed();
        let done = with_reader(endless, "x", |_| Ok(7)).await.unwrap();
        assert_eq!(done, 7);
    }
}
