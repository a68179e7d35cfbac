//! What a base image's files are, read from its layers' headers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use tar::EntryType;

use crate::bridge;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::Layer;
use crate::path::{PATH_MAX, WHITEOUT, normalise, parents};
use crate::tar_read::{Member, Reader};

const READ: &str = "read base";
const RESOLVE: &str = "resolve path in base";
const OPAQUE: &str = ".wh..wh..opq";
/// The most symlinks followed on one way, as on Linux.
const MAX_LINKS: usize = 40;
/// The most bytes of names an index holds.
const MAX_NAMES: usize = 512 * 1024 * 1024;

/// One entry of a [`BaseTree`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BaseNode {
    /// What it is.
    pub kind: BaseKind,
    /// Its permission bits.
    pub mode: u32,
    /// The owner's numeric id.
    pub uid: u64,
    /// The group's numeric id.
    pub gid: u64,
}

/// What an entry of a [`BaseTree`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BaseKind {
    /// A directory.
    Dir,
    /// A regular file, or a hard link to one.
    File,
    /// A symbolic link with this target.
    Symlink(String),
    /// A device or pipe.
    Other,
}

/// The paths of an image and what is there, without contents.
///
/// ```
/// use modelship_image_builder::{BaseTree, Image, Layer, Result, Tree};
///
/// /// Puts a tree on top of a base without harm to the base's directories and links.
/// async fn with_tree(base: Image, tree: &Tree) -> Result<Image> {
///     let index = BaseTree::read(&base).await?;
///     Ok(base.with_layer(Layer::tree(tree.over(&index)?)?))
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct BaseTree {
    nodes: BTreeMap<String, BaseNode>,
    /// The bytes of all names ever added.
    names: usize,
}

impl BaseTree {
    /// Reads the index of an image: all its layers, from bottom to top, contents passed over.
    ///
    /// # Errors
    /// `Invalid` for an archive that is malformed or names something outside of the root,
    /// `Unsupported` for one with too many names, and what the layers' sources report.
    pub async fn read(image: &Image) -> Result<Self> {
        let mut base = Self::default();
        for layer in image.layers() {
            base = base.with_layer(layer).await?;
        }
        Ok(base)
    }

    /// The index with one more layer applied, whiteouts included.
    ///
    /// # Errors
    /// As [`BaseTree::read`].
    pub async fn with_layer(mut self, layer: &Layer) -> Result<Self> {
        let codec = Codec::of(&layer.media_type())?;
        let name = layer.history().to_owned();
        bridge::with_reader(layer.open(0), layer.history(), move |reader| {
            let mut members = Reader::new(codec.reader(reader));
            let broken = |e: io::Error| {
                let detail = "its archive cannot be read";
                Error::new(ErrorKind::Invalid, READ, name.clone(), detail).with_source(e)
            };
            let mut made = Made::default();
            while let Some(member) = members.next().map_err(broken)? {
                self.apply(&member, &mut made)?;
            }
            members.drain().map_err(broken)?;
            Ok(self)
        })
        .await
    }

    /// What is at `path`; links on the way are not followed.
    pub fn get(&self, path: &str) -> Option<&BaseNode> {
        self.nodes.get(normalise(path).ok()?)
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Applies one member of a layer that has `made` something before.
    fn apply(&mut self, member: &Member, made: &mut Made) -> Result<()> {
        let parts = parts(&member.path)?;
        if member.link.len() > PATH_MAX {
            return Err(hostile(
                &member.path,
                "its target is longer than 4096 bytes",
            ));
        }
        let Some((name, above)) = parts.split_last() else {
            return Ok(());
        };
        let dir = self.resolve(above, &member.path)?;
        if *name == OPAQUE {
            self.hide_below(&dir, made);
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            self.whiteout(&join(&dir, hidden), made);
            return Ok(());
        }
        let path = join(&dir, name);
        let kind = match member.kind {
            EntryType::Directory => BaseKind::Dir,
            EntryType::Symlink => BaseKind::Symlink(member.link.clone()),
            EntryType::Regular | EntryType::Continuous | EntryType::Link => BaseKind::File,
            _ => BaseKind::Other,
        };
        if kind != BaseKind::Dir {
            self.remove_below(&path, &BTreeSet::new());
        }
        let node = BaseNode {
            kind,
            mode: member.mode & 0o7777,
            uid: member.uid,
            gid: member.gid,
        };
        for parent in parents(&path) {
            if !self.nodes.contains_key(parent) {
                self.put(parent, &DIRECTORY)?;
            }
        }
        self.put(&path, &node)?;
        made.paths.insert(path);
        Ok(())
    }

    fn put(&mut self, path: &str, node: &BaseNode) -> Result<()> {
        self.names += path.len();
        if let BaseKind::Symlink(target) = &node.kind {
            self.names += target.len();
        }
        if self.names > MAX_NAMES {
            let detail = "the names in the image take more than 512 MiB";
            return Err(Error::new(ErrorKind::Unsupported, READ, path, detail));
        }
        self.nodes.insert(path.to_owned(), node.clone());
        Ok(())
    }

    /// Hides what lower layers put at `path`.
    fn whiteout(&mut self, path: &str, made: &mut Made) {
        if made.paths.contains(path) {
            return;
        }
        self.hide_below(path, made);
        if below(&self.nodes, path).next().is_none() {
            self.nodes.remove(path);
        }
    }

    /// Hides what lower layers put below `dir`. The second time in a layer there is none of it
    /// left, and a hostile layer gains nothing from asking often.
    fn hide_below(&mut self, dir: &str, made: &mut Made) {
        if made.hidden.insert(dir.to_owned()) {
            self.remove_below(dir, &made.paths);
        }
    }

    /// Removes what is below `dir`, but for `kept` and their parents.
    fn remove_below(&mut self, dir: &str, kept: &BTreeSet<String>) {
        let stays = |path: &str| {
            let inside = format!("{path}/");
            let mut next = kept.range(inside.clone()..);
            kept.contains(path) || next.next().is_some_and(|kept| kept.starts_with(&inside))
        };
        let gone: Vec<String> = below(&self.nodes, dir)
            .filter(|path| !stays(path))
            .cloned()
            .collect();
        for path in gone {
            self.nodes.remove(&path);
        }
    }

    /// The real path of the directory that `parts` name, with the root as `/`; what does not
    /// exist is taken for directories to be made. `object` is named in errors.
    pub(crate) fn resolve(&self, parts: &[&str], object: &str) -> Result<String> {
        let refuse = |detail: String| Error::new(ErrorKind::Conflict, RESOLVE, object, detail);
        let mut ahead: VecDeque<&str> = parts.iter().copied().collect();
        let mut at = String::new();
        let mut links = 0;
        while let Some(part) = ahead.pop_front() {
            if part == ".." {
                if at.is_empty() {
                    return Err(refuse("a symlink on its way leaves the root".to_owned()));
                }
                at.truncate(at.rfind('/').unwrap_or(0));
                continue;
            }
            let next = join(&at, part);
            match self.nodes.get(&next).map(|node| &node.kind) {
                None | Some(BaseKind::Dir) => at = next,
                Some(BaseKind::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(refuse("the symlinks on its way go in a circle".to_owned()));
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    let steps = target.split('/').filter(|step| !matches!(*step, "" | "."));
                    for step in steps.rev() {
                        ahead.push_front(step);
                    }
                }
                Some(_) => {
                    let detail = format!("`{next}` on its way is a file in the base");
                    return Err(refuse(detail).with_hint("choose another path, or another base"));
                }
            }
        }
        Ok(at)
    }
}

/// What a layer has done so far.
#[derive(Default)]
struct Made {
    paths: BTreeSet<String>,
    /// The directories below which nothing of lower layers is left.
    hidden: BTreeSet<String>,
}

/// What a directory is that no layer describes.
const DIRECTORY: BaseNode = BaseNode {
    kind: BaseKind::Dir,
    mode: 0o755,
    uid: 0,
    gid: 0,
};

pub(crate) fn join(dir: &str, name: &str) -> String {
    match dir {
        "" => name.to_owned(),
        dir => format!("{dir}/{name}"),
    }
}

/// The paths below `dir`; all of them for the root.
fn below<'a>(
    nodes: &'a BTreeMap<String, BaseNode>,
    dir: &str,
) -> impl Iterator<Item = &'a String> + use<'a> {
    let first = match dir {
        "" => String::new(),
        dir => format!("{dir}/"),
    };
    let inside = first.clone();
    let paths = nodes.range(first..).map(|(path, _)| path);
    paths.take_while(move |path| path.starts_with(&inside))
}

/// The names in a member's path; none for the root.
fn parts(path: &str) -> Result<Vec<&str>> {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if path.len() > PATH_MAX {
        return Err(hostile(
            path,
            "a name in its archive is longer than 4096 bytes",
        ));
    }
    if path.starts_with('/') || parts.contains(&"..") {
        let detail = "a name in its archive is absolute or has `..` in it";
        return Err(hostile(path, detail));
    }
    Ok(parts)
}

fn hostile(path: &str, detail: &str) -> Error {
    let shown: String = path.chars().take(200).collect();
    Error::new(ErrorKind::Invalid, READ, shown, detail)
        .with_hint("the layer is broken or hostile; do not use its image")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::platform::Platform;
    use crate::stream::of_bytes;
    use bytes::Bytes;
    use oci_spec::image::MediaType;

    fn header(kind: EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(0);
        header.set_uid(7);
        header.set_gid(8);
        header
    }

    /// A layer with these entries: a name that ends in `/` is a directory, `a>b` a link to b.
    fn layer(entries: &[&str]) -> Layer {
        let mut builder = tar::Builder::new(Vec::new());
        for entry in entries {
            if let Some((name, target)) = entry.split_once('>') {
                let mut header = header(EntryType::Symlink, 0o777);
                builder.append_link(&mut header, name, target).unwrap();
                continue;
            }
            let mut header = if entry.ends_with('/') {
                header(EntryType::Directory, 0o1750)
            } else {
                header(EntryType::Regular, 0o600)
            };
            builder
                .append_data(&mut header, entry, io::empty())
                .unwrap();
        }
        let bytes = Bytes::from(builder.into_inner().unwrap());
        let digest = crate::hash::digest(&bytes);
        let descriptor =
            crate::Descriptor::new(MediaType::ImageLayer, bytes.len() as u64, digest.clone());
        Layer::known(descriptor, digest, move |from| of_bytes(&bytes, from))
    }

    pub(crate) async fn base(layers: &[&[&str]]) -> BaseTree {
        let scratch = Image::scratch(&Platform::linux("amd64").unwrap());
        let image = layers
            .iter()
            .fold(scratch, |image, entries| image.with_layer(layer(entries)));
        BaseTree::read(&image).await.unwrap()
    }

    fn paths(base: &BaseTree) -> Vec<&str> {
        base.nodes.keys().map(String::as_str).collect()
    }

    #[tokio::test]
    async fn layers_are_applied_with_their_whiteouts() {
        let base = base(&[
            &[
                "./",
                "usr/",
                "usr/lib/",
                "lib>usr/lib",
                "usr/lib/a",
                "etc/x",
                "opt/p/q",
                "b",
            ],
            &[
                "lib/c",
                "etc/.wh.x",
                "opt/.wh..wh..opq",
                "opt/new",
                ".wh.b",
                ".wh.none",
            ],
            &["usr/lib/.wh.a", "etc", "usr/.wh.share"],
        ])
        .await;
        let expected = [
            "etc",
            "lib",
            "opt",
            "opt/new",
            "usr",
            "usr/lib",
            "usr/lib/c",
        ];
        assert_eq!(paths(&base), expected);
        assert_eq!(base.get("/etc").unwrap().kind, BaseKind::File);
        let lib = base.get("usr/lib").unwrap();
        assert_eq!((lib.mode, lib.uid, lib.gid), (0o1750, 7, 8));
        assert_eq!(base.get("opt").unwrap(), &DIRECTORY);
    }

    #[tokio::test]
    async fn a_whiteout_spares_what_its_own_layer_brings() {
        let base = base(&[
            &["d/old", "d/sub/old"],
            &["d/sub/new", ".wh.d", "e", ".wh.e"],
        ])
        .await;
        assert_eq!(paths(&base), ["d", "d/sub", "d/sub/new", "e"]);
    }

    #[tokio::test]
    async fn a_name_outside_of_the_root_is_refused() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = header(EntryType::Regular, 0o644);
        header.as_old_mut().name[..5].copy_from_slice(b"../up");
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
        let bytes = Bytes::from(builder.into_inner().unwrap());
        let digest = crate::hash::digest(&bytes);
        let stated =
            crate::Descriptor::new(MediaType::ImageLayer, bytes.len() as u64, digest.clone());
        let layer = Layer::known(stated, digest, move |from| of_bytes(&bytes, from));
        let error = BaseTree::default().with_layer(&layer).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
