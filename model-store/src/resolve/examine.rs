//! Is a folder of files a whole version? By its marker, its checksums, its shards, or by waiting.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use super::listing::{Listed, below, difference};
use super::{LOOKUPS, STAGE};
use crate::error::{Error, Result};
use crate::layout::Format;
use crate::layout::shards::{is_index, missing_by_count, named_by_index};
use crate::layout::sums::{Role, parse_sidecar, parse_sums, sidecar};
use crate::model::{ModelFile, Trust, check_paths};
use crate::store::{Fetched, ModelStore};
use crate::store_url::Scheme;

/// The largest checksum of one file that is read, in bytes.
const MAX_SIDECAR: u64 = 64 << 10;

/// A folder that holds a whole version.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) files: Vec<ModelFile>,
    pub(crate) format: Format,
    /// When the last thing that makes it whole was written.
    pub(crate) completed: DateTime<Utc>,
    /// How that is known, in words.
    pub(crate) how: String,
}

/// What a look at a folder says.
#[derive(Debug)]
pub(crate) enum Verdict {
    Whole(Whole),
    /// Something is missing, or still moves: what, in words.
    Partial(String),
}

/// The files of a folder by what they are for.
#[derive(Debug, Default)]
pub(crate) struct Parts<'a> {
    pub(crate) files: BTreeMap<&'a str, &'a Listed>,
    marker: Option<&'a Listed>,
    sums: Vec<&'a Listed>,
    /// Checksums by the file that they are of.
    sidecars: BTreeMap<&'a str, &'a Listed>,
}

impl<'a> Parts<'a> {
    pub(crate) fn sort(listed: &'a [Listed]) -> Self {
        let mut parts = Self::default();
        for file in listed {
            match Role::of(&file.path) {
                Role::Marker => parts.marker = Some(file),
                Role::Sums => parts.sums.push(file),
                Role::Sidecar(of) => {
                    parts.sidecars.insert(of, file);
                }
                Role::Model => {
                    parts.files.insert(&file.path, file);
                }
            }
        }
        parts
    }

    /// Whether there is anything that an uploader writes last, and what it is.
    pub(crate) fn mark(&self) -> Option<(String, DateTime<Utc>)> {
        let last = |files: &mut dyn Iterator<Item = &&Listed>| {
            files.map(|file| file.modified).max().unwrap_or_default()
        };
        if let Some(marker) = self.marker {
            return Some((format!("marked by {}", marker.path), marker.modified));
        }
        if let Some(sums) = self.sums.first() {
            let how = format!("every file that {} names is there", sums.path);
            return Some((how, last(&mut self.sums.iter())));
        }
        let all = self
            .files
            .keys()
            .all(|path| self.sidecars.contains_key(path));
        (all && !self.files.is_empty()).then(|| {
            let how = "every file has its .sha256".to_owned();
            (how, last(&mut self.sidecars.values()))
        })
    }

    /// When the version was completed, as far as the listing tells.
    pub(crate) fn completed(&self) -> DateTime<Utc> {
        let newest = || self.files.values().map(|file| file.modified).max();
        self.mark()
            .map(|(_, at)| at)
            .or_else(newest)
            .unwrap_or_default()
    }
}

impl ModelStore {
    /// Looks whether the files in `folder` are a whole version. Without a marker it waits and
    /// lists again, unless `wait` is false: then the digest that is asked for tells.
    pub(crate) async fn examine(
        &self,
        folder: &str,
        listed: &[Listed],
        wait: bool,
    ) -> Result<Verdict> {
        let parts = Parts::sort(listed);
        if parts.files.is_empty() {
            return Ok(Verdict::Partial("it has no files".into()));
        }
        check_paths(parts.files.keys().copied()).map_err(|why| {
            Error::invalid(STAGE, self.name_of(folder), why)
                .with_hint("rename or remove that object: a lock could not be kept as files")
        })?;
        self.check_hidden(folder).await?;
        let sums = match self.sums(folder, &parts).await? {
            Ok(sums) => sums,
            Err(why) => return Ok(Verdict::Partial(why)),
        };
        if let Some(why) = self.torn(folder, &parts).await? {
            return Ok(Verdict::Partial(why));
        }
        let how = match parts.mark() {
            Some((how, _)) => format!("complete: {how}"),
            None if wait => match self.still_moves(folder, listed).await? {
                Some(why) => return Ok(Verdict::Partial(format!("it still changes: {why}"))),
                None => format!(
                    "complete: no marker, two listings {:?} apart are the same",
                    self.resolving().quiescence
                ),
            },
            None => "complete: it has the digest".to_owned(),
        };
        let files = parts.files.values().map(|file| model_file(file, &sums));
        let files = match self.pin_versions(folder, files.collect()).await? {
            Ok(files) => files,
            Err(why) => return Ok(Verdict::Partial(why)),
        };
        Ok(Verdict::Whole(Whole {
            format: Format::detect(parts.files.keys().copied()),
            completed: parts.completed(),
            files,
            how,
        }))
    }

    /// The checksums that stand beside the files, by path; in words what is missing of what they
    /// name.
    async fn sums(
        &self,
        folder: &str,
        parts: &Parts<'_>,
    ) -> Result<Result<BTreeMap<String, String>, String>> {
        let mut all: BTreeMap<String, String> = BTreeMap::new();
        let is_there = |path: &str| parts.files.contains_key(path) || Role::of(path) != Role::Model;
        let (own, lists): (Vec<_>, Vec<_>) = parts
            .sidecars
            .iter()
            .partition(|(of, _)| parts.files.contains_key(*of));
        let lists = lists.into_iter().map(|(_, list)| (*list, true));
        let sums = parts.sums.iter().map(|list| (*list, false));
        for (list, of_one) in sums.chain(lists) {
            let bytes = self.document(&below(folder, &list.path)).await?;
            let sums = match parse_sums(&bytes) {
                Ok(sums) => sums,
                // The checksum came before its file.
                Err(_) if of_one => {
                    return Ok(Err(format!("{} is there without its file", list.path)));
                }
                Err(why) => return Err(self.bad(folder, &list.path, why)),
            };
            if let Some(missing) = sums.keys().find(|path| !is_there(path)) {
                let why = format!("{} names {missing:?}, which is not there", list.path);
                return Ok(Err(why));
            }
            all.extend(sums);
        }
        let own = own
            .into_iter()
            .map(|(of, file)| ((*of).to_owned(), (*file).clone()));
        let own: Vec<(String, Listed)> = own.collect();
        let read = stream::iter(own)
            .map(|(of, file)| async move { Ok((of, self.sidecar_of(folder, &file).await?)) })
            .buffered(LOOKUPS);
        let read: Vec<(String, String)> = read.try_collect().await?;
        for (path, sum) in read {
            if all
                .insert(path.clone(), sum.clone())
                .is_some_and(|other| other != sum)
            {
                let why = "it differs from the checksum in the list".to_owned();
                return Err(self.bad(folder, &sidecar(&path), why));
            }
        }
        Ok(Ok(all))
    }

    async fn sidecar_of(&self, folder: &str, file: &Listed) -> Result<String> {
        if file.size > MAX_SIDECAR {
            let why = "it is too large for a checksum".to_owned();
            return Err(self.bad(folder, &file.path, why));
        }
        let bytes = self.document(&below(folder, &file.path)).await?;
        parse_sidecar(&bytes).map_err(|why| self.bad(folder, &file.path, why))
    }

    /// What is missing of a model in several shards: those of an index, and those that count
    /// themselves.
    async fn torn(&self, folder: &str, parts: &Parts<'_>) -> Result<Option<String>> {
        if let Some(missing) = missing_by_count(parts.files.keys().copied()) {
            return Ok(Some(format!("the shard {missing:?} is missing")));
        }
        for index in parts.files.keys().filter(|path| is_index(path)) {
            let bytes = self.document(&below(folder, index)).await?;
            let named =
                named_by_index(index, &bytes).map_err(|why| self.bad(folder, index, why))?;
            let missing: Vec<String> = named
                .into_iter()
                .filter(|path| !parts.files.contains_key(path.as_str()))
                .map(|path| format!("{path:?}"))
                .take(5)
                .collect();
            if !missing.is_empty() {
                let missing = missing.join(", ");
                return Ok(Some(format!(
                    "{index:?} names {missing}, which is not there"
                )));
            }
        }
        Ok(None)
    }

    /// The difference between a listing and one made a while later.
    async fn still_moves(&self, folder: &str, listed: &[Listed]) -> Result<Option<String>> {
        tokio::time::sleep(self.resolving().quiescence).await;
        let again = if folder.is_empty() && listed.iter().all(|file| !file.path.contains('/')) {
            let top = self.top().await?;
            match top.folders.first() {
                Some(new) => return Ok(Some(format!("{new:?} was added"))),
                None => top.files,
            }
        } else {
            self.list_files(folder).await?
        };
        Ok(difference(listed, &again))
    }

    /// Pins every file to the store's own version of it, where the store keeps versions: one
    /// request tells whether it does. Listings do not show them.
    async fn pin_versions(
        &self,
        folder: &str,
        files: Vec<ModelFile>,
    ) -> Result<Result<Vec<ModelFile>, String>> {
        let keeps = match files.first() {
            Some(first) if matches!(self.url().scheme(), Scheme::S3 | Scheme::Azure) => {
                let meta = self.head(STAGE, &below(folder, &first.path)).await?;
                meta.and_then(|meta| meta.version).is_some()
            }
            _ => false,
        };
        if !keeps {
            return Ok(Ok(files));
        }
        let pinned = files.into_iter().map(|mut file| async move {
            let meta = self.head(STAGE, &below(folder, &file.path)).await?;
            let meta = meta.filter(|meta| meta.e_tag == file.etag && meta.size == file.size);
            let Some(meta) = meta else {
                return Ok(Err(format!("{:?} was replaced", file.path)));
            };
            file.version_id = meta.version.filter(|id| id != "null");
            Ok::<_, Error>(Ok(file))
        });
        let pinned: Vec<_> = stream::iter(pinned).buffered(LOOKUPS).try_collect().await?;
        Ok(pinned.into_iter().collect())
    }

    /// A small document that a listing has just shown.
    async fn document(&self, path: &str) -> Result<bytes::Bytes> {
        match self.fetch(STAGE, path, None).await? {
            Fetched::Found { bytes, .. } => Ok(bytes),
            Fetched::Missing | Fetched::NotModified => {
                Err(self.bad("", path, "it was removed meanwhile".into()))
            }
        }
    }

    fn bad(&self, folder: &str, path: &str, why: String) -> Error {
        Error::invalid(STAGE, self.name_of(&below(folder, path)), why)
    }
}

fn model_file(listed: &Listed, sums: &BTreeMap<String, String>) -> ModelFile {
    let sha256 = sums.get(&listed.path).cloned();
    let trust = sha256.is_some().then_some(Trust::Sidecar);
    let mut file = ModelFile::new(listed.path.clone(), listed.size, sha256);
    (file.trust, file.etag) = (trust, listed.etag.clone());
    file
}

/// The names of the files that are no part of the model, for whoever compares listings.
pub(crate) fn model_paths(listed: &[Listed]) -> BTreeSet<&str> {
    Parts::sort(listed).files.into_keys().collect()
}
