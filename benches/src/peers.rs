//! Other programs that push the finished layer from a file, each with its own process.

use std::path::Path;
use std::time::{Duration, Instant};

use modelship_testkit::{DockerRegistry, Judge, Tool};
use tokio::process::Command;

use crate::Result;
use crate::material::Material;

/// `curl`: POST for a session, PATCH of the file, PUT of the digest, which it is told. It hashes
/// nothing and checks nothing: what the registry and the machine can take.
pub(crate) async fn curl(material: &Material, registry: &DockerRegistry) -> Result<Duration> {
    let host = registry.url();
    let start = Instant::now();
    let uploads = format!("{host}/v2/bench/weights/blobs/uploads/");
    let session = location(&call("POST", &uploads, None).await?)?;
    let session = location(&call("PATCH", &session, Some(&material.tar)).await?)?;
    let mark = if session.contains('?') { '&' } else { '?' };
    let commit = format!("{session}{mark}digest={}", material.digest);
    call("PUT", &commit, None).await?;
    Ok(start.elapsed())
}

/// `crane push` of the OCI layout: the digest is known, the layer is sent as it is.
pub(crate) async fn crane_push(material: &Material, registry: &DockerRegistry) -> Result<Duration> {
    let layout = material.layout.display().to_string();
    crane(registry, &["push", &layout]).await
}

/// `crane append` of the tar to an empty image: it compresses the layer.
pub(crate) async fn crane_append(
    material: &Material,
    registry: &DockerRegistry,
) -> Result<Duration> {
    let tar = material.tar.display().to_string();
    let words = ["append", "--oci-empty-base", "-f", &tar, "-t"];
    crane(registry, &words).await
}

/// Runs `crane` with `words` and then the image's name.
async fn crane(registry: &DockerRegistry, words: &[&str]) -> Result<Duration> {
    let judge = Judge::of(registry)?;
    let image = format!("{}/bench/weights:1", registry.host());
    let words: Vec<&str> = words.iter().copied().chain([image.as_str()]).collect();
    let start = Instant::now();
    let output = judge.ask(Tool::Crane, &words).await?;
    let took = start.elapsed();
    if !output.status.success() {
        return Err(format!("crane {}: {}", words.join(" "), output.stderr).into());
    }
    Ok(took)
}

/// One request with `curl`; gives the headers of the answer.
async fn call(method: &str, url: &str, file: Option<&Path>) -> Result<String> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*"])
        // `Expect: 100-continue` would cost a round trip.
        .args(["--http1.1", "--header", "Expect:", "--request", method])
        .args(["--dump-header", "-", "--output", "/dev/null"])
        .kill_on_drop(true);
    match file {
        Some(file) => curl
            .args(["--header", "Content-Type: application/octet-stream"])
            .arg("--upload-file")
            .arg(file),
        None => curl.args(["--header", "Content-Length: 0"]),
    };
    let output = curl.arg(url).output().await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("curl {method}: {}", said.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The `Location` among an answer's headers.
fn location(headers: &str) -> Result<String> {
    let found = headers.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_it = name.eq_ignore_ascii_case("location");
        is_it.then(|| value.trim().to_owned())
    });
    found.ok_or_else(|| "the registry's answer has no Location".into())
}
