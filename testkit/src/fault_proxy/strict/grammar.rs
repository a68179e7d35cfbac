//! Names, tags and digests (distribution-spec, "Pulling manifests"; image-spec, descriptor.md).

/// Whether it is the name of a repository.
pub(super) fn is_name(name: &str) -> bool {
    name.len() <= 255 && name.split('/').all(is_name_part)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_name_part(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut separator = String::new();
    let mut after_plain = false;
    for byte in part.bytes() {
        if plain(byte) {
            let fits = matches!(separator.as_str(), "" | "." | "_" | "__")
                || separator.bytes().all(|byte| byte == b'-');
            if !fits {
                return false;
            }
            separator.clear();
            after_plain = true;
        } else if after_plain && byte.is_ascii() {
            separator.push(char::from(byte));
        } else {
            return false;
        }
    }
    after_plain && separator.is_empty()
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
pub(super) fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    let rest = |byte: &u8| word(*byte) || b".-".contains(byte);
    (1..=128).contains(&bytes.len()) && word(bytes[0]) && bytes.iter().all(rest)
}

/// `algorithm:encoded`; of the registered algorithms also the length and the alphabet.
pub(super) fn is_digest(digest: &str) -> bool {
    let Some((algorithm, encoded)) = digest.split_once(':') else {
        return false;
    };
    let hex = |length| {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        encoded.len() == length && encoded.bytes().all(digit)
    };
    match algorithm {
        "sha256" => hex(64),
        "sha512" => hex(128),
        _ => {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            let mut parts = algorithm.split(['+', '.', '_', '-']);
            let word = |byte: u8| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte);
            parts.all(|part| !part.is_empty() && part.bytes().all(plain))
                && !encoded.is_empty()
                && encoded.bytes().all(word)
        }
    }
}

/// `a-b` without a unit (distribution-spec, "Pushing a blob in chunks").
pub(super) fn bare_range(range: &str) -> Option<(u64, u64)> {
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok())?
    };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tags_digests_and_ranges() {
        for name in ["a", "a/b", "a.b", "a__b", "a---b", "0/x-1"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "", "/", "a/", "A", "a..b", "a___b", "-a", "a_", "a%2Fb", "a._b",
        ] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_tag("v1.0_a-B") && is_tag("_") && is_tag(&"a".repeat(128)));
        assert!(!is_tag("") && !is_tag("-a") && !is_tag("a:b") && !is_tag(&"a".repeat(129)));
        let sha = |character: &str| format!("sha256:{}", character.repeat(64));
        assert!(is_digest(&sha("a")) && is_digest("multihash+base58:QmRZ"));
        assert!(!is_digest(&sha("A")) && !is_digest("sha256:aa") && !is_digest("sha256"));
        assert_eq!(bare_range("0-0"), Some((0, 0)));
        assert_eq!(bare_range("5-9"), Some((5, 9)));
        for range in ["bytes 0-1/2", "bytes=0-1", "0-1/2", "9-5", "+1-2", "-", ""] {
            assert_eq!(bare_range(range), None, "{range}");
        }
    }
}
