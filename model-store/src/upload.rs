//! Moves one local file into the store, hashing on the way.

use object_store::{MultipartUpload, ObjectStoreExt, PutMode, PutOptions};
use tokio::task::JoinSet;

use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelFile;
use crate::publish::{Event, STAGE};
use crate::read::PART;
use crate::scan::{LocalFile, LocalReader};
use crate::store::ModelStore;

/// Parts of one file in flight.
const PARTS_IN_FLIGHT: usize = 2;
/// S3 takes at most 10,000 parts.
const MAX_PARTS: u64 = 9_000;

/// The size of one part of a file of `size` bytes: 8 MiB, more only beyond 70 GiB.
fn part_size(size: u64) -> u64 {
    size.div_ceil(MAX_PARTS).next_multiple_of(1 << 20).max(PART)
}

impl ModelStore {
    /// Makes sure that the store has `file`, whose content is `local`, at `path`.
    pub(crate) async fn upload(
        &self,
        path: &str,
        file: &ModelFile,
        local: &LocalFile,
        progress: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<()> {
        if file.size > PART {
            if self.has_content(path, file).await? {
                progress(Event::Skipped {
                    path: file.path.clone(),
                    size: file.size,
                });
                return Ok(());
            }
            return self.upload_parts(path, file, local, progress).await;
        }
        let (reader, bytes) = LocalReader::open(&local.local)
            .await?
            .next(PART + 1)
            .await?;
        check_unchanged(file, local, reader)?;
        let key = self.key(path)?;
        let create = PutOptions::from(PutMode::Create);
        match self
            .objects()
            .put_opts(&key, bytes.clone().into(), create)
            .await
        {
            Ok(_) => {}
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => {
                if self.has_content(path, file).await? {
                    progress(Event::Skipped {
                        path: file.path.clone(),
                        size: file.size,
                    });
                    return Ok(());
                }
                let put = self.objects().put(&key, bytes.into()).await;
                put.map_err(|error| self.error(STAGE, path, &error))?;
            }
            Err(error) => return Err(self.error(STAGE, path, &error)),
        }
        progress(Event::Uploading {
            path: file.path.clone(),
            done: file.size,
            total: file.size,
        });
        Ok(())
    }

    async fn upload_parts(
        &self,
        path: &str,
        file: &ModelFile,
        local: &LocalFile,
        progress: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<()> {
        let upload = self.objects().put_multipart(&self.key(path)?).await;
        let upload = upload.map_err(|error| self.error(STAGE, path, &error))?;
        let mut upload = Begun(Some(upload));
        let Some(parts) = upload.0.as_mut() else {
            return Ok(());
        };
        self.send_parts(path, parts.as_mut(), (file, local), progress)
            .await?;
        parts
            .complete()
            .await
            .map_err(|error| self.error(STAGE, path, &error))?;
        upload.0 = None;
        Ok(())
    }

    async fn send_parts(
        &self,
        path: &str,
        upload: &mut dyn MultipartUpload,
        (file, local): (&ModelFile, &LocalFile),
        progress: &(dyn Fn(Event) + Send + Sync),
    ) -> Result<()> {
        let part = part_size(file.size);
        let mut reader = LocalReader::open(&local.local).await?;
        let mut running = JoinSet::new();
        let mut done = 0;
        loop {
            let (next, bytes) = reader.next(part).await?;
            reader = next;
            let last = bytes.is_empty();
            while running.len() >= if last { 1 } else { PARTS_IN_FLIGHT } {
                let Some(sent) = running.join_next().await else {
                    break;
                };
                done += self.sent(path, sent)?;
                progress(Event::Uploading {
                    path: file.path.clone(),
                    done,
                    total: file.size,
                });
            }
            if last {
                return check_unchanged(file, local, reader);
            }
            let length = bytes.len() as u64;
            let sending = upload.put_part(bytes.into());
            running.spawn(async move { sending.await.map(|()| length) });
        }
    }

    fn sent(
        &self,
        path: &str,
        sent: Result<object_store::Result<u64>, tokio::task::JoinError>,
    ) -> Result<u64> {
        let sent = sent.map_err(|error| {
            Error::new(
                ErrorKind::Io,
                STAGE,
                self.name_of(path),
                "the uploading task ended",
            )
            .with_source(error)
        })?;
        sent.map_err(|error| self.error(STAGE, path, &error))
    }
}

/// A multipart upload that is aborted unless it was completed, also when its future is dropped.
///
/// Its parts are invisible either way, and a failure to remove them is not news; but stores charge
/// for them.
struct Begun(Option<Box<dyn MultipartUpload>>);

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(mut upload) = self.0.take() else {
            return;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { upload.abort().await });
        }
    }
}

/// Compares what was just sent with what was hashed when publishing began.
fn check_unchanged(file: &ModelFile, local: &LocalFile, reader: LocalReader) -> Result<()> {
    let (size, sha256) = reader.finish();
    if size == file.size && Some(sha256) == file.sha256 {
        return Ok(());
    }
    let object = local.local.display().to_string();
    Err(Error::new(
        ErrorKind::Changed,
        STAGE,
        object,
        "the file changed while it was being published",
    )
    .with_hint("publish again when nothing writes to the directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_fit_every_store() {
        assert_eq!(part_size(0), PART);
        assert_eq!(part_size(50 << 30), PART);
        for size in [80 << 30, 1 << 40, 5 << 40] {
            assert!(size / part_size(size) < 10_000);
        }
    }
}
