//! Where releases go: a cluster, or a directory of rendered manifests.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use modelship_deployer::{
    self as deployer, AppSpec, Deployer, Outcome, ReleaseRecord, ReleaseState,
};
use modelship_registry::PinnedReference;

use crate::cache;
use crate::config::{Config, Expose};
use crate::edge::Edge;
use crate::error::{Error, ErrorKind, Result};
use crate::event::StageTimer;
use crate::history::{Entry, History};
use crate::inputs::ReleaseKey;
use crate::plan::Live;
use crate::recipe::{self, KEY_ANNOTATION};
use crate::release::Release;
use crate::{Stage, smoke};

/// The annotation that carries the digest of how a release runs.
const SHAPE_ANNOTATION: &str = "modelship.github.io/shape";

/// Where releases go.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A namespace of a cluster.
    Cluster {
        deployer: Arc<Deployer>,
        name: String,
    },
    /// A directory of manifests, with a history beside the other records of this folder.
    Manifests { folder: PathBuf, history: History },
}

/// What is known of a target's app.
#[derive(Clone, Debug, Default)]
pub(crate) struct TargetState {
    pub(crate) live: Option<Live>,
    /// Keys whose release failed and was rolled back.
    pub(crate) failed: Vec<String>,
}

impl Target {
    /// The target that the configuration names.
    pub(crate) async fn from_config(config: &Config, edge: &Edge) -> Result<Self> {
        let deploy = &config.deploy;
        match (&deploy.kubeconfig, &deploy.manifests) {
            (Some(path), _) => {
                let deployer =
                    Deployer::from_kubeconfig(path, deploy.context.as_deref(), &deploy.namespace)
                        .await
                        .map_err(|e| Error::step(Stage::Configure, path.display(), e))?
                        .with_clock(clock(edge.now))
                        .with_holder(format!("modelship {}", edge.actor));
                let name = format!("namespace {} of {}", deploy.namespace, path.display());
                Ok(Self::Cluster {
                    deployer: Arc::new(deployer),
                    name,
                })
            }
            (None, Some(folder)) => {
                let history = History::new(&config.state, &config.app.name);
                Ok(Self::Manifests {
                    folder: folder.clone(),
                    history,
                })
            }
            (None, None) => Err(Error::new(
                ErrorKind::Invalid,
                Stage::Configure,
                "deploy",
                "names no target",
            )),
        }
    }

    /// The target in a few words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Cluster { name, .. } => name.clone(),
            Self::Manifests { folder, .. } => folder.display().to_string(),
        }
    }

    /// What runs now, and what failed before.
    pub(crate) async fn observe(&self, app: &str) -> Result<TargetState> {
        match self {
            Self::Cluster { deployer, name } => {
                let status = deployer
                    .status(app)
                    .await
                    .map_err(|e| Error::step(Stage::Observe, name, e))?;
                Ok(status.map(|s| state_of(&s)).unwrap_or_default())
            }
            Self::Manifests { folder, history } => {
                let live = history
                    .current()?
                    .filter(|e| manifest_file(folder, app).is_file() && e.is_written(folder, app));
                let live = live.map(|e| {
                    Live::new(
                        e.release.key.clone(),
                        e.release.shape.clone(),
                        digest_of(&e.release.image),
                    )
                });
                Ok(TargetState {
                    live,
                    failed: Vec::new(),
                })
            }
        }
    }

    /// Brings `release` to its users, or leaves everything as it was.
    pub(crate) async fn release(
        &self,
        spec: &AppSpec,
        release: &Release,
        namespace: &str,
        timer: &StageTimer,
    ) -> Result<String> {
        match self {
            Self::Cluster { deployer, name } => {
                let record = record_of(release);
                let progress = |event: deployer::Event| timer.note(words(&event));
                let outcome = deployer
                    .release(spec, &record, &progress)
                    .await
                    .map_err(|e| Error::step(Stage::Rollout, name, e))?;
                judge(&outcome, Stage::Rollout, &release.app)
            }
            Self::Manifests { folder, history } => {
                let objects = deployer::render(spec, namespace)
                    .map_err(|e| Error::step(Stage::Rollout, &release.app, e))?;
                let entry = Entry {
                    release: release.clone(),
                    manifests: deployer::to_yaml(&objects),
                };
                entry.write(folder)?;
                history.add(entry)?;
                Ok(format!(
                    "{} objects written to {}",
                    objects.len(),
                    manifest_file(folder, &release.app).display()
                ))
            }
        }
    }

    /// Returns to the release before the one that runs.
    pub(crate) async fn rollback(&self, app: &str, timer: &StageTimer) -> Result<String> {
        match self {
            Self::Cluster { deployer, name } => {
                let progress = |event: deployer::Event| timer.note(words(&event));
                let outcome = deployer
                    .rollback(app, &progress)
                    .await
                    .map_err(|e| Error::step(Stage::Rollback, name, e))?;
                judge(&outcome, Stage::Rollback, app)
            }
            Self::Manifests { folder, history } => {
                let entry = history.step_back()?;
                entry.write(folder)?;
                Ok(format!("{} is written again", entry.release))
            }
        }
    }
}

/// The file that holds an app's manifests.
pub(crate) fn manifest_file(folder: &Path, app: &str) -> PathBuf {
    folder.join(format!("{app}.yaml"))
}

impl Entry {
    fn write(&self, folder: &Path) -> Result<()> {
        cache::write_file(
            Stage::Rollout,
            &manifest_file(folder, &self.release.app),
            self.manifests.as_bytes(),
        )
    }

    fn is_written(&self, folder: &Path, app: &str) -> bool {
        std::fs::read(manifest_file(folder, app))
            .is_ok_and(|text| text == self.manifests.as_bytes())
    }
}

/// `sha256:…` of a pinned reference.
pub(crate) fn digest_of(pinned: &str) -> String {
    pinned
        .rsplit_once('@')
        .map_or(pinned, |(_, digest)| digest)
        .to_owned()
}

fn state_of(status: &deployer::AppStatus) -> TargetState {
    let annotation = |key: &str| status.annotations.get(key).cloned();
    let serving =
        status.replicas.desired > 0 && status.replicas.available >= status.replicas.desired;
    let live = match (annotation(KEY_ANNOTATION), annotation(SHAPE_ANNOTATION)) {
        (Some(key), Some(shape)) if serving => Some(Live::new(
            ReleaseKey::from_text(key),
            shape,
            digest_of(&status.image),
        )),
        _ => None,
    };
    let failed = status.last.iter().filter(|r| {
        matches!(
            r.state,
            ReleaseState::RolledBack | ReleaseState::RollbackFailed
        )
    });
    TargetState {
        live,
        failed: failed.map(|r| r.record.release_key.clone()).collect(),
    }
}

fn record_of(release: &Release) -> ReleaseRecord {
    ReleaseRecord::new(release.key.as_str())
        .with_commit(&release.inputs.revision)
        .with_model(
            &release.inputs.model_name,
            &release.inputs.model_version,
            &release.inputs.model,
        )
        .with_who(&release.trigger)
        .with_note("app", &release.inputs.app)
        .with_note("base", &release.inputs.base)
}

/// A rollout that ended elsewhere than it should is an error with its cause and evidence.
fn judge(outcome: &Outcome, stage: Stage, app: &str) -> Result<String> {
    let failed = |cause: &deployer::Cause, evidence: &deployer::Evidence, after: String| {
        let detail = format!("{cause}; {after}{}", told(evidence));
        Err(Error::new(ErrorKind::RolloutFailed, stage, app, detail).with_hint(cause.hint()))
    };
    match outcome {
        Outcome::Available { release, image, .. } => {
            Ok(format!("release {release} serves {image}"))
        }
        Outcome::Unchanged { release, image, .. } => {
            Ok(format!("release {release} was serving {image} already"))
        }
        Outcome::RolledBack {
            cause,
            evidence,
            to: Some(to),
            ..
        } => failed(cause, evidence, format!("release {to} serves again")),
        Outcome::RolledBack {
            cause,
            evidence,
            to: None,
            ..
        } => failed(
            cause,
            evidence,
            "it was the first release and is scaled to zero".to_owned(),
        ),
        Outcome::RollbackFailed {
            cause,
            evidence,
            reason,
            ..
        } => failed(
            cause,
            evidence,
            format!("and the rollback failed: {reason}"),
        ),
        _ => Err(Error::new(
            ErrorKind::RolloutFailed,
            stage,
            app,
            "ended in a way that is not known here",
        )),
    }
}

/// The evidence of a failure: the last lines of logs and events.
fn told(evidence: &deployer::Evidence) -> String {
    let mut text = String::new();
    for log in &evidence.logs {
        let run = if log.previous { ", the run before" } else { "" };
        let _ = write!(
            text,
            "\nlog of {}{run}:\n{}",
            log.pod,
            smoke::tail(log.text.trim(), 20)
        );
    }
    for event in &evidence.events {
        let _ = write!(text, "\nevent: {event}");
    }
    text
}

/// An event of a rollout, in words.
fn words(event: &deployer::Event) -> String {
    match event {
        deployer::Event::Applied(object) => format!("applied {object}"),
        deployer::Event::Progress(p) => {
            format!(
                "{} of {} replicas updated, {} ready, {} available",
                p.updated, p.desired, p.ready, p.available
            )
        }
        deployer::Event::Suspect(cause) => format!("suspect: {cause}"),
        deployer::Event::OutOfReach(why) => format!("the API server is out of reach: {why}"),
        deployer::Event::Failed(cause) => format!("failed: {cause}"),
        deployer::Event::RollingBack(Some(to)) => format!("returning to release {to}"),
        deployer::Event::RollingBack(None) => "scaling to zero".to_owned(),
        _ => "the rollout moved on".to_owned(),
    }
}

fn clock(now: fn() -> chrono::DateTime<chrono::Utc>) -> impl Fn() -> std::time::SystemTime {
    move || now().into()
}

/// The spec of a release: what is rendered, applied and watched.
pub(crate) fn app_spec(
    config: &Config,
    image: &PinnedReference,
    release: &Release,
) -> Result<AppSpec> {
    let step = |e| Error::step(Stage::Rollout, &release.app, e);
    let image = image.to_string().parse().map_err(step)?;
    let deploy = &config.deploy;
    let expose = match deploy.expose {
        Expose::ClusterIp => deployer::Expose::ClusterIp,
        Expose::LoadBalancer => deployer::Expose::LoadBalancer {
            azure_dns_label: deploy.dns_label.clone(),
        },
    };
    let mut spec = AppSpec::flask(&release.app, image)
        .with_replicas(deploy.replicas)
        .with_port(config.app.port)
        .with_readiness_path(&config.app.readiness)
        .with_expose(expose)
        .with_progress_deadline(deploy.progress_deadline.duration())
        .with_annotation(KEY_ANNOTATION, release.key.as_str())
        .with_annotation(SHAPE_ANNOTATION, &release.shape)
        .with_annotation("modelship.github.io/revision", &release.inputs.revision)
        .with_annotation(
            "modelship.github.io/model",
            format!(
                "{} {} {}",
                release.inputs.model_name, release.inputs.model_version, release.inputs.model
            ),
        );
    if let Some(secret) = &deploy.pull_secret {
        spec = spec.with_pull_secret(secret);
    }
    Ok(spec)
}

/// The digest of how a release runs, apart from which image: a change of it is a rollout too.
pub(crate) fn shape(config: &Config) -> String {
    let deploy = &config.deploy;
    let text = serde_json::json!({
        "expose": deploy.expose, "dns_label": deploy.dns_label, "replicas": deploy.replicas,
        "pull_secret": deploy.pull_secret, "progress_deadline": deploy.progress_deadline,
        "namespace": deploy.namespace, "port": config.app.port, "readiness": config.app.readiness,
    });
    recipe::sha256(text.to_string().as_bytes())
}
