//! Closes a set of packages over its dependencies: pure, greedy, and the same on every host.
//!
//! The first alternative that can be had is taken, and a virtual package by its most important
//! provider, which is what apt does when nothing is installed. Groups that offer a choice wait
//! until everything without a choice is in, so that a choice already made is kept.
//! `Recommends` and `Conflicts` are not looked at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::index::{Candidate, Index};
use super::lock::LockedPackage;
use super::relation::Clause;
use crate::error::{Error, ErrorKind, Result};

const STAGE: &str = "resolve packages";

/// What to resolve.
pub(super) struct Request<'a> {
    /// The packages wanted.
    pub(super) packages: &'a [String],
    /// Names whose dependencies are taken as met, unless they are wanted themselves.
    pub(super) exclude: &'a BTreeSet<String>,
    /// Packages that are already there.
    pub(super) installed: &'a [LockedPackage],
}

/// Gives the packages to add for `request`, sorted by name.
pub(super) fn resolve(index: &Index, request: &Request<'_>) -> Result<Vec<LockedPackage>> {
    let mut closure = Closure {
        index,
        request,
        installed: request
            .installed
            .iter()
            .map(|one| (one.name.as_str(), one))
            .collect(),
        chosen: BTreeMap::new(),
        certain: VecDeque::new(),
        open: VecDeque::new(),
    };
    for name in request.packages {
        closure.want(name)?;
    }
    closure.close()?;
    Ok(closure
        .chosen
        .into_values()
        .map(|candidate| candidate.package.clone())
        .collect())
}

struct Closure<'a> {
    index: &'a Index,
    request: &'a Request<'a>,
    installed: BTreeMap<&'a str, &'a LockedPackage>,
    chosen: BTreeMap<&'a str, &'a Candidate>,
    /// Groups with one possible answer, with the package that needs them.
    certain: VecDeque<(&'a str, Vec<Clause>)>,
    /// Groups with several.
    open: VecDeque<(&'a str, Vec<Clause>)>,
}

impl<'a> Closure<'a> {
    fn want(&mut self, name: &str) -> Result<()> {
        if self.installed.contains_key(name) {
            return Ok(());
        }
        let clause = Clause {
            name: name.to_owned(),
            bound: None,
        };
        let index = self.index;
        let found = index
            .get(name)
            .or_else(|| index.providers(&clause).first().copied());
        let candidate = found.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                STAGE,
                name,
                "no source has this package",
            )
            .with_hint("check its name, the suites and the components of the sources")
        })?;
        self.choose(candidate);
        Ok(())
    }

    fn choose(&mut self, candidate: &'a Candidate) {
        let name = candidate.package.name.as_str();
        if self.chosen.insert(name, candidate).is_some() {
            return;
        }
        for group in candidate.depends() {
            let virtual_name = |clause: &Clause| self.index.get(&clause.name).is_none();
            let choice = group.len() > 1 || group.iter().any(virtual_name);
            let queue = if choice {
                &mut self.open
            } else {
                &mut self.certain
            };
            queue.push_back((name, group));
        }
    }

    fn close(&mut self) -> Result<()> {
        while let Some((by, group)) = self.certain.pop_front().or_else(|| self.open.pop_front()) {
            if !group.iter().any(|clause| self.is_met(clause)) {
                let candidate = self.answer(&group).ok_or_else(|| self.unmet(by, &group))?;
                self.choose(candidate);
            }
        }
        Ok(())
    }

    fn is_met(&self, clause: &Clause) -> bool {
        let there = |package: &&LockedPackage| {
            package.name == clause.name && clause.admits(&package.version)
        };
        // What an installed package provides is only known from the index of today.
        let provided = || {
            self.installed
                .keys()
                .filter_map(|name| self.index.get(name))
                .chain(self.chosen.values().copied())
                .any(|candidate| candidate.satisfies(clause))
        };
        self.request.exclude.contains(&clause.name)
            || self.installed.get(clause.name.as_str()).is_some_and(there)
            || self
                .chosen
                .get(clause.name.as_str())
                .is_some_and(|one| one.satisfies(clause))
            || (!self.installed.contains_key(clause.name.as_str()) && provided())
    }

    /// The first alternative that can be had and does not replace an installed package.
    fn answer(&self, group: &[Clause]) -> Option<&'a Candidate> {
        let index = self.index;
        group.iter().find_map(|clause| {
            let real = index
                .get(&clause.name)
                .filter(|candidate| candidate.satisfies(clause));
            real.into_iter()
                .chain(index.providers(clause))
                .find(|candidate| !self.installed.contains_key(candidate.package.name.as_str()))
        })
    }

    fn unmet(&self, by: &str, group: &[Clause]) -> Error {
        let wanted = group
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" or ");
        let held = group
            .iter()
            .find_map(|clause| self.installed.get(clause.name.as_str()));
        match held {
            Some(package) => {
                let detail = format!(
                    "it needs {wanted}, but the base has {} {}",
                    package.name, package.version
                );
                Error::new(ErrorKind::Conflict, STAGE, by, detail).with_hint(
                    "resolve the base again, so that both come from the same state of the suite",
                )
            }
            None => Error::new(
                ErrorKind::NotFound,
                STAGE,
                by,
                format!("it needs {wanted}, which no source offers"),
            )
            .with_hint("add the suite or component that has it to the sources"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::tests::index;
    use super::*;

    fn names(
        index: &Index,
        wanted: &[&str],
        exclude: &[&str],
        installed: &[LockedPackage],
    ) -> Result<Vec<String>> {
        let packages: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        let exclude = exclude.iter().map(ToString::to_string).collect();
        let request = Request {
            packages: &packages,
            exclude: &exclude,
            installed,
        };
        Ok(resolve(index, &request)?
            .into_iter()
            .map(|package| package.name)
            .collect())
    }

    #[test]
    fn closes_over_cycles_alternatives_and_virtual_packages() {
        let index = index(&[
            "app 1|lib (>= 1), mail",
            "lib 2|app, first / second, missing / second",
            "first 1",
            "second 1",
            "exim 1||mail",
            "aexim 1|gone|mail",
        ]);
        let error = names(&index, &["app"], &[], &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("gone"));
        let got = names(&index, &["app"], &["gone"], &[]).unwrap();
        assert_eq!(got, ["aexim", "app", "first", "lib", "second"]);
    }

    #[test]
    fn a_choice_made_elsewhere_is_kept() {
        let index = index(&[
            "app 1|first / second, other",
            "other 1|second",
            "first 1",
            "second 1",
        ]);
        assert_eq!(
            names(&index, &["app"], &[], &[]).unwrap(),
            ["app", "other", "second"]
        );
    }

    #[test]
    fn a_layer_holds_only_what_the_base_lacks() {
        let index = index(&[
            "python 3",
            "test 1|python (>= 3), iniconfig",
            "iniconfig 1|python",
            "new 1|python (>> 3)",
        ]);
        let mut base = resolve(
            &index,
            &Request {
                packages: &["python".to_owned()],
                exclude: &BTreeSet::new(),
                installed: &[],
            },
        )
        .unwrap();
        assert_eq!(
            names(&index, &["test"], &[], &base).unwrap(),
            ["iniconfig", "test"]
        );
        base[0].version = "2".to_owned();
        let error = names(&index, &["test"], &[], &base).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }

    #[test]
    fn unknown_packages_are_named() {
        let error = names(&index(&["a 1"]), &["nope"], &[], &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "resolve packages `nope`: no source has this package"
        );
    }
}
