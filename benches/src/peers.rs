//! Other programs that push the finished layer from a file, each with its own process.

use std::path::Path;
use std::time::{Duration, Instant};

use modelship_testkit::{DockerRegistry, Judge, Tool};
use tokio::process::Command;

use crate::Result;
use crate::material::{FILE, Material};

/// `curl`: POST for a session, PATCH of the file, PUT of the digest, which it is told. It hashes
/// nothing and checks nothing: what the registry and the machine can take.
pub(crate) async fn curl(material: &Material, host: &str) -> Result<Duration> {
    let base = format!("http://{host}");
    let absolute = |location: String| match location.strip_prefix('/') {
        Some(path) => format!("{base}/{path}"),
        None => location,
    };
    let start = Instant::now();
    let uploads = format!("{base}/v2/bench/weights/blobs/uploads/");
    let session = absolute(location(&call("POST", &uploads, None).await?)?);
    let session = call("PATCH", &session, Some(&material.tar)).await?;
    let session = absolute(location(&session)?);
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

/// What a script does without a builder: `tar` of the model's file, then `crane append` of it to
/// an empty image, which compresses it.
pub(crate) async fn crane_append(
    material: &Material,
    registry: &DockerRegistry,
) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let tar = folder.path().join("layer.tar").display().to_string();
    let start = Instant::now();
    let mut make = Command::new("tar");
    make.args(["--create", "--file", &tar, "--transform", "s,^,models/,"]);
    make.arg("--directory").arg(material.stored_in()?);
    make.arg(FILE).kill_on_drop(true);
    done("tar", &make.output().await?)?;
    let made = start.elapsed();
    let words = ["append", "--oci-empty-base", "-f", &tar, "-t"];
    Ok(made + crane(registry, &words).await?)
}

/// `buildah build` of a Containerfile of two lines, and `buildah push`.
pub(crate) async fn buildah(material: &Material, registry: &DockerRegistry) -> Result<Duration> {
    let judge = Judge::of(registry)?;
    let home = judge.home();
    let image = format!("{}/bench/weights:1", registry.host());
    let run = async |words: &[&str]| {
        let mut buildah = Command::new("buildah");
        buildah
            .arg("--root")
            .arg(home.join("images"))
            .arg("--runroot")
            .arg(home.join("run"))
            .args(["--storage-driver", "vfs"])
            .args(words)
            .env("HOME", home)
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("TMPDIR", home)
            .kill_on_drop(true);
        done("buildah", &buildah.output().await?)
    };
    let policy = home.join(".config/containers/policy.json");
    let policy = policy.display().to_string();
    let recipe = home.join("Containerfile");
    std::fs::write(
        &recipe,
        format!("FROM scratch\nCOPY {FILE} /models/{FILE}\n"),
    )?;
    let recipe = recipe.display().to_string();
    let context = material.stored_in()?.display().to_string();
    let start = Instant::now();
    let build = ["build", "--signature-policy", &policy, "--file", &recipe];
    run(&[&build[..], &["--tag", &image, &context]].concat()).await?;
    let push = ["push", "--signature-policy", &policy, "--tls-verify=false"];
    run(&[&push[..], &[&image]].concat()).await?;
    Ok(start.elapsed())
}

/// A program's failure as an error.
fn done(program: &str, output: &std::process::Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.trim()).into())
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
    done("curl", &output)?;
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
