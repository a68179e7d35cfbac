//! The Docker registry, the code base that most registries derive from: Debian's version and the
//! current one.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{Launch, Process, client, free_port, retry_taken};
use crate::tls::{Authority, Subject};
use crate::{Missing, Scratch, TokenIssuer, Tool, tool};

const USER: &str = "tester";

/// A registry with storage of its own.
pub struct DockerRegistry {
    process: Process,
    scratch: Scratch,
    port: u16,
    secured: Option<Secured>,
}

/// Which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Edition {
    /// Debian's `docker-registry`: 2.8.
    Debian,
    /// `distribution` 3.1.2.
    Distribution3,
}

/// Whom it serves, and how.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Security<'a> {
    /// Everybody, over plain HTTP.
    Open,
    /// Those who know the password, over HTTPS.
    TlsHtpasswd,
    /// Those with a token of this issuer, over plain HTTP.
    Token(&'a TokenIssuer),
}

struct Secured {
    ca_pem: String,
    password: String,
}

/// One line of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, such as `PATCH`.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The status of the answer.
    pub status: u16,
}

impl DockerRegistry {
    /// Starts a registry that speaks plain HTTP to everybody.
    ///
    /// # Errors
    /// When it is not installed, or does not start.
    pub async fn open() -> Result<Self, Missing> {
        Self::start(Edition::Debian, Security::Open).await
    }

    /// Starts a registry that speaks HTTPS to those who know the password.
    ///
    /// # Errors
    /// When it or `htpasswd` is not installed, or does not start.
    pub async fn tls_htpasswd() -> Result<Self, Missing> {
        Self::start(Edition::Debian, Security::TlsHtpasswd).await
    }

    /// Starts a registry of the given edition and security.
    ///
    /// # Errors
    /// When it (or `htpasswd`, where it is needed) is not installed, or does not start.
    pub async fn start(edition: Edition, security: Security<'_>) -> Result<Self, Missing> {
        retry_taken(|| Self::start_once(edition, security)).await
    }

    async fn start_once(edition: Edition, security: Security<'_>) -> Result<Self, Missing> {
        let program = tool::path(match edition {
            Edition::Debian => Tool::DockerRegistry,
            Edition::Distribution3 => Tool::Distribution,
        })?;
        let scratch = Scratch::new().map_err(broken)?;
        let port = free_port();
        let mut config = json!({
            "version": "0.1",
            "log": { "level": "warn" },
            "storage": {
                "filesystem": { "rootdirectory": scratch.join("storage") },
                "delete": { "enabled": true },
            },
            "http": { "addr": format!("127.0.0.1:{port}") },
        });
        let secured = match security {
            Security::Open => None,
            Security::TlsHtpasswd => Some(Secured::write(&scratch, &mut config)?),
            Security::Token(issuer) => {
                let roots = scratch.join("issuer.crt");
                std::fs::write(&roots, issuer.root_pem()).map_err(broken)?;
                config["auth"] = json!({ "token": {
                    "realm": issuer.realm(),
                    "service": issuer.service(),
                    "issuer": issuer.name(),
                    "rootcertbundle": roots,
                } });
                None
            }
        };
        let file = scratch.join("config.yml");
        // JSON is YAML.
        std::fs::write(&file, config.to_string()).map_err(broken)?;
        let process = Launch::new("docker-registry", program)?
            .args(["serve".as_ref(), file.as_os_str()])
            // It would send traces to a collector on this machine.
            .env("OTEL_TRACES_EXPORTER", "none")
            .current_dir(scratch.path())
            .start(&scratch.join("registry.log"))?;
        let mut registry = Self {
            process,
            scratch,
            port,
            secured,
        };
        let client = client("docker-registry", registry.ca_pem())?;
        let url = format!("{}/v2/", registry.url());
        let answers = || async { client.get(&url).send().await.is_ok() };
        registry
            .process
            .wait_ready(Duration::from_secs(30), answers)
            .await?;
        Ok(registry)
    }

    /// Where it listens: `127.0.0.1:PORT`, the first part of an image's reference.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The base URL, without a slash at the end.
    pub fn url(&self) -> String {
        let scheme = if self.secured.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.host())
    }

    /// The certificate authority, of a registry with TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.secured.as_ref().map(|secured| secured.ca_pem.as_str())
    }

    /// The user's name, of a registry with a password.
    pub fn username(&self) -> Option<&str> {
        self.secured.as_ref().map(|_| USER)
    }

    /// The password, of a registry with one.
    pub fn password(&self) -> Option<&str> {
        self.secured
            .as_ref()
            .map(|secured| secured.password.as_str())
    }

    /// The folder of its storage, to look behind the service or to damage it.
    pub fn storage_dir(&self) -> PathBuf {
        self.scratch.join("storage")
    }

    /// The server.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The access log since the start, one line per answered request.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.process.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines()
            .filter(|line| parse(line).is_some())
            .flat_map(|line| [line, "\n"])
            .collect()
    }

    /// The answered requests of `method` (or of all, when empty) whose path contains `part`.
    pub fn requests(&self, method: &str, part: &str) -> Vec<Request> {
        let log = self.log();
        let requests = log.lines().filter_map(parse);
        requests
            .filter(|request| method.is_empty() || request.method == method)
            .filter(|request| request.path.contains(part))
            .collect()
    }
}

impl Secured {
    /// Writes certificate and password file, and names them in the configuration.
    fn write(scratch: &Scratch, config: &mut Value) -> Result<Self, Missing> {
        let authority = Authority::new()?;
        let subject = Subject {
            name: "registry",
            hosts: &["127.0.0.1", "localhost"],
            ..Subject::default()
        };
        let (certificate, key) = authority
            .issue(&subject)?
            .write(scratch.path(), "registry")?;
        let password = hex::encode(rand::random::<[u8; 16]>());
        let users = scratch.join("htpasswd");
        std::fs::write(&users, htpasswd(&password)?).map_err(broken)?;
        config["http"]["tls"] = json!({ "certificate": certificate, "key": key });
        config["auth"] = json!({ "htpasswd": { "realm": "testkit", "path": users } });
        Ok(Self {
            ca_pem: authority.pem(),
            password,
        })
    }
}

/// A password file with a bcrypt hash; the password goes through a pipe.
fn htpasswd(password: &str) -> Result<Vec<u8>, Missing> {
    let mut child = Command::new(tool::path(Tool::Htpasswd)?)
        .args(["-niB", USER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(broken)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(password.as_bytes()).map_err(broken)?;
    }
    let output = child.wait_with_output().map_err(broken)?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(broken("htpasswd failed"))
    }
}

/// Reads a line in the "combined log format": `HOST - - [TIME] "METHOD PATH PROTOCOL" STATUS …`.
fn parse(line: &str) -> Option<Request> {
    let mut parts = line.split('"');
    let _client = parts.next()?.strip_suffix("] ")?;
    let mut request = parts.next()?.split(' ');
    let status = parts.next()?.trim().split(' ').next()?.parse().ok()?;
    let (method, path) = (request.next()?.to_owned(), request.next()?.to_owned());
    Some(Request {
        method,
        path,
        status,
    })
}

impl fmt::Debug for DockerRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerRegistry")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

fn broken(error: impl fmt::Display) -> Missing {
    Missing::broken("docker-registry", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_access_lines_and_nothing_else() {
        let line = "127.0.0.1 - - [22/Nov/2026:01:02:03 +0000] \"PATCH /v2/a/blobs/uploads/1?_state=x HTTP/1.1\" 202 0 \"\" \"agent\"";
        let request = parse(line).unwrap();
        assert_eq!((request.method.as_str(), request.status), ("PATCH", 202));
        assert_eq!(request.path, "/v2/a/blobs/uploads/1?_state=x");
        assert_eq!(
            parse("time=\"2026-11-22\" level=warning msg=\"no secret\""),
            None
        );
    }
}
