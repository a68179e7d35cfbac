//! The planner: a pure function of what is wanted and what is there.

use serde::{Deserialize, Serialize};

use crate::inputs::ReleaseKey;

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Desired {
    /// The release's identity.
    pub key: ReleaseKey,
    /// The digest of how it is to run: replicas, exposure, limits.
    pub shape: String,
}

impl Desired {
    /// A release of `key`, run in `shape`.
    pub const fn new(key: ReleaseKey, shape: String) -> Self {
        Self { key, shape }
    }
}

/// What is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observed {
    /// The tested image of this key, where one was published before.
    pub image: Option<String>,
    /// The live release, where there is one.
    pub live: Option<Live>,
    /// Whether this very key and shape was rolled back before and not asked for by name since.
    pub rolled_back: bool,
}

/// The live release.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Live {
    /// Its key.
    pub key: ReleaseKey,
    /// How it runs.
    pub shape: String,
    /// The digest of the image it runs.
    pub image: String,
}

impl Live {
    /// A live release of `key` in `shape`, running `image`.
    pub const fn new(key: ReleaseKey, shape: String, image: String) -> Self {
        Self { key, shape, image }
    }
}

/// What a run would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
#[non_exhaustive]
pub enum Plan {
    /// Nothing: this release is serving.
    Unchanged,
    /// Nothing: this release failed before; a run that asks for it by name tries again.
    Quarantined,
    /// Roll out an image that was built and tested before.
    Rollout {
        /// The image.
        image: String,
    },
    /// Build, test and publish the image, then roll it out.
    Build,
}

/// Decides what to do.
///
/// A live release is only left alone when its image is still there to be pulled: otherwise a node
/// that restarts could not bring it back.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let live = observed.live.as_ref();
    let serving = live.is_some_and(|l| l.key == desired.key && l.shape == desired.shape);
    match &observed.image {
        Some(image) if serving && live.is_some_and(|l| &l.image == image) => Plan::Unchanged,
        _ if observed.rolled_back => Plan::Quarantined,
        Some(image) => Plan::Rollout {
            image: image.clone(),
        },
        None => Plan::Build,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::Inputs;

    fn key(n: u8) -> ReleaseKey {
        let text = n.to_string();
        Inputs {
            base: text.clone(),
            app: text.clone(),
            revision: text.clone(),
            model_name: text.clone(),
            model_version: text.clone(),
            model: text.clone(),
            config: text.clone(),
            checks: text,
        }
        .key()
    }

    /// Every combination of key, shape, image and memory: the whole domain is small enough to list.
    #[test]
    fn the_plan_is_right_for_every_state() {
        let desired = Desired::new(key(1), "shape".into());
        let lives = [None]
            .into_iter()
            .chain([1, 2].into_iter().flat_map(|k| {
                ["shape", "other"].into_iter().flat_map(move |s| {
                    ["img", "old"].map(|i| Some(Live::new(key(k), s.into(), i.into())))
                })
            }))
            .collect::<Vec<_>>();
        let mut seen = [0; 4];
        for live in &lives {
            for image in [None, Some("img".to_owned())] {
                for rolled_back in [false, true] {
                    let observed = Observed {
                        image: image.clone(),
                        live: live.clone(),
                        rolled_back,
                    };
                    let same =
                        live.as_ref() == Some(&Live::new(key(1), "shape".into(), "img".into()));
                    let (expected, at) = match &image {
                        Some(_) if same => (Plan::Unchanged, 0),
                        _ if rolled_back => (Plan::Quarantined, 1),
                        Some(image) => (
                            Plan::Rollout {
                                image: image.clone(),
                            },
                            2,
                        ),
                        None => (Plan::Build, 3),
                    };
                    assert_eq!(plan(&desired, &observed), expected, "{observed:?}");
                    seen[at] += 1;
                }
            }
        }
        assert!(seen.iter().all(|n| *n > 0), "each answer occurs: {seen:?}");
    }
}
