//! What programs that share no code with us read from our compressed layers.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use modelship_image_builder::{CompressOptions, Compression, Layer};
use modelship_testkit::{Missing, need};

use crate::sample;

/// A layer of more than three blocks, plain and compressed into a file.
async fn packed(dir: &Path, compression: Compression) -> (Vec<u8>, PathBuf) {
    let plain = sample::model(3_500_000);
    let mut options = CompressOptions::from(compression);
    options.threads = NonZeroUsize::new(2);
    let layer: Layer = plain.clone().compressed(dir, options).await.unwrap();
    let digest = layer.descriptor().unwrap();
    let path = dir.join(digest.digest().digest());
    (sample::bytes(plain.open(0)).await, path)
}

/// What a program of the operating system writes.
async fn output(program: &str, args: &[&str]) -> Result<Vec<u8>, Missing> {
    let command = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = command.await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Missing::absent(program, error),
        _ => Missing::broken(program, error),
    })?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.is_empty(),
        "{program}: {said}"
    );
    Ok(output.stdout)
}

#[tokio::test]
async fn gzip_and_python_read_the_whole_of_a_gzip_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, path) = packed(dir.path(), Compression::Gzip).await;
    let named = dir.path().join("layer.gz");
    fs::copy(path, &named).unwrap();
    let named = named.to_str().unwrap();
    if let Some(found) = need(output("gzip", &["--decompress", "--stdout", named]).await) {
        assert!(found == plain, "gzip read {} bytes", found.len());
    }
    let script = "import gzip, shutil, sys\n\
        shutil.copyfileobj(gzip.open(sys.argv[1]), sys.stdout.buffer)";
    if let Some(found) = need(output("python3", &["-c", script, named]).await) {
        assert!(found == plain, "Python read {} bytes", found.len());
    }
    // One member, which some readers stop after.
    let script = "import sys, zlib\n\
        d = zlib.decompressobj(31)\n\
        sys.stdout.buffer.write(d.decompress(open(sys.argv[1], 'rb').read()))\n\
        assert d.eof and not d.unused_data";
    if let Some(found) = need(output("python3", &["-c", script, named]).await) {
        assert!(found == plain, "zlib read {} bytes", found.len());
    }
}

#[tokio::test]
async fn zstd_reads_the_whole_of_a_zstd_layer() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, path) = packed(dir.path(), Compression::Zstd).await;
    let named = dir.path().join("layer.zst");
    fs::copy(path, &named).unwrap();
    let named = named.to_str().unwrap();
    if let Some(found) = need(output("zstd", &["--decompress", "--quiet", "--stdout", named]).await)
    {
        assert!(found == plain, "zstd read {} bytes", found.len());
    }
}
