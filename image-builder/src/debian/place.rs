//! Decides which path each entry of each package gets: pure, and independent of the order the
//! packages arrived in.

use std::collections::BTreeMap;

use super::deb::{Entry, Kind, Unpacked};
use super::deb822;
use super::relation;
use crate::error::{Error, ErrorKind, Result};

const STAGE: &str = "assemble debian base";
/// As many links as Linux follows in one path.
const LINK_LIMIT: usize = 40;
/// The directories that are links into `/usr` on every Debian since 12 ("merged /usr").
const MERGED: [&str; 6] = ["bin", "sbin", "lib", "lib64", "lib32", "libx32"];

/// A package and its name, for placing.
pub(super) struct Package {
    pub(super) name: String,
    pub(super) unpacked: Unpacked,
}

/// An entry at its final path, and the number of the package it is from.
pub(super) struct Placed<'a> {
    pub(super) package: usize,
    pub(super) entry: &'a Entry,
}

/// Places all entries of `packages`, which are sorted by name. Documentation is left out of a
/// `slim` tree.
pub(super) fn place(packages: &[Package], slim: bool) -> Result<BTreeMap<String, Placed<'_>>> {
    let replaces: Vec<Vec<String>> = packages.iter().map(replaces).collect();
    let mut links = BTreeMap::new();
    for entry in packages
        .iter()
        .flat_map(|package| &package.unpacked.entries)
    {
        // The merged directories are rewritten by name; as links they would lead into themselves.
        let is_merged = MERGED.contains(&entry.path.as_str());
        if let (Kind::Symlink(target), false) = (&entry.kind, is_merged) {
            links.entry(merged(&entry.path)).or_insert(target.as_str());
        }
    }
    let mut placed: BTreeMap<String, Placed<'_>> = BTreeMap::new();
    for (number, package) in packages.iter().enumerate() {
        for entry in &package.unpacked.entries {
            if MERGED.contains(&entry.path.as_str()) || (slim && is_dropped(&entry.path)) {
                continue;
            }
            let path = follow(&merged(&entry.path), &links).ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    STAGE,
                    &entry.path,
                    "its parent is a loop of links",
                )
            })?;
            let new = Placed {
                package: number,
                entry,
            };
            match placed.remove(&path) {
                None => placed.insert(path, new),
                Some(old) => {
                    let winner = settle(&path, old, new, packages, &replaces)?;
                    placed.insert(path, winner)
                }
            };
        }
    }
    Ok(placed)
}

/// Decides between two packages that want the same path, as dpkg does: directories are shared, a
/// link to a directory stays, and `Replaces` names who gives way (Policy 7.6.1).
fn settle<'a>(
    path: &str,
    old: Placed<'a>,
    new: Placed<'a>,
    packages: &[Package],
    replaces: &[Vec<String>],
) -> Result<Placed<'a>> {
    let over = |upper: &Placed<'_>, lower: &Placed<'_>| {
        replaces[upper.package].contains(&packages[lower.package].name)
    };
    match (&old.entry.kind, &new.entry.kind) {
        (Kind::Dir | Kind::Symlink(_), Kind::Dir) => Ok(old),
        (Kind::Dir, Kind::Symlink(_)) => Ok(new),
        (Kind::Symlink(left), Kind::Symlink(right)) if left == right => Ok(old),
        _ if old.package == new.package || over(&new, &old) => Ok(new),
        _ if over(&old, &new) => Ok(old),
        _ => {
            let detail = format!(
                "both {} and {} install it, and neither replaces the other",
                packages[old.package].name, packages[new.package].name
            );
            Err(Error::new(ErrorKind::Conflict, STAGE, path, detail)
                .with_hint("ask for only one of the two packages"))
        }
    }
}

/// The names a package says it replaces files of.
fn replaces(package: &Package) -> Vec<String> {
    let control = deb822::parse(&package.unpacked.control).unwrap_or_default();
    let field = control
        .first()
        .and_then(|paragraph| paragraph.get("Replaces"))
        .unwrap_or_default();
    relation::parse(field)
        .into_iter()
        .flatten()
        .map(|clause| clause.name)
        .collect()
}

/// The path below `/usr` for one below a directory that has moved there.
pub(super) fn merged(path: &str) -> String {
    let first = path.split('/').next().unwrap_or(path);
    if MERGED.contains(&first) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// The path with all links in its parents followed, so that no entry ever lies below a link.
/// `None` when the links go in circles.
fn follow(path: &str, links: &BTreeMap<String, &str>) -> Option<String> {
    let mut left: Vec<String> = path.rsplit('/').map(ToOwned::to_owned).collect();
    let mut done: Vec<String> = Vec::new();
    let mut followed = 0;
    while let Some(name) = left.pop() {
        match name.as_str() {
            "" | "." => continue,
            ".." => {
                done.pop();
                continue;
            }
            _ => done.push(name),
        }
        let here = done.join("/");
        let Some(target) = links.get(&here).filter(|_| !left.is_empty()) else {
            continue;
        };
        followed += 1;
        if followed > LINK_LIMIT {
            return None;
        }
        if target.starts_with('/') {
            done.clear();
        } else {
            done.pop();
        }
        left.extend(target.rsplit('/').map(ToOwned::to_owned));
    }
    Some(merged(&done.join("/")))
}

/// Whether a slim tree goes without `path`: documentation but the licences, manual pages,
/// translations, packaging checks, converters of rare character sets, and compiled Python.
fn is_dropped(path: &str) -> bool {
    const DIRECTORIES: [&str; 6] = [
        "usr/share/man/",
        "usr/share/info/",
        "usr/share/locale/",
        "usr/share/lintian/",
        "usr/share/doc-base/",
        "usr/share/bash-completion/",
    ];
    let compiled = path
        .rsplit_once('.')
        .is_some_and(|(_, extension)| extension == "pyc");
    DIRECTORIES
        .iter()
        .any(|directory| path.starts_with(directory))
        || (path.starts_with("usr/lib/") && path.split('/').nth(3) == Some("gconv"))
        || (path.starts_with("usr/share/doc/")
            && path.split('/').count() > 4
            && !path.ends_with("/copyright"))
        || compiled
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn package(
        name: &str,
        control: &str,
        entries: Vec<(&str, Kind)>,
    ) -> Package {
        let entries = entries
            .into_iter()
            .map(|(path, kind)| Entry {
                path: path.to_owned(),
                mode: 0o644,
                kind,
            })
            .collect();
        let unpacked = Unpacked {
            tar: "x.tar".into(),
            control: control.to_owned(),
            entries,
        };
        Package {
            name: name.to_owned(),
            unpacked,
        }
    }

    fn file() -> Kind {
        Kind::File { offset: 0, len: 0 }
    }

    fn paths(packages: &[Package]) -> Vec<String> {
        place(packages, true).unwrap().into_keys().collect()
    }

    #[test]
    fn usr_is_merged_whatever_form_the_packages_have() {
        let packages = [
            package(
                "a",
                "",
                vec![("lib", Kind::Dir), ("lib/x", file()), ("usr/lib/y", file())],
            ),
            package("base", "", vec![("lib", Kind::Symlink("usr/lib".into()))]),
        ];
        assert_eq!(paths(&packages), ["usr/lib/x", "usr/lib/y"]);
    }

    #[test]
    fn entries_below_links_go_where_the_link_points() {
        let link = |target: &str| Kind::Symlink(target.to_owned());
        let packages = [
            package("a", "", vec![("opt/one", Kind::Dir), ("opt/one/f", file())]),
            package(
                "b",
                "",
                vec![("opt/one", link("../srv/two")), ("srv/two", Kind::Dir)],
            ),
            package(
                "c",
                "",
                vec![("opt/esc", link("../../../../lib")), ("opt/esc/g", file())],
            ),
        ];
        assert_eq!(
            paths(&packages),
            ["opt/esc", "opt/one", "srv/two", "srv/two/f", "usr/lib/g"]
        );
        let circle = [package(
            "a",
            "",
            vec![("x", link("y")), ("y", link("x")), ("x/f", file())],
        )];
        assert_eq!(
            place(&circle, true).err().unwrap().kind(),
            ErrorKind::Invalid
        );
    }

    #[test]
    fn replaces_decides_and_nothing_else_does() {
        let two = |left: &str, right: &str| {
            [
                package("a", left, vec![("f", file())]),
                package("b", right, vec![("f", file())]),
            ]
        };
        let winner = |packages: &[Package]| place(packages, true).map(|placed| placed["f"].package);
        assert_eq!(winner(&two("Replaces: b\n", "")).unwrap(), 0);
        assert_eq!(winner(&two("", "Replaces: x, a (<< 2)\n")).unwrap(), 1);
        let error = winner(&two("", "")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }

    #[test]
    fn slim_trees_keep_licences() {
        for path in [
            "usr/share/doc/a/copyright",
            "usr/share/doc/a",
            "usr/lib/python3/x",
            "usr/share/man",
        ] {
            assert!(!is_dropped(path), "{path}");
        }
        for path in [
            "usr/share/doc/a/changelog.gz",
            "usr/share/doc/a/examples/x",
            "usr/share/man/man1/x",
            "usr/lib/x86_64-linux-gnu/gconv/X.so",
            "usr/lib/python3/a.pyc",
        ] {
            assert!(is_dropped(path), "{path}");
        }
    }
}
