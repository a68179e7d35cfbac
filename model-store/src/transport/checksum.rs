//! What a store says about the content of a whole object, in the headers of an answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use crate::model::Trust;
use crate::store_url::Scheme;

/// A checksum of the whole object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stated {
    Sha256([u8; 32]),
    Crc64([u8; 8]),
    Md5([u8; 16]),
}

impl Stated {
    /// The best checksum in `headers`; `whole` when the answer is about the whole object and not
    /// about a range of it.
    pub(crate) fn find(headers: &HeaderMap, scheme: Scheme, whole: bool) -> Option<Self> {
        match scheme {
            Scheme::Azure => azure_md5(headers),
            Scheme::S3 => s3_checksum(headers, whole).or_else(|| s3_tag(headers)),
            Scheme::File | Scheme::Memory => None,
        }
    }

    pub(crate) fn trust(self) -> Trust {
        match self {
            Self::Sha256(_) => Trust::StoreSha256,
            Self::Crc64(_) => Trust::StoreCrc64,
            Self::Md5(_) => Trust::StoreMd5,
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn decode<const N: usize>(headers: &HeaderMap, name: &str) -> Option<[u8; N]> {
    let bytes = STANDARD.decode(text(headers, name)?).ok()?;
    bytes.try_into().ok()
}

/// `Content-MD5` is of the range that was sent; this one is of the blob. Blobs that were committed
/// from blocks have none, unless the uploader set it.
fn azure_md5(headers: &HeaderMap) -> Option<Stated> {
    decode(headers, "x-ms-blob-content-md5").map(Stated::Md5)
}

/// Checksums of type `COMPOSITE` are checksums of checksums, and those in the answer to a range
/// can be of an uploaded part.
fn s3_checksum(headers: &HeaderMap, whole: bool) -> Option<Stated> {
    if !whole || text(headers, "x-amz-checksum-type") != Some("FULL_OBJECT") {
        return None;
    }
    decode(headers, "x-amz-checksum-sha256")
        .map(Stated::Sha256)
        .or_else(|| decode(headers, "x-amz-checksum-crc64nvme").map(Stated::Crc64))
}

/// The tag of an object that was uploaded in one piece is its MD5, except where it was encrypted
/// with a key other than the store's own; `hex-N` is of N parts.
fn s3_tag(headers: &HeaderMap) -> Option<Stated> {
    let encrypted = text(headers, "x-amz-server-side-encryption")
        .is_some_and(|how| how.starts_with("aws:"))
        || headers.contains_key("x-amz-server-side-encryption-customer-algorithm");
    let tag = text(headers, "etag")?.trim_matches('"');
    if encrypted || tag.len() != 32 {
        return None;
    }
    let bytes = hex::decode(tag).ok()?;
    bytes.try_into().ok().map(Stated::Md5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    fn find(scheme: Scheme, whole: bool, headers: &[(&'static str, &str)]) -> Option<Trust> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        Stated::find(&headers.collect(), scheme, whole).map(Stated::trust)
    }

    #[test]
    fn only_checksums_of_the_whole_object_count() {
        let sha = STANDARD.encode(Sha256::digest(b"x"));
        let sha = ("x-amz-checksum-sha256", sha.as_str());
        let crc = ("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=");
        let full = ("x-amz-checksum-type", "FULL_OBJECT");
        let composite = ("x-amz-checksum-type", "COMPOSITE");
        let s3 = |whole, headers: &[_]| find(Scheme::S3, whole, headers);
        assert_eq!(s3(true, &[sha, crc, full]), Some(Trust::StoreSha256));
        assert_eq!(s3(true, &[crc, full]), Some(Trust::StoreCrc64));
        assert_eq!(s3(true, &[sha, composite]), None);
        assert_eq!(s3(true, &[sha]), None, "of no stated type");
        assert_eq!(s3(false, &[sha, full]), None, "maybe of a part");
        let parts = (
            "x-amz-checksum-sha256",
            "q1MKE+RZFJgrefm34/uplM/R8/si9xzqGvvwK0YMbR0=-2",
        );
        assert_eq!(s3(true, &[parts, full]), None);
    }

    #[test]
    fn tags_of_parts_and_of_encrypted_objects_are_no_md5() {
        let tag = ("etag", "\"5d41402abc4b2a76b9719d911017c592\"");
        let s3 = |headers: &[_]| find(Scheme::S3, false, headers);
        assert_eq!(s3(&[tag]), Some(Trust::StoreMd5));
        assert_eq!(
            s3(&[("etag", "\"5d41402abc4b2a76b9719d911017c592-2\"")]),
            None
        );
        assert_eq!(
            s3(&[tag, ("x-amz-server-side-encryption", "aws:kms")]),
            None
        );
        let ours = ("x-amz-server-side-encryption", "AES256");
        assert_eq!(s3(&[tag, ours]), Some(Trust::StoreMd5));
        let theirs = ("x-amz-server-side-encryption-customer-algorithm", "AES256");
        assert_eq!(s3(&[tag, theirs]), None);
        assert_eq!(find(Scheme::Memory, true, &[tag]), None);
    }

    #[test]
    fn azure_states_the_md5_of_the_blob_apart_from_that_of_the_range() {
        let md5 = "XUFAKrxLKna5cZ2REBfFkg==";
        let azure = |headers: &[_]| find(Scheme::Azure, false, headers);
        assert_eq!(
            azure(&[("x-ms-blob-content-md5", md5)]),
            Some(Trust::StoreMd5)
        );
        assert_eq!(azure(&[("content-md5", md5)]), None);
        assert_eq!(azure(&[("x-ms-blob-content-md5", "short")]), None);
    }
}
