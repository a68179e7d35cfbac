//! `cargo xtask fuzz`: the parsers of what others wrote, with inputs that a machine thinks out.

use crate::cargo;

/// The folder of the crate with fuzz targets.
const FOLDER: &str = "model-store/fuzz";
/// The longest input, in bytes.
const LONGEST: u32 = 64 << 10;

/// Runs each target, or one, `runs` times. What is found new stays in the corpus beside the
/// targets; a finding stays in `artifacts` and is an error.
pub(crate) fn run(runs: u64, target: Option<&str>) -> Result<(), String> {
    let listed = cargo::output(&["fuzz", "list", "--fuzz-dir", FOLDER])?;
    let known: Vec<&str> = listed.lines().collect();
    if let Some(wanted) = target.filter(|wanted| !known.contains(wanted)) {
        return Err(format!(
            "no target {wanted}: there are {}",
            known.join(", ")
        ));
    }
    for name in known {
        if target.is_none_or(|wanted| wanted == name) {
            println!("{name}: {runs} executions");
            fuzz(name, runs)?;
        }
    }
    Ok(())
}

/// Without a sanitizer, which the stable compiler has none of: the crate has no unsafe code.
fn fuzz(name: &str, runs: u64) -> Result<(), String> {
    let (runs, longest) = (format!("-runs={runs}"), format!("-max_len={LONGEST}"));
    let words = [
        "fuzz",
        "run",
        "--fuzz-dir",
        FOLDER,
        "-s",
        "none",
        name,
        "--",
    ];
    cargo::run(
        &[&words[..], &[&runs, &longest, "-verbosity=0"]].concat(),
        &[],
    )
}
