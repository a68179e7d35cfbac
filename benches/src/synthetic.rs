//! An object store whose large objects are zeros that nobody keeps: models of any size, without
//! a disk or a network that would be measured instead of us.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};

/// Answers come in pieces of this size, each in memory of its own, as from a connection.
const PIECE: u64 = 256 << 10;

type Sizes = Arc<Mutex<BTreeMap<Path, u64>>>;

/// Small objects are kept in memory; of what comes in parts, only the length is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Synthetic {
    small: Arc<InMemory>,
    large: Sizes,
}

impl Synthetic {
    fn size(&self, path: &Path) -> Option<u64> {
        let sizes = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.get(path).copied()
    }
}

fn meta(path: &Path, size: u64) -> ObjectMeta {
    ObjectMeta {
        location: path.clone(),
        last_modified: std::time::SystemTime::UNIX_EPOCH.into(),
        size,
        e_tag: Some("zeros".to_owned()),
        version: None,
    }
}

fn zeros(range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    let step = usize::try_from(PIECE).unwrap_or(usize::MAX);
    let pieces = range.clone().step_by(step).map(move |at| {
        let length = usize::try_from(PIECE.min(range.end - at)).unwrap_or(0);
        Ok(Bytes::from(vec![0; length]))
    });
    stream::iter(pieces).boxed()
}

impl fmt::Display for Synthetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("synthetic")
    }
}

#[async_trait]
impl ObjectStore for Synthetic {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.small.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Parts {
            path: path.clone(),
            size: 0,
            large: Arc::clone(&self.large),
        }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let Some(size) = self.size(path) else {
            return self.small.get_opts(path, options).await;
        };
        let range = match options.range {
            Some(GetRange::Bounded(range)) => range.start..range.end.min(size),
            Some(GetRange::Offset(from)) => from..size,
            Some(GetRange::Suffix(length)) => size.saturating_sub(length)..size,
            None => 0..size,
        };
        Ok(GetResult {
            payload: GetResultPayload::Stream(zeros(range.clone())),
            meta: meta(path, size),
            range,
            attributes: object_store::Attributes::default(),
            extensions: object_store::Extensions::default(),
        })
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.small.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.small.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.small.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.small.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct Parts {
    path: Path,
    size: u64,
    large: Sizes,
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        self.size += part.content_length() as u64;
        Box::pin(futures::future::ready(Ok(())))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let mut sizes = self.large.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.insert(self.path.clone(), self.size);
        Ok(PutResult {
            e_tag: Some("zeros".to_owned()),
            version: None,
            extensions: object_store::Extensions::default(),
        })
    }

    async fn abort(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt as _;
    use object_store::ObjectStoreExt as _;

    #[tokio::test]
    async fn what_comes_in_parts_is_given_back_as_zeros() {
        let store = Synthetic::default();
        let path = Path::from("a/large");
        let mut upload = store.put_multipart(&path).await.unwrap();
        upload.put_part(vec![1; 300_000].into()).await.unwrap();
        upload.put_part(vec![2; 7].into()).await.unwrap();
        upload.complete().await.unwrap();
        let options = GetOptions {
            range: Some(GetRange::Bounded(5..400_000)),
            ..GetOptions::default()
        };
        let got = store.get_opts(&path, options).await.unwrap();
        assert_eq!((got.meta.size, got.range.clone()), (300_007, 5..300_007));
        let pieces: Vec<Bytes> = got.into_stream().try_collect().await.unwrap();
        assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), 300_002);
        assert!(pieces.iter().flatten().all(|&byte| byte == 0));

        store.put(&Path::from("small"), "x".into()).await.unwrap();
        assert_eq!(store.head(&Path::from("small")).await.unwrap().size, 1);
    }
}
