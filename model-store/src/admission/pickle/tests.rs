//! Pickles by hand: what must be denied, what must not, and that nothing makes the walk fail.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::admission::{Action, AdmissionPolicy, Check, Report, check_bytes};

fn checked(pickle: &[u8]) -> Report {
    check_bytes("model.pkl", pickle, &AdmissionPolicy::default())
}

fn checks(report: &Report) -> BTreeSet<Check> {
    report.denied().map(|finding| finding.check).collect()
}

/// `import module.name` by `STACK_GLOBAL`.
fn import(module: &str, name: &str) -> Vec<u8> {
    let mut pickle = Vec::new();
    for text in [module, name] {
        pickle.extend([0x8c, u8::try_from(text.len()).unwrap()]);
        pickle.extend(text.bytes());
    }
    pickle.push(0x93);
    pickle
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Ways to bring `os.system` or the like past scanners that look for strings, most of them from
/// public reports.
fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let mut attacks = attacks_on_names();
    attacks.extend(attacks_on_objects());
    attacks.extend(attacks_on_libraries());
    attacks.extend(attacks_on_files());
    attacks
}

/// What hides which name is imported.
fn attacks_on_names() -> Vec<(&'static str, Vec<u8>)> {
    let system = import("os", "system");
    vec![
        ("GLOBAL", b"cos\nsystem\n(S'x'\ntR.".to_vec()),
        ("INST", b"(S'x'\nios\nsystem\n.".to_vec()),
        ("OBJ", b"(cos\nsystem\nS'x'\no.".to_vec()),
        ("STACK_GLOBAL", joined(&[b"\x80\x04", &system, b"\x8c\x01x\x85R."])),
        ("NEWOBJ", b"\x80\x02ctypes\nFunctionType\n)\x81.".to_vec()),
        ("NEWOBJ_EX", b"\x80\x04csubprocess\nPopen\n)}\x92.".to_vec()),
        ("import without a call", b"cidlelib.pyshell\nmain\n.".to_vec()),
        ("import dropped again", b"cos\nsystem\n0N.".to_vec()),
        ("unicode escapes", b"\x80\x04V\\u006fs\nVsyst\\u0065m\n\x93)R.".to_vec()),
        ("byte escapes", b"\x80\x04S'\\x6fs'\nS'syste\\155'\n\x93)R.".to_vec()),
        ("PUT and MEMOIZE mixed",
            b"\x80\x04U\x02osq\x00U\x06systemq\x01U\x05torch\x94U\x05float\x940000h\x00h\x01\x93)R.".to_vec()),
        ("memo overwritten", b"\x80\x04U\x05torchq\x00U\x02osq\x000U\x06systemq\x010h\x00h\x01\x93)R.".to_vec()),
        ("names from a tuple that was popped",
            b"\x80\x04(X\x02\x00\x00\x00osq\x00X\x06\x00\x00\x00systemq\x011h\x00h\x01\x93)R.".to_vec()),
        ("names by DUP", b"\x80\x04X\x02\x00\x00\x00os2q\x0000h\x00X\x06\x00\x00\x00system\x93)R.".to_vec()),
        ("name made by a call", joined(&[
            b"\x80\x04", &import("builtins", "str"), b"\x8c\x02os\x85R\x8c\x06system\x93)R."])),
        ("name from bytes and a codec", joined(&[
            b"\x80\x04", &import("_codecs", "encode"), b"\x8c\x01x\x8c\x06base64\x86R."])),
        ("dotted name", joined(&[b"\x80\x04", &import("numpy", "ndarray.__init__.__globals__"), b"."])),
        ("dotted name of an allowed class", joined(&[
            b"\x80\x04", &import("sklearn.linear_model", "LogisticRegression.predict"), b"."])),
        ("extension", b"\x80\x02\x82\x01.".to_vec()),
        ("extension of two bytes", b"\x80\x02\x83\x01\x00.".to_vec()),
        ("extension of four bytes", b"\x80\x02\x84\x01\x00\x00\x00.".to_vec()),
        ("persistent id", b"Pcos\n.".to_vec()),
        ("persistent id that is no storage", b"\x80\x02X\x01\x00\x00\x00aQ.".to_vec()),
    ]
}

/// What does harm with names that look harmless.
fn attacks_on_objects() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "call of what a call gave",
            joined(&[b"\x80\x04", &import("collections", "OrderedDict"), b")R)R."]),
        ),
        (
            "attributes of a function",
            joined(&[
                b"\x80\x04",
                &import("numpy", "mean"),
                b"N}\x8c\x01a\x8c\x02oss\x86b.",
            ]),
        ),
        (
            "attributes of a class",
            joined(&[b"\x80\x04", &import("collections", "OrderedDict"), b"}b."]),
        ),
        (
            "state of an object that had one",
            joined(&[
                b"\x80\x04",
                &import("collections", "OrderedDict"),
                b")R\x94}b}b.",
            ]),
        ),
        (
            "_reconstructor of what is not allowed",
            joined(&[
                b"\x80\x02",
                &import("copyreg", "_reconstructor"),
                b"cos\nsystem\nc__builtin__\nobject\nN\x87R.",
            ]),
        ),
    ]
}

/// What reaches memory and files through names of NumPy, torch and joblib.
fn attacks_on_libraries() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "_reconstructor of memory",
            joined(&[
                b"\x80\x04",
                &import("copyreg", "_reconstructor"),
                &import("numpy", "ndarray"),
                &import("numpy", "ndarray"),
                b"N\x87R.",
            ]),
        ),
        (
            "an array over foreign memory",
            joined(&[
                b"\x80\x04",
                &import("numpy", "ndarray"),
                b"K\x01\x85\x8c\x01OC\x0812345678\x87\x81.",
            ]),
        ),
        (
            "a file by memmap",
            joined(&[
                b"\x80\x04",
                &import("numpy", "memmap"),
                b"\x8c\x01x\x85\x81.",
            ]),
        ),
        ("dtype that hides objects", forged_dtype(0)),
        (
            "scalar of an object",
            joined(&[
                b"\x80\x04",
                &import("numpy.core.multiarray", "scalar"),
                &import("numpy", "dtype"),
                b"\x8c\x02O8\x89\x88\x87RN\x86R.",
            ]),
        ),
        (
            "torch.load inside of a tensor",
            joined(&[
                b"\x80\x04",
                &import("torch.storage", "_load_from_bytes"),
                b"C\x01x\x85R.",
            ]),
        ),
        (
            "joblib's old arrays, which are files of their own",
            joined(&[
                b"\x80\x04",
                &import("joblib.numpy_pickle", "NDArrayWrapper"),
                b")\x81.",
            ]),
        ),
    ]
}

/// What hides where a pickle begins or ends.
fn attacks_on_files() -> Vec<(&'static str, Vec<u8>)> {
    let system = import("os", "system");
    vec![
        ("stacked pickles", joined(&[b"N.", b"cos\nsystem\n)R."])),
        (
            "payload, then damage",
            joined(&[b"\x80\x04", &system, b")R\xff"]),
        ),
        (
            "payload, then the end of the file",
            joined(&[b"\x80\x04", &system, b")R"]),
        ),
        (
            "payload inside a frame that is too long",
            joined(&[
                b"\x80\x04\x95\xff\xff\x00\x00\x00\x00\x00\x00",
                &system,
                b")R.",
            ]),
        ),
    ]
}

/// A structured dtype with an object in it, whose state has these flags.
fn forged_dtype(flags: u8) -> Vec<u8> {
    joined(&[
        b"\x80\x04",
        &import("numpy", "dtype"),
        b"\x94\x8c\x02V8\x89\x88\x87R(K\x03\x8c\x01|N\x8c\x01a\x85}\x8c\x01a",
        b"h\x00\x8c\x02O8\x89\x88\x87RK\x00\x86s",
        &[b'K', 8, b'K', 1, b'K', flags],
        b"tb.",
    ])
}

#[test]
fn attacks_are_denied_by_what_they_do() {
    for (name, pickle) in attacks() {
        let report = checked(&pickle);
        assert!(
            checks(&report).contains(&Check::UnsafePickle),
            "{name}: {report:?}"
        );
    }
}

#[test]
fn attacks_are_found_under_any_name() {
    for (name, pickle) in attacks() {
        for path in [
            "weights.bin",
            "notes.txt",
            "config.json",
            "model",
            "model.onnx",
            "a.safetensors",
        ] {
            let report = check_bytes(path, &pickle, &AdmissionPolicy::default());
            let imports = !name.contains("persistent") && pickle.windows(4).any(|w| w == b"cos\n");
            assert!(
                !imports || !report.admitted(),
                "{name} as {path}: {report:?}"
            );
        }
    }
}

#[test]
fn what_an_unpickler_does_not_read_is_denied() {
    for (name, pickle) in [
        ("empty", &b""[..]),
        ("no STOP", b"N"),
        ("no opcode", b"\xff."),
        ("stack is empty", b"."),
        ("POP of nothing", b"0."),
        ("no mark", b"t."),
        ("below the mark", b"N(\x85."),
        ("unknown memo", b"h\x05."),
        ("protocol 6", b"\x80\x06N."),
        ("odd dictionary", b"(Nd."),
        ("odd items", b"}(Nu."),
        ("BINSTRING of negative length", b"T\xff\xff\xff\xff."),
        ("LONG4 of negative length", b"\x8b\xff\xff\xff\xff."),
        ("text that is cut", b"X\x05\x00\x00\x00ab."),
        (
            "bytes longer than memory",
            b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
        ),
        (
            "frame longer than memory",
            b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xffN.",
        ),
        (
            "frame that ends inside an opcode",
            b"\x80\x04\x95\x02\0\0\0\0\0\0\0\x8c\x01a.",
        ),
        (
            "frame inside a frame",
            b"\x80\x04\x95\x0a\0\0\0\0\0\0\0\x95\x01\0\0\0\0\0\0\0N.",
        ),
        ("memo far ahead", b"Nr\xff\xff\xff\x00."),
        ("index with an underscore", b"Np1_0\n0g10\n."),
        ("garbage after STOP", b"N.garbage"),
        ("state of a number", b"K\x01}b."),
        ("append to a number", b"K\x01Na."),
    ] {
        let report = checked(pickle);
        if name == "empty" {
            assert!(
                report.admitted(),
                "nothing can be loaded from an empty file"
            );
        } else {
            assert!(
                checks(&report).contains(&Check::UnreadablePickle),
                "{name}: {report:?}"
            );
        }
    }
}

#[test]
fn harmless_pickles_are_admitted() {
    for (name, pickle) in [
        ("None", b"N.".to_vec()),
        (
            "protocol 0",
            b"(lp0\nI1\naL2L\naF1.5\naVtext\naS'text'\naI01\na.".to_vec(),
        ),
        (
            "protocol 1",
            b"](K\x01M\x01\x02J\xff\xff\xff\xffU\x01aT\x01\0\0\0aG\0\0\0\0\0\0\0\0e.".to_vec(),
        ),
        (
            "protocol 2",
            b"\x80\x02(\x88\x89\x8a\x01\x05\x8b\x01\0\0\0\x05tq\x00h\x00\x86.".to_vec(),
        ),
        ("protocol 3", b"\x80\x03(B\x01\0\0\0aC\x01ad.".to_vec()),
        (
            "protocol 4",
            b"\x80\x04\x95\x0c\0\0\0\0\0\0\0\x8f\x94(K\x01K\x02\x90\x8e\x00".to_vec(),
        ),
        ("dtype with an object, as NumPy says it", forged_dtype(27)),
        (
            "a set",
            joined(&[b"\x80\x02", b"c__builtin__\nset\n](K\x01e\x85R."]),
        ),
        ("frozenset", b"\x80\x04(K\x01\x91.".to_vec()),
        ("bytearray", b"\x80\x05\x96\x01\0\0\0\0\0\0\0a.".to_vec()),
        ("buffers", b"\x80\x05\x97\x98.".to_vec()),
        (
            "OrderedDict",
            joined(&[
                b"\x80\x04",
                &import("collections", "OrderedDict"),
                b")R\x94(\x8c\x01aK\x01u.",
            ]),
        ),
        (
            "old objects",
            b"ccopy_reg\n_reconstructor\n(csklearn.svm\nSVC\nc__builtin__\nobject\nNtR(dp0\nb."
                .to_vec(),
        ),
        (
            "bytes of protocol 2",
            b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R.".to_vec(),
        ),
    ] {
        let pickle = if name == "protocol 4" {
            b"\x80\x04\x95\x09\0\0\0\0\0\0\0\x8f\x94(K\x01K\x02\x90.".to_vec()
        } else {
            pickle
        };
        let report = checked(&pickle);
        assert_eq!(report, Report::default(), "{name}");
    }
}

#[test]
fn what_the_policy_allows_is_allowed() {
    let pickle = joined(&[b"\x80\x04", &import("acme.layers", "Net"), b")\x81}b."]);
    assert!(!checked(&pickle).admitted());
    let vouched = AdmissionPolicy::default().with_global("acme.layers.Net");
    assert_eq!(check_bytes("m.pkl", &pickle, &vouched), Report::default());
    let dotted = joined(&[b"\x80\x04", &import("acme.layers", "Net.inner"), b"."]);
    let vouched = vouched.with_global("acme.layers.Net.inner");
    assert!(
        !check_bytes("m.pkl", &dotted, &vouched).admitted(),
        "dots walk through attributes"
    );
    let warned = AdmissionPolicy::default().with_action(Check::UnsafePickle, Action::Warn);
    let report = check_bytes("m.pkl", &pickle, &warned);
    assert!(report.admitted() && report.warnings().count() == 1);
}

#[test]
fn a_result_of_an_allowed_name_is_no_text() {
    // What the policy adds could give a text, and so a name.
    let policy = AdmissionPolicy::default().with_global("acme.text.join");
    let pickle = joined(&[
        b"\x80\x04",
        &import("acme.text", "join"),
        b")R\x8c\x06system\x93.",
    ]);
    let report = check_bytes("m.pkl", &pickle, &policy);
    assert!(checks(&report).contains(&Check::UnsafePickle), "{report:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let report = checked(&bytes);
        prop_assert!(report.findings.len() <= 64);
    }

    /// Opcodes at random, so that the walk gets further than bytes at random would.
    #[test]
    fn any_opcodes_are_judged(
        opcodes in prop::collection::vec(prop::sample::select(b"(.0123NKJ]})tl d\x85\x86\x87\x8f\x90\x91\x94hqRboi\x81\x92\x93aeus".to_vec()), 0..200),
    ) {
        drop(checked(&opcodes));
    }

    /// What comes after an import, or instead of its arguments, does not make it good.
    #[test]
    fn no_tail_redeems_an_attack(
        which in 0..4_usize,
        tail in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let (name, mut pickle) = attacks().swap_remove(which);
        pickle.pop();
        pickle.extend(tail);
        prop_assert!(!checked(&pickle).admitted(), "{name}");
    }

    /// Flipping bytes of a payload's argument leaves it denied.
    #[test]
    fn no_argument_redeems_an_attack(argument in "[a-zA-Z0-9 ;/]{1,40}") {
        let pickle = format!("cposix\nsystem\n(S'{argument}'\ntR.");
        prop_assert!(!checked(pickle.as_bytes()).admitted());
    }
}
