//! Credential helpers: `docker-credential-NAME get`, with the registry on standard input.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use crate::auth::credentials::Credentials;
use crate::error::{Error, ErrorKind, Result};

const STAGE: &str = "ask credential helper";
/// A helper may open a browser or ask a cloud, but not for ever.
const LIMIT: Duration = Duration::from_secs(30);
const OUTPUT_MAX: u64 = 64 << 10;
/// What helpers print when they have nothing for a registry (docker-credential-helpers).
const NOTHING: &str = "credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks the helper `name` for `server`; `None` when it has nothing.
pub(crate) async fn get(
    name: &str,
    search: &[PathBuf],
    server: &str,
) -> Result<Option<Credentials>> {
    let program = format!("docker-credential-{name}");
    let path = find(name, &program, search)?;
    let run = async {
        let mut child = start(&path)?;
        let output = talk(&mut child, server).await;
        let status = child.wait().await;
        std::io::Result::Ok((output?, status?))
    };
    let (output, status) = tokio::time::timeout(LIMIT, run)
        .await
        .map_err(|_| {
            Error::new(
                ErrorKind::Timeout,
                STAGE,
                &program,
                format!("no answer in {LIMIT:?}"),
            )
            .with_hint(format!(
                "run `{program} get` by hand to see what it waits for"
            ))
        })?
        .map_err(|error| {
            Error::new(ErrorKind::Io, STAGE, &program, "cannot be run").with_source(error)
        })?;
    if !status.success() {
        if String::from_utf8_lossy(&output).contains(NOTHING) {
            return Ok(None);
        }
        return Err(Error::new(
            ErrorKind::Unauthorized,
            STAGE,
            &program,
            format!("failed for {server} with {status}"),
        )
        .with_hint(format!(
            "run `{program} get` by hand, giving {server} on standard input"
        )));
    }
    decode(&program, &output)
}

fn decode(program: &str, output: &[u8]) -> Result<Option<Credentials>> {
    // serde's message is left out: it may quote the secret.
    let answer: Answer = serde_json::from_slice(output).map_err(|_| {
        Error::new(
            ErrorKind::Invalid,
            STAGE,
            program,
            "its answer is not the expected JSON",
        )
    })?;
    Ok(match (answer.username.as_str(), answer.secret) {
        ("", secret) if secret.is_empty() => None,
        ("<token>", secret) => Some(Credentials::identity_token(secret)),
        (username, secret) => Some(Credentials::basic(username, secret)),
    })
}

fn find(name: &str, program: &str, search: &[PathBuf]) -> Result<PathBuf> {
    let harmless = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if !name.chars().all(harmless) {
        return Err(Error::new(
            ErrorKind::Invalid,
            STAGE,
            program,
            "is not the name of a helper",
        ));
    }
    search
        .iter()
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::new(ErrorKind::NotFound, STAGE, program, "not found in the search path").with_hint(
                "install it, or remove it from credHelpers or credsStore of the docker config and log in again",
            )
        })
}

fn start(path: &Path) -> std::io::Result<Child> {
    Command::new(path)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
}

async fn talk(child: &mut Child, server: &str) -> std::io::Result<Vec<u8>> {
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read its input is free to; its answer counts.
        let _ = input.write_all(server.as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(pipe) = child.stdout.take() {
        pipe.take(OUTPUT_MAX).read_to_end(&mut output).await?;
    }
    Ok(output)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use crate::auth::credentials::Kind;
    use std::os::unix::fs::PermissionsExt as _;

    fn helper(script: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("docker-credential-fake");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    async fn ask(script: &str) -> Result<Option<Credentials>> {
        let dir = helper(script);
        get("fake", &[dir.path().to_owned()], "r.invalid").await
    }

    #[tokio::test]
    async fn the_host_goes_in_and_credentials_come_out() {
        let found = ask(
            r#"read host; echo "{\"ServerURL\":\"x\",\"Username\":\"$1-$host\",\"Secret\":\"s\"}""#,
        )
        .await
        .unwrap()
        .unwrap();
        assert!(matches!(&found.kind, Kind::Basic { username, .. } if username == "get-r.invalid"));
        let token = ask(r#"echo '{"Username":"<token>","Secret":"rt"}'"#)
            .await
            .unwrap()
            .unwrap();
        assert!(matches!(&token.kind, Kind::Refresh(_)));
    }

    #[tokio::test]
    async fn nothing_is_not_a_failure_but_a_failure_is() {
        let none = ask("echo credentials not found in native keychain; exit 1")
            .await
            .unwrap();
        assert!(none.is_none());
        let error = ask("echo hunter2; exit 3").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert!(!format!("{error:?}").contains("hunter2"));
        let error = ask("echo hunter2").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn an_absent_helper_is_named() {
        let error = get("ecr-login", &[PathBuf::from("/nonexistent")], "r.invalid")
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(
            error.to_string().contains("docker-credential-ecr-login"),
            "{error}"
        );
        assert!(error.hint().is_some());
        let error = get("../evil", &[PathBuf::from("/bin")], "r.invalid")
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
