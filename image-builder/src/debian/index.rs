//! Reads package indexes: for each package name the one version that may be installed.

use std::collections::HashMap;
use std::io::{self, BufRead};

use super::deb822::{Paragraph, Paragraphs};
use super::lock::LockedPackage;
use super::relation::{self, Clause, Operator};
use super::version;

/// The fields of a stanza that are kept; everything else is dropped while reading.
const FIELDS: [&str; 10] = [
    "Package",
    "Version",
    "Architecture",
    "Depends",
    "Pre-Depends",
    "Provides",
    "Priority",
    "Filename",
    "Size",
    "SHA256",
];

/// The candidate version of a package, and what choosing it needs to know.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) package: LockedPackage,
    /// `Pre-Depends` and `Depends` as one field, parsed only if the package is chosen.
    depends: Box<str>,
    provides: Box<str>,
    /// 0 for `required` up to 4 for `optional` and the rest.
    pub(super) priority: u8,
    /// The rank of the suite: a higher one wins over any version.
    rank: u8,
}

impl Candidate {
    /// The dependencies, each a group of alternatives.
    pub(super) fn depends(&self) -> Vec<Vec<Clause>> {
        relation::parse(&self.depends)
    }

    /// Whether the package itself, or a name it provides, is what `clause` asks for.
    pub(super) fn satisfies(&self, clause: &Clause) -> bool {
        (self.package.name == clause.name && clause.admits(&self.package.version))
            || relation::parse(&self.provides)
                .into_iter()
                .flatten()
                .any(|provided| {
                    provided.name == clause.name
                        && match (&clause.bound, &provided.bound) {
                            (None, _) => true,
                            // An unversioned provide satisfies no versioned dependency (Policy 7.5).
                            (Some(_), Some((Operator::Exactly, version))) => clause.admits(version),
                            (Some(_), _) => false,
                        }
                })
    }

    fn is_better_than(&self, other: &Self) -> bool {
        self.rank
            .cmp(&other.rank)
            .then_with(|| version::compare(&self.package.version, &other.package.version))
            .is_gt()
    }
}

/// All candidates of all suites; some tens of megabytes for a whole distribution.
#[derive(Debug, Default)]
pub(super) struct Index {
    candidates: HashMap<Box<str>, Candidate>,
    providers: HashMap<Box<str>, Vec<Box<str>>>,
}

impl Index {
    /// Adds the packages of one index that fit `architecture`.
    pub(super) fn read(
        &mut self,
        input: impl BufRead,
        suite: &str,
        rank: u8,
        architecture: &str,
    ) -> io::Result<()> {
        let mut paragraphs = Paragraphs::new(input, &FIELDS);
        while let Some(paragraph) = paragraphs.next()? {
            if let Some(candidate) = candidate(&paragraph, suite, rank)
                && matches!(&*candidate.package.architecture, one if one == architecture || one == "all")
            {
                self.add(candidate);
            }
        }
        Ok(())
    }

    fn add(&mut self, candidate: Candidate) {
        match self.candidates.get_mut(candidate.package.name.as_str()) {
            Some(known) if candidate.is_better_than(known) => *known = candidate,
            Some(_) => {}
            None => {
                self.candidates
                    .insert(candidate.package.name.clone().into(), candidate);
            }
        }
    }

    /// Notes who provides which virtual package; call once everything has been read.
    pub(super) fn finish(&mut self) {
        for candidate in self
            .candidates
            .values()
            .filter(|candidate| !candidate.provides.is_empty())
        {
            for provided in relation::parse(&candidate.provides).into_iter().flatten() {
                let providers = self.providers.entry(provided.name.into()).or_default();
                providers.push(candidate.package.name.clone().into());
            }
        }
    }

    /// The candidate called `name`.
    pub(super) fn get(&self, name: &str) -> Option<&Candidate> {
        self.candidates.get(name)
    }

    /// The packages that provide what `clause` asks for, the most important first, then by name.
    pub(super) fn providers(&self, clause: &Clause) -> Vec<&Candidate> {
        let names = self
            .providers
            .get(clause.name.as_str())
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut found: Vec<&Candidate> = names
            .iter()
            .filter_map(|name| self.get(name))
            .filter(|candidate| candidate.satisfies(clause))
            .collect();
        found.sort_by(|left, right| {
            (left.priority, &left.package.name).cmp(&(right.priority, &right.package.name))
        });
        found.dedup_by(|left, right| left.package.name == right.package.name);
        found
    }
}

/// Takes a stanza; `None` when it lacks what is needed to fetch and verify the package.
fn candidate(paragraph: &Paragraph, suite: &str, rank: u8) -> Option<Candidate> {
    let field = |name| paragraph.get(name).map(ToOwned::to_owned);
    let depends = [paragraph.get("Pre-Depends"), paragraph.get("Depends")];
    Some(Candidate {
        package: LockedPackage {
            name: field("Package")?,
            version: field("Version")?,
            architecture: field("Architecture")?,
            suite: suite.to_owned(),
            filename: paragraph
                .get("Filename")?
                .trim_start_matches("./")
                .to_owned(),
            size: paragraph.get("Size")?.parse().ok()?,
            sha256: paragraph.get("SHA256")?.to_ascii_lowercase(),
        },
        depends: depends
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join(", ")
            .into(),
        provides: paragraph.get("Provides").unwrap_or_default().into(),
        priority: match paragraph.get("Priority") {
            Some("required") => 0,
            Some("important") => 1,
            Some("standard") => 2,
            _ => 4,
        },
        rank,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An index of stanzas written as `name version|depends|provides`.
    pub(in super::super) fn index(lines: &[&str]) -> Index {
        let mut index = Index::default();
        for line in lines {
            let mut parts = line.split('|').map(str::trim);
            let (name, version) = parts.next().unwrap().split_once(' ').unwrap();
            let depends = parts.next().unwrap_or_default().replace('/', "|");
            let provides = parts.next().unwrap_or_default();
            let text = format!(
                "Package: {name}\nVersion: {version}\nArchitecture: all\nDepends: {depends}\n\
                 Provides: {provides}\nFilename: pool/{name}.deb\nSize: 1\nSHA256: {}\n",
                "ab".repeat(32)
            );
            index.read(text.as_bytes(), "s", 1, "amd64").unwrap();
        }
        index.finish();
        index
    }

    #[test]
    fn the_newest_version_of_the_highest_rank_wins() {
        let mut index = index(&["a 1.10", "a 1.9"]);
        let newer =
            "Package: a\nVersion: 2\nArchitecture: amd64\nFilename: f\nSize: 1\nSHA256: x\n";
        index
            .read(newer.as_bytes(), "backports", 0, "amd64")
            .unwrap();
        assert_eq!(index.get("a").unwrap().package.version, "1.10");
        index
            .read(newer.as_bytes(), "security", 1, "amd64")
            .unwrap();
        assert_eq!(index.get("a").unwrap().package.version, "2");
        let foreign = newer.replace("amd64", "arm64").replace('2', "3");
        index.read(foreign.as_bytes(), "s", 1, "amd64").unwrap();
        assert_eq!(index.get("a").unwrap().package.version, "2");
    }

    #[test]
    fn versioned_dependencies_need_versioned_provides() {
        let index = index(&["a 1||v", "b 1||v (= 2)"]);
        let names = |text: &str| {
            let clause = relation::parse(text).remove(0).remove(0);
            index
                .providers(&clause)
                .iter()
                .map(|one| one.package.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names("v"), ["a", "b"]);
        assert_eq!(names("v (>= 2)"), ["b"]);
    }
}
