//! An object store whose requests hang, fail, or take their time, as a plan says.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Notify;

/// What happens to one request of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is never answered: whoever waits is dropped there.
    Hang,
    /// It is refused.
    Refuse,
}

/// What happens to the requests of an operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Which request has a fault, and whether the store has done it all the same.
    pub(crate) fault: Option<(usize, Fault, bool)>,
    /// How often each request lets others go first, over and over.
    pub(crate) pauses: Vec<u8>,
}

/// The plan of the operation that runs, and how far it is.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    state: Mutex<(Plan, usize)>,
    hung: Notify,
}

impl Faults {
    /// Begins an operation.
    pub(crate) fn plan(&self, plan: Plan) {
        *self.state.lock().unwrap() = (plan, 0);
    }

    /// Returns when a request hangs.
    pub(crate) async fn hung(&self) {
        self.hung.notified().await;
    }

    async fn around<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let (fault, pauses) = {
            let mut state = self.state.lock().unwrap();
            let (plan, at) = (&state.0, state.1);
            let fault = plan.fault.filter(|(which, ..)| *which == at);
            let pauses = plan.pauses.get(at % plan.pauses.len().max(1)).copied();
            state.1 += 1;
            (fault, pauses.unwrap_or(0))
        };
        for _ in 0..pauses {
            tokio::task::yield_now().await;
        }
        let Some((_, fault, done)) = fault else {
            return request.await;
        };
        if done {
            let _ = request.await;
        }
        match fault {
            Fault::Hang => {
                self.hung.notify_one();
                std::future::pending().await
            }
            Fault::Refuse => Err(Error::PermissionDenied {
                path: String::new(),
                source: "refused by the test".into(),
            }),
        }
    }
}

/// The store of one client.
#[derive(Clone, Debug)]
pub(crate) struct Faulty {
    pub(crate) inner: Arc<dyn ObjectStore>,
    pub(crate) faults: Arc<Faults>,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        at: &Path,
        bytes: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.faults
            .around(self.inner.put_opts(at, bytes, options))
            .await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.faults
            .around(self.inner.put_multipart_opts(at, options))
            .await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.faults.around(self.inner.get_opts(at, options)).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |path: Path| {
            let this = this.clone();
            async move {
                this.faults
                    .around(this.inner.delete(&path))
                    .await
                    .map(|()| path)
            }
        };
        paths.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (faults, listed) = (Arc::clone(&self.faults), self.inner.list(prefix));
        let first = async move { faults.around(async { Ok(listed) }).await };
        futures::stream::once(first).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.faults
            .around(self.inner.list_with_delimiter(prefix))
            .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.faults
            .around(self.inner.copy_opts(from, to, options))
            .await
    }
}
