//! The walk over pickles against Python itself: what Python imports, the walk has to find.

use std::collections::BTreeSet;
use std::process::Command;

use modelship_model_store::admission::{AdmissionPolicy, Check, check_bytes};
use modelship_testkit::{Missing, need, tool};
use serde::Deserialize;

/// What Python says of a pickle.
#[derive(Deserialize)]
struct Case {
    hex: String,
    kind: String,
    imports: Vec<(String, String)>,
    done: bool,
}

fn cases(seed: u32, count: u32) -> Result<Vec<Case>, Missing> {
    let python = tool::program("python3").ok_or_else(|| Missing::absent("python3", "not found"))?;
    let output = Command::new(python)
        .args(["-c", include_str!("admission_oracle.py")])
        .args([seed.to_string(), count.to_string()])
        .output()
        .map_err(|error| Missing::broken("python3", error))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let lines = String::from_utf8(output.stdout).unwrap();
    Ok(lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect())
}

/// A judgement that a case does not get.
struct Judged {
    found: BTreeSet<String>,
    readable: bool,
    admitted: bool,
}

fn judged(pickle: &[u8]) -> Judged {
    let report = check_bytes("m.pkl", pickle, &AdmissionPolicy::default());
    let found = report.findings.iter().filter_map(|finding| {
        let rest = finding.detail.strip_prefix("it imports ")?;
        Some(
            rest.strip_suffix(", which is not known to be harmless")?
                .to_owned(),
        )
    });
    Judged {
        found: found.collect(),
        readable: report
            .findings
            .iter()
            .all(|f| f.check != Check::UnreadablePickle),
        admitted: report.admitted(),
    }
}

#[test]
fn every_import_of_python_is_found() {
    let Some(cases) = need(cases(7, 3000)) else {
        return;
    };
    let (mut imports, mut loaded, mut agreed) = (0, 0, 0);
    for case in &cases {
        let judged = judged(&hex::decode(&case.hex).unwrap());
        let allowed = |module: &str| {
            matches!(
                module,
                "builtins" | "__builtin__" | "copyreg" | "copy_reg" | "_codecs"
            )
        };
        let names = case.imports.iter().filter(|(module, _)| !allowed(module));
        let escaped = |name: String| name.chars().flat_map(char::escape_debug).collect();
        let names: BTreeSet<String> = names
            .map(|(module, name)| escaped(format!("{module}.{name}")))
            .collect();
        imports += names.len();
        assert!(
            names.is_empty() || !judged.admitted,
            "{} {names:?}",
            case.hex
        );
        if judged.readable {
            assert!(
                names.is_subset(&judged.found),
                "{} {names:?} {:?}",
                case.hex,
                judged.found
            );
        }
        if case.done {
            loaded += 1;
            agreed += u32::from(judged.readable);
            assert!(
                case.kind == "program" || judged.readable,
                "{}: a real pickle",
                case.hex
            );
        }
    }
    // The comparison means something only if much was imported and most was understood.
    assert!(
        imports > 500 && loaded > 500,
        "{imports} imports, {loaded} loaded"
    );
    assert!(
        agreed * 100 > loaded * 90,
        "{agreed} of {loaded} that load were understood"
    );
}
