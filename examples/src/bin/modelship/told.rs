//! What `modelship model` says, in words for people.

use std::fmt::Write as _;

use modelship_examples::bytes;
use modelship_model_store::{
    GcItem, Kept, ModelVersion, Move, Note, PointerName, RetractReport, VersionDetails,
    VersionDiff, VersionInfo, VersionState,
};

/// A plan that was not carried out.
pub(crate) fn dry(plan: &str) -> String {
    format!("{plan}\nnothing was done: add --yes to do it")
}

pub(crate) fn list(versions: &[VersionInfo]) -> String {
    if versions.is_empty() {
        return "no versions".to_owned();
    }
    let lines: Vec<String> = versions.iter().map(line).collect();
    lines.join("\n")
}

fn line(info: &VersionInfo) -> String {
    let mut line = format!(
        "{:<16} {:<10} {:>10}",
        info.version,
        state(info.state),
        bytes(info.size)
    );
    for pointer in &info.named_by {
        let _ = write!(line, "  {pointer}");
    }
    for hold in &info.held_by {
        let _ = write!(line, "  hold:{hold}");
    }
    if let Some(retraction) = &info.retraction {
        let _ = write!(line, "  ({})", because(&retraction.note));
    }
    line
}

fn state(state: VersionState) -> &'static str {
    match state {
        VersionState::Complete => "complete",
        VersionState::Unfinished => "unfinished",
        VersionState::Retracted => "retracted",
        VersionState::Removing => "removing",
        _ => "?",
    }
}

fn because(note: &Note) -> String {
    let parts = [&note.at, &note.by, &note.reason];
    let parts: Vec<&str> = parts.into_iter().flatten().map(String::as_str).collect();
    parts.join(", ")
}

pub(crate) fn details(details: &VersionDetails) -> String {
    let mut text = line(&details.info);
    if let Some(digest) = &details.info.tree_digest {
        let _ = write!(text, "\n  {digest}");
    }
    for (key, value) in &details.info.metadata {
        let _ = write!(text, "\n  {key} = {value}");
    }
    for file in &details.contents {
        let sha256 = file.sha256.as_deref().unwrap_or("-");
        let _ = write!(
            text,
            "\n  {:>10}  {sha256}  {}",
            bytes(file.size),
            file.path
        );
    }
    text
}

pub(crate) fn diff(from: &str, to: &str, diff: &VersionDiff) -> String {
    let mut text = format!(
        "{from} -> {to}: {} added, {} removed, {} changed, {} same, {} to move",
        diff.added.len(),
        diff.removed.len(),
        diff.changed.len(),
        diff.same,
        bytes(diff.bytes_to_move)
    );
    for file in &diff.added {
        let _ = write!(text, "\n  + {} {}", file.path, bytes(file.size));
    }
    for file in &diff.removed {
        let _ = write!(text, "\n  - {} {}", file.path, bytes(file.size));
    }
    for file in &diff.changed {
        let _ = write!(
            text,
            "\n  ~ {} {} -> {}",
            file.path,
            bytes(file.from),
            bytes(file.to)
        );
    }
    for (key, (before, after)) in &diff.metadata {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
        let _ = write!(text, "\n  {key}: {} -> {}", value(before), value(after));
    }
    text
}

pub(crate) fn moved(pointer: &PointerName, moved: &Move) -> String {
    let name = |version: &Option<String>| version.clone().unwrap_or_else(|| "nothing".to_owned());
    format!(
        "{pointer} names {}, after {}",
        name(&moved.version),
        name(&moved.previous)
    )
}

pub(crate) fn history(pointer: &PointerName, moves: &[Move]) -> String {
    if moves.is_empty() {
        return format!("{pointer} has no history");
    }
    let line = |moved: &Move| {
        let version = moved.version.as_deref().unwrap_or("(removed)");
        let back = moved
            .restores
            .map(|to| format!("  back to {to}"))
            .unwrap_or_default();
        format!(
            "{:>4}  {version:<16}{back}  {}",
            moved.sequence,
            because(&moved.note)
        )
        .trim_end()
        .to_owned()
    };
    let lines: Vec<String> = moves.iter().map(line).collect();
    lines.join("\n")
}

/// What a retraction would do.
pub(crate) fn retraction(details: &VersionDetails, move_aliases: bool) -> String {
    let mut text = format!("would retract {}", line(&details.info));
    for pointer in &details.info.named_by {
        let fate = match pointer {
            PointerName::Alias(_) if !move_aliases => {
                "stands in the way: move it, or add --move-aliases"
            }
            _ => "goes back to what it named before",
        };
        let _ = write!(text, "\n  {pointer} {fate}");
    }
    text
}

pub(crate) fn retracted(report: &RetractReport) -> String {
    let mut text = format!("retracted {}", report.retraction.version);
    for (pointer, now) in &report.moved {
        let _ = match now {
            Some(version) => write!(text, "\n  {pointer} names {version} now"),
            None => write!(
                text,
                "\n  {pointer} had nothing to go back to, and was removed"
            ),
        };
    }
    text
}

pub(crate) fn garbage(done: &str, items: &[GcItem], kept: &[Kept]) -> String {
    let all = items.iter().map(|item| item.bytes).sum();
    let mut text = format!("{done} {} versions, {}", items.len(), bytes(all));
    for item in items {
        let reason = serde_json::to_value(item.reason).unwrap_or_default();
        let reason = reason.as_str().unwrap_or("garbage");
        let _ = write!(
            text,
            "\n  {:<16} {reason:<12} {:>10}",
            item.version,
            bytes(item.bytes)
        );
    }
    for kept in kept {
        let _ = write!(
            text,
            "\n  {:<16} stays: {}",
            kept.version,
            kept.by.join(", ")
        );
    }
    text
}

pub(crate) fn resolved(model: &ModelVersion) -> String {
    format!(
        "{} {} ({})\n{}, {} files, {}",
        model.name(),
        model.version(),
        model.policy(),
        model.tree_digest(),
        model.files().len(),
        bytes(model.total_size())
    )
}
