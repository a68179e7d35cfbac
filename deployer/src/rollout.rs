//! The rollout as a pure state machine: observations in, a verdict out.
//!
//! [`step`] is total and deterministic, reads no clock (`now` is the time since the rollout
//! began) and does no I/O. Once it has reached a verdict it keeps it, whatever it is shown later.
//!
//! Success is judged more strictly than by the Deployment's own condition, which still speaks
//! about the previous rollout right after an apply: the controller has seen our specification,
//! the newest ReplicaSet holds our image digest, all its pods are ready and the Service sends
//! requests to them, and no old pod is left.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::cause::{self, Cause, CauseKind, Context, Patience, Sign};
use crate::observe::{DeploymentView, Observation, PodView, ReplicaSetView, text};

/// How long a sign may stay out of sight before it is forgotten.
const FORGET: Duration = Duration::from_secs(30);
/// How long the controller's own verdict may come after its deadline.
const DEADLINE_MARGIN: Duration = Duration::from_secs(30);
/// How long the Deployment may be missing before it counts as deleted.
const GONE: Duration = Duration::from_secs(5);

/// What the rollout has to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// The Deployment's generation that the apply answered with.
    pub generation: i64,
    /// The image reference, with its digest, that the pods have to run.
    pub image: String,
    /// How long a replica may take to become ready.
    pub startup: Duration,
    /// How long the rollout may stand still.
    pub deadline: Duration,
    /// The `lastUpdateTime` of a deadline verdict that was there before the apply.
    pub stale_verdict: Option<String>,
}

impl Target {
    /// A target without a verdict left over from before.
    pub fn new(
        generation: i64,
        image: impl Into<String>,
        startup: Duration,
        deadline: Duration,
    ) -> Self {
        Self {
            generation,
            image: image.into(),
            startup,
            deadline,
            stale_verdict: None,
        }
    }

    /// Ignores the deadline verdict that was written at `updated`.
    #[must_use]
    pub fn with_stale_verdict(mut self, updated: Option<String>) -> Self {
        self.stale_verdict = updated;
        self
    }
}

/// How far a rollout is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Progress {
    /// Replicas asked for.
    pub desired: u64,
    /// New pods created.
    pub updated: u64,
    /// New pods ready.
    pub ready: u64,
    /// New pods ready for the minimum ready time.
    pub available: u64,
}

/// What the machine decided.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Not over yet.
    Waiting(Progress),
    /// Every replica runs our image and is served to users.
    Available {
        /// The Deployment's revision number.
        revision: Option<u64>,
    },
    /// It will not succeed.
    Failed(Cause),
}

/// What the machine remembers.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    target: Target,
    patience: Patience,
    suspects: BTreeMap<(String, CauseKind), Suspect>,
    best: Progress,
    moved_at: Duration,
    missing_since: Option<Duration>,
    ever_ready: bool,
    verdict: Option<Verdict>,
}

#[derive(Clone, Debug, PartialEq)]
struct Suspect {
    since: Duration,
    seen: Duration,
    sign: Sign,
}

impl State {
    /// A rollout that begins now, at time zero.
    pub fn new(target: Target, patience: Patience) -> Self {
        Self {
            target,
            patience,
            suspects: BTreeMap::new(),
            best: Progress::default(),
            moved_at: Duration::ZERO,
            missing_since: None,
            ever_ready: false,
            verdict: None,
        }
    }

    /// The most telling sign of trouble so far, if any.
    pub fn suspicion(&self) -> Option<&Cause> {
        self.suspects
            .values()
            .map(|suspect| &suspect.sign.cause)
            .min()
    }

    /// Notes the signs in view and forgets those long out of sight.
    fn watch(&mut self, signs: Vec<(String, Sign)>, bare_backoffs: &[&str], now: Duration) {
        for (place, sign) in signs {
            let key = (place, sign.cause.kind);
            let since = self
                .suspects
                .get(&key)
                .map_or(now, |suspect| suspect.since.min(now));
            self.suspects.insert(
                key,
                Suspect {
                    since,
                    seen: now,
                    sign,
                },
            );
        }
        for ((place, kind), suspect) in &mut self.suspects {
            // A bare back-off repeats no reason: the one seen before it still holds.
            let is_pull = matches!(
                kind,
                CauseKind::ImageNotFound | CauseKind::ImageDenied | CauseKind::WrongPlatform
            );
            if is_pull && bare_backoffs.contains(&place.as_str()) {
                suspect.seen = now;
            }
        }
        self.suspects
            .retain(|_, suspect| now.saturating_sub(suspect.seen) <= FORGET);
    }

    /// The cause to name when a sign in view has outlasted its grace: the most telling one of the
    /// same place, because a slow crash also looks unready.
    fn ripe(&self, now: Duration) -> Option<Cause> {
        let ((place, _), _) = self.suspects.iter().find(|(_, suspect)| {
            let lasted = suspect.seen.saturating_sub(suspect.since);
            suspect.seen == now && suspect.sign.grace.is_some_and(|grace| lasted >= grace)
        })?;
        self.suspects
            .iter()
            .filter(|((other, _), _)| other == place)
            .map(|(_, suspect)| suspect.sign.cause.clone())
            .min()
    }

    fn decide(mut self, verdict: Verdict) -> (Self, Verdict) {
        if !matches!(verdict, Verdict::Waiting(_)) {
            self.verdict = Some(verdict.clone());
        }
        (self, verdict)
    }
}

/// Takes one observation at `now`, the time since the rollout began.
pub fn step(mut state: State, seen: &Observation, now: Duration) -> (State, Verdict) {
    if let Some(verdict) = state.verdict.clone() {
        return (state, verdict);
    }
    let Some(deployment) = &seen.deployment else {
        return missing(state, now);
    };
    state.missing_since = None;
    if deployment.generation > state.target.generation
        && image_of(&deployment.template) != Some(&state.target.image)
    {
        let message = format!(
            "it now asks for {}",
            image_of(&deployment.template).unwrap_or("nothing")
        );
        return state.decide(Verdict::Failed(Cause::new(
            CauseKind::Superseded,
            "deployment",
            message,
        )));
    }
    let observed = deployment.generation >= state.target.generation
        && deployment.observed_generation >= deployment.generation;
    let set = if observed {
        newest(deployment, &seen.replica_sets, &state.target.image)
    } else {
        None
    };
    let pods: Vec<&PodView> = set
        .map(|set| {
            seen.pods
                .iter()
                .filter(|pod| pod.owner == set.uid)
                .collect()
        })
        .unwrap_or_default();
    let progress = measure(deployment, &pods, observed);
    state.ever_ready |= progress.ready > 0;
    if moved(&mut state.best, progress) {
        state.moved_at = now;
    }
    if set.is_some() && is_complete(deployment, &pods, seen) {
        return state.decide(Verdict::Available {
            revision: deployment.revision,
        });
    }
    // Pods that are to go away may look as they like.
    if deployment.desired > 0 {
        look_for_trouble(&mut state, seen, set, &pods, now);
    }
    let failed = state
        .ripe(now)
        .or_else(|| overdue(&state, deployment, observed, now));
    let verdict = failed.map_or(Verdict::Waiting(progress), Verdict::Failed);
    state.decide(verdict)
}

fn missing(mut state: State, now: Duration) -> (State, Verdict) {
    let since = *state.missing_since.get_or_insert(now);
    if now.saturating_sub(since) < GONE {
        let waiting = Verdict::Waiting(state.best);
        return (state, waiting);
    }
    let cause = Cause::new(CauseKind::Deleted, "deployment", "it is gone");
    state.decide(Verdict::Failed(cause))
}

/// The ReplicaSet of the Deployment's current template, found as the controller finds it: the
/// oldest one it owns whose template is the same but for the hash label; and only if it is ours.
fn newest<'a>(
    deployment: &DeploymentView,
    sets: &'a [ReplicaSetView],
    image: &str,
) -> Option<&'a ReplicaSetView> {
    sets.iter()
        .filter(|set| set.owner == deployment.uid && set.template == deployment.template)
        .filter(|set| image_of(&set.template) == Some(image))
        .min_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)))
}

/// The image of the application's container, the first and only one we render.
fn image_of(template: &Value) -> Option<&str> {
    template
        .pointer("/spec/containers/0/image")
        .and_then(Value::as_str)
}

fn measure(deployment: &DeploymentView, pods: &[&PodView], observed: bool) -> Progress {
    let ready = pods
        .iter()
        .filter(|pod| pod.is_active() && pod.ready)
        .count() as u64;
    Progress {
        desired: deployment.desired,
        updated: if observed { deployment.updated } else { 0 },
        ready,
        available: if observed { deployment.available } else { 0 },
    }
}

/// Whether any count went beyond all earlier ones: going back and forth is no progress.
fn moved(best: &mut Progress, now: Progress) -> bool {
    let before = *best;
    best.desired = now.desired;
    best.updated = best.updated.max(now.updated);
    best.ready = best.ready.max(now.ready);
    best.available = best.available.max(now.available);
    (best.updated, best.ready, best.available) != (before.updated, before.ready, before.available)
}

/// kubectl's four clauses, and the ones that it lacks. The caller has checked the generation.
fn is_complete(deployment: &DeploymentView, pods: &[&PodView], seen: &Observation) -> bool {
    let counts = deployment.updated >= deployment.desired
        && deployment.replicas <= deployment.updated
        && deployment.available >= deployment.updated;
    let not_overdue = deployment
        .progressing
        .as_ref()
        .is_none_or(|c| c.reason != "ProgressDeadlineExceeded");
    let active = || pods.iter().filter(|pod| pod.is_active());
    let serving = active()
        .filter(|pod| seen.serving.contains(&pod.name))
        .count() as u64;
    counts
        && not_overdue
        && active().all(|pod| pod.ready)
        && active().count() as u64 >= deployment.desired
        && serving >= deployment.desired
}

fn look_for_trouble(
    state: &mut State,
    seen: &Observation,
    set: Option<&ReplicaSetView>,
    pods: &[&PodView],
    now: Duration,
) {
    let context = Context {
        patience: &state.patience,
        startup: state.target.startup,
        ever_ready: state.ever_ready,
        scaling_up: seen.scaling_up,
    };
    let mut found: Vec<(String, Sign)> = Vec::new();
    for pod in pods {
        found.extend(
            cause::signs(pod, context)
                .into_iter()
                .map(|sign| (pod.name.clone(), sign)),
        );
    }
    let rejected = set.and_then(|set| cause::rejection(set, &state.patience));
    found.extend(rejected.map(|sign| (String::new(), sign)));
    let bare: Vec<&str> = pods
        .iter()
        .filter(|pod| cause::is_bare_backoff(pod))
        .map(|pod| pod.name.as_str())
        .collect();
    state.watch(found, &bare, now);
}

/// The cause when time is up, by the controller's verdict or by our own watch.
fn overdue(
    state: &State,
    deployment: &DeploymentView,
    observed: bool,
    now: Duration,
) -> Option<Cause> {
    let judged = deployment.progressing.as_ref().filter(|condition| {
        observed
            && condition.reason == "ProgressDeadlineExceeded"
            && state.target.stale_verdict.as_ref() != Some(&condition.updated)
    });
    let still =
        now.saturating_sub(state.moved_at) > state.target.deadline.saturating_add(DEADLINE_MARGIN);
    if judged.is_none() && !still {
        return None;
    }
    let unknown = || {
        let message = match judged {
            Some(condition) => condition.message.clone(),
            None if observed => "the rollout stands still".to_owned(),
            None => "the deployment controller has not looked at it".to_owned(),
        };
        Cause::new(CauseKind::DeadlineExceeded, "deployment", message)
    };
    Some(state.suspicion().cloned().unwrap_or_else(unknown))
}

/// The `lastUpdateTime` of a deadline verdict in a live Deployment, for [`Target::stale_verdict`].
pub(crate) fn deadline_verdict(deployment: &Value) -> Option<String> {
    DeploymentView::from_json(deployment)
        .progressing
        .filter(|condition| condition.reason == "ProgressDeadlineExceeded")
        .map(|condition| condition.updated)
}

/// The image a live or rendered Deployment asks for.
pub(crate) fn image_of_deployment(deployment: &Value) -> String {
    text(deployment, "/spec/template/spec/containers/0/image")
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
