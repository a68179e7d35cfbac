//! `cargo xtask test`: what the tests need, the tests, and the list of what was skipped.

use std::fs;

use modelship_testkit::tool;

use crate::cargo;

/// Installs what is missing and says what it found.
pub(crate) fn install() -> Result<(), String> {
    let mut missing = 0;
    for (tool, result) in tool::install_all(&|line| println!("  {line}")) {
        match result {
            Ok(path) => println!("{tool:?}: {}", path.display()),
            Err(reason) => {
                missing += 1;
                println!("{tool:?}: missing: {}", reason.reason);
            }
        }
    }
    if missing > 0 && in_ci() {
        return Err(format!(
            "{missing} services are missing, which CI does not accept"
        ));
    }
    Ok(())
}

/// Runs every test, and lists at the end what was skipped and why.
pub(crate) fn test(install_first: bool, arguments: &[String]) -> Result<(), String> {
    if install_first {
        println!("services for the tests:");
        install()?;
    }
    let skips = std::env::temp_dir().join(format!("modelship-skips-{}", std::process::id()));
    fs::write(&skips, "").map_err(|e| format!("{}: {e}", skips.display()))?;
    let mut words = vec!["test", "--locked", "--no-fail-fast"];
    if arguments.is_empty() {
        words.push("--workspace");
    }
    words.extend(arguments.iter().map(String::as_str));
    let path = skips.display().to_string();
    let tested = cargo::run(&words, &[("MODELSHIP_SKIPS_FILE", &path)]);
    let listed = fs::read_to_string(&skips).unwrap_or_default();
    // A list that cannot be removed stays in the temporary folder, where it harms nobody.
    let _ = fs::remove_file(&skips);
    report(&listed);
    tested
}

fn report(listed: &str) {
    let mut lines: Vec<&str> = listed.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    if lines.is_empty() {
        println!("no test was skipped");
        return;
    }
    println!("skipped, because a service could not be had:");
    for line in lines {
        println!("  {line}");
    }
}

fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|v| v == "true")
}
