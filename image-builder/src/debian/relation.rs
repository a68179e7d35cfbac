//! Reads dependency fields (Debian Policy 7.1).

use std::cmp::Ordering;

use super::version;

/// One alternative of a dependency: a package name and perhaps a bound on its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause {
    /// The package, real or virtual, without an architecture qualifier.
    pub(super) name: String,
    /// The operator and the version it compares with.
    pub(super) bound: Option<(Operator, String)>,
}

/// How a version is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Before,
    UpTo,
    Exactly,
    From,
    After,
}

impl Clause {
    /// Whether `version` lies within the bound.
    pub(super) fn admits(&self, version: &str) -> bool {
        let Some((operator, bound)) = &self.bound else {
            return true;
        };
        let order = version::compare(version, bound);
        match operator {
            Operator::Before => order == Ordering::Less,
            Operator::UpTo => order != Ordering::Greater,
            Operator::Exactly => order == Ordering::Equal,
            Operator::From => order != Ordering::Less,
            Operator::After => order == Ordering::Greater,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let end = text.find(|letter: char| letter.is_whitespace() || "([<".contains(letter));
        let name = text.get(..end.unwrap_or(text.len()))?;
        // `name:any` asks for a foreign-architecture-safe interpreter; one architecture is all we have.
        let name = name.split(':').next().unwrap_or(name).to_owned();
        if name.is_empty() {
            return None;
        }
        let bound = text
            .split_once('(')
            .and_then(|(_, rest)| rest.split_once(')'))
            .and_then(|(inside, _)| bound(inside.trim()));
        Some(Self { name, bound })
    }
}

impl std::fmt::Display for Clause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)?;
        let Some((operator, version)) = &self.bound else {
            return Ok(());
        };
        let operator = match operator {
            Operator::Before => "<<",
            Operator::UpTo => "<=",
            Operator::Exactly => "=",
            Operator::From => ">=",
            Operator::After => ">>",
        };
        write!(f, " ({operator} {version})")
    }
}

fn bound(text: &str) -> Option<(Operator, String)> {
    let end = text.find(|letter: char| !"<>=".contains(letter))?;
    let (operator, version) = text.split_at(end);
    let operator = match operator {
        "<<" => Operator::Before,
        // A single sign means "or equal", for compatibility (deb-version history).
        "<=" | "<" => Operator::UpTo,
        "=" => Operator::Exactly,
        ">=" | ">" => Operator::From,
        ">>" => Operator::After,
        _ => return None,
    };
    Some((operator, version.trim().to_owned()))
}

/// Parses a field into its comma separated groups of `|` separated alternatives.
pub(super) fn parse(field: &str) -> Vec<Vec<Clause>> {
    field
        .split(',')
        .map(|group| {
            group
                .split('|')
                .filter_map(|text| Clause::parse(text.trim()))
                .collect()
        })
        .filter(|group: &Vec<Clause>| !group.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn groups_alternatives_bounds_and_qualifiers() {
        let groups = parse("python3:any (>= 3.7~), libblas3 | libblas.so.3,, a(<<2) [amd64] ");
        assert_eq!(groups.len(), 3);
        assert_eq!(groups[0][0].name, "python3");
        assert!(groups[0][0].admits("3.7") && !groups[0][0].admits("3.6"));
        assert_eq!(groups[1][1].name, "libblas.so.3");
        assert_eq!(groups[2][0].to_string(), "a (<< 2)");
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
