//! An object store in memory that counts what it is asked, and can move while it is listed.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use modelship_model_store::{ModelStore, ResolveOptions};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// The store; clones of its `Arc` count together.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    inner: Arc<InMemory>,
    requests: Mutex<Vec<String>>,
    /// Every listing finds one more object, as if someone were uploading.
    pub(crate) moving: Arc<AtomicBool>,
    added: Arc<AtomicUsize>,
    /// Listing is not allowed.
    pub(crate) unlisted: AtomicBool,
}

impl Counting {
    /// The requests since the last call, such as `get latest.json: not modified`.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    pub(crate) async fn put_text(&self, path: &str, text: &str) {
        let key = Path::parse(format!("models/{path}")).unwrap();
        self.inner.put(&key, text.to_owned().into()).await.unwrap();
    }

    /// The model of this name, as if the store were in S3.
    pub(crate) fn model(self: &Arc<Self>, name: &str) -> ModelStore {
        let url = format!("s3://bucket/models/{name}").parse().unwrap();
        let key = Path::parse(format!("models/{name}")).unwrap();
        let objects: Arc<dyn ObjectStore> = Arc::clone(self) as _;
        let options = ResolveOptions::default().with_quiescence(std::time::Duration::ZERO);
        ModelStore::with_object_store(url, objects, key).with_resolve_options(options)
    }

    fn note(&self, what: &str, path: &Path, how: &str) {
        let path = path.as_ref().splitn(3, '/').nth(2).unwrap_or_default();
        let note = format!("{what} {path}").trim_end().to_owned() + how;
        self.requests.lock().unwrap().push(note);
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("counting")
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.note("put", location, "");
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.note("put", location, "");
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let what = if options.head { "head" } else { "get" };
        let found = self.inner.get_opts(location, options).await;
        let how = match &found {
            Ok(_) => "",
            Err(object_store::Error::NotModified { .. }) => ": not modified",
            Err(object_store::Error::NotFound { .. }) => ": not found",
            Err(_) => ": failed",
        };
        self.note(what, location, how);
        found
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        self.note("list", &prefix, "");
        if self.unlisted.load(Ordering::SeqCst) {
            let refused = object_store::Error::PermissionDenied {
                path: prefix.to_string(),
                source: "403".into(),
            };
            return stream::once(async { Err(refused) }).boxed();
        }
        if !self.moving.load(Ordering::SeqCst) {
            return self.inner.list(Some(&prefix));
        }
        let (inner, number) = (
            Arc::clone(&self.inner),
            self.added.fetch_add(1, Ordering::SeqCst),
        );
        let listing = async move {
            let key = Path::parse(format!("{prefix}/part-{number}")).unwrap();
            inner.put(&key, "more".into()).await.unwrap();
            inner.list(Some(&prefix))
        };
        stream::once(listing.boxed()).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.note("level", prefix.unwrap_or(&Path::ROOT), "");
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
