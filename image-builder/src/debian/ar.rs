//! Reads `ar` archives, the outer form of a Debian package (deb(5)), one member after the other.

use std::io::{self, Read};

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER: usize = 60;

/// An archive read from its start to its end.
pub(super) struct Archive<R> {
    input: R,
    /// Bytes of the current member not yet read, and whether one padding byte follows.
    left: u64,
    padded: bool,
}

impl<R: Read> Archive<R> {
    /// Opens an archive by its magic number.
    pub(super) fn open(mut input: R) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if &magic != MAGIC {
            return Err(malformed("not an ar archive"));
        }
        Ok(Self {
            input,
            left: 0,
            padded: false,
        })
    }

    /// Moves on to the next member and gives its name; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<String>> {
        io::copy(self, &mut io::sink())?;
        if self.left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut header = [0; HEADER];
        if std::mem::take(&mut self.padded) {
            // The padding of the last member may be missing.
            let _ = self.input.read(&mut header[..1])?;
        }
        let first = self.input.read(&mut header)?;
        if first == 0 {
            return Ok(None);
        }
        self.input.read_exact(&mut header[first..])?;
        let (name, size) = parse(&header)?;
        self.left = size;
        self.padded = size % 2 == 1;
        Ok(Some(name))
    }
}

impl<R: Read> Read for Archive<R> {
    /// Reads from the current member and ends where it does.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = self.input.read(&mut buffer[..most])?;
        self.left -= read as u64;
        Ok(read)
    }
}

/// Name and size out of a member's header: text fields padded with spaces.
fn parse(header: &[u8; HEADER]) -> io::Result<(String, u64)> {
    if &header[58..] != b"`\n" {
        return Err(malformed("a member's header is broken"));
    }
    let text =
        std::str::from_utf8(header).map_err(|_| malformed("a member's header is not text"))?;
    let field = |from, to| text.get(from..to).map(str::trim_end);
    let name = field(0, 16).ok_or_else(|| malformed("a member's name is broken"))?;
    let size = field(48, 58)
        .filter(|size| size.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|size| size.parse().ok())
        .ok_or_else(|| malformed("a member's size is no number"))?;
    Ok((name.trim_end_matches('/').to_owned(), size))
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
        let mut archive = Archive::open(bytes)?;
        let mut all = Vec::new();
        while let Some(name) = archive.next()? {
            let mut body = Vec::new();
            archive.read_to_end(&mut body)?;
            all.push((name, body));
        }
        Ok(all)
    }

    fn member(name: &str, size: &str, body: &str) -> String {
        format!("{name:<16}0           0     0     100644  {size:<10}`\n{body}")
    }

    #[test]
    fn members_follow_each_other() {
        let text = format!(
            "!<arch>\n{}\n{}",
            member("a", "3", "abc"),
            member("b/", "2", "xy")
        );
        let got = members(text.as_bytes()).unwrap();
        assert_eq!(
            got,
            [
                ("a".to_owned(), b"abc".to_vec()),
                ("b".to_owned(), b"xy".to_vec())
            ]
        );
    }

    #[test]
    fn cut_and_lying_archives_are_refused() {
        for text in [
            "!<arch>".to_owned(),
            "!<arch>\nshort".to_owned(),
            format!("!<arch>\n{}", member("a", "-1", "")),
            format!("!<arch>\n{}", member("a", "9999999999", "abc")),
        ] {
            let Ok(mut archive) = Archive::open(text.as_bytes()) else {
                continue;
            };
            let end = archive.next().and_then(|_| archive.next());
            assert!(end.is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = members(&bytes);
            let mut framed = MAGIC.to_vec();
            framed.extend(&bytes);
            let _ = members(&framed);
        }
    }
}
