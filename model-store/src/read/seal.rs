//! Seals a version: reads the files whose SHA-256 nobody states, and writes it into the lock.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;

use crate::error::Result;
use crate::model::{ModelVersion, Trust};
use crate::read::options::{Piece, ReadOptions};
use crate::read::source::Source;
use crate::read::stream;
use crate::store::ModelStore;

impl ModelStore {
    /// The same version with the SHA-256 of every file: those that nobody states are found by
    /// reading the files, and compared with what the store states of them in other ways.
    ///
    /// A version that is sealed already is given back as it is, and nothing is read. The trust of
    /// a file that was read is that of the store's checksum, else `Observed`.
    ///
    /// # Errors
    /// Those of [`read_with`](Self::read_with), and of [`recheck`](Self::recheck): each file was
    /// pinned, and that they still belong together is looked at in the end.
    pub async fn seal_version(
        &self,
        model: &ModelVersion,
        options: &ReadOptions,
    ) -> Result<ModelVersion> {
        let found = self.find_digests(model, options).await?;
        if found.is_empty() {
            return Ok(model.clone());
        }
        self.recheck(model).await?;
        model.seal(&found)
    }

    /// What reading finds of the files whose SHA-256 nobody states, by path.
    pub(super) async fn find_digests(
        &self,
        model: &ModelVersion,
        options: &ReadOptions,
    ) -> Result<BTreeMap<String, (String, Trust)>> {
        let unknown = || model.files().iter().filter(|file| file.sha256.is_none());
        let names: Vec<&str> = unknown().map(|file| file.path.as_str()).collect();
        let sources = unknown()
            .map(|file| Source::new(self, model, file))
            .collect();
        let plan = self.plan(sources, 0, options);
        let mut pieces = std::pin::pin!(stream::pieces(plan, true));
        let mut found = BTreeMap::new();
        while let Some(piece) = pieces.try_next().await? {
            if let Piece::End {
                file,
                sha256,
                trust,
            } = piece
                && let Some(name) = names.get(file)
            {
                found.insert((*name).to_owned(), (sha256, trust));
            }
        }
        Ok(found)
    }
}
