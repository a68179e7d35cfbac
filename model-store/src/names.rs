//! The rules for names of models, versions, aliases and files, in one place.

/// Longest name of a model, version or alias, in bytes.
const MAX_NAME: usize = 128;
/// Longest path of a file inside a version, in bytes: keys of object stores end at 1,024.
const MAX_PATH: usize = 768;
/// Longest segment of a path, in bytes: the limit of common file systems.
const MAX_SEGMENT: usize = 255;

/// Checks a model's or alias's name, or a version: `[A-Za-z0-9][A-Za-z0-9._+-]*`.
///
/// The alphabet needs no escaping in URLs, object keys, file names, and image labels.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    if name.len() > MAX_NAME {
        return Err(format!("the name is longer than {MAX_NAME} bytes"));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("the name must start with a letter or digit".into());
    }
    match name
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || "._+-".contains(*c)))
    {
        Some(bad) => Err(format!(
            "the name contains {bad:?}; letters, digits and . _ + - are allowed"
        )),
        None => Ok(()),
    }
}

/// Checks a version: a name that is not a word with a meaning of its own.
pub(crate) fn check_version(version: &str) -> Result<(), String> {
    if matches!(version, "latest" | "newest") {
        return Err(format!("`{version}` is a selector and cannot be a version"));
    }
    check_name(version)
}

/// Checks a store's own version of an object: S3 allows 1,024 bytes that need no escaping, Azure
/// has moments.
pub(crate) fn check_object_version(id: &str) -> Result<(), String> {
    if id.is_empty() || id.len() > 1_024 {
        return Err("the object version must have 1 to 1,024 bytes".into());
    }
    let good = |c: char| c.is_ascii_graphic() && !"@?#/\\\"".contains(c);
    match id.chars().find(|c| !good(*c)) {
        Some(bad) => Err(format!("the object version contains {bad:?}")),
        None => Ok(()),
    }
}

/// Checks one segment of a path.
pub(crate) fn check_segment(segment: &str) -> Result<(), String> {
    if segment.is_empty() {
        return Err("the path has an empty segment".into());
    }
    if segment == "." || segment == ".." {
        return Err(format!("the path has a `{segment}` segment"));
    }
    if segment.len() > MAX_SEGMENT {
        return Err(format!("a segment is longer than {MAX_SEGMENT} bytes"));
    }
    if segment
        .chars()
        .any(|c| c.is_control() || c == '\\' || c == '/')
    {
        return Err("the path has a control character, slash or backslash in a segment".into());
    }
    Ok(())
}

/// Checks the path of a file inside a version: relative, `/` between segments, no way out.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    if path.len() > MAX_PATH {
        return Err(format!("the path is longer than {MAX_PATH} bytes"));
    }
    // `C:` would leave the root on Windows, wherever the file is unpacked later.
    let bytes = path.as_bytes();
    if bytes.len() > 1 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':' {
        return Err("the path starts with a drive letter".into());
    }
    path.split('/').try_for_each(check_segment)
}

/// Checks a hexadecimal SHA-256: 64 lower-case digits.
pub(crate) fn check_sha256(hex: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if hex.len() == 64 && hex.bytes().all(good) {
        Ok(())
    } else {
        Err("a SHA-256 is 64 lower-case hexadecimal digits".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names() {
        for good in ["digits", "1.0.0", "v2", "1.0.0-rc.1+build.5", "a_b"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "-x", "a/b", "a b", "a:b", "é", "a@b", "a%41"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(check_version("latest").is_err());
        assert!(check_name(&"a".repeat(129)).is_err());
    }

    #[test]
    fn hostile_paths_are_refused() {
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "a/../b",
            "a//b",
            "a/",
            "./a",
            "a\\b",
            "a\0",
            "C:/x",
            "a\nb",
        ] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
        for good in [
            "model.bin",
            "a/b/c.bin",
            "weird %20 näme#1.bin",
            "...",
            "a..b",
        ] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_path_stays_below_its_root(path in "\\PC{0,40}") {
            if check_path(&path).is_ok() {
                let joined = std::path::Path::new("/root").join(&path);
                prop_assert!(joined.starts_with("/root"));
                prop_assert!(joined.components().all(|c| c != std::path::Component::ParentDir));
            }
        }
    }
}
