//! A fetch of one model: which files are missing, and all of them at once within bounds.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use futures::TryStreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{Semaphore, watch};

use super::arriving::{Arriving, Place};
use super::cached::CachedModel;
use super::content::{Seal, Wanted};
use super::lock::{FileLock, Share};
use super::meter::Meter;
use super::options::{FetchEvent, FetchOptions};
use super::pin::Pin;
use super::transfer::Transfer;
use super::{ModelCache, blocking, space};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ModelFile, ModelVersion, Trust};
use crate::read::PART;
use crate::store::ModelStore;
use crate::store_url::Scheme;

/// A file counts once more towards those that are fetched at once for so many bytes.
const WEIGHT: u64 = PART / 2;

/// A fetch that is about to begin. Its files can be read while they arrive.
///
/// Nothing moves until [`run`](Self::run), and dropping what that returns stops it.
#[derive(Debug)]
pub struct Fetching {
    store: ModelStore,
    cache: ModelCache,
    model: ModelVersion,
    options: FetchOptions,
    contents: Vec<Content>,
    arriving: BTreeMap<String, Arriving>,
}

/// One content that is wanted, by one file of the model or by several.
#[derive(Debug)]
struct Content {
    pin: Pin,
    /// The first of its files.
    path: String,
    place: watch::Sender<Place>,
}

impl ModelCache {
    /// Fetches the files of `model` that are not here, several at once, and hashes them on the
    /// way. A file that an earlier process was fetching from the same state of the same object
    /// goes on where its journal says; a file that another process is fetching is waited for.
    ///
    /// The lock that comes back is sealed: what nobody states a SHA-256 of has the one that was
    /// found. Dropping the future stops the fetch; what has arrived stays for the next one.
    ///
    /// # Errors
    /// `Invalid` beyond the limits of `options`; `Io` when the disk has no room, which is asked
    /// for first; `Changed` when an object is no longer the one that was resolved;
    /// `DigestMismatch`; those of the store.
    pub async fn fetch(
        &self,
        store: &ModelStore,
        model: &ModelVersion,
        options: &FetchOptions,
        progress: &(dyn Fn(FetchEvent) + Send + Sync),
    ) -> Result<CachedModel> {
        self.fetching(store, model, options)?.run(progress).await
    }

    /// Prepares a fetch whose files are read while they arrive; see [`ModelCache::fetch`].
    ///
    /// # Errors
    /// `Invalid` beyond the limits of `options`.
    pub fn fetching(
        &self,
        store: &ModelStore,
        model: &ModelVersion,
        options: &FetchOptions,
    ) -> Result<Fetching> {
        check_limits(model, options)?;
        let (mut contents, mut arriving) = (Vec::new(), BTreeMap::new());
        let mut by_key: HashMap<String, Arriving> = HashMap::new();
        for file in model.files() {
            let pin = Pin::of(model, file);
            let reader = by_key.entry(pin.key()).or_insert_with(|| {
                let (place, reader) = Arriving::new(file.size);
                let path = file.path.clone();
                contents.push(Content { pin, path, place });
                reader
            });
            arriving.insert(file.path.clone(), reader.clone());
        }
        // Large ones first: a large one that comes last keeps the others' connections idle.
        contents.sort_by_key(|content| content.pin.size < PART);
        Ok(Fetching {
            store: store.clone(),
            cache: self.clone(),
            model: model.clone(),
            options: options.clone(),
            contents,
            arriving,
        })
    }
}

impl Fetching {
    /// The file at `path`, to be read while it arrives.
    pub fn file(&self, path: &str) -> Option<Arriving> {
        self.arriving.get(path).cloned()
    }

    /// Fetches what is missing.
    ///
    /// # Errors
    /// Those of [`ModelCache::fetch`].
    pub async fn run(self, progress: &(dyn Fn(FetchEvent) + Send + Sync)) -> Result<CachedModel> {
        let hold = self.cache.dir().join("lock");
        let hold = FileLock::wait(hold, Share::Together, || ()).await?;
        let total = self.contents.iter().map(|content| content.pin.size).sum();
        let meter = Meter::new(total, progress);
        let (mut found, missing) = self.look(&meter).await?;
        let at_once = self.options.files_at_once.clamp(1, Semaphore::MAX_PERMITS);
        let room = Semaphore::new(at_once);
        // Of two large ones, one fills the network while the other one begins or ends.
        let share = if missing.len() > 1 { 2 } else { 1 };
        let most = (self.places() / share).max(1);
        let complete = missing.is_empty();
        let mut fetches = FuturesUnordered::new();
        for content in missing {
            if fetches.len() >= at_once {
                found.extend(fetches.try_next().await?);
            }
            fetches.push(self.fetch_one(content, (&room, most, &meter)));
        }
        found.extend(fetches.try_collect::<Vec<_>>().await?);
        let model = self.seal(&found)?;
        if !complete && !self.model.is_sealed() {
            // Each file was pinned; that they still belong together nobody has said yet.
            self.store.recheck(&self.model).await?;
        }
        Ok(CachedModel::new(model, self.cache, hold))
    }

    /// What is here, with its digests, and what is not, for which there must be room on the disk.
    async fn look(&self, meter: &Meter<'_>) -> Result<(HashMap<String, Seal>, Vec<&Content>)> {
        let cache = self.cache.clone();
        let wanted = Wanted::of(&self.options.read, self.options.rehash);
        let keep = self.options.keep_free;
        let pins: Vec<Pin> = self.contents.iter().map(|c| c.pin.clone()).collect();
        let digests = blocking(move || {
            let (mut digests, mut needed) = (Vec::with_capacity(pins.len()), 0_u64);
            for pin in &pins {
                let found = cache.find(pin, wanted)?;
                if found.is_none() {
                    let begun = fs::metadata(cache.partial(&pin.key(), "data"));
                    let begun = begun.map_or(0, |meta| meta.len());
                    needed = needed.saturating_add(pin.size.saturating_sub(begun));
                }
                digests.push(found);
            }
            space::check(cache.dir(), needed, keep)?;
            Ok(digests)
        });
        let (mut found, mut missing) = (HashMap::new(), Vec::new());
        for (content, digest) in self.contents.iter().zip(digests.await?) {
            let Some(seal) = digest else {
                missing.push(content);
                continue;
            };
            meter.found(content.pin.size);
            let place = Place::Whole(self.cache.content(&seal.0));
            content.place.send_replace(place);
            found.insert(content.pin.key(), seal);
        }
        Ok((found, missing))
    }

    /// Fetches one content, when it is its turn.
    async fn fetch_one(
        &self,
        content: &Content,
        (room, most, meter): (&Semaphore, u64, &Meter<'_>),
    ) -> Result<(String, Seal)> {
        let weight = (content.pin.size / WEIGHT).clamp(1, most);
        let window = self.window() / self.places() * weight;
        let turn = room.acquire_many(u32::try_from(weight).unwrap_or(1)).await;
        // The semaphore is never closed.
        let _turn = turn.ok();
        let transfer = Transfer {
            store: &self.store,
            model: &self.model,
            path: &content.path,
            cache: &self.cache,
            pin: &content.pin,
            place: &content.place,
            meter,
            read: self.options.read.clone().with_window(window),
        };
        Ok((content.pin.key(), transfer.run().await?))
    }

    /// The lock with what was found.
    fn seal(&self, found: &HashMap<String, Seal>) -> Result<ModelVersion> {
        let files = self.model.files().iter().filter_map(|file| {
            let seal = found.get(&Pin::of(&self.model, file).key())?;
            Some((file.path.clone(), seal.clone()))
        });
        let model = self.model.seal(&files.collect())?;
        self.check_trust(&model)?;
        Ok(model)
    }

    /// What is required of what comes from the store is required of what was here before, too.
    fn check_trust(&self, model: &ModelVersion) -> Result<()> {
        let Some(least) = self.options.read.require else {
            return Ok(());
        };
        let weak = |file: &&ModelFile| file.trust.unwrap_or(Trust::Observed) < least;
        model.files().iter().find(weak).map_or(Ok(()), |file| {
            let object = format!("{}@{}/{}", model.url(), model.version(), file.path);
            let trust = file.trust.unwrap_or(Trust::Observed);
            let detail = format!("{trust:?} vouches for its bytes, and {least:?} is required");
            Err(Error::new(
                ErrorKind::Untrusted,
                super::STAGE,
                object,
                detail,
            ))
        })
    }

    fn places(&self) -> u64 {
        self.options.files_at_once.max(1) as u64
    }

    /// The bytes that all files that are fetched at once may have on their way.
    fn window(&self) -> u64 {
        let remote = matches!(self.model.url().scheme(), Scheme::Azure | Scheme::S3);
        self.options.read.window(remote)
    }
}

fn check_limits(model: &ModelVersion, options: &FetchOptions) -> Result<()> {
    let refuse = |detail: String| {
        let object = format!("{}@{}", model.url(), model.version());
        Err(Error::invalid(super::STAGE, object, detail)
            .with_hint("raise the limit if this is the model that is meant"))
    };
    let (files, bytes) = (model.files().len(), model.total_size());
    match (options.max_files, options.max_bytes) {
        (Some(most), _) if files > most => {
            refuse(format!("it has {files} files, and the limit is {most}"))
        }
        (_, Some(most)) if bytes > most => {
            refuse(format!("it has {bytes} bytes, and the limit is {most}"))
        }
        _ => Ok(()),
    }
}
