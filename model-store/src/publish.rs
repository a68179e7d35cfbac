//! Publishes a version: claim, files, manifest, pointer, in this order.

use std::collections::BTreeMap;
use std::path::Path;

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{Manifest, Pointer};
use crate::model::{ModelFile, ModelVersion, tree_digest};
use crate::names::check_version;
use crate::note::Note;
use crate::pointer::{Intent, State, mark_path};
use crate::pointer_name::PointerName;
use crate::progress::Totals;
use crate::read::PART;
use crate::resolve::{LATEST, file_path, manifest_path};
use crate::scan::{LocalFile, LocalReader, scan};
use crate::selector::Selector;
use crate::store::ModelStore;
use crate::swap::Swapped;
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
    /// Who publishes, when and why, for the history of `latest`.
    pub note: Note,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            metadata: BTreeMap::new(),
            move_latest: true,
            replace_unfinished: false,
            note: Note::default(),
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

    /// Sets who publishes, when and why.
    #[must_use]
    pub fn with_note(mut self, note: Note) -> Self {
        self.note = note;
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
    /// How much of the version is in the store, after each step of a file.
    Progress {
        /// The bytes that are there, those of earlier attempts included.
        done: u64,
        /// All of them.
        total: u64,
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
    /// other content, garbage collection is removing it, or someone else moved `latest` meanwhile
    /// (the version itself is then published). `Retracted` for a retracted version. `Changed` when
    /// a local file changed meanwhile. `Invalid` for names that break a rule. Those of the store.
    pub async fn publish(
        &self,
        dir: &Path,
        version: &str,
        options: PublishOptions,
        progress: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<ModelVersion> {
        check_version(version).map_err(|why| {
            Error::invalid(STAGE, version, why)
                .with_hint("a name has letters, digits and . _ + - only")
        })?;
        options.note.check(STAGE)?;
        self.check_free(version).await?;
        let latest = self.state(&PointerName::Latest).await?;
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
            let manifest = Manifest::new(version, &digest, &files, options.metadata);
            self.complete(&manifest, &pointer).await?;
        }
        progress(Event::Published {
            version: version.to_owned(),
        });
        let named = latest.target.as_ref();
        let rises = named.is_none_or(|named| Key::new(version) > Key::new(&named.version));
        if options.move_latest && (is_new || rises) {
            self.move_latest(&pointer, &latest, options.note).await?;
            progress(Event::LatestMoved {
                version: version.to_owned(),
            });
        }
        self.resolve(&Selector::Version(version.to_owned())).await
    }

    /// Refuses a version that is retracted, or being removed.
    async fn check_free(&self, version: &str) -> Result<()> {
        if let Some(retraction) = self.retraction(version).await? {
            return Err(self.retracted_error(STAGE, &retraction));
        }
        match self.head(STAGE, &mark_path(version)).await? {
            Some(_) => Err(self.marked_error(STAGE, version)),
            None => Ok(()),
        }
    }

    /// Claims a version for one content, before any file is written: publishers of other content
    /// stop here, so files of two contents never mix. A claim of our own is written again: it is
    /// young then, and garbage collection leaves the version alone.
    async fn claim(&self, pointer: &Pointer, replace: bool) -> Result<()> {
        let path = claim_path(&pointer.version);
        let seen = self.see(STAGE, &path).await?;
        let owner = self.parse_claim(&path, seen.bytes())?;
        if owner.is_some_and(|owner| owner != *pointer) && !replace {
            return Err(self.claimed(&pointer.version));
        }
        let bytes = pointer.to_bytes().map_err(|error| {
            Error::invalid(STAGE, self.name_of(&path), "the claim cannot be written")
                .with_source(error)
        })?;
        if self.swap(STAGE, &path, bytes, &seen).await? == Swapped::Won
            || self.owner(&pointer.version).await?.as_ref() == Some(pointer)
        {
            return Ok(());
        }
        Err(self.claimed(&pointer.version))
    }

    /// For which content a version is claimed.
    async fn owner(&self, version: &str) -> Result<Option<Pointer>> {
        let path = claim_path(version);
        let seen = self.see(STAGE, &path).await?;
        self.parse_claim(&path, seen.bytes())
    }

    fn parse_claim(&self, path: &str, bytes: Option<&[u8]>) -> Result<Option<Pointer>> {
        let parsed = bytes.map(Pointer::parse).transpose();
        parsed.map_err(|why| {
            Error::invalid(STAGE, self.name_of(path), why)
                .with_hint("someone else wrote it: publish under another version")
        })
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
        let totals = Totals::new(files, progress);
        let report = |event| totals.report(event);
        let report: &(dyn Fn(Event) + Send + Sync) = &report;
        let uploads: Vec<_> = files
            .iter()
            .zip(locals)
            .map(|(file, local)| async move {
                self.upload(&file_path(version, &file.path), file, local, report)
                    .await
            })
            .collect();
        stream::iter(uploads)
            .buffer_unordered(FILES_IN_FLIGHT)
            .try_collect()
            .await
    }

    /// Writes the manifest, once: with it the version exists.
    ///
    /// Garbage collection marks a version, looks for a manifest, and then removes files and claim.
    /// So whoever finds no mark and its claim after the manifest was written has all its files.
    async fn complete(&self, manifest: &Manifest, claim: &Pointer) -> Result<()> {
        let (version, path) = (&manifest.version, manifest_path(&manifest.version));
        self.check_claim(claim).await?;
        let bytes = manifest.to_bytes().map_err(|error| {
            Error::invalid(STAGE, self.name_of(&path), "the manifest cannot be written")
                .with_source(error)
        })?;
        if self.create(STAGE, &path, bytes).await? {
            let checked = self.check_claim(claim).await;
            if let Err(error) = &checked
                && error.kind() == ErrorKind::Conflict
            {
                self.remove(STAGE, &path).await?;
            }
            return checked;
        }
        match self.manifest(version).await? {
            Some(theirs) => self.check_same(&theirs, &manifest.tree_digest),
            None => Err(self.claimed(version)),
        }
    }

    async fn check_claim(&self, claim: &Pointer) -> Result<()> {
        let version = claim.version.as_str();
        if self.head(STAGE, &mark_path(version)).await?.is_some() {
            return Err(self.marked_error(STAGE, version));
        }
        match self.owner(version).await? {
            Some(owner) if owner == *claim => Ok(()),
            Some(_) => Err(self.claimed(version)),
            None => {
                let object = self.name_of(&format!("versions/{version}"));
                let detail = "the claim on it was removed while it was being published";
                Err(Error::new(ErrorKind::Conflict, STAGE, object, detail)
                    .with_hint("publish it again"))
            }
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

    async fn move_latest(&self, pointer: &Pointer, from: &State, note: Note) -> Result<()> {
        let intent = Intent {
            target: Some(pointer.clone()),
            restores: None,
            note,
        };
        let moved = self.move_to(&PointerName::Latest, from, intent).await;
        moved.map(drop).map_err(|error| {
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
pub(crate) fn claim_path(version: &str) -> String {
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
