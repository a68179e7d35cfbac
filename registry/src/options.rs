//! How to talk to a registry: transport, trust, time limits and retries.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::profile::Profile;

/// Options of a [`Repository`](crate::Repository); start from `default()` and set fields.
#[derive(Clone)]
#[non_exhaustive]
pub struct RegistryOptions {
    /// Speak HTTP without TLS to this registry. Off by default; a loopback host without
    /// [`extra_ca_pem`](Self::extra_ca_pem) is spoken to in plain HTTP in any case.
    pub plain_http: bool,
    /// Root certificates to trust besides the system's, PEM, one or more per entry.
    pub extra_ca_pem: Vec<Vec<u8>>,
    /// Limit for making a connection. Default 10 s.
    pub connect_timeout: Duration,
    /// Limit for the answer to a request that carries no blob. Default 60 s.
    pub request_timeout: Duration,
    /// Limit for a transfer during which no byte moves. Default 60 s.
    pub stall_timeout: Duration,
    /// Limit for the answer after the last byte of a blob, when the registry stores and checks
    /// it. Default 10 min, since some copy many gigabytes then.
    pub commit_timeout: Duration,
    /// Tries of one operation, the first included. Default 4.
    pub tries: u32,
    /// Pause before the second try; doubles for each further one, half of it left to chance.
    /// Default 500 ms.
    pub retry_base: Duration,
    /// Longest pause a registry may ask for by `Retry-After`; a longer one ends the operation.
    /// Default 60 s.
    pub retry_after_max: Duration,
    /// Bytes per request for a registry that limits them; `None` leaves it to the
    /// [`profile`](Self::profile), most of which stream a blob in one request.
    pub chunk_size: Option<u64>,
    /// What is known of the registry; `None` goes by its host name ([`Profile::for_host`]).
    pub profile: Option<Profile>,
    /// Layers of one image uploaded at the same time. Default 2.
    pub parallel_uploads: usize,
    /// Bytes that all uploads of one repository may hold in memory together: what their sources
    /// say they hold ([`Blob::with_window`](crate::Blob::with_window)) and what is queued for
    /// their connections. An upload that alone needs more runs alone. Default 64 MiB.
    pub upload_window: u64,
    /// A folder in which uploads note where they stand, so that a later process goes on where
    /// this one was killed. Notes are readable by the user only: an upload's address may be all
    /// it takes to write to it. Off by default.
    pub journal: Option<PathBuf>,
    /// A proxy for HTTPS and HTTP, as a URL; `None` connects directly.
    pub proxy: Option<String>,
    /// Hosts that are not proxied, in the form of the `NO_PROXY` variable.
    pub no_proxy: Option<String>,
}

impl RegistryOptions {
    /// The defaults, with the proxy that `lookup` names: `HTTPS_PROXY`, `NO_PROXY`, or their
    /// lower-case forms.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| {
            lookup(name)
                .or_else(|| lookup(&name.to_lowercase()))
                .filter(|value| !value.is_empty())
        };
        Self {
            proxy: get("HTTPS_PROXY"),
            no_proxy: get("NO_PROXY"),
            ..Self::default()
        }
    }
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            plain_http: false,
            extra_ca_pem: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_mins(1),
            stall_timeout: Duration::from_mins(1),
            commit_timeout: Duration::from_mins(10),
            tries: 4,
            retry_base: Duration::from_millis(500),
            retry_after_max: Duration::from_mins(1),
            chunk_size: None,
            profile: None,
            parallel_uploads: 2,
            upload_window: 64 << 20,
            journal: None,
            proxy: None,
            no_proxy: None,
        }
    }
}

impl fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryOptions")
            .field("plain_http", &self.plain_http)
            .field("extra_ca_pem", &self.extra_ca_pem.len())
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("stall_timeout", &self.stall_timeout)
            .field("commit_timeout", &self.commit_timeout)
            .field("tries", &self.tries)
            .field("retry_base", &self.retry_base)
            .field("retry_after_max", &self.retry_after_max)
            .field("chunk_size", &self.chunk_size)
            .field(
                "profile",
                &self.profile.as_ref().map(|profile| profile.name),
            )
            .field("parallel_uploads", &self.parallel_uploads)
            .field("upload_window", &self.upload_window)
            .field("journal", &self.journal)
            // A proxy URL may carry a password.
            .field("proxy", &self.proxy.as_ref().map(|_| "<redacted>"))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_comes_from_the_lookup_and_stays_out_of_debug() {
        let options = RegistryOptions::from_env(|name| {
            (name == "https_proxy").then(|| "http://u:hunter2@proxy.invalid".to_owned())
        });
        assert!(options.proxy.is_some());
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
