//! The textual arguments of protocol 0, decoded as CPython does.

/// A decimal number with nothing around it. CPython also takes blanks, underscores and, for some
/// opcodes, other bases; no pickler writes them.
pub(super) fn decimal(line: &[u8]) -> Option<u64> {
    let plain = !line.is_empty() && line.iter().all(u8::is_ascii_digit);
    if !plain || (line.len() > 1 && line[0] == b'0') {
        return None;
    }
    str::from_utf8(line).ok()?.parse().ok()
}

/// The quoted argument of `STRING`: a Python 2 text; `None` if it is not ASCII, and so depends on
/// how it is loaded.
pub(super) fn quoted(line: &[u8]) -> Result<Option<String>, &'static str> {
    match line.trim_ascii_end() {
        [first @ (b'"' | b'\''), body @ .., last] if first == last => Ok(escaped(body)),
        _ => Err("a text has no quotes around it"),
    }
}

/// Backslash escapes of a byte string.
fn escaped(body: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(body.len());
    let mut rest = body.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'\\' {
            match rest.next()? {
                b'\n' => continue,
                b'a' => 7,
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                b'x' => hex(&mut rest, 2).and_then(|value| u8::try_from(value).ok())?,
                digit @ b'0'..=b'7' => octal(digit, &mut rest)?,
                same @ (b'\\' | b'\'' | b'"') => same,
                other => {
                    out.push('\\');
                    other
                }
            }
        } else {
            byte
        };
        if !byte.is_ascii() {
            return None;
        }
        out.push(char::from(byte));
    }
    Some(out)
}

type Bytes<'a> = std::iter::Peekable<std::iter::Copied<std::slice::Iter<'a, u8>>>;

fn hex(rest: &mut Bytes<'_>, digits: usize) -> Option<u32> {
    let mut value = 0;
    for _ in 0..digits {
        value = value * 16 + char::from(rest.next()?).to_digit(16)?;
    }
    Some(value)
}

fn octal(first: u8, rest: &mut Bytes<'_>) -> Option<u8> {
    let mut value = u32::from(first - b'0');
    for _ in 0..2 {
        match rest.next_if(|byte| matches!(byte, b'0'..=b'7')) {
            Some(digit) => value = value * 8 + u32::from(digit - b'0'),
            None => break,
        }
    }
    u8::try_from(value & 0xff).ok()
}

/// The argument of `UNICODE`: Latin-1 with `\uXXXX` and `\UXXXXXXXX` after an odd number of
/// backslashes. `None` if an escape is broken, or stands for no character.
pub(super) fn raw_unicode(line: &[u8]) -> Option<String> {
    let mut out = String::with_capacity(line.len());
    let mut rest = line.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            out.push(char::from(byte));
            continue;
        }
        let digits = match rest.peek() {
            Some(b'u') => 4,
            Some(b'U') => 8,
            // Any other byte, a second backslash too, stands for itself, and starts no escape.
            _ => {
                out.push('\\');
                if let Some(next) = rest.next() {
                    out.push(char::from(next));
                }
                continue;
            }
        };
        rest.next();
        out.push(hex(&mut rest, digits).and_then(char::from_u32)?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_strict() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"1234"), Some(1234));
        for wrong in [
            &b""[..],
            b"01",
            b" 1",
            b"1_0",
            b"+1",
            b"-1",
            b"0x1",
            b"1L",
            b"99999999999999999999999",
        ] {
            assert_eq!(decimal(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn python_2_texts_are_decoded() {
        let cases: [(&[u8], Option<&str>); 7] = [
            (b"'os'", Some("os")),
            (b"\"o\\x73\"", Some("os")),
            (b"'\\157\\163'", Some("os")),
            (b"'a\\'b\\\\'", Some("a'b\\")),
            (b"'\\q'", Some("\\q")),
            (b"'\\xff'", None),
            (b"'\\'", None),
        ];
        for (line, text) in cases {
            assert_eq!(quoted(line), Ok(text.map(str::to_owned)), "{line:?}");
        }
        for line in [&b"os"[..], b"'", b"'a\"", b""] {
            assert!(quoted(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn unicode_escapes_are_decoded() {
        assert_eq!(raw_unicode(b"os").as_deref(), Some("os"));
        assert_eq!(raw_unicode(b"\\u006fs").as_deref(), Some("os"));
        assert_eq!(raw_unicode(b"\\U0000006fs").as_deref(), Some("os"));
        assert_eq!(raw_unicode(b"\\\\u006fs").as_deref(), Some("\\\\u006fs"));
        assert_eq!(raw_unicode(b"\xe9").as_deref(), Some("\u{e9}"));
        assert_eq!(raw_unicode(b"\\ud800"), None);
        assert_eq!(raw_unicode(b"\\u00"), None);
    }
}
