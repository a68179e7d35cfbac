//! What `plan` and `status` answer: plain data, for a person or as JSON.

use serde::Serialize;

use crate::error::Result;
use crate::inputs::{Inputs, ReleaseKey};
use crate::model;
use crate::pipeline::{Observation, Pipeline};
use crate::plan::Plan;
use crate::target::Target;

/// What a run would do, in objects and bytes.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PlanReport {
    /// The decision.
    pub plan: Plan,
    /// The identity of the release.
    pub key: ReleaseKey,
    /// What it would be made of.
    pub inputs: Inputs,
    /// How the model's version was chosen.
    pub policy: String,
    /// What would be done, in order; empty when nothing would.
    pub steps: Vec<PlannedStep>,
}

/// One thing that a run would do.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PlannedStep {
    /// What would be done, to which object.
    pub what: String,
    /// Bytes that would move at the most, where that is known before.
    pub bytes: Option<u64>,
}

impl PlanReport {
    pub(crate) fn new(pipeline: &Pipeline, seen: &Observation, plan: Plan) -> Result<Self> {
        let mut steps = Vec::new();
        if plan == Plan::Build {
            steps.extend(build_steps(pipeline, seen)?);
        }
        if matches!(plan, Plan::Build | Plan::Rollout { .. }) {
            steps.push(step(
                format!(
                    "roll out {} to {}",
                    pipeline.config.app.name,
                    pipeline.target.describe()
                ),
                None,
            ));
        }
        Ok(Self {
            plan,
            key: seen.key.clone(),
            inputs: seen.inputs.clone(),
            policy: seen.model.policy().to_owned(),
            steps,
        })
    }
}

fn step(what: String, bytes: Option<u64>) -> PlannedStep {
    PlannedStep { what, bytes }
}

fn build_steps(pipeline: &Pipeline, seen: &Observation) -> Result<Vec<PlannedStep>> {
    let model = &seen.model;
    let fetch = if model::is_cached(model, &pipeline.cache)? {
        0
    } else {
        model.total_size()
    };
    let mut steps = vec![
        step(
            format!(
                "fetch model {} {} ({} files)",
                model.name(),
                model.version(),
                model.files().len()
            ),
            Some(fetch),
        ),
        step(
            "check who signed the model, and what its files hold".to_owned(),
            None,
        ),
        step(
            format!("make base from {}", seen.base.describe()),
            seen.base.download_size(),
        ),
    ];
    if !pipeline.config.app.tests.is_empty() {
        steps.push(step(
            format!("run {}", pipeline.config.app.tests.join(" ")),
            None,
        ));
    }
    steps.push(step("run the image and ask it".to_owned(), None));
    let push = model.total_size() + seen.code.len();
    steps.push(step(
        format!(
            "push model, code and what is missing of the base to {}",
            pipeline.publisher.describe()
        ),
        Some(push),
    ));
    Ok(steps)
}

/// What runs where.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The app.
    pub app: String,
    /// Where releases go.
    pub target: String,
    /// The release key that runs, when it was released by this tool and serves.
    pub key: Option<ReleaseKey>,
    /// The image that runs.
    pub image: Option<String>,
    /// The target's own words: replicas, revision, address, or the release's line.
    pub detail: Vec<String>,
}

impl Status {
    pub(crate) async fn of(pipeline: &Pipeline) -> Result<Self> {
        let app = pipeline.config.app.name.clone();
        let state = pipeline.target.observe(&app).await?;
        let detail = match &pipeline.target {
            Target::Cluster { deployer, name } => {
                let status = deployer.status(&app).await;
                let status =
                    status.map_err(|e| crate::Error::step(crate::Stage::Observe, name, e))?;
                status.map(|s| lines(&s)).unwrap_or_default()
            }
            Target::Manifests { history, .. } => history
                .current()?
                .map(|e| {
                    format!("{:#}", e.release)
                        .lines()
                        .map(|l| l.trim().to_owned())
                        .collect()
                })
                .unwrap_or_default(),
        };
        Ok(Self {
            app,
            target: pipeline.target.describe(),
            key: state.live.as_ref().map(|l| l.key.clone()),
            image: state.live.map(|l| l.image),
            detail,
        })
    }
}

fn lines(status: &modelship_deployer::AppStatus) -> Vec<String> {
    let replicas = &status.replicas;
    let mut lines = vec![format!(
        "{} of {} replicas ready, {} available",
        replicas.ready, replicas.desired, replicas.available
    )];
    lines.extend(status.address.as_ref().map(|a| format!("address {a}")));
    lines.extend(status.last.as_ref().map(|r| {
        format!(
            "last release {}: {:?}, begun {}",
            r.number, r.state, r.started
        )
    }));
    lines.extend(
        status
            .annotations
            .iter()
            .filter(|(k, _)| k.starts_with("modelship."))
            .map(|(k, v)| format!("{k} {v}")),
    );
    lines
}
