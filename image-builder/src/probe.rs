//! Whether compressing a layer is worth it: a few samples, compressed.

use std::fmt;

use bytes::BytesMut;
use futures::TryStreamExt;

use crate::error::{Error, ErrorKind, Result};
use crate::layer::Layer;

/// How many samples are taken, and the size of each in bytes.
const SAMPLES: u64 = 16;
const SAMPLE: u64 = 64 * 1024;
const LEVEL: i32 = 1;

/// What a few samples of a layer say about compressing it.
///
/// 16 samples of 64 KiB, spread evenly from the first byte of the layer to its last (all of a
/// layer of up to 1 MiB), are each compressed with zstd at level 1. Where they lie follows from
/// the layer's length alone, so the same layer always gives the same probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    sampled: u64,
    compressed: u64,
}

impl Probe {
    /// What compression must save to be worth its time, in percent of the size. Weights stay plain
    /// in every common format (32-bit floats save 8 to 10, bfloat16 some 20): they are read by
    /// tools that know no zstd, and reading them back would wait for the decompression.
    pub const THRESHOLD: u64 = 30;

    /// Layers of fewer bytes stay plain without a look: there is nothing to gain that would make
    /// up for asking more of those who read them.
    pub const SMALLEST: u64 = 256 * 1024;

    /// The bytes that were looked at.
    pub fn sampled(&self) -> u64 {
        self.sampled
    }

    /// The bytes they were compressed to.
    pub fn compressed(&self) -> u64 {
        self.compressed
    }

    /// What compression would save, in whole percent of the size.
    pub fn saving(&self) -> u64 {
        let saved = self.sampled.saturating_sub(self.compressed);
        (saved * 100).checked_div(self.sampled).unwrap_or(0)
    }

    /// Whether the saving reaches [`Probe::THRESHOLD`].
    pub fn is_worth_it(&self) -> bool {
        self.saving() >= Self::THRESHOLD
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "compression saves {} % of {} sampled bytes",
            self.saving(),
            self.sampled
        )
    }
}

/// Where the samples of a layer of `len` bytes begin, and how long each is.
fn samples(len: u64) -> (Vec<u64>, u64) {
    if len <= SAMPLES * SAMPLE {
        let count = len.div_ceil(SAMPLE);
        return ((0..count).map(|at| at * SAMPLE).collect(), SAMPLE);
    }
    let last = len - SAMPLE;
    let at = |n: u64| u128::from(last) * u128::from(n) / u128::from(SAMPLES - 1);
    let starts = (0..SAMPLES).map(|n| u64::try_from(at(n)).unwrap_or(last));
    (starts.collect(), SAMPLE)
}

/// Takes the samples of `layer`; its source is opened once for each.
pub(crate) async fn probe(layer: &Layer) -> Result<Probe> {
    let mut probe = Probe {
        sampled: 0,
        compressed: 0,
    };
    let (starts, size) = samples(layer.len());
    for start in starts {
        let want = usize::try_from(size.min(layer.len() - start)).unwrap_or(0);
        let mut sample = BytesMut::with_capacity(want);
        let mut bytes = layer.open(start);
        while sample.len() < want
            && let Some(chunk) = bytes
                .try_next()
                .await
                .map_err(|e| Error::from_stream("probe layer", layer.history(), e))?
        {
            let take = chunk.len().min(want - sample.len());
            sample.extend_from_slice(&chunk[..take]);
        }
        let small = zstd::bulk::compress(&sample, LEVEL).map_err(|e| {
            let detail = "cannot compress a sample";
            Error::new(ErrorKind::Io, "probe layer", layer.history(), detail).with_source(e)
        })?;
        probe.sampled += sample.len() as u64;
        probe.compressed += small.len() as u64;
    }
    Ok(probe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::of_bytes;
    use bytes::Bytes;

    /// Normally distributed 32-bit floats around 0, as weights are.
    fn weights(count: usize) -> Vec<u8> {
        let mut state = 0x9E37_79B9_u64;
        let mut uniform = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            f64::from(u32::try_from(state >> 32).unwrap()) / f64::from(u32::MAX)
        };
        let mut normal = move || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        #[expect(clippy::cast_possible_truncation, reason = "weights are 32-bit floats")]
        let bytes = (0..count).flat_map(|_| ((normal() * 0.02) as f32).to_le_bytes());
        bytes.collect()
    }

    async fn probe_of(bytes: Vec<u8>) -> Probe {
        let bytes = Bytes::from(bytes);
        let len = bytes.len() as u64;
        let layer = Layer::stream("/w", len, move |from| of_bytes(&bytes, from));
        probe(&layer.unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn weights_stay_plain_and_text_does_not() {
        let weights = weights(600_000);
        let found = probe_of(weights.clone()).await;
        assert!(!found.is_worth_it() && found.saving() >= 5, "{found}");
        assert_eq!(found.sampled(), 1024 * 1024);
        let packed = zstd::bulk::compress(&weights, 3).unwrap();
        assert_eq!(probe_of(packed).await.saving(), 0);
        let text = "the quick brown fox jumps over the lazy dog 0123456789\n".repeat(60_000);
        assert!(probe_of(text.into_bytes()).await.is_worth_it());
        assert!(probe_of(vec![0; 3_000_000]).await.saving() >= 99);
        let tiny = probe_of(b"{}".to_vec()).await;
        assert!(tiny.is_worth_it() && tiny.sampled() > 1024);
    }

    #[test]
    fn samples_follow_from_the_length_and_stay_inside() {
        for len in [0, 1, SAMPLE, SAMPLE + 1, 1 << 20, (1 << 20) + 1, 9 << 30] {
            let (starts, size) = samples(len);
            assert!(starts.len() as u64 <= SAMPLES);
            assert!(starts.iter().all(|&start| start < len));
            assert!(starts.is_sorted());
            if len > SAMPLES * SAMPLE {
                assert_eq!((starts[0], starts[15] + size), (0, len));
            }
        }
    }
}
