//! S3 on a folder, with object versions.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::process::{Launch, Process, client, free_port, retry_taken};
use crate::{Missing, Scratch, Tool, tool};

const REGION: &str = "us-east-1";

/// An S3 service with credentials of its own, which checks signatures and keeps object versions
/// where a bucket asks for them.
pub struct Versitygw {
    process: Process,
    scratch: Scratch,
    port: u16,
    access_key: String,
    secret_key: String,
}

/// An S3 service that does not run: its port, credentials and objects are kept.
pub struct StoppedVersitygw {
    scratch: Scratch,
    port: u16,
    access_key: String,
    secret_key: String,
}

impl StoppedVersitygw {
    /// Starts the service, with the same endpoint and objects as before.
    ///
    /// # Errors
    /// When the program is not built, or does not start.
    pub async fn start(self) -> Result<Versitygw, Missing> {
        let program = tool::path(Tool::Versitygw)?;
        let Self {
            scratch,
            port,
            access_key,
            secret_key,
        } = self;
        let mut process = Launch::new("versitygw", program)?
            .args([
                "--port",
                &format!("127.0.0.1:{port}"),
                "--health",
                "/health",
            ])
            .args(["--region", REGION, "posix", "--versioning-dir"])
            .args([scratch.join("versions"), scratch.join("data")])
            .env("ROOT_ACCESS_KEY", &access_key)
            .env("ROOT_SECRET_KEY", &secret_key)
            .current_dir(scratch.path())
            .start(&scratch.join("versitygw.log"))?;
        let client = client("versitygw", None)?;
        let url = format!("http://127.0.0.1:{port}/health");
        let healthy = || async {
            client
                .get(&url)
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
        };
        process.wait_ready(Duration::from_secs(30), healthy).await?;
        Ok(Versitygw {
            process,
            scratch,
            port,
            access_key,
            secret_key,
        })
    }
}

impl fmt::Debug for StoppedVersitygw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoppedVersitygw")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Versitygw {
    /// Starts an S3 service.
    ///
    /// # Errors
    /// When the program is not built, or does not start.
    pub async fn start() -> Result<Self, Missing> {
        retry_taken(Self::try_start).await
    }

    async fn try_start() -> Result<Self, Missing> {
        let scratch = Scratch::new().map_err(broken)?;
        for folder in ["data", "versions"] {
            std::fs::create_dir(scratch.join(folder)).map_err(broken)?;
        }
        let stopped = StoppedVersitygw {
            scratch,
            port: free_port(),
            access_key: format!("AK{}", hex::encode_upper(rand::random::<[u8; 9]>())),
            secret_key: hex::encode(rand::random::<[u8; 20]>()),
        };
        stopped.start().await
    }

    /// Ends the service, which can be started again where it was.
    pub fn stop(self) -> StoppedVersitygw {
        let Self {
            process,
            scratch,
            port,
            access_key,
            secret_key,
        } = self;
        process.stop();
        StoppedVersitygw {
            scratch,
            port,
            access_key,
            secret_key,
        }
    }

    /// The endpoint, `http://127.0.0.1:PORT`; buckets are the first segment of the path.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The access key id.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// The secret access key.
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// The region that signatures name.
    pub fn region(&self) -> &'static str {
        REGION
    }

    /// The server.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The folder of the buckets, to look behind the service.
    pub fn data_dir(&self) -> std::path::PathBuf {
        self.scratch.join("data")
    }

    /// Makes a bucket.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn create_bucket(&self, name: &str) -> Result<(), Missing> {
        self.put(&format!("/{name}"), "", "").await
    }

    /// Makes a bucket that keeps the versions of its objects.
    ///
    /// # Errors
    /// When the service refuses.
    pub async fn create_versioned_bucket(&self, name: &str) -> Result<(), Missing> {
        self.create_bucket(name).await?;
        let body = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
            <Status>Enabled</Status></VersioningConfiguration>";
        self.put(&format!("/{name}"), "versioning=", body).await
    }

    async fn put(&self, path: &str, query: &str, body: &'static str) -> Result<(), Missing> {
        let signed = Signed::put(self, path, query, body, SystemTime::now());
        let request = client("versitygw", None)?
            .put(format!("{}{path}?{query}", self.endpoint()))
            .header("x-amz-date", signed.date)
            .header("x-amz-content-sha256", signed.body_digest)
            .header("authorization", signed.authorization)
            .body(body);
        let response = request.send().await.map_err(broken)?;
        if response.status().is_success() {
            return Ok(());
        }
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        Err(broken(format!("put {path}?{query}: {status} {body}")))
    }
}

/// The headers of a signed request (AWS Signature Version 4).
struct Signed {
    date: String,
    body_digest: String,
    authorization: String,
}

impl Signed {
    fn put(server: &Versitygw, path: &str, query: &str, body: &str, now: SystemTime) -> Self {
        let date = amz_date(now);
        let body_digest = sha256(body.as_bytes());
        let headers = "host;x-amz-content-sha256;x-amz-date";
        let canonical = format!(
            "PUT\n{path}\n{query}\nhost:127.0.0.1:{}\nx-amz-content-sha256:{body_digest}\n\
             x-amz-date:{date}\n\n{headers}\n{body_digest}",
            server.port
        );
        let scope = format!("{}/{REGION}/s3/aws4_request", &date[..8]);
        let text = format!(
            "AWS4-HMAC-SHA256\n{date}\n{scope}\n{}",
            sha256(canonical.as_bytes())
        );
        let secret = format!("AWS4{}", server.secret_key);
        let key = [&date[..8], REGION, "s3", "aws4_request"]
            .iter()
            .fold(secret.into_bytes(), |key, part| hmac(&key, part.as_bytes()));
        let signature = hex::encode(hmac(&key, text.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={headers}, Signature={signature}",
            server.access_key
        );
        Self {
            date,
            body_digest,
            authorization,
        }
    }
}

/// `YYYYMMDDTHHMMSSZ`, taken from the fixed columns of `Sun, 06 Nov 1994 08:49:37 GMT`.
fn amz_date(now: SystemTime) -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let http = httpdate::fmt_http_date(now);
    let month = MONTHS.find(&http[8..11]).unwrap_or_default() / 3 + 1;
    let (year, day, time) = (&http[12..16], &http[5..7], http[17..25].replace(':', ""));
    format!("{year}{month:02}{day}T{time}Z")
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

impl fmt::Debug for Versitygw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Versitygw")
            .field("endpoint", &self.endpoint())
            .finish_non_exhaustive()
    }
}

fn broken(error: impl fmt::Display) -> Missing {
    Missing::broken("versitygw", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_has_amazons_form() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(amz_date(time), "19941106T084937Z");
    }
}
