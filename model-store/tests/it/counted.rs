//! A store that counts what it serves and can be told to wait, and a connection that does so for
//! other processes.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::BoxStream;
use modelship_model_store::{ModelStore, StoreUrl};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A store in memory that counts the bytes of files that it serves.
#[derive(Clone, Debug)]
pub(crate) struct Counted(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    objects: InMemory,
    served: AtomicU64,
    /// Requests for what lies at or behind this offset of a file wait.
    until: watch::Sender<u64>,
}

impl Counted {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            objects: InMemory::new(),
            served: AtomicU64::new(0),
            until: watch::Sender::new(u64::MAX),
        }))
    }

    pub(crate) fn store(&self) -> ModelStore {
        let url: StoreUrl = "memory://digits".parse().unwrap();
        let root = Path::from("digits");
        ModelStore::with_object_store(url, Arc::new(self.clone()), root)
    }

    /// The bytes served since this was asked last.
    pub(crate) fn served(&self) -> u64 {
        self.0.served.swap(0, Ordering::SeqCst)
    }

    /// From now on, serves files up to here only.
    pub(crate) fn stop_at(&self, offset: u64) {
        self.0.until.send_replace(offset);
    }

    /// Replaces an object, or removes it.
    pub(crate) async fn put(&self, path: &str, bytes: Option<Vec<u8>>) {
        let key = Path::parse(format!("digits/{path}")).unwrap();
        match bytes {
            Some(bytes) => drop(self.0.objects.put(&key, bytes.into()).await.unwrap()),
            None => self.0.objects.delete(&key).await.unwrap(),
        }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counted")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.0.objects.put_opts(at, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.objects.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        let is_file = at.as_ref().contains("/files/");
        let start = match &how.range {
            Some(GetRange::Bounded(range)) => range.start,
            Some(GetRange::Offset(offset)) => *offset,
            _ => 0,
        };
        if is_file {
            let mut until = self.0.until.subscribe();
            until.wait_for(|until| start < *until).await.unwrap();
        }
        let head = how.head;
        let found = self.0.objects.get_opts(at, how).await?;
        if is_file && !head {
            let bytes = found.range.end - found.range.start;
            self.0.served.fetch_add(bytes, Ordering::SeqCst);
        }
        Ok(found)
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.objects.delete_stream(at)
    }

    fn list(&self, at: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.objects.list(at)
    }

    async fn list_with_delimiter(&self, at: Option<&Path>) -> Result<ListResult> {
        self.0.objects.list_with_delimiter(at).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.0.objects.copy_opts(from, to, how).await
    }
}

/// Forwards connections to a server, and counts what the server answers.
pub(crate) struct Gate {
    port: u16,
    count: Arc<Count>,
    task: AbortHandle,
}

struct Count {
    served: AtomicU64,
    until: watch::Sender<u64>,
}

impl Gate {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let count = Arc::new(Count {
            served: AtomicU64::new(0),
            until: watch::Sender::new(u64::MAX),
        });
        let shared = Arc::clone(&count);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(forward(client, server, Arc::clone(&shared)));
            }
        });
        let task = task.abort_handle();
        Self { port, count, task }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The bytes that were forwarded since this was asked last, headers included.
    pub(crate) fn served(&self) -> u64 {
        self.count.served.swap(0, Ordering::SeqCst)
    }

    /// Whether a client is connected.
    pub(crate) fn is_busy(&self) -> bool {
        // The gate has one, and so has the task that accepts.
        Arc::strong_count(&self.count) > 2
    }

    /// As `served`, and it goes on counting.
    pub(crate) fn served_so_far(&self) -> u64 {
        self.count.served.load(Ordering::SeqCst)
    }

    /// Forwards about so many bytes of what is counted, and no others until it is told to.
    pub(crate) fn stop_after(&self, bytes: u64) {
        self.count.until.send_replace(bytes);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(client: TcpStream, server: SocketAddr, count: Arc<Count>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asks = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let answers = async {
        let mut buffer = vec![0; 64 << 10];
        let mut until = count.until.subscribe();
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                return to_client.shutdown().await;
            }
            let open = |until: &u64| count.served.load(Ordering::SeqCst) < *until;
            drop(until.wait_for(open).await);
            count.served.fetch_add(read as u64, Ordering::SeqCst);
            to_client.write_all(&buffer[..read]).await?;
        }
    };
    // A client that is killed ends its connection from one side or the other.
    tokio::select! {
        _ = asks => {}
        ended = answers => drop(ended),
    }
}
