//! `ModelStore`: the versions of one model in some object store, and its basic requests.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::client::HttpConnector;
use object_store::path::Path;
use object_store::{GetOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::backend::{self, Opened};
use crate::cause::{Site, find, place_is_missing};
use crate::error::{Error, Result};
use crate::options::StoreOptions;
use crate::resolve::ResolveOptions;
use crate::store_url::{Scheme, StoreUrl};
use crate::transport::Governor;

/// Largest JSON document that is read, in bytes: room for some 50,000 files in a manifest.
const MAX_DOCUMENT: u64 = 16 << 20;

/// The versions of **one** model; the last segment of the URL is the model's name.
///
/// Cloning is cheap and shares the connections. What is in the store:
///
/// ```text
/// NAME/versions/V/files/…        the bytes
/// NAME/versions/V/claim.json     who may write them: the digest of what is being published
/// NAME/versions/V/manifest.json  written last: without it, the version does not exist
/// NAME/latest.json               names the latest version; moved by compare-and-swap
/// NAME/aliases/A.json            names the version an alias stands for
/// ```
#[derive(Clone)]
pub struct ModelStore(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    url: StoreUrl,
    store: Arc<dyn ObjectStore>,
    /// The same objects, for reading their parts: nothing is tried twice below.
    parts: Arc<dyn ObjectStore>,
    governor: Arc<Governor>,
    /// Whether requests pass through our own transport.
    own: bool,
    root: Path,
    site: Site,
    resolving: ResolveOptions,
}

/// The answer to a conditional read of a small document.
pub(crate) enum Fetched {
    Missing,
    NotModified,
    Found { bytes: Bytes, etag: Option<String> },
}

impl ModelStore {
    /// Opens the store at `url`. Nothing is sent yet.
    ///
    /// A `memory://` store starts empty at every call and is shared by its clones only.
    ///
    /// # Errors
    /// `Invalid` for an endpoint or region that is missing or breaks a rule, `Unauthorized` when
    /// no credential is given; the hint says which variables to set.
    pub fn open(url: &StoreUrl, options: &StoreOptions) -> Result<Self> {
        Self::opened(url, backend::open(url, options)?)
    }

    /// As [`open`](Self::open), with the HTTP clients that `http` makes: for a proxy, certificates
    /// or limits of one's own, and for faults in tests. Stores in the network only; how many
    /// requests pay off is then found out for this store alone.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_over(
        url: &StoreUrl,
        options: &StoreOptions,
        http: Arc<dyn HttpConnector>,
    ) -> Result<Self> {
        Self::opened(url, backend::open_over(url, options, http)?)
    }

    fn opened(url: &StoreUrl, opened: Opened) -> Result<Self> {
        let root = Path::parse(url.path()).map_err(|error| {
            Error::invalid("open model store", url.to_string(), error.to_string())
        })?;
        Ok(Self(Arc::new(Inner {
            url: url.clone(),
            store: opened.store,
            parts: opened.parts,
            governor: opened.governor,
            own: true,
            root,
            site: opened.site,
            resolving: ResolveOptions::default(),
        })))
    }

    /// A store over any object store: `prefix` is the model's own folder in `store`, and `url` is
    /// what locks and errors call it.
    pub fn with_object_store(url: StoreUrl, store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        let site = backend::site(&url);
        let governor = match url.scheme() {
            Scheme::Azure | Scheme::S3 => Governor::adaptive(),
            Scheme::File | Scheme::Memory => backend::local(),
        };
        Self(Arc::new(Inner {
            url,
            parts: Arc::clone(&store),
            store,
            governor,
            own: false,
            root: prefix,
            site,
            resolving: ResolveOptions::default(),
        }))
    }

    /// The same store, resolving by these options.
    #[must_use]
    pub fn with_resolve_options(&self, options: ResolveOptions) -> Self {
        let mut inner = self.0.as_ref().clone();
        inner.resolving = options;
        Self(Arc::new(inner))
    }

    /// How this store resolves.
    pub(crate) fn resolving(&self) -> &ResolveOptions {
        &self.0.resolving
    }

    /// Where the model's versions live.
    pub fn url(&self) -> &StoreUrl {
        &self.0.url
    }

    /// Which credential is in use, in words, such as `account key`; never its value.
    pub fn credential(&self) -> &'static str {
        self.0.site.credential
    }

    pub(crate) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.0.store
    }

    /// The objects, for reading parts of them, where the caller tries again by itself.
    pub(crate) fn parts(&self) -> &Arc<dyn ObjectStore> {
        &self.0.parts
    }

    /// What decides how many requests run at once, shared with all stores on the same host.
    pub(crate) fn governor(&self) -> &Arc<Governor> {
        &self.0.governor
    }

    /// Whether answers come with their headers, and S3 is asked for checksums.
    pub(crate) fn is_own(&self) -> bool {
        self.0.own
    }

    /// The model's own folder.
    pub(crate) fn root(&self) -> &Path {
        &self.0.root
    }

    /// The key of `path` inside the model's folder.
    pub(crate) fn key(&self, path: &str) -> Result<Path> {
        let text = if path.is_empty() {
            self.0.root.to_string()
        } else if self.0.root.is_root() {
            path.to_owned()
        } else {
            format!("{}/{path}", self.0.root)
        };
        // `Path::from` would escape a second time; keys are taken as they are.
        Path::parse(text).map_err(|error| Error::invalid("name object", path, error.to_string()))
    }

    /// Our error for a failure at `object`, which is named below the store's URL.
    pub(crate) fn error(
        &self,
        stage: &'static str,
        object: &str,
        error: &object_store::Error,
    ) -> Error {
        self.0.site.error(stage, self.name_of(object), error)
    }

    /// How errors call an object of this store.
    pub(crate) fn name_of(&self, object: &str) -> String {
        if object.is_empty() {
            self.0.url.to_string()
        } else {
            format!("{}/{object}", self.0.url)
        }
    }

    /// Reads a small document, unless it still has the tag `unless`.
    pub(crate) async fn fetch(
        &self,
        stage: &'static str,
        path: &str,
        unless: Option<&str>,
    ) -> Result<Fetched> {
        let found = self.fetch_stored(stage, path, unless).await;
        found.map(|(found, _)| found)
    }

    /// As [`fetch`](Self::fetch), with the store's own version of the object, where it keeps them.
    pub(crate) async fn fetch_stored(
        &self,
        stage: &'static str,
        path: &str,
        unless: Option<&str>,
    ) -> Result<(Fetched, Option<String>)> {
        let options = GetOptions {
            if_none_match: unless.map(str::to_owned),
            ..GetOptions::default()
        };
        match self.0.store.get_opts(&self.key(path)?, options).await {
            Ok(found) => {
                let version = found.meta.version.clone();
                Ok((self.collect(stage, path, found).await?, version))
            }
            Err(object_store::Error::NotModified { .. }) => Ok((Fetched::NotModified, None)),
            Err(error) => self
                .missing_or(stage, path, &error)
                .map(|()| (Fetched::Missing, None)),
        }
    }

    async fn collect(&self, stage: &'static str, path: &str, found: GetResult) -> Result<Fetched> {
        let etag = found.meta.e_tag.clone();
        let mut stream = found.into_stream();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream
            .try_next()
            .await
            .map_err(|error| self.error(stage, path, &error))?
        {
            if (bytes.len() + chunk.len()) as u64 > MAX_DOCUMENT {
                return Err(Error::invalid(
                    stage,
                    self.name_of(path),
                    "the document is larger than 16 MiB",
                ));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Fetched::Found {
            bytes: bytes.into(),
            etag,
        })
    }

    /// The size and tag of an object, if it exists.
    pub(crate) async fn head(&self, stage: &'static str, path: &str) -> Result<Option<ObjectMeta>> {
        match self.0.store.head(&self.key(path)?).await {
            Ok(meta) => Ok(Some(meta)),
            Err(error) => self.missing_or(stage, path, &error).map(|()| None),
        }
    }

    /// `Ok` when `error` says that the object, but not the container around it, is missing.
    pub(crate) fn missing_or(
        &self,
        stage: &'static str,
        path: &str,
        error: &object_store::Error,
    ) -> Result<()> {
        // A path below a file of a directory store is as missing as one below nothing.
        let below_file = || {
            find::<io::Error>(error)
                .is_some_and(|error| error.kind() == io::ErrorKind::NotADirectory)
        };
        let not_found = matches!(error, object_store::Error::NotFound { .. }) || below_file();
        if not_found && !place_is_missing(error) {
            Ok(())
        } else {
            Err(self.error(stage, path, error))
        }
    }
}

impl fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelStore")
            .field("url", &self.0.url.to_string())
            .field("credential", &self.0.site.credential)
            .finish_non_exhaustive()
    }
}
