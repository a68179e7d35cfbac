//! The in-toto statement of a model's signature: which files, which digests, what is left out.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};

use super::refused::Refused;
use crate::names::{check_path, check_sha256};

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The predicate of model-signing 1.x.
pub(super) const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";
/// The predicate of model-signing 0.2.
const OLD_PREDICATE_TYPE: &str = "https://model_signing/Digests/v0.1";
const AGAIN: &str = "sign the model again with model-signing 1.0 or later, by files and SHA-256, \
                     which are its defaults";

/// What the signer states, checked for sense but not yet compared with a model.
#[derive(Debug)]
pub(super) struct Statement {
    /// What the signer calls the model: the name of a folder on the signer's machine.
    pub(super) name: String,
    /// The SHA-256 of each file by path, in hexadecimal.
    pub(super) files: BTreeMap<String, String>,
    /// Paths of files and folders that the signature does not speak of.
    pub(super) ignored: Vec<String>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "_type")]
    statement: String,
    #[serde(rename = "predicateType")]
    predicate: String,
}

/// Of statement and predicate the rest is ignored, as their specifications demand.
#[derive(Deserialize)]
struct RawStatement {
    subject: Vec<RawSubject>,
    predicate: RawPredicate,
}

#[derive(Deserialize)]
struct RawSubject {
    name: String,
    digest: RawDigest,
}

#[derive(Deserialize)]
struct RawDigest {
    sha256: String,
}

#[derive(Deserialize)]
struct RawPredicate {
    serialization: RawSerialization,
    resources: Vec<RawResource>,
}

/// How the model was read. A field that we do not know could change what the digests mean.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSerialization {
    method: String,
    hash_type: String,
    /// In a store there are no links; the digests are of what the signer read through them.
    #[serde(rename = "allow_symlinks")]
    _allow_symlinks: bool,
    #[serde(default)]
    ignore_paths: Vec<String>,
    #[serde(rename = "shard_size")]
    _shard_size: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawResource {
    name: String,
    algorithm: String,
    digest: String,
}

impl Statement {
    /// Parses a payload whose signature holds.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Refused> {
        let kind: Kind = read(payload)?;
        if kind.statement != STATEMENT_TYPE {
            let detail = format!(
                "the payload has _type {:?}, not {STATEMENT_TYPE}",
                kind.statement
            );
            return Err(Refused::new(detail));
        }
        if kind.predicate != PREDICATE_TYPE {
            let detail = format!(
                "the statement has predicate type {:?}, not {PREDICATE_TYPE}",
                kind.predicate
            );
            return Err(Refused::new(detail).with_hint(AGAIN));
        }
        let raw: RawStatement = read(payload)?;
        check_serialization(&raw.predicate.serialization)?;
        let [subject] = raw.subject.as_slice() else {
            let detail = format!("the statement has {} subjects, not one", raw.subject.len());
            return Err(Refused::new(detail));
        };
        let files = files(&raw.predicate.resources, &subject.digest.sha256)?;
        let statement = Self {
            name: subject.name.clone(),
            files,
            ignored: raw.predicate.serialization.ignore_paths,
        };
        statement.check_ignored()?;
        Ok(statement)
    }

    /// Whether `payload` is of model-signing 0.2, whose signatures are over another encoding; to
    /// explain why a signature does not hold, and for nothing else.
    pub(super) fn is_old(payload: &[u8]) -> bool {
        read::<Kind>(payload).is_ok_and(|kind| kind.predicate == OLD_PREDICATE_TYPE)
    }

    /// What to say of a payload of model-signing 0.2.
    pub(super) fn old() -> Refused {
        let detail = format!(
            "the statement has predicate type {OLD_PREDICATE_TYPE} of model-signing 0.2, which \
             does not say what it leaves out"
        );
        Refused::new(detail).with_hint(AGAIN)
    }

    /// Whether the signer left `path`, or a folder above it, out.
    pub(super) fn ignores(&self, path: &str) -> bool {
        self.ignored.iter().any(|ignored| is_below(path, ignored))
    }

    fn check_ignored(&self) -> Result<(), Refused> {
        let whole = |path: &&String| matches!(path.trim_end_matches('/'), "" | "." | "./");
        if let Some(path) = self.ignored.iter().find(whole) {
            let detail = format!("the statement leaves out the whole model: {path:?}");
            return Err(Refused::new(detail));
        }
        match self.files.keys().find(|path| self.ignores(path)) {
            Some(path) => Err(Refused::new(format!(
                "the statement both states and leaves out {path:?}"
            ))),
            None => Ok(()),
        }
    }
}

/// Whether `path` is `above` or below it.
pub(super) fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn read<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Refused> {
    serde_json::from_slice(payload)
        .map_err(|why| Refused::new(format!("the statement cannot be read: {why}")))
}

fn check_serialization(raw: &RawSerialization) -> Result<(), Refused> {
    if raw.method != "files" {
        let detail = format!(
            "the model was signed by {:?}, and only files are supported: a lock states no other \
             digests",
            raw.method
        );
        return Err(Refused::new(detail).with_hint(AGAIN));
    }
    check_algorithm(&raw.hash_type)
}

fn check_algorithm(name: &str) -> Result<(), Refused> {
    if name == "sha256" {
        return Ok(());
    }
    let detail = format!("the digests are of {name:?}, and only sha256 is supported");
    Err(Refused::new(detail).with_hint(AGAIN))
}

/// The resources as a map, whose digests hash to `root` in the order in which they stand.
fn files(resources: &[RawResource], root: &str) -> Result<BTreeMap<String, String>, Refused> {
    if resources.is_empty() {
        return Err(Refused::new("the statement speaks of no file"));
    }
    let mut hasher = Sha256::new();
    let mut files = BTreeMap::new();
    for resource in resources {
        check_algorithm(&resource.algorithm)?;
        let refuse = |why| Refused::new(format!("resource {:?}: {why}", resource.name));
        check_path(&resource.name).map_err(refuse)?;
        check_sha256(&resource.digest).map_err(refuse)?;
        hasher.update(hex::decode(&resource.digest).map_err(|why| refuse(why.to_string()))?);
        let before = files.insert(resource.name.clone(), resource.digest.clone());
        if before.is_some() {
            return Err(refuse("it is there twice".into()));
        }
    }
    if hex::encode(hasher.finalize()) != root {
        let detail = "the digest of the subject is not that of the resources";
        return Err(Refused::new(detail));
    }
    Ok(files)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    pub(in crate::signing) fn statement(files: &[(&str, &str)], ignored: &[&str]) -> Value {
        let mut hasher = Sha256::new();
        let resource = |(name, content): &(&str, &str)| {
            let digest = Sha256::digest(content);
            hasher.update(digest);
            json!({"name": name, "algorithm": "sha256", "digest": hex::encode(digest)})
        };
        let resources: Vec<Value> = files.iter().map(resource).collect();
        json!({
            "_type": STATEMENT_TYPE,
            "subject": [{"name": "m", "digest": {"sha256": hex::encode(hasher.finalize())}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "resources": resources,
                "serialization": {
                    "method": "files", "hash_type": "sha256", "allow_symlinks": false,
                    "ignore_paths": ignored,
                },
            },
        })
    }

    fn parse(value: &Value) -> Result<Statement, Refused> {
        Statement::parse(value.to_string().as_bytes())
    }

    #[test]
    fn what_is_left_out_is_a_path_or_below_it() {
        let made = statement(
            &[("a", "1"), ("b/.git", "2")],
            &[".git", "model.sig", "b/c"],
        );
        let parsed = parse(&made).unwrap();
        assert_eq!(parsed.files.len(), 2);
        for path in [".git", ".git/HEAD", "model.sig", "b/c", "b/c/d"] {
            assert!(parsed.ignores(path), "{path}");
        }
        for path in [".gitx", ".github", "b", "b/cd", "a/.git", "model.sigs"] {
            assert!(!parsed.ignores(path), "{path}");
        }
    }

    fn good() -> Value {
        statement(&[("a", "1"), ("b", "2")], &["model.sig"])
    }

    /// Each value in the place of what is there makes a statement that is refused for that reason.
    fn refuses(cases: impl IntoIterator<Item = (&'static str, Value, &'static str)>) {
        for (pointer, value, why) in cases {
            let mut changed = good();
            *changed.pointer_mut(pointer).unwrap() = value;
            assert_ne!(changed, good(), "{pointer}");
            let found = parse(&changed).unwrap_err().detail;
            assert!(found.contains(why), "{pointer}: {found}");
        }
    }

    #[test]
    fn statements_that_make_no_sense_are_refused_by_name() {
        let subject = good()["subject"][0].clone();
        refuses([
            ("/_type", json!("https://in-toto.io/Statement/v0.1"), "v0.1"),
            (
                "/predicateType",
                json!("https://slsa.dev/provenance/v1"),
                "slsa",
            ),
            ("/subject", json!([]), "0 subjects"),
            ("/subject", json!([subject, subject]), "2 subjects"),
            (
                "/subject/0/digest",
                json!({"sha512": "00"}),
                "missing field `sha256`",
            ),
            (
                "/subject/0/digest/sha256",
                json!("00"),
                "digest of the subject",
            ),
        ]);
        let of_serialization = [
            ("method", json!("shards"), "shards"),
            ("hash_type", json!("blake3"), "blake3"),
            ("ignore_paths", json!(["."]), "whole model"),
            ("ignore_paths", json!([""]), "whole model"),
            ("ignore_paths", json!(["b"]), "both states"),
        ];
        for (field, value, why) in of_serialization {
            let mut changed = good();
            changed["predicate"]["serialization"][field] = value;
            let found = parse(&changed).unwrap_err().detail;
            assert!(found.contains(why), "{field}: {found}");
        }
    }

    #[test]
    fn resources_that_make_no_sense_are_refused_by_name() {
        let resources = good()["predicate"]["resources"].clone();
        let (first, digest) = (resources[0].clone(), resources[0]["digest"].clone());
        let named = |name: &str| json!([{"name": name, "algorithm": "sha256", "digest": digest}]);
        let all = "/predicate/resources";
        refuses([
            (all, json!([]), "no file"),
            (all, json!([first, first]), "twice"),
            (all, json!([resources[1], first]), "digest of the subject"),
            (all, json!([first]), "digest of the subject"),
            (all, named("../a"), "\"../a\""),
            (all, named("/a"), "\"/a\""),
            (all, named("./a"), "\"./a\""),
            (all, named("."), "\".\""),
            (
                "/predicate/resources/0/algorithm",
                json!("blake2b"),
                "blake2b",
            ),
            (
                "/predicate/resources/0/digest",
                json!("AB"),
                "64 lower-case",
            ),
        ]);
    }

    #[test]
    fn what_is_unknown_is_refused_only_where_it_could_change_the_meaning() {
        let mut more = good();
        more["predicate"]["serialization"]["normalise"] = json!(true);
        assert!(parse(&more).unwrap_err().detail.contains("normalise"));
        // A later minor version may add to the predicate.
        more = good();
        more["predicate"]["card"] = json!({});
        more["more"] = json!(1);
        assert!(parse(&more).is_ok());
    }

    #[test]
    fn fields_that_are_there_twice_are_refused() {
        let text = statement(&[("a", "1")], &[]).to_string();
        for field in [
            "predicateType",
            "predicate",
            "resources",
            "name",
            "sha256",
            "method",
        ] {
            let quoted = format!("\"{field}\":");
            let twice = text.replacen(&quoted, &format!("{quoted}\"\",{quoted}"), 1);
            assert_ne!(text, twice, "{field}");
            assert!(Statement::parse(twice.as_bytes()).is_err(), "{field}");
        }
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(text in "\\PC{0,80}", at in 0_usize..400, with in any::<u8>()) {
            prop_assert!(Statement::parse(text.as_bytes()).is_err());
            let mut bytes = statement(&[("a", "1")], &["b"]).to_string().into_bytes();
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(parsed) = Statement::parse(&bytes) {
                prop_assert_eq!(parsed.files.len(), 1);
            }
        }
    }
}
