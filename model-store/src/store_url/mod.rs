//! `StoreUrl`: where the versions of one model live, as a person writes it.

mod azure;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::names::{check_name, check_segment};
use azure::{Cloud, Place};

const STAGE: &str = "parse store url";
const FORMS: &str = "write az://CONTAINER.ACCOUNT/NAME, \
     https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME, \
     abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/NAME, s3://BUCKET/NAME, file:///DIRECTORY/NAME \
     or memory://NAME";

/// The kind of store behind a [`StoreUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// `az://`: Azure Blob Storage.
    Azure,
    /// `s3://`: Amazon S3 or a store that speaks its protocol.
    S3,
    /// `file://`: a directory.
    File,
    /// `memory://`: this process's memory, for tests and examples.
    Memory,
}

impl Scheme {
    /// The scheme's name, without `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Azure => "az",
            Self::S3 => "s3",
            Self::File => "file",
            Self::Memory => "memory",
        }
    }
}

/// Where the versions of one model live; the last segment of the path is the model's name.
///
/// Forms: `az://CONTAINER.ACCOUNT/PREFIX…/NAME`, `s3://BUCKET/PREFIX…/NAME`,
/// `file:///ABSOLUTE/NAME`, `memory://NAME`. Account and bucket are always written out, never
/// guessed. It carries no credential: user info and queries are refused.
///
/// The addresses that the Azure portal and Spark show are read too:
/// `https://ACCOUNT.blob.core.windows.net/CONTAINER/PREFIX…/NAME` (or `.dfs.`) and
/// `abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX…/NAME`. They become the `az://` form, so
/// that one place has one name. In the clouds of the US government (`core.usgovcloudapi.net`) and
/// of China (`core.chinacloudapi.cn`) the `https://` form stays, because it names the cloud; the
/// endpoint and the login service follow from it.
///
/// ```
/// use modelship_model_store::StoreUrl;
/// let url: StoreUrl = "az://models.acme/teams/vision/digits".parse()?;
/// assert_eq!(url.model_name(), "digits");
/// assert_eq!(url.account(), Some("acme"));
/// # Ok::<(), modelship_model_store::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreUrl {
    scheme: Scheme,
    /// Container or bucket; empty for `file` and `memory`.
    container: String,
    /// Azure account; empty for the other schemes.
    account: String,
    /// Azure's cloud; the public one for the other schemes.
    cloud: Cloud,
    /// Decoded segments joined by `/`, no slash at either end; the last one is the model's name.
    path: String,
}

impl StoreUrl {
    /// The kind of store.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The model's name: the last segment of the path.
    pub fn model_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The Azure container or S3 bucket.
    pub fn container(&self) -> Option<&str> {
        (!self.container.is_empty()).then_some(self.container.as_str())
    }

    /// The Azure storage account.
    pub fn account(&self) -> Option<&str> {
        (!self.account.is_empty()).then_some(self.account.as_str())
    }

    /// The path below the container, bucket or root directory, decoded, without a leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The URL one segment deeper: `name` becomes the model's name.
    ///
    /// # Errors
    /// `Invalid` when `name` is not a model name.
    pub fn join(&self, name: &str) -> Result<Self> {
        check_name(name).map_err(|detail| Error::invalid(STAGE, name, detail))?;
        let mut url = self.clone();
        url.path = format!("{}/{name}", self.path);
        Ok(url)
    }

    /// The `file://` URL of model `name` in the absolute directory `dir`.
    ///
    /// # Errors
    /// `Invalid` when `dir` is relative, not UTF-8 or not normalised, or `name` is not a model
    /// name.
    pub fn from_dir(dir: &Path, name: &str) -> Result<Self> {
        let object = dir.display().to_string();
        if !dir.is_absolute() {
            return Err(
                Error::invalid(STAGE, object, "the directory is not absolute")
                    .with_hint("resolve it against the directory of the configuration first"),
            );
        }
        let text = dir
            .to_str()
            .ok_or_else(|| Error::invalid(STAGE, &object, "the directory is not utf-8"))?;
        let segments = text
            .split('/')
            .filter(|s| !s.is_empty())
            .chain([name])
            .collect::<Vec<_>>();
        Self::from_segments(Scheme::File, Place::none(), &segments)
            .map_err(|detail| Error::invalid(STAGE, object, detail))
    }

    /// The model's directory, for `file` URLs.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        (self.scheme == Scheme::File).then(|| PathBuf::from(format!("/{}", self.path)))
    }

    /// The blob endpoint, where it does not follow from the account alone: outside the public
    /// cloud.
    pub(crate) fn azure_endpoint(&self) -> Option<String> {
        let (account, suffix) = (self.account()?, self.cloud.suffix());
        (self.cloud != Cloud::Public).then(|| format!("https://{account}.blob.{suffix}"))
    }

    /// The login service of the account's cloud, outside the public one.
    pub(crate) fn azure_authority(&self) -> Option<&'static str> {
        (self.cloud != Cloud::Public).then(|| self.cloud.authority())
    }

    fn from_segments(scheme: Scheme, place: Place, segments: &[&str]) -> Result<Self, String> {
        let name = segments.last().ok_or("the model's name is missing")?;
        check_name(name).map_err(|detail| format!("in the model's name, {detail}"))?;
        segments
            .iter()
            .try_for_each(|segment| check_segment(segment))?;
        Ok(Self {
            scheme,
            container: place.container,
            account: place.account,
            cloud: place.cloud,
            path: segments.join("/"),
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("`://` is missing")?;
        if rest.contains(['?', '#']) {
            return Err(
                "a query or fragment is not allowed; credentials go into the options".into(),
            );
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') && scheme != "abfss" {
            return Err("user info is not allowed; credentials go into the options".into());
        }
        let (scheme, place, path) = match scheme {
            "az" => (Scheme::Azure, azure::short(authority)?, path),
            "abfss" => (Scheme::Azure, azure::abfss(authority)?, path),
            "https" => {
                let (place, path) = azure::https(authority, path)?;
                (Scheme::Azure, place, path)
            }
            "s3" => (
                Scheme::S3,
                Place::bucket(check_bucket(authority, "bucket", ".-")?),
                path,
            ),
            "file" if !authority.is_empty() => {
                return Err("a file url needs an absolute path and no host".into());
            }
            "file" => (Scheme::File, Place::none(), path),
            "memory" => (Scheme::Memory, Place::none(), rest),
            _ => return Err("the scheme is unknown".into()),
        };
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.is_empty() {
            return Err("the model's name is missing".into());
        }
        let segments = path.split('/').map(decode).collect::<Result<Vec<_>, _>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        Self::from_segments(scheme, place, &segments)
    }
}

/// Names of buckets and containers: 3 to 63 of lower-case letters, digits and `extra`.
fn check_bucket(name: &str, what: &str, extra: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || extra.contains(c);
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if (3..=63).contains(&name.len())
        && name.chars().all(good)
        && name.starts_with(edge)
        && name.ends_with(edge)
    {
        Ok(name.into())
    } else {
        Err(format!(
            "the {what} must be 3 to 63 of lower-case letters, digits and {extra:?}"
        ))
    }
}

/// Undoes percent-encoding of one segment.
fn decode(segment: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let digits = tail
                .get(..2)
                .ok_or("a percent sign is not followed by two digits")?;
            let byte =
                hex::decode(digits).map_err(|_| "a percent sign is not followed by two digits")?;
            out.extend(byte);
            rest = &tail[2..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    String::from_utf8(out).map_err(|_| "the path is not utf-8".into())
}

/// Percent-encodes everything that has a meaning in a URL or in a [`crate::ModelRef`].
fn encode(path: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:".contains(&byte) {
            write!(f, "{}", char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// What may be shown of a text that failed to parse: no query and no user info.
pub(crate) fn redact(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = text.split_once("://") else {
        return text
            .rsplit_once('@')
            .map_or(text, |(_, tail)| tail)
            .to_owned();
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{path}"),
        None => text.to_owned(),
    }
}

impl FromStr for StoreUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
            .map_err(|detail| Error::invalid(STAGE, redact(text), detail).with_hint(FORMS))
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.as_str();
        match (self.scheme, self.azure_endpoint()) {
            (Scheme::Azure, Some(endpoint)) => write!(f, "{endpoint}/{}/", self.container)?,
            (Scheme::Azure, None) => write!(f, "{scheme}://{}.{}/", self.container, self.account)?,
            (Scheme::S3, _) => write!(f, "{scheme}://{}/", self.container)?,
            (Scheme::File, _) => write!(f, "{scheme}:///")?,
            (Scheme::Memory, _) => write!(f, "{scheme}://")?,
        }
        encode(&self.path, f)
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<StoreUrl> for String {
    fn from(url: StoreUrl) -> Self {
        url.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_every_form() {
        let az: StoreUrl = "az://models.acme/a/b/digits".parse().unwrap();
        assert_eq!(
            (az.container(), az.account(), az.path()),
            (Some("models"), Some("acme"), "a/b/digits")
        );
        let s3: StoreUrl = "s3://my.bucket/digits/".parse().unwrap();
        assert_eq!(
            (s3.scheme(), s3.container(), s3.model_name()),
            (Scheme::S3, Some("my.bucket"), "digits")
        );
        let file: StoreUrl = "file:///srv/my%20models/digits".parse().unwrap();
        assert_eq!(
            file.directory().unwrap(),
            Path::new("/srv/my models/digits")
        );
        let memory: StoreUrl = "memory://digits".parse().unwrap();
        assert_eq!(memory.model_name(), "digits");
        assert_eq!(
            az.join("x").unwrap().to_string(),
            "az://models.acme/a/b/digits/x"
        );
    }

    #[test]
    fn one_place_has_one_name() {
        let az = "az://models.acme/a%20b/digits";
        for text in [
            "https://acme.blob.core.windows.net/models/a%20b/digits",
            "https://ACME.Blob.core.windows.net/models/a b/digits/",
            "https://acme.dfs.core.windows.net/models/a%20b/digits",
            "abfss://models@acme.dfs.core.windows.net/a%20b/digits",
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url, az.parse().unwrap(), "{text}");
            assert_eq!(url.to_string(), az);
            assert_eq!(url.azure_endpoint(), None);
        }
    }

    #[test]
    fn a_sovereign_cloud_is_not_lost() {
        let canonical = "https://acme.blob.core.usgovcloudapi.net/models/digits";
        for text in [
            canonical,
            "https://acme.dfs.core.usgovcloudapi.net/models/digits",
            "abfss://models@acme.dfs.core.usgovcloudapi.net/digits",
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), canonical);
            assert_eq!(url.to_string().parse::<StoreUrl>().unwrap(), url);
            assert_ne!(url, "az://models.acme/digits".parse().unwrap());
            assert_eq!(
                (url.container(), url.account(), url.path()),
                (Some("models"), Some("acme"), "digits")
            );
            let deeper = url.join("x").unwrap().to_string();
            assert_eq!(deeper, format!("{canonical}/x"));
            assert_eq!(
                url.azure_endpoint().as_deref(),
                Some("https://acme.blob.core.usgovcloudapi.net")
            );
            assert_eq!(
                url.azure_authority(),
                Some("https://login.microsoftonline.us")
            );
        }
        let china: StoreUrl = "https://acme.blob.core.chinacloudapi.cn/models/digits"
            .parse()
            .unwrap();
        let endpoint = "https://acme.blob.core.chinacloudapi.cn";
        assert_eq!(china.azure_endpoint().as_deref(), Some(endpoint));
    }

    #[test]
    fn refuses_with_a_reason() {
        for (text, reason) in [
            ("https://example.invalid/models/digits", "known cloud"),
            (
                "https://acme.blob.core.windows.net.invalid/models/digits",
                "known cloud",
            ),
            (
                "https://acme.blob.core.windows.net:8443/models/digits",
                "port",
            ),
            ("https://blob.core.windows.net/models/digits", "known cloud"),
            ("https://a.b.blob.core.windows.net/models/digits", "account"),
            ("https://acme.blob.core.windows.net/models", "name"),
            ("https://acme.blob.core.windows.net//digits", "container"),
            ("http://acme.blob.core.windows.net/models/digits", "scheme"),
            ("abfss://acme.dfs.core.windows.net/digits", "container"),
            (
                "abfss://models@acme.blob.core.windows.net/digits",
                "known cloud",
            ),
            ("digits", "`://`"),
            ("ftp://x/digits", "scheme"),
            ("az://models/digits", "account"),
            ("az://models.acme", "name"),
            ("s3://B/digits", "bucket"),
            ("file://models/digits", "absolute"),
            ("file:///a/../digits", ".."),
            ("file:///a%2Fb/digits", "slash"),
            ("s3://bucket/a//digits", "empty"),
            ("s3://bucket/%zz/digits", "percent"),
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err();
            assert!(error.to_string().contains(reason), "{text}: {error}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn secrets_are_never_repeated() {
        for text in [
            "az://me:SECRET@models.acme/digits",
            "az://models.acme/digits?sv=1&sig=SECRET",
            "memory://a:SECRET@b",
            "https://acme.blob.core.windows.net/models/digits?sv=1&sig=SECRET",
            "https://me:SECRET@acme.blob.core.windows.net/models/digits",
            "abfss://models:SECRET@acme.dfs.core.windows.net/digits",
            "abfss://models@acme.dfs.core.windows.net/digits?sig=SECRET",
        ] {
            let error = text.parse::<StoreUrl>().unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("SECRET"),
                "{error:?}"
            );
        }
    }

    #[test]
    fn from_dir_needs_an_absolute_directory() {
        let url = StoreUrl::from_dir(Path::new("/srv/a@b#c/"), "digits").unwrap();
        assert_eq!(url.to_string(), "file:///srv/a%40b%23c/digits");
        assert!(StoreUrl::from_dir(Path::new("models"), "digits").is_err());
        assert!(StoreUrl::from_dir(Path::new("/srv/../x"), "digits").is_err());
    }

    proptest! {
        #[test]
        fn display_parses_back(segments in prop::collection::vec("[^/\\\\\\p{Cc}]{1,12}", 0..4), name in "[a-zA-Z0-9][a-zA-Z0-9._+-]{0,10}") {
            prop_assume!(segments.iter().all(|s| s != "." && s != ".."));
            let dir = format!("/{}", segments.join("/"));
            let url = StoreUrl::from_dir(Path::new(&dir), &name).unwrap();
            prop_assert_eq!(&url.to_string().parse::<StoreUrl>().unwrap(), &url);
            let json = serde_json::to_string(&url).unwrap();
            prop_assert_eq!(serde_json::from_str::<StoreUrl>(&json).unwrap(), url);
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}", scheme in "(az|s3|file|memory|https|abfss)") {
            let _ = text.parse::<StoreUrl>();
            let _ = format!("{scheme}://{text}").parse::<StoreUrl>();
        }
    }
}
