//! The error for something that is not there, with what is, and the nearest name to it.

use super::STAGE;
use super::stock::Stock;
use crate::error::{Error, ErrorKind, Result};
use crate::neighbours::nearest;
use crate::store::ModelStore;

/// How many versions an error lists.
const LISTED: usize = 20;

impl ModelStore {
    /// The error for `what`, a version of which was `asked` for by name.
    pub(crate) async fn missing(&self, what: &str, asked: Option<&str>) -> Error {
        let make =
            |detail: String| Error::new(ErrorKind::NotFound, STAGE, self.name_of(""), detail);
        let (candidates, versions) = match self.known().await {
            Ok(known) => known,
            Err(error) => return error,
        };
        let publish = format!(
            "publish one with `modelship publish DIR {} VERSION`",
            self.url().model_name()
        );
        if let Some(version) =
            asked.filter(|v| candidates.iter().any(|c| c == v) && !versions.iter().any(|c| c == v))
        {
            return make(format!(
                "version {version} is not complete: it has no manifest.json yet"
            ))
            .with_hint("wait for its publisher to finish, or publish it again");
        }
        if versions.is_empty() {
            return self.no_versions(&publish).await;
        }
        let like = asked.and_then(|asked| nearest(asked, &versions));
        let like = like.map(|like| format!("did you mean {like}? "));
        make(format!(
            "{what} does not exist: found versions {}",
            found(&versions)
        ))
        .with_hint(format!(
            "{}name one of them with @VERSION, or {publish}",
            like.unwrap_or_default()
        ))
    }

    /// The versions with and without a manifest, and those with one.
    async fn known(&self) -> Result<(Vec<String>, Vec<String>)> {
        let candidates = self.candidates().await?;
        if candidates.is_empty() {
            let Stock { names, .. } = self.foreign_stock().await?;
            return Ok((names.clone(), names));
        }
        let versions = self.with_manifest(candidates.clone()).await?;
        Ok((candidates, versions))
    }

    /// What there is without versions, in words.
    async fn unversioned(&self) -> Result<Option<&'static str>> {
        if !self.top().await?.files.is_empty() {
            return Ok(Some("one folder"));
        }
        let object = self.head_version("", None).await?;
        Ok(object.map(|_| "one object"))
    }

    async fn no_versions(&self, publish: &str) -> Error {
        let make =
            |detail: String| Error::new(ErrorKind::NotFound, STAGE, self.name_of(""), detail);
        let beside = self.neighbours().await;
        let like = nearest(self.url().model_name(), &beside.all);
        let like = like.map(|like| format!("did you mean {like}? "));
        let like = like.unwrap_or_default();
        if let Ok(Some(what)) = self.unversioned().await {
            return make(format!("it is {what}, without versions"))
                .with_hint("ask for latest, which names it by its content");
        }
        if beside.models.is_empty() {
            return make("the store is empty: no version has been published".into())
                .with_hint(format!("{like}{publish}"));
        }
        make(format!(
            "no version of it has been published: found models {}",
            beside.models.join(", ")
        ))
        .with_hint(format!(
            "{like}name one of them in the address, or {publish}"
        ))
    }
}

/// The last versions of a list, in words.
pub(crate) fn found(versions: &[String]) -> String {
    let hidden = versions.len().saturating_sub(LISTED);
    let shown = versions[hidden..].join(", ");
    if hidden > 0 {
        format!("{shown} and {hidden} older")
    } else {
        shown
    }
}
