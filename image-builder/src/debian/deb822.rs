//! Reads deb822 paragraphs, the field format of Debian control data (Debian Policy 5.1).

use std::io::{self, BufRead};

/// Longest paragraph accepted, in bytes. Real ones stay far below; the bound keeps memory stated.
const PARAGRAPH_LIMIT: usize = 16 << 20;

/// One paragraph: fields in the order read, continuation lines joined by `\n`.
#[derive(Debug, Default)]
pub(super) struct Paragraph(Vec<(String, String)>);

impl Paragraph {
    /// The value of `name`, whose case does not matter (Policy 5.1).
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The value of `name` split at white space; nothing when the field is absent.
    pub(super) fn words(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).unwrap_or_default().split_whitespace()
    }

    /// Whether `name` says yes the way apt reads booleans.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).and_then(flag)
    }
}

/// Reads an apt boolean.
pub(super) fn flag(value: &str) -> Option<bool> {
    match value.trim().to_ascii_lowercase().as_str() {
        "yes" | "true" | "with" | "on" | "enable" | "1" => Some(true),
        "no" | "false" | "without" | "off" | "disable" | "0" => Some(false),
        _ => None,
    }
}

/// Reads paragraphs one after the other, keeping only the fields asked for.
pub(super) struct Paragraphs<'a, R> {
    input: R,
    /// Empty means every field.
    wanted: &'a [&'a str],
    line: Vec<u8>,
}

impl<'a, R: BufRead> Paragraphs<'a, R> {
    /// Reads from `input` the fields named in `wanted`, or all of them when it is empty.
    pub(super) fn new(input: R, wanted: &'a [&'a str]) -> Self {
        Self {
            input,
            wanted,
            line: Vec::new(),
        }
    }

    /// The next paragraph, or `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Paragraph>> {
        let mut paragraph = Paragraph::default();
        let mut size = 0;
        // Whether the field the continuation lines belong to is kept; None before the first field.
        let mut keep = None;
        loop {
            let Some(read) = self.read_line(PARAGRAPH_LIMIT - size)? else {
                return Ok(keep.map(|_| paragraph));
            };
            size += read;
            match self.line.first() {
                _ if self.line.iter().all(u8::is_ascii_whitespace) => {
                    if keep.is_some() {
                        return Ok(Some(paragraph));
                    }
                }
                Some(b' ' | b'\t') => match keep {
                    None => return Err(malformed("a continuation line before any field")),
                    Some(true) => append(&mut paragraph, text(&self.line)?),
                    Some(false) => {}
                },
                Some(b'#') => {}
                _ => keep = Some(self.field(&mut paragraph)?),
            }
        }
    }

    /// Takes the field of the current line if it is wanted, and says whether it was.
    fn field(&self, paragraph: &mut Paragraph) -> io::Result<bool> {
        let colon = self.line.iter().position(|byte| *byte == b':');
        let (name, value) = match colon {
            Some(at) => (self.line[..at].trim_ascii(), &self.line[at + 1..]),
            None => return Err(malformed("a line without a colon")),
        };
        // Most fields of an index are not wanted: they are passed over without another look.
        let keep = self.wanted.is_empty()
            || self
                .wanted
                .iter()
                .any(|wanted| wanted.as_bytes().eq_ignore_ascii_case(name));
        if keep {
            let value = text(value)?.trim().to_owned();
            paragraph.0.push((text(name)?.to_owned(), value));
        }
        Ok(keep)
    }

    /// Reads one line into `self.line` without its end; `None` at the end of the input.
    fn read_line(&mut self, limit: usize) -> io::Result<Option<usize>> {
        self.line.clear();
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        let read = io::Read::take(&mut self.input, limit).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return if limit == 0 {
                Err(malformed("a paragraph over 16 MiB"))
            } else {
                Ok(None)
            };
        }
        while self
            .line
            .last()
            .is_some_and(|byte| matches!(byte, b'\n' | b'\r'))
        {
            self.line.pop();
        }
        Ok(Some(read))
    }
}

/// Parses all paragraphs of a small text.
pub(super) fn parse(text: &str) -> io::Result<Vec<Paragraph>> {
    let mut reader = Paragraphs::new(text.as_bytes(), &[]);
    let mut all = Vec::new();
    while let Some(paragraph) = reader.next()? {
        all.push(paragraph);
    }
    Ok(all)
}

fn append(paragraph: &mut Paragraph, line: &str) {
    if let Some((_, value)) = paragraph.0.last_mut() {
        value.push('\n');
        value.push_str(line.trim());
    }
}

fn text(bytes: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| malformed(format!("not UTF-8: {error}")))
}

fn malformed(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_fold_and_paragraphs_split() {
        let all = parse("# note\nA: 1\nB:\n two\n\tthree\n\n\n\nA: 2\n").unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("b"), Some("\ntwo\nthree"));
        assert_eq!(all[0].words("B").collect::<Vec<_>>(), ["two", "three"]);
        assert_eq!(all[1].get("A"), Some("2"));
    }

    #[test]
    fn only_wanted_fields_are_kept() {
        let mut reader = Paragraphs::new("A: 1\nB: 2\n more\nC: 3\n".as_bytes(), &["c"]);
        let paragraph = reader.next().unwrap().unwrap();
        assert_eq!(paragraph.0, [("C".to_owned(), "3".to_owned())]);
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn stray_lines_are_refused() {
        assert!(parse("no colon here\n").is_err());
        assert!(parse(" continuation first\n").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = parse(&text);
        }
    }
}
