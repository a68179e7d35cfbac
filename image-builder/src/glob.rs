//! One pattern of a `.dockerignore`, matched in time linear in the path.
//!
//! The syntax is Go's `filepath.Match` (`*`, `?`, `[a-z]`, `[^a]`, `\` escapes) plus `**`, which
//! stands for any number of directories. Matching follows all ways through the pattern at once,
//! so that no pattern, however nested, can make it backtrack.

/// A parsed pattern.
#[derive(Debug)]
pub(crate) struct Glob {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    /// This character.
    Literal(char),
    /// `?`: one character that is no `/`.
    One,
    /// `[…]`: one character of these ranges, or of none of them.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
    /// `*`: any characters but `/`.
    Name,
    /// `**` before more: nothing, or anything that ends in `/`.
    Dirs,
    /// `**` at the end: anything.
    Rest,
}

/// The places in a pattern that matching has reached, without doubles: before step `n`, or, as
/// number `steps + 1 + n`, inside a directory's name that step `n`, a [`Step::Dirs`], has begun.
struct Places {
    marked: Vec<bool>,
    list: Vec<usize>,
}

impl Places {
    fn new(len: usize) -> Self {
        Self {
            marked: vec![false; len],
            list: Vec::new(),
        }
    }

    /// Marks the place `at`; says whether it was unmarked.
    fn mark(&mut self, at: usize) -> bool {
        if std::mem::replace(&mut self.marked[at], true) {
            return false;
        }
        self.list.push(at);
        true
    }

    fn clear(&mut self) {
        for at in self.list.drain(..) {
            self.marked[at] = false;
        }
    }
}

impl Glob {
    /// Parses a cleaned, non-empty pattern; `None` if it is malformed.
    pub(crate) fn parse(pattern: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '*' if chars.next_if_eq(&'*').is_some() => {
                    // `**/` is `**`: the slash belongs to the directories.
                    let slash = chars.next_if_eq(&'/').is_some();
                    // Docker compares the end of the path with what follows a leading `**`, if
                    // that is plain text: `**file` is also `a/xfile`.
                    let suffix = steps.is_empty() && !slash && is_plain(chars.clone());
                    let last = chars.peek().is_none();
                    steps.push(if suffix || last {
                        Step::Rest
                    } else {
                        Step::Dirs
                    });
                }
                '*' => steps.push(Step::Name),
                '?' => steps.push(Step::One),
                '[' => steps.push(class(&mut chars)?),
                '\\' => steps.push(Step::Literal(chars.next()?)),
                c => steps.push(Step::Literal(c)),
            }
        }
        Some(Self { steps })
    }

    /// Whether the pattern matches the whole of `path`.
    pub(crate) fn matches(&self, path: &str) -> bool {
        self.run(path).marked[self.steps.len()]
    }

    /// Whether the pattern may match a path below the directory `dir`.
    pub(crate) fn may_match_below(&self, dir: &str) -> bool {
        let mut below = self.places();
        self.advance(&self.run(dir), '/', &mut below);
        // At the end of the pattern there is nothing left for a name below.
        below.list.iter().any(|&at| at != self.steps.len())
    }

    fn places(&self) -> Places {
        Places::new(2 * self.steps.len() + 1)
    }

    fn run(&self, path: &str) -> Places {
        let mut now = self.places();
        let mut next = self.places();
        self.enter(0, &mut now);
        for c in path.chars() {
            self.advance(&now, c, &mut next);
            std::mem::swap(&mut now, &mut next);
            next.clear();
            if now.list.is_empty() {
                break;
            }
        }
        now
    }

    /// Marks `at` and what can be reached from it without a character.
    fn enter(&self, mut at: usize, places: &mut Places) {
        while places.mark(at)
            && matches!(
                self.steps.get(at),
                Some(Step::Name | Step::Dirs | Step::Rest)
            )
        {
            at += 1;
        }
    }

    /// Marks in `next` all places that `c` leads to from those in `now`.
    fn advance(&self, now: &Places, c: char, next: &mut Places) {
        let inside = self.steps.len() + 1;
        for &place in &now.list {
            let at = place.checked_sub(inside).unwrap_or(place);
            match self.steps.get(at) {
                Some(Step::Name) if c != '/' => self.enter(at, next),
                Some(Step::Rest) => self.enter(at, next),
                Some(Step::Dirs) => {
                    next.mark(inside + at);
                    if c == '/' {
                        self.enter(at + 1, next);
                    }
                }
                Some(step) if step.takes(c) => self.enter(at + 1, next),
                _ => {}
            }
        }
    }
}

impl Step {
    /// Whether this is a step over one character, and `c` is such a one.
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Literal(literal) => *literal == c,
            Self::One => c != '/',
            Self::Class { ranges, negated } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
            Self::Name | Self::Dirs | Self::Rest => false,
        }
    }
}

/// Whether no character of the rest of a pattern has a meaning.
fn is_plain(mut rest: impl Iterator<Item = char>) -> bool {
    !rest.any(|c| matches!(c, '*' | '?' | '[' | ']' | '\\'))
}

/// The rest of a class after its `[`: at least one range, each a character or `low-high`.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Step> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
        let low = member(chars)?;
        let high = match chars.next_if_eq(&'-') {
            Some(_) => member(chars)?,
            None => low,
        };
        ranges.push((low, high));
    }
    Some(Step::Class { ranges, negated })
}

fn member(chars: &mut impl Iterator<Item = char>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

/// The obvious matcher, exponential and short, for tests: no classes, no escapes.
#[cfg(test)]
pub(crate) fn naive(pattern: &str, path: &str) -> bool {
    fn go(pattern: &[u8], path: &[u8]) -> bool {
        match pattern {
            [] => path.is_empty(),
            [b'*', b'*', rest @ ..] => {
                let rest = rest.strip_prefix(b"/").unwrap_or(rest);
                rest.is_empty()
                    || go(rest, path)
                    || (0..path.len()).any(|at| path[at] == b'/' && go(rest, &path[at + 1..]))
            }
            [b'*', rest @ ..] => {
                let name = path.iter().take_while(|byte| **byte != b'/').count();
                (0..=name).any(|at| go(rest, &path[at..]))
            }
            [b'?', rest @ ..] => path.first().is_some_and(|c| *c != b'/') && go(rest, &path[1..]),
            [c, rest @ ..] => path.first() == Some(c) && go(rest, &path[1..]),
        }
    }
    if let Some(suffix) = pattern.strip_prefix("**")
        && !suffix.starts_with('/')
        && !suffix.contains(['*', '?'])
    {
        return path.ends_with(suffix);
    }
    go(pattern.as_bytes(), path.as_bytes())
}

/// Cleaned patterns over a small alphabet, so that they match now and then.
#[cfg(test)]
pub(crate) fn arb_pattern() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let name = prop_oneof![
        2 => "[ab]{1,2}",
        1 => Just("**".to_owned()),
        1 => "[ab*?]{1,3}",
        1 => "\\*\\*[ab]{1,2}",
    ];
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Glob::parse(pattern).unwrap().matches(path)
    }

    #[test]
    fn go_s_rules_hold() {
        for (pattern, path, expected) in [
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[^b-d]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[z-a]", "m", false),
            ("a(b)c/d|.$+{", "a(b)c/d|.$+{", true),
            ("abc.def", "abcZdef", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} on {path}");
        }
        for broken in [
            "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc",
        ] {
            assert!(Glob::parse(broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn two_stars_are_any_number_of_directories() {
        for (pattern, path, expected) in [
            ("**", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir", false),
            ("dir/**", "dir/a/b", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir3/file", true),
            ("**/file", "afile", false),
            ("**/.foo", "bar.foo", false),
            ("**file", "dir/afile", true),
            ("**fi*e", "dir/afile", false),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt**", "a/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn a_pattern_made_to_backtrack_does_not() {
        let pattern = "**/*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a/**/*a*a*a*a*a*a*a*a*a*a*a*b";
        assert!(!matches(pattern, &"aaaaaaaaaaaaaaaaaaaaaaaaa/".repeat(80)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1024))]

        #[test]
        fn it_agrees_with_the_obvious_matcher(
            pattern in arb_pattern(), path in "[ab]{0,3}(/[ab]{0,3}){0,3}",
        ) {
            prop_assert_eq!(matches(&pattern, &path), naive(&pattern, &path));
        }
    }
}
