//! Finds out what a content is, by its first bytes before its name, and has it looked at.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::policy::Check;
use super::report::Findings;
use super::source::{Content, Failure, Packing, Scan};
use super::{gguf, npy, onnx, pickle, safetensors, tar, zip};

/// Bytes by which a format is known.
const HEAD: usize = 1024;
/// How deep archives and compressions may hold each other.
const MAX_DEPTH: u8 = 4;

/// Endings of files that are loaded as pickles whatever their first bytes.
const PICKLES: [&str; 12] = [
    "pkl",
    "pickle",
    "pckl",
    "pk",
    "p",
    "joblib",
    "dill",
    "cloudpickle",
    "pt",
    "pth",
    "ckpt",
    "sav",
];

/// What is known of the whole model while one file is looked at.
pub(super) struct Model {
    /// Sizes of its files, by path.
    pub(super) sizes: BTreeMap<String, u64>,
}

/// Where a content lies.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) model: &'a Model,
    /// The file's path inside the model.
    pub(super) path: &'a str,
    /// The content's name: the path, or the name of the entry.
    pub(super) name: &'a str,
    /// Files that an ONNX model keeps tensors in.
    pub(super) external: &'a RefCell<BTreeSet<String>>,
    depth: u8,
}

impl<'a> Place<'a> {
    pub(super) fn new(
        model: &'a Model,
        path: &'a str,
        external: &'a RefCell<BTreeSet<String>>,
    ) -> Self {
        Self {
            model,
            path,
            name: path,
            external,
            depth: 0,
        }
    }

    /// The place of an entry.
    pub(super) fn inner<'b>(&self, name: &'b str) -> Place<'b>
    where
        'a: 'b,
    {
        Place {
            name,
            depth: self.depth + 1,
            ..*self
        }
    }

    fn extension(&self) -> String {
        let file = self.name.rsplit('/').next().unwrap_or_default();
        file.rsplit_once('.')
            .map(|(_, end)| end.to_ascii_lowercase())
            .unwrap_or_default()
    }
}

/// What a content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Pickle,
    Zip,
    Npy,
    Gguf,
    Safetensors,
    Tar,
    Packed(Packing),
    /// Compressed in a way that is not read.
    Closed(&'static str),
    /// Known, and not looked into.
    Unparsed(&'static str),
    /// Known to hold data only.
    Passive,
    Text,
    Unknown,
}

fn detect(head: &[u8], len: Option<u64>) -> Format {
    const MAGICS: &[(&[u8], Format)] = &[
        (npy::MAGIC, Format::Npy),
        (b"GGUF", Format::Gguf),
        (b"\x1f\x8b", Format::Packed(Packing::Gzip)),
        (b"\xfd7zXZ\0", Format::Packed(Packing::Xz)),
        (b"BZh", Format::Closed("bzip2")),
        (b"\x5d\0\0", Format::Closed("LZMA")),
        (b"\x04\x22\x4d\x18", Format::Closed("LZ4")),
        (b"\x28\xb5\x2f\xfd", Format::Closed("Zstandard")),
        (b"7z\xbc\xaf\x27\x1c", Format::Closed("7-Zip")),
        (b"Rar!", Format::Closed("RAR")),
        (b"\x89HDF\r\n\x1a\n", Format::Unparsed("HDF5")),
        (b"\x89PNG\r\n\x1a\n", Format::Passive),
        (b"\xff\xd8\xff", Format::Passive),
        (b"GIF8", Format::Passive),
        (b"PAR1", Format::Passive),
        (b"ARROW1", Format::Passive),
    ];
    if head.is_empty() {
        return Format::Text;
    }
    if zip::begins(head) {
        return Format::Zip;
    }
    if head[0] == 0x80 && head.get(1).is_some_and(|protocol| *protocol <= 5) {
        return Format::Pickle;
    }
    if let Some((_, format)) = MAGICS.iter().find(|(magic, _)| head.starts_with(magic)) {
        return *format;
    }
    if len.is_some_and(|len| safetensors::begins(head, len)) {
        return Format::Safetensors;
    }
    if tar::begins(head) {
        return Format::Tar;
    }
    if head.get(4..8) == Some(b"TFL3") {
        return Format::Unparsed("TensorFlow Lite");
    }
    if let [first @ 0x78, second, ..] = *head
        && u16::from_be_bytes([first, second]).is_multiple_of(31)
    {
        return Format::Packed(Packing::Zlib);
    }
    if is_text(head) {
        Format::Text
    } else {
        Format::Unknown
    }
}

fn is_text(head: &[u8]) -> bool {
    let text = match str::from_utf8(head) {
        Ok(text) => text,
        // The last character may be cut.
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty()
        && !text
            .chars()
            .any(|c| c.is_control() && !"\t\n\r\u{c}\u{1b}".contains(c))
}

/// Turns damage into a finding of `check`, and a limit into one of its own.
pub(super) fn judge(done: Scan<()>, check: Check, findings: &mut Findings<'_>) -> Scan<()> {
    match done {
        Err(Failure::Broken(detail)) => findings.add(check, None, detail),
        Err(Failure::Limit(detail)) => findings.add(Check::TooLarge, None, detail),
        other => return other,
    }
    Ok(())
}

/// Looks at a content.
pub(super) fn inspect(
    content: &Content<'_>,
    findings: &mut Findings<'_>,
    place: Place<'_>,
) -> Scan<()> {
    let head = content.open()?.peek(HEAD)?.to_vec();
    let format = detect(&head, content.plain().map(|source| source.len()));
    let extension = place.extension();
    promised(content, findings, place, (&extension, format))?;
    match format {
        Format::Pickle => return pickle::inspect(content, findings).map(drop),
        Format::Zip => return archive(content, findings, place),
        Format::Npy => {
            return judge(
                npy::inspect(content, findings),
                Check::MalformedArray,
                findings,
            );
        }
        Format::Packed(packing) => return unpack(content, findings, place, (packing, &head)),
        _ => {}
    }
    // The other formats do not keep an unpickler from beginning to act.
    let text = format == Format::Text;
    let named = PICKLES.contains(&extension.as_str()) && !head.is_empty();
    if named && matches!(format, Format::Text | Format::Unknown)
        || pickle::looks_like(content, text)?
    {
        return pickle::inspect(content, findings).map(drop);
    }
    if let Some(source) = content.plain()
        && zip::at_the_end(source)?
    {
        let detail = "it ends in a zip archive, and begins as something else";
        findings.add(Check::MalformedArchive, None, detail);
    }
    match format {
        Format::Tar => judge(
            tar::look(content, findings, place),
            Check::MalformedArchive,
            findings,
        ),
        Format::Closed(name) => {
            findings.add(
                Check::UnreadableArchive,
                None,
                format!("{name} is not read"),
            );
            Ok(())
        }
        Format::Unparsed(name) => {
            findings.add(
                Check::UnparsedFormat,
                None,
                format!("{name} is not looked into"),
            );
            Ok(())
        }
        Format::Unknown => {
            unknown(&extension, findings);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What a file's name or beginning promises, it must keep.
fn promised(
    content: &Content<'_>,
    findings: &mut Findings<'_>,
    place: Place<'_>,
    (extension, format): (&str, Format),
) -> Scan<()> {
    let safetensors = extension == "safetensors" || format == Format::Safetensors;
    let gguf = extension == "gguf" || format == Format::Gguf;
    let onnx = extension == "onnx";
    if !(safetensors || gguf || onnx) {
        return Ok(());
    }
    let Some(source) = content.plain() else {
        let detail = "a model inside a compression is not looked into";
        findings.add(Check::UnreadableArchive, None, detail);
        return Ok(());
    };
    if safetensors {
        judge(
            safetensors::inspect(source),
            Check::MalformedSafetensors,
            findings,
        )?;
    }
    if gguf {
        judge(
            gguf::inspect(content, source.len()),
            Check::MalformedGguf,
            findings,
        )?;
    }
    if onnx {
        judge(
            onnx::inspect(content, findings, place),
            Check::MalformedOnnx,
            findings,
        )?;
    }
    Ok(())
}

fn unknown(extension: &str, findings: &mut Findings<'_>) {
    match extension {
        // Looked at, or refused, because of its name.
        "onnx" | "gguf" | "safetensors" => {}
        "pb" => findings.add(
            Check::UnparsedFormat,
            None,
            "a TensorFlow graph is not looked into",
        ),
        _ => findings.add(Check::UnknownFormat, None, "the format is not known"),
    }
}

/// A zip archive can be read only where its bytes can be reached in any order.
fn archive(content: &Content<'_>, findings: &mut Findings<'_>, place: Place<'_>) -> Scan<()> {
    match content.plain() {
        Some(source) if place.depth < MAX_DEPTH => judge(
            zip::look(content, source, findings, place),
            Check::MalformedArchive,
            findings,
        ),
        _ => {
            let detail = "a zip archive inside a compression, or too deep, is not looked into";
            findings.add(Check::UnreadableArchive, None, detail);
            Ok(())
        }
    }
}

/// Looks at what a content unpacks to.
fn unpack(
    content: &Content<'_>,
    findings: &mut Findings<'_>,
    place: Place<'_>,
    (packing, head): (Packing, &[u8]),
) -> Scan<()> {
    let (Some(source), true) = (content.plain(), place.depth < MAX_DEPTH) else {
        findings.add(
            Check::UnreadableArchive,
            None,
            "a compression inside a compression",
        );
        return Ok(());
    };
    let inner = Content::new(source, packing, content.budget());
    // Text can begin with the two bytes that begin zlib's streams.
    let is_zlib = || {
        inner
            .open()
            .and_then(|mut cursor| cursor.at_end().map(drop))
    };
    if packing == Packing::Zlib && is_text(head) && matches!(is_zlib(), Err(Failure::Broken(_))) {
        return Ok(());
    }
    let name = place
        .name
        .strip_suffix(".gz")
        .or_else(|| place.name.strip_suffix(".xz"));
    let place = place.inner(name.unwrap_or(place.name));
    judge(
        inspect(&inner, findings, place),
        Check::UnreadableArchive,
        findings,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_first_bytes() {
        for (head, format) in [
            (&b"\x80\x04K\x01."[..], Format::Pickle),
            (b"PK\x03\x04", Format::Zip),
            (b"\x93NUMPY\x01\0", Format::Npy),
            (b"\x78\x9c..", Format::Packed(Packing::Zlib)),
            (b"{\"a\": 1}", Format::Text),
            ("größe".as_bytes(), Format::Text),
            (b"", Format::Text),
            (b"\0\x01\x02", Format::Unknown),
            (b"\x89HDF\r\n\x1a\n", Format::Unparsed("HDF5")),
        ] {
            assert_eq!(detect(head, None), format, "{head:?}");
        }
    }
}
