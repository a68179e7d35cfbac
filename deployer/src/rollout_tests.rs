//! The rollout machine: cases first, then properties over arbitrary traces.

use super::*;
use crate::observe::{Condition, ContainerState, ContainerView, Ended};
use proptest::prelude::*;
use serde_json::json;

const OURS: &str = "r.invalid/app@sha256:new";
const OLD: &str = "r.invalid/app@sha256:old";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn template(image: &str) -> Value {
    json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "image": image }] } })
}

fn begin() -> State {
    State::new(
        Target::new(7, OURS, secs(60), secs(300)),
        Patience::default(),
    )
}

fn set(image: &str, uid: &str) -> ReplicaSetView {
    ReplicaSetView {
        name: uid.to_owned(),
        uid: uid.to_owned(),
        owner: "d".to_owned(),
        template: template(image),
        ..ReplicaSetView::default()
    }
}

fn pod(name: &str, owner: &str, ready: bool) -> PodView {
    let state = ContainerState::Running;
    PodView {
        name: name.to_owned(),
        owner: owner.to_owned(),
        phase: "Running".to_owned(),
        ready,
        containers: vec![ContainerView {
            name: "app".to_owned(),
            ready,
            state,
            ..Default::default()
        }],
        ..PodView::default()
    }
}

/// Two replicas, all of them new, ready and served.
fn done() -> Observation {
    Observation {
        deployment: Some(DeploymentView {
            uid: "d".to_owned(),
            generation: 7,
            observed_generation: 7,
            desired: 2,
            replicas: 2,
            updated: 2,
            available: 2,
            revision: Some(3),
            progressing: None,
            template: template(OURS),
        }),
        replica_sets: vec![set(OLD, "old"), set(OURS, "new")],
        pods: vec![pod("n1", "new", true), pod("n2", "new", true)],
        serving: ["n1".to_owned(), "n2".to_owned()].into(),
        scaling_up: false,
    }
}

fn change(mut seen: Observation, edit: impl FnOnce(&mut DeploymentView)) -> Observation {
    edit(seen.deployment.as_mut().expect("a deployment"));
    seen
}

fn broken(state: ContainerState, restarts: u64, last: Option<Ended>) -> Observation {
    let mut seen = change(done(), |d| (d.updated, d.available, d.replicas) = (1, 2, 3));
    let mut bad = pod("n1", "new", false);
    bad.phase = "Pending".to_owned();
    bad.containers = vec![ContainerView {
        name: "app".to_owned(),
        restarts,
        state,
        last,
        ready: false,
    }];
    seen.pods = vec![bad, pod("o1", "old", true), pod("o2", "old", true)];
    seen.serving = ["o1".to_owned(), "o2".to_owned()].into();
    seen
}

fn waiting(reason: &str, message: &str) -> Observation {
    let state = ContainerState::Waiting {
        reason: reason.to_owned(),
        message: message.to_owned(),
    };
    broken(state, 0, None)
}

fn is_waiting(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Waiting(_))
}

fn kind(verdict: &Verdict) -> Option<CauseKind> {
    match verdict {
        Verdict::Failed(cause) => Some(cause.kind),
        _ => None,
    }
}

#[test]
fn a_finished_rollout_is_available() {
    assert_eq!(
        step(begin(), &done(), secs(1)).1,
        Verdict::Available { revision: Some(3) }
    );
}

#[test]
fn every_single_clause_is_needed() {
    let mut unserved = done();
    unserved.serving.remove("n2");
    let mut unready = done();
    unready.pods[1] = pod("n2", "new", false);
    let mut foreign_pod = done();
    foreign_pod.pods[1].owner = "old".to_owned();
    let mut unmatched_set = done();
    unmatched_set.replica_sets.pop();
    let mut foreign_set = done();
    foreign_set.replica_sets[1].owner = "another".to_owned();
    let overdue = Condition {
        reason: "ProgressDeadlineExceeded".to_owned(),
        ..Condition::default()
    };
    for (what, seen) in [
        (
            "generation not reached",
            change(done(), |d| (d.generation, d.observed_generation) = (6, 6)),
        ),
        (
            "generation not observed",
            change(done(), |d| d.observed_generation = 6),
        ),
        (
            "not all updated",
            change(done(), |d| (d.updated, d.available, d.replicas) = (1, 1, 1)),
        ),
        ("old pods left", change(done(), |d| d.replicas = 3)),
        ("not all available", change(done(), |d| d.available = 1)),
        ("a pod that gets no requests", unserved),
        ("a pod that is not ready", unready),
        ("a pod of the old ReplicaSet", foreign_pod),
        ("no ReplicaSet with our digest", unmatched_set),
        ("a ReplicaSet of another Deployment", foreign_set),
    ] {
        assert!(is_waiting(&step(begin(), &seen, secs(1)).1), "{what}");
    }
    let overdue = change(done(), |d| d.progressing = Some(overdue));
    assert_ne!(
        step(begin(), &overdue, secs(1)).1,
        Verdict::Available { revision: Some(3) }
    );
}

#[test]
fn a_missing_image_is_believed_at_the_second_attempt() {
    let seen = waiting("ErrImagePull", "desc = x: not found");
    let (state, first) = step(begin(), &seen, secs(1));
    assert!(is_waiting(&first));
    let (state, bare) = step(
        state,
        &waiting("ImagePullBackOff", "Back-off pulling image"),
        secs(6),
    );
    assert!(is_waiting(&bare));
    assert_eq!(
        kind(&step(state, &seen, secs(13)).1),
        Some(CauseKind::ImageNotFound)
    );
}

#[test]
fn a_first_pull_that_is_denied_may_recover() {
    let seen = waiting("ErrImagePull", "401 Unauthorized");
    let (state, _) = step(begin(), &seen, secs(1));
    let (state, verdict) = step(state, &seen, secs(60));
    assert!(is_waiting(&verdict));
    assert!(matches!(
        step(state.clone(), &done(), secs(70)).1,
        Verdict::Available { .. }
    ));
    assert_eq!(
        kind(&step(state, &seen, secs(91)).1),
        Some(CauseKind::ImageDenied)
    );
}

#[test]
fn a_slow_crash_is_named_a_crash_although_it_also_looks_unready() {
    let last = Some(Ended {
        reason: "Error".to_owned(),
        exit_code: 3,
        ..Ended::default()
    });
    let mut seen = broken(ContainerState::Running, 1, last);
    seen.pods[0].phase = "Running".to_owned();
    let (state, _) = step(begin(), &seen, secs(1));
    assert_eq!(
        kind(&step(state, &seen, secs(80)).1),
        Some(CauseKind::Crash)
    );
}

#[test]
fn trouble_of_old_or_evicted_pods_is_not_ours() {
    let mut seen = waiting("InvalidImageName", "");
    seen.pods[0].owner = "old".to_owned();
    assert!(is_waiting(&step(begin(), &seen, secs(1)).1));
    let mut seen = waiting("InvalidImageName", "");
    seen.pods[0].disrupted = true;
    assert!(is_waiting(&step(begin(), &seen, secs(1)).1));
}

#[test]
fn a_deadline_verdict_from_before_is_ignored_and_a_new_one_is_final() {
    let late = |updated: &str| {
        change(waiting("ContainerCreating", ""), |d| {
            d.progressing = Some(Condition {
                status: "False".to_owned(),
                reason: "ProgressDeadlineExceeded".to_owned(),
                message: "timed out".to_owned(),
                updated: updated.to_owned(),
            });
        })
    };
    let mut state = begin();
    state.target.stale_verdict = Some("before".to_owned());
    let (state, verdict) = step(state, &late("before"), secs(1));
    assert!(is_waiting(&verdict));
    assert_eq!(
        kind(&step(state, &late("after"), secs(2)).1),
        Some(CauseKind::DeadlineExceeded)
    );
}

#[test]
fn standing_still_ends_with_the_best_explanation() {
    let seen = waiting("ErrImagePull", "dial tcp: i/o timeout");
    let (state, _) = step(begin(), &seen, secs(1));
    let (state, verdict) = step(state, &seen, secs(300));
    assert!(is_waiting(&verdict));
    assert_eq!(
        kind(&step(state, &seen, secs(332)).1),
        Some(CauseKind::RegistryUnavailable)
    );
}

#[test]
fn another_writer_and_a_deletion_are_told_apart_from_a_failure() {
    let other = change(done(), |d| (d.generation, d.template) = (8, template(OLD)));
    assert_eq!(
        kind(&step(begin(), &other, secs(1)).1),
        Some(CauseKind::Superseded)
    );
    let (state, verdict) = step(begin(), &Observation::default(), secs(1));
    assert!(is_waiting(&verdict));
    assert_eq!(
        kind(&step(state, &Observation::default(), secs(6)).1),
        Some(CauseKind::Deleted)
    );
}

#[test]
fn a_scaled_deployment_still_counts_as_ours() {
    let scaled = change(done(), |d| (d.generation, d.observed_generation) = (9, 9));
    assert!(matches!(
        step(begin(), &scaled, secs(1)).1,
        Verdict::Available { .. }
    ));
}

fn any_reason() -> impl Strategy<Value = (&'static str, &'static str)> {
    prop_oneof![
        Just(("ErrImagePull", "not found")),
        Just(("ErrImagePull", "401 Unauthorized")),
        Just(("ImagePullBackOff", "Back-off")),
        Just(("CrashLoopBackOff", "")),
        Just(("CreateContainerConfigError", "secret not found")),
        Just(("ContainerCreating", "")),
        Just(("InvalidImageName", "")),
        Just(("", "\u{0}odd")),
    ]
}

fn any_pod() -> impl Strategy<Value = PodView> {
    (
        0u8..4,
        prop_oneof!["new", "old", "x"],
        any::<(bool, bool, bool)>(),
        any_reason(),
        0u64..4,
    )
        .prop_map(
            |(name, owner, (ready, terminating, running), (reason, message), restarts)| {
                let mut pod = pod(&format!("n{name}"), &owner, ready);
                pod.terminating = terminating;
                if !running && !ready {
                    pod.containers[0].state = ContainerState::Waiting {
                        reason: reason.to_owned(),
                        message: message.to_owned(),
                    };
                    pod.containers[0].last = (restarts > 0).then(Ended::default);
                }
                pod.containers[0].restarts = restarts;
                pod
            },
        )
}

prop_compose! {
    fn any_observation()(
        there in prop::bool::weighted(0.95),
        generation in 6i64..9,
        lag in 0i64..3,
        counts in (0u64..4, 0u64..4, 0u64..4, 0u64..4),
        ours in prop::bool::weighted(0.9),
        late in prop::bool::weighted(0.05),
        pods in prop::collection::vec(any_pod(), 0..5),
        serving in prop::collection::btree_set("n[0-3]", 0..4),
        scaling_up in any::<bool>(),
    ) -> Observation {
        let reason = "ProgressDeadlineExceeded".to_owned();
        Observation {
            deployment: there.then(|| DeploymentView {
                uid: "d".to_owned(),
                generation,
                observed_generation: generation - lag,
                desired: counts.0,
                replicas: counts.1,
                updated: counts.2,
                available: counts.3,
                revision: None,
                progressing: late.then(|| Condition { reason, ..Condition::default() }),
                template: template(if ours { OURS } else { OLD }),
            }),
            replica_sets: vec![set(OLD, "old"), set(OURS, "new")],
            pods,
            serving,
            scaling_up,
        }
    }
}

/// Runs a trace, one observation every `pace` seconds.
fn run(trace: &[Observation], pace: u64) -> Vec<Verdict> {
    let mut state = begin();
    let mut verdicts = Vec::new();
    for (index, seen) in trace.iter().enumerate() {
        let (next, verdict) = step(state, seen, secs(index as u64 * pace));
        state = next;
        verdicts.push(verdict);
    }
    verdicts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any order, repetition or loss of observations: no panic, the same answer twice, and a
    /// verdict that stays.
    #[test]
    fn step_is_total_deterministic_and_keeps_its_verdict(
        trace in prop::collection::vec(any_observation(), 1..30),
        repeats in 1usize..3,
        pace in 0u64..40,
    ) {
        let trace: Vec<_> = trace.iter().flat_map(|seen| vec![seen.clone(); repeats]).collect();
        let verdicts = run(&trace, pace);
        prop_assert_eq!(&verdicts, &run(&trace, pace));
        if let Some(end) = verdicts.iter().position(|verdict| !is_waiting(verdict)) {
            prop_assert!(verdicts[end..].iter().all(|verdict| *verdict == verdicts[end]));
        }
    }

    /// Success is never reported before the controller has seen our specification, nor while a
    /// new pod is unready or unserved.
    #[test]
    fn success_is_never_premature(trace in prop::collection::vec(any_observation(), 1..30)) {
        let verdicts = run(&trace, 1);
        let first = verdicts.iter().position(|v| matches!(v, Verdict::Available { .. }));
        if let Some(seen) = first.map(|index| &trace[index]) {
            let deployment = seen.deployment.as_ref().expect("success without a deployment");
            prop_assert!(deployment.generation >= 7);
            prop_assert!(deployment.observed_generation >= deployment.generation);
            prop_assert_eq!(image_of(&deployment.template), Some(OURS));
            prop_assert!(deployment.available >= deployment.desired);
            let new = || seen.pods.iter().filter(|pod| pod.owner == "new" && pod.is_active());
            prop_assert!(new().all(|pod| pod.ready));
            prop_assert!(new().count() as u64 >= deployment.desired);
        }
    }

    /// A rollout that never completes always ends, and with a cause.
    #[test]
    fn a_failing_trace_ends(seen in any_observation()) {
        let trace = vec![seen; 100];
        let verdicts = run(&trace, 20);
        prop_assert!(!is_waiting(verdicts.last().expect("a verdict")));
    }
}
