//! S3 in memory that takes any key.

use std::fmt::{self, Write as _};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::process::{Launch, Process, client, free_port, retry_taken};
use crate::{Missing, Scratch, Tool, tool};

/// An S3 service that keeps keys as they are, however odd. It checks no signature.
pub struct Moto {
    process: Process,
    _scratch: Scratch,
    port: u16,
}

impl Moto {
    /// Starts an S3 service.
    ///
    /// # Errors
    /// When moto or Python is not installed, or does not start.
    pub async fn start() -> Result<Self, Missing> {
        retry_taken(Self::try_start).await
    }

    async fn try_start() -> Result<Self, Missing> {
        let program = tool::path(Tool::Moto)?;
        let python =
            tool::program("python3").ok_or_else(|| Missing::absent("moto", "no python3"))?;
        let scratch = Scratch::new().map_err(broken)?;
        let port = free_port();
        let mut process = Launch::new("moto", python)?
            .args([program.as_os_str()])
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env(
                "PYTHONPATH",
                tool::python_path(Tool::Moto).unwrap_or_default(),
            )
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .current_dir(scratch.path())
            .start(&scratch.join("moto.log"))?;
        let client = client("moto", None)?;
        let url = format!("http://127.0.0.1:{port}/");
        let answers = || async { client.get(&url).send().await.is_ok() };
        process.wait_ready(Duration::from_mins(1), answers).await?;
        Ok(Self {
            process,
            _scratch: scratch,
            port,
        })
    }

    /// The endpoint, `http://127.0.0.1:PORT`; buckets are the first segment of the path.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The server.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn create_bucket(&self, name: &str) -> Result<(), Missing> {
        self.put(&format!("/{name}"), b"").await
    }

    /// Stores an object under a key that is taken as it is, byte by byte.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn put_object(&self, bucket: &str, key: &str, body: &[u8]) -> Result<(), Missing> {
        let mut path = format!("/{bucket}/");
        for byte in key.bytes() {
            if byte.is_ascii_alphanumeric() || b"/-_~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                // Writing to a string never fails.
                let _ = write!(path, "%{byte:02X}");
            }
        }
        self.put(&path, body).await
    }

    /// Sends the path as it stands: an HTTP client would tidy `//` and `..` away.
    async fn put(&self, path: &str, body: &[u8]) -> Result<(), Missing> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))
            .await
            .map_err(broken)?;
        let head = format!(
            "PUT {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.map_err(broken)?;
        stream.write_all(body).await.map_err(broken)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(broken)?;
        let answer = String::from_utf8_lossy(&answer);
        if answer.split(' ').nth(1) == Some("200") {
            return Ok(());
        }
        Err(broken(format!("put {path}: {answer}")))
    }
}

impl fmt::Debug for Moto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moto")
            .field("endpoint", &self.endpoint())
            .finish_non_exhaustive()
    }
}

fn broken(error: impl fmt::Display) -> Missing {
    Missing::broken("moto", error)
}
