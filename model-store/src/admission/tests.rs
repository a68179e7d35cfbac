//! Files of every format, at the level of the whole check.

use std::io::Write as _;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::*;

const EVIL: &[u8] = b"\x80\x02cos\nsystem\nX\x01\0\0\0x\x85R.";

fn checked(path: &str, bytes: &[u8]) -> Report {
    check_bytes(path, bytes, &AdmissionPolicy::default())
}

fn denied(path: &str, bytes: &[u8]) -> Vec<Check> {
    checked(path, bytes)
        .denied()
        .map(|finding| finding.check)
        .collect()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn text_and_data_pass() {
    for (path, bytes) in [
        ("config.json", &b"{\"a\": 1}"[..]),
        ("vocab.txt", b"cat\ncow\nos\nsystem\n"),
        ("README.md", "größer".as_bytes()),
        ("empty.pkl", b""),
        ("x.txt", b"x^2 is no stream of zlib"),
        ("image.png", b"\x89PNG\r\n\x1a\n..."),
    ] {
        assert_eq!(checked(path, bytes), Report::default(), "{path}");
    }
    let unknown = checked("weights.dat", b"\0\x01\x02\x03");
    assert!(unknown.admitted() && unknown.findings[0].check == Check::UnknownFormat);
    let hdf5 = checked("model.h5", b"\x89HDF\r\n\x1a\n");
    assert!(hdf5.admitted() && hdf5.findings[0].check == Check::UnparsedFormat);
    assert_eq!(
        denied("model.pkl", b"cat\ncow\n"),
        [Check::UnsafePickle, Check::UnreadablePickle]
    );
}

#[test]
fn compressions_are_looked_through() {
    for packed in [
        zlib(EVIL),
        gzip(EVIL),
        [gzip(b"\x80"), gzip(&EVIL[1..])].concat(),
    ] {
        assert_eq!(denied("model.joblib", &packed), [Check::UnsafePickle]);
    }
    let twice = [zlib(b"\x80\x02N."), zlib(EVIL)].concat();
    assert_eq!(denied("model.joblib", &twice), [Check::UnreadablePickle]);
    let cut = zlib(EVIL);
    assert!(!checked("model.joblib", &cut[..cut.len() - 8]).admitted());
    for magic in [
        &b"BZh91AY"[..],
        b"\x04\x22\x4d\x18",
        b"\x28\xb5\x2f\xfd",
        b"\x5d\0\0\x80\0",
    ] {
        assert_eq!(denied("model.joblib", magic), [Check::UnreadableArchive]);
    }
    assert_eq!(
        denied("m.gz", &gzip(&gzip(EVIL))),
        [Check::UnreadableArchive]
    );
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let zeros = [&b"\x80\x03B\0\0\0\x10"[..], &vec![0; 0x1000_0000 >> 4]].concat();
    let policy = AdmissionPolicy::default().with_max_unpacked_bytes(1 << 20);
    let report = check_bytes("m.joblib", &zlib(&zeros), &policy);
    assert!(
        report.denied().any(|f| f.check == Check::TooLarge),
        "{report:?}"
    );
}

fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\0", &length[..], header.as_bytes(), data].concat()
}

#[test]
fn arrays_are_raw_or_walked() {
    let header =
        |descr: &str| format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (2,), }}\n");
    assert_eq!(denied("a.npy", &npy(&header("'<f4'"), &[0; 8])), []);
    assert_eq!(
        denied(
            "a.npy",
            &npy(&header("[('a', '<M8[ns]'), ('b', 'u1', (3,))]"), &[0; 22])
        ),
        []
    );
    let two = [
        npy(&header("'<f4'"), &[0; 8]),
        npy(&header("'|b1'"), &[0; 2]),
    ]
    .concat();
    assert_eq!(denied("a.npy", &two), []);
    for descr in [
        "'|O'",
        "'O'",
        "[('a', '<f4'), ('b', '|O')]",
        "[('a', [('b', '|O8')])]",
    ] {
        assert_eq!(
            denied("a.npy", &npy(&header(descr), EVIL)),
            [Check::UnsafePickle],
            "{descr}"
        );
    }
    for descr in [
        "'i4,O'",
        "'object'",
        "'(2,)O'",
        "'<f4' if 1 else 2",
        "__import__('os')",
        "{}",
    ] {
        assert_eq!(
            denied("a.npy", &npy(&header(descr), EVIL)),
            [Check::MalformedArray],
            "{descr}"
        );
    }
    assert_eq!(
        denied("a.npy", &npy(&header("'<f4'"), &[0; 9])),
        [Check::MalformedArray]
    );
    assert_eq!(
        denied("a.npy", &npy(&header("'<f4'"), &[0; 7])),
        [Check::MalformedArray]
    );
}

fn tar(name: &str, data: &[u8]) -> Vec<u8> {
    let mut header = vec![0; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
    header[156] = b'0';
    header[257..263].copy_from_slice(b"ustar\0");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    header[155] = b' ';
    header.extend_from_slice(data);
    header.resize(header.len().next_multiple_of(512) + 1024, 0);
    header
}

#[test]
fn tar_archives_are_looked_into() {
    let report = checked("model.tar", &tar("deep/model.pkl", EVIL));
    assert_eq!(report.findings[0].entry.as_deref(), Some("deep/model.pkl"));
    assert_eq!(
        denied("model.tar.gz", &gzip(&tar("model.pkl", EVIL))),
        [Check::UnsafePickle]
    );
    assert_eq!(denied("model.tar", &tar("notes.txt", b"text")), []);
    let mut damaged = tar("model.pkl", EVIL);
    damaged[0] ^= 1;
    assert_eq!(denied("model.tar", &damaged), [Check::MalformedArchive]);
    // The name of the first file can be a pickle, for someone who loads the archive as one.
    assert_eq!(
        denied("model.tar", &tar("cos\nsystem\n(tR.", b"")),
        [Check::UnsafePickle, Check::UnreadablePickle]
    );
}

/// A field of a protobuf message that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 127 {
        out.push(u8::try_from(length & 127 | 128).unwrap());
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend_from_slice(bytes);
    out
}

fn external(pairs: &[(&str, &str)]) -> Vec<u8> {
    let pair = |(key, value): &(&str, &str)| {
        field(
            13,
            &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat(),
        )
    };
    let tensor: Vec<u8> = pairs.iter().flat_map(pair).chain([14 << 3, 1]).collect();
    onnx(&field(5, &tensor))
}

fn onnx(graph: &[u8]) -> Vec<u8> {
    [&b"\x08\x0a"[..], &field(7, graph)].concat()
}

#[test]
fn onnx_models_keep_their_bounds() {
    assert_eq!(
        checked("m.onnx", &onnx(&field(1, &field(4, b"Add")))),
        Report::default()
    );
    let custom = checked("m.onnx", &onnx(&field(1, &field(7, b"acme.ops"))));
    assert!(custom.admitted() && custom.findings[0].check == Check::OnnxCustomOps);
    let deep = (0..200).fold(Vec::new(), |inner, _| {
        field(1, &field(5, &field(6, &inner)))
    });
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("no graph", b"\x08\x0a".to_vec()),
        ("text", b"not a model".to_vec()),
        ("length leaves", b"\x08\x0a\x3a\x7f".to_vec()),
        (
            "length leaves its message",
            [&b"\x08\x0a"[..], &field(7, b"\x0a\x7f"), &[0; 200]].concat(),
        ),
        ("group", b"\x08\x0a\x3b".to_vec()),
        ("field zero", onnx(b"\x00\x00")),
        (
            "endless number",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
        ),
        ("deep", onnx(&deep)),
    ] {
        assert_eq!(denied("m.onnx", &bytes), [Check::MalformedOnnx], "{name}");
    }
}

#[test]
fn onnx_models_keep_their_data_in_the_model() {
    for (name, bytes) in [
        ("way out", external(&[("location", "../weights")])),
        (
            "way out below",
            external(&[("location", "a/../../weights")]),
        ),
        ("absolute", external(&[("location", "/etc/passwd")])),
        ("drive", external(&[("location", "C:weights")])),
        ("missing", external(&[("location", "weights")])),
        (
            "two locations",
            external(&[("location", "m.onnx"), ("location", "/etc/passwd")]),
        ),
        (
            "too short",
            external(&[("location", "m.onnx"), ("offset", "1"), ("length", "9999")]),
        ),
        (
            "overflow",
            external(&[
                ("location", "m.onnx"),
                ("offset", "18446744073709551615"),
                ("length", "1"),
            ]),
        ),
        ("no location", external(&[])),
    ] {
        assert_eq!(denied("m.onnx", &bytes), [Check::MalformedOnnx], "{name}");
    }
    // The value before its key.
    let backwards = field(
        13,
        &[field(2, b"../weights"), field(1, b"location")].concat(),
    );
    assert_eq!(
        denied("m.onnx", &onnx(&field(5, &backwards))),
        [Check::MalformedOnnx]
    );
    let itself = external(&[("location", "./m.onnx"), ("offset", "0"), ("length", "4")]);
    assert_eq!(denied("m.onnx", &itself), []);
}

fn gguf(entries: &[&[u8]], tensors: &[&[u8]], data: usize) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    out.extend(entries.concat());
    out.extend(tensors.concat());
    out.resize(out.len().next_multiple_of(32) + data, 0);
    out
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    [
        &(name.len() as u64).to_le_bytes()[..],
        name.as_bytes(),
        rest,
    ]
    .concat()
}

#[test]
fn gguf_files_keep_their_bounds() {
    let entry = named("a", b"\x08\0\0\0\x01\0\0\0\0\0\0\0x");
    let strings = named(
        "b",
        b"\x09\0\0\0\x08\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0x",
    );
    let tensor = |offset: u8| {
        let mut rest = b"\x01\0\0\0\x08\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        rest.extend([offset, 0, 0, 0, 0, 0, 0, 0]);
        named(&format!("t{offset}"), &rest)
    };
    assert_eq!(
        denied(
            "m.gguf",
            &gguf(&[&entry, &strings], &[&tensor(0), &tensor(32)], 64)
        ),
        []
    );
    assert_eq!(denied("m.gguf", &gguf(&[], &[], 0)), []);
    let long = named("a", b"\x09\0\0\0\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff");
    for (name, bytes) in [
        ("data too short", gguf(&[], &[&tensor(0), &tensor(32)], 63)),
        ("overlap", gguf(&[], &[&tensor(0), &tensor(0)], 64)),
        ("crooked offset", gguf(&[], &[&tensor(8)], 64)),
        ("key twice", gguf(&[&entry, &entry], &[], 0)),
        ("no such type", gguf(&[&named("a", b"\x63\0\0\0")], &[], 0)),
        ("array too long", gguf(&[&long], &[], 0)),
        ("cut", b"GGUF\x03\0\0\0".to_vec()),
        ("old", b"GGUF\x01\0\0\0".to_vec()),
        ("counts", [&b"GGUF\x03\0\0\0"[..], &[255; 16]].concat()),
        ("only its name", b"not a model at all".to_vec()),
    ] {
        assert_eq!(denied("m.gguf", &bytes), [Check::MalformedGguf], "{name}");
    }
}

fn files(dir: &tempfile::TempDir, files: &[(&str, &[u8])]) -> Vec<(String, PathBuf)> {
    let write = |(path, bytes): &(&str, &[u8])| {
        let local = dir.path().join(path);
        std::fs::write(&local, bytes).unwrap();
        ((*path).to_owned(), local)
    };
    files.iter().map(write).collect()
}

#[tokio::test]
async fn files_on_disk_are_looked_at_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let model = external(&[("location", "weights"), ("offset", "1"), ("length", "3")]);
    let listed = files(
        &dir,
        &[
            ("b.pkl", EVIL),
            ("m.onnx", &model),
            ("weights", b"\0\x01\x02\x03"),
            ("a.pkl", EVIL),
        ],
    );
    let report = check(&listed, &AdmissionPolicy::default()).await.unwrap();
    let paths: Vec<_> = report
        .findings
        .iter()
        .map(|finding| finding.path.as_str())
        .collect();
    assert_eq!(paths, ["b.pkl", "a.pkl"], "{report:?}");
    let error = report.into_result().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsafe);
    assert!(error.to_string().contains("b.pkl") && error.to_string().contains("os.system"));
}

#[tokio::test]
async fn limits_and_missing_files() {
    let dir = tempfile::tempdir().unwrap();
    let listed = files(&dir, &[("a.txt", b"0123456789"), ("b.txt", b"0123456789")]);
    let found = async |policy: AdmissionPolicy| {
        let report = check(&listed, &policy).await.unwrap();
        report
            .denied()
            .map(|finding| finding.check)
            .collect::<Vec<_>>()
    };
    let policy = AdmissionPolicy::default;
    assert_eq!(found(policy()).await, []);
    assert_eq!(
        found(policy().with_max_files(1)).await,
        [Check::TooManyFiles]
    );
    assert_eq!(
        found(policy().with_max_total_bytes(19)).await,
        [Check::TooLarge]
    );
    assert_eq!(
        found(policy().with_max_file_bytes(9)).await,
        [Check::TooLarge; 2]
    );
    let missing = [("c".to_owned(), dir.path().join("c"))];
    let error = check(&missing, &policy()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let folder = [("d".to_owned(), dir.path().to_owned())];
    assert_eq!(
        check(&folder, &policy()).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[test]
fn a_cancelled_check_reads_no_further() {
    let cancelled = AtomicBool::new(true);
    let model = Model {
        sizes: BTreeMap::new(),
    };
    let done = look(
        "m",
        Source::bytes(EVIL, &cancelled),
        &model,
        &AdmissionPolicy::default(),
    );
    assert!(done.unwrap_err().to_string().contains("cancelled"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Every format's reader meets bytes that begin well and go on badly.
    #[test]
    fn any_bytes_are_judged(
        magic in prop::sample::select(vec![
            &b""[..], b"PK\x03\x04", b"\x93NUMPY\x01\0", b"GGUF\x03\0\0\0", b"\x1f\x8b\x08\0",
            b"\x78\x9c", b"\xfd7zXZ\0", b"\x80\x04", b"\x08\x0a\x3a", b"\x30\0\0\0\0\0\0\0{",
        ]),
        name in prop::sample::select(vec![
            "m.pkl", "m.onnx", "m.gguf", "m.safetensors", "m.npz", "m", "m.txt",
        ]),
        tail in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [magic, &tail].concat();
        prop_assert!(checked(name, &bytes).findings.len() <= 64);
    }
}
