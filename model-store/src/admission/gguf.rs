//! GGUF: counts, lengths and offsets must stay inside the file.

use std::collections::BTreeSet;

use super::source::{Content, Cursor, Failure, Scan};

/// Longest key or name, in bytes.
const MAX_NAME: u64 = 65_535;
/// Room for keys, and for names of tensors, in bytes.
const ROOM_FOR_NAMES: u64 = 64 << 20;
/// Most tensors and most entries of metadata.
const MAX_COUNT: u64 = 1 << 20;
/// How deep arrays may hold arrays.
const MAX_DEPTH: u8 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Types of elements: number, elements in a block, bytes of a block.
const TYPES: &[(u32, u64, u64)] = &[
    (0, 1, 4),
    (1, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (9, 32, 36),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (15, 256, 292),
    (16, 256, 66),
    (17, 256, 74),
    (18, 256, 98),
    (19, 256, 50),
    (20, 32, 18),
    (21, 256, 110),
    (22, 256, 82),
    (23, 256, 136),
    (24, 1, 1),
    (25, 1, 2),
    (26, 1, 4),
    (27, 1, 8),
    (28, 1, 8),
    (29, 256, 56),
    (30, 1, 2),
    (34, 256, 54),
    (35, 256, 66),
    (39, 32, 17),
];

/// Checks a file of `len` bytes.
pub(super) fn inspect(content: &Content<'_>, len: u64) -> Scan<()> {
    let mut cursor = content.open()?;
    if cursor.array()? != *b"GGUF" {
        return Err(Failure::broken("it does not begin with GGUF"));
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        return Err(Failure::broken(format!("version {version} is not known")));
    }
    let tensors = cursor.u64()?;
    let entries = cursor.u64()?;
    if tensors > MAX_COUNT || entries > MAX_COUNT {
        return Err(Failure::broken(format!(
            "it claims {tensors} tensors, {entries} entries"
        )));
    }
    let alignment = metadata(&mut cursor, entries)?;
    let stretches = tensor_infos(&mut cursor, tensors, alignment)?;
    let start = cursor.offset().next_multiple_of(alignment);
    let data = len.saturating_sub(start);
    let mut end = 0;
    for (offset, length) in stretches {
        if offset < end {
            return Err(Failure::broken(format!(
                "tensors overlap at offset {offset} of the data"
            )));
        }
        end = offset
            .checked_add(length)
            .filter(|end| *end <= data)
            .ok_or_else(|| {
                Failure::broken(format!(
                    "a tensor at offset {offset} of the data leaves the file"
                ))
            })?;
    }
    Ok(())
}

/// Passes over the metadata; gives the alignment of the data.
fn metadata(cursor: &mut Cursor<'_>, entries: u64) -> Scan<u64> {
    let mut keys = BTreeSet::new();
    let mut room = ROOM_FOR_NAMES;
    let mut alignment = 32;
    for _ in 0..entries {
        let key = name(cursor, &mut room)?;
        let kind = cursor.u32()?;
        if key == b"general.alignment" {
            let stated = if kind == 4 {
                u64::from(cursor.u32()?)
            } else {
                0
            };
            if !stated.is_power_of_two() || stated > 1 << 20 {
                return Err(Failure::broken("the alignment is no power of two"));
            }
            alignment = stated;
        } else {
            value(cursor, kind, MAX_DEPTH)?;
        }
        if !keys.insert(key) {
            return Err(Failure::broken("a key appears twice"));
        }
    }
    Ok(alignment)
}

fn name(cursor: &mut Cursor<'_>, room: &mut u64) -> Scan<Vec<u8>> {
    let length = cursor.u64()?;
    *room = room.saturating_sub(length);
    if length > MAX_NAME || *room == 0 {
        return Err(Failure::broken(format!("a name claims {length} bytes")));
    }
    cursor
        .bytes(usize::try_from(length).unwrap_or(usize::MAX))
        .map(<[u8]>::to_vec)
}

fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// Passes over a value.
fn value(cursor: &mut Cursor<'_>, kind: u32, depth: u8) -> Scan<()> {
    if let Some(size) = fixed_size(kind) {
        return cursor.skip(size);
    }
    match kind {
        STRING => {
            let length = cursor.u64()?;
            cursor.skip(length)
        }
        ARRAY if depth > 0 => {
            let kind = cursor.u32()?;
            let count = cursor.u64()?;
            if let Some(size) = fixed_size(kind) {
                let length = count.checked_mul(size);
                return cursor.skip(length.ok_or_else(|| Failure::broken("an array is too long"))?);
            }
            // Each item takes some bytes, so that the file's end bounds the loop.
            (0..count).try_for_each(|_| value(cursor, kind, depth - 1))
        }
        _ => Err(Failure::broken(format!("there is no value type {kind}"))),
    }
}

/// Reads what is said of the tensors; gives their stretches of the data, sorted.
fn tensor_infos(cursor: &mut Cursor<'_>, tensors: u64, alignment: u64) -> Scan<Vec<(u64, u64)>> {
    let mut names = BTreeSet::new();
    let mut room = ROOM_FOR_NAMES;
    let mut stretches = Vec::new();
    for _ in 0..tensors {
        if !names.insert(name(cursor, &mut room)?) {
            return Err(Failure::broken("a tensor's name appears twice"));
        }
        let dimensions = cursor.u32()?;
        if dimensions > 8 {
            return Err(Failure::broken(format!(
                "a tensor has {dimensions} dimensions"
            )));
        }
        let mut count = Some(1_u64);
        for _ in 0..dimensions {
            let length = cursor.u64()?;
            count = count.and_then(|count| count.checked_mul(length));
        }
        let kind = cursor.u32()?;
        let offset = cursor.u64()?;
        let length = count.and_then(|count| length(count, kind));
        match length {
            Some(length) if offset.is_multiple_of(alignment) => stretches.push((offset, length)),
            _ => return Err(Failure::broken("a tensor's size or offset cannot be")),
        }
    }
    stretches.sort_unstable();
    Ok(stretches)
}

/// Bytes of a number of elements; of a type that is not known, nothing is demanded.
fn length(count: u64, kind: u32) -> Option<u64> {
    match TYPES.iter().find(|(number, _, _)| *number == kind) {
        Some((_, block, size)) if count.is_multiple_of(*block) => {
            (count / block).checked_mul(*size)
        }
        Some(_) => None,
        None => Some(0),
    }
}
