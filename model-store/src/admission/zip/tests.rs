//! Archives by hand, with one thing wrong at a time.

use std::io::Write as _;

use flate2::write::DeflateEncoder;

use crate::admission::{AdmissionPolicy, Check, Report, check_bytes};

/// An entry to be written; the local header can be made to differ.
#[derive(Clone)]
struct Entry {
    name: String,
    local_name: String,
    data: Vec<u8>,
    size: u32,
    method: u16,
    local_method: u16,
    flags: u16,
    local_flags: u16,
    descriptor: bool,
    /// Bytes before the local header.
    gap: Vec<u8>,
}

fn stored(name: &str, data: &[u8]) -> Entry {
    Entry {
        name: name.into(),
        local_name: name.into(),
        data: data.into(),
        size: u32::try_from(data.len()).unwrap(),
        method: 0,
        local_method: 0,
        flags: 0,
        local_flags: 0,
        descriptor: false,
        gap: Vec::new(),
    }
}

fn deflated(name: &str, data: &[u8]) -> Entry {
    let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    let packed = encoder.finish().unwrap();
    let size = u32::try_from(data.len()).unwrap();
    Entry {
        size,
        method: 8,
        local_method: 8,
        ..stored(name, &packed)
    }
}

fn put(out: &mut Vec<u8>, magic: &[u8], halves: &[u16]) {
    out.extend_from_slice(magic);
    out.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
}

fn words(value: usize) -> [u16; 2] {
    let value = u32::try_from(value).unwrap();
    [(value & 0xffff) as u16, (value >> 16) as u16]
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    with_comment(entries, b"")
}

fn with_comment(entries: &[Entry], comment: &[u8]) -> Vec<u8> {
    let (mut out, mut central) = (Vec::new(), Vec::new());
    for entry in entries {
        out.extend_from_slice(&entry.gap);
        let at = out.len();
        let [packed, size] = if entry.descriptor {
            [words(0), words(0)]
        } else {
            [words(entry.data.len()), words(entry.size as usize)]
        };
        let name = u16::try_from(entry.local_name.len()).unwrap();
        put(
            &mut out,
            b"PK\x03\x04",
            &[20, entry.local_flags, entry.local_method, 0, 0, 0, 0],
        );
        put(
            &mut out,
            b"",
            &[packed[0], packed[1], size[0], size[1], name, 0],
        );
        out.extend_from_slice(entry.local_name.as_bytes());
        out.extend_from_slice(&entry.data);
        let [packed, size] = [words(entry.data.len()), words(entry.size as usize)];
        if entry.descriptor {
            put(
                &mut out,
                b"PK\x07\x08",
                &[0, 0, packed[0], packed[1], size[0], size[1]],
            );
        }
        let name = u16::try_from(entry.name.len()).unwrap();
        let at = words(at);
        put(
            &mut central,
            b"PK\x01\x02",
            &[20, 20, entry.flags, entry.method, 0, 0, 0, 0],
        );
        put(
            &mut central,
            b"",
            &[
                packed[0], packed[1], size[0], size[1], name, 0, 0, 0, 0, 0, 0,
            ],
        );
        put(&mut central, b"", &at);
        central.extend_from_slice(entry.name.as_bytes());
    }
    let (start, length) = (words(out.len()), words(central.len()));
    out.extend_from_slice(&central);
    let count = u16::try_from(entries.len()).unwrap();
    put(
        &mut out,
        b"PK\x05\x06",
        &[0, 0, count, count, length[0], length[1], start[0], start[1]],
    );
    put(&mut out, b"", &[u16::try_from(comment.len()).unwrap()]);
    out.extend_from_slice(comment);
    out
}

fn checked(path: &str, bytes: &[u8]) -> Report {
    check_bytes(path, bytes, &AdmissionPolicy::default())
}

fn denied(bytes: &[u8]) -> Vec<Check> {
    checked("model.pt", bytes)
        .denied()
        .map(|finding| finding.check)
        .collect()
}

const EVIL: &[u8] = b"\x80\x02cos\nsystem\nX\x01\0\0\0x\x85R.";
const GOOD: &[u8] = b"\x80\x02}.";

#[test]
fn pickles_in_archives_are_walked_whatever_their_name() {
    for name in [
        "archive/data.pkl",
        "archive/data/0",
        "data.bin",
        "x.txt",
        "archive/.data/y",
    ] {
        for entry in [stored(name, EVIL), deflated(name, EVIL)] {
            assert_eq!(denied(&archive(&[entry])), [Check::UnsafePickle], "{name}");
        }
        for entry in [stored(name, GOOD), deflated(name, GOOD)] {
            assert_eq!(denied(&archive(&[entry])), [], "{name}");
        }
    }
    let inner = archive(&[stored("a/data.pkl", EVIL)]);
    assert_eq!(
        denied(&archive(&[stored("inner.zip", &inner)])),
        [Check::UnsafePickle]
    );
    assert_eq!(
        denied(&archive(&[deflated("inner.zip", &inner)])),
        [Check::UnreadableArchive]
    );
    assert_eq!(denied(&archive(&[])), []);
}

#[test]
fn archives_that_two_readers_see_differently_are_denied() {
    for (name, bytes) in disagreeing().into_iter().chain(misnamed()) {
        let denied = denied(&bytes);
        assert!(
            denied.contains(&Check::MalformedArchive),
            "{name}: {denied:?}"
        );
    }
}

/// Archives whose headers say one thing and whose directory says another.
fn disagreeing() -> Vec<(&'static str, Vec<u8>)> {
    let good = || stored("archive/data.pkl", GOOD);
    let mut extra = archive(&[good()]);
    extra.extend_from_slice(b"tail");
    vec![
        ("twice", archive(&[good(), good()])),
        (
            "twice but for case",
            archive(&[good(), stored("archive/DATA.PKL", GOOD)]),
        ),
        (
            "other name",
            archive(&[Entry {
                local_name: "archive/data.pxl".into(),
                ..good()
            }]),
        ),
        (
            "other method",
            archive(&[Entry {
                local_method: 8,
                ..good()
            }]),
        ),
        ("other flags", archive(&[Entry { flags: 1, ..good() }])),
        (
            "other flags, inside",
            archive(&[Entry {
                local_flags: 1,
                ..good()
            }]),
        ),
        (
            "gap",
            archive(&[
                good(),
                Entry {
                    gap: b"hidden".into(),
                    ..stored("b", b"")
                },
            ]),
        ),
        (
            "gap before the first",
            archive(&[Entry {
                gap: b"PK\x03\x04".into(),
                ..good()
            }]),
        ),
        ("tail", extra),
        (
            "end inside a comment",
            with_comment(&[good()], &archive(&[stored("a.pkl", EVIL)])),
        ),
        ("only a beginning", b"PK\x03\x04".to_vec()),
    ]
}

/// Archives with names that mean different files to different readers.
fn misnamed() -> Vec<(&'static str, Vec<u8>)> {
    let named = |name: &str| archive(&[stored(name, GOOD)]);
    vec![
        ("way out", named("../data.pkl")),
        ("root", named("/data.pkl")),
        ("nul", named("data.pkl\0.txt")),
        ("backslash", named("a\\data.pkl")),
        ("nothing", named("")),
    ]
}

#[test]
fn cut_and_flipped_archives_never_pass_for_others() {
    let bytes = archive(&[
        stored("archive/data.pkl", EVIL),
        deflated("archive/version", b"3"),
    ]);
    for end in 0..bytes.len() {
        assert!(
            end < 2 || !checked("m.pt", &bytes[..end]).admitted(),
            "cut at {end}"
        );
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let report = checked("m.pt", &flipped);
            // Only the payload itself, its name in both headers, or fields that no reader heeds
            // (times, versions, attributes, checksums) can change and leave it as it is.
            let import = bytes.windows(9).position(|w| w == b"os\nsystem").unwrap();
            assert!(
                !report.admitted() || (import.saturating_sub(4)..import + 20).contains(&at),
                "byte {at}, bit {bit}: {report:?}"
            );
        }
    }
}

#[test]
fn a_prefix_does_not_hide_an_archive() {
    let bytes = [
        b"some bytes \xff",
        &archive(&[stored("config.json", b"{}")])[..],
    ]
    .concat();
    let found = checked("model.keras", &bytes);
    assert!(
        found.denied().any(|f| f.check == Check::MalformedArchive),
        "{found:?}"
    );
}

#[test]
fn encrypted_and_unknown_methods_are_denied() {
    let good = || stored("archive/data.pkl", GOOD);
    let encrypted = archive(&[Entry {
        flags: 1,
        local_flags: 1,
        ..good()
    }]);
    assert_eq!(denied(&encrypted), [Check::EncryptedArchive]);
    let bzip2 = archive(&[Entry {
        method: 12,
        local_method: 12,
        ..good()
    }]);
    assert_eq!(denied(&bzip2), [Check::UnreadableArchive]);
    let mut longer = deflated("data.pkl", GOOD);
    longer.size += 1;
    assert_eq!(denied(&archive(&[longer])), [Check::UnreadablePickle]);
    let mut shorter = deflated("data.pkl", GOOD);
    shorter.size -= 1;
    assert!(!denied(&archive(&[shorter])).is_empty());
}

#[test]
fn sizes_after_the_data_are_understood() {
    let described = |name: &str, data: &[u8]| Entry {
        flags: 8,
        local_flags: 8,
        descriptor: true,
        ..stored(name, data)
    };
    let bytes = archive(&[
        described("archive/data.pkl", GOOD),
        described("archive/version", b"3"),
    ]);
    assert_eq!(denied(&bytes), []);
    let bytes = archive(&[
        described("archive/data.pkl", EVIL),
        described("archive/version", b"3"),
    ]);
    assert_eq!(denied(&bytes), [Check::UnsafePickle]);
}

/// A torch pickle with one storage of three bytes under the key `0`.
fn torch_pickle() -> Vec<u8> {
    let mut pickle = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(".to_vec();
    pickle.extend_from_slice(b"(X\x07\0\0\0storagectorch\nByteStorage\nX\x01\0\0\0");
    pickle.extend_from_slice(b"0X\x03\0\0\0cpuK\x03tQK\0K\x03\x85K\x01\x85\x89ccollections\n");
    pickle.extend_from_slice(b"OrderedDict\n)RtR.");
    pickle
}

#[test]
fn raw_storages_are_not_taken_for_pickles() {
    let torch = |data: &[u8]| {
        archive(&[
            stored("archive/data.pkl", &torch_pickle()),
            stored("archive/data/0", data),
        ])
    };
    assert_eq!(denied(&torch(b"\x80\x02\xff")), []);
    // Nothing that the pickle does not account for is let through.
    assert_eq!(
        denied(&torch(b"\x80\x02\xff\xff")),
        [Check::UnreadablePickle]
    );
    assert_eq!(denied(&torch(EVIL)), [Check::UnsafePickle]);
}

#[test]
fn torch_script_and_lambdas_are_told() {
    let script = archive(&[
        stored("m/data.pkl", b"\x80\x02c__torch__\nNet\n)\x81}b."),
        stored("m/code/__torch__.py", b"class Net: pass"),
    ]);
    let report = checked("m.pt", &script);
    assert!(report.admitted() && report.warnings().any(|f| f.check == Check::TorchScript));
    for (config, bad) in [
        (
            r#"{"class_name": "Sequential", "module": "keras.models"}"#,
            false,
        ),
        (r#"{"a": [{"class_name": "Lambda", "config": {}}]}"#, true),
        (r#"{"a": {"class_name": "__lambda__"}}"#, true),
        (r#"{"class_name": "system", "module": "os"}"#, true),
        ("{", true),
    ] {
        let found = denied(&archive(&[deflated("config.json", config.as_bytes())]));
        assert_eq!(found == [Check::KerasLambda], bad, "{config}: {found:?}");
    }
}
