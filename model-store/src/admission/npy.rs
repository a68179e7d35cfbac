//! NumPy's `.npy`: a header that is a Python literal, then raw elements or, for objects, a pickle.

use super::pickle;
use super::policy::Check;
use super::report::Findings;
use super::source::{Content, Cursor, Failure, Scan};

pub(super) const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header, in bytes. NumPy itself refuses more than 10,000 unless told otherwise.
const MAX_HEADER: usize = 60_000;
/// Most arrays after each other in one file.
const MAX_ARRAYS: u32 = 1 << 20;

/// Looks at a file of one or more arrays.
pub(super) fn inspect(content: &Content<'_>, findings: &mut Findings<'_>) -> Scan<()> {
    let mut cursor = content.open()?;
    for _ in 0..MAX_ARRAYS {
        let header = header(&mut cursor)?;
        let Some(bytes) = header.bytes else {
            // The pickle ends the file as far as it can be told: another array after it would be
            // taken for one more pickle, and refused.
            let start = cursor.offset();
            let rest = rest(content, start)?;
            return pickle::inspect(&rest, findings).map(drop);
        };
        cursor.skip(bytes)?;
        if cursor.at_end()? {
            return Ok(());
        }
    }
    findings.add(
        Check::MalformedArray,
        None,
        "too many arrays follow each other",
    );
    Ok(())
}

/// Everything from an offset on.
fn rest<'a>(content: &Content<'a>, start: u64) -> Scan<Content<'a>> {
    content
        .from(start)
        .ok_or_else(|| Failure::broken("the file ends in its header"))
}

struct Header {
    /// Bytes of elements; `None` where they are objects.
    bytes: Option<u64>,
}

fn header(cursor: &mut Cursor<'_>) -> Scan<Header> {
    if cursor.bytes(MAGIC.len())? != MAGIC {
        return Err(Failure::broken("bytes follow the array"));
    }
    let [major, _] = cursor.array()?;
    let length = match major {
        1 => usize::from(cursor.u16()?),
        2 | 3 => usize::try_from(cursor.u32()?).unwrap_or(usize::MAX),
        _ => return Err(Failure::broken(format!("version {major} is not known"))),
    };
    if length > MAX_HEADER {
        return Err(Failure::broken(format!("the header claims {length} bytes")));
    }
    let text = str::from_utf8(cursor.bytes(length)?)
        .map_err(|_| Failure::broken("the header is not text"))?;
    parse(text).ok_or_else(|| Failure::broken("the header is not understood"))
}

/// What is known of a dtype: the size of an element, and whether it holds objects.
#[derive(Clone, Copy)]
struct Dtype {
    size: u64,
    objects: bool,
}

fn parse(text: &str) -> Option<Header> {
    let mut parser = Parser {
        rest: text.trim_end(),
    };
    let Literal::Dict(entries) = parser.literal(8)? else {
        return None;
    };
    if !parser.rest.is_empty() || entries.len() != 3 {
        return None;
    }
    let field = |name: &str| {
        entries
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    };
    if !matches!(field("fortran_order")?, Literal::Word) {
        return None;
    }
    let Literal::Sequence(shape) = field("shape")? else {
        return None;
    };
    let count = product(shape)?;
    let dtype = dtype(field("descr")?)?;
    let bytes = if dtype.objects {
        None
    } else {
        Some(count.checked_mul(dtype.size)?)
    };
    Some(Header { bytes })
}

fn product(shape: &[Literal]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |count, length| match length {
        Literal::Number(length) => count.checked_mul(*length),
        _ => None,
    })
}

fn dtype(descr: &Literal) -> Option<Dtype> {
    match descr {
        Literal::Text(text) => named(text),
        Literal::Sequence(fields) => {
            let mut all = Dtype {
                size: 0,
                objects: false,
            };
            for field in fields {
                let Literal::Sequence(field) = field else {
                    return None;
                };
                let (inner, count) = match &field[..] {
                    [_, inner] => (dtype(inner)?, 1),
                    [_, inner, Literal::Sequence(shape)] => (dtype(inner)?, product(shape)?),
                    _ => return None,
                };
                all.size = all.size.checked_add(inner.size.checked_mul(count)?)?;
                all.objects |= inner.objects;
            }
            Some(all)
        }
        _ => None,
    }
}

fn named(text: &str) -> Option<Dtype> {
    let text = text.strip_prefix(['<', '>', '|', '=']).unwrap_or(text);
    // A unit of time may follow: `M8[ns]`.
    let (text, unit) = text.split_at(text.find('[').unwrap_or(text.len()));
    let unit_is_plain = unit
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"[]/".contains(&b));
    let (kind, digits) = text.split_at_checked(1)?;
    let number: u64 = match digits {
        "" if kind == "O" => 8,
        _ if digits.len() < 10 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok()?
        }
        _ => return None,
    };
    let size = match kind {
        "b" | "i" | "u" | "f" | "c" | "m" | "M" | "O" if number <= 32 => number,
        "S" | "V" | "a" => number,
        "U" => number * 4,
        _ => return None,
    };
    (unit_is_plain && (unit.is_empty() || "mM".contains(kind))).then_some(Dtype {
        size,
        objects: kind == "O",
    })
}

/// A Python literal, as far as headers use them.
enum Literal {
    Text(String),
    Number(u64),
    /// `True`, `False`, `None`.
    Word,
    Sequence(Vec<Self>),
    Dict(Vec<(String, Self)>),
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn eat(&mut self, token: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn literal(&mut self, depth: u8) -> Option<Literal> {
        if depth == 0 {
            return None;
        }
        self.rest = self.rest.trim_start();
        match self.rest.chars().next()? {
            '{' => self.dict(depth - 1),
            '(' => self.sequence(')', depth - 1),
            '[' => self.sequence(']', depth - 1),
            '\'' | '"' => self.text().map(Literal::Text),
            '0'..='9' => {
                let end = self
                    .rest
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(self.rest.len());
                let (digits, rest) = self.rest.split_at(end);
                // Python 2 wrote long integers with an L.
                self.rest = rest.strip_prefix('L').unwrap_or(rest);
                digits.parse().ok().map(Literal::Number)
            }
            _ => {
                let words = ["True", "False", "None"];
                let word = words.iter().find_map(|word| self.rest.strip_prefix(word))?;
                self.rest = word;
                Some(Literal::Word)
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        let quote = self.rest.chars().next()?;
        let body = &self.rest[1..];
        let (text, rest) = body.split_once(quote)?;
        // Escapes are for names of fields, which do not matter; but they hide the end of the text.
        if text.contains('\\') {
            return None;
        }
        self.rest = rest;
        Some(text.to_owned())
    }

    fn sequence(&mut self, end: char, depth: u8) -> Option<Literal> {
        self.rest = &self.rest[1..];
        let mut items = Vec::new();
        while !self.eat(end) {
            items.push(self.literal(depth)?);
            if !self.eat(',') {
                return self.eat(end).then_some(Literal::Sequence(items));
            }
        }
        Some(Literal::Sequence(items))
    }

    fn dict(&mut self, depth: u8) -> Option<Literal> {
        self.rest = &self.rest[1..];
        let mut entries: Vec<(String, Literal)> = Vec::new();
        while !self.eat('}') {
            let Literal::Text(key) = self.literal(depth)? else {
                return None;
            };
            if !self.eat(':') || entries.iter().any(|(known, _)| *known == key) {
                return None;
            }
            entries.push((key, self.literal(depth)?));
            if !self.eat(',') {
                return self.eat('}').then_some(Literal::Dict(entries));
            }
        }
        Some(Literal::Dict(entries))
    }
}
