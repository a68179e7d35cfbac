//! Our way: read from the store, framed as tar and hashed while it is sent, in one pass.

use std::time::{Duration, Instant};

use modelship_image_builder::{Content, Layer, Tree};
use modelship_registry::{Blob, Credentials, RegistryOptions, Repository};

use crate::Result;
use crate::material::{FILE, IN_IMAGE, Material};

/// Pushes the layer without knowing its digest: one streaming PATCH, then the commit.
pub(crate) async fn push(material: &Material, host: &str) -> Result<Duration> {
    let name = format!("{host}/bench/weights");
    let start = Instant::now();
    push_layer(material, material.layer()?, &name).await?;
    Ok(start.elapsed())
}

/// The same of a file on this machine, which is nobody's to verify: one hash instead of two.
pub(crate) async fn push_file(material: &Material, host: &str) -> Result<Duration> {
    let name = format!("{host}/bench/weights");
    let file = material.stored_in()?.join(FILE);
    let start = Instant::now();
    let mut tree = Tree::new();
    tree.insert_file(IN_IMAGE, 0o644, Content::file(file)?)?;
    push_layer(material, Layer::tree(tree)?, &name).await?;
    Ok(start.elapsed())
}

async fn push_layer(material: &Material, layer: Layer, name: &str) -> Result<()> {
    let options = RegistryOptions::default();
    let repository = Repository::new(name, Credentials::anonymous(), options)?;
    let (media_type, size) = (layer.media_type().to_string(), layer.len());
    let blob = Blob::new(media_type, size, move |from| layer.open(from));
    let pushed = repository.push_blob(&blob, &drop).await?;
    if pushed.digest().as_ref() != material.digest {
        return Err(format!("pushed {}, not {}", pushed.digest(), material.digest).into());
    }
    Ok(())
}
