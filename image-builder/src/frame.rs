//! Tar framing: the header blocks of one entry as pure bytes.
//!
//! The dialect is frozen, because every byte of it is part of a layer's digest: POSIX `ustar`
//! headers (pax 3.0), extended by a PAX record only where a field cannot hold its value. All
//! entries of a layer have one time, by default [`MTIME`].

use bytes::{Bytes, BytesMut};
use tar::{EntryType, Header};

use crate::tree::{Node, NodeKind};

/// The unit of a tar archive.
pub(crate) const BLOCK: u64 = 512;
/// The two zero blocks that end an archive.
pub(crate) const END: u64 = 2 * BLOCK;

/// One second after the epoch: some tools take 0 for "unset".
pub(crate) const MTIME: u64 = 1;
/// The bytes a name or link field holds.
const NAME_FIELD: usize = 100;
/// The largest values of the octal fields: 11 digits for sizes and times, 7 for ids.
const MAX_SIZE: u64 = 0o777_7777_7777;
const MAX_ID: u64 = 0o777_7777;

/// The bytes needed after `len` bytes of content to fill the last block.
pub(crate) fn padding(len: u64) -> u64 {
    (BLOCK - len % BLOCK) % BLOCK
}

/// The header blocks of an entry at the normalised `path`, last changed `mtime` seconds after the
/// epoch, PAX records first where needed.
pub(crate) fn header(path: &str, node: &Node, mtime: u64) -> Bytes {
    let (kind, link, size) = match &node.kind {
        NodeKind::File(content) => (EntryType::Regular, "", content.len()),
        NodeKind::Dir => (EntryType::Directory, "", 0),
        NodeKind::Symlink(target) => (EntryType::Symlink, target.as_str(), 0),
        NodeKind::Hardlink(target) => (EntryType::Link, target.as_str(), 0),
    };
    let slash = if node.is_dir() { "/" } else { "" };
    let name = format!("{path}{slash}");
    let mut out = BytesMut::new();
    let records = records(&name, link, size, (node, mtime));
    if !records.is_empty() {
        let len = records.len() as u64;
        let fields = Fields {
            name: "PaxHeaders.0",
            link: "",
            size: len,
            ids: (0, 0),
            mtime,
        };
        out.extend_from_slice(block(EntryType::XHeader, 0o644, &fields).as_bytes());
        out.extend_from_slice(&records);
        out.resize(out.len() + as_usize(padding(len)), 0);
    }
    let fields = Fields {
        name: &name,
        link,
        size,
        ids: (node.uid, node.gid),
        mtime,
    };
    out.extend_from_slice(block(kind, node.mode, &fields).as_bytes());
    out.freeze()
}

fn as_usize(small: u64) -> usize {
    usize::try_from(small).unwrap_or(0)
}

/// The PAX records of what does not fit into a header; empty if all fits.
fn records(name: &str, link: &str, size: u64, (node, mtime): (&Node, u64)) -> Vec<u8> {
    let mut out = Vec::new();
    let fits = |text: &str| text.len() <= NAME_FIELD && text.is_ascii();
    // In byte order of the keys, so that the bytes follow from the values alone.
    if node.gid > MAX_ID {
        record(&mut out, "gid", &node.gid.to_string());
    }
    if !fits(link) {
        record(&mut out, "linkpath", link);
    }
    if mtime > MAX_SIZE {
        record(&mut out, "mtime", &mtime.to_string());
    }
    if !fits(name) {
        record(&mut out, "path", name);
    }
    if size > MAX_SIZE {
        record(&mut out, "size", &size.to_string());
    }
    if node.uid > MAX_ID {
        record(&mut out, "uid", &node.uid.to_string());
    }
    out
}

/// Appends `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(out: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(format!("{len} {key}={value}\n").as_bytes());
}

struct Fields<'a> {
    name: &'a str,
    link: &'a str,
    size: u64,
    ids: (u64, u64),
    mtime: u64,
}

/// One header block. A value that does not fit is cut (text) or 0 (numbers); a PAX record
/// before the block holds it in full.
fn block(kind: EntryType, mode: u32, fields: &Fields<'_>) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    let number = |value, max| if value > max { 0 } else { value };
    header.set_mtime(number(fields.mtime, MAX_SIZE));
    header.set_uid(number(fields.ids.0, MAX_ID));
    header.set_gid(number(fields.ids.1, MAX_ID));
    header.set_size(number(fields.size, MAX_SIZE));
    let old = header.as_old_mut();
    put(&mut old.name, fields.name);
    put(&mut old.linkname, fields.link);
    header.set_cksum();
    header
}

/// Fills a text field with the ASCII form of `text`, cut to its length.
fn put(field: &mut [u8; NAME_FIELD], text: &str) {
    for (slot, byte) in field.iter_mut().zip(text.bytes()) {
        *slot = if byte.is_ascii() { byte } else { b'_' };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Content;
    use futures::StreamExt;

    #[test]
    fn a_plain_entry_takes_one_block() {
        let node = Node::file(0o644, Content::bytes("abc").unwrap());
        let bytes = header("a/b", &node, MTIME);
        assert_eq!(bytes.len(), 512);
        assert_eq!(&bytes[..4], b"a/b\0");
        assert_eq!(&bytes[257..265], b"ustar\x0000");
    }

    #[test]
    fn a_pax_record_counts_its_own_length() {
        for len in [0, 90, 92, 93, 94, 95, 990, 995, 9990] {
            let mut out = Vec::new();
            record(&mut out, "path", &"x".repeat(len));
            let text = String::from_utf8(out).unwrap();
            let stated: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(stated, text.len());
        }
    }

    #[test]
    fn what_does_not_fit_goes_into_pax_records() {
        let long = "d/".repeat(60) + "é";
        let huge = Content::stream(9 << 30, |_| futures::stream::empty().boxed());
        let node = Node::file(0o644, huge).with_owner(1 << 40, 3);
        let bytes = header(&long, &node, 1 << 33);
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(bytes.len() % 512, 0);
        assert!(text.contains(&format!(" path={long}\n")));
        assert!(text.contains(" mtime=8589934592\n"));
        assert!(text.contains(" size=9663676416\n"));
        assert!(text.contains(" uid=1099511627776\n"));
    }

    #[test]
    fn padding_fills_the_last_block() {
        let cases = [(0, 0), (1, 511), (511, 1), (512, 0), (513, 511)];
        for (len, pad) in cases {
            assert_eq!(padding(len), pad);
        }
    }
}
