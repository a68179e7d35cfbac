//! The versions that a store has, and their ranks.

use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt, stream};

use super::examine::Parts;
use super::listing::Top;
use super::pointers::{INDEX, Index, TEXT_POINTERS};
use super::published::manifest_path;
use super::{LOOKUPS, STAGE};
use crate::error::{Error, Result};
use crate::selector::{Moment, Range};
use crate::store::{Fetched, ModelStore};
use crate::version_order::{Key, is_one_scheme, looks_like_version, sort};

/// What is wanted of many versions.
#[derive(Debug)]
pub(crate) enum Wish {
    Latest,
    Newest,
    Before(Moment),
    Range(Range),
}

impl Wish {
    /// What an error says is missing.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Latest | Self::Newest => "a released version".into(),
            Self::Before(moment) => format!("a released version from before {moment}"),
            Self::Range(range) => format!("a version in {range}"),
        }
    }
}

/// Where the versions are.
#[derive(Debug)]
pub(crate) enum Shelf {
    /// Below `versions/`, with manifests.
    Published,
    /// In folders of their own names; the text file that names the latest one, and the index with
    /// its tag, where there are any.
    Folders {
        pointer: Option<&'static str>,
        index: Option<(Index, Option<String>)>,
    },
    /// There are none: files, or the object of the URL, or nothing.
    Unversioned(Top),
}

/// The versions that may be chosen, from lowest to highest.
#[derive(Debug)]
pub(crate) struct Stock {
    pub(crate) shelf: Shelf,
    pub(crate) names: Vec<String>,
}

impl ModelStore {
    /// The versions, from lowest to highest: semantic versions by their rules, other names in
    /// natural order (`run-9` before `run-10`) before them.
    ///
    /// Of published versions these are the complete ones, retracted ones among them. Of a folder
    /// that others uploaded they are all whose names are numbers or dates, or that its index
    /// names; whether one is complete is found out when it is resolved.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn versions(&self) -> Result<Vec<String>> {
        let candidates = self.candidates().await?;
        if candidates.is_empty() {
            return Ok(self.foreign_stock().await?.names);
        }
        self.with_manifest(candidates).await
    }

    /// The versions that are not retracted.
    pub(crate) async fn stock(&self) -> Result<Stock> {
        let (names, retracted) = futures::try_join!(self.candidates(), self.retracted())?;
        let mut stock = if names.is_empty() {
            self.foreign_stock().await?
        } else {
            let shelf = Shelf::Published;
            Stock { shelf, names }
        };
        stock.names.retain(|name| !retracted.contains_key(name));
        Ok(stock)
    }

    /// The versions of a folder that this crate did not publish.
    pub(crate) async fn foreign_stock(&self) -> Result<Stock> {
        let top = self.top().await?;
        let has = |path: &str| top.files.iter().any(|file| file.path == path);
        let pointer = TEXT_POINTERS.into_iter().find(|path| has(path));
        let index = if has(INDEX) {
            self.index().await?
        } else {
            None
        };
        let mut names: Vec<String> = if let Some((index, _)) = &index {
            index.versions.iter().map(|v| v.version.clone()).collect()
        } else {
            let versions = top.folders.iter().filter(|name| looks_like_version(name));
            versions.cloned().collect()
        };
        sort(&mut names);
        let shelf = if names.is_empty() && pointer.is_none() {
            Shelf::Unversioned(top)
        } else {
            Shelf::Folders { pointer, index }
        };
        Ok(Stock { shelf, names })
    }

    /// The index of a folder, and its tag.
    pub(crate) async fn index(&self) -> Result<Option<(Index, Option<String>)>> {
        match self.fetch(STAGE, INDEX, None).await? {
            Fetched::Found { bytes, etag } => Index::parse(&bytes)
                .map(|index| Some((index, etag)))
                .map_err(|why| Error::invalid(STAGE, self.name_of(INDEX), why)),
            Fetched::Missing | Fetched::NotModified => Ok(None),
        }
    }

    /// The names that meet the wish, the best one first, and the policy in words.
    pub(crate) async fn ranked(&self, wish: &Wish, stock: Stock) -> Result<(Vec<String>, String)> {
        let published = matches!(stock.shelf, Shelf::Published);
        let mut names = stock.names;
        let released = |name: &String| !Key::new(name).is_pre_release();
        let policy = match wish {
            Wish::Latest => {
                names.retain(released);
                if !is_one_scheme(&names) {
                    names = self.of_one_scheme(names, published).await?;
                }
                let none = match &stock.shelf {
                    Shelf::Published => "no latest.json",
                    Shelf::Folders { index: Some(_), .. } => "no pointer, of versions.json",
                    _ => "no pointer and no index",
                };
                format!("latest: {none}, highest complete version that is not a pre-release")
            }
            Wish::Range(range) => {
                names.retain(|name| range.contains(name));
                format!("range {range}: highest complete version in it")
            }
            Wish::Newest | Wish::Before(_) => {
                names.retain(released);
                names = self.by_time(wish, names, published).await?;
                let word = match wish {
                    Wish::Before(moment) => format!("before {moment}"),
                    _ => "newest".to_owned(),
                };
                let what = if published {
                    "manifest"
                } else {
                    "marker, else newest file"
                };
                return Ok((
                    names,
                    format!(
                        "{word}: completed last, by the last change of its {what}; no pre-release"
                    ),
                ));
            }
        };
        names.reverse();
        Ok((names, policy))
    }

    /// An error, unless what has no common order is no version: one without a manifest, or, in a
    /// directory, an empty folder.
    async fn of_one_scheme(&self, names: Vec<String>, published: bool) -> Result<Vec<String>> {
        let names = if published {
            self.with_manifest(names).await?
        } else {
            let filled = stream::iter(names).map(|name| async move {
                let listed = self.list_files(&name).await?;
                Ok::<_, Error>((!listed.is_empty()).then_some(name))
            });
            let filled = filled.buffered(LOOKUPS);
            filled
                .try_filter_map(|name| async { Ok(name) })
                .try_collect()
                .await?
        };
        if is_one_scheme(&names) {
            return Ok(names);
        }
        let detail = format!("{} have no common order", super::missing::found(&names));
        Err(Error::invalid(STAGE, self.name_of(""), detail)
            .with_hint("name a version with @VERSION, or let latest.json name one of them"))
    }

    /// The names by when they were completed, the last one first.
    async fn by_time(
        &self,
        wish: &Wish,
        names: Vec<String>,
        published: bool,
    ) -> Result<Vec<String>> {
        let timed = stream::iter(names)
            .map(|name| async move {
                let time = if published {
                    let manifest = self.head(STAGE, &manifest_path(&name)).await?;
                    manifest.map(|meta| meta.last_modified)
                } else {
                    let listed = self.list_files(&name).await?;
                    (!listed.is_empty()).then(|| Parts::sort(&listed).completed())
                };
                Ok::<_, Error>(time.map(|time| (time, name)))
            })
            .buffered(LOOKUPS);
        let timed: Vec<Option<(DateTime<Utc>, String)>> = timed.try_collect().await?;
        let in_time = |time: &DateTime<Utc>| match wish {
            Wish::Before(moment) => *time < moment.0,
            _ => true,
        };
        let mut timed: Vec<_> = timed
            .into_iter()
            .flatten()
            .filter(|(time, _)| in_time(time))
            .collect();
        // Of the same second, the higher one.
        timed.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| Key::new(y).cmp(&Key::new(x))));
        Ok(timed.into_iter().map(|(_, name)| name).collect())
    }
}
