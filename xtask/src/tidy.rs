//! Rules of the house that no compiler checks (CONTRIBUTING.md lists them).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cargo;

/// Longest source file, in lines.
const LONGEST_FILE: usize = 600;

/// The crates that are published; the first five never depend on each other.
const PUBLISHED: [&str; 6] = [
    "model-store",
    "image-builder",
    "registry",
    "sandbox",
    "deployer",
    "pipeline-core",
];

/// Crates of which the graph may hold one version only.
const SINGLE: [&str; 5] = ["http", "hyper", "rustls", "reqwest", "oci-spec"];

/// Crates that must not be in the graph: a second TLS or crypto provider panics at run time.
const BANNED: [&str; 4] = ["ring", "openssl", "native-tls", "anyhow"];

/// Runs every check and lists every finding.
pub(crate) fn check() -> Result<(), String> {
    let root = cargo::root();
    let mut findings = Vec::new();
    let mut files = Vec::new();
    collect(&root, &mut files);
    for file in &files {
        check_file(&root, file, &mut findings);
    }
    check_graph(&mut findings)?;
    check_folders(&root, &mut findings);
    if findings.is_empty() {
        println!("tidy: {} source files, no finding", files.len());
        return Ok(());
    }
    for finding in &findings {
        println!("tidy: {finding}");
    }
    Err(format!("tidy found {} things", findings.len()))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for path in entries.flatten().map(|e| e.path()) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files.sort();
}

fn check_file(root: &Path, path: &Path, findings: &mut Vec<String>) {
    let name = path
        .strip_prefix(root)
        .unwrap_or(path)
        .display()
        .to_string();
    let Ok(text) = fs::read_to_string(path) else {
        findings.push(format!("{name}: is not readable text"));
        return;
    };
    if !text.starts_with("//!") && !text.starts_with("#![doc") {
        findings.push(format!(
            "{name}: does not open with `//!` and what it holds"
        ));
    }
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        findings.push(format!("{name}: {lines} lines, at most {LONGEST_FILE}"));
    }
    // The words are put together here so that this file does not find itself. An ignored test
    // says why, and one that must panic says with which words.
    for word in [
        ["#[ign", "ore]"],
        ["#[should_", "panic]"],
        ["tod", "o!("],
        ["unimpl", "emented!("],
        ["assert!(tr", "ue)"],
    ] {
        let word = word.concat();
        for (number, _) in text.lines().enumerate().filter(|(_, l)| l.contains(&word)) {
            findings.push(format!("{name}:{}: `{word}`", number + 1));
        }
    }
}

fn check_graph(findings: &mut Vec<String>) -> Result<(), String> {
    let text = cargo::output(&["metadata", "--format-version", "1", "--locked"])?;
    let metadata: Value =
        serde_json::from_str(&text).map_err(|e| format!("cargo metadata: {e}"))?;
    let empty = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        let (name, version) = (text_of(&package["name"]), text_of(&package["version"]));
        versions.entry(name).or_default().push(version);
        check_star(name, package, findings);
    }
    for name in SINGLE {
        if let Some(found) = versions.get(name).filter(|v| v.len() > 1) {
            findings.push(format!(
                "{name}: more than one version in the graph: {}",
                found.join(", ")
            ));
        }
    }
    check_banned(findings)
}

/// A leaf depends on no other crate of ours, but in its tests on testkit, and on itself with all
/// of its features.
fn check_star(name: &str, package: &Value, findings: &mut Vec<String>) {
    let Some(short) = name.strip_prefix("modelship-") else {
        return;
    };
    if !PUBLISHED.contains(&short) || short == "pipeline-core" {
        return;
    }
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let on = text_of(&dependency["name"]);
        let for_tests = dependency["kind"] == "dev" && (on == "modelship-testkit" || on == name);
        if on.starts_with("modelship-") && !for_tests {
            findings.push(format!("{name}: a leaf depends on {on}"));
        }
    }
}

/// Looks at what is built: the lock file also lists what no feature turns on.
fn check_banned(findings: &mut Vec<String>) -> Result<(), String> {
    let words = [
        "tree",
        "--workspace",
        "--locked",
        "--prefix",
        "none",
        "--format",
        "{p}",
        "-e",
        "normal,build,dev",
    ];
    let tree = cargo::output(&words)?;
    for name in BANNED {
        if tree
            .lines()
            .any(|line| line.split(' ').next() == Some(name))
        {
            findings.push(format!("{name}: must not be in the graph"));
        }
    }
    Ok(())
}

fn check_folders(root: &Path, findings: &mut Vec<String>) {
    for folder in PUBLISHED {
        for file in ["README.md", "LICENSE-MIT", "LICENSE-APACHE"] {
            if !root.join(folder).join(file).is_file() {
                findings.push(format!("{folder}: has no {file}"));
            }
        }
    }
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
