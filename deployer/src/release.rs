//! One release from the first write to its entry in the history.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cause::{Cause, CauseKind};
use crate::clock;
use crate::cluster::{Cluster, Kind};
use crate::deployer::Deployer;
use crate::error::{Error, ErrorKind, Result};
use crate::evidence::{self, Evidence};
use crate::observe::{
    DeploymentView, Observation, PodView, ReplicaSetView, items, ready_endpoints, text,
};
use crate::outcome::{Event, Outcome};
use crate::record::{self, Release, ReleaseRecord, ReleaseState, Stored};
use crate::render::NAME_LABEL;
use crate::rollout::{State, Target, Verdict, deadline_verdict, image_of_deployment, step};

/// Where events go.
pub(crate) type Sink<'a> = &'a (dyn Fn(Event) + Send + Sync);

/// What is to run.
pub(crate) struct Job {
    pub(crate) app: String,
    pub(crate) manifests: Vec<Value>,
    pub(crate) record: ReleaseRecord,
    pub(crate) rollback_of: Option<u64>,
}

/// Carries out a job under the lock.
pub(crate) async fn run(deployer: &Deployer, job: Job, sink: Sink<'_>) -> Result<Outcome> {
    let history = record::history(&deployer.cluster, &job.app).await?;
    let fallback = record::running(&history).cloned();
    let mut entry = begin(deployer, &job, record::next_number(&history));
    save(deployer, &job.app, &entry).await?;
    let outcome = match roll_out(deployer, &job.app, &entry.manifests, sink).await {
        Ok(Verdict::Failed(cause)) if is_interference(cause.kind) => {
            Err(interference(&job.app, &cause))
        }
        Ok(Verdict::Failed(cause)) => Ok(fail(
            deployer,
            &mut entry,
            cause,
            fallback.as_ref(),
            (&job.app, sink),
        )
        .await),
        Ok(verdict) => Ok(available(&entry.release, &verdict)),
        Err(error) => Err(error),
    };
    finish(deployer, &mut entry, &outcome);
    match outcome {
        Ok(outcome) => {
            save(deployer, &job.app, &entry).await?;
            record::prune(&deployer.cluster, &job.app, deployer.limits.history).await?;
            Ok(outcome)
        }
        Err(error) => {
            // The error says more than a record that could not be written either.
            let _ = save(deployer, &job.app, &entry).await;
            Err(error)
        }
    }
}

fn begin(deployer: &Deployer, job: &Job, number: u64) -> Stored {
    Stored {
        release: Release {
            number,
            record: job.record.clone(),
            image: job
                .manifests
                .last()
                .map(image_of_deployment)
                .unwrap_or_default(),
            manifest_sha256: record::manifest_digest(&job.manifests),
            state: ReleaseState::Pending,
            started: clock::format((deployer.clock)()),
            finished: None,
            rollback_of: job.rollback_of,
            cause: None,
            evidence: None,
        },
        manifests: job.manifests.clone(),
    }
}

fn finish(deployer: &Deployer, entry: &mut Stored, outcome: &Result<Outcome>) {
    entry.release.finished = Some(clock::format((deployer.clock)()));
    entry.release.state = match outcome {
        Ok(Outcome::Available { .. } | Outcome::Unchanged { .. }) => ReleaseState::Available,
        Ok(Outcome::RolledBack { .. }) => ReleaseState::RolledBack,
        Ok(Outcome::RollbackFailed { .. }) => ReleaseState::RollbackFailed,
        Err(_) => ReleaseState::Aborted,
    };
}

async fn save(deployer: &Deployer, app: &str, entry: &Stored) -> Result<()> {
    record::write(&deployer.cluster, &deployer.manager, app, entry).await
}

fn available(release: &Release, verdict: &Verdict) -> Outcome {
    let revision = match verdict {
        Verdict::Available { revision } => *revision,
        _ => None,
    };
    Outcome::Available {
        release: release.number,
        revision,
        image: release.image.clone(),
    }
}

fn is_interference(kind: CauseKind) -> bool {
    matches!(kind, CauseKind::Superseded | CauseKind::Deleted)
}

/// Somebody else changed the Deployment on purpose: that is not ours to roll back.
fn interference(app: &str, cause: &Cause) -> Error {
    Error::new(ErrorKind::Conflict, "roll out", app, cause.to_string()).with_hint(cause.hint())
}

/// Applies the manifests and watches until the verdict is in.
async fn roll_out(
    deployer: &Deployer,
    app: &str,
    manifests: &[Value],
    sink: Sink<'_>,
) -> Result<Verdict> {
    let before = deployer.cluster.get("look", Kind::Deployment, app).await?;
    let stale = before.as_ref().and_then(deadline_verdict);
    let mut target = None;
    for manifest in manifests {
        let applied = deployer
            .cluster
            .apply("apply", manifest, deployer.apply_with(false))
            .await?;
        let kind = text(manifest, "/kind");
        sink(Event::Applied(format!(
            "{}/{}",
            kind.to_ascii_lowercase(),
            text(manifest, "/metadata/name")
        )));
        if kind == "Deployment" {
            target = Some(target_of(&applied, manifest).with_stale_verdict(stale.clone()));
        }
    }
    let target = target.ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            "apply",
            app,
            "its manifests hold no Deployment",
        )
    })?;
    watch(deployer, app, target, sink).await
}

/// What to wait for, as the manifest itself says it, so that a stored one can be restored.
fn target_of(applied: &Value, manifest: &Value) -> Target {
    let number = |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_u64);
    let probe = "/spec/template/spec/containers/0/startupProbe";
    let period = number(manifest, &format!("{probe}/periodSeconds")).unwrap_or(1);
    let failures = number(manifest, &format!("{probe}/failureThreshold")).unwrap_or(1);
    let deadline = number(manifest, "/spec/progressDeadlineSeconds").unwrap_or(600);
    let generation = applied
        .pointer("/metadata/generation")
        .and_then(Value::as_i64);
    Target::new(
        generation.unwrap_or_default(),
        image_of_deployment(manifest),
        Duration::from_secs(period.saturating_mul(failures)),
        Duration::from_secs(deadline),
    )
}

async fn watch(deployer: &Deployer, app: &str, target: Target, sink: Sink<'_>) -> Result<Verdict> {
    let limits = &deployer.limits;
    let begin = Instant::now();
    let mut state = State::new(target, limits.patience.clone());
    let mut told = (None, None);
    let mut reached = begin;
    loop {
        match observe(&deployer.cluster, app).await {
            Ok(seen) => {
                reached = Instant::now();
                let (next, verdict) = step(state, &seen, begin.elapsed());
                state = next;
                let Verdict::Waiting(progress) = verdict else {
                    return Ok(verdict);
                };
                if told.0 != Some(progress) {
                    told.0 = Some(progress);
                    sink(Event::Progress(progress));
                }
                if told.1.as_ref() != state.suspicion() {
                    told.1 = state.suspicion().cloned();
                    told.1
                        .iter()
                        .for_each(|cause| sink(Event::Suspect(cause.clone())));
                }
            }
            Err(error) if is_passing(&error) && reached.elapsed() < limits.outage => {
                sink(Event::OutOfReach(error.to_string()));
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(limits.poll).await;
    }
}

/// A token may just be renewed; everything else that may pass says so itself.
fn is_passing(error: &Error) -> bool {
    error.is_retryable() || error.kind() == ErrorKind::Unauthorized
}

/// One look at everything that decides.
pub(crate) async fn observe(cluster: &Cluster, app: &str) -> Result<Observation> {
    const STAGE: &str = "watch";
    let labels = format!("{NAME_LABEL}={app}");
    let slices = format!("kubernetes.io/service-name={app}");
    let (deployment, sets, pods, slices) = tokio::try_join!(
        cluster.get(STAGE, Kind::Deployment, app),
        cluster.list(STAGE, Kind::ReplicaSet, &labels),
        cluster.list(STAGE, Kind::Pod, &labels),
        cluster.list(STAGE, Kind::EndpointSlice, &slices),
    )?;
    let pods: Vec<_> = pods.iter().map(PodView::from_json).collect();
    let scaling_up =
        pods.iter().any(|pod| pod.unscheduled.is_some()) && is_scaling_up(cluster, &pods).await;
    Ok(Observation {
        deployment: deployment.as_ref().map(DeploymentView::from_json),
        replica_sets: sets.iter().map(ReplicaSetView::from_json).collect(),
        pods,
        serving: slices.iter().flat_map(ready_endpoints).collect(),
        scaling_up,
    })
}

/// Whether the cluster autoscaler said that it adds a node for one of the pods.
async fn is_scaling_up(cluster: &Cluster, pods: &[PodView]) -> bool {
    let names: BTreeSet<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
    let events = cluster
        .events("watch", "reason=TriggeredScaleUp")
        .await
        .unwrap_or_default();
    events
        .iter()
        .any(|event| names.contains(text(event, "/involvedObject/name").as_str()))
}

/// Collects the evidence, then restores what ran before.
async fn fail(
    deployer: &Deployer,
    entry: &mut Stored,
    cause: Cause,
    fallback: Option<&Stored>,
    (app, sink): (&str, Sink<'_>),
) -> Outcome {
    sink(Event::Failed(cause.clone()));
    let since = record::begun(&deployer.cluster, app, entry.release.number).await;
    let evidence = evidence::collect(&deployer.cluster, app, &cause, &since).await;
    entry.release.cause = Some(cause.clone());
    entry.release.evidence = Some(evidence.clone());
    // Kept before anything is undone; it is written again with the outcome.
    let _ = save(deployer, app, entry).await;
    let to = fallback.map(|stored| stored.release.number);
    sink(Event::RollingBack(to));
    let restored = match fallback {
        Some(stored) => restore(deployer, app, &stored.manifests, sink).await,
        None => withdraw_first(deployer, app, &entry.manifests, sink).await,
    };
    conclude(entry.release.number, cause, evidence, (to, restored))
}

fn conclude(
    release: u64,
    cause: Cause,
    evidence: Evidence,
    (to, restored): (Option<u64>, Result<(), String>),
) -> Outcome {
    match restored {
        Ok(()) => Outcome::RolledBack {
            release,
            cause,
            evidence,
            to,
        },
        Err(reason) => Outcome::RollbackFailed {
            release,
            cause,
            evidence,
            to,
            reason,
        },
    }
}

/// Applies the manifests of a good release as a whole and waits until they serve again.
async fn restore(
    deployer: &Deployer,
    app: &str,
    manifests: &[Value],
    sink: Sink<'_>,
) -> Result<(), String> {
    match roll_out(deployer, app, manifests, sink).await {
        Ok(Verdict::Failed(cause)) => Err(cause.to_string()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Takes back a first release: no replicas, everything else kept for whoever looks into it.
async fn withdraw_first(
    deployer: &Deployer,
    app: &str,
    manifests: &[Value],
    sink: Sink<'_>,
) -> Result<(), String> {
    let others = serving_others(deployer, app, manifests)
        .await
        .map_err(|error| error.to_string())?;
    if others {
        return Err(
            "no good release is on record; the pods that were there still serve".to_owned(),
        );
    }
    let mut manifests: Vec<Value> = manifests
        .iter()
        .filter(|manifest| manifest["kind"] == "Deployment")
        .cloned()
        .collect();
    for manifest in &mut manifests {
        manifest["spec"]["replicas"] = json!(0);
    }
    restore(deployer, app, &manifests, sink).await
}

/// Whether pods with another image are ready: something that was deployed by other means.
async fn serving_others(deployer: &Deployer, app: &str, manifests: &[Value]) -> Result<bool> {
    let ours = manifests
        .last()
        .map(image_of_deployment)
        .unwrap_or_default();
    let labels = format!("{NAME_LABEL}={app}");
    let pods = deployer
        .cluster
        .list("roll back", Kind::Pod, &labels)
        .await?;
    Ok(pods.iter().any(|pod| {
        PodView::from_json(pod).ready
            && items(pod, "/spec/containers").all(|container| text(container, "/image") != ours)
    }))
}
