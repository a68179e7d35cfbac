//! The layout that this crate publishes: manifests, and pointers to them.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};

use super::listing::Listed;
use super::pointers::Named;
use super::single::Single;
use super::stock::Shelf;
use super::{Basis, Decided, LOOKUPS, STAGE};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::Format;
use crate::manifest::Manifest;
use crate::model::{Lock, ModelFile, ModelVersion};
use crate::names::check_version;
use crate::selector::Selector;
use crate::store::{Fetched, ModelStore};
use crate::version_order::sort;

/// The path of the document that names the latest version.
pub(crate) const LATEST: &str = "latest.json";

/// The path of an alias's document.
pub(crate) fn alias_path(alias: &str) -> String {
    format!("aliases/{alias}.json")
}

/// The path of a version's manifest.
pub(crate) fn manifest_path(version: &str) -> String {
    format!("versions/{version}/manifest.json")
}

/// The path of a file of a version.
pub(crate) fn file_path(version: &str, path: &str) -> String {
    format!("versions/{version}/files/{path}")
}

/// A manifest, and what its request told besides.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) manifest: Manifest,
    etag: Option<String>,
    /// Whether the store keeps old versions of objects, to which files can be pinned.
    keeps_versions: bool,
}

impl Published {
    /// A published version never changes: its manifest decides.
    pub(crate) fn basis(&self, version: &str) -> Basis {
        Basis::document(&manifest_path(version), self.etag.clone())
    }
}

impl ModelStore {
    /// Every name under `versions/`, complete or not, sorted.
    pub(crate) async fn candidates(&self) -> Result<Vec<String>> {
        let prefix = self.key("versions")?;
        let listed = match self.objects().list_with_delimiter(Some(&prefix)).await {
            Ok(listed) => listed,
            Err(error) => {
                return self.list_failed("versions", &error).map(|()| Vec::new());
            }
        };
        let names = listed
            .common_prefixes
            .iter()
            .filter_map(|path| path.filename());
        // What others put there under names we would never write is not a version.
        let mut names: Vec<String> = names
            .filter(|name| check_version(name).is_ok())
            .map(str::to_owned)
            .collect();
        sort(&mut names);
        Ok(names)
    }

    /// Those of `candidates` that have a manifest.
    pub(crate) async fn with_manifest(&self, candidates: Vec<String>) -> Result<Vec<String>> {
        let complete = |version: String| async move {
            let manifest = self.head("list versions", &manifest_path(&version)).await?;
            Ok::<_, Error>(manifest.map(|_| version))
        };
        let found = stream::iter(candidates).map(complete).buffered(LOOKUPS);
        found
            .try_filter_map(|version| async { Ok(version) })
            .try_collect()
            .await
    }

    /// Reads the manifest of a version; without one it is not complete.
    pub(crate) async fn manifest(&self, version: &str) -> Result<Option<Manifest>> {
        let found = self.read_manifest(version).await?;
        Ok(found.map(|found| found.manifest))
    }

    pub(crate) async fn read_manifest(&self, version: &str) -> Result<Option<Published>> {
        let path = manifest_path(version);
        match self.fetch_stored(STAGE, &path, None).await? {
            (Fetched::Found { bytes, etag }, stored) => {
                let manifest = Manifest::parse(&bytes, version)
                    .map_err(|why| Error::invalid(STAGE, self.name_of(&path), why))?;
                Ok(Some(Published {
                    manifest,
                    etag,
                    // Buckets with suspended versioning call every object's version `null`.
                    keeps_versions: stored.is_some_and(|id| id != "null"),
                }))
            }
            (Fetched::Missing | Fetched::NotModified, _) => Ok(None),
        }
    }

    /// The highest version whose tree has this digest, retracted or not.
    pub(crate) async fn by_digest(&self, selector: &Selector, digest: &str) -> Result<Decided> {
        let versions = self.candidates().await?;
        if versions.is_empty()
            && let Some(decided) = self.foreign_by_digest(selector, digest).await?
        {
            return Ok(decided);
        }
        let manifests = stream::iter(versions.into_iter().rev())
            .map(|version| async move { self.read_manifest(&version).await })
            .buffered(LOOKUPS);
        let same = manifests.try_filter_map(|found| async {
            Ok(found.filter(|found| found.manifest.tree_digest == digest))
        });
        let mut same = std::pin::pin!(same);
        match same.try_next().await? {
            Some(found) => {
                let basis = found.basis(&found.manifest.version);
                let policy = "digest: highest version with this tree digest".to_owned();
                Ok((self.pin(selector, found, policy).await?, basis))
            }
            None => Err(self.missing(&format!("digest {digest}"), None).await),
        }
    }

    async fn foreign_by_digest(
        &self,
        selector: &Selector,
        digest: &str,
    ) -> Result<Option<Decided>> {
        let stock = self.foreign_stock().await?;
        match stock.shelf {
            Shelf::Unversioned(top) => {
                let single = self.single_of(selector, (top, "digest"), false).await?;
                let same = single.filter(|single| single.has_digest(digest));
                Ok(same.map(Single::decided))
            }
            _ => self.folder_by_digest(selector, (&stock, digest)).await,
        }
    }

    /// Goes where a pointer points, and checks that the same content is there.
    pub(crate) async fn follow(
        &self,
        selector: &Selector,
        pointer: &Named,
        path: &str,
        policy: String,
    ) -> Result<ModelVersion> {
        let version = pointer.version.as_str();
        let published = self.read_manifest(version);
        let (published, retraction) = futures::try_join!(published, self.retraction(version))?;
        if let Some(retraction) = retraction {
            return Err(self.retracted_error(STAGE, &retraction));
        }
        let expected = |found: &str| {
            let same = pointer
                .tree_digest
                .as_deref()
                .is_none_or(|digest| digest == found);
            if same {
                Ok(())
            } else {
                Err(self.replaced(pointer, path))
            }
        };
        if let Some(published) = published {
            expected(&published.manifest.tree_digest)?;
            return self.pin(selector, published, policy).await;
        }
        if let Some(model) = self.folder_version(selector, version, &policy).await? {
            expected(model.tree_digest())?;
            return Ok(model);
        }
        let detail = format!("it names version {version}, which does not exist");
        Err(
            Error::new(ErrorKind::NotFound, STAGE, self.name_of(path), detail)
                .with_hint("publish that version again, or point to another one"),
        )
    }

    fn replaced(&self, pointer: &Named, path: &str) -> Error {
        let detail = format!(
            "it names other content than version {} has now",
            pointer.version
        );
        Error::new(ErrorKind::Changed, STAGE, self.name_of(path), detail)
            .with_hint("someone replaced a published version; publish it under a new version")
    }

    /// Pins every file of a manifest to what is in the store now: with one listing, which is
    /// cheaper than one request for each of several files, unless the store keeps old versions,
    /// which only the single request tells.
    pub(crate) async fn pin(
        &self,
        selector: &Selector,
        published: Published,
        policy: String,
    ) -> Result<ModelVersion> {
        let manifest = published.manifest;
        let version = manifest.version.clone();
        let files = manifest.model_files();
        let listed = if files.len() > 1 && !published.keeps_versions {
            self.list_published(&version).await?
        } else {
            None
        };
        let files = match listed {
            Some(listed) => files
                .into_iter()
                .map(|file| self.pin_listed(&version, file, &listed))
                .collect::<Result<_>>()?,
            None => {
                stream::iter(files)
                    .map(|file| self.pin_file(&version, file))
                    .buffered(LOOKUPS)
                    .try_collect()
                    .await?
            }
        };
        lock(Lock {
            url: self.url().clone(),
            selector: selector.clone(),
            policy,
            folder: Some(file_path(&version, "").trim_end_matches('/').to_owned()),
            version,
            tree_digest: manifest.tree_digest,
            total_size: manifest.total_size,
            format: None,
            files,
            metadata: manifest.metadata,
        })
    }

    /// The files of a version by path; nothing where the credential may read but not list.
    async fn list_published(&self, version: &str) -> Result<Option<BTreeMap<String, Listed>>> {
        let folder = file_path(version, "");
        match self.list_files(folder.trim_end_matches('/')).await {
            Ok(listed) => {
                let named = listed.into_iter().map(|file| (file.path.clone(), file));
                Ok(Some(named.collect()))
            }
            // Whatever else is there does not matter, as long as what the manifest names is.
            Err(error) if matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::Invalid) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn pin_listed(
        &self,
        version: &str,
        mut file: ModelFile,
        listed: &BTreeMap<String, Listed>,
    ) -> Result<ModelFile> {
        let path = file_path(version, &file.path);
        let Some(found) = listed.get(&file.path) else {
            return Err(self.file_missing(&path));
        };
        self.check_size(&path, file.size, found.size)?;
        file.etag.clone_from(&found.etag);
        Ok(file)
    }

    async fn pin_file(&self, version: &str, mut file: ModelFile) -> Result<ModelFile> {
        let path = file_path(version, &file.path);
        let Some(meta) = self.head(STAGE, &path).await? else {
            return Err(self.file_missing(&path));
        };
        self.check_size(&path, file.size, meta.size)?;
        file.etag = meta.e_tag;
        file.version_id = meta.version.filter(|id| id != "null");
        Ok(file)
    }

    fn file_missing(&self, path: &str) -> Error {
        let detail = "the manifest names it, but it is not in the store";
        Error::new(ErrorKind::NotFound, STAGE, self.name_of(path), detail)
    }

    fn check_size(&self, path: &str, stated: u64, found: u64) -> Result<()> {
        if stated == found {
            return Ok(());
        }
        let detail = format!("it has {found} bytes, the manifest says {stated}");
        Err(
            Error::new(ErrorKind::Changed, STAGE, self.name_of(path), detail)
                .with_hint("someone replaced a published file; publish it under a new version"),
        )
    }
}

/// Makes a version of a lock whose format is not told yet.
pub(crate) fn lock(mut lock: Lock) -> Result<ModelVersion> {
    let names = lock.files.iter().map(|file| file.path.as_str());
    lock.format = Some(Format::detect(names));
    ModelVersion::try_from(lock)
}
