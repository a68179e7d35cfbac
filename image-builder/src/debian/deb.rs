//! Turns a `.deb` into an uncompressed archive on disk and a list of what is in it (deb(5)).
//!
//! File contents stay in that archive: the tree refers to them by offset and length.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tar::EntryType;

use super::ar;
use super::catalog::XZ_MEMORY_KIB;
use super::fetch::{copy_hashed, keep, temporary, unreadable};
use crate::error::{Error, ErrorKind, Result};
use crate::path::normalise;

const STAGE: &str = "unpack package";
/// Most bytes a package may unpack to, so that a small file cannot fill the disk.
const UNPACKED_LIMIT: u64 = 8 << 30;
const CONTROL_LIMIT: u64 = 1 << 20;
const ZSTD_WINDOW_LIMIT: u64 = 128 << 20;

/// A package whose contents lie uncompressed on disk.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The archive file contents are ranges of.
    pub(super) tar: PathBuf,
    /// The text of its `control` file.
    pub(super) control: String,
    /// What it installs, in the order of the archive.
    pub(super) entries: Vec<Entry>,
}

/// One thing a package installs.
#[derive(Debug)]
pub(super) struct Entry {
    /// Normalised: relative, without `.` and `..`.
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) kind: Kind,
}

/// What an entry is.
#[derive(Debug)]
pub(super) enum Kind {
    /// A range of the archive.
    File {
        offset: u64,
        len: u64,
    },
    Dir,
    Symlink(String),
    /// The normalised path of another entry of the same package.
    Hardlink(String),
}

/// What is kept beside the archive, to tell a whole one from a damaged one.
#[derive(Serialize, Deserialize)]
struct Notes {
    sha256: String,
    size: u64,
    control: String,
}

/// Finds the package with digest `sha256` already unpacked in `dir`; `None` when it is not there
/// or damaged.
pub(super) fn load(dir: &Path, sha256: &str) -> Result<Option<Unpacked>> {
    let (tar, notes) = (
        dir.join(format!("{sha256}.tar")),
        dir.join(format!("{sha256}.json")),
    );
    let Ok(notes) = std::fs::read(notes) else {
        return Ok(None);
    };
    let Ok(notes) = serde_json::from_slice::<Notes>(&notes) else {
        return Ok(None);
    };
    let Ok(file) = File::open(&tar) else {
        return Ok(None);
    };
    if file.metadata().map_or(0, |meta| meta.len()) != notes.size {
        return Ok(None);
    }
    let mut input = Hashed {
        input: BufReader::with_capacity(128 << 10, file),
        hasher: Sha256::new(),
    };
    let entries = entries(&mut input, &tar);
    let rest = io::copy(&mut input, &mut io::sink());
    if rest.is_err() || hex::encode(input.hasher.finalize()) != notes.sha256 {
        return Ok(None);
    }
    Ok(Some(Unpacked {
        tar,
        control: notes.control,
        entries: entries?,
    }))
}

/// Unpacks the file `deb`, whose digest is `sha256`, into `dir`.
pub(super) fn unpack(deb: &Path, dir: &Path, sha256: &str) -> Result<()> {
    let broken = |error| unreadable(STAGE, deb, "it is not a well-formed package", error);
    let file = File::open(deb).map_err(broken)?;
    let mut archive = ar::Archive::open(BufReader::new(file)).map_err(broken)?;
    let mut control = None;
    while let Some(name) = archive.next().map_err(broken)? {
        if let Some(suffix) = name.strip_prefix("control.tar") {
            control = Some(read_control(decoded(&mut archive, suffix, deb)?).map_err(broken)?);
        } else if let Some(suffix) = name.strip_prefix("data.tar") {
            let control = control.take().ok_or_else(|| missing(deb, "control.tar"))?;
            return write(decoded(&mut archive, suffix, deb)?, dir, sha256, control);
        }
    }
    Err(missing(deb, "data.tar"))
}

fn missing(deb: &Path, member: &str) -> Error {
    let detail = format!("it has no {member}");
    Error::new(ErrorKind::Invalid, STAGE, deb.display().to_string(), detail)
}

/// Writes the data archive, then the notes that declare it whole.
fn write(data: impl Read, dir: &Path, sha256: &str, control: String) -> Result<()> {
    let (tar, notes) = (
        dir.join(format!("{sha256}.tar")),
        dir.join(format!("{sha256}.json")),
    );
    let mut part = temporary(&tar)?;
    let mut hasher = Sha256::new();
    let mut output = BufWriter::with_capacity(128 << 10, part.as_file_mut());
    let size = copy_hashed(&mut data.take(UNPACKED_LIMIT), &mut output, &mut hasher)
        .and_then(|size| io::Write::flush(&mut output).map(|()| size))
        .map_err(|error| unreadable(STAGE, &tar, "the package's data cannot be unpacked", error))?;
    drop(output);
    if size == UNPACKED_LIMIT {
        return Err(Error::new(
            ErrorKind::Unsupported,
            STAGE,
            sha256,
            "it unpacks to more than 8 GiB",
        ));
    }
    keep(part, &tar)?;
    let text = Notes {
        sha256: hex::encode(hasher.finalize()),
        size,
        control,
    };
    let mut part = temporary(&notes)?;
    serde_json::to_writer(&mut part, &text)
        .map_err(|error| Error::io(STAGE, &notes, "cannot write", error.into()))?;
    keep(part, &notes)
}

fn decoded<'a>(input: impl Read + 'a, suffix: &str, deb: &Path) -> Result<Box<dyn Read + 'a>> {
    let input = BufReader::with_capacity(64 << 10, input);
    Ok(match suffix {
        "" => Box::new(input),
        ".xz" => Box::new(XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB)),
        ".gz" => Box::new(MultiGzDecoder::new(input)),
        ".zst" => {
            let decoder = StreamingDecoder::new_with_max_window_size(input, ZSTD_WINDOW_LIMIT);
            Box::new(decoder.map_err(|error| {
                let object = deb.display().to_string();
                Error::new(
                    ErrorKind::Invalid,
                    STAGE,
                    object,
                    "its zstd data is malformed",
                )
                .with_source(error.to_string())
            })?)
        }
        other => {
            let detail = format!("its data is compressed as `{other}`");
            return Err(Error::new(
                ErrorKind::Unsupported,
                STAGE,
                deb.display().to_string(),
                detail,
            ));
        }
    })
}

fn read_control(input: impl Read) -> io::Result<String> {
    let mut archive = tar::Archive::new(input.take(16 * CONTROL_LIMIT));
    for entry in archive.entries()? {
        let entry = entry?;
        if matches!(&*entry.path_bytes(), b"./control" | b"control") {
            let mut text = String::new();
            entry.take(CONTROL_LIMIT).read_to_string(&mut text)?;
            return Ok(text);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "it has no control file",
    ))
}

/// Lists an archive, leaving out devices and pipes: a container runtime provides its own.
fn entries(input: &mut impl Read, tar: &Path) -> Result<Vec<Entry>> {
    let broken = |error| unreadable(STAGE, tar, "its archive is malformed", error);
    let mut archive = tar::Archive::new(input);
    let mut found = Vec::new();
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let name = text(&entry.path_bytes(), tar)?;
        if matches!(name.as_str(), "." | "./" | "/") {
            continue;
        }
        let target = || match entry.link_name_bytes() {
            Some(target) => text(&target, tar),
            None => Err(invalid(tar, &name, "it is a link to nothing")),
        };
        let kind = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => Kind::File {
                offset: entry.raw_file_position(),
                len: entry.size(),
            },
            EntryType::Directory => Kind::Dir,
            EntryType::Symlink => Kind::Symlink(target()?),
            EntryType::Link => Kind::Hardlink(normalise(&target()?)?.to_owned()),
            EntryType::Char | EntryType::Block | EntryType::Fifo | EntryType::XGlobalHeader => {
                continue;
            }
            _ => return Err(invalid(tar, &name, "it is of a kind packages do not have")),
        };
        // Set-id bits would let a process in the container become someone else.
        let mode = entry.header().mode().map_err(broken)? & 0o1777;
        found.push(Entry {
            path: normalise(&name)?.to_owned(),
            mode,
            kind,
        });
    }
    Ok(found)
}

fn text(bytes: &[u8], tar: &Path) -> Result<String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|error| invalid(tar, &error.to_string(), "a path is not UTF-8"))
}

fn invalid(tar: &Path, name: &str, detail: &str) -> Error {
    let detail = format!("`{}`: {detail}", name.chars().take(120).collect::<String>());
    Error::new(ErrorKind::Invalid, STAGE, tar.display().to_string(), detail)
}

struct Hashed<R> {
    input: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
