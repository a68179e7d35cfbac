//! What an image says of its origin: annotations, labels, and the roles of its layers.

use oci_spec::image::Digest;
use url::Url;

use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::Layer;
use crate::time::is_rfc3339;

const STAGE: &str = "describe image";

/// The annotation of a layer's descriptor that says what the layer holds, by [`Role::name`].
pub const LAYER_ROLE: &str = "modelship.github.io/layer.role";
/// The annotation and label of the model's name.
pub const MODEL_NAME: &str = "modelship.github.io/model.name";
/// The annotation and label of the model's version.
pub const MODEL_VERSION: &str = "modelship.github.io/model.version";
/// The annotation and label of the digest over the model's files.
pub const MODEL_DIGEST: &str = "modelship.github.io/model.digest";
/// The annotation and label of where the model came from.
pub const MODEL_URI: &str = "modelship.github.io/model.uri";

/// What a layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Role {
    /// The operating system and the language's runtime.
    Base,
    /// What the code depends upon.
    Dependencies,
    /// A model, or a part of one.
    Model,
    /// The code of the app.
    Code,
}

impl Role {
    const ALL: [Self; 4] = [Self::Base, Self::Dependencies, Self::Model, Self::Code];

    /// The role as the annotation [`LAYER_ROLE`] states it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Dependencies => "dependencies",
            Self::Model => "model",
            Self::Code => "code",
        }
    }

    /// The role that a layer states.
    pub fn of(layer: &Layer) -> Option<Self> {
        let name = layer.annotations().get(LAYER_ROLE)?;
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Where an image comes from; what is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The reference of the base image, such as `registry.invalid/python:3.12`.
    pub base_name: Option<String>,
    /// The digest of the base image's manifest.
    pub base_digest: Option<Digest>,
    /// The URL of the source code.
    pub source: Option<String>,
    /// The revision of the source code, such as a commit.
    pub revision: Option<String>,
    /// When the image was made, in RFC 3339; also the time in its config. Left out by default,
    /// since it makes two builds of the same inputs differ.
    pub created: Option<String>,
    /// The model in the image.
    pub model: Option<ModelIdentity>,
}

/// Which model an image holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelIdentity {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The digest over its files.
    pub digest: String,
    /// Where it came from, as a URL without user info, query or fragment; left out where that
    /// would be a path of this machine.
    pub uri: Option<String>,
}

impl Image {
    /// Says where the image comes from: the manifest's annotations
    /// `org.opencontainers.image.base.name`, `.base.digest`, `.source`, `.revision` and
    /// `.created` (image-spec, annotations.md) and `modelship.github.io/model.name`, `.version`,
    /// `.digest` and `.uri`. Source, revision and model are labels of the config too, where
    /// programs that only see the running image can read them.
    ///
    /// # Errors
    /// `Invalid` for a URL with user info, query or fragment, since all of them can carry a
    /// secret, for one that is none, and for a time that is not RFC 3339.
    pub fn with_provenance(self, provenance: &Provenance) -> Result<Self> {
        let standard = |name| format!("org.opencontainers.image.{name}");
        let mut annotations = Vec::new();
        if let Some(name) = &provenance.base_name {
            check_reference(name)?;
            annotations.push((standard("base.name"), name.clone()));
        }
        if let Some(digest) = &provenance.base_digest {
            annotations.push((standard("base.digest"), digest.to_string()));
        }
        let mut labels = Vec::new();
        if let Some(source) = &provenance.source {
            check_url("source", source)?;
            labels.push((standard("source"), source.clone()));
        }
        if let Some(revision) = &provenance.revision {
            labels.push((standard("revision"), revision.clone()));
        }
        labels.extend(provenance.model.as_ref().map_or(Ok(vec![]), model_labels)?);
        annotations.extend(labels.iter().cloned());
        let mut image = self.with_config(|c| {
            for (key, value) in &labels {
                c.label(key, value);
            }
            c
        });
        if let Some(created) = &provenance.created {
            if !is_rfc3339(created) {
                return Err(invalid("created", "it is not a time in RFC 3339"));
            }
            annotations.push((standard("created"), created.clone()));
            image = image.with_created(created);
        }
        Ok(annotations.into_iter().fold(image, |image, (key, value)| {
            image.with_annotation(key, value)
        }))
    }
}

fn model_labels(model: &ModelIdentity) -> Result<Vec<(String, String)>> {
    let mut labels = vec![
        (MODEL_NAME.to_owned(), model.name.clone()),
        (MODEL_VERSION.to_owned(), model.version.clone()),
        (MODEL_DIGEST.to_owned(), model.digest.clone()),
    ];
    if let Some(uri) = &model.uri {
        check_url("model", uri)?;
        labels.push((MODEL_URI.to_owned(), uri.clone()));
    }
    Ok(labels)
}

/// Refuses what could carry a secret. The text itself must not get into the error.
fn check_url(what: &'static str, text: &str) -> Result<()> {
    let url = Url::parse(text).map_err(|_| invalid(what, "its location is not a URL"))?;
    // Over SSH the user is a fixed name such as `git`, and the secret is a key.
    let has_user = !url.username().is_empty() && url.scheme() != "ssh";
    if has_user || url.password().is_some() {
        return Err(invalid(what, "its URL has user info in it"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid(what, "its URL has a query or a fragment"));
    }
    Ok(())
}

fn check_reference(name: &str) -> Result<()> {
    let before_digest = name
        .split_once("@sha256:")
        .map_or(name, |(before, _)| before);
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "-._:/[]".contains(c);
    if name.is_empty() || name.contains("://") || !before_digest.chars().all(is_fine) {
        return Err(invalid("base name", "it is not a reference"));
    }
    Ok(())
}

fn invalid(what: &str, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, STAGE, what, why)
        .with_hint("give it without user info, query and fragment, which can carry secrets")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::digest;
    use crate::platform::Platform;

    fn image() -> Image {
        Image::scratch(&Platform::linux("amd64").unwrap())
    }

    fn with_uri(uri: &str) -> Provenance {
        Provenance {
            model: Some(ModelIdentity {
                name: "digits".into(),
                version: "1.4.2".into(),
                digest: digest(b"m").to_string(),
                uri: Some(uri.into()),
            }),
            ..Provenance::default()
        }
    }

    #[test]
    fn what_is_known_is_said_in_both_places() {
        let provenance = Provenance {
            base_name: Some("registry.invalid:5000/python:3.12".into()),
            base_digest: Some(digest(b"base")),
            source: Some("https://git.invalid/app".into()),
            revision: Some("abc".into()),
            created: Some("2026-01-02T03:04:05Z".into()),
            ..with_uri("az://models.account/digits")
        };
        let image = image().with_provenance(&provenance).unwrap();
        let annotations = image.annotations();
        let standard =
            |name: &str| annotations[&format!("org.opencontainers.image.{name}")].clone();
        assert_eq!(standard("base.name"), "registry.invalid:5000/python:3.12");
        assert_eq!(standard("base.digest"), digest(b"base").to_string());
        assert_eq!(standard("created"), "2026-01-02T03:04:05Z");
        assert_eq!(annotations[MODEL_URI], "az://models.account/digits");
        let labels = image.setting("Labels").unwrap();
        assert_eq!(labels[MODEL_VERSION], "1.4.2");
        assert_eq!(labels["org.opencontainers.image.revision"], "abc");
        assert!(labels.get("org.opencontainers.image.created").is_none());
        let config = image.seal().unwrap().config;
        assert!(String::from_utf8_lossy(&config).contains(r#""created":"2026-01-02T03:04:05Z""#));
    }

    #[test]
    fn a_url_that_could_carry_a_secret_is_refused_and_not_repeated() {
        for uri in [
            "https://user:hunter2@store.invalid/m",
            "https://hunter2@store.invalid/m",
            "https://store.invalid/m?sig=hunter2",
            "https://store.invalid/m#hunter2",
            "hunter2",
        ] {
            let error = image().with_provenance(&with_uri(uri)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(
                !format!("{error} {error:?}").contains("hunter2"),
                "{error:?}"
            );
        }
        let source = Some("ssh://git@git.invalid/app".to_owned());
        let fine = Provenance {
            source,
            ..Provenance::default()
        };
        assert!(image().with_provenance(&fine).is_ok());
        let created = Some("yesterday".to_owned());
        let wrong = Provenance {
            created,
            ..Provenance::default()
        };
        assert!(image().with_provenance(&wrong).is_err());
        let base_name = Some("https://user:hunter2@registry.invalid/x".to_owned());
        let wrong = Provenance {
            base_name,
            ..Provenance::default()
        };
        assert!(image().with_provenance(&wrong).is_err());
    }
}
