//! Publishes a version: claim, files, manifest, pointer, in this order.

use std::collections::BTreeMap;
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{PutMode, PutOptions};

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{Manifest, Pointer};
use crate::model::{ModelFile, ModelVersion, tree_digest};
use crate::names::check_version;
use crate::pointer::Seen;
use crate::read::PART;
use crate::resolve::{LATEST, file_path, manifest_path};
use crate::scan::{LocalFile, LocalReader, scan};
use crate::selector::Selector;
use crate::store::ModelStore;
use crate::version_order::Key;

pub(crate) const STAGE: &str = "publish model";
/// Files in flight. With two parts in flight and one being read for each, publishing holds at most
/// 12 parts: 96 MiB, more only for files beyond 70 GiB.
const FILES_IN_FLIGHT: usize = 4;

/// How to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublishOptions {
    /// Free text about the version, such as the commit that trained it; kept in its manifest.
    pub metadata: BTreeMap<String, String>,
    /// Whether `latest` shall name the new version; yes by default.
    pub move_latest: bool,
    /// Take over a version that another publisher began with other content and never finished.
    /// That publisher must no longer be running.
    pub replace_unfinished: bool,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            metadata: BTreeMap::new(),
            move_latest: true,
            replace_unfinished: false,
        }
    }
}

impl PublishOptions {
    /// Adds one entry of metadata.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Sets whether `latest` shall name the new version.
    #[must_use]
    pub fn with_move_latest(mut self, move_latest: bool) -> Self {
        self.move_latest = move_latest;
        self
    }

    /// Sets whether to take over an unfinished version with other content.
    #[must_use]
    pub fn with_replace_unfinished(mut self, replace: bool) -> Self {
        self.replace_unfinished = replace;
        self
    }
}

/// What happens while publishing. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A local file was hashed.
    Hashed {
        /// The path inside the version.
        path: String,
        /// Its size.
        size: u64,
    },
    /// A file is on its way, or, when `done` equals `total`, has arrived.
    Uploading {
        /// The path inside the version.
        path: String,
        /// How much has arrived.
        done: u64,
        /// Its size.
        total: u64,
    },
    /// The store already had these bytes, from an earlier attempt.
    Skipped {
        /// The path inside the version.
        path: String,
        /// Its size.
        size: u64,
    },
    /// The version is complete and can be resolved.
    Published {
        /// The version.
        version: String,
    },
    /// `latest` names the version.
    LatestMoved {
        /// The version.
        version: String,
    },
}

impl ModelStore {
    /// Publishes the files below `dir` as `version`, and lets `latest` name it.
    ///
    /// The version becomes visible in one step, with its manifest, when all files are there;
    /// `latest` follows by compare-and-swap against what it was when publishing began. Publishing
    /// the same content again succeeds without moving a byte; it moves `latest` only to a higher
    /// version, so that a repeated job undoes no rollback. An interrupted publish is resumed by
    /// repeating it: files that arrived are verified in the store and not sent again.
    ///
    /// Dropping the future stops the work; what was sent stays invisible.
    ///
    /// # Errors
    /// `Conflict` when the version exists with other content, another publisher has claimed it for
    /// other content, or someone else moved `latest` meanwhile (the version itself is then
    /// published). `Changed` when a local file changed meanwhile. `Invalid` for names that break a
    /// rule. Those of the store.
    pub async fn publish(
        &self,
        dir: &Path,
        version: &str,
        options: PublishOptions,
        progress: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<ModelVersion> {
        check_version(version).map_err(|why| Error::invalid(STAGE, version, why))?;
        let (seen, latest) = self.look(LATEST).await?;
        let (locals, files) = hash_all(scan(dir).await?, progress).await?;
        let digest = tree_digest(&files);
        let pointer = Pointer::new(version, &digest);
        let known = self.manifest(version).await?;
        let is_new = known.is_none();
        if let Some(manifest) = known {
            self.check_same(&manifest, &digest)?;
        } else {
            self.claim(&pointer, options.replace_unfinished).await?;
            self.upload_all(version, &files, &locals, progress).await?;
            let manifest = Manifest::new(version, &digest, &files, options.metadata.clone());
            self.complete(&manifest, &pointer).await?;
        }
        progress(Event::Published {
            version: version.to_owned(),
        });
        let rises = latest.is_none_or(|latest| Key::new(version) > Key::new(&latest.version));
        if options.move_latest && (is_new || rises) {
            self.move_latest(&pointer, &seen).await?;
            progress(Event::LatestMoved {
                version: version.to_owned(),
            });
        }
        self.resolve(&Selector::Version(version.to_owned())).await
    }

    /// Claims a version for one content, before any file is written: publishers of other content
    /// stop here, so files of two contents never mix.
    async fn claim(&self, pointer: &Pointer, replace: bool) -> Result<()> {
        let path = claim_path(&pointer.version);
        let (seen, owner) = self.look(&path).await?;
        match owner {
            Some(owner) if owner == *pointer => Ok(()),
            Some(_) if !replace => Err(self.claimed(&pointer.version)),
            _ => match self.swap(&path, pointer, &seen).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    Err(self.claimed(&pointer.version).with_source(error))
                }
                swapped => swapped,
            },
        }
    }

    fn claimed(&self, version: &str) -> Error {
        let detail = "another publisher began this version with other content";
        Error::new(
            ErrorKind::Conflict,
            STAGE,
            self.name_of(&format!("versions/{version}")),
            detail,
        )
        .with_hint(
            "choose another version; if that publisher has died, replace the unfinished version",
        )
    }

    async fn upload_all(
        &self,
        version: &str,
        files: &[ModelFile],
        locals: &[LocalFile],
        progress: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<()> {
        let uploads: Vec<_> = files
            .iter()
            .zip(locals)
            .map(|(file, local)| async move {
                self.upload(&file_path(version, &file.path), file, local, progress)
                    .await
            })
            .collect();
        stream::iter(uploads)
            .buffer_unordered(FILES_IN_FLIGHT)
            .try_collect()
            .await
    }

    /// Writes the manifest, once: with it the version exists.
    async fn complete(&self, manifest: &Manifest, claim: &Pointer) -> Result<()> {
        let path = manifest_path(&manifest.version);
        let (_, owner) = self.look(&claim_path(&manifest.version)).await?;
        if owner.as_ref() != Some(claim) {
            return Err(self.claimed(&manifest.version));
        }
        let bytes = manifest.to_bytes().map_err(|error| {
            Error::invalid(STAGE, self.name_of(&path), "the manifest cannot be written")
                .with_source(error)
        })?;
        let create = PutOptions::from(PutMode::Create);
        match self
            .objects()
            .put_opts(&self.key(&path)?, bytes.into(), create)
            .await
        {
            Ok(_) => Ok(()),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => match self.manifest(&manifest.version).await? {
                Some(theirs) => self.check_same(&theirs, &manifest.tree_digest),
                None => Err(self.claimed(&manifest.version)),
            },
            Err(error) => Err(self.error(STAGE, &path, &error)),
        }
    }

    fn check_same(&self, manifest: &Manifest, digest: &str) -> Result<()> {
        if manifest.tree_digest == digest {
            return Ok(());
        }
        let object = self.name_of(&format!("versions/{}", manifest.version));
        let detail = format!(
            "it is already published with other content: {}",
            manifest.tree_digest
        );
        Err(Error::new(ErrorKind::Conflict, STAGE, object, detail)
            .with_hint("versions never change: publish under a new version"))
    }

    async fn move_latest(&self, pointer: &Pointer, seen: &Seen) -> Result<()> {
        self.swap(LATEST, pointer, seen).await.map_err(|error| {
            if error.kind() != ErrorKind::Conflict {
                return error;
            }
            let detail = format!("version {} is published, but someone else moved latest meanwhile", pointer.version);
            Error::new(ErrorKind::Conflict, STAGE, self.name_of(LATEST), detail)
                .with_hint("publish again to move latest if this version is the higher one, or set it by hand")
                .with_source(error)
        })
    }
}

/// The path of the document that claims a version for one content.
fn claim_path(version: &str) -> String {
    format!("versions/{version}/claim.json")
}

/// Hashes local files, one after the other: the disk is the limit.
async fn hash_all(
    locals: Vec<LocalFile>,
    progress: &(dyn Fn(Event) + Send + Sync),
) -> Result<(Vec<LocalFile>, Vec<ModelFile>)> {
    let mut files = Vec::with_capacity(locals.len());
    for local in &locals {
        let mut reader = LocalReader::open(&local.local).await?;
        loop {
            let (next, bytes) = reader.next(PART).await?;
            reader = next;
            if bytes.is_empty() {
                break;
            }
        }
        let (size, sha256) = reader.finish();
        progress(Event::Hashed {
            path: local.path.clone(),
            size,
        });
        files.push(ModelFile::new(local.path.clone(), size, Some(sha256)));
    }
    Ok((locals, files))
}
