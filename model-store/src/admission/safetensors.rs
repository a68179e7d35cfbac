//! safetensors: a length, a JSON header, and tensors that fill the rest without a gap.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufReader, Read as _};

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::source::{Failure, Scan, Source};

/// Longest header, in bytes: the limit of the format's own library.
const MAX_HEADER: u64 = 100_000_000;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 64;

/// Element types and their sizes, in bits.
const TYPES: &[(&str, u64)] = &[
    ("BOOL", 8),
    ("U8", 8),
    ("I8", 8),
    ("F4", 4),
    ("F6_E2M3", 6),
    ("F6_E3M2", 6),
    ("F8_E5M2", 8),
    ("F8_E4M3", 8),
    ("F8_E8M0", 8),
    ("U16", 16),
    ("I16", 16),
    ("F16", 16),
    ("BF16", 16),
    ("U32", 32),
    ("I32", 32),
    ("F32", 32),
    ("U64", 64),
    ("I64", 64),
    ("F64", 64),
    ("C64", 64),
];

/// One tensor of the header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Where the tensors lie, in the order of the header.
struct Header(Vec<(u64, u64)>);

/// Whether a file begins like a safetensors file.
pub(super) fn begins(head: &[u8], len: u64) -> bool {
    match head.first_chunk::<8>() {
        Some(length) => {
            let length = u64::from_le_bytes(*length);
            head.get(8) == Some(&b'{') && length > 1 && length <= len - 8
        }
        None => false,
    }
}

/// Checks a file.
pub(super) fn inspect(source: Source<'_>) -> Scan<()> {
    let length = source.piece(0, 8)?;
    let length = length
        .iter()
        .rev()
        .fold(0, |all, byte| all << 8 | u64::from(*byte));
    let data = source.len() - 8;
    if length > MAX_HEADER || length > data {
        return Err(Failure::broken(format!("the header claims {length} bytes")));
    }
    let header = source
        .slice(8, length)
        .ok_or_else(|| Failure::broken("the header is cut off"))?;
    if source.piece(8, 1)? != *b"{" {
        return Err(Failure::broken("the header does not begin with a brace"));
    }
    let Header(mut tensors) =
        serde_json::from_reader(BufReader::new(header.reader().take(length))).map_err(failure)?;
    tensors.sort_unstable();
    let mut end = 0;
    for (start, next) in tensors {
        if start != end {
            let what = if start < end {
                "overlap"
            } else {
                "leave a hole"
            };
            return Err(Failure::broken(format!(
                "tensors {what} at offset {start} of the data"
            )));
        }
        end = next;
    }
    if end != data - length {
        let data = data - length;
        return Err(Failure::broken(format!(
            "tensors end at {end} of {data} bytes of data"
        )));
    }
    Ok(())
}

fn failure(error: serde_json::Error) -> Failure {
    if error.is_io() {
        return Failure::Io(error.into());
    }
    Failure::broken(format!("the header: {error}"))
}

impl Tensor {
    /// Checks that the elements fill their stretch of the data.
    fn check(&self) -> Result<(), String> {
        let bits = TYPES
            .iter()
            .find(|(name, _)| *name == self.dtype)
            .map(|(_, bits)| *bits);
        let bits = bits.ok_or_else(|| format!("there is no dtype {:?}", self.dtype))?;
        let (start, end) = self.data_offsets;
        let dimensions = self.shape.len() <= MAX_DIMENSIONS;
        let bits = self
            .shape
            .iter()
            .try_fold(bits, |all, length| all.checked_mul(*length));
        match (bits, end.checked_sub(start)) {
            (Some(bits), Some(length)) if dimensions && Some(bits) == length.checked_mul(8) => {
                Ok(())
            }
            _ => Err(format!(
                "dtype {} and shape {:?} do not fill the data from {start} to {end}",
                self.dtype, self.shape
            )),
        }
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut names = BTreeSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<Texts>()?;
            } else {
                let tensor: Tensor = map.next_value()?;
                tensor.check().map_err(de::Error::custom)?;
                tensors.push(tensor.data_offsets);
            }
            // Readers differ in which of two they take.
            if !names.insert(name) {
                return Err(de::Error::custom("a name appears twice"));
            }
        }
        Ok(Header(tensors))
    }
}

/// The metadata: an object of texts, none of them named twice.
struct Texts;

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
        let mut names = BTreeSet::new();
        while let Some((name, _)) = map.next_entry::<String, String>()? {
            if !names.insert(name) {
                return Err(de::Error::custom("a name in __metadata__ appears twice"));
            }
        }
        Ok(Texts)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::*;

    fn inspected(file: &[u8]) -> Result<(), String> {
        let live = AtomicBool::new(false);
        match inspect(Source::bytes(file, &live)) {
            Ok(()) => Ok(()),
            Err(Failure::Broken(detail)) => Err(detail),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(header.as_bytes());
        file.resize(file.len() + data, 7);
        file
    }

    const A: &str = r#""a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}"#;
    const B: &str = r#""b":{"dtype":"I8","shape":[],"data_offsets":[16,17]}"#;

    #[test]
    fn good_files_pass() {
        for (header, data) in [
            (format!("{{{A}}}"), 16),
            (format!("{{{B},{A}}}   "), 17),
            (
                format!("{{\"__metadata__\":{{\"format\":\"pt\"}},{A}}}"),
                16,
            ),
            ("{}".into(), 0),
            (
                r#"{"e":{"dtype":"F16","shape":[0,9],"data_offsets":[0,0]}}"#.into(),
                0,
            ),
        ] {
            assert_eq!(inspected(&file(&header, data)), Ok(()), "{header}");
        }
    }

    #[test]
    fn bad_files_do_not() {
        let tensor = |text: &str| format!("{{{text}}}");
        for (header, data, why) in [
            (tensor(A), 15, "tensors end"),
            (tensor(A), 17, "tensors end"),
            (tensor(B), 17, "hole"),
            (
                format!(
                    "{{{A},\"c\":{{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[15,16]}}}}"
                ),
                16,
                "overlap",
            ),
            (format!("{{{A},{A}}}"), 16, "twice"),
            (
                format!("{{\"__metadata__\":{{\"a\":\"1\",\"a\":\"2\"}},{A}}}"),
                16,
                "twice",
            ),
            (
                format!("{{\"__metadata__\":{{\"a\":1}},{A}}}"),
                16,
                "string",
            ),
            (tensor(&A.replace("F32", "F33")), 16, "no dtype"),
            (tensor(&A.replace("[2,2]", "[2,3]")), 16, "do not fill"),
            (
                tensor(&A.replace("[2,2]", "[18446744073709551615,18446744073709551615]")),
                16,
                "do not fill",
            ),
            (tensor(&A.replace("[0,16]", "[16,0]")), 16, "do not fill"),
            (
                tensor(&A.replace("\"shape\"", "\"x\":1,\"shape\"")),
                16,
                "unknown field",
            ),
            ("[]".into(), 0, "brace"),
            (format!("{{{A}}} x"), 16, "trailing"),
            ("{".into(), 0, "EOF"),
        ] {
            let detail = inspected(&file(&header, data)).unwrap_err();
            assert!(detail.contains(why), "{header}: {detail}");
        }
        assert!(inspected(b"short").is_err());
        assert!(inspected(&u64::MAX.to_le_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = inspected(&bytes);
            let mut framed = (bytes.len() as u64).to_le_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            let _ = inspected(&framed);
        }
    }
}
