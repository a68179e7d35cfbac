//! The heads of requests, as far as the services of benchmarks look at them.

use std::io::{self, BufRead, Read as _};

/// A request's head is read up to this length.
const HEAD_MAX: u64 = 64 << 10;

/// The parts of a request's head that matter here.
#[derive(Default)]
pub(crate) struct Head {
    pub(crate) method: String,
    pub(crate) path: String,
    /// The length of the body.
    pub(crate) length: u64,
    /// The first and the last byte that are asked for.
    pub(crate) range: Option<(u64, u64)>,
}

impl Head {
    /// Reads the next head; `None` when the client is done.
    pub(crate) fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut limited = reader.take(HEAD_MAX);
        let mut line = String::new();
        if limited.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split(' ').map(str::to_owned);
        let mut head = Self {
            method: words.next().unwrap_or_default(),
            path: words.next().unwrap_or_default(),
            ..Self::default()
        };
        loop {
            let mut line = String::new();
            limited.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                return Ok(Some(head));
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    head.length = value.trim().parse().map_err(io::Error::other)?;
                }
                "range" => head.range = range(value),
                _ => {}
            }
        }
    }
}

/// `bytes=FIRST-LAST`.
fn range(value: &str) -> Option<(u64, u64)> {
    let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}
