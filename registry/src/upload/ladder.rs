//! The ways a blob may travel, and which one is next when a registry does not take it.

use std::fmt;

use crate::options::RegistryOptions;
use crate::profile::{Profile, Strategy};

/// Chunks tried after those of the profile, in bytes.
const CHUNKS: [u64; 2] = [16 << 20, 4 << 20];
/// The largest least chunk a registry may ask for. Chunks are streamed, so that none of this is
/// ever held; but a registry that asks for more means something else than chunks.
const LEAST_MAX: u64 = 512 << 20;

/// One way of sending a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// One PATCH.
    Stream,
    /// PATCHes of so many bytes.
    Chunks(u64),
    /// One PUT.
    Whole,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream => f.write_str("one streaming request"),
            Self::Chunks(size) => write!(f, "chunks of {size} bytes"),
            Self::Whole => f.write_str("one PUT"),
        }
    }
}

/// Why a registry does not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is too long (413, or 416 for the first byte), or never gets through.
    TooLarge,
    /// There is no PATCH (405, 501).
    NoPatch,
    /// This form of PATCH is not understood (400).
    BadPatch,
    /// The first byte is out of range (416), which some say of what is too long.
    OutOfRange,
}

/// Where an upload stands among the ways.
#[derive(Clone, Debug)]
pub(crate) struct Ladder {
    size: u64,
    rung: Rung,
    tried: Vec<Rung>,
    /// What the profile takes per request; none where chunks are not taken.
    chunk: Option<u64>,
    least: u64,
}

impl Ladder {
    pub(crate) fn new(
        profile: &Profile,
        options: &RegistryOptions,
        size: u64,
        known: bool,
        learned: Option<Rung>,
    ) -> Self {
        let chunk = options.chunk_size.or(profile.chunk_size).map(|n| n.max(1));
        let small = known && size <= profile.put_max;
        let rung = match (options.chunk_size, learned, profile.strategy, chunk) {
            (Some(_), Some(Rung::Chunks(less)), _, Some(chunk)) => Rung::Chunks(less.min(chunk)),
            (_, Some(learned @ Rung::Whole), ..) => learned,
            (_, Some(learned), ..) if !small => learned,
            (Some(_), None, _, Some(chunk)) | (None, None, Strategy::Chunked, Some(chunk))
                if !small || chunk < size =>
            {
                Rung::Chunks(chunk)
            }
            (_, _, Strategy::Monolithic, _) => Rung::Whole,
            _ if small => Rung::Whole,
            _ => Rung::Stream,
        };
        Self {
            size,
            rung,
            tried: vec![rung],
            chunk,
            least: 0,
        }
    }

    pub(crate) fn rung(&self) -> Rung {
        match self.rung {
            Rung::Chunks(size) => Rung::Chunks(size.max(self.least)),
            rung => rung,
        }
    }

    /// Takes note of the least chunk a registry asks for (distribution-spec,
    /// `OCI-Chunk-Min-Length`). False when it is beyond reason.
    pub(crate) fn at_least(&mut self, least: u64) -> bool {
        self.least = least.min(LEAST_MAX);
        least <= LEAST_MAX || !matches!(self.rung, Rung::Chunks(_))
    }

    /// The next way after a refusal; none when there is no other.
    pub(crate) fn down(&mut self, refusal: Refusal) -> Option<Rung> {
        let smaller = self.chunk.and_then(|chunk| self.smaller(chunk));
        let whole = Some(Rung::Whole);
        let next = match (refusal, self.rung) {
            (Refusal::TooLarge, _) | (Refusal::BadPatch, Rung::Stream) => smaller.or(whole),
            (Refusal::OutOfRange, _) => smaller,
            (Refusal::NoPatch | Refusal::BadPatch, Rung::Whole) => None,
            (Refusal::NoPatch, _) | (Refusal::BadPatch, Rung::Chunks(_)) => whole,
        };
        let next = next.filter(|next| !self.tried.contains(next))?;
        self.tried.push(next);
        self.rung = next;
        Some(self.rung())
    }

    /// The next way when requests break again and again without having been refused.
    pub(crate) fn shrink(&mut self) -> Option<Rung> {
        self.down(Refusal::OutOfRange)
    }

    /// What later blobs should begin with, if this one did not end as it began.
    pub(crate) fn learned(&self) -> Option<Rung> {
        (self.tried.len() > 1).then(|| self.rung())
    }

    /// Chunks smaller than the requests of now.
    fn smaller(&self, chunk: u64) -> Option<Rung> {
        let now = match self.rung() {
            Rung::Chunks(size) => size,
            _ => self.size,
        };
        let fits = |size: &u64| *size < now && *size >= self.least;
        let steps = [chunk, CHUNKS[0], CHUNKS[1]];
        steps.into_iter().filter(fits).max().map(Rung::Chunks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Strategy;
    use proptest::prelude::{any, prop_assert, proptest};

    const GIB: u64 = 1 << 30;

    fn ladder(profile: &Profile, size: u64, known: bool) -> Ladder {
        Ladder::new(profile, &RegistryOptions::default(), size, known, None)
    }

    #[test]
    fn the_profile_chooses_the_first_way() {
        let chosen = |profile: Profile, size, known| ladder(&profile, size, known).rung();
        let plain = Profile::distribution;
        assert_eq!(chosen(plain(), GIB, false), Rung::Stream);
        assert_eq!(chosen(plain(), 1 << 20, true), Rung::Whole);
        assert_eq!(
            chosen(plain(), GIB, true),
            Rung::Stream,
            "it can be resumed"
        );
        assert_eq!(
            chosen(Profile::cloudflare(), GIB, false),
            Rung::Chunks(64 << 20)
        );
        let mut whole = plain();
        whole.strategy = Strategy::Monolithic;
        assert_eq!(chosen(whole, GIB, false), Rung::Whole);
    }

    #[test]
    fn a_refused_length_becomes_smaller_chunks_and_at_last_one_put() {
        let mut ladder = ladder(&Profile::acr(), GIB, false);
        let mut steps = Vec::new();
        while let Some(rung) = ladder.down(Refusal::TooLarge) {
            steps.push(rung);
        }
        let mib = |n: u64| Rung::Chunks(n << 20);
        assert_eq!(steps, [mib(64), mib(16), mib(4), Rung::Whole]);
    }

    #[test]
    fn without_patch_there_is_put_and_nothing_after_it() {
        let mut ladder = ladder(&Profile::distribution(), GIB, false);
        assert_eq!(ladder.down(Refusal::NoPatch), Some(Rung::Whole));
        assert_eq!(ladder.down(Refusal::NoPatch), None);
        let mut gar = self::ladder(&Profile::gar(), GIB, false);
        assert_eq!(gar.down(Refusal::BadPatch), Some(Rung::Whole), "no chunks");
    }

    #[test]
    fn a_least_chunk_is_kept_and_one_beyond_reason_refused() {
        let mut ladder = ladder(&Profile::ghcr(), GIB, false);
        assert!(ladder.at_least(5 << 20));
        assert_eq!(
            ladder.down(Refusal::TooLarge),
            Some(Rung::Chunks(16 << 20)),
            "4 MiB are less than it takes"
        );
        assert!(ladder.at_least(20 << 20));
        assert_eq!(ladder.rung(), Rung::Chunks(20 << 20));
        assert!(!ladder.at_least(u64::MAX));
        assert!(ladder.rung() == Rung::Chunks(LEAST_MAX));
    }

    proptest! {
        #[test]
        fn every_ladder_ends(
            size in 0u64..u64::MAX,
            chunk in proptest::option::of(0u64..GIB),
            known in any::<bool>(),
            refusals in proptest::collection::vec(0usize..4, 20),
        ) {
            let options = RegistryOptions { chunk_size: chunk, ..RegistryOptions::default() };
            let mut ladder = Ladder::new(&Profile::acr(), &options, size, known, None);
            let steps = refusals.into_iter().take_while(|refusal| {
                let all = [
                    Refusal::TooLarge,
                    Refusal::NoPatch,
                    Refusal::BadPatch,
                    Refusal::OutOfRange,
                ];
                ladder.down(all[*refusal]).is_some()
            });
            prop_assert!(steps.count() <= 5);
        }
    }
}
