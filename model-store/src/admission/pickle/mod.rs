//! Pickles: followed opcode by opcode, never unpickled.
//!
//! A pickle is a program. The walk keeps the stack, the marks and the memo exactly as CPython's
//! unpickler does, so that it knows the module and name of everything that is imported, however it
//! is put together, and denies what is not on the list of harmless globals, and everything it does
//! not understand. An opcode walk that only looks for strings can be led astray through the memo.

mod arrays;
mod calls;
mod heap;
mod literal;
mod machine;
mod step;
#[cfg(test)]
mod tests;
mod vetting;

use heap::Value;
use machine::{Flavor, Machine};
use vetting::Vetting;

use super::policy::Check;
use super::report::Findings;
use super::source::{Content, Cursor, Failure, Scan};

/// How many pickles precede the raw storages in torch's files from before they were archives.
const TORCH_LEGACY_PICKLES: u32 = 5;

/// What a walk through all pickles of a content saw.
pub(super) struct Seen {
    /// Sizes in bytes of torch's storages, by key.
    pub(super) storages: std::collections::BTreeMap<String, u64>,
}

/// Looks at a content that is one pickle or several after each other.
pub(super) fn inspect(content: &Content<'_>, findings: &mut Findings<'_>) -> Scan<Seen> {
    let mut vetting = Vetting::new(&findings.policy().allow_globals);
    let mut cursor = content.open()?;
    let walked = walk_all(&mut cursor, &mut vetting);
    let at = cursor.offset();
    tell(&vetting, findings);
    unreadable(walked, at, findings)?;
    if vetting.arrays > 0 {
        other_reading(content, findings)?;
    }
    Ok(Seen {
        storages: vetting.storages,
    })
}

/// Follows every pickle up to the end of the content.
fn walk_all(cursor: &mut Cursor<'_>, vetting: &mut Vetting<'_>) -> Scan<()> {
    let mut pickles = 0;
    let mut legacy = false;
    loop {
        let result = Machine::new(cursor, vetting, Flavor::Joblib).run()?;
        legacy |= pickles == 0 && result == Value::TorchMagic;
        pickles += 1;
        if cursor.at_end()? {
            return Ok(());
        }
        if legacy && pickles == TORCH_LEGACY_PICKLES {
            return torch_tail(cursor, vetting);
        }
        if pickles == u32::MAX {
            return Err(Failure::broken("it holds too many pickles"));
        }
    }
}

/// The raw storages at the end of an old torch file: each a count of elements and the elements.
fn torch_tail(cursor: &mut Cursor<'_>, vetting: &Vetting<'_>) -> Scan<()> {
    let sizes = vetting.storages.values();
    let total = sizes.fold(0_u64, |sum, size| {
        sum.saturating_add(*size).saturating_add(8)
    });
    cursor.skip(total)?;
    if cursor.at_end()? {
        return Ok(());
    }
    Err(Failure::broken(
        "more bytes follow the pickles than torch's storages take",
    ))
}

/// Reads a content with joblib's arrays once more as Python's own unpickler does, which takes
/// their bytes for opcodes. It will fail there; what matters is what it does before.
fn other_reading(content: &Content<'_>, findings: &mut Findings<'_>) -> Scan<()> {
    let mut vetting = Vetting::new(&findings.policy().allow_globals);
    let mut cursor = content.open()?;
    let walked = Machine::new(&mut cursor, &mut vetting, Flavor::Plain).run();
    tell(&vetting, findings);
    match walked {
        Ok(_) | Err(Failure::Broken(_)) => Ok(()),
        Err(failure) => Err(failure),
    }
}

fn tell(vetting: &Vetting<'_>, findings: &mut Findings<'_>) {
    for event in &vetting.events {
        findings.add(Check::UnsafePickle, Some(event.at), event.detail.clone());
    }
}

/// Turns damage into a finding.
fn unreadable(walked: Scan<()>, at: u64, findings: &mut Findings<'_>) -> Scan<()> {
    match walked {
        Err(Failure::Broken(detail)) => {
            findings.add(Check::UnreadablePickle, Some(at), detail);
            Ok(())
        }
        other => other,
    }
}

/// Whether a content without a known beginning would import something, were it unpickled.
///
/// `text` says that it looks like text, of which short words can look like opcodes; then it counts
/// only if something is called or the pickle is whole.
pub(super) fn looks_like(content: &Content<'_>, text: bool) -> Scan<bool> {
    let nothing = std::collections::BTreeSet::new();
    let mut vetting = Vetting::new(&nothing);
    let mut cursor = content.open()?;
    let whole = loop {
        match Machine::new(&mut cursor, &mut vetting, Flavor::Plain).run() {
            Ok(_) if cursor.at_end()? => break true,
            Ok(_) => {}
            Err(Failure::Io(error)) => return Err(Failure::Io(error)),
            Err(Failure::Broken(_) | Failure::Limit(_)) => break false,
        }
    };
    Ok(vetting.imports > 0 && (whole || vetting.calls > 0 || !text))
}
