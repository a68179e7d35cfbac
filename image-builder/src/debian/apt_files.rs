//! Reads apt's own files: `sources.list`, `*.list`, `*.sources`, trusted keys and proxies
//! (sources.list(5), apt.conf(5)).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::apt::{HINT, STAGE, Source, Sources, parse_uri};
use super::deb822::{self, Paragraph};
use super::trust::SignedBy;
use crate::error::{Error, ErrorKind, Result};

/// Reads everything below `etc_apt`.
pub(super) fn read(etc_apt: &Path) -> Result<Sources> {
    let mut sources = Sources {
        machine_keys: machine_keys(etc_apt),
        ..Sources::default()
    };
    let mut files = vec![etc_apt.join("sources.list")];
    files.extend(list(&etc_apt.join("sources.list.d")));
    for file in files {
        let deb822 = match file.extension().and_then(OsStr::to_str) {
            Some("list") => false,
            Some("sources") => true,
            _ => continue,
        };
        let Some(text) = read_text(&file)? else {
            continue;
        };
        let parsed = if deb822 {
            parse_sources(&text)
        } else {
            parse_list(&text)
        };
        sources
            .entries
            .extend(parsed.map_err(|error| in_file(&file, error))?);
    }
    read_conf(etc_apt, &mut sources)?;
    if sources.entries.is_empty() {
        let object = etc_apt.display().to_string();
        return Err(Error::new(
            ErrorKind::NotFound,
            STAGE,
            object,
            "there is no enabled package source",
        )
        .with_hint(HINT));
    }
    Ok(sources)
}

/// The same error, naming the file it is in.
fn in_file(file: &Path, error: Error) -> Error {
    let hint = error.hint().unwrap_or(HINT).to_owned();
    Error::new(
        error.kind(),
        STAGE,
        file.display().to_string(),
        "it holds a source that cannot be used",
    )
    .with_hint(hint)
    .with_source(error)
}

/// The files of a directory in order of their names; none when it cannot be read.
fn list(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(STAGE, path, "cannot read the file", error)),
    }
}

/// The key files apt trusts for sources that name none.
fn machine_keys(etc_apt: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = list(&etc_apt.join("trusted.gpg.d"))
        .into_iter()
        .filter(|file| {
            matches!(
                file.extension().and_then(OsStr::to_str),
                Some("gpg" | "asc")
            )
        })
        .collect();
    files.push(etc_apt.join("trusted.gpg"));
    if let Some(root) = etc_apt.parent().and_then(Path::parent) {
        let shared = root.join("usr/share/keyrings");
        files.extend(
            ["debian-archive-keyring.gpg", "ubuntu-archive-keyring.gpg"]
                .map(|name| shared.join(name)),
        );
    }
    files
}

/// Options of a source, in either format.
#[derive(Default)]
struct Options {
    architectures: Vec<String>,
    signed_by: Option<String>,
    trusted: bool,
    check_time: Option<bool>,
}

impl Options {
    fn apply(&self, source: Source) -> Source {
        let signed_by = match &self.signed_by {
            _ if self.trusted => SignedBy::Nobody,
            None => SignedBy::Machine,
            Some(value) => signed_by(value),
        };
        source
            .with_signed_by(signed_by)
            .with_architectures(self.architectures.iter().cloned())
            .with_time_checked(self.check_time != Some(false))
    }
}

/// Reads a `Signed-By` value: an armored key, key files, or fingerprints.
fn signed_by(value: &str) -> SignedBy {
    if value.contains("-----BEGIN") {
        // In a folded field a single dot stands for an empty line.
        let lines: Vec<&str> = value
            .trim()
            .lines()
            .map(|line| if line == "." { "" } else { line })
            .collect();
        return SignedBy::Inline(lines.join("\n") + "\n");
    }
    let words: Vec<&str> = value
        .split(|letter: char| letter == ',' || letter.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect();
    if words.iter().any(|word| word.starts_with('/')) {
        SignedBy::Keyrings(words.iter().map(PathBuf::from).collect())
    } else {
        SignedBy::Fingerprints(words.into_iter().map(ToOwned::to_owned).collect())
    }
}

/// Parses one-line sources: `deb [options] uri suite component…`.
fn parse_list(text: &str) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line
            .strip_prefix("deb")
            .filter(|rest| rest.starts_with([' ', '\t']))
        else {
            continue;
        };
        let (options, rest) = match rest
            .trim()
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((options, rest)) => (list_options(options), rest),
            None => (Options::default(), rest),
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        sources.push(options.apply(Source::new(uri, suite, words)?));
    }
    Ok(sources)
}

fn list_options(text: &str) -> Options {
    let mut options = Options::default();
    for (name, value) in text
        .split_whitespace()
        .filter_map(|option| option.split_once('='))
    {
        match name {
            "arch" => options.architectures = value.split(',').map(ToOwned::to_owned).collect(),
            "signed-by" => options.signed_by = Some(value.to_owned()),
            "trusted" => options.trusted = deb822::flag(value) == Some(true),
            "check-valid-until" => options.check_time = deb822::flag(value),
            _ => {}
        }
    }
    options
}

/// Parses deb822 sources.
fn parse_sources(text: &str) -> Result<Vec<Source>> {
    let paragraphs = deb822::parse(text).map_err(|error| {
        Error::new(ErrorKind::Invalid, STAGE, "deb822", "the file is malformed").with_source(error)
    })?;
    let mut sources = Vec::new();
    for paragraph in paragraphs {
        if paragraph.flag("Enabled") == Some(false)
            || !paragraph.words("Types").any(|word| word == "deb")
        {
            continue;
        }
        let options = paragraph_options(&paragraph);
        for uri in paragraph.words("URIs") {
            for suite in paragraph.words("Suites") {
                let components = paragraph.words("Components");
                sources.push(options.apply(Source::new(uri, suite, components)?));
            }
        }
    }
    Ok(sources)
}

fn paragraph_options(paragraph: &Paragraph) -> Options {
    Options {
        architectures: paragraph
            .words("Architectures")
            .map(ToOwned::to_owned)
            .collect(),
        signed_by: paragraph.get("Signed-By").map(ToOwned::to_owned),
        trusted: paragraph.flag("Trusted") == Some(true),
        check_time: paragraph.flag("Check-Valid-Until"),
    }
}

/// Takes the proxies and the validity check from apt's configuration, as far as they are written
/// in the flat form `Acquire::http::Proxy "…";`.
fn read_conf(etc_apt: &Path, sources: &mut Sources) -> Result<()> {
    let mut files = list(&etc_apt.join("apt.conf.d"));
    files.push(etc_apt.join("apt.conf"));
    for file in files {
        // Editors leave backups there; apt reads only plain names and `.conf`.
        if !matches!(
            file.extension().and_then(OsStr::to_str),
            None | Some("conf")
        ) {
            continue;
        }
        for line in read_text(&file)?.unwrap_or_default().lines() {
            let line = line.trim();
            if line.starts_with("//") || line.starts_with('#') {
                continue;
            }
            if let Some((name, rest)) = line.split_once(char::is_whitespace) {
                setting(
                    name,
                    rest.trim().trim_end_matches(';').trim_matches('"'),
                    sources,
                )?;
            }
        }
    }
    Ok(())
}

fn setting(name: &str, value: &str, sources: &mut Sources) -> Result<()> {
    let proxy = |value: &str| match value {
        "" | "DIRECT" | "false" => Ok(None),
        address => parse_uri(address).map(Some),
    };
    match name.to_ascii_lowercase().as_str() {
        "acquire::http::proxy" => {
            sources.http_proxy = proxy(value)?;
            sources.https_proxy = sources
                .https_proxy
                .take()
                .or_else(|| sources.http_proxy.clone());
        }
        "acquire::https::proxy" => sources.https_proxy = proxy(value)?,
        "acquire::check-valid-until" if deb822::flag(value) == Some(false) => {
            for source in &mut sources.entries {
                source.check_time = false;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_formats_are_read_and_disabled_ones_are_not() {
        let root = tempfile::tempdir().unwrap();
        let apt = root.path().join("etc/apt");
        fs::create_dir_all(apt.join("sources.list.d")).unwrap();
        fs::create_dir_all(apt.join("apt.conf.d")).unwrap();
        fs::write(
            apt.join("sources.list"),
            "# deb http://no.invalid x main\n\
             deb [arch=amd64,arm64 signed-by=/k.gpg] http://a.invalid/debian bookworm main contrib # note\n\
             deb-src http://a.invalid/debian bookworm main\n\
             deb [trusted=yes] file:///srv/flat ./\n",
        )
        .unwrap();
        fs::write(
            apt.join("sources.list.d/b.sources"),
            "Types: deb deb-src\nURIs: https://b.invalid/d\nSuites: s s-updates\nComponents: main\n\
             Check-Valid-Until: no\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n\n\
             Enabled: no\nTypes: deb\nURIs: mirror+file:/x\nSuites: s\nComponents: main\n",
        )
        .unwrap();
        fs::write(
            apt.join("sources.list.d/off.list.disabled"),
            "deb cdrom:x y z\n",
        )
        .unwrap();
        fs::write(
            apt.join("apt.conf.d/99p"),
            "Acquire::http::Proxy \"http://p.invalid:3128\";\n",
        )
        .unwrap();
        let sources = Sources::from_apt(&apt).unwrap();
        let suites: Vec<_> = sources.iter().map(Source::suite).collect();
        assert_eq!(suites, ["bookworm", "./", "s", "s-updates"]);
        let [first, flat, inline, _] = &sources.entries[..] else {
            panic!("four sources")
        };
        assert_eq!(first.architectures, ["amd64", "arm64"]);
        assert_eq!(first.signed_by, SignedBy::Keyrings(vec!["/k.gpg".into()]));
        assert_eq!(first.components, ["main", "contrib"]);
        assert_eq!(flat.signed_by, SignedBy::Nobody);
        assert!(
            matches!(&inline.signed_by, SignedBy::Inline(key) if key.contains("BLOCK-----\n\nabc"))
        );
        assert!(first.check_time && !inline.check_time);
        assert_eq!(
            sources.http_proxy.unwrap().as_str(),
            "http://p.invalid:3128/"
        );
    }

    #[test]
    fn no_source_says_how_to_add_one() {
        let root = tempfile::tempdir().unwrap();
        let error = Sources::from_apt(root.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint().unwrap().contains(".sources"));
    }

    #[test]
    fn mirror_lists_are_refused_by_name() {
        let error =
            parse_list("deb mirror+file:/etc/apt/mirrors.list bookworm main\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("mirror+file"));
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>(), line in "deb[ \\[\\]=a-z:/.#]{0,40}") {
            let _ = parse_sources(&text);
            let _ = parse_list(&text);
            let _ = parse_list(&line);
        }
    }
}
