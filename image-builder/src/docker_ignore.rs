//! `.dockerignore`: which paths of a build context stay out of it, decided as Docker decides.
//!
//! The rules are those of the Dockerfile reference (".dockerignore file") and of the matcher that
//! the Docker builders share, not those of `.gitignore`: a pattern is relative to the root, so
//! `foo` is `/foo` only; the last pattern that matches decides; what is below a match matches.
//! How a single pattern matches is in [`glob`](crate::glob).

use crate::error::{Error, ErrorKind, Result};
use crate::glob::Glob;

/// The lines of an ignore file, ready to match.
#[derive(Debug, Default)]
pub(crate) struct DockerIgnore {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    glob: Glob,
    /// The pattern began with `!`: what it matches is kept.
    keeps: bool,
}

/// What is known about a directory, for the entries in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parent {
    /// Which rules matched the directory or one above it; empty for the root.
    matched: Vec<bool>,
}

/// What the patterns say about one path.
#[derive(Debug)]
pub(crate) struct Decision {
    /// The path stays out.
    pub(crate) ignored: bool,
    /// What the entries below the path are judged by.
    pub(crate) parent: Parent,
}

impl DockerIgnore {
    /// Reads lines in the order they apply in; `origin` is named in errors. A `#` begins a
    /// comment only as the first byte of a line; a byte order mark may come before the first.
    ///
    /// # Errors
    /// `Invalid` for a lone `!` and for a pattern that is malformed (an open class, a lone `\`).
    pub(crate) fn parse<'a>(
        lines: impl IntoIterator<Item = &'a str>,
        origin: &str,
    ) -> Result<Self> {
        let mut rules = Vec::new();
        for (number, line) in lines.into_iter().enumerate() {
            let line = match number {
                0 => line.strip_prefix('\u{feff}').unwrap_or(line),
                _ => line,
            };
            if let Some(rule) = rule(line, origin)? {
                rules.push(rule);
            }
        }
        Ok(Self { rules })
    }

    /// Judges `path` (relative, no `.` or `..` in it), given what is known about the directory
    /// it is in.
    ///
    /// A rule that cannot change the outcome is not asked, and counts as no match for what is
    /// below: a file is judged by what its directories were judged by, as Docker does it.
    pub(crate) fn decide(&self, path: &str, parent: &Parent) -> Decision {
        let mut ignored = false;
        let mut matched = Vec::with_capacity(self.rules.len());
        for (at, rule) in self.rules.iter().enumerate() {
            let inherited = parent.matched.get(at).copied().unwrap_or(false);
            let matches = inherited || (rule.keeps == ignored && rule.glob.matches(path));
            if matches {
                ignored = !rule.keeps;
            }
            matched.push(matches);
        }
        Decision {
            ignored,
            parent: Parent { matched },
        }
    }

    /// Whether a `!` pattern may match something below the directory `path`.
    pub(crate) fn may_keep_below(&self, path: &str) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.keeps && rule.glob.may_match_below(path))
    }
}

fn rule(line: &str, origin: &str) -> Result<Option<Rule>> {
    if line.starts_with('#') {
        return Ok(None);
    }
    let line = line.trim();
    let (keeps, pattern) = match line.strip_prefix('!') {
        Some(rest) => (true, rest.trim()),
        None => (false, line),
    };
    if line.is_empty() {
        return Ok(None);
    }
    let cleaned = clean(pattern);
    let glob = match (cleaned.as_str(), keeps) {
        ("", _) | ("/", true) => None,
        // Docker trims once more what a `/` had kept from being trimmed.
        (pattern, true) => Glob::parse(&clean(pattern.trim_end())),
        (pattern, false) => Glob::parse(&clean(pattern.trim())),
    };
    if let Some(glob) = glob {
        return Ok(Some(Rule { glob, keeps }));
    }
    let shown: String = line.chars().take(120).collect();
    let detail = format!("its pattern `{shown}` is malformed");
    Err(
        Error::new(ErrorKind::Invalid, "read ignore patterns", origin, detail)
            .with_hint("close every `[`, and write `\\\\` for a backslash"),
    )
}

/// The shortest equal path, lexically: no empty names, no `.`, `..` only at the front, nothing
/// above `/`; then without its leading `/`. Empty stays empty.
fn clean(pattern: &str) -> String {
    if pattern.is_empty() {
        return String::new();
    }
    let rooted = pattern.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (parts.is_empty(), rooted) {
        // Neither names anything in a context.
        (true, true) => "/".to_owned(),
        (true, false) => ".".to_owned(),
        _ => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glob::naive;
    use proptest::prelude::*;

    /// Judges a path by walking down to it, as the walk of a directory does.
    fn ignored(rules: &DockerIgnore, path: &str) -> bool {
        let mut parent = Parent::default();
        let ends = path.match_indices('/').map(|(at, _)| at);
        let mut last = false;
        for end in ends.chain([path.len()]) {
            let decision = rules.decide(&path[..end], &parent);
            (last, parent) = (decision.ignored, decision.parent);
        }
        last
    }

    fn check(lines: &str, kept: &[&str], out: &[&str]) {
        let rules = DockerIgnore::parse(lines.lines(), "test").unwrap();
        for (paths, expected) in [(kept, false), (out, true)] {
            for path in paths {
                assert_eq!(ignored(&rules, path), expected, "{path} by {lines:?}");
            }
        }
    }

    #[test]
    fn the_examples_of_the_dockerfile_reference() {
        check(
            "# comment\n*/temp*\n*/*/temp*\ntemp?\n",
            &["temp", "tempab", "a/b/c/temp", "# comment"],
            &[
                "somedir/temporary.txt",
                "somedir/subdir/temporary.txt",
                "tempa",
                "somedir/temp",
            ],
        );
        check(
            "*.md\n!README.md\n",
            &["README.md", "a/x.md"],
            &["notes.md"],
        );
        check(
            "*.md\n!README*.md\nREADME-secret.md\n",
            &["README.md", "README-public.md"],
            &["README-secret.md", "x.md"],
        );
        check(
            "*.md\nREADME-secret.md\n!README*.md\n",
            &["README.md", "README-secret.md"],
            &["x.md"],
        );
        check("**/*.go\n", &["go"], &["a.go", "x/a.go", "x/y/a.go"]);
    }

    #[test]
    fn patterns_are_relative_to_the_root_and_cover_what_is_below() {
        check("foo", &["a/foo", "foobar"], &["foo", "foo/x", "foo/x/y"]);
        check(
            "/foo/\n bar \n./baz//x/../y",
            &["a/foo", "baz/x"],
            &["foo", "foo/z", "bar", "baz/y/z"],
        );
        check("**/foo", &["xfoo"], &["foo", "a/foo", "a/b/foo/c"]);
        check("dir/**", &["dir", "dirx"], &["dir/a", "dir/a/b"]);
        check("/\n.\n../x\n\n", &["x", "a/x"], &[]);
    }

    #[test]
    fn what_is_below_an_excluded_directory_can_be_kept() {
        check(
            "docs\n!docs/README.md\n",
            &["docs/README.md"],
            &["docs", "docs/x"],
        );
        check(
            "**\n!util/docker/web\nutil/docker/web/foo\n",
            &["util/docker/web", "util/docker/web/bar"],
            &["util", "util/docker", "util/docker/web/foo", "x"],
        );
        check("*\n! src \n", &["src", "src/a/b"], &["x", "lib/a"]);
    }

    #[test]
    fn a_comment_is_one_at_the_start_of_a_line_only() {
        check(
            "\u{feff}#a\n #b\nc # d\n\\#e\n",
            &["#a", "c"],
            &["#b", "c # d", "#e"],
        );
    }

    #[test]
    fn malformed_patterns_are_errors_that_name_them() {
        for line in ["!", "! ", "!/", "[", "a[", "[]a]", "[x-]", "a\\", "!x["] {
            let error = DockerIgnore::parse([line], ".dockerignore").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{line}");
            assert!(error.to_string().contains(line.trim()), "{error}");
        }
    }

    #[test]
    fn a_directory_is_passed_over_only_if_nothing_below_can_be_kept() {
        let rules = DockerIgnore::parse(["*", "!src/*.py", "!docs/**/keep"], "x").unwrap();
        for (dir, may) in [
            ("src", true),
            ("src/sub", false),
            ("lib", false),
            ("docs/a/b", true),
        ] {
            assert_eq!(rules.may_keep_below(dir), may, "{dir}");
        }
        let any = DockerIgnore::parse(["**", "!**/*.py"], "x").unwrap();
        assert!(any.may_keep_below("whatever/there"));
    }

    /// Docker's decision, written out with the obvious matcher.
    fn reference(rules: &[(bool, String)], path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let mut known: Option<Vec<bool>> = None;
        let mut ignored = false;
        for end in 1..=parts.len() {
            let here = parts[..end].join("/");
            let above = known.take().unwrap_or(vec![false; rules.len()]);
            ignored = false;
            let mut now = Vec::new();
            for ((keeps, pattern), above) in rules.iter().zip(above) {
                let mut hit = above;
                if !hit && *keeps == ignored {
                    hit = naive(pattern, &here);
                }
                if hit {
                    ignored = !keeps;
                }
                now.push(hit);
            }
            known = Some(now);
        }
        ignored
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn it_decides_as_the_reference_does(
            rules in prop::collection::vec((any::<bool>(), crate::glob::arb_pattern()), 0..5),
            path in "[ab]{1,3}(/[ab]{1,3}){0,3}",
        ) {
            let lines: Vec<String> = rules
                .iter()
                .map(|(keeps, pattern)| format!("{}{pattern}", if *keeps { "!" } else { "" }))
                .collect();
            let parsed = DockerIgnore::parse(lines.iter().map(String::as_str), "x").unwrap();
            prop_assert_eq!(ignored(&parsed, &path), reference(&rules, &path), "{:?}", lines);
        }

        #[test]
        fn nothing_kept_is_lost_by_passing_over_a_directory(
            rules in prop::collection::vec((any::<bool>(), crate::glob::arb_pattern()), 0..5),
            path in "[ab]{1,3}(/[ab]{1,3}){1,3}",
        ) {
            let lines: Vec<String> = rules
                .iter()
                .map(|(keeps, pattern)| format!("{}{pattern}", if *keeps { "!" } else { "" }))
                .collect();
            let parsed = DockerIgnore::parse(lines.iter().map(String::as_str), "x").unwrap();
            if !ignored(&parsed, &path) {
                for (at, _) in path.match_indices('/') {
                    let dir = &path[..at];
                    prop_assert!(!ignored(&parsed, dir) || parsed.may_keep_below(dir), "{}", dir);
                }
            }
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,40}", path in "[a-z/]{1,20}") {
            if let Ok(rules) = DockerIgnore::parse(text.lines(), "x") {
                rules.decide(&path, &Parent::default());
            }
        }
    }
}
