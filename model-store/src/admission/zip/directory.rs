//! The central directory of a zip archive, and whether the archive agrees with it.
//!
//! Readers of zip archives differ: some begin at the end, some at the beginning, some believe the
//! local headers, some the central ones. An archive is accepted only if all of them see the same
//! entries: every byte belongs to exactly one entry or to the directory. (APPNOTE.TXT, section 4.)

use std::collections::BTreeSet;

use crate::admission::report::quote;
use crate::admission::source::{Budget, Content, Failure, Packing, Scan, Source};

const LOCAL: [u8; 4] = *b"PK\x03\x04";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
const END_LENGTH: u64 = 22;
const LOCATOR_LENGTH: u64 = 20;
const END_64_LENGTH: u64 = 56;
/// Longest comment of an archive, in bytes.
const MAX_COMMENT: u64 = 65_535;
/// Bytes of names that are kept.
const MAX_NAMES: usize = 64 << 20;
/// Flags: encrypted, strongly encrypted, central directory masked.
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
/// Flag: sizes follow the data.
const DESCRIPTOR: u16 = 1 << 3;
/// Extra field with the 64-bit sizes, section 4.5.3.
const EXTRA_64: u16 = 0x0001;
/// Extra field with another name, section 4.6.9.
const EXTRA_NAME: u16 = 0x7075;

/// An entry.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) method: u16,
    pub(super) encrypted: bool,
    flags: u16,
    packed: u64,
    pub(super) size: u64,
    header: u64,
    /// Where its bytes begin.
    start: u64,
}

impl Entry {
    /// The entry's bytes, where the method is one that is read: stored or deflated.
    pub(super) fn content<'a>(&self, source: Source<'a>, budget: Budget) -> Option<Content<'a>> {
        let packed = source.slice(self.start, self.packed)?;
        match self.method {
            0 if self.packed == self.size => Some(Content::new(packed, Packing::None, budget)),
            8 => Some(Content::new(packed, Packing::Deflate, budget).exactly(self.size)),
            _ => None,
        }
    }
}

/// Where the directory lies.
struct Place {
    entries: u64,
    start: u64,
    length: u64,
}

/// Reads the directory and compares it with the archive.
pub(super) fn read(source: Source<'_>, max_entries: u64, budget: Budget) -> Scan<Vec<Entry>> {
    let place = place(source)?.ok_or_else(|| Failure::broken("it has no central directory"))?;
    if place.entries > max_entries {
        return Err(Failure::Limit(format!("it has {} entries", place.entries)));
    }
    let mut entries = central(source, &place, budget)?;
    for entry in &mut entries {
        entry.start = local(source, entry)?;
    }
    entries.sort_unstable_by_key(|entry| entry.header);
    contiguous(&entries, place.start)?;
    Ok(entries)
}

/// Whether something that is no archive at its beginning is one at its end: readers that begin at
/// the end would open it.
pub(in crate::admission) fn at_the_end(source: Source<'_>) -> Scan<bool> {
    let Some((at, record)) = end_record(source)? else {
        return Ok(false);
    };
    // A signature can stand in any bytes; only one with a directory before it counts.
    let length = u64::from(u32_at(&record, 12));
    let directory = at.checked_sub(length).filter(|_| length > 0);
    let wide = at.checked_sub(LOCATOR_LENGTH);
    Ok(begins_with(source, directory, CENTRAL)? || begins_with(source, wide, LOCATOR_64)?)
}

fn begins_with(source: Source<'_>, at: Option<u64>, signature: [u8; 4]) -> Scan<bool> {
    at.map_or(Ok(false), |at| Ok(source.piece(at, 4)? == signature))
}

/// The record at the end of an archive, and where it begins.
fn end_record(source: Source<'_>) -> Scan<Option<(u64, Vec<u8>)>> {
    let length = source.len().min(END_LENGTH + MAX_COMMENT);
    if length < END_LENGTH {
        return Ok(None);
    }
    let tail = source.piece(source.len() - length, usize::try_from(length).unwrap_or(0))?;
    let found = tail.windows(4).rposition(|window| window == END);
    let record = found.map(|found| tail[found..].to_vec());
    Ok(record
        .filter(|record| record.len() >= 22)
        .map(|record| (source.len() - record.len() as u64, record)))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes
        .get(at..at + 2)
        .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Finds the directory through the record at the end; `None` if there is no such record.
fn place(source: Source<'_>) -> Scan<Option<Place>> {
    let Some((at, record)) = end_record(source)? else {
        return Ok(None);
    };
    if usize::from(u16_at(&record, 20)) != record.len() - 22 {
        return Err(Failure::broken("the end record is not at the end"));
    }
    if u32_at(&record, 4) != 0 || u16_at(&record, 8) != u16_at(&record, 10) {
        return Err(Failure::broken("it is one part of a split archive"));
    }
    let small = Place {
        entries: u16_at(&record, 10).into(),
        length: u32_at(&record, 12).into(),
        start: u32_at(&record, 16).into(),
    };
    let (place, end) = match end_64(source, at, &small)? {
        Some(place) => place,
        None => (small, at),
    };
    if place.start.checked_add(place.length) != Some(end) {
        return Err(Failure::broken(
            "the central directory does not end where the end record begins",
        ));
    }
    Ok(Some(place))
}

/// The 64-bit record, which counts wherever its locator is there; and where it begins.
fn end_64(source: Source<'_>, end: u64, small: &Place) -> Scan<Option<(Place, u64)>> {
    let Some(at) = end.checked_sub(LOCATOR_LENGTH) else {
        return Ok(None);
    };
    let locator = source.piece(at, 20)?;
    if locator[..4] != LOCATOR_64 {
        return Ok(None);
    }
    let start = at.checked_sub(END_64_LENGTH).ok_or_else(odd_64)?;
    let record = source.piece(start, 56)?;
    let place = Place {
        entries: u64_at(&record, 32),
        length: u64_at(&record, 40),
        start: u64_at(&record, 48),
    };
    let same = |small: u64, most: u64, large: u64| small == most || small == large;
    let sound = u64_at(&locator, 8) == start
        && record[..4] == END_64
        && u64_at(&record, 4) == END_64_LENGTH - 12
        && u64_at(&record, 24) == place.entries
        && same(small.entries, 0xffff, place.entries)
        && same(small.length, 0xffff_ffff, place.length)
        && same(small.start, 0xffff_ffff, place.start);
    if sound {
        Ok(Some((place, start)))
    } else {
        Err(odd_64())
    }
}

fn odd_64() -> Failure {
    Failure::broken("the 64-bit end record does not agree with the other")
}

/// Reads the directory's entries.
fn central(source: Source<'_>, place: &Place, budget: Budget) -> Scan<Vec<Entry>> {
    let slice = source.slice(place.start, place.length);
    let slice = slice.ok_or_else(|| Failure::broken("the central directory leaves the file"))?;
    let mut cursor = Content::new(slice, Packing::None, budget).open()?;
    let mut names = BTreeSet::new();
    let mut room = MAX_NAMES;
    let mut entries = Vec::new();
    for _ in 0..place.entries {
        let fixed: [u8; 46] = cursor.array()?;
        if fixed[..4] != CENTRAL {
            return Err(Failure::broken("the central directory is damaged"));
        }
        let name = cursor.bytes(u16_at(&fixed, 28).into())?.to_vec();
        let extra = cursor.bytes(u16_at(&fixed, 30).into())?.to_vec();
        cursor.skip(u16_at(&fixed, 32).into())?;
        let name = String::from_utf8(name).map_err(|_| Failure::broken("a name is not UTF-8"))?;
        room = room
            .checked_sub(name.len())
            .ok_or_else(|| Failure::Limit("its names are too many and too long".into()))?;
        check_name(&name)?;
        // Torch finds entries whatever the case of their names.
        if !names.insert(name.to_lowercase()) {
            return Err(Failure::broken(format!("{} is there twice", quote(&name))));
        }
        entries.push(entry(&fixed, name, &extra)?);
    }
    if !cursor.at_end()? {
        return Err(Failure::broken(
            "the central directory holds more than its entries",
        ));
    }
    Ok(entries)
}

/// A name that means the same file to everyone.
fn check_name(name: &str) -> Scan<()> {
    let odd = name.is_empty()
        || name.starts_with('/')
        || name.contains(['\0', '\\'])
        || name.split('/').any(|part| part == "..");
    if odd {
        return Err(Failure::broken(format!(
            "{:?} is no name of an entry",
            quote(name)
        )));
    }
    Ok(())
}

fn entry(fixed: &[u8; 46], name: String, extra: &[u8]) -> Scan<Entry> {
    let mut entry = Entry {
        flags: u16_at(fixed, 8),
        method: u16_at(fixed, 10),
        encrypted: u16_at(fixed, 8) & ENCRYPTED != 0,
        packed: u32_at(fixed, 20).into(),
        size: u32_at(fixed, 24).into(),
        header: u32_at(fixed, 42).into(),
        start: 0,
        name,
    };
    let mut rest = extra;
    while rest.len() >= 4 {
        let (kind, length) = (u16_at(rest, 0), usize::from(u16_at(rest, 2)));
        let body = rest.get(4..4 + length);
        let body = body.ok_or_else(|| Failure::broken("an extra field is cut off"))?;
        match kind {
            EXTRA_64 => entry.widen(body)?,
            EXTRA_NAME => return Err(Failure::broken("an entry has two names")),
            _ => {}
        }
        rest = &rest[4 + length..];
    }
    Ok(entry)
}

impl Entry {
    /// Takes the 64-bit values for those that do not fit into 32 bits, in their order.
    fn widen(&mut self, mut body: &[u8]) -> Scan<()> {
        for value in [&mut self.size, &mut self.packed, &mut self.header] {
            if *value == 0xffff_ffff {
                let (wide, rest) = body
                    .split_at_checked(8)
                    .ok_or_else(|| Failure::broken("a 64-bit size is missing"))?;
                *value = u64_at(wide, 0);
                body = rest;
            }
        }
        Ok(())
    }
}

/// Compares an entry's local header with the central one; gives where its bytes begin.
fn local(source: Source<'_>, entry: &mut Entry) -> Scan<u64> {
    let fixed = source.piece(entry.header, 30)?;
    let name_length = usize::from(u16_at(&fixed, 26));
    let names_start = entry.header + 30;
    let differs = |what: &str| {
        Failure::broken(format!(
            "{} has another {what} in its own header",
            quote(&entry.name)
        ))
    };
    if fixed[..4] != LOCAL {
        return Err(Failure::broken(format!(
            "{} is not where it should be",
            quote(&entry.name)
        )));
    }
    if source.piece(names_start, name_length)? != entry.name.as_bytes() {
        return Err(differs("name"));
    }
    let flags = u16_at(&fixed, 6);
    if flags & ENCRYPTED != entry.flags & ENCRYPTED
        || flags & DESCRIPTOR != entry.flags & DESCRIPTOR
    {
        return Err(differs("set of flags"));
    }
    if u16_at(&fixed, 8) != entry.method {
        return Err(differs("method"));
    }
    // Sizes may be zero where they follow the data, and all ones where they are 64 bits wide.
    let same = |stated: u32, known: u64| {
        u64::from(stated) == known
            || stated == u32::MAX
            || (stated == 0 && entry.flags & DESCRIPTOR != 0)
    };
    if !same(u32_at(&fixed, 18), entry.packed) || !same(u32_at(&fixed, 22), entry.size) {
        return Err(differs("size"));
    }
    Ok(names_start + name_length as u64 + u64::from(u16_at(&fixed, 28)))
}

/// Whether the entries, sorted, lie one after the other, from the beginning to the directory.
fn contiguous(entries: &[Entry], directory: u64) -> Scan<()> {
    let mut end = 0;
    let mut described = false;
    for (header, next) in entries
        .iter()
        .map(|entry| (entry.header, Some(entry)))
        .chain([(directory, None)])
    {
        let gap = header.checked_sub(end);
        // The sizes after the data: with or without signature, 32 or 64 bits.
        let fits = gap == Some(0) || (described && matches!(gap, Some(12 | 16 | 20 | 24)));
        if !fits {
            let detail = format!("entries overlap, or bytes belong to none, at byte {end}");
            return Err(Failure::broken(detail));
        }
        if let Some(entry) = next {
            end = entry
                .start
                .checked_add(entry.packed)
                .ok_or_else(|| Failure::broken("an entry leaves the file"))?;
            described = entry.flags & DESCRIPTOR != 0;
        }
    }
    Ok(())
}
