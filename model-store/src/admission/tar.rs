//! Tar archives, packed or not: every file in them is looked at.

use super::inspect::{Place, inspect, judge};
use super::policy::Check;
use super::report::Findings;
use super::source::{Content, Cursor, Failure, Scan};

const BLOCK: u64 = 512;
/// Longest name in an entry of its own, in bytes.
const MAX_NAME: u64 = 32 << 10;

/// Whether a file begins like a tar archive of POSIX or GNU.
pub(super) fn begins(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// Looks at every file.
pub(super) fn look(
    content: &Content<'_>,
    findings: &mut Findings<'_>,
    place: Place<'_>,
) -> Scan<()> {
    let mut cursor = content.open()?;
    let mut entries = 0;
    let mut long_name = None;
    while let Some(header) = header(&mut cursor)? {
        entries += 1;
        if entries > findings.policy().max_files {
            return Err(Failure::Limit("it has too many entries".into()));
        }
        let start = cursor.offset();
        match header.kind {
            b'L' => long_name = Some(text(&mut cursor, header.size)?),
            b'x' => long_name = pax_path(&mut cursor, header.size)?.or(long_name),
            b'0' | b'\0' | b'7' => {
                let name = long_name.take().unwrap_or(header.name);
                let part = content.slice(start, header.size);
                let part = part.ok_or_else(|| Failure::broken("an entry leaves the archive"))?;
                let outer = findings.enter(&name);
                let done = inspect(&part, findings, place.inner(&name));
                let done = judge(done, Check::UnreadableArchive, findings);
                findings.leave(outer);
                done?;
            }
            // Links, folders and devices hold no bytes.
            b'1'..=b'6' | b'K' | b'g' => long_name = None,
            kind => return Err(Failure::broken(format!("an entry is of kind {kind}"))),
        }
        let end = start + header.size.next_multiple_of(BLOCK);
        cursor.skip(end - cursor.offset())?;
    }
    Ok(())
}

struct Header {
    name: String,
    size: u64,
    kind: u8,
}

/// The next header; `None` at the end.
fn header(cursor: &mut Cursor<'_>) -> Scan<Option<Header>> {
    if cursor.at_end()? {
        return Ok(None);
    }
    let block: [u8; 512] = cursor.array()?;
    if block.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let sum: u64 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            u64::from(if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            })
        })
        .sum();
    let size = number(&block[124..136]);
    match (number(&block[148..156]) == Some(sum), size) {
        (true, Some(size)) if size <= u64::MAX / 4 => Ok(Some(Header {
            name: until_nul(&block[..100]),
            size,
            kind: block[156],
        })),
        _ => Err(Failure::broken("a header is damaged")),
    }
}

fn until_nul(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Octal text, or, with the highest bit set, a binary number.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let fits = field[0] == 0x80 && field[1..field.len() - 8].iter().all(|byte| *byte == 0);
        let low = field[field.len() - 8..].iter();
        return fits.then(|| low.fold(0, |all, byte| all << 8 | u64::from(*byte)));
    }
    let text = str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    u64::from_str_radix(text, 8).ok()
}

/// The text that an entry of its own holds.
fn text(cursor: &mut Cursor<'_>, size: u64) -> Scan<String> {
    if size > MAX_NAME {
        return Err(Failure::broken("a name is too long"));
    }
    cursor
        .bytes(usize::try_from(size).unwrap_or(0))
        .map(until_nul)
}

/// The path that extended headers give, which may not give sizes: readers differ in heeding them.
fn pax_path(cursor: &mut Cursor<'_>, size: u64) -> Scan<Option<String>> {
    let records = text(cursor, size)?;
    let value = |key: &str| {
        let found = records
            .lines()
            .find_map(|line| line.split_once(' ')?.1.strip_prefix(key));
        found.map(str::to_owned)
    };
    if value("size=").is_some() || value("GNU.sparse").is_some() {
        return Err(Failure::broken(
            "an extended header changes an entry's size",
        ));
    }
    Ok(value("path="))
}
