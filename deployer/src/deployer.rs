//! [`Deployer`]: a namespace of a cluster, and what can be done with applications in it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::cause::Patience;
use crate::clock::Clock;
use crate::cluster::{Apply, Cluster, Kind};
use crate::connect::{self, Connection};
use crate::error::{Error, ErrorKind, Result};
use crate::lock::Lock;
use crate::outcome::{Event, Outcome};
use crate::record::{self, ReleaseRecord, ReleaseState, Stored};
use crate::release::{self, Job};
use crate::render::{MANAGED_BY, MANAGED_BY_LABEL, PREFIX, render};
use crate::rollout::image_of_deployment;
use crate::spec::{AppSpec, check_app_name};

/// How long things may take, and how much is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The pause between two looks at a rollout (500 ms).
    pub poll: Duration,
    /// How long the API server may be out of reach during a rollout (5 min).
    pub outage: Duration,
    /// How long the lock outlives a holder that died (60 s; whole seconds).
    pub lock: Duration,
    /// How many releases the history keeps (10).
    pub history: usize,
    /// How long each sign of trouble may last.
    pub patience: Patience,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(500),
            outage: Duration::from_mins(5),
            lock: Duration::from_mins(1),
            history: 10,
            patience: Patience::default(),
        }
    }
}

/// Releases applications into one namespace of a cluster.
///
/// Cloning is cheap. Dropping the future of a release stops watching it; its lock is given back,
/// and its entry in the history stays pending.
#[derive(Clone)]
pub struct Deployer {
    pub(crate) cluster: Cluster,
    pub(crate) manager: String,
    pub(crate) holder: String,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) create_namespace: bool,
    pub(crate) take_ownership: bool,
}

impl fmt::Debug for Deployer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deployer")
            .field("server", &self.cluster.server())
            .field("namespace", &self.cluster.namespace())
            .field("manager", &self.manager)
            .field("holder", &self.holder)
            .finish_non_exhaustive()
    }
}

impl Deployer {
    /// Releases into `namespace` through `client`, as field manager `modelship`.
    pub fn new(client: kube::Client, namespace: impl Into<String>) -> Self {
        Self::over(
            Connection {
                client,
                server: "the API server".to_owned(),
            },
            namespace.into(),
        )
    }

    /// Connects as the kubeconfig file at `path` says, in its current or the given context.
    ///
    /// # Errors
    /// `NotFound` or `Io` when the file cannot be read, `Invalid` when it is no kubeconfig or
    /// lacks the context, `Unauthorized` when its user has no usable credentials.
    pub async fn from_kubeconfig(
        path: impl AsRef<Path>,
        context: Option<&str>,
        namespace: impl Into<String>,
    ) -> Result<Self> {
        let connection = connect::from_path(path.as_ref(), context).await?;
        Ok(Self::over(connection, namespace.into()))
    }

    /// Connects as the text of a kubeconfig says.
    ///
    /// # Errors
    /// As [`Deployer::from_kubeconfig`].
    pub async fn from_kubeconfig_yaml(
        yaml: &str,
        context: Option<&str>,
        namespace: impl Into<String>,
    ) -> Result<Self> {
        let connection = connect::from_yaml(yaml, context).await?;
        Ok(Self::over(connection, namespace.into()))
    }

    fn over(connection: Connection, namespace: String) -> Self {
        let Connection { client, server } = connection;
        Self {
            cluster: Cluster::new(client, server, namespace),
            manager: MANAGED_BY.to_owned(),
            holder: format!("{MANAGED_BY}-{}", std::process::id()),
            clock: Arc::new(SystemTime::now),
            limits: Limits::default(),
            create_namespace: false,
            take_ownership: false,
        }
    }

    /// Applies as another field manager; at most 128 characters. One application keeps to one.
    #[must_use]
    pub fn with_field_manager(mut self, manager: impl Into<String>) -> Self {
        self.manager = manager.into();
        self
    }

    /// Names who holds the lock, such as a run's address; shown to whoever finds it taken.
    #[must_use]
    pub fn with_holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = holder.into();
        self
    }

    /// Reads the time of day from `clock` instead of the system.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// How long things may take, and how much is kept.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Creates the namespace when it is missing, enforcing the Restricted Pod Security Standard.
    #[must_use]
    pub fn with_create_namespace(mut self, create: bool) -> Self {
        self.create_namespace = create;
        self
    }

    /// Takes fields over from their owners instead of failing with a conflict.
    #[must_use]
    pub fn with_take_ownership(mut self, take: bool) -> Self {
        self.take_ownership = take;
        self
    }

    /// Releases `spec`: applies it, waits until every replica serves users, and restores the last
    /// good release if that fails. What happened is in the [`Outcome`] and in the history.
    ///
    /// A first release that fails is scaled to zero and its objects are kept, unless pods that
    /// something else deployed still serve; those are left alone.
    ///
    /// # Errors
    /// `Invalid` when the spec or the cluster's schema forbids it, `Conflict` when fields or the
    /// lock belong to somebody else or the Deployment changed meanwhile, `NotFound` when the
    /// namespace is missing, `Unauthorized`, `Forbidden`, `Unreachable`, `Unavailable`. Up to the
    /// end of the dry run nothing has been written.
    pub async fn release(
        &self,
        spec: &AppSpec,
        record: &ReleaseRecord,
        progress: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Outcome> {
        let manifests = self.manifests(spec, record)?;
        self.ensure_namespace().await?;
        let is_live = self.is_live(&manifests).await?;
        let history = record::history(&self.cluster, spec.name()).await?;
        if is_live && let Some(outcome) = unchanged(&history, record) {
            return Ok(outcome);
        }
        let job = Job {
            app: spec.name().to_owned(),
            manifests,
            record: record.clone(),
            rollback_of: None,
        };
        Box::pin(
            self.lock()
                .hold(spec.name(), release::run(self, job, progress)),
        )
        .await
    }

    /// Returns to the last good release before the one that runs, as a whole.
    ///
    /// It becomes a release of its own in the history, and the one that ran counts as withdrawn,
    /// so that a second call goes one further back.
    ///
    /// # Errors
    /// `NotFound` when the history holds no earlier good release; else as [`Deployer::release`].
    pub async fn rollback(
        &self,
        app: &str,
        progress: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<Outcome> {
        check_app_name(app)?;
        let work = async {
            let history = record::history(&self.cluster, app).await?;
            let none = || {
                Error::new(
                    ErrorKind::NotFound,
                    "roll back",
                    app,
                    "there is no earlier good release",
                )
                .with_hint("release a version that is known to work")
            };
            let target = record::previous(&history).ok_or_else(none)?;
            let current = record::running(&history).map(|stored| stored.release.number);
            let job = Job {
                app: app.to_owned(),
                manifests: target.manifests.clone(),
                record: target.release.record.clone(),
                rollback_of: Some(record::origin(target)),
            };
            let outcome = release::run(self, job, progress).await?;
            if let (Outcome::Available { .. }, Some(current)) = (&outcome, current) {
                self.withdraw(app, current, &history).await?;
            }
            Ok(outcome)
        };
        Box::pin(self.lock().hold(app, work)).await
    }

    async fn withdraw(&self, app: &str, number: u64, history: &[Stored]) -> Result<()> {
        let Some(found) = history
            .iter()
            .find(|stored| stored.release.number == number)
        else {
            return Ok(());
        };
        let mut stored = found.clone();
        stored.release.state = ReleaseState::Withdrawn;
        record::write(&self.cluster, &self.manager, app, &stored).await
    }

    pub(crate) fn apply_with(&self, dry_run: bool) -> Apply<'_> {
        Apply {
            manager: &self.manager,
            dry_run,
            force: self.take_ownership,
        }
    }

    fn lock(&self) -> Lock {
        Lock {
            cluster: self.cluster.clone(),
            clock: Arc::clone(&self.clock),
            holder: self.holder.clone(),
            ttl: self.limits.lock,
        }
    }

    /// The manifests, with the release key noted on the Deployment.
    fn manifests(&self, spec: &AppSpec, record: &ReleaseRecord) -> Result<Vec<Value>> {
        let key = format!("{PREFIX}/release-key");
        let spec = if record.release_key.is_empty() {
            spec.clone()
        } else {
            spec.clone().with_annotation(key, &record.release_key)
        };
        render(&spec, self.cluster.namespace())
    }

    async fn ensure_namespace(&self) -> Result<()> {
        const STAGE: &str = "check namespace";
        let name = self.cluster.namespace();
        match self.cluster.get(STAGE, Kind::Namespace, name).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) if self.create_namespace => {
                let namespace = json!({
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {
                        "name": name,
                        "labels": {
                            MANAGED_BY_LABEL: MANAGED_BY,
                            "pod-security.kubernetes.io/enforce": "restricted",
                        },
                    },
                });
                let how = self.apply_with(false);
                self.cluster
                    .apply("create namespace", &namespace, how)
                    .await
                    .map(drop)
            }
            Ok(None) => Err(Error::new(
                ErrorKind::NotFound,
                STAGE,
                name,
                "there is no such namespace",
            )
            .with_hint("create the namespace first, or let the deployer create it")),
            // Who may deploy into a namespace need not be allowed to look at namespaces.
            Err(error) if error.kind() == ErrorKind::Forbidden => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether applying `manifests` would change nothing. Finds every conflict and every invalid
    /// field before the first write.
    async fn is_live(&self, manifests: &[Value]) -> Result<bool> {
        let mut same = true;
        for manifest in manifests {
            let applied = self
                .cluster
                .apply("dry run", manifest, self.apply_with(true))
                .await?;
            let live = self.live(manifest).await?;
            same &= live.is_some_and(|live| essence(live) == essence(applied));
        }
        Ok(same)
    }

    async fn live(&self, manifest: &Value) -> Result<Option<Value>> {
        let name = crate::observe::text(manifest, "/metadata/name");
        match Kind::of(manifest) {
            Some(kind) => self.cluster.get("compare", kind, &name).await,
            None => Ok(None),
        }
    }
}

fn unchanged(history: &[Stored], record: &ReleaseRecord) -> Option<Outcome> {
    let running = record::running(history)?;
    let newest = history.first()?;
    let same = newest.release.state != ReleaseState::Pending
        && running.release.record.release_key == record.release_key;
    same.then(|| Outcome::Unchanged {
        release: running.release.number,
        image: running
            .manifests
            .last()
            .map(image_of_deployment)
            .unwrap_or_default(),
    })
}

/// An object without what the server counts and notes by itself.
fn essence(mut object: Value) -> Value {
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in ["managedFields", "resourceVersion", "generation"] {
            metadata.remove(key);
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spawnable<T: Send + 'static>(_: &T) {}

    /// Whoever runs several releases spawns them. Compiled, never run.
    #[expect(dead_code, reason = "the compiler is the judge")]
    fn a_release_can_be_spawned(deployer: Deployer, spec: AppSpec, record: ReleaseRecord) {
        spawnable(&async move {
            let released = deployer.release(&spec, &record, &|_| {}).await;
            let returned = deployer.rollback(spec.name(), &|_| {}).await;
            let status = deployer.status(spec.name()).await;
            (released, returned, status)
        });
    }
}
