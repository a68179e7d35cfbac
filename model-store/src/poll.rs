//! Looks for a new version cheaply, once or for ever.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use async_stream::stream;
use futures::{Stream, StreamExt as _, stream::BoxStream};
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};
use crate::model::ModelVersion;
use crate::resolve::{LATEST, alias_path, manifest_path};
use crate::selector::Selector;
use crate::store::{Fetched, ModelStore};

const STAGE: &str = "poll model";

/// What the last [`ModelStore::poll`] saw; keep it between polls, also across restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The tag of the document that decides the selector, where there is one.
    etag: Option<String>,
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
    /// For `latest` and aliases an unchanged pointer costs one conditional request without a body.
    /// `latest` without a pointer lists the versions. A version is immutable: once seen, one
    /// conditional request for its manifest shows that it is still there.
    ///
    /// # Errors
    /// Those of [`resolve`](Self::resolve). `seen` is then left as it was.
    pub async fn poll(
        &self,
        selector: &Selector,
        seen: &mut Option<Seen>,
    ) -> Result<Option<ModelVersion>> {
        selector.check()?;
        let Some(path) = decider(selector) else {
            return self.poll_anew(selector, None, seen).await;
        };
        let known = seen.as_ref().and_then(|seen| seen.etag.as_deref());
        match self.fetch(STAGE, &path, known).await? {
            Fetched::NotModified => Ok(None),
            Fetched::Found { etag, .. } => self.poll_anew(selector, etag, seen).await,
            Fetched::Missing => self.poll_anew(selector, None, seen).await,
        }
    }

    /// Resolves, and compares the outcome with what was seen. If the pointer moves between the two
    /// requests, the older tag is kept, and the next poll looks again: late, never lost.
    async fn poll_anew(
        &self,
        selector: &Selector,
        etag: Option<String>,
        seen: &mut Option<Seen>,
    ) -> Result<Option<ModelVersion>> {
        let model = self.resolve(selector).await?;
        let now = Seen {
            etag,
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
    /// A failure that may pass, and a model that is not there yet, are given out and followed by
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
                        let fatal = !error.is_retryable() && error.kind() != ErrorKind::NotFound;
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

/// The document whose tag tells whether the selector's answer changed.
fn decider(selector: &Selector) -> Option<String> {
    match selector {
        Selector::Latest => Some(LATEST.to_owned()),
        Selector::Alias(alias) => Some(alias_path(alias)),
        Selector::Version(version) => Some(manifest_path(version)),
        Selector::Digest(_) => None,
    }
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
