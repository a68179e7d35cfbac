//! Builds an image, tests it and publishes it: everything between the plan and the rollout.

use std::path::PathBuf;
use std::time::Duration;

use modelship_image_builder::{Image, Layer, Sealed};

use crate::Stage;
use crate::admission::{Admission, Candidate};
use crate::base::Base;
use crate::error::{Error, Result};
use crate::event::{StageTime, StageTimer};
use crate::model::{self, FetchedModel};
use crate::packed::{self, Packed};
use crate::pipeline::{Observation, Pipeline};
use crate::publish::Published;
use crate::recipe::{self, Labels};
use crate::smoke::{SmokeTest, SmokeVerdict};
use crate::suite::Suite;

/// How long an app may take to become ready where the configuration does not say.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A published image that passed its tests.
pub(crate) struct Built {
    pub(crate) published: Published,
    pub(crate) verdict: SmokeVerdict,
    pub(crate) admission: Admission,
    pub(crate) stages: Vec<StageTime>,
    /// The cache's entries that were used.
    pub(crate) used: Vec<PathBuf>,
}

/// An assembled image, with its layers unpacked.
struct Assembled {
    image: Image,
    sealed: Sealed,
    roots: Vec<PathBuf>,
    roles: Vec<&'static str>,
}

/// Builds what was observed.
pub(crate) struct Builder<'a> {
    pub(crate) pipeline: &'a Pipeline,
    pub(crate) seen: &'a Observation,
}

impl Builder<'_> {
    pub(crate) async fn build(&self) -> Result<Built> {
        let mut stages = Vec::new();
        let fetched = self.fetch(&mut stages).await?;
        let admission = self.admit(&fetched, &mut stages).await?;
        let base = self.base(&mut stages).await?;
        let model = self.model_layers(&fetched).await?;
        let packed: Vec<PathBuf> = model.iter().filter_map(|p| p.folder.clone()).collect();
        let model_layers: Vec<Layer> = model.into_iter().map(|p| p.layer).collect();
        self.test(&base, &model_layers, &mut stages).await?;
        let parts = (base, model_layers, &admission);
        let assembled = self.assemble(parts, &mut stages).await?;
        let verdict = self.smoke(&assembled, &mut stages).await?;
        let published = self.publish(&assembled, &mut stages).await?;
        let mut used = assembled.roots;
        used.extend(packed);
        used.extend([fetched.folder().to_owned(), self.seen.source.folder.clone()]);
        Ok(Built {
            published,
            verdict,
            admission,
            stages,
            used,
        })
    }

    fn timer(&self, stage: Stage, what: impl Into<String>) -> StageTimer {
        StageTimer::start(&self.pipeline.progress, stage, what)
    }

    async fn fetch(&self, stages: &mut Vec<StageTime>) -> Result<FetchedModel> {
        let model = &self.seen.model;
        let timer = self.timer(
            Stage::Fetch,
            format!("{} {}", model.name(), model.version()),
        );
        let pipeline = self.pipeline;
        let mount = pipeline.config.model.mount_point(model.url());
        let fetched =
            model::fetch(&pipeline.store, model, &pipeline.cache, (&mount, &timer)).await?;
        stages.push(timer.finish(format!(
            "{} files, {} bytes",
            model.files().len(),
            model.total_size()
        )));
        Ok(fetched)
    }

    /// Nothing of a model that is refused here becomes part of an image, or is run.
    async fn admit(
        &self,
        fetched: &FetchedModel,
        stages: &mut Vec<StageTime>,
    ) -> Result<Admission> {
        let (pipeline, model) = (self.pipeline, &self.seen.model);
        let timer = self.timer(
            Stage::Admit,
            format!("{} {}", model.name(), model.version()),
        );
        let candidate = Candidate {
            store: &pipeline.store,
            model,
            folder: fetched.folder(),
            cache: &pipeline.cache,
        };
        let now = (pipeline.edge.now)();
        let admission = pipeline.gate.admit(&candidate, now, &timer).await?;
        stages.push(timer.finish(admission.to_string()));
        Ok(admission)
    }

    async fn base(&self, stages: &mut Vec<StageTime>) -> Result<Base> {
        let timer = self.timer(Stage::Base, self.seen.base.describe());
        let tests = !self.pipeline.config.app.tests.is_empty();
        let base = self
            .pipeline
            .base_maker()
            .make(&self.seen.base, tests, &timer)
            .await?;
        let size: u64 = base.image.layers().iter().map(Layer::len).sum();
        stages.push(timer.finish(format!("{}, {size} bytes", self.seen.base.describe())));
        Ok(base)
    }

    /// The model's layers as they are stored.
    async fn model_layers(&self, fetched: &FetchedModel) -> Result<Vec<Packed>> {
        let mut packed = Vec::new();
        for layer in fetched.layers() {
            packed.push(packed::pack(&self.pipeline.cache, layer).await?);
        }
        Ok(packed)
    }

    async fn test(
        &self,
        base: &Base,
        model_layers: &[Layer],
        stages: &mut Vec<StageTime>,
    ) -> Result<()> {
        let app = &self.pipeline.config.app;
        if app.tests.is_empty() {
            return Ok(());
        }
        let timer = self.timer(Stage::Test, app.tests.join(" "));
        let mut roots = base.roots.clone();
        roots.extend(base.test_root.clone());
        for layer in model_layers {
            roots.push(self.pipeline.cache.unpacked(Stage::Test, layer).await?);
        }
        let code = recipe::test_layer(&self.seen.source).await?;
        roots.push(self.pipeline.cache.unpacked(Stage::Test, &code).await?);
        let suite = Suite {
            roots,
            app: app.name.clone(),
            command: app.tests.clone(),
            env: self.seen.settings.env.clone(),
        };
        let said = suite.run().await?;
        stages.push(timer.finish(said));
        Ok(())
    }

    async fn assemble(
        &self,
        (base, model_layers, admission): (Base, Vec<Layer>, &Admission),
        stages: &mut Vec<StageTime>,
    ) -> Result<Assembled> {
        let timer = self.timer(Stage::Assemble, self.seen.key.short());
        let seen = self.seen;
        let roles = std::iter::repeat_n("base", base.image.layers().len())
            .chain(std::iter::repeat_n("model", model_layers.len()))
            .chain(["code"])
            .collect();
        let mut roots = base.roots;
        for layer in model_layers.iter().chain([&seen.code]) {
            roots.push(self.pipeline.cache.unpacked(Stage::Assemble, layer).await?);
        }
        let labels = Labels {
            config: &self.pipeline.config,
            key: &seen.key,
            inputs: &seen.inputs,
            model: &seen.model,
            admission,
        };
        let image = recipe::image(
            base.image,
            model_layers,
            seen.code.clone(),
            &seen.settings,
            &labels,
        )?;
        let sealed = image
            .seal()
            .map_err(|e| Error::step(Stage::Assemble, seen.key.short(), e))?;
        let size: u64 = sealed.layers.iter().map(Layer::len).sum();
        stages.push(timer.finish(format!(
            "{} layers, {size} bytes, {}",
            sealed.layers.len(),
            sealed.manifest_descriptor.digest()
        )));
        Ok(Assembled {
            image,
            sealed,
            roots,
            roles,
        })
    }

    async fn smoke(
        &self,
        assembled: &Assembled,
        stages: &mut Vec<StageTime>,
    ) -> Result<SmokeVerdict> {
        let config = &self.pipeline.config;
        let image = assembled.sealed.manifest_descriptor.digest().to_string();
        let timer = self.timer(Stage::Smoke, &image);
        let test = SmokeTest {
            roots: assembled.roots.clone(),
            image,
            command: self.seen.settings.command.clone(),
            env: self.seen.settings.env.clone(),
            workdir: "/app".to_owned(),
            port: self.seen.settings.port,
            readiness: &config.app.readiness,
            timeout: config
                .smoke
                .timeout
                .map_or(READY_WITHIN, crate::config::Period::duration),
            golden: self.pipeline.golden.as_ref(),
        };
        let verdict = test.run().await?;
        stages.push(timer.finish(format!(
            "ready after {:.2} s in {}",
            verdict.ready_seconds, verdict.isolation
        )));
        Ok(verdict)
    }

    /// Moves the image by digest, then lets tags name it: it has passed its tests.
    async fn publish(
        &self,
        assembled: &Assembled,
        stages: &mut Vec<StageTime>,
    ) -> Result<Published> {
        let publisher = &self.pipeline.publisher;
        let timer = self.timer(Stage::Push, publisher.describe());
        let mut tags = vec![self.seen.key.tag()];
        tags.extend(
            self.pipeline
                .config
                .registry
                .tags
                .iter()
                .map(|tag| self.fill(tag)),
        );
        let mut published = publisher
            .publish(&assembled.image, &assembled.sealed, &tags, &timer)
            .await?;
        for (layer, role) in published.layers.iter_mut().zip(&assembled.roles) {
            (*role).clone_into(&mut layer.role);
        }
        let moved: u64 = published.layers.iter().map(|l| l.moved).sum();
        stages.push(timer.finish(format!("{}, {moved} bytes moved", published.pinned)));
        Ok(published)
    }

    fn fill(&self, tag: &str) -> String {
        let revision = &self.seen.inputs.revision;
        tag.replace("{version}", &self.seen.inputs.model_version)
            .replace("{revision}", revision.get(..12).unwrap_or(revision))
    }
}
