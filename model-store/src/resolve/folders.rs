//! Versions in folders that others uploaded: chosen when whole, and locked.

use futures::{StreamExt, TryStreamExt, stream};

use super::examine::{Parts, Verdict, Whole};
use super::listing::{Listed, OWN_FOLDERS};
use super::pointers::{INDEX, Index};
use super::published::lock;
use super::stock::{Shelf, Stock, Wish};
use super::{Basis, Decided, LOOKUPS, STAGE};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Lock, ModelVersion, Trust, tree_digest};
use crate::selector::Selector;
use crate::store::ModelStore;

/// As many older versions are asked whether they have a marker.
const LOOK_BACK: usize = 8;
/// As many versions that were left out are named in a policy.
const NAMED: usize = 3;

impl ModelStore {
    /// Chooses by order or time.
    pub(crate) async fn wished(&self, selector: &Selector, wish: &Wish) -> Result<Decided> {
        let stock = self.stock().await?;
        let index = match &stock.shelf {
            Shelf::Published => None,
            Shelf::Folders { pointer, index } => {
                if let (Wish::Latest, Some(path)) = (wish, pointer) {
                    return match self.pointed(selector, path, "latest").await? {
                        Some(decided) => Ok(decided),
                        None => Err(self.missing(&wish.words(), None).await),
                    };
                }
                index.clone()
            }
            Shelf::Unversioned(_) => return self.wished_single(selector, wish, stock).await,
        };
        if let (Wish::Latest, Some((index, etag))) = (wish, &index)
            && let Some(latest) = &index.latest
        {
            let policy = format!("latest: named by {INDEX}");
            return match self.folder_version(selector, latest, &policy).await? {
                Some(model) => Ok((model, Basis::document(INDEX, etag.clone()))),
                None => Err(self.missing(&format!("version {latest}"), None).await),
            };
        }
        let published = matches!(stock.shelf, Shelf::Published);
        let (names, policy) = self.ranked(wish, stock).await?;
        let model = if published {
            self.first_published(selector, &names, &policy).await?
        } else {
            let index = index.as_ref().map(|(index, _)| index);
            self.first_whole(selector, &names, (&policy, index)).await?
        };
        match model {
            Some(model) => Ok((model, Basis::listing(""))),
            None => Err(self.missing(&wish.words(), None).await),
        }
    }

    async fn first_published(
        &self,
        selector: &Selector,
        names: &[String],
        policy: &str,
    ) -> Result<Option<ModelVersion>> {
        for name in names {
            if let Some(published) = self.read_manifest(name).await? {
                return self.pin(selector, published, policy.into()).await.map(Some);
            }
        }
        Ok(None)
    }

    /// The first of the names whose folder holds a whole version. Where one of them has a marker,
    /// the others need one too: then their uploader writes it last.
    async fn first_whole(
        &self,
        selector: &Selector,
        names: &[String],
        (policy, index): (&str, Option<&Index>),
    ) -> Result<Option<ModelVersion>> {
        let (mut left_out, mut needs_mark) = (Vec::new(), None);
        for (at, name) in names.iter().enumerate() {
            let listed = self.list_files(name).await?;
            if listed.is_empty() {
                continue;
            }
            if Parts::sort(&listed).mark().is_none() {
                let needed = match needs_mark {
                    Some(known) => known,
                    None => self.any_is_marked(&names[at + 1..]).await?,
                };
                needs_mark = Some(needed);
                if needed {
                    left_out.push(format!("{name} (no marker, which other versions have)"));
                    continue;
                }
            }
            match self.examine(name, &listed, true).await? {
                Verdict::Whole(mut whole) => {
                    state(&mut whole, index, name).map_err(|why| self.bad_index(why))?;
                    let policy = format!("{policy}; {}{}", whole.how, omitted(&left_out));
                    return self.lock_folder(selector, name, whole, policy).map(Some);
                }
                Verdict::Partial(why) => left_out.push(format!("{name} ({why})")),
            }
        }
        if left_out.is_empty() {
            return Ok(None);
        }
        Err(self.incomplete("", &format!("no version is complete{}", omitted(&left_out))))
    }

    async fn any_is_marked(&self, names: &[String]) -> Result<bool> {
        let look = |name: String| async move {
            let listed = self.list_files(&name).await?;
            Ok::<_, Error>(Parts::sort(&listed).mark().is_some())
        };
        let names: Vec<String> = names.iter().take(LOOK_BACK).cloned().collect();
        let marked: Vec<bool> = stream::iter(names)
            .map(look)
            .buffered(LOOKUPS)
            .try_collect()
            .await?;
        Ok(marked.contains(&true))
    }

    /// The version in the folder of exactly this name.
    pub(crate) async fn exact_folder(
        &self,
        selector: &Selector,
        version: &str,
    ) -> Result<Option<Decided>> {
        let policy = "version: named exactly";
        if let Some(model) = self.folder_version(selector, version, policy).await? {
            return Ok(Some((model, Basis::listing(version))));
        }
        if !version.starts_with(super::single::PREFIX) {
            return Ok(None);
        }
        let single = self.single(selector, "version", true).await?;
        Ok(single
            .filter(|single| single.model.version() == version)
            .map(super::single::Single::decided))
    }

    /// The version in a folder; nothing when there is no such folder.
    ///
    /// # Errors
    /// `NotFound` for a version that is not whole, besides those of the store.
    pub(crate) async fn folder_version(
        &self,
        selector: &Selector,
        version: &str,
        policy: &str,
    ) -> Result<Option<ModelVersion>> {
        if OWN_FOLDERS.contains(&version) {
            return Ok(None);
        }
        let (listed, index) = futures::try_join!(self.list_files(version), self.index())?;
        if listed.is_empty() {
            return Ok(None);
        }
        match self.examine(version, &listed, true).await? {
            Verdict::Whole(mut whole) => {
                let index = index.as_ref().map(|(index, _)| index);
                state(&mut whole, index, version).map_err(|why| self.bad_index(why))?;
                let policy = format!("{policy}; {}", whole.how);
                self.lock_folder(selector, version, whole, policy).map(Some)
            }
            Verdict::Partial(why) => Err(self.incomplete(version, &why)),
        }
    }

    /// The highest version in folders that has this digest.
    pub(crate) async fn folder_by_digest(
        &self,
        selector: &Selector,
        (stock, digest): (&Stock, &str),
    ) -> Result<Option<Decided>> {
        for name in stock.names.iter().rev() {
            let listed: Vec<Listed> = self.list_files(name).await?;
            let mut whole = match self.examine(name, &listed, false).await {
                Ok(Verdict::Whole(whole)) => whole,
                // Another version may be the one, whatever is wrong with this.
                Ok(Verdict::Partial(_)) => continue,
                Err(error) if error.kind() == ErrorKind::Invalid => continue,
                Err(error) => return Err(error),
            };
            if let Shelf::Folders { index, .. } = &stock.shelf {
                let index = index.as_ref().map(|(index, _)| index);
                state(&mut whole, index, name).map_err(|why| self.bad_index(why))?;
            }
            if has_digest(&whole, digest) {
                let policy = format!("digest: highest version with it; {}", whole.how);
                let model = self.lock_folder(selector, name, whole, policy)?;
                return Ok(Some((model, Basis::listing(name))));
            }
        }
        Ok(None)
    }

    fn lock_folder(
        &self,
        selector: &Selector,
        version: &str,
        whole: Whole,
        policy: String,
    ) -> Result<ModelVersion> {
        lock(Lock {
            url: self.url().clone(),
            selector: selector.clone(),
            policy,
            version: version.to_owned(),
            tree_digest: tree_digest(&whole.files),
            total_size: whole.files.iter().map(|file| file.size).sum(),
            folder: Some(version.to_owned()),
            format: Some(whole.format),
            files: whole.files,
            metadata: std::collections::BTreeMap::new(),
        })
    }

    pub(crate) fn incomplete(&self, folder: &str, why: &str) -> Error {
        let detail = if folder.is_empty() {
            why.to_owned()
        } else {
            format!("the version is not complete: {why}")
        };
        Error::new(ErrorKind::NotFound, STAGE, self.name_of(folder), detail).with_hint(
            "wait for its upload to end; a file _SUCCESS or SHA256SUMS, written last, says so at once",
        )
    }

    fn bad_index(&self, why: String) -> Error {
        Error::invalid(STAGE, self.name_of(INDEX), why)
    }
}

/// Whether a digest is that of the tree, or of the one file in it.
pub(crate) fn has_digest(whole: &Whole, digest: &str) -> bool {
    let of_file = match whole.files.as_slice() {
        [file] => file.sha256.as_deref(),
        _ => None,
    };
    tree_digest(&whole.files) == digest
        || of_file.is_some_and(|sha| digest == format!("sha256:{sha}"))
}

/// Takes over what an index states of the one file of a version.
fn state(whole: &mut Whole, index: Option<&Index>, version: &str) -> Result<(), String> {
    let known = index.and_then(|index| index.get(version));
    let Some(stated) = known.and_then(|known| known.sha256.clone()) else {
        return Ok(());
    };
    let [file] = whole.files.as_mut_slice() else {
        return Err(format!(
            "it states the SHA-256 of version {version}, which has several files: put them into SHA256SUMS"
        ));
    };
    match &file.sha256 {
        Some(known) if *known != stated => Err(format!(
            "it states another SHA-256 of version {version} than the file beside it"
        )),
        _ => {
            (file.sha256, file.trust) = (Some(stated), Some(Trust::Sidecar));
            Ok(())
        }
    }
}

/// The versions that were left out, in words.
fn omitted(left_out: &[String]) -> String {
    let named = left_out[..left_out.len().min(NAMED)].join(", ");
    match left_out.len() {
        0 => String::new(),
        1..=NAMED => format!("; left out: {named}"),
        all => format!("; left out: {named} and {} more", all - NAMED),
    }
}
