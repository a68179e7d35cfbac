//! An S3 service in a process of its own: one bucket of one object of zeros, of any size, given
//! in ranges as fast as the machine can. What it takes is not counted with us.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::Result;
use crate::wire::Head;

/// Given at a time.
const PIECE: usize = 1 << 20;

/// The service, which ends with this value.
pub(crate) struct Origin {
    child: Child,
    port: u16,
}

impl Origin {
    /// Starts this program once more as a service of an object of `size` bytes.
    pub(crate) fn start(size: u64) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["fetch", "--serve", &size.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take();
        let mut origin = Self { child, port: 0 };
        let mut line = String::new();
        BufReader::new(out.ok_or("the service has no output")?).read_line(&mut line)?;
        let port = line.trim().parse();
        origin.port = port.map_err(|_| format!("the service said {line:?}"))?;
        Ok(origin)
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves until the parent closes our input.
pub(crate) fn serve(size: u64) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut out = io::stdout();
    writeln!(out, "{}", listener.local_addr()?.port())?;
    out.flush()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that goes away ends its own connection only.
            std::thread::spawn(move || drop(answer_all(&stream, size)));
        }
    });
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn answer_all(stream: &TcpStream, size: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let zeros = vec![0; PIECE];
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    while let Some(head) = Head::read(&mut reader)? {
        let (status, range) = match head.range {
            Some((from, to)) => ("206 Partial Content", from..(to + 1).min(size)),
            None => ("200 OK", 0..size),
        };
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nETag: \"zeros\"\r\nLast-Modified: Thu, 01 Jan 1970 00:00:00 GMT\
             \r\nContent-Length: {}\r\n",
            range.end - range.start
        );
        if head.range.is_some() {
            let (from, to) = (range.start, range.end - 1);
            // Writing to a string never fails.
            let _ = write!(answer, "Content-Range: bytes {from}-{to}/{size}\r\n");
        }
        answer.push_str("\r\n");
        writer.write_all(answer.as_bytes())?;
        let mut left = match head.method.as_str() {
            "HEAD" => 0,
            _ => range.end - range.start,
        };
        while left > 0 {
            let count = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            writer.write_all(&zeros[..count])?;
            left -= count as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_given_as_s3_gives_them() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || answer_all(&listener.accept().unwrap().0, 3_000_000));
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .write_all(b"HEAD /a/b HTTP/1.1\r\n\r\nGET /a/b HTTP/1.1\r\nRange: bytes=2999990-9999999\r\n\r\n")
            .unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        let text = String::from_utf8_lossy(&said);
        assert!(text.contains("Content-Length: 3000000\r\n"), "{text}");
        assert!(text.contains("Content-Range: bytes 2999990-2999999/3000000\r\n"));
        assert!(said.ends_with(&[0; 10]) && said[said.len() - 11] == b'\n');
    }
}
