//! Files of checksums beside a model's files, and the markers that say that an upload is over.

use std::collections::BTreeMap;

use crate::names::check_sha256;

/// What Hadoop, Spark and many jobs write last.
pub(crate) const MARKER: &str = "_SUCCESS";
/// The names that a list of checksums has, at the top of the version.
const SUMS: [&str; 4] = [
    "SHA256SUMS",
    "SHA256SUMS.txt",
    "sha256sums.txt",
    "sha256sum.txt",
];
/// What follows a file's own name in the name of its checksum.
const SIDECAR: &str = ".sha256";

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    /// Written last: the version is complete.
    Marker,
    /// The checksums of several files.
    Sums,
    /// The checksum of this file.
    Sidecar(&'a str),
    /// A file of the model.
    Model,
}

impl<'a> Role<'a> {
    pub(crate) fn of(path: &'a str) -> Self {
        if path == MARKER {
            return Self::Marker;
        }
        if SUMS.contains(&path) {
            return Self::Sums;
        }
        match path.strip_suffix(SIDECAR) {
            Some(file) if !file.is_empty() && !file.ends_with('/') => Self::Sidecar(file),
            _ => Self::Model,
        }
    }
}

/// The name of the file with the checksum of `file`.
pub(crate) fn sidecar(file: &str) -> String {
    format!("{file}{SIDECAR}")
}

/// Reads what `sha256sum` writes, in either of its forms: checksums by path.
pub(crate) fn parse_sums(bytes: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let mut sums = BTreeMap::new();
    for line in lines(bytes)? {
        let (hex, path) = parse_line(line)
            .ok_or_else(|| format!("a line is not `SHA256  FILE`: {:?}", shown(line)))?;
        let path = path.strip_prefix("./").unwrap_or(path);
        if sums
            .insert(path.to_owned(), hex.clone())
            .is_some_and(|other| other != hex)
        {
            return Err(format!("it has two checksums of {path:?}"));
        }
    }
    Ok(sums)
}

/// Reads the checksum of one file: the digits alone, or a line of `sha256sum`.
pub(crate) fn parse_sidecar(bytes: &[u8]) -> Result<String, String> {
    let mut lines = lines(bytes)?.into_iter();
    let line = lines.next().ok_or("it is empty")?;
    if lines.next().is_some() {
        return Err("it has more than one line".into());
    }
    let alone = line.to_ascii_lowercase();
    if check_sha256(&alone).is_ok() {
        return Ok(alone);
    }
    let found = parse_line(line).map(|(hex, _)| hex);
    found.ok_or_else(|| format!("it is not a SHA-256: {:?}", shown(line)))
}

/// The lines that say something.
fn lines(bytes: &[u8]) -> Result<Vec<&str>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim_end);
    Ok(lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect())
}

/// `HEX  FILE`, `HEX *FILE`, or BSD's `SHA256 (FILE) = HEX`.
fn parse_line(line: &str) -> Option<(String, &str)> {
    let (hex, path) = if let Some(rest) = line.strip_prefix("SHA256 (") {
        let (path, hex) = rest.rsplit_once(") = ")?;
        (hex, path)
    } else {
        let (hex, rest) = line.split_once(' ')?;
        (hex, rest.strip_prefix([' ', '*']).unwrap_or(rest))
    };
    let hex = hex.to_ascii_lowercase();
    (check_sha256(&hex).is_ok() && !path.is_empty()).then_some((hex, path))
}

/// The start of a line: an error must not carry a whole file.
fn shown(line: &str) -> String {
    line.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_sha256sum_writes_is_read() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let text = format!("# ours\n{a}  ./w.bin\r\n{b} *sub/two words\n\nSHA256 (c) = {a}\n");
        let sums = parse_sums(text.as_bytes()).unwrap();
        assert_eq!(sums["w.bin"], a);
        assert_eq!(sums["sub/two words"], b.to_lowercase());
        assert_eq!(sums["c"], a);
        for bad in [
            format!("{a}\n"),
            format!("x  {a}"),
            format!("{a}  f\n{b}  f\n"),
        ] {
            assert!(parse_sums(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(
            parse_sidecar(format!("{b}\n").as_bytes()).unwrap(),
            b.to_lowercase()
        );
        assert_eq!(parse_sidecar(format!("{a}  w.bin").as_bytes()).unwrap(), a);
        for bad in ["", "abc", &format!("{a}\n{a}"), "\u{0}"] {
            assert!(parse_sidecar(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse_sidecar(&[0xff]).is_err());
    }

    #[test]
    fn roles() {
        for (path, role) in [
            ("_SUCCESS", Role::Marker),
            ("SHA256SUMS", Role::Sums),
            ("w.bin.sha256", Role::Sidecar("w.bin")),
            ("sub/w.sha256", Role::Sidecar("sub/w")),
            ("sub/SHA256SUMS", Role::Model),
            ("sub/_SUCCESS", Role::Model),
            (".sha256", Role::Model),
            ("MLmodel", Role::Model),
        ] {
            assert_eq!(Role::of(path), role, "{path}");
        }
        assert_eq!(sidecar("w.bin"), "w.bin.sha256");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,90}") {
            let _ = parse_sums(&bytes);
            let _ = parse_sidecar(&bytes);
            let _ = parse_sums(text.as_bytes());
        }
    }
}
