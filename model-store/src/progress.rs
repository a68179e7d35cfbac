//! How much of a version has arrived, from what is told about its files.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::model::ModelFile;
use crate::publish::Event;

/// Adds the bytes of all files up.
pub(crate) struct Totals<'a> {
    total: u64,
    /// What has arrived of each file, and of all together.
    arrived: Mutex<(BTreeMap<String, u64>, u64)>,
    sink: &'a (dyn Fn(Event) + Send + Sync),
}

impl<'a> Totals<'a> {
    pub(crate) fn new(files: &[ModelFile], sink: &'a (dyn Fn(Event) + Send + Sync)) -> Self {
        Self {
            total: files.iter().map(|file| file.size).sum(),
            arrived: Mutex::default(),
            sink,
        }
    }

    /// Hands an event on, and tells the sum when it changes.
    pub(crate) fn report(&self, event: Event) {
        let arrived = match &event {
            Event::Uploading { path, done, .. } => Some((path.clone(), *done)),
            Event::Skipped { path, size } => Some((path.clone(), *size)),
            _ => None,
        };
        (self.sink)(event);
        if let Some((path, bytes)) = arrived {
            let done = self.add(path, bytes);
            (self.sink)(Event::Progress {
                done,
                total: self.total,
            });
        }
    }

    fn add(&self, path: String, bytes: u64) -> u64 {
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        let (files, sum) = &mut *arrived;
        let before = files.insert(path, bytes).unwrap_or(0);
        // A file that is sent anew begins anew.
        *sum = (*sum + bytes).saturating_sub(before);
        *sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_add_up_and_may_begin_anew() {
        let files = ["a", "b"].map(|path| ModelFile::new(path.into(), 10, None));
        let told = Mutex::new(Vec::new());
        let sink = |event| {
            if let Event::Progress { done, total } = event {
                told.lock().unwrap().push((done, total));
            }
        };
        let totals = Totals::new(&files, &sink);
        let sent = |path: &str, done| Event::Uploading {
            path: path.into(),
            done,
            total: 10,
        };
        for event in [sent("a", 4), sent("a", 2), sent("a", 10)] {
            totals.report(event);
        }
        totals.report(Event::Skipped {
            path: "b".into(),
            size: 10,
        });
        assert_eq!(
            *told.lock().unwrap(),
            [(4, 20), (2, 20), (10, 20), (20, 20)]
        );
    }
}
