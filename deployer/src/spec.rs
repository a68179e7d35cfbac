//! What to run: the application as its owner describes it, before it becomes manifests.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::reference::PinnedReference;

/// One Flask application behind gunicorn, pinned to an image digest.
///
/// Everything but the name and the image has a default fit for production: two replicas,
/// port 8080, `/healthz` probes, no privileges, a cluster-internal address.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AppSpec {
    pub(crate) name: String,
    pub(crate) image: PinnedReference,
    pub(crate) replicas: u32,
    pub(crate) port: u16,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) env_secrets: Vec<String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) expose: Expose,
    pub(crate) pull_secrets: Vec<String>,
    pub(crate) resources: Resources,
    pub(crate) readiness_path: String,
    pub(crate) startup: Duration,
    pub(crate) min_ready: Duration,
    pub(crate) progress_deadline: Option<Duration>,
}

/// Where the application can be reached from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expose {
    /// From inside the cluster only.
    #[default]
    ClusterIp,
    /// Through the cloud's load balancer, on port 80.
    LoadBalancer {
        /// The label Azure makes `<label>.<region>.cloudapp.azure.com` of; unique per region.
        azure_dns_label: Option<String>,
    },
}

/// What one replica asks for and may use, as Kubernetes quantities.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resources {
    /// Processor time reserved, such as `100m`. No limit is set on it: throttling only adds latency.
    pub cpu: String,
    /// Memory reserved, such as `256Mi`.
    pub memory: String,
    /// Memory at which the replica is killed; it has to hold the model.
    pub memory_limit: String,
}

impl Resources {
    /// Reserves `cpu` and `memory`, and kills the replica beyond `memory_limit`.
    pub fn new(
        cpu: impl Into<String>,
        memory: impl Into<String>,
        memory_limit: impl Into<String>,
    ) -> Self {
        Self {
            cpu: cpu.into(),
            memory: memory.into(),
            memory_limit: memory_limit.into(),
        }
    }
}

impl Default for Resources {
    fn default() -> Self {
        Self::new("100m", "256Mi", "1Gi")
    }
}

impl AppSpec {
    /// A Flask application named `name` that runs `image`.
    pub fn flask(name: impl Into<String>, image: PinnedReference) -> Self {
        Self {
            name: name.into(),
            image,
            replicas: 2,
            port: 8080,
            env: BTreeMap::new(),
            env_secrets: Vec::new(),
            annotations: BTreeMap::new(),
            expose: Expose::default(),
            pull_secrets: Vec::new(),
            resources: Resources::default(),
            readiness_path: "/healthz".to_owned(),
            startup: Duration::from_mins(2),
            min_ready: Duration::from_secs(2),
            progress_deadline: None,
        }
    }

    /// The application's name; every object carries it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The image that runs.
    pub fn image(&self) -> &PinnedReference {
        &self.image
    }

    /// Runs `replicas` copies, at least one.
    #[must_use]
    pub fn with_replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// The port gunicorn listens on, 1024 or above; handed over as `PORT`.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets an environment variable. The value is stored in clear text; secrets belong into
    /// [`AppSpec::with_env_secret`].
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Makes every key of the Secret `name` an environment variable.
    #[must_use]
    pub fn with_env_secret(mut self, name: impl Into<String>) -> Self {
        self.env_secrets.push(name.into());
        self
    }

    /// Notes a fact about the release on the Deployment, never on its pods: a changed note alone
    /// restarts nothing.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Where the application can be reached from.
    #[must_use]
    pub fn with_expose(mut self, expose: Expose) -> Self {
        self.expose = expose;
        self
    }

    /// Pulls the image with the registry credentials in the Secret `name`.
    #[must_use]
    pub fn with_pull_secret(mut self, name: impl Into<String>) -> Self {
        self.pull_secrets.push(name.into());
        self
    }

    /// What one replica asks for and may use.
    #[must_use]
    pub fn with_resources(mut self, resources: Resources) -> Self {
        self.resources = resources;
        self
    }

    /// The path that answers 200 once the model is loaded.
    #[must_use]
    pub fn with_readiness_path(mut self, path: impl Into<String>) -> Self {
        self.readiness_path = path.into();
        self
    }

    /// How long a replica may take from its start until it answers, such as to load the model.
    #[must_use]
    pub fn with_startup_time(mut self, startup: Duration) -> Self {
        self.startup = startup;
        self
    }

    /// How long a replica has to stay ready before it counts as available; whole seconds.
    #[must_use]
    pub fn with_min_ready(mut self, min_ready: Duration) -> Self {
        self.min_ready = min_ready;
        self
    }

    /// How long the rollout may stand still before it has failed; by default the startup time
    /// plus five minutes for scheduling and pulling.
    #[must_use]
    pub fn with_progress_deadline(mut self, deadline: Duration) -> Self {
        self.progress_deadline = Some(deadline);
        self
    }

    /// The progress deadline in force. Kubernetes demands that it exceeds the minimum ready time.
    pub fn progress_deadline(&self) -> Duration {
        self.progress_deadline
            .unwrap_or(
                self.startup
                    .saturating_add(self.min_ready)
                    .saturating_add(Duration::from_mins(5)),
            )
            .max(self.min_ready.saturating_add(Duration::from_secs(1)))
    }

    /// Checks the rules a manifest would otherwise break halfway through an apply.
    pub(crate) fn validate(&self) -> Result<()> {
        self.validate_names()?;
        if self.replicas == 0 {
            return Err(self
                .invalid("asks for no replica")
                .with_hint("ask for at least one"));
        }
        if self.port < 1024 {
            return Err(self
                .invalid(format!("listens on port {}", self.port))
                .with_hint("choose 1024 or above: the application runs without privileges"));
        }
        let path = &self.readiness_path;
        if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(self.invalid(format!("readiness path {path:?} is not an absolute path")));
        }
        if self.startup.as_secs() == 0 {
            return Err(self.invalid("has a startup time below one second"));
        }
        Ok(())
    }

    fn validate_names(&self) -> Result<()> {
        check_app_name(&self.name)?;
        for name in self.env.keys() {
            if !is_env_name(name) {
                return Err(self.invalid(format!("{name:?} is not an environment variable name")));
            }
        }
        for name in self.pull_secrets.iter().chain(&self.env_secrets) {
            if !is_subdomain(name) {
                return Err(self.invalid(format!("{name:?} is not a Secret name")));
            }
        }
        if let Expose::LoadBalancer {
            azure_dns_label: Some(label),
        } = &self.expose
            && !(is_dns_label(label) && label.len() >= 3)
        {
            return Err(self
                .invalid(format!("{label:?} is not an Azure DNS label"))
                .with_hint("use 3 to 63 lower case letters, digits and hyphens, a letter first"));
        }
        Ok(())
    }

    fn invalid(&self, detail: impl Into<String>) -> Error {
        Error::new(
            ErrorKind::Invalid,
            "render",
            format!("`{}`", self.name),
            detail,
        )
    }
}

/// Checks a name that becomes a Service, and so has to be a DNS label (RFC 1035, section 2.3.1).
pub(crate) fn check_app_name(name: &str) -> Result<()> {
    if is_dns_label(name) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        "render",
        format!("{name:?}"),
        "is not an application name",
    )
    .with_hint("use 1 to 63 lower case letters, digits and hyphens, a letter first"))
}

/// Checks the name of a namespace, which is a label that may start with a digit (RFC 1123).
pub(crate) fn check_namespace(name: &str) -> Result<()> {
    if is_subdomain(name) && !name.contains('.') && name.len() <= 63 {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        "render",
        format!("{name:?}"),
        "is not a namespace name",
    )
    .with_hint("use 1 to 63 lower case letters, digits and hyphens"))
}

fn is_dns_label(name: &str) -> bool {
    is_subdomain(name)
        && name.len() <= 63
        && !name.contains('.')
        && name.starts_with(|c: char| c.is_ascii_lowercase())
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}

fn is_env_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> AppSpec {
        let image = format!("reg.invalid/app@sha256:{}", "0".repeat(64));
        AppSpec::flask(name, image.parse().expect("pinned"))
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "digits", "digits-2", &"x".repeat(63)] {
            spec(good).validate().expect(good);
        }
        for bad in [
            "",
            "Digits",
            "2digits",
            "-a",
            "a-",
            "a.b",
            "a_b",
            "a/../b",
            &"x".repeat(64),
        ] {
            let error = spec(bad).validate().expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn rules_that_the_cluster_would_find_late_are_found_early() {
        let app = || spec("digits");
        for bad in [
            app().with_replicas(0),
            app().with_port(80),
            app().with_env("1A", "x"),
            app().with_env("", "x"),
            app().with_readiness_path("healthz"),
            app().with_pull_secret("No_Such"),
            app().with_startup_time(Duration::ZERO),
            app().with_expose(Expose::LoadBalancer {
                azure_dns_label: Some("ab".into()),
            }),
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_deadline_always_exceeds_the_minimum_ready_time() {
        let app = spec("digits")
            .with_min_ready(Duration::from_secs(30))
            .with_progress_deadline(Duration::from_secs(10));
        assert_eq!(app.progress_deadline(), Duration::from_secs(31));
    }
}
