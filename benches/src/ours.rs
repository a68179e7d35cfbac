//! Our way: read from the store, framed as tar and hashed while it is sent, in one pass.

use std::time::{Duration, Instant};

use modelship_registry::{Blob, Credentials, RegistryOptions, Repository};

use crate::Result;
use crate::material::Material;

/// Pushes the layer without knowing its digest: one streaming PATCH, then the commit.
pub(crate) async fn push(material: &Material, host: &str) -> Result<Duration> {
    let name = format!("{host}/bench/weights");
    let start = Instant::now();
    let layer = material.layer()?;
    let options = RegistryOptions::default();
    let repository = Repository::new(&name, Credentials::anonymous(), options)?;
    let (media_type, size) = (layer.media_type().to_string(), layer.len());
    let blob = Blob::new(media_type, size, move |from| layer.open(from));
    let pushed = repository.push_blob(&blob, &drop).await?;
    let took = start.elapsed();
    if pushed.digest().as_ref() != material.digest {
        return Err(format!("pushed {}, not {}", pushed.digest(), material.digest).into());
    }
    Ok(took)
}
