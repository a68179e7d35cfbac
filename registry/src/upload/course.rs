//! One blob from its first try to its commit: each failure decides what the next try does.

use std::sync::Arc;
use std::time::Duration;

use oci_spec::image::Digest;
use url::Url;

use super::frontier::Frontier;
use super::journal::{Journal, Saved};
use super::ladder::{Ladder, Rung};
use super::open::{Begun, begin};
use super::pump::Pump;
use super::session::{self, Transfer};
use super::tries::Tries;
use super::{Failure, Upload};
use crate::blob::Event;
use crate::error::{Error, ErrorKind, Result};
use crate::profile::Resume;

/// Breaks of whole-blob requests after which smaller ones are tried.
const BREAKS_MAX: u32 = 2;

/// Brings the blob of `upload` into the registry.
pub(super) async fn run(upload: &Upload<'_>) -> Result<Digest> {
    let transport = upload.transport;
    let (options, shared) = (&*transport.net.options, &transport.uploads);
    let (blob, known) = (upload.blob, upload.blob.digest().is_some());
    let ladder = Ladder::new(
        &shared.profile,
        options,
        blob.size(),
        known,
        shared.learned(),
    );
    let (journal, saved) = match open_journal(upload, &ladder).await {
        Some((journal, saved)) => (Some(journal), saved),
        None => (None, None),
    };
    let mut course = Course {
        upload,
        ladder,
        tries: Tries::new(options, blob.size()),
        pump: Pump::new(blob, Frontier::new(), journal.clone()),
        journal,
        afresh: false,
        breaks: 0,
    };
    let start = match saved {
        Some(saved) => course.take_over(saved).await?,
        None => None,
    };
    course.run(start).await
}

/// The note of this blob, if it is one of those that can be gone on with.
async fn open_journal(
    upload: &Upload<'_>,
    ladder: &Ladder,
) -> Option<(Arc<Journal>, Option<Saved>)> {
    let transport = upload.transport;
    let folder = transport.net.options.journal.as_deref()?;
    let resumes = transport.uploads.profile.resume == Resume::Status;
    if !resumes || ladder.rung() == Rung::Whole {
        return None;
    }
    let identity = upload.blob.identity()?;
    let size = upload.blob.size();
    Journal::open(folder, &transport.endpoint.name(), identity, size).await
}

struct Course<'a> {
    upload: &'a Upload<'a>,
    ladder: Ladder,
    tries: Tries<'a>,
    pump: Pump,
    journal: Option<Arc<Journal>>,
    /// Whether all was hashed anew already because the registry found other bytes.
    afresh: bool,
    breaks: u32,
}

impl Course<'_> {
    /// The session and the hash that an earlier process left, where the registry still has it.
    async fn take_over(&mut self, saved: Saved) -> Result<Option<(Url, u64)>> {
        let (upload, journal) = (self.upload, self.journal.clone());
        let endpoint = &upload.transport.endpoint;
        let found = match endpoint.resolve(&endpoint.uploads(), &saved.location) {
            Ok(session) => session::status(upload, &session).await?,
            Err(_) => None,
        };
        let start = found.filter(|(_, have)| *have > 1 && *have <= upload.blob.size());
        if start.is_some() {
            self.pump = Pump::new(upload.blob, saved.frontier, journal);
        } else if let Some(journal) = journal {
            journal.forget().await;
        }
        Ok(start)
    }

    async fn run(&mut self, mut start: Option<(Url, u64)>) -> Result<Digest> {
        loop {
            if let Some((_, offset)) = start {
                session::report_resumed(self.upload, offset);
            }
            let failure = match self.attempt(start.take()).await {
                Ok(digest) => return Ok(digest),
                Err(failure) => failure,
            };
            match failure {
                Failure::Fatal(error) => return Err(error),
                Failure::Differs(error) => self.start_afresh(error).await?,
                Failure::Refused(error, refusal) => match self.ladder.down(refusal) {
                    Some(rung) => self.report_downgrade(rung, &error),
                    None if error.kind() == ErrorKind::Protocol => self.pause(error, None).await?,
                    None => return Err(error),
                },
                Failure::Again(error, asked) => {
                    self.count_break(&error);
                    self.pause(error, asked).await?;
                }
                Failure::Gone(error) => self.pause(error, None).await?,
            }
        }
    }

    /// Registries that cut long requests are seldom honest about it.
    fn count_break(&mut self, error: &Error) {
        let broke = matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout);
        self.breaks += u32::from(broke);
        if self.breaks >= BREAKS_MAX
            && let Some(rung) = self.ladder.shrink()
        {
            self.breaks = 0;
            self.report_downgrade(rung, error);
        }
    }

    /// Hashes and sends everything once more, since what was sent is not what was hashed.
    async fn start_afresh(&mut self, error: Error) -> Result<()> {
        if self.afresh {
            return Err(error);
        }
        self.afresh = true;
        self.pump = Pump::new(self.upload.blob, Frontier::new(), self.journal.clone());
        self.pause(error, None).await
    }

    async fn pause(&mut self, error: Error, asked: Option<Duration>) -> Result<()> {
        let Some(pause) = self.tries.pause(asked) else {
            return Err(error);
        };
        self.upload.report_retry(self.tries.number(), &error);
        self.tries.fail();
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.upload.stopped() => Err(self.upload.stop_error()),
        }
    }

    fn report_downgrade(&self, rung: Rung, error: &Error) {
        (self.upload.progress)(Event::Downgraded {
            blob: self.upload.index,
            to: rung.to_string(),
            reason: error.to_string(),
        });
    }

    /// One upload session, from its opening, or from where it stands, to its commit.
    async fn attempt(&mut self, start: Option<(Url, u64)>) -> Result<Digest, Failure> {
        let upload = self.upload;
        let (session, at) = match start {
            Some(start) => start,
            None => match begin(upload).await? {
                Begun::Mounted(digest) => return Ok(digest),
                Begun::Session(session, least) => {
                    self.check_least(least)?;
                    (session, 0)
                }
            },
        };
        let rung = self.ladder.rung();
        if let Some(journal) = self.journal.as_ref().filter(|_| rung != Rung::Whole) {
            journal.begin(&session, &self.pump.frontier().await).await;
        }
        let mut transfer = Transfer {
            upload,
            pump: &self.pump,
            session,
            journal: self.journal.as_ref(),
        };
        let result = tokio::select! {
            result = transfer.run(rung, at, &mut self.tries) => result,
            () = upload.stopped() => Err(upload.stop_error().into()),
        };
        let over = match &result {
            Ok(_) => false,
            Err(_) if self.journal.is_none() => true,
            // What a later process can go on with is left as it is.
            Err(Failure::Again(_, asked)) => self.tries.pause(*asked).is_some(),
            Err(Failure::Fatal(error)) => !error.is_retryable(),
            Err(_) => true,
        };
        if over {
            transfer.cancel().await;
        }
        if let Some(journal) = self.journal.as_ref().filter(|_| over || result.is_ok()) {
            journal.forget().await;
        }
        result.map(|digest| self.committed(digest))
    }

    fn committed(&self, digest: Digest) -> Digest {
        if let Some(rung) = self.ladder.learned() {
            self.upload.transport.uploads.learn(rung);
        }
        (self.upload.progress)(Event::Uploaded {
            blob: self.upload.index,
            digest: digest.clone(),
            size: self.upload.blob.size(),
            sent: self.pump.handed(),
        });
        digest
    }

    fn check_least(&mut self, least: Option<u64>) -> Result<()> {
        let least = least.unwrap_or(0);
        if self.ladder.at_least(least) {
            return Ok(());
        }
        let detail = format!("the registry asks for chunks of {least} bytes at least");
        Err(self.upload.error(ErrorKind::Protocol, detail))
    }
}
