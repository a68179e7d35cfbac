//! Opens the storage behind a URL: Azure Blob, S3, a directory, or memory.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{MicrosoftAzureBuilder, split_sas};
use object_store::client::{HttpConnector, ReqwestConnector};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::{Host, Url};

use crate::cause::{Site, credential_hint};
use crate::connection_string::ConnectionString;
use crate::error::{Error, ErrorKind, Result};
use crate::options::StoreOptions;
use crate::store_url::{Scheme, StoreUrl, redact};
use crate::transport::{Connector, Governor};

const STAGE: &str = "open model store";
/// The region signed for when a custom endpoint is given and no region: what such stores expect.
const CUSTOM_ENDPOINT_REGION: &str = "us-east-1";

/// Reads from this machine's own storage that run at once.
const LOCAL_READS: usize = 4;

/// An open store.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The same objects, for reading their parts.
    pub(crate) parts: Arc<dyn ObjectStore>,
    pub(crate) governor: Arc<Governor>,
    pub(crate) site: Site,
}

/// The storage of `url`, and what errors about it need to say.
pub(crate) fn open(url: &StoreUrl, options: &StoreOptions) -> Result<Opened> {
    let governor = match host(url, options) {
        Some(host) => Governor::of(&host),
        None => local(),
    };
    let http = Connector::new(Arc::new(ReqwestConnector::default()), governor);
    connect(url, options, http)
}

/// The storage of `url` over other HTTP clients, with a governor of its own.
pub(crate) fn open_over(
    url: &StoreUrl,
    options: &StoreOptions,
    http: Arc<dyn HttpConnector>,
) -> Result<Opened> {
    let governor = if host(url, options).is_some() {
        Governor::adaptive()
    } else {
        local()
    };
    connect(url, options, Connector::new(http, governor))
}

/// The governor of a store on this machine.
pub(crate) fn local() -> Arc<Governor> {
    Governor::fixed(LOCAL_READS)
}

/// What requests to this store share with others: the account, or the endpoint.
fn host(url: &StoreUrl, options: &StoreOptions) -> Option<String> {
    let or = |endpoint: &Option<String>, other: &Option<String>| {
        endpoint
            .clone()
            .or_else(|| other.clone())
            .unwrap_or_default()
    };
    match url.scheme() {
        Scheme::Azure => {
            let account = url.account().unwrap_or_default();
            Some(format!(
                "az {account} {}",
                or(&options.azure_endpoint, &None)
            ))
        }
        Scheme::S3 => Some(format!(
            "s3 {}",
            or(&options.aws_endpoint, &options.aws_region)
        )),
        Scheme::File | Scheme::Memory => None,
    }
}

fn connect(url: &StoreUrl, options: &StoreOptions, http: Connector) -> Result<Opened> {
    let mut site = site(url);
    site.secrets = options.secrets();
    let governor = Arc::clone(http.governor());
    let (store, parts) = match url.scheme() {
        Scheme::Azure => open_azure(url, options, &mut site, http)?,
        Scheme::S3 => open_s3(url, options, &mut site, http)?,
        Scheme::File => twice(Arc::new(LocalFileSystem::new().with_fsync(true))),
        Scheme::Memory => twice(Arc::new(InMemory::new())),
    };
    Ok(Opened {
        store,
        parts,
        governor,
        site,
    })
}

/// One store for all requests, and one for parts.
type Pair = (Arc<dyn ObjectStore>, Arc<dyn ObjectStore>);

fn twice(store: Arc<dyn ObjectStore>) -> Pair {
    (Arc::clone(&store), store)
}

/// What errors say about the place of `url`, before a credential is known.
pub(crate) fn site(url: &StoreUrl) -> Site {
    let (container, account) = (
        url.container().unwrap_or_default(),
        url.account().unwrap_or_default(),
    );
    let place = match url.scheme() {
        Scheme::Azure => format!("container {container} of account {account}"),
        Scheme::S3 => format!("bucket {container}"),
        Scheme::File => format!("directory /{}", url.path()),
        Scheme::Memory => "memory".to_owned(),
    };
    Site {
        scheme: url.scheme(),
        place,
        credential: "none",
        secrets: Vec::new(),
    }
}

/// Three tries within ten seconds: enough for a hiccup, short enough for a clear answer. Reads
/// have their own retries around this, part by part.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 3,
        retry_timeout: Duration::from_secs(10),
    }
}

/// One request moves at most one part, so a minute for the whole of it is generous.
fn client(allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(allow_http)
        .with_connect_timeout(Duration::from_secs(5))
        .with_read_timeout(Duration::from_secs(20))
        .with_timeout(Duration::from_mins(1))
}

/// No tries below those of the reader, which go on where the last one ended, and no limit to the
/// time of a request while bytes come: the reader ends one that is stuck.
fn part_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..retries()
    }
}

fn part_client(allow_http: bool) -> ClientOptions {
    client(allow_http).with_timeout_disabled()
}

/// Asks S3 for the checksums it keeps.
fn checksum_mode() -> HeaderMap {
    let name = HeaderName::from_static("x-amz-checksum-mode");
    HeaderMap::from_iter([(name, HeaderValue::from_static("ENABLED"))])
}

fn open_azure(
    url: &StoreUrl,
    given: &StoreOptions,
    site: &mut Site,
    http: Connector,
) -> Result<Pair> {
    let mut options = given.clone();
    let account = url.account().unwrap_or_default();
    if let Some(text) = &given.azure_connection_string {
        let parsed = ConnectionString::parse(text)
            .map_err(|why| Error::invalid(STAGE, url.to_string(), why))?;
        parsed
            .fill(&mut options, account)
            .map_err(|why| Error::invalid(STAGE, url.to_string(), why))?;
        site.secrets = options.secrets();
    }
    let endpoint = options.azure_endpoint.as_deref();
    let allow_http = endpoint
        .map(|endpoint| check_endpoint(url, endpoint, options.azure_allow_http, "AZURE_ALLOW_HTTP"))
        .transpose()?
        .unwrap_or(false);
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(url.container().unwrap_or_default())
        .with_retry(retries())
        .with_client_options(client(allow_http))
        .with_http_connector(http);
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.to_owned());
    }
    if let Some(host) = &options.azure_authority_host {
        // The platform writes it with a slash, which would be doubled.
        builder = builder.with_authority_host(host.trim_end_matches('/'));
    }
    let (builder, credential) = azure_credential(builder, &options, url)?;
    site.credential = credential;
    let failed = |error| site.error(STAGE, url.to_string(), &error);
    let store = builder.clone().build().map_err(failed)?;
    let parts = builder
        .with_credentials(Arc::clone(store.credentials()))
        .with_retry(part_retries())
        .with_client_options(part_client(allow_http))
        .build()
        .map_err(failed)?;
    Ok((Arc::new(store), Arc::new(parts)))
}

/// Picks the credential: the narrowest and shortest-lived first, the account key last, so that a
/// key left over in the environment does not silently win over an identity.
fn azure_credential(
    builder: MicrosoftAzureBuilder,
    options: &StoreOptions,
    url: &StoreUrl,
) -> Result<(MicrosoftAzureBuilder, &'static str)> {
    if options.anonymous {
        return Ok((builder.with_skip_signature(true), "anonymous"));
    }
    if let Some(token) = &options.azure_bearer_token {
        return Ok((
            builder.with_bearer_token_authorization(token),
            "access token",
        ));
    }
    if let (Some(tenant), Some(client)) = (&options.azure_tenant_id, &options.azure_client_id) {
        let builder = builder
            .clone()
            .with_tenant_id(tenant)
            .with_client_id(client);
        if let Some(file) = &options.azure_federated_token_file {
            let builder = builder
                .with_federated_token_file(file)
                .with_credential_type("workload_identity");
            return Ok((builder, "workload identity"));
        }
        if let Some(secret) = &options.azure_client_secret {
            let builder = builder
                .with_client_secret(secret)
                .with_credential_type("client_secret");
            return Ok((builder, "client secret"));
        }
    }
    if let Some(sas) = &options.azure_sas {
        let pairs = split_sas(sas).map_err(|_| {
            Error::invalid(
                STAGE,
                url.to_string(),
                "the shared access signature cannot be read",
            )
        })?;
        return Ok((
            builder.with_sas_authorization(pairs),
            "shared access signature",
        ));
    }
    if let Some(key) = &options.azure_account_key {
        return Ok((builder.with_access_key(key), "account key"));
    }
    if options.use_instance_identity {
        let builder = match &options.azure_client_id {
            Some(client) => builder.with_client_id(client),
            None => builder,
        };
        return Ok((
            builder.with_credential_type("managed_identity"),
            "managed identity",
        ));
    }
    Err(no_credential(url))
}

fn open_s3(
    url: &StoreUrl,
    options: &StoreOptions,
    site: &mut Site,
    http: Connector,
) -> Result<Pair> {
    let endpoint = options.aws_endpoint.as_deref();
    let region = match (&options.aws_region, endpoint) {
        (Some(region), _) => region.as_str(),
        (None, Some(_)) => CUSTOM_ENDPOINT_REGION,
        (None, None) => {
            return Err(Error::invalid(
                STAGE,
                url.to_string(),
                "the region of the bucket is not given",
            )
            .with_hint("set AWS_REGION to the region of the bucket"));
        }
    };
    let allow_http = endpoint
        .map(|endpoint| check_endpoint(url, endpoint, options.aws_allow_http, "AWS_ALLOW_HTTP"))
        .transpose()?
        .unwrap_or(false);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(url.container().unwrap_or_default())
        .with_region(region)
        .with_retry(retries())
        .with_client_options(client(allow_http))
        .with_http_connector(http)
        .with_conditional_put(S3ConditionalPut::ETagMatch);
    if let Some(endpoint) = endpoint {
        builder = builder
            .with_endpoint(endpoint)
            .with_virtual_hosted_style_request(false);
    }
    let (builder, credential) = s3_credential(builder, options, url)?;
    site.credential = credential;
    let failed = |error| site.error(STAGE, url.to_string(), &error);
    let store = builder.clone().build().map_err(failed)?;
    let parts = builder
        .with_credentials(Arc::clone(store.credentials()))
        .with_retry(part_retries())
        .with_client_options(part_client(allow_http).with_default_headers(checksum_mode()))
        .build()
        .map_err(failed)?;
    Ok((Arc::new(store), Arc::new(parts)))
}

fn s3_credential(
    builder: AmazonS3Builder,
    options: &StoreOptions,
    url: &StoreUrl,
) -> Result<(AmazonS3Builder, &'static str)> {
    if options.anonymous {
        return Ok((builder.with_skip_signature(true), "anonymous"));
    }
    if let (Some(id), Some(secret)) = (&options.aws_access_key_id, &options.aws_secret_access_key) {
        let builder = builder
            .with_access_key_id(id)
            .with_secret_access_key(secret);
        return Ok(match &options.aws_session_token {
            Some(token) => (builder.with_token(token), "temporary access key"),
            None => (builder, "access key"),
        });
    }
    if let (Some(role), Some(file)) = (&options.aws_role_arn, &options.aws_web_identity_token_file)
    {
        let builder = builder
            .with_config(AmazonS3ConfigKey::RoleArn, role)
            .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, file);
        return Ok((builder, "web identity"));
    }
    if options.use_instance_identity {
        return Ok((builder, "instance role"));
    }
    Err(no_credential(url))
}

fn no_credential(url: &StoreUrl) -> Error {
    let error = Error::new(
        ErrorKind::Unauthorized,
        STAGE,
        url.to_string(),
        "no credential is given",
    );
    match credential_hint(url.scheme()) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

/// Whether `endpoint` goes without TLS, which is allowed on this machine or when asked for.
fn check_endpoint(
    url: &StoreUrl,
    endpoint: &str,
    allow_http: bool,
    variable: &str,
) -> Result<bool> {
    let refuse = |detail: String| Error::invalid(STAGE, url.to_string(), detail);
    let shown = redact(endpoint);
    let parsed = Url::parse(endpoint)
        .map_err(|why| refuse(format!("the endpoint {shown} is not a url: {why}")))?;
    if parsed.query().is_some() || !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(refuse(format!("the endpoint {shown} carries a credential"))
            .with_hint("credentials go into the options"));
    }
    let loopback = match parsed.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match parsed.scheme() {
        "https" => Ok(false),
        "http" if loopback || allow_http => Ok(true),
        "http" => Err(refuse(format!("the endpoint {shown} goes without tls"))
            .with_hint(format!("use https, or set {variable}=true"))),
        _ => Err(refuse(format!(
            "the endpoint {shown} is neither http nor https"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str, options: &StoreOptions) -> Error {
        match open(&url.parse().unwrap(), options) {
            Ok(_) => panic!("opened {url}"),
            Err(error) => error,
        }
    }

    fn key() -> StoreOptions {
        StoreOptions {
            aws_access_key_id: Some("id".into()),
            aws_secret_access_key: Some("SECRET".into()),
            ..StoreOptions::default()
        }
    }

    #[test]
    fn nothing_is_guessed() {
        let none = StoreOptions::default();
        let error = refused("s3://bucket/digits", &none);
        assert!(error.hint().unwrap().contains("AWS_REGION"), "{error:?}");
        let region = StoreOptions {
            aws_region: Some("eu-west-1".into()),
            ..StoreOptions::default()
        };
        let error = refused("s3://bucket/digits", &region);
        assert_eq!(error.kind(), ErrorKind::Unauthorized);
        assert!(error.hint().unwrap().contains("AWS_ACCESS_KEY_ID"));
        let error = refused("az://models.acme/digits", &none);
        assert!(error.hint().unwrap().contains("AZURE_STORAGE_ACCOUNT_KEY"));
    }

    #[test]
    fn plain_http_needs_loopback_or_permission() {
        let url = "s3://bucket/digits".parse().unwrap();
        for (endpoint, allow, good) in [
            ("http://127.0.0.1:9000", false, true),
            ("http://[::1]:9000", false, true),
            ("http://localhost:9000", false, true),
            ("http://s3.invalid", false, false),
            ("http://s3.invalid", true, true),
            ("https://s3.invalid", false, true),
            ("https://me:SECRET@s3.invalid", false, false),
            ("https://s3.invalid/?sig=SECRET", false, false),
            ("ftp://s3.invalid", true, false),
        ] {
            let options = StoreOptions {
                aws_endpoint: Some(endpoint.into()),
                aws_allow_http: allow,
                ..key()
            };
            match open(&url, &options) {
                Ok(opened) => assert!(good && opened.site.credential == "access key", "{endpoint}"),
                Err(error) => assert!(
                    !good && !format!("{error:?}").contains("SECRET"),
                    "{error:?}"
                ),
            }
        }
    }

    #[test]
    fn a_leftover_account_key_does_not_beat_an_identity() {
        let options = StoreOptions {
            azure_account_key: Some("a2V5".into()),
            azure_tenant_id: Some("t".into()),
            azure_client_id: Some("c".into()),
            azure_federated_token_file: Some("/var/token".into()),
            ..StoreOptions::default()
        };
        let opened = open(&"az://models.acme/digits".parse().unwrap(), &options).unwrap();
        assert_eq!(opened.site.credential, "workload identity");
    }
}
