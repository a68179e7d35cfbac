//! A registry with the referrers API of OCI 1.1, in memory.

use std::fmt;
use std::time::Duration;

use crate::process::{Launch, Process, client, free_port, retry_taken};
use crate::{Missing, Scratch, Tool, tool};

const NAME: &str = "referrers-registry";

/// The registry of go-containerregistry, with referrers. It keeps all in memory: for small blobs.
pub struct ReferrersRegistry {
    process: Process,
    // Removed after the server, which writes its log there, has ended.
    _scratch: Scratch,
    port: u16,
}

impl ReferrersRegistry {
    /// Starts a registry that speaks plain HTTP to everybody.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub async fn start() -> Result<Self, Missing> {
        retry_taken(Self::start_once).await
    }

    async fn start_once() -> Result<Self, Missing> {
        let program = tool::path(Tool::ReferrersRegistry)?;
        let scratch = Scratch::new().map_err(|error| Missing::broken(NAME, error))?;
        let port = free_port();
        let process = Launch::new(NAME, program)?
            .args(["-port", &port.to_string()])
            .current_dir(scratch.path())
            .start(&scratch.join("registry.log"))?;
        let mut registry = Self {
            process,
            _scratch: scratch,
            port,
        };
        let client = client(NAME, None)?;
        let url = format!("{}/v2/", registry.url());
        let answers = || async { client.get(&url).send().await.is_ok() };
        let limit = Duration::from_secs(30);
        registry.process.wait_ready(limit, answers).await?;
        Ok(registry)
    }

    /// Where it listens: `127.0.0.1:PORT`, the first part of an image's reference.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.host())
    }

    /// The server.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl fmt::Debug for ReferrersRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReferrersRegistry")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}
