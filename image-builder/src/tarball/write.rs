//! Writing an archive: one pass, although the names of its members are digests.

use std::collections::HashMap;
use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use oci_spec::image::{Descriptor, Digest};
use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use crate::content::Content;
use crate::error::{Error, Result};
use crate::frame::{END, MTIME, header, padding};
use crate::hash::sha256_hex;
use crate::layer::Layer;
use crate::layout::blobs::{persist, unfinished};
use crate::layout::{at_rest, blocking};
use crate::pour::pour;
use crate::progress::{Event, Progress};
use crate::tree::Node;

const STAGE: &str = "write archive";

/// The place of a blob in a layout.
pub(super) fn blob_name(digest: &Digest) -> Result<String> {
    Ok(format!("blobs/sha256/{}", sha256_hex(digest)?))
}

/// An archive being written beside its place.
pub(super) struct Archive {
    path: PathBuf,
    file: File,
    temp: TempPath,
    at: u64,
    /// The blobs written, with the offsets of their contents.
    places: HashMap<Digest, u64>,
}

impl Archive {
    pub(super) async fn create(path: &Path) -> Result<Self> {
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let made = blocking(move || {
            let io = |e| Error::io(STAGE, &parent, "cannot make the directory", e);
            std::fs::create_dir_all(&parent).map_err(io)?;
            unfinished(&parent)
        });
        let (file, temp) = made.await?.into_parts();
        let mut archive = Self {
            path: path.to_owned(),
            file: File::from_std(file),
            temp,
            at: 0,
            places: HashMap::new(),
        };
        for dir in ["blobs", "blobs/sha256"] {
            archive
                .write(&header(dir, &Node::dir(0o755), MTIME))
                .await?;
        }
        Ok(archive)
    }

    /// Adds a small file; gives the offset of its content.
    pub(super) async fn file(&mut self, name: &str, bytes: &[u8]) -> Result<u64> {
        let len = bytes.len() as u64;
        self.write(&header(name, &node(len), MTIME)).await?;
        let start = self.at;
        self.write(bytes).await?;
        self.pad(len).await?;
        Ok(start)
    }

    /// Adds a small blob, unless it is there.
    pub(super) async fn blob(&mut self, descriptor: &Descriptor, bytes: &Bytes) -> Result<()> {
        if self.places.contains_key(descriptor.digest()) {
            return Ok(());
        }
        let start = self.file(&blob_name(descriptor.digest())?, bytes).await?;
        self.places.insert(descriptor.digest().clone(), start);
        Ok(())
    }

    /// Adds a layer, unless it is there, and returns it known and read from the archive.
    pub(super) async fn layer(&mut self, layer: &Layer, progress: Progress<'_>) -> Result<Layer> {
        if let (Some(descriptor), Some(_)) = (layer.descriptor(), layer.diff_id())
            && let Some(&place) = self.places.get(descriptor.digest())
        {
            progress(Event::Reused {
                object: descriptor.digest().to_string().into(),
                total: layer.len(),
            });
            return Ok(at_rest(layer, self.path.clone(), place));
        }
        let start = self.at;
        // All names of blobs are equally long, so the header can be mended in its place.
        let draft = header(
            &format!("blobs/sha256/{:064}", 0),
            &node(layer.len()),
            MTIME,
        );
        self.write(&draft).await?;
        let content = self.at;
        let digest = pour(layer, &mut self.file, (STAGE, &self.path), progress).await?;
        self.at += layer.len();
        let layer = layer.with_digest(digest.clone())?;
        let name = blob_name(&digest)?;
        if let Some(&place) = self.places.get(&digest) {
            self.cut(start).await?;
            return Ok(at_rest(&layer, self.path.clone(), place));
        }
        self.pad(layer.len()).await?;
        self.mend(start, &header(&name, &node(layer.len()), MTIME))
            .await?;
        self.places.insert(digest.clone(), content);
        progress(Event::Stored {
            digest: digest.to_string().into(),
            size: layer.len(),
        });
        Ok(at_rest(&layer, self.path.clone(), content))
    }

    /// Ends the archive and puts it in its place.
    pub(super) async fn finish(mut self) -> Result<()> {
        self.zeros(END).await?;
        self.file.flush().await.map_err(|e| io(&self.path, e))?;
        self.file.sync_all().await.map_err(|e| io(&self.path, e))?;
        let (temp, path) = (self.temp, self.path);
        blocking(move || persist(temp, &path)).await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        let written = self.file.write_all(bytes).await;
        written.map_err(|e| io(&self.path, e))
    }

    async fn pad(&mut self, len: u64) -> Result<()> {
        self.zeros(padding(len)).await
    }

    async fn zeros(&mut self, count: u64) -> Result<()> {
        const ZEROS: [u8; 1024] = [0; 1024];
        let count = usize::try_from(count).unwrap_or(0).min(ZEROS.len());
        self.write(&ZEROS[..count]).await
    }

    /// Writes over the header at `start`, and goes back to the end.
    async fn mend(&mut self, start: u64, header: &[u8]) -> Result<()> {
        self.seek(start).await?;
        let written = self.file.write_all(header).await;
        written.map_err(|e| io(&self.path, e))?;
        self.seek(self.at).await
    }

    /// Takes back what was written after `start`.
    async fn cut(&mut self, start: u64) -> Result<()> {
        let cut = self.file.set_len(start).await;
        cut.map_err(|e| io(&self.path, e))?;
        self.at = start;
        self.seek(start).await
    }

    async fn seek(&mut self, to: u64) -> Result<()> {
        let sought = self.file.seek(SeekFrom::Start(to)).await;
        sought.map(|_| ()).map_err(|e| io(&self.path, e))
    }
}

/// A file of the archive, for its header: the bytes come from elsewhere.
fn node(len: u64) -> Node {
    let content = Content::stream(len, |_| futures::stream::empty().boxed());
    Node::file(0o644, content)
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::io(STAGE, path, "cannot write the archive", source)
}
