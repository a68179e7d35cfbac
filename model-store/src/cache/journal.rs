//! The journal of a file that is arriving: which object it is, and how much of it is safe.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::Sha256;
use sha2::digest::common::hazmat::{SerializableState as _, SerializedState};

use super::content::replace;
use super::pin::Pin;

const SCHEMA: u32 = 1;

/// Written whole, after the bytes that it speaks of are on the disk.
#[derive(Serialize, Deserialize)]
pub(super) struct Journal {
    schema_version: u32,
    pin: Pin,
    /// Bytes that are on the disk.
    durable: u64,
    /// The state of the hash of these bytes, in hexadecimal.
    sha256_state: String,
}

impl Journal {
    pub(super) fn new(pin: &Pin, durable: u64, hash: &Sha256) -> Self {
        Self {
            schema_version: SCHEMA,
            pin: pin.clone(),
            durable,
            sha256_state: hex::encode(hash.serialize()),
        }
    }

    /// How much arrived for `pin`, and its hash; nothing where the journal is missing, torn, or
    /// about something else.
    pub(super) fn read(path: &Path, pin: &Pin) -> Option<(u64, Sha256)> {
        let journal: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        if journal.schema_version != SCHEMA || journal.pin != *pin || journal.durable > pin.size {
            return None;
        }
        let state = hex::decode(&journal.sha256_state).ok()?;
        let state = SerializedState::<Sha256>::try_from(state.as_slice()).ok()?;
        Some((journal.durable, Sha256::deserialize(&state).ok()?))
    }

    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        replace(path, &serde_json::to_vec(self)?, true)
    }
}
