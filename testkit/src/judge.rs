//! Independent readers of images and registries, to say whether ours are right.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::{DockerRegistry, Missing, Scratch, Tool, tool};

const LIMIT: Duration = Duration::from_mins(5);

/// A home for judges: credentials, trust and image storage that touch nothing of the user's.
#[derive(Debug)]
pub struct Judge {
    home: Scratch,
    trusts: bool,
}

/// What a judge said.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Output {
    /// What it printed, without white space around it.
    ///
    /// # Panics
    /// When it did not succeed, with its complaint.
    #[track_caller]
    pub fn succeeded(&self) -> &str {
        assert!(
            self.status.success(),
            "{}: {}{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self.stdout.trim()
    }
}

impl Judge {
    /// A home that knows no registry.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new() -> Result<Self, Missing> {
        let home = Scratch::new().map_err(broken)?;
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            home.join("images").display(),
            home.join("run").display()
        );
        let judge = Self {
            home,
            trusts: false,
        };
        judge.write(".docker/config.json", "{}")?;
        let podman = format!(
            "[engine]\nevents_logger = \"none\"\ntmp_dir = \"{}\"\n",
            judge.home.join("run/libpod").display()
        );
        judge.write("containers.conf", &podman)?;
        judge.write("storage.conf", &storage)?;
        judge.write(".config/containers/registries.conf", "")?;
        // Looked up in the home before the system's, which may be missing.
        judge.write(
            ".config/containers/policy.json",
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        )?;
        std::fs::create_dir(judge.home.join("run")).map_err(broken)?;
        Ok(judge)
    }

    /// A home that may read and write `registry`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn of(registry: &DockerRegistry) -> Result<Self, Missing> {
        use base64::Engine;
        let mut judge = Self::new()?;
        let insecure = registry.ca_pem().is_none();
        let host = registry.host();
        let known = format!("[[registry]]\nlocation = \"{host}\"\ninsecure = {insecure}\n");
        judge.write(".config/containers/registries.conf", &known)?;
        if let Some(ca) = registry.ca_pem() {
            judge.write("ca.pem", ca)?;
            judge.trusts = true;
        }
        if let (Some(user), Some(password)) = (registry.username(), registry.password()) {
            let auth =
                base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            let config = json!({ "auths": { host: { "auth": auth } } });
            judge.write(".docker/config.json", &config.to_string())?;
        }
        Ok(judge)
    }

    /// The home folder, where a test may put files.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Asks a judge. Give it no secret among `args`: they are visible to all users.
    ///
    /// # Errors
    /// When the judge is missing, cannot be started, or takes more than five minutes. A judge that
    /// says no is not an error.
    pub async fn ask(&self, judge: Tool, args: &[&str]) -> Result<Output, Missing> {
        let mut command = tokio::process::Command::new(tool::path(judge)?);
        command
            .args(args)
            .current_dir(self.home())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for (variable, file) in [
            ("HOME", "."),
            ("DOCKER_CONFIG", ".docker"),
            ("REGISTRY_AUTH_FILE", ".docker/config.json"),
            ("CONTAINERS_CONF", "containers.conf"),
            ("CONTAINERS_STORAGE_CONF", "storage.conf"),
            (
                "CONTAINERS_REGISTRIES_CONF",
                ".config/containers/registries.conf",
            ),
            ("XDG_CONFIG_HOME", ".config"),
            ("XDG_RUNTIME_DIR", "run"),
        ] {
            command.env(variable, self.home.join(file));
        }
        if self.trusts {
            command.env("SSL_CERT_FILE", self.home.join("ca.pem"));
        }
        let output = tokio::time::timeout(LIMIT, command.output()).await;
        let output = output.map_err(|_| Missing::broken(judge.name(), "took five minutes"))?;
        let output = output.map_err(|error| Missing::broken(judge.name(), error))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Output {
            status: output.status,
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        })
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Missing> {
        let path = self.home.join(name);
        let folder = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&path, text))
            .map_err(broken)
    }
}

/// Asks `crane` in a home of its own.
///
/// # Errors
/// As [`Judge::ask`].
pub async fn crane(args: &[&str]) -> Result<Output, Missing> {
    Judge::new()?.ask(Tool::Crane, args).await
}

/// Asks `skopeo` in a home of its own.
///
/// # Errors
/// As [`Judge::ask`].
pub async fn skopeo(args: &[&str]) -> Result<Output, Missing> {
    Judge::new()?.ask(Tool::Skopeo, args).await
}

/// Asks `umoci` in a home of its own.
///
/// # Errors
/// As [`Judge::ask`].
pub async fn umoci(args: &[&str]) -> Result<Output, Missing> {
    Judge::new()?.ask(Tool::Umoci, args).await
}

/// Asks `podman` in a home of its own, where what it pulls is forgotten.
///
/// # Errors
/// As [`Judge::ask`].
pub async fn podman(args: &[&str]) -> Result<Output, Missing> {
    Judge::new()?.ask(Tool::Podman, args).await
}

fn broken(error: impl std::fmt::Display) -> Missing {
    Missing::broken("judge", error)
}
