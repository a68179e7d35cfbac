//! A tar reader for archives from outside: bounded memory, no trust in any field.
//!
//! The `tar` crate's own iterator reads extended headers of any size into memory; this one
//! refuses them beyond [`MAX_EXTENDED`].

use std::io::{self, Read, Seek, SeekFrom};

use tar::{EntryType, Header};

use crate::frame::{BLOCK, padding};

/// The largest extended header (PAX or GNU long name) accepted.
const MAX_EXTENDED: u64 = 1024 * 1024;

/// One member of an archive; its content is read through [`Reader::content`].
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) path: String,
    pub(crate) link: String,
    pub(crate) kind: EntryType,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) size: u64,
}

/// Reads an archive member by member.
pub(crate) struct Reader<R> {
    inner: R,
    /// Content and padding of the current member that are still ahead.
    left: u64,
    pad: u64,
    /// The bytes behind.
    at: u64,
    /// Passes over bytes, and says how many there were.
    skip: fn(&mut R, u64) -> io::Result<u64>,
}

/// What extended headers say about the next member.
#[derive(Default)]
struct Extended {
    path: Option<String>,
    link: Option<String>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<u64>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            left: 0,
            pad: 0,
            at: 0,
            skip: |inner, count| io::copy(&mut inner.take(count), &mut io::sink()),
        }
    }

    /// The offset in the archive: after [`Reader::next`], that of the member's content.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// The next member; `None` after the end marker or at the end of the input.
    pub(crate) fn next(&mut self) -> io::Result<Option<Member>> {
        let mut extended = Extended::default();
        loop {
            self.skip_rest()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let kind = header.entry_type();
            match kind {
                EntryType::XHeader => {
                    let records = self.extended_body(&header)?;
                    extended.apply(&records)?;
                }
                EntryType::XGlobalHeader => {
                    self.extended_body(&header)?;
                }
                EntryType::GNULongName => {
                    extended.path = Some(terminated(self.extended_body(&header)?)?);
                }
                EntryType::GNULongLink => {
                    extended.link = Some(terminated(self.extended_body(&header)?)?);
                }
                EntryType::GNUSparse => return Err(invalid("it has a GNU sparse member")),
                _ => return self.member(&header, extended).map(Some),
            }
        }
    }

    /// The content of the current member.
    pub(crate) fn content(&mut self) -> Content<'_, R> {
        Content(self)
    }

    /// Reads the input to its end, past the end marker.
    pub(crate) fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut self.inner, &mut io::sink()).map(|_| ())
    }

    fn member(&mut self, header: &Header, extended: Extended) -> io::Result<Member> {
        let kind = header.entry_type();
        let stated = match extended.size {
            Some(size) => size,
            None => header.entry_size()?,
        };
        // Only regular files have content; some writers state a size for links all the same.
        let is_file = kind.is_file() || kind.is_contiguous();
        let size = if is_file { stated } else { 0 };
        self.left = size;
        self.pad = padding(size);
        Ok(Member {
            path: text(extended.path, &header.path_bytes())?,
            link: text(extended.link, &header.link_name_bytes().unwrap_or_default())?,
            kind,
            mode: header.mode()?,
            // Some writers leave them blank.
            uid: extended.uid.or(header.uid().ok()).unwrap_or(0),
            gid: extended.gid.or(header.gid().ok()).unwrap_or(0),
            mtime: extended.mtime.or(header.mtime().ok()).unwrap_or(0),
            size,
        })
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(invalid("it ends inside a header")),
                count => filled += count,
            }
        }
        self.at += BLOCK;
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, &byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u32::from(byte)
                }
            })
            .sum();
        if header.cksum()? != sum {
            return Err(invalid("a header has a wrong checksum"));
        }
        Ok(Some(header))
    }

    fn extended_body(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let size = header.entry_size()?;
        if size > MAX_EXTENDED {
            return Err(invalid("an extended header is larger than 1 MiB"));
        }
        self.left = size;
        self.pad = padding(size);
        let mut body = Vec::new();
        self.content().read_to_end(&mut body)?;
        Ok(body)
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        for count in [
            std::mem::take(&mut self.left),
            std::mem::take(&mut self.pad),
        ] {
            let skipped = (self.skip)(&mut self.inner, count)?;
            self.at = self.at.saturating_add(skipped);
            if skipped < count {
                return Err(invalid("it ends inside a member"));
            }
        }
        Ok(())
    }
}

impl<R: Read + Seek> Reader<R> {
    /// A reader that seeks over contents. It does not notice when the input ends inside one, so
    /// the caller compares offsets with the input's length.
    pub(crate) fn seeking(inner: R) -> Self {
        let skip = |inner: &mut R, count: u64| {
            let step = i64::try_from(count).map_err(|_| invalid("a member is too large"))?;
            inner.seek(SeekFrom::Current(step)).map(|_| count)
        };
        Self {
            skip,
            ..Self::new(inner)
        }
    }
}

/// The content of a [`Reader`]'s current member.
pub(crate) struct Content<'a, R>(&'a mut Reader<R>);

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.0.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let count = self.0.inner.read(&mut buffer[..want])?;
        if count == 0 {
            return Err(invalid("it ends inside a member"));
        }
        self.0.left -= count as u64;
        self.0.at += count as u64;
        Ok(count)
    }
}

impl Extended {
    fn apply(&mut self, records: &[u8]) -> io::Result<()> {
        let mut rest = records;
        while !rest.is_empty() {
            let (key, value, after) =
                record(rest).ok_or_else(|| invalid("a PAX record is broken"))?;
            rest = after;
            if key.starts_with(b"GNU.sparse.") {
                return Err(invalid("it has a GNU sparse member"));
            }
            match key {
                b"path" => self.path = Some(utf8(value)?),
                b"linkpath" => self.link = Some(utf8(value)?),
                b"size" => self.size = Some(number(value)?),
                b"uid" => self.uid = number(value).ok(),
                b"gid" => self.gid = number(value).ok(),
                // Negative or fractional times are of no use to anybody who reads a layer.
                b"mtime" => self.mtime = seconds(value),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Splits off the first record, `LENGTH KEY=VALUE\n`: key, value, and what comes after it. The
/// length decides, since a value may hold newlines.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|&byte| byte == b' ')?;
    let len = usize::try_from(number(&records[..space]).ok()?).ok()?;
    let (record, after) = records.split_at_checked(len)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    Some((&body[..equals], &body[equals + 1..], after))
}

fn seconds(value: &[u8]) -> Option<u64> {
    let whole = value.split(|&byte| byte == b'.').next()?;
    number(whole).ok()
}

fn number(value: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| invalid("a PAX record is not a number"))
}

fn text(extended: Option<String>, field: &[u8]) -> io::Result<String> {
    extended.map_or_else(|| utf8(field), Ok)
}

fn utf8(bytes: &[u8]) -> io::Result<String> {
    if bytes.contains(&0) {
        return Err(invalid("a name has a NUL byte in it"));
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| invalid("a name is not UTF-8"))
}

fn terminated(mut name: Vec<u8>) -> io::Result<String> {
    if name.last() == Some(&0) {
        name.pop();
    }
    utf8(&name)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the archive is malformed: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Archive;
    use crate::stream::collect;
    use crate::testing::{Seen, arb_tree, written};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn read_all(archive: &[u8]) -> io::Result<Seen> {
        let mut reader = Reader::new(archive);
        let mut seen = Seen::new();
        while let Some(member) = reader.next()? {
            let mut bytes = vec![];
            reader.content().read_to_end(&mut bytes)?;
            let path = member.path.trim_end_matches('/').to_owned();
            seen.insert(
                path,
                (member.kind.as_byte(), member.mode, member.link, bytes),
            );
        }
        Ok(seen)
    }

    proptest! {
        #[test]
        fn it_reads_what_we_write(tree in arb_tree()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let archive = Arc::new(Archive::new(tree.clone()));
            let bytes = runtime.block_on(collect(archive.open(0), u64::MAX, "x")).unwrap();
            prop_assert_eq!(read_all(&bytes).unwrap(), written(&tree));
        }

        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..2048)) {
            let _ = read_all(&noise);
        }
    }

    #[test]
    fn gnu_long_names_are_read() {
        let mut builder = tar::Builder::new(vec![]);
        let mut header = Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        let name = "n".repeat(200);
        builder
            .append_data(&mut header, &name, &b"abc"[..])
            .unwrap();
        let seen = read_all(&builder.into_inner().unwrap()).unwrap();
        assert_eq!(seen[&name].3, b"abc");
    }

    #[test]
    fn a_pax_record_is_split_by_its_length_not_by_its_newlines() {
        let mut tree = crate::Tree::new();
        let name = "line\nbreak".repeat(12);
        tree.insert_bytes(&name, 0o644, "x").unwrap();
        let archive = Arc::new(Archive::new(tree));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let bytes = runtime
            .block_on(collect(archive.open(0), u64::MAX, "x"))
            .unwrap();
        assert!(read_all(&bytes).unwrap().contains_key(&name));
        for broken in [
            "",
            "5",
            "x path=a\n",
            "3 path=a\n",
            "99 path=a\n",
            "7 patha\n",
        ] {
            assert!(record(broken.as_bytes()).is_none(), "{broken:?}");
        }
    }

    #[test]
    fn a_huge_extended_header_is_refused_before_it_is_read() {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(u64::from(u32::MAX));
        header.set_cksum();
        let error = read_all(header.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("1 MiB"), "{error}");
    }

    #[test]
    fn a_cut_archive_and_a_wrong_checksum_are_errors() {
        let mut header = Header::new_ustar();
        header.set_size(1000);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend([0; 100]);
        assert!(read_all(&bytes).is_err());
        assert!(read_all(&bytes[..300]).is_err());
        bytes[0] ^= 1;
        assert!(read_all(&bytes).is_err());
    }
}
