//! Azure Blob storage in memory.

use std::fmt;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::process::{Launch, Process, client, free_port, retry_taken};
use crate::{Missing, Scratch, Tool, tool};

/// The version of the storage API which this client speaks; Azurite takes any.
const API_VERSION: &str = "2023-11-03";

/// A blob service with one account of its own, whose key exists nowhere else.
pub struct Azurite {
    // Before the scratch folder: the server ends before its files go.
    process: Process,
    _scratch: Scratch,
    port: u16,
    account: String,
    key: String,
}

impl Azurite {
    /// Starts a blob service.
    ///
    /// # Errors
    /// When Azurite or Node is not installed, or does not start.
    pub async fn start() -> Result<Self, Missing> {
        retry_taken(Self::try_start).await
    }

    async fn try_start() -> Result<Self, Missing> {
        let azurite = tool::path(Tool::Azurite)?;
        let node = tool::program("node").ok_or_else(|| Missing::absent("azurite", "no node"))?;
        let scratch = Scratch::new().map_err(broken)?;
        let port = free_port();
        let account = format!("acct{}", hex::encode(rand::random::<[u8; 4]>()));
        let key = STANDARD.encode(rand::random::<[u8; 32]>());
        let mut process = Launch::new("azurite", node)?
            .args([azurite.as_os_str()])
            .args(["--silent", "--skipApiVersionCheck", "--inMemoryPersistence"])
            .args([
                "--disableTelemetry",
                "--blobHost",
                "127.0.0.1",
                "--blobPort",
            ])
            .args([port.to_string()])
            .env("AZURITE_ACCOUNTS", format!("{account}:{key}"))
            .current_dir(scratch.path())
            .start(&scratch.join("azurite.log"))?;
        let client = client("azurite", None)?;
        let url = format!("http://127.0.0.1:{port}/{account}?comp=list");
        // Any answer will do: without a signature it is 403.
        let answers = || async { client.get(&url).send().await.is_ok() };
        process.wait_ready(Duration::from_mins(1), answers).await?;
        Ok(Self {
            process,
            _scratch: scratch,
            port,
            account,
            key,
        })
    }

    /// The endpoint of the account: `http://127.0.0.1:PORT/ACCOUNT`, without a slash at the end.
    pub fn blob_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/{}", self.port, self.account)
    }

    /// The name of the account.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The key of the account, in base64.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The server.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Makes a container.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn create_container(&self, name: &str) -> Result<(), Missing> {
        let date = httpdate::fmt_http_date(SystemTime::now());
        let request = client("azurite", None)?
            .put(format!("{}/{name}?restype=container", self.blob_endpoint()))
            .header("x-ms-date", &date)
            .header("x-ms-version", API_VERSION)
            .header("authorization", self.sign_create(name, &date)?);
        let response = request.send().await.map_err(broken)?;
        if response.status().is_success() {
            return Ok(());
        }
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        Err(broken(format!("create container {name}: {status} {body}")))
    }

    /// Shared key authorization (Azure Storage REST, "Authorize with Shared Key"), of an empty PUT.
    fn sign_create(&self, container: &str, date: &str) -> Result<String, Missing> {
        let account = &self.account;
        let mut text = String::from("PUT\n\n\n\n\n\n\n\n\n\n\n\n");
        let _ = writeln!(text, "x-ms-date:{date}\nx-ms-version:{API_VERSION}");
        // The account stands twice: once for itself, once as the path of an emulator's URL.
        let _ = write!(text, "/{account}/{account}/{container}\nrestype:container");
        let key = STANDARD.decode(&self.key).map_err(broken)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(broken)?;
        mac.update(text.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        Ok(format!("SharedKey {account}:{signature}"))
    }
}

impl fmt::Debug for Azurite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Azurite")
            .field("endpoint", &self.blob_endpoint())
            .finish_non_exhaustive()
    }
}

fn broken(error: impl fmt::Display) -> Missing {
    Missing::broken("azurite", error)
}
