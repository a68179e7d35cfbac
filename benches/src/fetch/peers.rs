//! Other ways to get the largest object out of S3, each with its own process.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use modelship_testkit::{Tool, tool};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::Result;
use crate::fetch::MOST;
use crate::fetch::bucket::{BUCKET, Bucket, key};

/// Where what the peers write goes: memory, where there is such a folder, since the disk is not
/// what is measured. Ours writes nothing.
pub(crate) fn target() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    Ok(if memory.is_dir() {
        tempfile::tempdir_in(memory)?
    } else {
        tempfile::tempdir()?
    })
}

/// One request for the whole object, with `curl`, which throws it away.
pub(crate) async fn single(bucket: &Bucket, endpoint: &str) -> Result<Duration> {
    let url = bucket.signed_url(endpoint, MOST).await?;
    let start = Instant::now();
    let mut curl = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--fail",
            "--noproxy",
            "*",
            "--config",
            "-",
        ])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    // By standard input, for the signature is a secret and arguments are not.
    let mut stdin = curl.stdin.take().ok_or("curl has no input")?;
    let config = format!("url = \"{url}\"\noutput = \"/dev/null\"\n");
    stdin.write_all(config.as_bytes()).await?;
    drop(stdin);
    done("curl", &curl.wait_with_output().await?)?;
    Ok(start.elapsed())
}

/// `rclone copyto` with `streams` streams of 8 MiB pieces, or with its own defaults.
pub(crate) async fn rclone(
    bucket: &Bucket,
    endpoint: &str,
    streams: Option<u32>,
) -> Result<Duration> {
    let folder = target()?;
    let mut rclone = Command::new(tool::path(Tool::Rclone)?);
    rclone
        .args(["copyto", &format!("bench:{BUCKET}/{}", key(MOST))])
        .arg(folder.path().join("copy"))
        .args(["--config", "/dev/null", "--retries", "1"])
        .env("RCLONE_CONFIG_BENCH_TYPE", "s3")
        .env("RCLONE_CONFIG_BENCH_PROVIDER", "Other")
        .env("RCLONE_CONFIG_BENCH_ENDPOINT", endpoint)
        .env("RCLONE_CONFIG_BENCH_REGION", bucket.region())
        .env("RCLONE_CONFIG_BENCH_ACCESS_KEY_ID", bucket.access_key())
        .env("RCLONE_CONFIG_BENCH_SECRET_ACCESS_KEY", bucket.secret_key())
        .env("HOME", folder.path())
        .kill_on_drop(true);
    if let Some(streams) = streams {
        rclone.args(["--multi-thread-streams", &streams.to_string()]);
        rclone.args([
            "--multi-thread-cutoff",
            "1Mi",
            "--multi-thread-chunk-size",
            "8Mi",
        ]);
    }
    let start = Instant::now();
    done("rclone", &rclone.output().await?)?;
    let took = start.elapsed();
    bucket.check_copy(&folder.path().join("copy"), MOST)?;
    Ok(took)
}

/// `aws s3 cp` with `requests` requests at a time for 8 MB each.
pub(crate) async fn aws(bucket: &Bucket, endpoint: &str, requests: u32) -> Result<Duration> {
    let folder = target()?;
    let config = folder.path().join("config");
    std::fs::write(
        &config,
        format!(
            "[default]\nregion = {}\ns3 =\n  max_concurrent_requests = {requests}\n  \
             multipart_chunksize = 8MB\n  addressing_style = path\n",
            bucket.region()
        ),
    )?;
    let python = tool::program("python3").ok_or("python3 is not on PATH")?;
    let mut aws = Command::new(python);
    aws.arg(tool::path(Tool::AwsCli)?)
        .args([
            "s3",
            "cp",
            "--no-progress",
            &format!("s3://{BUCKET}/{}", key(MOST)),
        ])
        .arg(folder.path().join("copy"))
        .env(
            "PYTHONPATH",
            tool::python_path(Tool::AwsCli).unwrap_or_default(),
        )
        .env("AWS_CONFIG_FILE", &config)
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("AWS_ENDPOINT_URL_S3", endpoint)
        .env("AWS_ACCESS_KEY_ID", bucket.access_key())
        .env("AWS_SECRET_ACCESS_KEY", bucket.secret_key())
        .env("HOME", folder.path())
        .kill_on_drop(true);
    let start = Instant::now();
    done("aws", &aws.output().await?)?;
    let took = start.elapsed();
    bucket.check_copy(&folder.path().join("copy"), MOST)?;
    Ok(took)
}

/// A program's failure as an error.
fn done(program: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.trim()).into())
}
