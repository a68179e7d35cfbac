//! What an archive holds and where, found by reading headers only.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tar::EntryType;

use super::{DOCKER, INDEX, invalid};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::MARKER;
use crate::manifest::MAX_JSON;
use crate::store::Place;
use crate::stream::{collect, of_file};
use crate::tar_read::{Member, Reader};

const STAGE: &str = "read archive";

/// The most members, bytes of all names together, and links followed from one member.
const MAX_MEMBERS: usize = 100_000;
const MAX_NAMES: usize = 16 * 1024 * 1024;
const MAX_LINKS: usize = 8;

/// The members of an archive by their normalised names.
#[derive(Clone, Debug)]
pub(super) struct Table {
    path: PathBuf,
    members: Arc<HashMap<String, Entry>>,
}

#[derive(Debug)]
enum Entry {
    File {
        offset: u64,
        len: u64,
    },
    /// Another name of the member of this name.
    Link(String),
}

impl Table {
    /// Reads the headers of the archive at `path`. Blocking.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let io = |e| Error::io(STAGE, path, "cannot read the archive", e);
        let mut file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        let object = path.display().to_string();
        if !meta.is_file() {
            return Err(invalid(object, "it is not a file"));
        }
        if let Some(codec) = compressed(&mut file).map_err(io)? {
            let detail = format!("the archive as a whole is compressed with {codec}");
            let error = Error::new(ErrorKind::Unsupported, STAGE, object, detail);
            return Err(error.with_hint("decompress it first; its layers may be compressed"));
        }
        let mut reader = Reader::seeking(BufReader::new(file));
        let mut found = Found {
            members: HashMap::new(),
            names: 0,
            len: meta.len(),
        };
        loop {
            let member = reader.next().map_err(|e| {
                invalid(object.clone(), "it is not a tar archive, or a damaged one").with_source(e)
            })?;
            let Some(member) = member else { break };
            let offset = reader.position();
            found
                .add(&member, offset)
                .map_err(|why| invalid(object.clone(), why))?;
        }
        Ok(Self {
            path: path.to_owned(),
            members: Arc::new(found.members),
        })
    }

    /// The archive's path, for errors.
    pub(super) fn object(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether the archive holds an OCI layout.
    pub(super) fn is_oci(&self) -> bool {
        self.has(INDEX) && self.has(MARKER)
    }

    /// Whether there is a member of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Where the file of this name lies; links are followed inside the archive.
    pub(super) fn find(&self, name: &str) -> Result<Place> {
        let normal = resolve("", name).unwrap_or_default();
        let mut name = normal.as_str();
        for _ in 0..MAX_LINKS {
            match self.members.get(name) {
                Some(Entry::File { offset, len }) => {
                    return Ok(Place {
                        path: self.path.clone(),
                        offset: *offset,
                        len: Some(*len),
                    });
                }
                Some(Entry::Link(to)) => name = to,
                None => break,
            }
        }
        let detail = format!("the archive has no file `{name}`");
        let error = Error::new(ErrorKind::NotFound, STAGE, self.object(), detail);
        Err(if self.has(INDEX) || self.has(DOCKER) {
            error
        } else {
            error.with_hint("name an OCI archive, or one of `docker save`")
        })
    }

    /// The bytes of a small file.
    pub(super) async fn small(&self, name: &str) -> Result<Bytes> {
        let place = self.find(name)?;
        let len = place.len.unwrap_or_default();
        if len > MAX_JSON {
            let detail = format!("`{name}` is larger than 4 MiB");
            return Err(invalid(self.object(), detail));
        }
        collect(of_file(place.path, place.offset, len), MAX_JSON, name).await
    }
}

struct Found {
    members: HashMap<String, Entry>,
    names: usize,
    len: u64,
}

impl Found {
    fn add(&mut self, member: &Member, offset: u64) -> Result<(), &'static str> {
        let entry = match member.kind {
            EntryType::Regular | EntryType::Continuous => {
                let end = offset.checked_add(member.size);
                if end.is_none_or(|end| end > self.len) {
                    return Err("it ends inside a member");
                }
                Entry::File {
                    offset,
                    len: member.size,
                }
            }
            // From the folder of the link, as Docker wrote the layers that images share.
            EntryType::Symlink => {
                let folder = member
                    .path
                    .rsplit_once('/')
                    .map_or("", |(folder, _)| folder);
                Entry::Link(resolve(folder, &member.link).ok_or("a link leads out of it")?)
            }
            EntryType::Link => {
                Entry::Link(resolve("", &member.link).ok_or("a link leads out of it")?)
            }
            _ => return Ok(()),
        };
        let name = resolve("", &member.path).ok_or("a name leads out of it")?;
        self.names += name.len() + member.link.len();
        if self.names > MAX_NAMES {
            return Err("the names in it are longer than 16 MiB together");
        }
        // Readers differ in which of two members of one name they take.
        if self.members.insert(name, entry).is_some() {
            return Err("a name occurs twice");
        }
        if self.members.len() > MAX_MEMBERS {
            return Err("it has more than 100 000 members");
        }
        Ok(())
    }
}

/// `name` as seen from `folder`, normalised; `None` if it leads out of the archive.
fn resolve(folder: &str, name: &str) -> Option<String> {
    if name.starts_with('/') {
        return None;
    }
    let mut parts = Vec::new();
    for part in folder.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The name of the compression a file starts with, if any; the file is rewound.
fn compressed(file: &mut File) -> io::Result<Option<&'static str>> {
    let mut first = Vec::new();
    file.by_ref().take(6).read_to_end(&mut first)?;
    file.rewind()?;
    Ok(codec_of(&first))
}

/// The name of the compression that bytes start with.
pub(super) fn codec_of(first: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 4] = [
        (b"\x1f\x8b", "gzip"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
    ];
    let found = known.iter().find(|(magic, _)| first.starts_with(magic));
    found.map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        assert_eq!(resolve("a/b", "../c/layer.tar").unwrap(), "a/c/layer.tar");
        assert_eq!(resolve("", "./x//y/").unwrap(), "x/y");
        assert!(resolve("a", "../../x").is_none());
        assert!(resolve("", "/etc/passwd").is_none());
    }
}
