//! Where an upload stands, kept in a file, so that a later process can go on with it.
//!
//! A note is a convenience, never a source of truth: one that is missing, damaged, of another
//! user's making or in use is passed over, and a registry verifies the digest of what it was
//! sent in any case. A failure to write one costs no more than the chance to resume.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use url::Url;

use super::frontier::Frontier;
use crate::blob::sha256_of;

/// Bytes hashed between two notes.
const EVERY: u64 = 64 << 20;
/// A note is never longer.
const NOTE_MAX: u64 = 16 << 10;
/// The form of a note. Another crate version may write another hash state.
const FORM: &str = concat!("modelship upload 1 ", env!("CARGO_PKG_VERSION"));

/// The note of one blob on its way to one repository; ours alone while this value lives.
pub(crate) struct Journal {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
    size: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    location: Option<String>,
    pos: u64,
    hash: Vec<u8>,
}

/// What an earlier process left.
pub(crate) struct Saved {
    pub(crate) location: String,
    pub(crate) frontier: Frontier,
}

#[derive(Serialize, Deserialize)]
struct Note {
    form: String,
    size: u64,
    location: String,
    hashed: u64,
    hash: String,
    check: String,
}

impl Note {
    /// The digest of the rest of the note.
    fn sum(&self) -> String {
        let (size, hashed) = (self.size, self.hashed);
        let text = format!(
            "{}\n{size}\n{}\n{hashed}\n{}",
            self.form, self.location, self.hash
        );
        sha256_of(text.as_bytes()).digest().to_owned()
    }
}

impl Journal {
    /// Opens the note of the blob that `identity` names on its way to the repository `name`;
    /// none when another upload has it, or the folder can not be used.
    pub(crate) async fn open(
        folder: &Path,
        name: &str,
        identity: &str,
        size: u64,
    ) -> Option<(Arc<Self>, Option<Saved>)> {
        let key = sha256_of(format!("{name}\0{identity}\0{size}").as_bytes());
        let base = folder.join(key.digest());
        let folder = folder.to_owned();
        let open = move || {
            create_folder(&folder).ok()?;
            let lock_path = base.with_extension("lock");
            let lock = private().open(&lock_path).ok()?;
            lock.try_lock().ok()?;
            let journal = Self {
                path: base.with_extension("json"),
                lock_path,
                _lock: lock,
                size,
                state: Mutex::default(),
            };
            let saved = journal.load();
            Some((Arc::new(journal), saved))
        };
        tokio::task::spawn_blocking(open).await.ok().flatten()
    }

    fn load(&self) -> Option<Saved> {
        let meta = fs::symlink_metadata(&self.path).ok()?;
        if !meta.is_file() || meta.len() > NOTE_MAX || !is_private(&meta) {
            return None;
        }
        let mut text = String::new();
        let file = File::open(&self.path).ok()?;
        file.take(NOTE_MAX).read_to_string(&mut text).ok()?;
        let note: Note = serde_json::from_str(&text).ok()?;
        let sound = note.form == FORM && note.check == note.sum();
        if !sound || note.size != self.size || note.hashed > note.size {
            return None;
        }
        let frontier = Frontier::restore(note.hashed, &hex::decode(&note.hash).ok()?)?;
        Some(Saved {
            location: note.location,
            frontier,
        })
    }

    /// Notes the session that goes on with what `frontier` saw. It may change with every answer
    /// of the registry.
    pub(crate) async fn begin(self: &Arc<Self>, session: &Url, frontier: &Frontier) {
        let (pos, hash) = (frontier.pos(), frontier.state());
        self.update(session, Some((pos, hash))).await;
    }

    /// Notes where the session has moved to.
    pub(crate) async fn moved(self: &Arc<Self>, session: &Url) {
        self.update(session, None).await;
    }

    async fn update(self: &Arc<Self>, session: &Url, frontier: Option<(u64, Vec<u8>)>) {
        let (journal, location) = (Arc::clone(self), session.to_string());
        let write = move || {
            let mut state = journal.lock();
            state.location = Some(location);
            if let Some((pos, hash)) = frontier {
                (state.pos, state.hash) = (pos, hash);
            }
            let _ = journal.write(&state);
        };
        let _ = tokio::task::spawn_blocking(write).await;
    }

    /// Notes what is hashed, if that is worth it. Blocks.
    pub(crate) fn checkpoint(&self, frontier: &Frontier) {
        let mut state = self.lock();
        if state.location.is_some() && frontier.pos() >= state.pos.saturating_add(EVERY) {
            (state.pos, state.hash) = (frontier.pos(), frontier.state());
            let _ = self.write(&state);
        }
    }

    /// Removes the note: there is no session to go on with.
    pub(crate) async fn forget(self: &Arc<Self>) {
        let journal = Arc::clone(self);
        let remove = move || {
            let mut state = journal.lock();
            state.location = None;
            let _ = fs::remove_file(&journal.path);
        };
        let _ = tokio::task::spawn_blocking(remove).await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole note or the one before: written beside it and renamed.
    fn write(&self, state: &State) -> io::Result<()> {
        let Some(location) = state.location.clone() else {
            return Ok(());
        };
        let mut note = Note {
            form: FORM.to_owned(),
            size: self.size,
            location,
            hashed: state.pos,
            hash: hex::encode(&state.hash),
            check: String::new(),
        };
        note.check = note.sum();
        let fresh = self.path.with_extension("new");
        let mut file = private().truncate(true).open(&fresh)?;
        file.write_all(&serde_json::to_vec(&note)?)?;
        fs::rename(&fresh, &self.path)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // While it is held: who opened it meanwhile finds it locked or gone.
        let _ = fs::remove_file(&self.lock_path);
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn create_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Whether nobody else may read or write it.
fn is_private(meta: &fs::Metadata) -> bool {
    #[cfg(unix)]
    let others = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o077;
    #[cfg(not(unix))]
    let others = u32::from(!meta.is_file());
    others == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SESSION: &str = "https://registry.invalid/v2/a/blobs/uploads/1?_state=secret";

    async fn open(folder: &Path) -> Option<(Arc<Journal>, Option<Saved>)> {
        Journal::open(folder, "registry.invalid/a", "model@1", 1 << 30).await
    }

    /// A note at 100 MiB, written and closed; its file.
    async fn noted(folder: &Path) -> PathBuf {
        let (journal, saved) = open(folder).await.unwrap();
        assert!(saved.is_none());
        let session = SESSION.parse().unwrap();
        journal.begin(&session, &Frontier::new()).await;
        let piece = vec![5; 50 << 20];
        let mut frontier = Frontier::new();
        for at in [0, 50 << 20] {
            frontier.feed(at, &piece);
            journal.checkpoint(&frontier);
        }
        journal.path.clone()
    }

    #[tokio::test]
    async fn a_later_process_finds_session_and_hash() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("a/b");
        let path = noted(&folder).await;
        assert!(is_private(&fs::metadata(&path).unwrap()));
        let (journal, saved) = open(&folder).await.unwrap();
        let mut saved = saved.unwrap();
        assert_eq!(saved.location, SESSION);
        assert_eq!(saved.frontier.pos(), 100 << 20);
        saved.frontier.end();
        let whole = vec![5; 100 << 20];
        assert_eq!(saved.frontier.digest(100 << 20), Some(sha256_of(&whole)));
        assert!(open(&folder).await.is_none(), "one upload has it at a time");
        journal.forget().await;
        drop(journal);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn other_blobs_and_files_that_others_may_write_are_not_ours() {
        let scratch = tempfile::tempdir().unwrap();
        let path = noted(scratch.path()).await;
        let other = Journal::open(scratch.path(), "registry.invalid/a", "model@2", 1 << 30).await;
        assert!(other.unwrap().1.is_none());
        let other = Journal::open(scratch.path(), "registry.invalid/a", "model@1", 1 << 31).await;
        assert!(other.unwrap().1.is_none());
        let aside = scratch.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&aside, &path).unwrap();
            assert!(open(scratch.path()).await.unwrap().1.is_none());
            fs::remove_file(&path).unwrap();
            fs::rename(&aside, &path).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            fs::set_permissions(&path, mode).unwrap();
            assert!(open(scratch.path()).await.unwrap().1.is_none());
        }
    }

    proptest! {
        #[test]
        fn a_damaged_note_is_passed_over(at in 0usize..400, byte: u8, cut in 0usize..400) {
            let scratch = tempfile::tempdir().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (journal, _) = open(scratch.path()).await.unwrap();
                let session = SESSION.parse().unwrap();
                journal.begin(&session, &Frontier::new()).await;
                let path = journal.path.clone();
                drop(journal);
                let good = fs::read(&path).unwrap();
                let mut bad = good.clone();
                let at = at % bad.len();
                bad[at] = byte;
                bad.truncate(bad.len() - cut % 2);
                fs::write(&path, &bad).unwrap();
                let (_, saved) = open(scratch.path()).await.unwrap();
                assert_eq!(saved.is_some(), bad == good);
            });
        }
    }
}
