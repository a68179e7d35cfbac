//! The driver: observes, plans, and does what the plan says. Thin, because it decides nothing.

use chrono::{DateTime, Utc};
use modelship_image_builder::Layer;
use modelship_model_store::{ModelRef, ModelStore, ModelVersion};
use modelship_registry::PinnedReference;

use crate::admission::Gate;
use crate::base::{BaseLock, BaseMaker};
use crate::build::{Builder, Built};
use crate::cache::Cache;
use crate::config::Config;
use crate::edge::Edge;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Progress, StageTime, StageTimer, silent};
use crate::golden::Golden;
use crate::inputs::{Inputs, ReleaseKey};
use crate::plan::{Desired, Observed, Plan, plan};
use crate::publish::Publisher;
use crate::recipe::{self, RunSettings};
use crate::release::Release;
use crate::report::{PlanReport, Status};
use crate::seals::Seals;
use crate::source::Source;
use crate::target::{self, Target, TargetState};
use crate::trigger::Trigger;
use crate::{Stage, model, verify};

/// One app's road, wired to its services.
#[derive(Clone)]
pub struct Pipeline {
    pub(crate) config: Config,
    pub(crate) edge: Edge,
    pub(crate) reference: ModelRef,
    pub(crate) store: ModelStore,
    pub(crate) publisher: Publisher,
    pub(crate) target: Target,
    pub(crate) golden: Option<Golden>,
    pub(crate) gate: Gate,
    pub(crate) cache: Cache,
    pub(crate) progress: Progress,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline")
            .field("app", &self.config.app.name)
            .field("model", &self.reference.to_string())
            .field("publisher", &self.publisher.describe())
            .field("target", &self.target.describe())
            .finish_non_exhaustive()
    }
}

/// How a run ended well.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Run {
    /// This release was serving already; nothing was moved.
    Unchanged(Release),
    /// This release serves now.
    Released(Release),
}

impl Run {
    /// The release that serves.
    pub const fn release(&self) -> &Release {
        match self {
            Self::Unchanged(release) | Self::Released(release) => release,
        }
    }
}

/// What was looked at before anything was moved.
pub(crate) struct Observation {
    pub(crate) source: Source,
    pub(crate) code: Layer,
    pub(crate) model: ModelVersion,
    pub(crate) base: BaseLock,
    pub(crate) settings: RunSettings,
    pub(crate) inputs: Inputs,
    pub(crate) key: ReleaseKey,
    pub(crate) image: Option<PinnedReference>,
    pub(crate) state: TargetState,
    time: StageTime,
}

impl Pipeline {
    /// Wires the services that `config` names; nothing is asked yet but the kubeconfig.
    ///
    /// # Errors
    /// [`ErrorKind::Step`] or [`ErrorKind::NotFound`] for a model address, a signer's key, registry,
    /// kubeconfig or golden request that cannot be used.
    pub async fn from_config(config: &Config, edge: Edge) -> Result<Self> {
        let step = |e| Error::step(Stage::Configure, &config.model.url, e);
        let reference = config.model.reference().map_err(step)?;
        let store = ModelStore::open(&reference.url, &edge.store).map_err(step)?;
        Ok(Self {
            publisher: Publisher::from_config(config, &edge).await?,
            target: Target::from_config(config, &edge).await?,
            golden: config
                .smoke
                .request
                .as_deref()
                .map(Golden::load)
                .transpose()?,
            gate: Gate::from_config(&config.model, (edge.now)())?,
            cache: Cache::new(&config.state.join("cache")),
            config: config.clone(),
            progress: silent(),
            edge,
            reference,
            store,
        })
    }

    /// Sends the events of later calls to `progress`.
    #[must_use]
    pub fn with_progress(mut self, progress: Progress) -> Self {
        self.progress = progress;
        self
    }

    /// The model store of this road.
    pub const fn store(&self) -> &ModelStore {
        &self.store
    }

    /// Walks the road once: observe, plan, and, where something changed, build, test, publish,
    /// roll out, verify and record. Dropping the future leaves nothing half-published.
    ///
    /// # Errors
    /// One error that names the stage and the object; see [`ErrorKind`].
    pub async fn run(&self, trigger: &Trigger) -> Result<Run> {
        let started = (self.edge.now)();
        let seen = self.observe().await?;
        match self.decide(&seen, trigger) {
            Plan::Unchanged => {
                let mut release = self.draft(&seen, trigger, started);
                release.stages.push(seen.time);
                Ok(Run::Unchanged(release))
            }
            Plan::Quarantined => Err(self.quarantined(&seen)),
            Plan::Rollout { .. } => self.finish(seen, None, trigger, started).await,
            Plan::Build => {
                let built = self.build(&seen).await?;
                self.finish(seen, Some(built), trigger, started).await
            }
        }
    }

    /// What a run would do now, without doing it.
    ///
    /// # Errors
    /// As [`Pipeline::run`], for what cannot be observed.
    pub async fn plan(&self) -> Result<PlanReport> {
        let seen = self.observe().await?;
        let plan = self.decide(&seen, &Trigger::now());
        PlanReport::new(self, &seen, plan)
    }

    /// What runs where.
    ///
    /// # Errors
    /// [`ErrorKind::Step`] when the target cannot be asked.
    pub async fn status(&self) -> Result<Status> {
        Status::of(self).await
    }

    /// Returns to the release before the one that runs; says what serves then.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Step`] when there is none, and
    /// [`ErrorKind::RolloutFailed`] when it does not become available.
    pub async fn rollback(&self) -> Result<String> {
        let timer = StageTimer::start(&self.progress, Stage::Rollback, self.target.describe());
        let outcome = self.target.rollback(&self.config.app.name, &timer).await?;
        timer.finish(&outcome);
        Ok(outcome)
    }

    /// Looks at source, model, base, published image and live release.
    pub(crate) async fn observe(&self) -> Result<Observation> {
        let timer = StageTimer::start(
            &self.progress,
            Stage::Observe,
            "code, model, base and what is live",
        );
        let app = &self.config.app;
        let step = |e| Error::step(Stage::Observe, &self.reference, e);
        let resolved = self.store.resolve(&self.reference.selector).await;
        let model = self.sealed(resolved.map_err(step)?).await?;
        timer.note(format!(
            "model {} {}: {}",
            model.name(),
            model.version(),
            model.policy()
        ));
        let source = Source::take(app, &self.cache.folder(Stage::Observe, "source")?)?
            .without(&self.config.own_paths());
        let code = recipe::code_layer(&source).await?;
        let revision = recipe::revision(&source, &code);
        let state = self.target.observe(&app.name).await?;
        let base = self.base_maker().lock(&timer).await?;
        let mount = self.config.model.mount_point(model.url());
        let settings = RunSettings::new(app, &revision, &model, &mount);
        let inputs = Inputs {
            checks: self.gate.digest(),
            ..recipe::inputs(&base.digest(), &code, &revision, &model, &settings)
        };
        let key = inputs.key();
        let image = self.publisher.find(&key.tag()).await?;
        let time = timer.finish(format!("release key {}", key.short()));
        Ok(Observation {
            source,
            code,
            model,
            base,
            settings,
            inputs,
            key,
            image,
            state,
            time,
        })
    }

    /// The model with the digests of its files, which a release key is made of: as the store states
    /// them, as they were found before, or else as they are found by fetching it now.
    async fn sealed(&self, model: ModelVersion) -> Result<ModelVersion> {
        if model.is_sealed() {
            return Ok(model);
        }
        let seals = Seals::new(&self.config.state);
        if let Some(sealed) = seals.find(&model) {
            return Ok(sealed);
        }
        let what = format!("{} {}, to know its digests", model.name(), model.version());
        let timer = StageTimer::start(&self.progress, Stage::Fetch, what);
        let sealed = model::seal(&self.store, &model, &self.cache, &timer).await?;
        seals.keep(&model, &sealed)?;
        timer.finish(sealed.tree_digest());
        Ok(sealed)
    }

    fn decide(&self, seen: &Observation, trigger: &Trigger) -> Plan {
        let desired = Desired::new(seen.key.clone(), target::shape(&self.config));
        let observed = Observed {
            image: seen.image.as_ref().map(|i| i.digest().to_string()),
            live: seen.state.live.clone(),
            rolled_back: !trigger.retries()
                && seen.state.failed.iter().any(|k| k == seen.key.as_str()),
        };
        plan(&desired, &observed)
    }

    pub(crate) fn base_maker(&self) -> BaseMaker<'_> {
        BaseMaker {
            config: &self.config.base,
            edge: &self.edge,
            cache: &self.cache,
        }
    }

    async fn build(&self, seen: &Observation) -> Result<Built> {
        Builder {
            pipeline: self,
            seen,
        }
        .build()
        .await
    }

    async fn finish(
        &self,
        seen: Observation,
        built: Option<Built>,
        trigger: &Trigger,
        started: DateTime<Utc>,
    ) -> Result<Run> {
        let mut release = self.draft(&seen, trigger, started);
        release.stages.push(seen.time.clone());
        let image = match built {
            Some(built) => {
                let image = built.published.pinned;
                release.image = image.to_string();
                release.layers = built.published.layers;
                release.verdict = Some(built.verdict);
                release.admission = Some(built.admission);
                release.stages.extend(built.stages);
                self.cache.keep_only(&built.used);
                self.cache.keep_model(&seen.model).await;
                image
            }
            None => seen.image.ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    Stage::Plan,
                    seen.key.short(),
                    "its image is gone",
                )
            })?,
        };
        self.roll_out(&mut release, &image).await?;
        verify::release(self, &mut release).await?;
        Ok(Run::Released(release))
    }

    async fn roll_out(&self, release: &mut Release, image: &PinnedReference) -> Result<()> {
        let timer = StageTimer::start(&self.progress, Stage::Rollout, self.target.describe());
        let spec = target::app_spec(&self.config, image, release)?;
        let outcome = self
            .target
            .release(&spec, release, &self.config.deploy.namespace, &timer)
            .await?;
        release.stages.push(timer.finish(outcome));
        Ok(())
    }

    fn draft(&self, seen: &Observation, trigger: &Trigger, started: DateTime<Utc>) -> Release {
        Release {
            app: self.config.app.name.clone(),
            key: seen.key.clone(),
            inputs: seen.inputs.clone(),
            model_url: seen.model.url().to_string(),
            source: seen.source.origin.clone(),
            image: seen
                .image
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            layers: Vec::new(),
            verdict: None,
            admission: None,
            target: self.target.describe(),
            address: None,
            shape: target::shape(&self.config),
            trigger: format!("{trigger} by {}", self.edge.actor),
            started,
            stages: Vec::new(),
        }
    }

    fn quarantined(&self, seen: &Observation) -> Error {
        let object = format!("{} {}", self.config.app.name, seen.key.short());
        Error::new(
            ErrorKind::RolloutFailed,
            Stage::Plan,
            object,
            "this very release failed before and was rolled back",
        )
        .with_hint(
            "change the code or the model, or run with `--retry` to try the same release again",
        )
    }
}
