//! Documents that name versions: pointers of any form, and the index of a folder.

use serde::Deserialize;

use super::STAGE;
use crate::error::{Error, Result};
use crate::manifest::Pointer;
use crate::names::{check_sha256, check_version};
use crate::store::ModelStore;

/// The text files that name the latest version, in a folder that was not published by this crate.
pub(crate) const TEXT_POINTERS: [&str; 4] = ["LATEST", "LATEST.txt", "latest.txt", "latest"];
/// The index of such a folder.
pub(crate) const INDEX: &str = "versions.json";

/// What a pointer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) version: String,
    /// What the version held when the pointer was written; only this crate's pointers say so.
    pub(crate) tree_digest: Option<String>,
}

/// `versions.json`: `{"versions": [{"version": "1.2.0", "sha256": "…"}], "latest": "1.2.0"}`.
///
/// `sha256` and `latest` may be absent, and other fields are not looked at. `sha256` is that of
/// the file, and only for a version that has one.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) versions: Vec<Indexed>,
    pub(crate) latest: Option<String>,
}

/// A version in an index.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Indexed {
    pub(crate) version: String,
    pub(crate) sha256: Option<String>,
}

/// A pointer that some other tool wrote: only the version counts.
#[derive(Deserialize)]
struct Foreign {
    version: String,
    schema_version: Option<serde::de::IgnoredAny>,
}

impl Index {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut index: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("the index cannot be read: {error}"))?;
        for indexed in &mut index.versions {
            check_version(&indexed.version)
                .map_err(|why| format!("version {:?}: {why}", indexed.version))?;
            if let Some(sha256) = &mut indexed.sha256 {
                sha256.make_ascii_lowercase();
                check_sha256(sha256).map_err(|why| format!("{}: {why}", indexed.version))?;
            }
        }
        match &index.latest {
            Some(latest) if index.get(latest).is_none() => Err(format!(
                "it names {latest:?} the latest, which is not in it"
            )),
            _ => Ok(index),
        }
    }

    pub(crate) fn get(&self, version: &str) -> Option<&Indexed> {
        self.versions.iter().find(|known| known.version == version)
    }
}

/// Reads a text file that names a version, with or without a slash at its end.
pub(crate) fn parse_text(bytes: &[u8]) -> Result<Named, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
    let version = text.trim().trim_end_matches('/');
    check_version(version).map_err(|why| format!("it does not name a version: {why}"))?;
    Ok(Named {
        version: version.to_owned(),
        tree_digest: None,
    })
}

/// Reads this crate's pointer, or any JSON object with a `version` and no `schema_version`;
/// nothing is named by a pointer that was removed.
fn parse_json(bytes: &[u8]) -> Result<Option<Named>, String> {
    let error = match Pointer::parse_moved(bytes) {
        Ok((target, _)) => {
            return Ok(target.map(|target| Named {
                version: target.version,
                tree_digest: Some(target.tree_digest),
            }));
        }
        Err(error) => error,
    };
    match serde_json::from_slice::<Foreign>(bytes) {
        Ok(foreign) if foreign.schema_version.is_none() => {
            check_version(&foreign.version)?;
            Ok(Some(Named {
                version: foreign.version,
                tree_digest: None,
            }))
        }
        _ => Err(error),
    }
}

impl ModelStore {
    pub(crate) fn parse_any_pointer(&self, path: &str, bytes: &[u8]) -> Result<Option<Named>> {
        let named = if TEXT_POINTERS.contains(&path) {
            parse_text(bytes).map(Some)
        } else {
            parse_json(bytes)
        };
        named.map_err(|why| Error::invalid(STAGE, self.name_of(path), why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pointers_of_any_form() {
        for text in ["1.2.0", "1.2.0\n", "1.2.0/\r\n", " 1.2.0 "] {
            assert_eq!(parse_text(text.as_bytes()).unwrap().version, "1.2.0");
        }
        for bad in ["", "../x", "1\n2", "a b", "latest"] {
            assert!(parse_text(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let ours = Pointer::new("1.2.0", &format!("sha256:{}", "a".repeat(64)));
        let named = parse_json(&Pointer::moved_bytes(Some(&ours), 7).unwrap()).unwrap();
        assert!(named.unwrap().tree_digest.is_some());
        let removed = parse_json(&Pointer::moved_bytes(None, 8).unwrap()).unwrap();
        assert_eq!(removed, None);
        let named = parse_json(br#"{"version":"1.2.0","by":"me"}"#)
            .unwrap()
            .unwrap();
        assert_eq!((named.version.as_str(), named.tree_digest), ("1.2.0", None));
        for bad in [
            "{",
            "{}",
            r#"{"version":"../x"}"#,
            r#"{"version":"1","schema_version":2}"#,
        ] {
            assert!(parse_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_index_is_checked() {
        let sum = "A".repeat(64);
        let text = format!(
            r#"{{"versions":[{{"version":"1","sha256":"{sum}"}},{{"version":"2"}}],"latest":"1"}}"#
        );
        let index = Index::parse(text.as_bytes()).unwrap();
        assert_eq!(
            index.get("1").unwrap().sha256.as_deref(),
            Some("a".repeat(64).as_str())
        );
        for (from, to) in [
            ("\"latest\":\"1\"", "\"latest\":\"3\""),
            ("\"version\":\"2\"", "\"version\":\"../2\""),
            (sum.as_str(), "abc"),
            ("\"versions\"", "\"models\""),
        ] {
            let forged = text.replacen(from, to, 1);
            assert!(Index::parse(forged.as_bytes()).is_err(), "{forged}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = parse_text(text.as_bytes());
            let _ = parse_json(text.as_bytes());
            let _ = Index::parse(text.as_bytes());
        }
    }
}
