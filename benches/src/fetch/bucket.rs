//! A real S3 service with a model of several files, one for each number of streams.

use std::path::Path;
use std::time::Duration;

use modelship_model_store::{ModelStore, ModelVersion, PublishOptions, StoreOptions};
use modelship_testkit::Versitygw;
use object_store::aws::AmazonS3Builder;
use object_store::signer::Signer as _;

use crate::{Result, weights};

/// The bucket.
pub(crate) const BUCKET: &str = "models";
const VERSION: &str = "1.0.0";

/// The service and the model in it.
pub(crate) struct Bucket {
    server: Versitygw,
    pub(crate) model: ModelVersion,
}

/// The file for `streams` streams.
pub(crate) fn file(streams: u32) -> String {
    format!("{streams}.bin")
}

/// The key of that file.
pub(crate) fn key(streams: u32) -> String {
    format!("weights/versions/{VERSION}/files/{}", file(streams))
}

impl Bucket {
    /// Starts the service and publishes a model of a file for each number of streams, `mib` MiB
    /// for each stream, so that all measurements take about as long.
    pub(crate) async fn prepare(streams: &[u32], mib: u32) -> Result<Self> {
        let server = Versitygw::start().await?;
        server.create_bucket(BUCKET).await?;
        let folder = tempfile::tempdir()?;
        for &count in streams {
            let (path, mib) = (folder.path().join(file(count)), u64::from(mib * count));
            tokio::task::spawn_blocking(move || weights::write(&path, mib)).await??;
        }
        let store = open(&server, &server.endpoint())?;
        let options = PublishOptions::default();
        let model = store
            .publish(folder.path(), VERSION, options, &drop)
            .await?;
        Ok(Self { server, model })
    }

    /// The store, seen through `endpoint`.
    pub(crate) fn store(&self, endpoint: &str) -> Result<ModelStore> {
        open(&self.server, endpoint)
    }

    /// The port of the service itself.
    pub(crate) fn port(&self) -> Result<u16> {
        let endpoint = self.server.endpoint();
        let port = endpoint.rsplit(':').next().unwrap_or_default();
        Ok(port.parse()?)
    }

    pub(crate) fn region(&self) -> &'static str {
        self.server.region()
    }

    pub(crate) fn access_key(&self) -> &str {
        self.server.access_key()
    }

    pub(crate) fn secret_key(&self) -> &str {
        self.server.secret_key()
    }

    /// The file's size in bytes.
    pub(crate) fn size(&self, streams: u32) -> Result<u64> {
        let found = self.model.file(&file(streams)).ok_or("no such file")?;
        Ok(found.size)
    }

    /// A URL that gives the file for an hour.
    pub(crate) async fn signed_url(&self, endpoint: &str, streams: u32) -> Result<String> {
        let store = AmazonS3Builder::new()
            .with_bucket_name(BUCKET)
            .with_region(self.region())
            .with_endpoint(endpoint)
            .with_allow_http(true)
            .with_access_key_id(self.access_key())
            .with_secret_access_key(self.secret_key())
            .build()?;
        let path = object_store::path::Path::parse(key(streams))?;
        let hour = Duration::from_hours(1);
        let url = store.signed_url(http::Method::GET, &path, hour);
        Ok(url.await?.to_string())
    }

    /// Whether a peer's copy is at least as long as it should be.
    pub(crate) fn check_copy(&self, copy: &Path, streams: u32) -> Result<()> {
        let (size, found) = (self.size(streams)?, std::fs::metadata(copy)?.len());
        if size == found {
            return Ok(());
        }
        Err(format!("the copy has {found} of {size} bytes").into())
    }
}

fn open(server: &Versitygw, endpoint: &str) -> Result<ModelStore> {
    let mut options = StoreOptions::default();
    options.aws_endpoint = Some(endpoint.to_owned());
    options.aws_region = Some(server.region().to_owned());
    options.aws_access_key_id = Some(server.access_key().to_owned());
    options.aws_secret_access_key = Some(server.secret_key().to_owned());
    Ok(ModelStore::open(
        &format!("s3://{BUCKET}/weights").parse()?,
        &options,
    )?)
}
