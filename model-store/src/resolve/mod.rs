//! From a selector to a lock: which version, and which exact bytes.
//!
//! `published` knows the layout that this crate writes, `stock` and `folders` the folders that
//! others upload, `single` the models without versions. `listing` and `examine` tell what is in a
//! folder and whether it is whole, `recheck` whether it still is.

mod basis;
mod examine;
mod folders;
mod hidden;
mod listing;
mod missing;
mod options;
mod pointers;
mod published;
mod recheck;
mod single;
mod stock;

use futures::future::BoxFuture;

use crate::error::{Error, Result};
use crate::layout::Format;
use crate::model::ModelVersion;
use crate::selector::{Moment, Range, Selector};
use crate::store::{Fetched, ModelStore};

pub(crate) use basis::{Basis, Probe};
pub use options::ResolveOptions;
pub(crate) use published::{LATEST, alias_path, file_path, manifest_path};

use stock::Wish;

const STAGE: &str = "resolve model";
/// Requests in flight while looking at many small objects.
const LOOKUPS: usize = 16;

/// A lock, and what decided it.
type Decided = (ModelVersion, Basis);

impl ModelStore {
    /// Resolves a selector, once, to a version whose files are all there.
    ///
    /// What `latest` means is tried in this order, and kept in words in [`ModelVersion::policy`]:
    ///
    /// 1. a pointer: `latest.json`, or a text file `LATEST` or `latest.txt` of one line;
    /// 2. an index: `versions.json`;
    /// 3. the highest version, pre-releases excluded; versions without a common order are an
    ///    error;
    /// 4. a folder of files without versions, or the object that the URL names. Their version is
    ///    named by their content: `tree-` and twelve digits of the tree digest.
    ///
    /// The version that was written last is chosen by [`Selector::Newest`] only.
    ///
    /// A version without a manifest, a marker or checksums is taken for complete when two listings
    /// [some time](ResolveOptions::quiescence) apart are the same, and no shard is missing; in a
    /// folder where an older version has a marker, every version needs one. A retracted version is
    /// chosen by its digest only.
    ///
    /// # Errors
    /// `NotFound` lists what there is. `Retracted` for a version that its publisher took back.
    /// `Changed` when a file no longer has the size its manifest states. `Invalid` for a document
    /// or key that breaks a rule, and for versions that have no common order. `Unsupported` for
    /// `object:` in a store without object versions. `Unauthorized`, `Forbidden`, `Unreachable`,
    /// `Timeout` from the store.
    pub async fn resolve(&self, selector: &Selector) -> Result<ModelVersion> {
        self.decide(selector).await.map(|(model, _)| model)
    }

    /// Resolves, and says what it was decided by. Boxed: there are many ways, and a caller's
    /// future should not hold the room for all of them.
    pub(crate) fn decide<'a>(&'a self, selector: &'a Selector) -> BoxFuture<'a, Result<Decided>> {
        Box::pin(self.decide_by(selector))
    }

    async fn decide_by(&self, selector: &Selector) -> Result<Decided> {
        selector.check()?;
        let refuse = |why| Error::invalid(STAGE, self.name_of(""), why);
        match selector {
            Selector::Latest => self.latest(selector).await,
            Selector::Version(version) => self.exact(selector, version).await,
            Selector::Alias(alias) => self.alias(selector, alias).await,
            Selector::Digest(digest) => self.by_digest(selector, digest).await,
            Selector::Object(id) => self.object_version(selector, id).await,
            Selector::Range(text) => {
                let range = Range::parse(text).map_err(refuse)?;
                self.wished(selector, &Wish::Range(range)).await
            }
            Selector::Before(text) => {
                let moment = Moment::parse(text).map_err(refuse)?;
                self.wished(selector, &Wish::Before(moment)).await
            }
            Selector::Newest => self.wished(selector, &Wish::Newest).await,
        }
    }

    async fn latest(&self, selector: &Selector) -> Result<Decided> {
        if Format::is_file_name(self.url().model_name())
            && let Some(object) = self.object(selector).await?
        {
            return Ok(object.decided());
        }
        match self.pointed(selector, LATEST, "latest").await? {
            Some(decided) => Ok(decided),
            None => self.wished(selector, &Wish::Latest).await,
        }
    }

    async fn alias(&self, selector: &Selector, alias: &str) -> Result<Decided> {
        match self.pointed(selector, &alias_path(alias), "alias").await? {
            Some(decided) => Ok(decided),
            None => Err(self.missing(&format!("alias {alias}"), None).await),
        }
    }

    /// Goes where the document at `path` points, if it does.
    async fn pointed(
        &self,
        selector: &Selector,
        path: &str,
        word: &str,
    ) -> Result<Option<Decided>> {
        let Fetched::Found { bytes, etag } = self.fetch(STAGE, path, None).await? else {
            return Ok(None);
        };
        let Some(named) = self.parse_any_pointer(path, &bytes)? else {
            return Ok(None);
        };
        let policy = format!("{word}: named by {path}");
        let model = self.follow(selector, &named, path, policy).await?;
        Ok(Some((model, Basis::document(path, etag))))
    }

    async fn exact(&self, selector: &Selector, version: &str) -> Result<Decided> {
        let published = self.read_manifest(version);
        let (published, retraction) = futures::try_join!(published, self.retraction(version))?;
        if let Some(retraction) = retraction {
            return Err(self.retracted_error(STAGE, &retraction));
        }
        if let Some(found) = published {
            let basis = found.basis(version);
            let policy = "version: named exactly".to_owned();
            return Ok((self.pin(selector, found, policy).await?, basis));
        }
        if let Some(decided) = self.exact_folder(selector, version).await? {
            return Ok(decided);
        }
        if let Some(range) = Range::of_name(version) {
            return self.wished(selector, &Wish::Range(range)).await;
        }
        let what = format!("version {version}");
        Err(self.missing(&what, Some(version)).await)
    }
}
