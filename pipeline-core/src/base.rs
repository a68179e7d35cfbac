//! The base below app and model: assembled from Debian packages, or an image of a registry.

use std::path::PathBuf;

use futures::StreamExt as _;
use modelship_image_builder::debian::{DebianBase, DebianLock, SignedBy, Source, Sources};
use modelship_image_builder::{self as image_builder, Descriptor, Image, Layer};
use modelship_registry::{PinnedReference, Repository};
use serde::{Deserialize, Serialize};

use crate::Stage;
use crate::cache::{self, Cache};
use crate::config::BaseConfig;
use crate::edge::Edge;
use crate::error::{Error, ErrorKind, Result};
use crate::event::StageTimer;
use crate::packed::KnownLayer;

/// The locked base: what it is, before a byte of it is fetched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum BaseLock {
    /// Debian packages: the base's own, and those that only tests see.
    Debian {
        /// What the configuration asked for, so that a changed list is noticed.
        asked: (Vec<String>, Vec<String>),
        base: Box<DebianLock>,
        tests: Option<Box<DebianLock>>,
    },
    /// An image, by its digest.
    Image { repository: String, digest: String },
}

impl BaseLock {
    /// The digest that stands for the base in a release key.
    pub(crate) fn digest(&self) -> String {
        match self {
            Self::Debian { base, .. } => base.digest().to_string(),
            Self::Image { digest, .. } => digest.clone(),
        }
    }

    /// The base in a few words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Debian { base, .. } => match base.packages().len() {
                1 => "1 Debian package".to_owned(),
                many => format!("{many} Debian packages"),
            },
            Self::Image { repository, digest } => format!("{repository}@{digest}"),
        }
    }

    /// What the configuration asked for, as errors name it.
    fn asked(&self) -> String {
        match self {
            Self::Debian { asked, .. } => format!("packages {}", asked.0.join(" ")),
            Self::Image { .. } => self.describe(),
        }
    }

    /// Bytes to download for it, where that is known before.
    pub(crate) fn download_size(&self) -> Option<u64> {
        match self {
            Self::Debian { base, tests, .. } => {
                Some(base.total_size() + tests.as_ref().map_or(0, |t| t.total_size()))
            }
            Self::Image { .. } => None,
        }
    }

    fn fits(&self, config: &BaseConfig) -> bool {
        match self {
            Self::Debian { asked, .. } => {
                config.image.is_none()
                    && asked.0 == config.packages
                    && asked.1 == config.test_packages
            }
            Self::Image { .. } => config.image.is_some(),
        }
    }
}

/// The base, ready to build on and to run.
pub(crate) struct Base {
    /// The image to build on; every layer is known.
    pub(crate) image: Image,
    /// Its unpacked layers, bottom to top.
    pub(crate) roots: Vec<PathBuf>,
    /// The unpacked test-only layer, where there is one.
    pub(crate) test_root: Option<PathBuf>,
}

/// What makes a base: the configuration, this machine's edge and the cache.
pub(crate) struct BaseMaker<'a> {
    pub(crate) config: &'a BaseConfig,
    pub(crate) edge: &'a Edge,
    pub(crate) cache: &'a Cache,
}

impl BaseMaker<'_> {
    /// Decides which base exactly: from the lock file where one is configured and fits, else anew.
    pub(crate) async fn lock(&self, timer: &StageTimer) -> Result<BaseLock> {
        if let Some(path) = &self.config.lock
            && let Some(lock) = cache::read_json::<BaseLock>(path)
            && lock.fits(self.config)
        {
            return Ok(lock);
        }
        let lock = match &self.config.image {
            Some(image) => self.lock_image(image).await?,
            None => self.lock_debian(timer).await?,
        };
        if let Some(path) = &self.config.lock {
            cache::write_json(Stage::Observe, path, &lock)?;
        }
        Ok(lock)
    }

    async fn lock_image(&self, image: &str) -> Result<BaseLock> {
        let step = |e| Error::step(Stage::Observe, image, e);
        let (repository, version) = self.edge.repository_of(Stage::Observe, image).await?;
        let found = match version.strip_prefix("sha256:") {
            Some(_) => Some(
                format!("{}@{version}", repository.name())
                    .parse()
                    .map_err(step)?,
            ),
            None => repository.resolve(&version).await.map_err(step)?,
        };
        let pinned: PinnedReference = found.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                Stage::Observe,
                image,
                "the base image does not exist",
            )
            .with_hint("set `image` in the [base] section to an image that can be pulled")
        })?;
        Ok(BaseLock::Image {
            repository: pinned.name(),
            digest: pinned.digest().to_string(),
        })
    }

    async fn lock_debian(&self, timer: &StageTimer) -> Result<BaseLock> {
        let sources = self.sources()?;
        let progress = |event: image_builder::Event| forward(timer, &event);
        let maker = self.debian()?;
        let step = |e| Error::step(Stage::Observe, "base packages", e);
        let base = maker.lock(&sources, &progress).await.map_err(step)?;
        let tests = match self.config.test_packages.as_slice() {
            [] => None,
            more => Some(
                maker
                    .lock_layered(&base, more.iter().map(String::as_str), &sources, &progress)
                    .await
                    .map_err(step)?,
            ),
        };
        let asked = (
            self.config.packages.clone(),
            self.config.test_packages.clone(),
        );
        Ok(BaseLock::Debian {
            asked,
            base: Box::new(base),
            tests: tests.map(Box::new),
        })
    }

    fn debian(&self) -> Result<DebianBase> {
        let folder = self.cache.folder(Stage::Base, "debian")?;
        Ok(DebianBase::new(
            self.config.packages.iter().map(String::as_str),
            self.edge.debian_architecture(),
            folder,
        ))
    }

    fn sources(&self) -> Result<Sources> {
        let step = |e| Error::step(Stage::Observe, "package sources", e);
        let now = std::time::SystemTime::from((self.edge.now)());
        if self.config.sources.is_empty() {
            let apt = self
                .config
                .apt
                .clone()
                .unwrap_or_else(|| PathBuf::from("/etc/apt"));
            return Ok(Sources::from_apt(&apt).map_err(step)?.with_time(now));
        }
        let mut sources = Sources::new().with_time(now);
        for source in &self.config.sources {
            for suite in &source.suites {
                sources = sources.with_source(
                    Source::new(
                        &source.uri,
                        suite.as_str(),
                        source.components.iter().map(String::as_str),
                    )
                    .map_err(step)?
                    .with_signed_by(SignedBy::Keyrings(vec![source.signed_by.clone()])),
                );
            }
        }
        Ok(sources)
    }

    /// Makes the base that `lock` names, or finds it in the cache.
    pub(crate) async fn make(
        &self,
        lock: &BaseLock,
        tests: bool,
        timer: &StageTimer,
    ) -> Result<Base> {
        let base = match lock {
            BaseLock::Debian {
                base,
                tests: test_lock,
                ..
            } => {
                self.make_debian(base, test_lock.as_deref().filter(|_| tests), timer)
                    .await?
            }
            BaseLock::Image { repository, digest } => {
                self.pull(&format!("{repository}@{digest}"), timer).await?
            }
        };
        require_python(&base.roots, lock)?;
        Ok(base)
    }

    async fn make_debian(
        &self,
        lock: &DebianLock,
        tests: Option<&DebianLock>,
        timer: &StageTimer,
    ) -> Result<Base> {
        let layer = self.debian_layer(lock, timer).await?;
        let mut roots = vec![self.cache.unpacked(Stage::Base, &layer).await?];
        let test_root = match tests {
            None => None,
            Some(tests) => {
                let layer = self.debian_layer(tests, timer).await?;
                Some(self.cache.unpacked(Stage::Base, &layer).await?)
            }
        };
        let platform = self.edge.platform()?;
        let history = format!("modelship debian packages: {}", lock.requested().join(" "));
        let image = Image::scratch(&platform).with_layer(layer.with_history(&history));
        roots.dedup();
        Ok(Base {
            image,
            roots,
            test_root,
        })
    }

    /// The compressed layer of a Debian lock, kept in the cache by the lock's digest.
    async fn debian_layer(&self, lock: &DebianLock, timer: &StageTimer) -> Result<Layer> {
        let folder = self.cache.folder(Stage::Base, "layers")?;
        let lock_digest = lock.digest();
        let note = folder.join(format!(
            "{}-v{}.json",
            lock_digest.digest(),
            crate::LAYER_FORMAT
        ));
        if let Some(known) = cache::read_json::<KnownLayer>(&note)
            && let Some(layer) = known.open(&folder)
        {
            return Ok(layer);
        }
        let step = |e| Error::step(Stage::Base, "base packages", e);
        let sources = self.sources()?;
        let progress = |event: image_builder::Event| forward(timer, &event);
        let tree = self
            .debian()?
            .assemble(lock, &sources, &progress)
            .await
            .map_err(step)?;
        timer.note(format!(
            "{} files from {} packages",
            tree.tree().len(),
            lock.packages().len()
        ));
        let layer = Layer::tree(tree.into_tree())
            .map_err(step)?
            .gzip(&folder)
            .await
            .map_err(step)?;
        if let Some(known) = KnownLayer::of(&layer) {
            cache::write_json(Stage::Base, &note, &known)?;
        }
        Ok(layer)
    }

    /// Reads an image of a registry: manifest and config now, its layers when somebody opens them.
    async fn pull(&self, reference: &str, timer: &StageTimer) -> Result<Base> {
        let step = |e| Error::step(Stage::Base, reference, e);
        let (repository, version) = self.edge.repository_of(Stage::Base, reference).await?;
        let (manifest, descriptor) = repository
            .manifest_for(&version, &self.edge.platform_of_image()?)
            .await
            .map_err(step)?;
        let config = read_config(&repository, &manifest, reference).await?;
        let blobs = repository.clone();
        let open = move |descriptor: &Descriptor, from| blobs.blob(descriptor, from);
        let image = Image::from_parts(&manifest, &config, open)
            .map_err(|e| Error::step(Stage::Base, reference, e))?;
        let folder = self.cache.folder(Stage::Base, "rootfs")?;
        let target = folder.join(format!("image-{}", descriptor.digest().digest()));
        if !target.is_dir() {
            timer.note(format!(
                "unpacking {} layers of {reference}",
                image.layers().len()
            ));
            let temporary = cache::fresh_folder(Stage::Base, &folder)?;
            image_builder::unpack_image(&image, temporary.path())
                .await
                .map_err(|e| Error::step(Stage::Base, reference, e))?;
            cache::settle(Stage::Base, temporary, &target)?;
        }
        Ok(Base {
            image,
            roots: vec![target],
            test_root: None,
        })
    }
}

/// A config larger than this is not one.
const LARGEST_CONFIG: usize = 4 * 1024 * 1024;

/// The config blob that `manifest` names; the registry crate verifies its digest.
async fn read_config(repository: &Repository, manifest: &[u8], reference: &str) -> Result<Vec<u8>> {
    #[derive(Deserialize)]
    struct Manifest {
        config: Descriptor,
    }
    let invalid = |text: String| Error::new(ErrorKind::Invalid, Stage::Base, reference, text);
    let manifest: Manifest =
        serde_json::from_slice(manifest).map_err(|e| invalid(format!("its manifest: {e}")))?;
    let mut stream = repository.blob(&manifest.config, 0);
    let mut config = Vec::new();
    while let Some(chunk) = stream.next().await {
        config.extend_from_slice(&chunk.map_err(|e| invalid(format!("its config: {e}")))?);
        if config.len() > LARGEST_CONFIG {
            return Err(invalid("its config is larger than 4 MiB".to_owned()));
        }
    }
    Ok(config)
}

/// A base without Python would fail much later, in words that name neither.
fn require_python(roots: &[PathBuf], lock: &BaseLock) -> Result<()> {
    let found = roots.iter().any(|root| {
        ["usr/bin", "usr/local/bin", "bin", "opt/venv/bin"]
            .iter()
            .any(|folder| root.join(folder).join("python3").symlink_metadata().is_ok())
    });
    if found {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        Stage::Base,
        lock.asked(),
        "the base holds no python3",
    )
    .with_hint("add `python3` to `packages` in the [base] section, or name an `image` that has it"))
}

/// Bends an event of image-builder into one of ours.
fn forward(timer: &StageTimer, event: &image_builder::Event) {
    if let image_builder::Event::Moved {
        object,
        done,
        total,
    } = event
    {
        timer.bytes(object, *done, Some(*total));
    }
}
