//! From a selector to a lock: which version, and which exact bytes.

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{Manifest, Pointer};
use crate::model::{Lock, ModelFile, ModelVersion};
use crate::names::check_version;
use crate::selector::Selector;
use crate::store::{Fetched, ModelStore};
use crate::version_order::{Key, sort};

const STAGE: &str = "resolve model";
/// The policies, in the words that locks keep.
const BY_POINTER: &str = "latest: named by latest.json";
const BY_ORDER: &str = "latest: no latest.json, highest complete version that is not a pre-release";
const BY_NAME: &str = "version: named exactly";
const BY_DIGEST: &str = "digest: highest version with this tree digest";
/// Requests in flight while looking at many small objects.
const LOOKUPS: usize = 16;
/// How many versions an error lists.
const LISTED: usize = 20;

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

impl ModelStore {
    /// Resolves a selector, once, to a version whose files are all there.
    ///
    /// `latest` is what `latest.json` names, else the highest version, pre-releases excluded; the
    /// way it was decided is kept in [`ModelVersion::policy`]. A version without a manifest is
    /// still being published and is never chosen.
    ///
    /// # Errors
    /// `NotFound` lists what there is. `Changed` when a file no longer has the size its manifest
    /// states. `Invalid` for a document that breaks a rule, and for `latest` among versions that
    /// have no common order. `Unauthorized`, `Forbidden`, `Unreachable`, `Timeout` from the store.
    pub async fn resolve(&self, selector: &Selector) -> Result<ModelVersion> {
        selector.check()?;
        match selector {
            Selector::Latest => match self.pointer(STAGE, LATEST).await? {
                Some(pointer) => {
                    self.follow(selector, &pointer, LATEST, BY_POINTER.into())
                        .await
                }
                None => self.highest(selector).await,
            },
            Selector::Version(version) => match self.manifest(version).await? {
                Some(manifest) => self.pin(selector, manifest, BY_NAME.into()).await,
                None => Err(self
                    .missing(&format!("version {version}"), Some(version))
                    .await),
            },
            Selector::Alias(alias) => {
                let path = alias_path(alias);
                match self.pointer(STAGE, &path).await? {
                    Some(pointer) => {
                        self.follow(selector, &pointer, &path, format!("alias: named by {path}"))
                            .await
                    }
                    None => Err(self.missing(&format!("alias {alias}"), None).await),
                }
            }
            Selector::Digest(digest) => self.by_digest(selector, digest).await,
        }
    }

    /// The complete versions, from lowest to highest: semantic versions by their rules, other
    /// names in natural order (`run-9` before `run-10`) before them.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn versions(&self) -> Result<Vec<String>> {
        let candidates = self.candidates().await?;
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

    /// Every name under `versions/`, complete or not, sorted.
    async fn candidates(&self) -> Result<Vec<String>> {
        let prefix = self.key("versions")?;
        let listed = match self.objects().list_with_delimiter(Some(&prefix)).await {
            Ok(listed) => listed,
            Err(error) => {
                return self
                    .missing_or("list versions", "", &error)
                    .map(|()| Vec::new());
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

    /// Reads a pointer document.
    pub(crate) async fn pointer(&self, stage: &'static str, path: &str) -> Result<Option<Pointer>> {
        match self.fetch(stage, path, None).await? {
            Fetched::Found { bytes, .. } => self.parse_pointer(stage, path, &bytes),
            Fetched::Missing | Fetched::NotModified => Ok(None),
        }
    }

    pub(crate) fn parse_pointer(
        &self,
        stage: &'static str,
        path: &str,
        bytes: &[u8],
    ) -> Result<Option<Pointer>> {
        let parsed = Pointer::parse_moved(bytes).map(|(target, _)| target);
        parsed.map_err(|why| Error::invalid(stage, self.name_of(path), why))
    }

    /// Reads the manifest of a version, if it is complete.
    pub(crate) async fn manifest(&self, version: &str) -> Result<Option<Manifest>> {
        let path = manifest_path(version);
        match self.fetch(STAGE, &path, None).await? {
            Fetched::Found { bytes, .. } => Manifest::parse(&bytes, version)
                .map(Some)
                .map_err(|why| Error::invalid(STAGE, self.name_of(&path), why)),
            Fetched::Missing | Fetched::NotModified => Ok(None),
        }
    }

    /// The version a pointer names, which must still be what the pointer says.
    pub(crate) async fn follow(
        &self,
        selector: &Selector,
        pointer: &Pointer,
        path: &str,
        policy: String,
    ) -> Result<ModelVersion> {
        let Some(manifest) = self.manifest(&pointer.version).await? else {
            let detail = format!(
                "it names version {}, which has no manifest",
                pointer.version
            );
            return Err(
                Error::new(ErrorKind::NotFound, STAGE, self.name_of(path), detail)
                    .with_hint("publish that version again, or point to another one"),
            );
        };
        if manifest.tree_digest != pointer.tree_digest {
            let detail = format!(
                "it names other content than version {} has now",
                pointer.version
            );
            return Err(
                Error::new(ErrorKind::Changed, STAGE, self.name_of(path), detail).with_hint(
                    "someone replaced a published version; publish it under a new version",
                ),
            );
        }
        self.pin(selector, manifest, policy).await
    }

    async fn highest(&self, selector: &Selector) -> Result<ModelVersion> {
        let mut versions = self.versions().await?;
        let retracted = self.retracted().await?;
        versions.retain(|version| !retracted.contains_key(version));
        let releases: Vec<Key<'_>> = versions
            .iter()
            .map(|v| Key::new(v))
            .filter(|key| !key.is_pre_release())
            .collect();
        let numbered = releases.iter().filter(|key| key.is_numbered()).count();
        if numbered != 0 && numbered != releases.len() {
            let detail = format!("{} have no common order", found(&versions));
            return Err(Error::invalid(STAGE, self.name_of(""), detail)
                .with_hint("name a version with @VERSION, or set latest to one of them"));
        }
        let version = releases.iter().max().map(|key| key.text().to_owned());
        let Some(version) = version else {
            return Err(self.missing("a released version", None).await);
        };
        match self.manifest(&version).await? {
            Some(manifest) => self.pin(selector, manifest, BY_ORDER.into()).await,
            None => Err(self
                .missing(&format!("version {version}"), Some(&version))
                .await),
        }
    }

    async fn by_digest(&self, selector: &Selector, digest: &str) -> Result<ModelVersion> {
        let versions = self.versions().await?;
        let manifests = stream::iter(versions.into_iter().rev())
            .map(|version| async move { self.manifest(&version).await })
            .buffered(LOOKUPS);
        let same = manifests.try_filter_map(|manifest| async {
            Ok(manifest.filter(|manifest| manifest.tree_digest == digest))
        });
        let mut same = std::pin::pin!(same);
        match same.try_next().await? {
            Some(manifest) => self.pin(selector, manifest, BY_DIGEST.into()).await,
            None => Err(self.missing(&format!("digest {digest}"), None).await),
        }
    }

    /// Pins every file of a manifest to what is in the store now.
    pub(crate) async fn pin(
        &self,
        selector: &Selector,
        manifest: Manifest,
        policy: String,
    ) -> Result<ModelVersion> {
        let version = manifest.version.as_str();
        if !matches!(selector, Selector::Digest(_))
            && let Some(retraction) = self.retraction(version).await?
        {
            return Err(self.retracted_error(STAGE, &retraction));
        }
        let pin = |file: ModelFile| async move { self.pin_file(version, file).await };
        let files = stream::iter(manifest.model_files())
            .map(pin)
            .buffered(LOOKUPS)
            .try_collect()
            .await?;
        ModelVersion::try_from(Lock {
            url: self.url().clone(),
            selector: selector.clone(),
            policy,
            version: version.to_owned(),
            tree_digest: manifest.tree_digest,
            total_size: manifest.total_size,
            folder: Some(format!("versions/{version}/files")),
            files,
            metadata: manifest.metadata,
        })
    }

    async fn pin_file(&self, version: &str, mut file: ModelFile) -> Result<ModelFile> {
        let path = file_path(version, &file.path);
        let Some(meta) = self.head(STAGE, &path).await? else {
            let detail = "the manifest names it, but it is not in the store";
            return Err(Error::new(
                ErrorKind::NotFound,
                STAGE,
                self.name_of(&path),
                detail,
            ));
        };
        if meta.size != file.size {
            let detail = format!(
                "it has {} bytes, the manifest says {}",
                meta.size, file.size
            );
            return Err(
                Error::new(ErrorKind::Changed, STAGE, self.name_of(&path), detail)
                    .with_hint("someone replaced a published file; publish it under a new version"),
            );
        }
        file.etag = meta.e_tag;
        // Buckets with suspended versioning call every object's version `null`.
        file.version_id = meta.version.filter(|id| id != "null");
        Ok(file)
    }

    /// The error for something that is not there, with what is.
    async fn missing(&self, what: &str, version: Option<&str>) -> Error {
        let make =
            |detail: String| Error::new(ErrorKind::NotFound, STAGE, self.name_of(""), detail);
        let (candidates, versions) = match (self.candidates().await, self.versions().await) {
            (Ok(candidates), Ok(versions)) => (candidates, versions),
            (Err(error), _) | (_, Err(error)) => return error,
        };
        let publish = format!(
            "publish one with `modelship publish DIR {} VERSION`",
            self.url().model_name()
        );
        if let Some(version) = version
            .filter(|v| candidates.iter().any(|c| c == v) && !versions.iter().any(|c| c == v))
        {
            return make(format!(
                "version {version} is not complete: it has no manifest.json yet"
            ))
            .with_hint("wait for its publisher to finish, or publish it again");
        }
        if versions.is_empty() {
            let beside = self.neighbours().await;
            if beside.is_empty() {
                return make("the store is empty: no version has been published".into())
                    .with_hint(publish);
            }
            return make(format!(
                "no version of it has been published: found models {}",
                beside.join(", ")
            ))
            .with_hint(format!("name one of them in the address, or {publish}"));
        }
        make(format!(
            "{what} does not exist: found versions {}",
            found(&versions)
        ))
        .with_hint(format!("name one of them with @VERSION, or {publish}"))
    }
}

/// The last versions of a list, in words.
fn found(versions: &[String]) -> String {
    let hidden = versions.len().saturating_sub(LISTED);
    let shown = versions[hidden..].join(", ");
    if hidden > 0 {
        format!("{shown} and {hidden} older")
    } else {
        shown
    }
}
