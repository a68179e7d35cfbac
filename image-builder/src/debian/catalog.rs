//! Loads the package indexes of all sources: each verified from the signature down.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use futures::{FutureExt, StreamExt, TryStreamExt};
use lzma_rust2::XzReader;
use pgp::composed::CleartextSignedMessage;

use super::apt::{HINT, Source, Sources};
use super::count::Counter;
use super::fetch::{Expected, Fetcher, blocking, unreadable};
use super::index::Index;
use super::release::{IndexFile, Release};
use super::trust::{Keyring, SignedBy};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;

const STAGE: &str = "read package index";
const RELEASE_LIMIT: usize = 16 << 20;
/// Most memory the decoder of an index may take: what `xz -9` needs, and some more.
pub(super) const XZ_MEMORY_KIB: u32 = 128 << 10;
const PARALLEL: usize = 6;

/// An index in the cache, with the suite it belongs to.
struct Fetched {
    suite: String,
    rank: u8,
    name: String,
    path: PathBuf,
}

/// Reads the candidates for `architecture` from all sources.
pub(super) async fn load(
    fetcher: &Fetcher,
    sources: &Sources,
    architecture: &str,
    cache: &Path,
    progress: Progress<'_>,
) -> Result<Index> {
    // Owned sources and boxed futures: a stream of closures over borrowed sources is not `Send`
    // for every lifetime, and callers run this inside spawned tasks.
    let serving = sources
        .entries
        .iter()
        .filter(|source| source.serves(architecture))
        .cloned()
        .map(|source| {
            async move {
                let release = release(fetcher, sources, &source).await?;
                indexes(fetcher, &source, &release, (architecture, cache), progress).await
            }
            .boxed()
        })
        .collect::<Vec<_>>();
    let per_source: Vec<Vec<Fetched>> = futures::stream::iter(serving)
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    let all: Vec<Fetched> = per_source.into_iter().flatten().collect();
    if all.is_empty() {
        let detail = "no source has packages for this architecture";
        return Err(Error::new(ErrorKind::NotFound, STAGE, architecture, detail).with_hint(HINT));
    }
    let architecture = architecture.to_owned();
    blocking(move || parse(&all, &architecture)).await
}

/// Fetches and verifies the release of one source.
async fn release(fetcher: &Fetcher, sources: &Sources, source: &Source) -> Result<Release> {
    let path = |name: &str| format!("{}/{name}", source.directory());
    let fetched = fetcher
        .small(
            &source.url(path("InRelease").trim_start_matches('/'))?,
            RELEASE_LIMIT,
        )
        .await;
    let message = match fetched {
        Err(error)
            if error.kind() == ErrorKind::NotFound && source.signed_by == SignedBy::Nobody =>
        {
            fetcher
                .small(
                    &source.url(path("Release").trim_start_matches('/'))?,
                    RELEASE_LIMIT,
                )
                .await?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let detail = "the archive has no signed release (`InRelease`) for this suite";
            return Err(
                Error::new(ErrorKind::NotFound, "verify release", &source.suite, detail)
                    .with_hint("check the suite's name and the archive's address in the sources")
                    .with_source(error),
            );
        }
        other => other?,
    };
    let (source, machine, now) = (source.clone(), sources.machine_keys.clone(), sources.now);
    blocking(move || {
        let text = match source.signed_by {
            SignedBy::Nobody => unsigned_text(&message),
            _ => {
                Keyring::load(&source.signed_by, &machine)?.verify(&message, &source.suite, now)?
            }
        };
        let release = Release::parse(&text, &source.suite)?;
        release.check_name(&source.suite)?;
        if let Some(now) = now.filter(|_| source.check_time) {
            release.check_time(&source.suite, now)?;
        }
        Ok(release)
    })
    .await
}

/// The text of a release whose signature nobody asked for.
fn unsigned_text(message: &[u8]) -> String {
    match CleartextSignedMessage::from_armor(message) {
        Ok((signed, _)) => signed.signed_text(),
        Err(_) => String::from_utf8_lossy(message).into_owned(),
    }
}

/// Fetches the indexes of a release for (architecture) into the cache.
async fn indexes(
    fetcher: &Fetcher,
    source: &Source,
    release: &Release,
    (architecture, cache): (&str, &Path),
    progress: Progress<'_>,
) -> Result<Vec<Fetched>> {
    let mut found = Vec::new();
    for base in index_names(source, release, architecture) {
        let Some(file) = release.index(&base) else {
            continue;
        };
        let path = cache.join("index").join(&file.sha256);
        let expected = Expected {
            sha256: file.sha256.clone(),
            size: file.size,
        };
        let url = source.url(index_path(source, release, file).trim_start_matches('/'))?;
        let received = Counter::new(progress, &format!("{} {base}", source.suite), file.size);
        fetcher
            .file(&[url], &expected, &path, &|more| received.add(more))
            .await?;
        found.push(Fetched {
            suite: source.suite.clone(),
            rank: release.rank,
            name: file.path.clone(),
            path,
        });
    }
    Ok(found)
}

/// The names of the indexes to read, without compression suffix.
fn index_names(source: &Source, release: &Release, architecture: &str) -> Vec<String> {
    if source.suite.ends_with('/') {
        return vec!["Packages".to_owned()];
    }
    let mut architectures = vec![architecture];
    if release.separate_all {
        architectures.push("all");
    }
    let path = |component: &String, architecture: &str| {
        format!("{component}/binary-{architecture}/Packages")
    };
    source
        .components
        .iter()
        .flat_map(|component| {
            architectures
                .iter()
                .map(move |architecture| path(component, architecture))
        })
        .collect()
}

/// Where an index is: under its digest where the archive keeps it so, else under its name.
fn index_path(source: &Source, release: &Release, file: &IndexFile) -> String {
    let directory = source.directory();
    if release.by_hash {
        let parent = file
            .path
            .rsplit_once('/')
            .map_or(String::new(), |(parent, _)| format!("/{parent}"));
        format!("{directory}{parent}/by-hash/SHA256/{}", file.sha256)
    } else {
        format!("{directory}/{}", file.path)
    }
}

fn parse(all: &[Fetched], architecture: &str) -> Result<Index> {
    let mut index = Index::default();
    for one in all {
        let failed = |error| unreadable(STAGE, Path::new(&one.name), "it cannot be read", error);
        let file = File::open(&one.path).map_err(failed)?;
        let input = BufReader::with_capacity(256 << 10, decoded(file, &one.name));
        index
            .read(input, &one.suite, one.rank, architecture)
            .map_err(failed)?;
    }
    index.finish();
    Ok(index)
}

fn decoded(file: File, name: &str) -> Box<dyn Read> {
    let file = BufReader::new(file);
    match Path::new(name)
        .extension()
        .and_then(std::ffi::OsStr::to_str)
    {
        Some("xz") => Box::new(XzReader::new_mem_limit(file, true, XZ_MEMORY_KIB)),
        Some("gz") => Box::new(MultiGzDecoder::new(file)),
        _ => Box::new(file),
    }
}
