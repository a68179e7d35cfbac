//! Archives made to harm: whatever they say, nothing outside of the root changes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proptest::prelude::*;
use tar::{EntryType, Header};

use super::tests::{DIR, FILE, HARD, LINK, Raw, archive, layer, stored};
use super::*;
use oci_spec::image::MediaType;

/// Everything below `dir` but `except`: kind and mode, number of names, time, and content.
fn state(dir: &Path, except: &Path) -> BTreeMap<PathBuf, (u32, u64, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![dir.to_owned()];
    while let Some(path) = ahead.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut content = vec![];
        if meta.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            let inside = entries.map(|entry| entry.unwrap().path());
            ahead.extend(inside.filter(|path| path != except));
        } else if meta.is_file() {
            content = fs::read(&path).unwrap();
        }
        // A directory's own time and links change with the root inside of it.
        let (names, time) = if meta.is_dir() {
            (0, 0)
        } else {
            (meta.nlink(), meta.mtime())
        };
        found.insert(path, (meta.mode(), names, time, content));
    }
    found
}

fn kinds() -> impl Strategy<Value = EntryType> {
    prop::sample::select(vec![
        FILE,
        FILE,
        DIR,
        LINK,
        LINK,
        LINK,
        HARD,
        EntryType::Char,
        EntryType::Fifo,
    ])
}

/// Names that walk, hide, repeat and point; `OUT` stands for the absolute path outside.
fn names() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "l",
        "..",
        ".",
        "",
        "s",
        "root",
        ".wh.a",
        ".wh.s",
        ".wh..wh..opq",
        ".wh...",
        "OUT",
        "/",
    ]);
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn nothing_outside_of_the_root_changes(
        members in prop::collection::vec((kinds(), names(), names()), 1..12),
        second in prop::collection::vec((kinds(), names(), names()), 0..6),
    ) {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        fs::create_dir_all(outer.path().join("a/b")).unwrap();
        for name in ["s", "a/s", "a/b/s"] {
            fs::write(outer.path().join(name), name).unwrap();
        }
        let out = outer.path().to_str().unwrap().to_owned();
        let before = state(outer.path(), &root);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for members in [members, second] {
            let place = |name: &str| name.replace("OUT", &out).chars().take(99).collect();
            let members: Vec<(EntryType, String, String)> = members
                .iter()
                .map(|(kind, name, link)| (*kind, place(name), place(link)))
                .collect();
            // One at a time too: a refused member ends a layer before the next is tried.
            let whole: Vec<Raw<'_>> = members
                .iter()
                .map(|(kind, name, link)| {
                    let content = if *kind == FILE { "x" } else { "" };
                    (*kind, 0o4777, name.as_str(), link.as_str(), content)
                })
                .collect();
            let _ = runtime.block_on(unpack(&layer(&whole), &root));
            for member in &whole {
                let _ = runtime.block_on(unpack(&layer(&[*member]), &root));
            }
        }
        prop_assert_eq!(state(outer.path(), &root), before);
    }
}

fn run(members: &[Raw<'_>]) -> (tempfile::TempDir, Result<()>) {
    run_bytes(archive(members))
}

fn run_bytes(bytes: Vec<u8>) -> (tempfile::TempDir, Result<()>) {
    let root = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let done = runtime.block_on(unpack(&stored(bytes, MediaType::ImageLayer), root.path()));
    (root, done)
}

#[test]
fn the_last_entry_of_a_name_counts_whatever_it_was_before() {
    let (root, done) = run(&[
        (FILE, 0o644, "x", "", "file"),
        (DIR, 0o755, "x", "", ""),
        (FILE, 0o644, "x/inside", "", "i"),
        (LINK, 0o777, "x", "/nowhere", ""),
        (FILE, 0o600, "x", "", "last"),
        (DIR, 0o755, "d", "", ""),
        (FILE, 0o644, "d/old", "", "x"),
        (LINK, 0o777, "d", "e", ""),
        (DIR, 0o755, "e", "", ""),
        (FILE, 0o644, "d/new", "", "n"),
    ]);
    done.unwrap();
    let read = |name: &str| fs::read_to_string(root.path().join(name)).unwrap();
    assert_eq!(read("x"), "last");
    assert_eq!(read("e/new"), "n");
    assert!(!root.path().join("e/old").exists());
}

#[test]
fn a_directory_that_becomes_a_link_leads_into_the_root() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("s"), "secret").unwrap();
    let target = outside.path().to_str().unwrap();
    let (root, done) = run(&[
        (DIR, 0o755, "d", "", ""),
        (FILE, 0o644, "d/s", "", "mine"),
        (LINK, 0o777, "d", target, ""),
        (FILE, 0o644, "d/s", "", "evil"),
        (FILE, 0o644, "d/.wh.s", "", ""),
        (HARD, 0o644, "copy", "d/s", ""),
    ]);
    done.unwrap();
    assert_eq!(
        fs::read_to_string(outside.path().join("s")).unwrap(),
        "secret"
    );
    assert_eq!(fs::metadata(outside.path().join("s")).unwrap().nlink(), 1);
    assert_eq!(
        fs::read_to_string(root.path().join("copy")).unwrap(),
        "evil"
    );
}

#[test]
fn what_follows_the_end_of_an_archive_is_not_applied() {
    let mut bytes = archive(&[(FILE, 0o644, "a", "", "x")]);
    bytes.extend(archive(&[(FILE, 0o644, "b", "", "y")]));
    bytes.extend(b"garbage that is no block");
    let (root, done) = run_bytes(bytes);
    done.unwrap();
    assert!(root.path().join("a").exists() && !root.path().join("b").exists());
}

/// An archive of one member behind an extended header with these bytes.
fn extended(kind: EntryType, body: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(body.len() as u64);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend(body);
    out.resize(out.len().next_multiple_of(512), 0);
    out.extend(archive(&[(FILE, 0o644, "plain", "", "x")]));
    out
}

#[test]
fn extended_headers_cannot_smuggle_names_sizes_or_memory() {
    let record = |key: &str, value: &str| {
        let rest = format!(" {key}={value}\n");
        let mut len = rest.len() + 1;
        while len.to_string().len() + rest.len() != len {
            len = len.to_string().len() + rest.len();
        }
        format!("{len}{rest}").into_bytes()
    };
    let pax = EntryType::XHeader;
    for (kind, body) in [
        (pax, record("path", "../evil")),
        (pax, record("path", "/evil")),
        (pax, record("path", "a\0b")),
        (pax, record("size", "99999999999999999999")),
        (pax, record("size", "18446744073709551615")),
        (pax, record("size", "-1")),
        (pax, record("GNU.sparse.major", "1")),
        (pax, record("GNU.sparse.name", "x")),
        (pax, b"0 x=y\n".to_vec()),
        (pax, vec![b'9'; 1024 * 1024 + 1]),
        (EntryType::GNULongName, b"../../evil\0".to_vec()),
        (EntryType::GNULongName, vec![b'n'; 1024 * 1024 + 1]),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        let (root, done) = run_bytes(extended(kind, &body));
        assert_eq!(
            done.expect_err(&shown).kind(),
            ErrorKind::Invalid,
            "{shown}"
        );
        // A part of the member that was read before the damage may be there, nothing else.
        let names = fs::read_dir(root.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.is_empty() || names == ["plain"], "{shown} {names:?}");
    }
    // One that says nothing about the member is passed over.
    let (root, done) = run_bytes(extended(
        EntryType::XGlobalHeader,
        &record("path", "../evil"),
    ));
    done.unwrap();
    assert!(root.path().join("plain").exists());
}

#[test]
fn whiteouts_spare_what_their_own_layer_made() {
    let names: Vec<(String, String)> = (0..500)
        .map(|n| (format!("d{n}/f"), format!(".wh.d{n}")))
        .collect();
    let members = names.iter().flat_map(|(file, hidden)| {
        [
            (FILE, 0o644, file.as_str(), "", ""),
            (FILE, 0o644, hidden.as_str(), "", ""),
        ]
    });
    let (root, done) = run(&members.collect::<Vec<_>>());
    done.unwrap();
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 500);
}
