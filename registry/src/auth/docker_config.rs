//! The docker configuration file as a source of credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::auth::credentials::Credentials;
use crate::auth::helper;
use crate::error::{Error, ErrorKind, Result};

/// The address Docker Hub is filed under in docker's configuration.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// A configuration file larger than this is not one.
const SIZE_MAX: u64 = 4 << 20;

/// A parsed `config.json` of docker: `auths`, `credHelpers` and `credsStore`.
///
/// `Debug` shows the registries named, not their credentials.
#[derive(Clone, Default)]
pub struct DockerConfig {
    path: PathBuf,
    search: Vec<PathBuf>,
    file: File,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl DockerConfig {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] when there is no file, [`ErrorKind::Invalid`] when it is not a
    /// docker configuration.
    pub async fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read(path).await?;
        Self::parse(path, &bytes)
    }

    /// Reads the file docker would read: `$DOCKER_CONFIG/config.json`, else
    /// `$HOME/.docker/config.json`. Without such a file the configuration is empty. Credential
    /// helpers are searched in `$PATH`.
    ///
    /// # Errors
    ///
    /// When the file exists and cannot be read or parsed.
    pub async fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let get = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let directory = get("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| get("HOME").map(|home| Path::new(&home).join(".docker")));
        let path = directory.map(|directory| directory.join("config.json"));
        let search =
            get("PATH").map_or_else(Vec::new, |path| std::env::split_paths(&path).collect());
        let config = match path {
            None => Self::default(),
            Some(path) => match Self::load(&path).await {
                Err(error) if error.kind() == ErrorKind::NotFound => Self {
                    path,
                    ..Self::default()
                },
                other => other?,
            },
        };
        Ok(config.with_helper_search(search))
    }

    /// Parses the text of a configuration file said to be at `path`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is not a docker configuration.
    pub fn parse(path: impl Into<PathBuf>, text: &[u8]) -> Result<Self> {
        let path = path.into();
        // serde's message may quote the value it stumbled over, which may be a secret.
        let file = serde_json::from_slice(text).map_err(|error| {
            let detail = format!(
                "line {} column {} is not as docker writes it",
                error.line(),
                error.column()
            );
            Error::new(
                ErrorKind::Invalid,
                "read docker config",
                path.display().to_string(),
                detail,
            )
        })?;
        Ok(Self {
            path,
            search: Vec::new(),
            file,
        })
    }

    /// Sets the directories in which `docker-credential-*` programs are searched.
    #[must_use]
    pub fn with_helper_search(mut self, directories: Vec<PathBuf>) -> Self {
        self.search = directories;
        self
    }

    /// The credentials for `registry`, in docker's order: `credHelpers`, `credsStore`, `auths`.
    pub(crate) async fn credentials(&self, registry: &str) -> Result<Credentials> {
        if let Some(name) = self.helper_for(registry) {
            let server = if is_hub(registry) { HUB_KEY } else { registry };
            let found = helper::get(name, &self.search, server).await?;
            if let Some(found) = found {
                let source = format!("docker-credential-{name} of {}", self.describe());
                return Ok(found.with_source(source));
            }
        }
        match self.entry_for(registry) {
            Some((key, entry)) => self.decode(key, entry),
            None => Ok(Credentials::anonymous()
                .with_source(format!("no entry for {registry} in {}", self.describe()))),
        }
    }

    fn describe(&self) -> String {
        if self.path.as_os_str().is_empty() {
            "docker config (no file)".to_owned()
        } else {
            format!("docker config {}", self.path.display())
        }
    }

    fn helper_for(&self, registry: &str) -> Option<&str> {
        self.file
            .cred_helpers
            .iter()
            .find(|(key, _)| same_registry(key, registry))
            .map(|(_, name)| name)
            .or(self.file.creds_store.as_ref())
            .map(String::as_str)
            .filter(|name| !name.is_empty())
    }

    fn entry_for(&self, registry: &str) -> Option<(&str, &Entry)> {
        self.file
            .auths
            .iter()
            .find(|(key, _)| same_registry(key, registry))
            .map(|(key, entry)| (key.as_str(), entry))
    }

    fn decode(&self, key: &str, entry: &Entry) -> Result<Credentials> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let found = if let Some(token) = set(&entry.identitytoken) {
            Credentials::identity_token(token)
        } else if let Some(token) = set(&entry.registrytoken) {
            Credentials::bearer_token(token)
        } else if let Some(auth) = set(&entry.auth) {
            let (username, password) = decode_auth(&auth).ok_or_else(|| {
                let detail = format!("the auth of {key} is not base64 of user:password");
                Error::new(
                    ErrorKind::Invalid,
                    "read docker config",
                    self.describe(),
                    detail,
                )
                .with_hint("log in to the registry again")
            })?;
            Credentials::basic(username, password)
        } else if let (Some(username), Some(password)) =
            (set(&entry.username), set(&entry.password))
        {
            Credentials::basic(username, password)
        } else {
            Credentials::anonymous()
        };
        Ok(found.with_source(self.describe()))
    }
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerConfig")
            .field("path", &self.path)
            .field("auths", &self.file.auths.keys().collect::<Vec<_>>())
            .field("cred_helpers", &self.file.cred_helpers)
            .field("creds_store", &self.file.creds_store)
            .finish_non_exhaustive()
    }
}

async fn read(path: &Path) -> Result<Vec<u8>> {
    use tokio::io::AsyncReadExt as _;
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Error::new(
            kind,
            "read docker config",
            path.display().to_string(),
            "cannot be read",
        )
        .with_source(error)
    };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(SIZE_MAX)
        .read_to_end(&mut bytes)
        .await
        .map_err(failed)?;
    Ok(bytes)
}

fn decode_auth(auth: &str) -> Option<(String, String)> {
    let bytes = STANDARD.decode(auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    // Some writers of this file pad with NUL bytes, which docker strips too.
    Some((username.to_owned(), password.trim_matches('\0').to_owned()))
}

fn is_hub(registry: &str) -> bool {
    matches!(
        registry,
        "docker.io" | "index.docker.io" | "registry-1.docker.io"
    )
}

/// Whether a key of the file (`host`, `https://host`, `https://host/v1/`) is for `registry`.
/// A key with another path is podman's, for one namespace, and does not speak for the host.
fn same_registry(key: &str, registry: &str) -> bool {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let whole = matches!(path.trim_end_matches('/'), "" | "v1" | "v2");
    whole && (host.eq_ignore_ascii_case(registry) || (is_hub(host) && is_hub(registry)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::credentials::Kind;
    use proptest::prelude::*;

    async fn find(text: &str, registry: &str) -> Result<Credentials> {
        let config = DockerConfig::parse("/c/config.json", text.as_bytes()).unwrap();
        Credentials::for_registry(&config, registry).await
    }

    fn basic(credentials: &Credentials) -> (&str, &str) {
        match &credentials.kind {
            Kind::Basic { username, password } => (username, password.reveal()),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn every_way_to_write_a_host_is_found() {
        for key in [
            "r.invalid:5000",
            "https://r.invalid:5000",
            "http://r.invalid:5000/v2/",
        ] {
            let text =
                format!(r#"{{"auths":{{"{key}":{{"auth":"dTpwOnE="}}}},"HttpHeaders":{{}}}}"#);
            let found = find(&text, "r.invalid:5000").await.unwrap();
            assert_eq!(basic(&found), ("u", "p:q"));
            assert_eq!(found.source(), "docker config /c/config.json");
        }
        let hub = r#"{"auths":{"https://index.docker.io/v1/":{"username":"u","password":"p"}}}"#;
        assert_eq!(basic(&find(hub, "docker.io").await.unwrap()), ("u", "p"));
    }

    #[tokio::test]
    async fn other_hosts_and_namespaces_get_nothing() {
        let text = r#"{"auths":{"r.invalid/team":{"auth":"dTpw"},"s.invalid":{"auth":"dTpw"}}}"#;
        let found = find(text, "r.invalid").await.unwrap();
        assert!(found.is_anonymous());
        assert!(found.source().contains("r.invalid"), "{}", found.source());
        assert!(find("{}", "r.invalid").await.unwrap().is_anonymous());
    }

    #[tokio::test]
    async fn an_identity_token_wins_over_the_placeholder_user() {
        let text = r#"{"auths":{"x.azurecr.invalid":{"auth":"MDAwOg==","identitytoken":"rt"}}}"#;
        let found = find(text, "x.azurecr.invalid").await.unwrap();
        assert!(matches!(&found.kind, Kind::Refresh(token) if token.reveal() == "rt"));
    }

    #[tokio::test]
    async fn bad_entries_are_named_without_their_content() {
        let error = find(
            r#"{"auths":{"r.invalid":{"auth":"hunter2!"}}}"#,
            "r.invalid",
        )
        .await
        .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        let error = DockerConfig::parse("/c", br#"{"auths":{"r":"hunter2"}}"#).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn the_environment_is_what_the_lookup_says() {
        let dir = tempfile::tempdir().unwrap();
        let config = DockerConfig::from_env(|_| None).await.unwrap();
        assert!(
            config
                .credentials("r.invalid")
                .await
                .unwrap()
                .is_anonymous()
        );
        std::fs::create_dir(dir.path().join(".docker")).unwrap();
        std::fs::write(
            dir.path().join(".docker/config.json"),
            r#"{"auths":{"r.invalid":{"auth":"dTpw"}}}"#,
        )
        .unwrap();
        let home = dir.path().to_str().unwrap().to_owned();
        let lookup = |name: &str| (name == "HOME").then(|| home.clone());
        let config = DockerConfig::from_env(lookup).await.unwrap();
        assert_eq!(
            basic(&config.credentials("r.invalid").await.unwrap()),
            ("u", "p")
        );
        let elsewhere = |name: &str| (name == "DOCKER_CONFIG").then(|| format!("{home}/absent"));
        let config = DockerConfig::from_env(elsewhere).await.unwrap();
        assert!(
            config
                .credentials("r.invalid")
                .await
                .unwrap()
                .is_anonymous()
        );
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_panic(text in ".{0,100}") {
            let _ = DockerConfig::parse("/c", text.as_bytes());
        }

        #[test]
        fn auth_round_trips(user in "[!-9;-~]{1,12}", password in "[ -~]{0,20}") {
            let auth = STANDARD.encode(format!("{user}:{password}"));
            prop_assert_eq!(decode_auth(&auth), Some((user, password)));
        }
    }
}
