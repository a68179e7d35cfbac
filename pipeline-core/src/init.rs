//! `modelship init`: a commented configuration for the folder it stands in.

use std::path::Path;

/// What was found in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found {
    /// The app's name, made from the folder's.
    pub name: String,
    /// Whether the folder is a git repository.
    pub git: bool,
    /// The golden request, where there is one.
    pub golden: Option<String>,
    /// Whether there is a test suite.
    pub tests: bool,
}

impl Found {
    /// Looks at `folder`.
    pub fn look(folder: &Path) -> Self {
        let name = folder
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default();
        Self {
            name: dns_label(&name),
            git: folder.join(".git").exists(),
            golden: Some("smoke/score.json")
                .filter(|p| folder.join(p).is_file())
                .map(str::to_owned),
            tests: folder.join("tests").is_dir(),
        }
    }
}

/// The nearest DNS label (RFC 1035) to a folder's name.
fn dns_label(name: &str) -> String {
    let label: String = name
        .to_lowercase()
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .take(63)
        .collect();
    let label = label.trim_matches(|c: char| c == '-' || c.is_ascii_digit());
    if label.is_empty() {
        "app".to_owned()
    } else {
        label.to_owned()
    }
}

/// The configuration, with what was found left open.
const TEMPLATE: &str = include_str!("init.toml");

/// The text of a configuration for what was found.
pub fn init(found: &Found) -> String {
    let name = &found.name;
    let source = if found.git {
        "repository = \".\"            # the committed files of this git repository …\nbranch = \"HEAD\"              # … at this branch, tag or commit"
    } else {
        "path = \".\"                  # this folder as it is (or: repository = \".\", branch = \"main\")"
    };
    let tests = if found.tests {
        "# tests = [\"python3\", \"-m\", \"pytest\", \"-q\"]   # the default; run before anything is pushed"
    } else {
        "tests = []                  # no tests/ folder was found; name the command that runs your tests"
    };
    let smoke = match &found.golden {
        Some(path) => format!("request = \"{path}\""),
        None => "# request = \"smoke/score.json\"   # {\"path\": \"/score\", \"request\": …, \"expect\": {…}}".to_owned(),
    };
    TEMPLATE
        .replace("@name@", name)
        .replace("@source@", source)
        .replace("@tests@", tests)
        .replace("@smoke@", &smoke)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn what_init_writes_is_a_valid_configuration() {
        for git in [false, true] {
            for golden in [None, Some("smoke/score.json".to_owned())] {
                let found = Found {
                    name: "digits".into(),
                    git,
                    golden: golden.clone(),
                    tests: git,
                };
                let config = Config::parse(&init(&found), "modelship.toml").unwrap();
                assert_eq!(config.app.name, "digits");
                assert_eq!(config.app.repository.is_some(), git);
                assert_eq!(config.smoke.request.is_some(), golden.is_some());
            }
        }
    }

    /// Whoever removes a `# ` in front of a key must get what the comment promises.
    #[test]
    fn every_commented_key_is_a_real_key() {
        let text = init(&Found {
            name: "digits".into(),
            git: true,
            golden: None,
            tests: true,
        });
        let exclusive = ["image =", "repository = \"my", "kubeconfig ="];
        let mut opened = String::new();
        for line in text.lines() {
            let key = line.strip_prefix("# ").filter(|key| {
                key.contains(" = ")
                    && key.starts_with(|c: char| c.is_ascii_lowercase())
                    && !exclusive.iter().any(|e| key.starts_with(e))
            });
            opened.push_str(key.unwrap_or(line));
            opened.push('\n');
        }
        let config = Config::parse(&opened, "modelship.toml").unwrap();
        assert_eq!(config.deploy.dns_label.as_deref(), Some("digits"));
        assert!(config.watch.schedule.is_some());
    }

    #[test]
    fn any_folder_name_becomes_a_label() {
        for (name, label) in [
            ("Digits App", "digits-app"),
            ("9lives", "lives"),
            ("___", "app"),
            ("a_b.c", "a-b-c"),
        ] {
            assert_eq!(dns_label(name), label);
        }
    }
}
