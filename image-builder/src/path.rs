//! Paths inside an image: relative, normalised, unable to leave the root.

use crate::error::{Error, ErrorKind, Result};

/// The longest path (Linux `PATH_MAX`) and the longest name (`NAME_MAX`), in bytes.
pub(crate) const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;

/// The prefix of whiteout names (image-spec, layer.md, "Whiteouts").
pub(crate) const WHITEOUT: &str = ".wh.";

/// Normalises `path` to the form stored in a layer: no leading `/` or `./`, no trailing `/`.
///
/// Refused are empty paths, `.`, `..` and empty names inside, NUL bytes, over-long names, and
/// whiteout names, which would delete files of lower layers.
pub(crate) fn normalise(path: &str) -> Result<&str> {
    let refuse = |why: &str| {
        let shown: String = path.chars().take(120).collect();
        Err(Error::new(ErrorKind::Invalid, "name entry", shown, why))
    };
    let trimmed = path.strip_prefix("./").unwrap_or(path);
    let trimmed = trimmed.strip_prefix('/').unwrap_or(trimmed);
    let trimmed = trimmed.strip_suffix('/').unwrap_or(trimmed);
    if trimmed.is_empty() {
        return refuse("the path is empty");
    }
    if trimmed.len() > PATH_MAX {
        return refuse("the path is longer than 4096 bytes");
    }
    for name in trimmed.split('/') {
        match name {
            "" => return refuse("the path has an empty name in it"),
            "." | ".." => return refuse("the path has a `.` or `..` in it"),
            name if name.len() > NAME_MAX => return refuse("a name is longer than 255 bytes"),
            name if name.contains('\0') => return refuse("a name has a NUL byte in it"),
            name if name.starts_with(WHITEOUT) => {
                return refuse("a name starts with `.wh.`, which marks deleted files");
            }
            _ => {}
        }
    }
    Ok(trimmed)
}

/// The parents of a normalised path, outermost first: `a/b/c` gives `a`, `a/b`.
pub(crate) fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_forms_become_one() {
        for path in ["a/b", "/a/b", "./a/b", "a/b/"] {
            assert_eq!(normalise(path).unwrap(), "a/b");
        }
    }

    #[test]
    fn paths_that_could_escape_or_delete_are_refused() {
        let long = "x".repeat(256);
        for path in [
            "",
            "/",
            ".",
            "..",
            "a/../b",
            "../a",
            "//a",
            "a//b",
            "a/./b",
            "a\0b",
            ".wh.a",
            "a/.wh..wh..opq",
            &long,
        ] {
            assert_eq!(
                normalise(path).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{path:?}"
            );
        }
    }

    #[test]
    fn parents_come_outermost_first() {
        assert_eq!(parents("a/b/c").collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(parents("a").count(), 0);
    }
}
