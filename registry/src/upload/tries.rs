//! How often one blob is tried: as often as the options say without a gain, and on as long as
//! there is one.

use std::time::Duration;

use crate::options::RegistryOptions;
use crate::retry;

/// The tries of one blob.
#[derive(Debug)]
pub(crate) struct Tries<'a> {
    options: &'a RegistryOptions,
    failed: u32,
    /// Less than this is no gain, so that there is an end to gains too.
    gain: u64,
}

impl<'a> Tries<'a> {
    pub(crate) fn new(options: &'a RegistryOptions, size: u64) -> Self {
        Self {
            options,
            failed: 0,
            gain: (size / 64).clamp(1, 1 << 20),
        }
    }

    /// The number of the try that has just failed, from 1.
    pub(crate) fn number(&self) -> u32 {
        self.failed + 1
    }

    /// A try got `bytes` further; when that is worth it, its failures are forgotten.
    pub(crate) fn gained(&mut self, bytes: u64) {
        if bytes >= self.gain {
            self.failed = 0;
        }
    }

    /// The pause after the try that has just failed, or none when it was the last.
    pub(crate) fn pause(&self, asked: Option<Duration>) -> Option<Duration> {
        retry::pause(self.options, self.number(), asked)
    }

    /// Counts a failed try.
    pub(crate) fn fail(&mut self) {
        self.failed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gains_reset_and_their_number_is_bounded() {
        let options = RegistryOptions::default();
        let mut tries = Tries::new(&options, 64 << 20);
        for _ in 1..options.tries {
            assert!(tries.pause(None).is_some());
            tries.fail();
        }
        assert!(tries.pause(None).is_none());
        tries.gained((1 << 20) - 1);
        assert!(tries.pause(None).is_none(), "too little");
        tries.gained(1 << 20);
        assert!(tries.pause(None).is_some());
        assert!(tries.pause(Some(Duration::from_hours(1))).is_none());
    }
}
