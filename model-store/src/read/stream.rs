//! What the reader sees: pieces in order, each file verified before its last one.

use std::sync::Arc;

use async_stream::try_stream;
use futures::Stream;

use crate::error::{Error, ErrorKind, Result};
use crate::model::Trust;
use crate::read::check::{Check, Found};
use crate::read::fetch::Arrived;
use crate::read::meter::Meter;
use crate::read::options::Piece;
use crate::read::patience::Patience;
use crate::read::plan::{Issued, Plan};
use crate::read::source::Source;
use crate::transport::Stated;

/// The pieces of all files of `plan`. `digests` when the SHA-256 of every file is wanted, also
/// where there is none to compare it with.
pub(super) fn pieces(
    plan: Plan,
    digests: bool,
) -> impl Stream<Item = Result<Piece>> + Send + 'static {
    try_stream! {
        let plan = Arc::new(plan);
        let (mut issued, _issuing) = plan.start();
        let total = plan.sources.iter().map(|source| source.size).sum();
        let mut meter = Meter::new(plan.options.progress.clone(), plan.from, total);
        for (file, source) in plan.sources.iter().enumerate() {
            let from = if file == 0 { plan.from } else { 0 };
            let mut at = from;
            let mut watched = None;
            while at < source.size || (watched.is_none() && source.size == 0) {
                let mut part = next(issued.recv().await, source)?;
                plan.awaits(part.number);
                if watched.is_none() {
                    let stated = head(&mut part, source).await?;
                    let first = First { from, stated, whole: part.range == (0..source.size) };
                    watched = Some(Watched::new(&plan, source, first, digests).await?);
                }
                while let Some(arrived) = part.arriving.recv().await {
                    let Arrived::Chunk(bytes) = arrived? else { continue };
                    let length = bytes.len() as u64;
                    at += length;
                    if let Some(watched) = &watched {
                        watched.add(&bytes).await;
                    }
                    if at == source.size && let Some(watched) = &mut watched {
                        watched.verify(source).await?;
                    }
                    meter.moved(&source.name, length);
                    yield Piece::Chunk { file, bytes };
                    plan.release(length);
                }
                if at != part.range.end {
                    Err(ended(source))?;
                }
                plan.release_rest(&part.range);
            }
            if let Some(watched) = watched {
                let outcome = watched.outcome(source).await?;
                if let Some((sha256, trust)) = outcome {
                    yield Piece::End { file, sha256, trust };
                }
            }
        }
    }
}

fn next(issued: Option<Issued>, source: &Source) -> Result<Issued> {
    issued.ok_or_else(|| ended(source))
}

fn ended(source: &Source) -> Error {
    source.error(ErrorKind::Io, "the reading task ended")
}

/// What the store states, which is the first thing that comes of the first part.
async fn head(part: &mut Issued, source: &Source) -> Result<Option<Stated>> {
    match part.arriving.recv().await {
        Some(Ok(Arrived::Stated(stated))) => Ok(stated),
        Some(Err(error)) => Err(error),
        Some(Ok(Arrived::Chunk(_))) | None => Err(ended(source)),
    }
}

/// The first part of a file.
struct First {
    from: u64,
    stated: Option<Stated>,
    whole: bool,
}

/// What is watched over while a file is given out.
struct Watched {
    check: Option<Check>,
    found: Option<Found>,
    trust: Trust,
}

impl Watched {
    /// Finds out who vouches for the file, and whether that is enough.
    async fn new(plan: &Plan, source: &Source, first: First, digests: bool) -> Result<Self> {
        let known = source.known.as_ref().map(|(_, trust)| *trust);
        let require = plan.options.require;
        // The lock's digest is enough, unless someone more trusted is asked for.
        let enough = known.is_some_and(|trust| require.is_none_or(|least| trust >= least));
        let mut stated = first.stated.filter(|_| !enough);
        let wanted = !enough && (first.from == 0 || require.is_some());
        if wanted && !first.whole && source.has_more_to_say() {
            stated = ask(source).await?.or(stated);
        }
        let trust = known
            .max(stated.map(Stated::trust))
            .unwrap_or(Trust::Observed);
        if let Some(least) = require.filter(|least| trust < *least) {
            return Err(untrusted(source, trust, least));
        }
        let sha256 = known.is_some() || digests;
        let check = (first.from == 0).then(|| Check::new(source.size, sha256, stated));
        Ok(Self {
            check: check.filter(|check| !check.is_idle()),
            found: None,
            trust,
        })
    }

    async fn add(&self, bytes: &bytes::Bytes) {
        if let Some(check) = &self.check {
            check.add(bytes).await;
        }
    }

    /// Compares, when all bytes have been added.
    async fn verify(&mut self, source: &Source) -> Result<()> {
        let Some(check) = self.check.take() else {
            return Ok(());
        };
        let found = check.settle().await;
        if let Some((got, stated)) = &found.differs {
            let detail = format!("the bytes have checksum {got}, the store says {stated}");
            return Err(damaged(source, detail));
        }
        if let (Some(got), Some((known, trust))) = (&found.sha256, &source.known)
            && got != known
        {
            let who = if *trust == Trust::Manifest {
                "the manifest says"
            } else {
                "expected is"
            };
            let detail = format!("the bytes have sha256 {got}, {who} {known}");
            return Err(damaged(source, detail));
        }
        self.found = Some(found);
        Ok(())
    }

    /// The SHA-256, where it was computed, and who vouches for it.
    async fn outcome(mut self, source: &Source) -> Result<Option<(String, Trust)>> {
        // An empty file has no last chunk before which this happened.
        self.verify(source).await?;
        let sha256 = self.found.and_then(|found| found.sha256);
        Ok(sha256.zip(Some(self.trust)))
    }
}

/// Asks the store what it knows about the whole object, as patiently as for a part.
async fn ask(source: &Source) -> Result<Option<Stated>> {
    let mut patience = Patience::new(0, 0);
    loop {
        match source.ask().await {
            Ok(stated) => return Ok(stated),
            Err(failure) => tokio::time::sleep(patience.after(failure, 0)?).await,
        }
    }
}

fn damaged(source: &Source, detail: String) -> Error {
    source
        .error(ErrorKind::DigestMismatch, detail)
        .with_hint("the object is damaged or was replaced: publish it again under a new version")
}

fn untrusted(source: &Source, trust: Trust, least: Trust) -> Error {
    let detail = format!(
        "{} vouches for its bytes, required is {}",
        who(trust),
        who(least)
    );
    source
        .error(ErrorKind::Untrusted, detail)
        .with_hint("publish the model with a manifest or checksums, or require less")
}

fn who(trust: Trust) -> &'static str {
    match trust {
        Trust::Observed => "nobody",
        Trust::StoreMd5 => "the store (md5)",
        Trust::StoreCrc64 => "the store (crc64)",
        Trust::StoreSha256 => "the store (sha256)",
        Trust::Sidecar => "a file of checksums",
        Trust::Manifest => "the manifest",
        Trust::Pinned => "the digest that was asked for",
        Trust::Signed => "a signature",
    }
}
