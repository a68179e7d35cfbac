//! Running cargo and scripts in the workspace's root.

use std::path::PathBuf;
use std::process::Command;

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

fn program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Runs cargo with `words` and the additional environment `env`.
pub(crate) fn run(words: &[&str], env: &[(&str, &str)]) -> Result<(), String> {
    let status = Command::new(program())
        .args(words)
        .envs(env.iter().copied())
        .current_dir(root())
        .status()
        .map_err(|e| format!("cargo could not be started: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cargo {} failed", words.join(" ")))
    }
}

/// What cargo prints.
pub(crate) fn output(words: &[&str]) -> Result<String, String> {
    let output = Command::new(program())
        .args(words)
        .current_dir(root())
        .output()
        .map_err(|e| format!("cargo could not be started: {e}"))?;
    if !output.status.success() {
        return Err(format!(
            "cargo {} failed: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a script of the repository with bash.
pub(crate) fn script(path: &str) -> Result<(), String> {
    let status = Command::new("bash")
        .arg(path)
        .current_dir(root())
        .status()
        .map_err(|e| format!("bash could not be started: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{path} failed"))
    }
}
