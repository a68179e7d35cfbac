//! Looks for a new version cheaply, once or for ever.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use async_stream::stream;
use futures::{Stream, StreamExt as _, stream::BoxStream};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelVersion;
use crate::options::StoreOptions;
use crate::resolve::{Basis, Probe};
use crate::selector::{ModelRef, Selector};
use crate::store::ModelStore;

/// What the last [`ModelStore::poll`] saw; keep it between polls, also across restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// What decided the answer.
    basis: Option<Basis>,
    version: String,
    tree_digest: String,
}

impl Seen {
    /// The version that was seen.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its tree digest.
    pub fn tree_digest(&self) -> &str {
        &self.tree_digest
    }
}

/// How often [`ModelStore::watch`] looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WatchOptions {
    /// The time between two looks; up to a tenth is added at random, so that many watchers do not
    /// knock at once.
    pub interval: Duration,
    /// The longest pause after repeated failures, which double the interval.
    pub max_backoff: Duration,
}

impl Default for WatchOptions {
    /// Every minute, every fifteen minutes at worst.
    fn default() -> Self {
        Self {
            interval: Duration::from_mins(1),
            max_backoff: Duration::from_mins(15),
        }
    }
}

impl WatchOptions {
    /// Sets the time between two looks.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The pause after `failures` failures in a row; `noise` is any number.
    fn pause(&self, failures: u32, noise: u64) -> Duration {
        let doubled = self.interval.saturating_mul(2_u32.saturating_pow(failures));
        let base = doubled.min(self.max_backoff.max(self.interval));
        let tenths = u32::try_from(noise % 1_000).unwrap_or(0);
        base + base / 10_000 * tenths
    }
}

impl ModelStore {
    /// The selected version, if it is another one than was seen; `None` when nothing changed.
    ///
    /// One request tells that nothing changed, and its answer has no body:
    ///
    /// - where a pointer, an index or the manifest of one version decides, a conditional request
    ///   for it;
    /// - where the model is one object, a request for its tag;
    /// - where the names, times or files of versions decide, a list request for each thousand
    ///   objects below the model's folder. (The first poll after the one that chose takes stock,
    ///   and resolves once more.)
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve). `seen` is then left as it was.
    pub async fn poll(
        &self,
        selector: &Selector,
        seen: &mut Option<Seen>,
    ) -> Result<Option<ModelVersion>> {
        selector.check()?;
        let known = seen.as_ref().and_then(|seen| seen.basis.as_ref());
        let probed = match known {
            None => None,
            Some(basis) => match self.probe(basis).await? {
                Probe::Same => return Ok(None),
                Probe::Other(now) => Some(now),
            },
        };
        let (model, basis) = self.decide(selector).await?;
        let now = Seen {
            // What was probed came before the answer: what changes in between is seen by the next
            // poll, late and not lost.
            basis: Some(match probed {
                Some(earlier) => basis.or_earlier(earlier),
                None => basis,
            }),
            version: model.version().to_owned(),
            tree_digest: model.tree_digest().to_owned(),
        };
        let before = seen.replace(now);
        let same = before.is_some_and(|before| {
            before.version == model.version() && before.tree_digest == model.tree_digest()
        });
        Ok((!same).then_some(model))
    }

    /// Every new selected version, as it appears, starting with the present one unless it was
    /// `seen` before.
    ///
    /// A failure that may pass, a model that is not there yet or not complete, and a pointer to a
    /// retracted one are given out and followed by
    /// the next look, after a growing pause; any other error ends the stream. Must be polled
    /// within a Tokio runtime with time enabled.
    pub fn watch(
        &self,
        selector: Selector,
        mut seen: Option<Seen>,
        options: WatchOptions,
    ) -> BoxStream<'static, Result<ModelVersion>> {
        let store = self.clone();
        let versions = stream! {
            let mut failures = 0_u32;
            loop {
                match store.poll(&selector, &mut seen).await {
                    Ok(found) => {
                        failures = 0;
                        if let Some(model) = found {
                            yield Ok(model);
                        }
                    }
                    Err(error) => {
                        failures = failures.saturating_add(1);
                        let fatal = is_final(&error);
                        yield Err(error);
                        if fatal {
                            return;
                        }
                    }
                }
                tokio::time::sleep(options.pause(failures, noise())).await;
            }
        };
        assert_stream(versions).boxed()
    }
}

/// Whether an error is of no passing kind. A model that is not there yet may come, and the pointer
/// to one that was taken back may move on.
fn is_final(error: &Error) -> bool {
    let waits = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Retracted);
    !error.is_retryable() && !waits
}

/// As [`ModelStore::watch`], of a reference: opens its store, and watches for what it selects.
///
/// # Errors
/// Those of [`ModelStore::open`].
pub fn watch(
    reference: &ModelRef,
    store: &StoreOptions,
    options: WatchOptions,
) -> Result<BoxStream<'static, Result<ModelVersion>>> {
    let store = ModelStore::open(&reference.url, store)?;
    Ok(store.watch(reference.selector.clone(), None, options))
}

/// A number that differs between processes and calls; nothing depends on its quality.
fn noise() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Helps type inference of the generated stream.
fn assert_stream<S: Stream<Item = Result<ModelVersion>>>(stream: S) -> S {
    stream
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound() {
        let options = WatchOptions::default();
        assert_eq!(options.pause(0, 0), Duration::from_mins(1));
        assert_eq!(options.pause(2, 0), Duration::from_mins(4));
        assert_eq!(options.pause(u32::MAX, 0), Duration::from_mins(15));
        let jittered = options.pause(0, 999);
        assert!(jittered > Duration::from_mins(1) && jittered < Duration::from_secs(66));
    }
}
