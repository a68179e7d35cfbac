//! A registry that takes every blob and keeps none: what a push costs without a disk behind it.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use rustix::net::{RecvFlags, recv};

use crate::wire::Head;

/// How much of a body is taken at a time.
const PIECE: usize = 1 << 20;
/// What is read ahead while a head is parsed.
const AHEAD: usize = 16 << 10;

/// The registry; it listens until the process ends.
pub(crate) struct Discard {
    port: u16,
}

impl Discard {
    /// Starts listening on loopback, with a thread for each connection.
    pub(crate) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away ends its own connection only.
                std::thread::spawn(move || drop(serve(stream)));
            }
        });
        Ok(Self { port })
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(AHEAD, stream);
    let mut piece = vec![0; PIECE];
    while let Some(head) = Head::read(&mut reader)? {
        drain(&mut reader, head.length, &mut piece)?;
        writer.write_all(answer(&head).as_bytes())?;
    }
    Ok(())
}

/// Drops the rest of a body. The kernel is told to truncate (tcp(7), `MSG_TRUNC`): it does not
/// even copy the bytes to here.
fn drain(reader: &mut BufReader<TcpStream>, left: u64, piece: &mut [u8]) -> io::Result<()> {
    let held = usize::try_from(left).map_or(AHEAD, |left| left.min(reader.buffer().len()));
    reader.consume(held);
    let mut left = left - held as u64;
    while left > 0 {
        let want = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let (_, count) = recv(reader.get_ref(), &mut piece[..want], RecvFlags::TRUNC)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

/// What a registry without the blob says (distribution-spec, pushing blobs).
fn answer(head: &Head) -> String {
    let status = match head.method.as_str() {
        "POST" | "PATCH" => "202 Accepted",
        "PUT" => "201 Created",
        "DELETE" => "204 No Content",
        _ => "404 Not Found",
    };
    let (repository, _) = head.path.split_once("/blobs/").unwrap_or((&head.path, ""));
    format!(
        "HTTP/1.1 {status}\r\nLocation: {repository}/blobs/uploads/1\r\nContent-Length: 0\r\n\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_blob_is_taken_and_not_kept() {
        let registry = Discard::start().unwrap();
        let mut stream = TcpStream::connect(registry.host()).unwrap();
        let body = vec![7; 100_000];
        write!(
            stream,
            "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nContent-Length: 0\r\n\r\n\
             PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        stream.write_all(&body).unwrap();
        stream
            .write_all(b"HEAD /v2/a/blobs/sha256:0 HTTP/1.1\r\n\r\n")
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let statuses: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("HTTP/1.1"))
            .collect();
        assert_eq!(
            statuses,
            [
                "HTTP/1.1 202 Accepted",
                "HTTP/1.1 202 Accepted",
                "HTTP/1.1 404 Not Found"
            ]
        );
        assert!(said.contains("Location: /v2/a/blobs/uploads/1\r\n"));
    }
}
