//! Zip archives: those of torch, NumPy and Keras, and any other.

mod directory;
mod keras;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use directory::Entry;

use super::inspect::{Place, inspect, judge};
use super::pickle;
use super::policy::Check;
use super::report::Findings;
use super::source::{Content, Scan, Source};

pub(super) use directory::at_the_end;

/// Whether a file begins like a zip archive; the second is an empty one, the third a split one.
pub(super) fn begins(head: &[u8]) -> bool {
    [&b"PK\x03\x04"[..], b"PK\x05\x06", b"PK\x07\x08"]
        .iter()
        .any(|magic| head.starts_with(magic))
}

/// Looks at every entry.
pub(super) fn look(
    content: &Content<'_>,
    source: Source<'_>,
    findings: &mut Findings<'_>,
    place: Place<'_>,
) -> Scan<()> {
    let entries = directory::read(source, findings.policy().max_files, content.budget())?;
    let torch = torch_root(&entries);
    let mut archive = Archive {
        content,
        source,
        findings,
        place,
    };
    let storages = archive.torch(&entries, torch.as_deref())?;
    for entry in entries.iter().filter(|entry| !entry.name.ends_with('/')) {
        let storage = torch
            .as_deref()
            .is_some_and(|root| is_storage(entry, root, &storages));
        let seen = torch
            .as_deref()
            .is_some_and(|root| entry.name == format!("{root}/data.pkl"));
        if !storage && !seen {
            archive.entry(entry)?;
        }
    }
    archive.keras(&entries)
}

/// The folder of a torch archive: where `data.pkl` is.
fn torch_root(entries: &[Entry]) -> Option<String> {
    let root = |entry: &Entry| entry.name.strip_suffix("/data.pkl").map(str::to_owned);
    entries
        .iter()
        .find_map(root)
        .filter(|root| !root.contains('/'))
}

/// Whether an entry is the raw bytes of a storage that the archive's pickle names. Torch never
/// takes those for anything else, and their first bytes can look like anything.
fn is_storage(entry: &Entry, root: &str, storages: &BTreeMap<String, u64>) -> bool {
    let key = entry
        .name
        .strip_prefix(root)
        .and_then(|rest| rest.strip_prefix("/data/"));
    let size = key.and_then(|key| storages.get(key));
    !entry.encrypted && entry.method == 0 && size == Some(&entry.size)
}

struct Archive<'a, 'c, 'f> {
    content: &'a Content<'c>,
    source: Source<'c>,
    findings: &'a mut Findings<'f>,
    place: Place<'a>,
}

impl Archive<'_, '_, '_> {
    /// Looks at the pickle of a torch archive first: it names the storages.
    fn torch(&mut self, entries: &[Entry], root: Option<&str>) -> Scan<BTreeMap<String, u64>> {
        let Some(root) = root else {
            return Ok(BTreeMap::new());
        };
        let code = format!("{root}/code/");
        if entries.iter().any(|entry| entry.name.starts_with(&code)) {
            let detail = "it holds TorchScript code, which is not looked into";
            self.findings.add(Check::TorchScript, None, detail);
        }
        let pickle = format!("{root}/data.pkl");
        let Some(entry) = entries.iter().find(|entry| entry.name == pickle) else {
            return Ok(BTreeMap::new());
        };
        let mut storages = BTreeMap::new();
        self.within(entry, |content, findings, _| {
            storages = pickle::inspect(content, findings)?.storages;
            Ok(())
        })?;
        Ok(storages)
    }

    fn entry(&mut self, entry: &Entry) -> Scan<()> {
        self.within(entry, |content, findings, place| {
            inspect(content, findings, place)
        })
    }

    /// Does something with an entry's content.
    fn within(
        &mut self,
        entry: &Entry,
        look: impl FnOnce(&Content<'_>, &mut Findings<'_>, Place<'_>) -> Scan<()>,
    ) -> Scan<()> {
        let content = entry.content(self.source, self.content.budget());
        let outer = self.findings.enter(&entry.name);
        let done = if entry.encrypted {
            self.findings
                .add(Check::EncryptedArchive, None, "the entry is encrypted");
            Ok(())
        } else if let Some(content) = content {
            let place = self.place.inner(&entry.name);
            let done = look(&content, self.findings, place);
            judge(done, Check::UnreadableArchive, self.findings)
        } else {
            let detail = format!("its compression, method {}, is not read", entry.method);
            self.findings.add(Check::UnreadableArchive, None, detail);
            Ok(())
        };
        self.findings.leave(outer);
        done
    }

    /// Looks for code in the configuration of a Keras model.
    fn keras(&mut self, entries: &[Entry]) -> Scan<()> {
        let Some(config) = entries.iter().find(|entry| entry.name == "config.json") else {
            return Ok(());
        };
        self.within(config, |content, findings, _| {
            keras::look(content, findings)
        })
    }
}
