//! Models without versions: one plain folder, or the object that the URL names. Their version is
//! named by their content.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use object_store::path::Path;
use object_store::{GetOptions, GetResult};

use super::examine::{Verdict, Whole};
use super::folders::has_digest;
use super::listing::{Top, is_folder_mark};
use super::published::lock;
use super::stock::{Shelf, Stock, Wish};
use super::{Basis, Decided, STAGE};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::Format;
use crate::layout::sums::{parse_sidecar, sidecar};
use crate::model::{Lock, ModelFile, ModelVersion, Trust, tree_digest};
use crate::selector::Selector;
use crate::store::ModelStore;

/// What the version of a model without versions starts with.
pub(crate) const PREFIX: &str = "tree-";
/// So many digits of the tree digest follow.
const DIGITS: usize = 12;
/// The largest checksum beside an object that is read, in bytes.
const MAX_SIDECAR: u64 = 4 << 10;

/// A model without versions.
#[derive(Debug)]
pub(crate) struct Single {
    pub(crate) model: ModelVersion,
    basis: Basis,
    completed: DateTime<Utc>,
    /// Whether a digest that is asked for is its own.
    whole: Whole,
}

impl Single {
    pub(crate) fn decided(self) -> Decided {
        (self.model, self.basis)
    }

    pub(crate) fn has_digest(&self, digest: &str) -> bool {
        has_digest(&self.whole, digest)
    }
}

impl ModelStore {
    /// The model without versions, where that is what the store has.
    pub(crate) async fn single(
        &self,
        selector: &Selector,
        word: &str,
        wait: bool,
    ) -> Result<Option<Single>> {
        match self.foreign_stock().await?.shelf {
            Shelf::Unversioned(top) => self.single_of(selector, (top, word), wait).await,
            _ => Ok(None),
        }
    }

    pub(crate) async fn single_of(
        &self,
        selector: &Selector,
        (top, word): (Top, &str),
        wait: bool,
    ) -> Result<Option<Single>> {
        if top.files.is_empty() {
            if top.folders.is_empty() {
                return self.object(selector).await;
            }
            return Ok(None);
        }
        let listed = if top.folders.is_empty() {
            top.files
        } else {
            self.list_files("").await?
        };
        match self.examine("", &listed, wait).await? {
            Verdict::Whole(whole) => {
                let policy = format!(
                    "{word}: one folder without versions, named by its content; {}",
                    whole.how
                );
                let basis = Basis::listing("");
                let folder = Some(String::new());
                self.lock_single(selector, whole, (policy, folder, basis))
                    .map(Some)
            }
            Verdict::Partial(why) => {
                Err(self.incomplete("", &format!("it is not complete: {why}")))
            }
        }
    }

    pub(crate) async fn wished_single(
        &self,
        selector: &Selector,
        wish: &Wish,
        stock: Stock,
    ) -> Result<Decided> {
        let Shelf::Unversioned(top) = stock.shelf else {
            return Err(self.missing(&wish.words(), None).await);
        };
        let word = match wish {
            Wish::Latest => "latest",
            Wish::Newest => "newest",
            Wish::Before(_) => "before",
            Wish::Range(_) => "range",
        };
        let folders: Vec<String> = top.folders.iter().take(20).cloned().collect();
        let Some(single) = self.single_of(selector, (top, word), true).await? else {
            return Err(match folders.as_slice() {
                [] => self.missing(&wish.words(), None).await,
                _ => self.only_folders(&folders).await,
            });
        };
        match wish {
            Wish::Range(_) => Err(Error::invalid(
                STAGE,
                self.name_of(""),
                "it has no versions, so none is in a range",
            )
            .with_hint(format!("ask for latest, or for {}", single.model.version()))),
            Wish::Before(moment) if single.completed >= moment.0 => {
                let detail = format!("it was written at {}, and not before", single.completed);
                Err(
                    Error::new(ErrorKind::NotFound, STAGE, self.name_of(""), detail)
                        .with_hint("it keeps no earlier version under this name"),
                )
            }
            _ => Ok(single.decided()),
        }
    }

    /// The object that the URL names, if there is one.
    pub(crate) async fn object(&self, selector: &Selector) -> Result<Option<Single>> {
        let Some(found) = self.head_version("", None).await? else {
            return Ok(None);
        };
        if found.meta.size == 0 && is_folder_mark(&found.attributes) {
            return Ok(None);
        }
        let sum = self.object_sidecar().await?;
        let version = found.meta.version.clone().filter(|id| id != "null");
        self.lock_object(selector, &found, (sum, version)).map(Some)
    }

    /// The store's own version of the object.
    pub(crate) async fn object_version(&self, selector: &Selector, id: &str) -> Result<Decided> {
        let Some(found) = self.head_version("", Some(id)).await? else {
            let top = self.top().await?;
            if top.files.is_empty() && top.folders.is_empty() {
                return Err(self.missing(&format!("object version {id}"), None).await);
            }
            let detail = "it is a folder, and object versions are for models of one object";
            return Err(Error::invalid(STAGE, self.name_of(""), detail)
                .with_hint("name a version of the model, or the url of one object"));
        };
        if found.meta.version.as_deref() != Some(id) {
            let detail = "the store does not keep versions of objects";
            return Err(Error::new(
                ErrorKind::Unsupported,
                STAGE,
                self.name_of(""),
                detail,
            ));
        }
        // What stands beside the object speaks of its present version only.
        let pinned = (None, Some(id.to_owned()));
        let single = self.lock_object(selector, &found, pinned)?;
        Ok(single.decided())
    }

    /// What the store says of an object, or of one of its versions.
    pub(crate) async fn head_version(
        &self,
        path: &str,
        version: Option<&str>,
    ) -> Result<Option<GetResult>> {
        if path.is_empty() && self.root().is_root() {
            // A whole bucket is no object.
            return Ok(None);
        }
        let options = GetOptions {
            head: true,
            version: version.map(str::to_owned),
            ..GetOptions::default()
        };
        match self.objects().get_opts(&self.key(path)?, options).await {
            Ok(found) => Ok(Some(found)),
            Err(error) => self.missing_or(STAGE, path, &error).map(|()| None),
        }
    }

    /// The checksum in the file beside the object, `NAME.sha256`.
    async fn object_sidecar(&self) -> Result<Option<String>> {
        let name = sidecar(self.url().model_name());
        let bad = |why: String| Error::invalid(STAGE, name.clone(), why);
        let key = Path::parse(sidecar(self.root().as_ref())).map_err(|e| bad(e.to_string()))?;
        let found = self.objects().get_opts(&key, GetOptions::default()).await;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                // The object itself was shown: a credential for it alone is enough for it.
                return match self.missing_or(STAGE, "", &error) {
                    Err(ours) if is_refusal(&ours) => Ok(None),
                    other => other.map(|()| None),
                };
            }
        };
        if found.meta.size > MAX_SIDECAR {
            return Err(bad("it is too large for a checksum".into()));
        }
        let bytes = found.bytes().await;
        let bytes = bytes.map_err(|error| self.error(STAGE, "", &error))?;
        parse_sidecar(&bytes).map(Some).map_err(bad)
    }

    fn lock_object(
        &self,
        selector: &Selector,
        found: &GetResult,
        (sum, version): (Option<String>, Option<String>),
    ) -> Result<Single> {
        let name = self.url().model_name().to_owned();
        let policy = match selector {
            Selector::Object(_) => "object: this version of it",
            _ => "latest: one object, named by its content; complete: one object",
        };
        let trust = sum.is_some().then_some(Trust::Sidecar);
        let file = ModelFile {
            trust,
            etag: found.meta.e_tag.clone(),
            version_id: version.clone(),
            ..ModelFile::new(name.clone(), found.meta.size, sum)
        };
        let whole = Whole {
            format: Format::detect(std::iter::once(name.as_str())),
            completed: found.meta.last_modified,
            how: String::new(),
            files: vec![file],
        };
        let basis = Basis::Object {
            etag: found.meta.e_tag.clone(),
            version: version.filter(|_| matches!(selector, Selector::Object(_))),
        };
        self.lock_single(selector, whole, (policy.to_owned(), None, basis))
    }

    fn lock_single(
        &self,
        selector: &Selector,
        whole: Whole,
        (policy, folder, basis): (String, Option<String>, Basis),
    ) -> Result<Single> {
        let digest = tree_digest(&whole.files);
        let hex = digest.trim_start_matches("sha256:");
        let model = lock(Lock {
            url: self.url().clone(),
            selector: selector.clone(),
            policy,
            version: format!("{PREFIX}{}", &hex[..DIGITS]),
            total_size: whole.files.iter().map(|file| file.size).sum(),
            tree_digest: digest.clone(),
            folder,
            format: Some(whole.format),
            files: whole.files.clone(),
            metadata: BTreeMap::new(),
        })?;
        Ok(Single {
            model,
            basis,
            completed: whole.completed,
            whole,
        })
    }

    /// The error of a folder that has only folders, none of which is a version.
    async fn only_folders(&self, folders: &[String]) -> Error {
        let models = self.models_in(self.root().clone()).await;
        let (what, them) = if models.is_empty() {
            ("folders", folders.join(", "))
        } else {
            ("models", models.join(", "))
        };
        let detail = format!("it has no version and no files, only the {what} {them}");
        Error::new(ErrorKind::NotFound, STAGE, self.name_of(""), detail)
            .with_hint("name one of them in the url, or a folder as the version with @NAME")
    }
}

/// Whether the store did not let the credential do something. Stores say both of a signature for
/// another object.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::Unauthorized)
}
