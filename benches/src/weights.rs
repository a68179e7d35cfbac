//! Synthetic weights: float32 bytes that look like a trained model's and are the same every time.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes `mib` MiB of little-endian float32 values, about normal around 0 with deviation 0.02.
/// Like real weights they hardly compress: the sign and mantissa bits are noise.
pub(crate) fn write(path: &Path, mib: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut noise = Noise(0x6d6f_6465_6c73_6869);
    for _ in 0..mib * (1 << 20) / 4 {
        file.write_all(&noise.weight().to_le_bytes())?;
    }
    file.into_inner()?.sync_all()
}

/// SplitMix64, a small generator with well-mixed bits.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// The sum of four uniform values is close to normal; its deviation is `1 / sqrt(3)`.
    fn weight(&mut self) -> f32 {
        let bits = self.next();
        let quarter = |shift: u32| {
            let part = u16::try_from((bits >> shift) & 0xffff).unwrap_or(0);
            f32::from(part) / 65_536.0 - 0.5
        };
        // Values of few bits would leave zeros in every mantissa; this factor spreads them.
        (quarter(0) + quarter(16) + quarter(32) + quarter(48)) * 0.034_641_016
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_about_normal_and_always_the_same() {
        let mut noise = Noise(1);
        let some: Vec<f32> = (0..100_000).map(|_| noise.weight()).collect();
        let count = 100_000.0_f32;
        let mean = some.iter().sum::<f32>() / count;
        let deviation = (some.iter().map(|w| (w - mean).powi(2)).sum::<f32>() / count).sqrt();
        assert!(mean.abs() < 0.001, "{mean}");
        assert!((deviation - 0.02).abs() < 0.001, "{deviation}");

        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        write(&one, 1).unwrap();
        write(&two, 1).unwrap();
        let bytes = std::fs::read(one).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
        assert!(bytes == std::fs::read(two).unwrap());
    }
}
