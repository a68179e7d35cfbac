//! The few fields of an X.509 certificate (RFC 5280, section 4.1) that path validation does not
//! give out: validity, key usage, names.
//!
//! What is read here was accepted by the path validator before, or is a root that someone trusts.

use std::fmt::Write as _;

use super::refused::Refused;

const BOOLEAN: u8 = 0x01;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// id-kp-codeSigning, 1.3.6.1.5.5.7.3.3.
pub(super) const CODE_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03];

/// What a certificate says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Details {
    /// As RFC 4514 writes it, the most particular part first.
    pub(super) subject: String,
    pub(super) issuer: String,
    /// Seconds since 1970; negative before it.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    /// The SubjectPublicKeyInfo.
    pub(super) key: Vec<u8>,
    /// The first octet of the key usage, if it is restricted.
    usage: Option<u8>,
    /// Whether the extended key usage, if there is one, has code signing.
    code_signing: Option<bool>,
}

impl Details {
    pub(super) fn read(certificate: &[u8]) -> Result<Self, Refused> {
        read(certificate).ok_or_else(|| Refused::new("a certificate cannot be read"))
    }

    /// Whether the key may sign content: digitalSignature, and code signing where the extended
    /// usage is restricted. A certificate that restricts nothing is for nothing in particular,
    /// which is not enough.
    pub(super) fn may_sign(&self) -> bool {
        let usage = self.usage.map(|bits| bits & 0x80 != 0);
        usage.or(self.code_signing).unwrap_or(false) && self.code_signing != Some(false)
    }

    /// Whether the key may sign certificates, as far as its usage is restricted.
    pub(super) fn may_sign_certificates(&self) -> bool {
        self.usage.is_none_or(|bits| bits & 0x04 != 0)
    }
}

/// A row of elements, read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The next element's tag, content, and whole.
    fn next(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        // Long tags and indefinite lengths are not of DER as certificates use it.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            // Up to 16 MiB, more than any certificate; 0x80 would be an indefinite length.
            let octets = usize::from(first & 0x7f);
            let (length, rest) = rest.split_at_checked(octets)?;
            let length = length
                .iter()
                .fold(0, |sum, &octet| sum << 8 | usize::from(octet));
            ((1..=3).contains(&octets).then_some(length)?, rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Some((tag, content, whole))
    }

    fn expect(&mut self, tag: u8) -> Option<Self> {
        let (found, content, _) = self.next()?;
        (found == tag).then_some(Self(content))
    }

    /// As [`Self::expect`], if that is what comes; else nothing is read.
    fn optional(&mut self, tag: u8) -> Option<Self> {
        (self.0.first() == Some(&tag)).then(|| self.expect(tag))?
    }
}

fn read(certificate: &[u8]) -> Option<Details> {
    let mut body = Reader(certificate).expect(SEQUENCE)?.expect(SEQUENCE)?;
    body.optional(VERSION);
    let _serial = body.next()?;
    let _algorithm = body.expect(SEQUENCE)?;
    let issuer = name(body.expect(SEQUENCE)?)?;
    let mut validity = body.expect(SEQUENCE)?;
    let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
    let subject = name(body.expect(SEQUENCE)?)?;
    let (tag, _, key) = body.next()?;
    let mut details = Details {
        subject,
        issuer,
        not_before,
        not_after,
        key: (tag == SEQUENCE).then(|| key.to_vec())?,
        usage: None,
        code_signing: None,
    };
    // Unique identifiers, [1] and [2], may come before; no certificate has them.
    if let Some(mut extensions) = body.optional(EXTENSIONS) {
        read_extensions(extensions.expect(SEQUENCE)?, &mut details)?;
    }
    body.0.is_empty().then_some(details)
}

fn read_extensions(mut extensions: Reader<'_>, details: &mut Details) -> Option<()> {
    while !extensions.0.is_empty() {
        let mut extension = extensions.expect(SEQUENCE)?;
        let id = extension.expect(OID)?.0;
        extension.optional(BOOLEAN);
        let mut value = extension.expect(OCTET_STRING)?;
        if id == KEY_USAGE {
            // The first octet counts unused bits, which are zero.
            let bits = value.expect(BIT_STRING)?.0;
            details.usage = Some(bits.get(1).copied().unwrap_or(0));
        } else if id == EXTENDED_KEY_USAGE {
            let mut purposes = value.expect(SEQUENCE)?;
            let mut found = false;
            while !purposes.0.is_empty() {
                found |= purposes.expect(OID)?.0 == CODE_SIGNING;
            }
            details.code_signing = Some(found);
        }
    }
    Some(())
}

/// A distinguished name as RFC 4514 writes it: the last part first, what is special escaped.
fn name(mut sets: Reader<'_>) -> Option<String> {
    let mut parts = Vec::new();
    while !sets.0.is_empty() {
        let mut set = sets.expect(SET)?;
        let mut together = Vec::new();
        while !set.0.is_empty() {
            let mut pair = set.expect(SEQUENCE)?;
            let id = pair.expect(OID)?.0;
            let (tag, value, _) = pair.next()?;
            together.push(format!("{}={}", attribute(id), text(tag, value)));
        }
        parts.push(together.join("+"));
    }
    parts.reverse();
    Some(parts.join(","))
}

fn attribute(id: &[u8]) -> String {
    let known = match id {
        [0x55, 0x04, 0x03] => "CN",
        [0x55, 0x04, 0x06] => "C",
        [0x55, 0x04, 0x07] => "L",
        [0x55, 0x04, 0x08] => "ST",
        [0x55, 0x04, 0x0a] => "O",
        [0x55, 0x04, 0x0b] => "OU",
        _ => return format!("oid.{}", hex::encode(id)),
    };
    known.to_owned()
}

fn text(tag: u8, value: &[u8]) -> String {
    let readable = matches!(tag, UTF8_STRING | PRINTABLE_STRING | IA5_STRING);
    let Some(plain) = readable.then(|| std::str::from_utf8(value).ok()).flatten() else {
        return format!("#{}", hex::encode(value));
    };
    let mut escaped = String::new();
    for c in plain.chars() {
        if matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=') {
            escaped.push('\\');
            escaped.push(c);
        } else if c.is_control() || !c.is_alphanumeric() && !c.is_ascii() {
            // So that no certificate can forge a line or turn the text around.
            for octet in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a string does not fail.
                let _ = write!(escaped, "\\{octet:02X}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// A time of RFC 5280, section 4.1.2.5, in seconds since 1970.
fn time(reader: &mut Reader<'_>) -> Option<i64> {
    let (tag, content, _) = reader.next()?;
    let digits = content.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| {
        part.iter()
            .fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
    };
    let (year, rest) = match (tag, digits.len()) {
        // Two digits stand for 1950 to 2049.
        (UTC_TIME, 12) => {
            let short = number(&digits[..2]);
            (if short < 50 { 2000 } else { 1900 } + short, &digits[2..])
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let part = |at: usize| number(&rest[at..at + 2]);
    let (month, day) = (part(0), part(2));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = part(4) * 3600 + part(6) * 60 + part(8);
    Some(days(year, month, day) * 86_400 + seconds)
}

/// Days from 1970 to a day of the Gregorian calendar: years begin in March, so that a leap day is
/// the last of them, and 400 years have 146,097 days.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The day of a time, as `2026-11-22`; the inverse of [`days`].
pub(super) fn date(seconds: i64) -> String {
    let shifted = seconds.div_euclid(86_400) + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 3, 1);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_times_are_read() {
        let certificate = made(|params| {
            params.distinguished_name = rcgen::DistinguishedName::new();
            let name = &mut params.distinguished_name;
            name.push(DnType::OrganizationName, "Acme, \"Inc\"\n\u{202e}");
            name.push(DnType::CommonName, "Zoë=1");
        });
        let details = Details::read(&certificate).unwrap();
        assert_eq!(
            details.subject,
            "CN=Zoë\\=1,O=Acme\\, \\\"Inc\\\"\\0A\\E2\\80\\AE"
        );
        assert_eq!(details.subject, details.issuer);
        assert_eq!(date(details.not_before), "2024-02-29");
        assert_eq!(date(details.not_after), "2051-03-01");
        assert_eq!(details.not_before, 1_709_164_800);
    }

    #[test]
    fn a_key_signs_only_what_it_is_for() {
        use ExtendedKeyUsagePurpose::{CodeSigning, ServerAuth};
        use KeyUsagePurpose::{DigitalSignature, KeyAgreement, KeyCertSign};
        for (usage, extended, may, may_certify) in [
            (vec![], vec![], false, true),
            (vec![DigitalSignature], vec![], true, false),
            (vec![], vec![CodeSigning], true, true),
            (
                vec![DigitalSignature],
                vec![ServerAuth, CodeSigning],
                true,
                false,
            ),
            (vec![DigitalSignature], vec![ServerAuth], false, false),
            (vec![KeyAgreement], vec![CodeSigning], false, false),
            (vec![KeyCertSign, DigitalSignature], vec![], true, true),
        ] {
            let said = format!("{usage:?} {extended:?}");
            let certificate = made(|params| {
                params.key_usages = usage;
                params.extended_key_usages = extended;
            });
            let details = Details::read(&certificate).unwrap();
            assert_eq!(details.may_sign(), may, "{said}");
            assert_eq!(details.may_sign_certificates(), may_certify, "{said}");
        }
    }

    proptest! {
        #[test]
        fn days_and_dates_agree(seconds in -10_000_000_000_i64..100_000_000_000) {
            let text = date(seconds);
            let part: Vec<i64> = text.split('-').map(|part| part.parse().unwrap()).collect();
            prop_assert_eq!(days(part[0], part[1], part[2]), seconds.div_euclid(86_400));
        }

        #[test]
        fn no_input_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..600, with in any::<u8>()) {
            let _ = read(&bytes);
            let mut certificate = made(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
            let at = at % certificate.len();
            certificate[at] = with;
            let _ = read(&certificate);
            let _ = read(&certificate[..at]);
        }
    }
}
