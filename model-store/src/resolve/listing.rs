//! Listings: what is below a folder, bounded, without folder markers, with odd keys named.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::{Attribute, GetOptions, ObjectMeta};
use sha2::{Digest as _, Sha256};

use super::{LATEST, LOOKUPS, STAGE};
use crate::cause::find;
use crate::error::{Error, ErrorKind, Result};
use crate::store::ModelStore;
use crate::store_url::Scheme;

/// Folders of the layout that this crate publishes, which are no versions.
pub(crate) const OWN_FOLDERS: [&str; 6] = [
    "versions",
    "aliases",
    "history",
    "holds",
    "removing",
    "retracted",
];
/// Files of that layout beside them.
const OWN_FILES: [&str; 2] = [LATEST, ".lock"];
/// The most objects whose tags go into a fingerprint.
const MAX_FINGERPRINT: usize = 1_000_000;

/// An object below a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The path below the folder.
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) etag: Option<String>,
    pub(crate) modified: DateTime<Utc>,
}

/// One level of the model's own folder.
#[derive(Debug, Default)]
pub(crate) struct Top {
    pub(crate) folders: BTreeSet<String>,
    pub(crate) files: Vec<Listed>,
}

impl Listed {
    fn new(path: &str, meta: ObjectMeta, scheme: Scheme) -> Self {
        let etag = meta.e_tag;
        Self {
            path: path.to_owned(),
            size: meta.size,
            etag: match scheme {
                Scheme::Azure => etag.map(quoted),
                _ => etag,
            },
            modified: meta.last_modified,
        }
    }
}

/// A tag as headers have it (RFC 9110, section 8.8.3). Lists of Azure leave the quotes out (List
/// Blobs, `Etag`).
fn quoted(tag: String) -> String {
    if tag.ends_with('"') {
        tag
    } else {
        format!("\"{tag}\"")
    }
}

/// `path` inside `folder`, either of which may be empty.
pub(crate) fn below(folder: &str, path: &str) -> String {
    match (folder, path) {
        ("", path) => path.to_owned(),
        (folder, "") => folder.to_owned(),
        _ => format!("{folder}/{path}"),
    }
}

/// The first difference between two listings, in words.
pub(crate) fn difference(before: &[Listed], after: &[Listed]) -> Option<String> {
    let find = |list: &[Listed], path: &str| {
        let at = list.binary_search_by(|file| file.path.as_str().cmp(path));
        at.ok().map(|at| list[at].clone())
    };
    for file in before {
        match find(after, &file.path) {
            None => return Some(format!("{:?} was removed", file.path)),
            Some(now) if now != *file => return Some(format!("{:?} was replaced", file.path)),
            Some(_) => {}
        }
    }
    let mut new = after
        .iter()
        .filter(|file| find(before, &file.path).is_none());
    new.next().map(|file| format!("{:?} was added", file.path))
}

impl ModelStore {
    /// Every object below `folder`, sorted by path, without folder markers.
    pub(crate) async fn list_files(&self, folder: &str) -> Result<Vec<Listed>> {
        let prefix = self.key(folder)?;
        let limits = self.resolving();
        let mut listing = self.objects().list(Some(&prefix));
        let (mut files, mut bytes) = (Vec::new(), 0_u64);
        while let Some(meta) = self.next_listed(&mut listing, folder).await? {
            let location = meta.location.clone();
            let Some(path) = inside(location.as_ref(), prefix.as_ref()) else {
                continue;
            };
            let file = Listed::new(path, meta, self.url().scheme());
            bytes = bytes.saturating_add(file.size);
            files.push(file);
            if files.len() > limits.max_files || bytes > limits.max_bytes {
                return Err(self.too_much(folder));
            }
        }
        self.without_folders(folder, files).await
    }

    /// What is in the model's own folder, one level deep.
    pub(crate) async fn top(&self) -> Result<Top> {
        let prefix = self.key("")?;
        let listed = match self.objects().list_with_delimiter(Some(&prefix)).await {
            Ok(listed) => listed,
            Err(error) => {
                return self.list_failed("", &error).map(|()| Top::default());
            }
        };
        let folders = listed.common_prefixes.iter();
        let folders = folders.filter_map(|path| inside(path.as_ref(), prefix.as_ref()));
        let scheme = self.url().scheme();
        let files = listed.objects.into_iter().filter_map(|meta| {
            let location = meta.location.clone();
            inside(location.as_ref(), prefix.as_ref()).map(|path| Listed::new(path, meta, scheme))
        });
        let folders: BTreeSet<String> = folders.map(str::to_owned).collect();
        // A marker of a folder, whose slash at the end is not shown.
        let files = files.filter(|file| file.size > 0 || !folders.contains(&file.path));
        let files = self.without_folders("", files.collect()).await?;
        let mut top = Top { folders, files };
        // What this crate keeps beside versions is no model, also when there are none (any more).
        if top
            .files
            .iter()
            .all(|file| OWN_FILES.contains(&file.path.as_str()))
        {
            top.files.clear();
            let own = |folder: &String| OWN_FOLDERS.contains(&folder.as_str());
            top.folders.retain(|folder| !own(folder));
        }
        Ok(top)
    }

    /// A digest of what decides a selection below `folder`: one list request for each thousand
    /// objects, and no other. Files of versions that this crate published are left out: their
    /// manifests speak for them.
    pub(crate) async fn fingerprint(&self, folder: &str) -> Result<String> {
        let prefix = self.key(folder)?;
        let mut listing = self.objects().list(Some(&prefix));
        let mut lines: Vec<[u8; 32]> = Vec::new();
        while let Some(meta) = self.next_listed(&mut listing, folder).await? {
            let path = inside(meta.location.as_ref(), prefix.as_ref()).unwrap_or_default();
            if folder.is_empty() && is_upload(path) {
                continue;
            }
            if lines.len() >= MAX_FINGERPRINT {
                return Err(self.too_much(folder));
            }
            let etag = meta.e_tag.unwrap_or_default();
            let line = format!("{path}\n{} {etag} {}\n", meta.size, meta.last_modified);
            lines.push(Sha256::digest(line).into());
        }
        // Stores give their own order, or none.
        lines.sort_unstable();
        Ok(hex::encode(Sha256::digest(lines.concat())))
    }

    /// Drops the empty objects that only stand for a folder: `name/`, whose slash the listing does
    /// not show, and `name` with the mark of the Hadoop driver.
    async fn without_folders(&self, folder: &str, mut files: Vec<Listed>) -> Result<Vec<Listed>> {
        files.sort_by(|a, b| a.path.cmp(&b.path).then(b.size.cmp(&a.size)));
        files.dedup_by(|next, kept| next.path == kept.path && next.size == 0);
        let folders: BTreeSet<String> = files
            .iter()
            .filter_map(|file| file.path.rsplit_once('/'))
            .flat_map(|(folder, _)| ancestors(folder))
            .collect();
        files.retain(|file| file.size > 0 || !folders.contains(&file.path));
        if !matches!(self.url().scheme(), Scheme::S3 | Scheme::Azure) {
            return Ok(files);
        }
        let looked = files.into_iter().map(|file| async move {
            let is_file = file.size > 0 || self.is_file(&below(folder, &file.path)).await?;
            Ok::<_, Error>(is_file.then_some(file))
        });
        let looked = stream::iter(looked).buffered(LOOKUPS);
        looked
            .try_filter_map(|file| async { Ok(file) })
            .try_collect()
            .await
    }

    /// Whether an empty object is a file: it is there under exactly this name, and is not marked
    /// as a folder.
    async fn is_file(&self, path: &str) -> Result<bool> {
        let head = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match self.objects().get_opts(&self.key(path)?, head).await {
            Ok(found) => Ok(!is_folder_mark(&found.attributes)),
            Err(error) => self.missing_or(STAGE, path, &error).map(|()| false),
        }
    }

    /// The next object of a listing of `folder`; none where there is nothing to list.
    async fn next_listed(
        &self,
        listing: &mut BoxStream<'static, object_store::Result<ObjectMeta>>,
        folder: &str,
    ) -> Result<Option<ObjectMeta>> {
        match listing.try_next().await {
            Ok(next) => Ok(next),
            Err(error) => self.list_failed(folder, &error).map(|()| None),
        }
    }

    /// `Ok` when there is nothing to list; else what is wrong, with the key that is.
    pub(crate) fn list_failed(&self, folder: &str, error: &object_store::Error) -> Result<()> {
        let Some(odd) = find::<object_store::path::Error>(error) else {
            return self.missing_or(STAGE, folder, error);
        };
        let detail = format!("an object has a key that no file can have: {odd}");
        Err(Error::invalid(STAGE, self.name_of(folder), detail)
            .with_hint("rename or remove that object, or move the model to a folder of its own"))
    }

    fn too_much(&self, folder: &str) -> Error {
        let limits = self.resolving();
        let detail = format!(
            "it has more than {} objects or {} bytes",
            limits.max_files, limits.max_bytes
        );
        Error::new(ErrorKind::Invalid, STAGE, self.name_of(folder), detail)
            .with_hint("correct the url, or raise the limits of ResolveOptions")
    }
}

/// Whether the attributes of an object say that it stands for a folder.
pub(crate) fn is_folder_mark(attributes: &object_store::Attributes) -> bool {
    let mark = Attribute::Metadata("hdi_isfolder".into());
    attributes
        .get(&mark)
        .is_some_and(|value| value.as_ref() == "true")
}

/// The path inside `prefix`; none for the prefix itself and for what is beside it.
fn inside<'a>(location: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = location.strip_prefix(prefix)?;
    let rest = if prefix.is_empty() {
        rest
    } else {
        rest.strip_prefix('/')?
    };
    (!rest.is_empty()).then_some(rest)
}

/// A folder and those around it: `a/b`, `a`.
fn ancestors(folder: &str) -> Vec<String> {
    let ends = folder.match_indices('/').map(|(at, _)| at);
    let ends = ends.chain([folder.len()]);
    ends.map(|end| folder[..end].to_owned()).collect()
}

/// Whether a path of this crate's layout decides nothing: the files of a version, and the claim
/// on one.
fn is_upload(path: &str) -> bool {
    let Some((_, rest)) = path
        .strip_prefix("versions/")
        .and_then(|rest| rest.split_once('/'))
    else {
        return path == ".lock";
    };
    rest == "claim.json" || rest.starts_with("files/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> Listed {
        Listed {
            path: path.into(),
            size,
            etag: None,
            modified: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn differences_are_named() {
        let before = [file("a", 1), file("b", 2)];
        for (after, what) in [
            (vec![file("a", 1), file("b", 2)], None),
            (vec![file("a", 1)], Some("\"b\" was removed")),
            (vec![file("a", 1), file("b", 3)], Some("\"b\" was replaced")),
            (
                vec![file("a", 1), file("b", 2), file("c", 0)],
                Some("\"c\" was added"),
            ),
        ] {
            assert_eq!(difference(&before, &after).as_deref(), what);
        }
    }

    #[test]
    fn paths_inside_a_folder() {
        assert_eq!(inside("m/a/b", "m"), Some("a/b"));
        assert_eq!(inside("m-other/a", "m"), None);
        assert_eq!(inside("m", "m"), None);
        assert_eq!(inside("a", ""), Some("a"));
        assert_eq!(ancestors("a/b/c"), ["a", "a/b", "a/b/c"]);
        assert_eq!(
            (below("", "a"), below("f", ""), below("f", "a")),
            ("a".into(), "f".into(), "f/a".into())
        );
        for (path, upload) in [
            ("versions/1/files/a", true),
            ("versions/1/claim.json", true),
            ("versions/1/manifest.json", false),
            ("latest.json", false),
            ("1/a", false),
        ] {
            assert_eq!(is_upload(path), upload, "{path}");
        }
    }
}
