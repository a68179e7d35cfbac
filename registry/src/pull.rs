//! Reading blobs: streamed by `oci-client`, signed by us, resumed by range, verified at the end.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http::Method;
use oci_client::client::{
    BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol, LayerDescriptor,
    SizedStream,
};
use oci_client::secrets::RegistryAuth;
use oci_client::token_cache::RegistryTokenType;
use oci_client::{Client, Reference, RegistryOperation};
use oci_spec::image::{Descriptor, DigestAlgorithm};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use crate::auth::{Authorization, Scope};
use crate::blob::{ByteStream, finish};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::net;
use crate::oci_error;
use crate::retry;
use crate::transport::{Call, Transport};

pub(crate) const STAGE: &str = "pull blob";
/// A `NO_PROXY` value that exempts every name and every address.
const EVERY_HOST: &str = "*,0.0.0.0/0,::/0";

/// The blob reader of one repository.
pub(crate) struct Puller {
    transport: Transport,
    reference: Reference,
    scope: Scope,
    /// The client for the authorization it was made with: `oci-client` never replaces stored
    /// credentials, so a renewed token takes a new client.
    client: Mutex<Option<(Authorization, Client)>>,
}

impl fmt::Debug for Puller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Puller")
            .field("reference", &self.reference)
            .finish_non_exhaustive()
    }
}

impl Puller {
    pub(crate) fn new(transport: Transport, reference: Reference) -> Self {
        let scope = Scope::pull(transport.endpoint.repository());
        Self {
            transport,
            reference,
            scope,
            client: Mutex::new(None),
        }
    }

    /// A client that holds the present authorization, and whose authorization that is.
    async fn client(&self, descriptor: &Descriptor) -> Result<(Authorization, Client)> {
        let auth = &self.transport.auth;
        if !auth.is_challenged() && auth.authorization(&self.scope).await? == Authorization::None {
            // Learns what the registry wants; `oci-client` would ask before every blob.
            let url = self.transport.endpoint.blob(descriptor.digest());
            self.transport
                .send(&Call::new(STAGE, Method::HEAD, url, &self.scope))
                .await?;
        }
        let wanted = auth.authorization(&self.scope).await?;
        let mut held = self.client.lock().await;
        if let Some((authorization, client)) = held.as_ref()
            && *authorization == wanted
        {
            return Ok((wanted, client.clone()));
        }
        let client = self.build(&wanted).await?;
        *held = Some((wanted.clone(), client.clone()));
        Ok((wanted, client))
    }

    async fn build(&self, authorization: &Authorization) -> Result<Client> {
        // `try_from`, because `new` falls back to defaults, without our roots, on any error.
        let client = Client::try_from(self.config()?)
            .map_err(|error| oci_error::convert(error, STAGE, self.transport.endpoint.name()))?;
        let registry = self.reference.resolve_registry();
        match authorization {
            // Without stored credentials the client makes no requests for tokens of its own.
            Authorization::None => {}
            Authorization::Bearer(token) => {
                let auth = RegistryAuth::Bearer(token.reveal().to_owned());
                client.store_auth_if_needed(registry, &auth).await;
            }
            Authorization::Basic { username, password } => {
                let (username, password) = (username.clone(), password.reveal().to_owned());
                let auth = RegistryAuth::Basic(username.clone(), password.clone());
                client.store_auth_if_needed(registry, &auth).await;
                let token = RegistryTokenType::Basic(username, password);
                client
                    .tokens
                    .insert(&self.reference, RegistryOperation::Pull, token)
                    .await;
            }
        }
        Ok(client)
    }

    fn config(&self) -> Result<ClientConfig> {
        let options = &self.transport.net.options;
        let certificate = |data| Certificate {
            encoding: CertificateEncoding::Pem,
            data,
        };
        // With no proxy set the client would read the environment; this proxy is never used.
        let proxy = options
            .proxy
            .clone()
            .unwrap_or_else(|| "http://none.invalid".to_owned());
        let exempt = if options.proxy.is_some() {
            options.no_proxy.clone()
        } else {
            Some(EVERY_HOST.to_owned())
        };
        Ok(ClientConfig {
            protocol: if self.transport.endpoint.is_http() {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            extra_root_certificates: net::certificates(&options.extra_ca_pem)?
                .into_iter()
                .map(certificate)
                .collect(),
            read_timeout: Some(options.stall_timeout),
            connect_timeout: Some(options.connect_timeout),
            user_agent: net::USER_AGENT,
            https_proxy: Some(proxy.clone()),
            http_proxy: Some(proxy),
            no_proxy: exempt,
            platform_resolver: None,
            ..ClientConfig::default()
        })
    }

    /// Opens the blob at `from`, signing anew when a token has run out.
    async fn open(
        &self,
        descriptor: &Descriptor,
        from: u64,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>> {
        let (used, client) = self.client(descriptor).await?;
        match self.request(&client, descriptor, from).await {
            Err(error) if error.kind() == ErrorKind::Unauthorized => {
                // The registry's words are lost in the client: the token is renewed once, blindly.
                let again = self
                    .transport
                    .auth
                    .refused(&used, &http::HeaderMap::new(), &self.scope)
                    .await;
                if !again {
                    return Err(self.transport.auth.unauthorized(STAGE));
                }
                let (_, client) = self.client(descriptor).await?;
                self.request(&client, descriptor, from)
                    .await
                    .map_err(|error| match error.kind() {
                        ErrorKind::Unauthorized => self.transport.auth.unauthorized(STAGE),
                        _ => error,
                    })
            }
            other => other,
        }
    }

    async fn request(
        &self,
        client: &Client,
        descriptor: &Descriptor,
        from: u64,
    ) -> Result<BoxStream<'static, std::io::Result<Bytes>>> {
        // The descriptor's own `urls` are not followed: they may name any host.
        let layer = LayerDescriptor {
            digest: descriptor.digest().as_ref(),
            urls: &None,
        };
        let object = format!("{}@{}", self.transport.endpoint.name(), descriptor.digest());
        let failed = |error| oci_error::convert(error, STAGE, object.clone());
        let sized = |body: SizedStream, from: u64| {
            let expected = descriptor.size() - from;
            match body.content_length {
                Some(length) if length != expected => {
                    let detail =
                        format!("the registry has {length} bytes where {expected} are expected");
                    Err(Error::new(
                        ErrorKind::SizeMismatch,
                        STAGE,
                        object.clone(),
                        detail,
                    ))
                }
                _ => Ok(body.stream),
            }
        };
        if from == 0 {
            let body = client
                .pull_blob_stream(&self.reference, &layer)
                .await
                .map_err(failed)?;
            return sized(body, 0);
        }
        match client
            .pull_blob_stream_partial(&self.reference, &layer, from, None)
            .await
            .map_err(failed)?
        {
            BlobResponse::Partial(body) => sized(body, from),
            BlobResponse::Full(body) => sized(body, 0).map(|body| skip(body, from)),
        }
    }
}

/// Drops the first `count` bytes, for a registry that does not do ranges.
fn skip(
    body: BoxStream<'static, std::io::Result<Bytes>>,
    count: u64,
) -> BoxStream<'static, std::io::Result<Bytes>> {
    body.scan(count, |left, piece| {
        let piece = piece.map(|mut piece| {
            let drop = piece
                .len()
                .min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= drop as u64;
            piece.split_off(drop)
        });
        futures::future::ready(Some(piece))
    })
    .boxed()
}

/// Streams a blob from `from` on; a break is mended by going on from the last byte received.
/// From 0, the end of the stream is an error unless the digest is right.
pub(crate) fn stream(puller: Arc<Puller>, descriptor: Descriptor, from: u64) -> ByteStream {
    let read = Read {
        puller,
        descriptor,
        from,
        pos: from,
        hash: Sha256::new(),
        body: None,
        failures: 0,
    };
    stream::try_unfold(read, async |mut read| {
        let piece = read.next().await.map_err(BoxError::from)?;
        Ok(piece.map(|piece| (piece, read)))
    })
    .boxed()
}

struct Read {
    puller: Arc<Puller>,
    descriptor: Descriptor,
    from: u64,
    pos: u64,
    hash: Sha256,
    body: Option<BoxStream<'static, std::io::Result<Bytes>>>,
    failures: u32,
}

impl Read {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.descriptor.digest().algorithm() != &DigestAlgorithm::Sha256 {
            return Err(self.error(
                ErrorKind::Unsupported,
                "only sha256 digests can be verified",
            ));
        }
        if self.from > self.descriptor.size() {
            return Err(self.error(ErrorKind::Invalid, "the offset is beyond the end"));
        }
        while self.pos < self.descriptor.size() {
            match self.step().await {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return self.accept(piece).map(Some),
                Err(error) => self.recover(error).await?,
            }
        }
        self.verify().map(|()| None)
    }

    async fn step(&mut self) -> Result<Bytes> {
        if self.body.is_none() {
            self.body = Some(self.puller.open(&self.descriptor, self.pos).await?);
        }
        let Some(body) = self.body.as_mut() else {
            return Ok(Bytes::new());
        };
        match body.next().await {
            Some(Ok(piece)) => Ok(piece),
            Some(Err(error)) => Err(oci_error::broken_body(error, STAGE, self.object())),
            None => Err(self.error(ErrorKind::Unreachable, "the connection ended early")),
        }
    }

    fn accept(&mut self, piece: Bytes) -> Result<Bytes> {
        self.pos += piece.len() as u64;
        if self.pos > self.descriptor.size() {
            return Err(self.error(
                ErrorKind::SizeMismatch,
                "the registry sent more than the blob's length",
            ));
        }
        self.failures = 0;
        self.hash.update(&piece);
        Ok(piece)
    }

    async fn recover(&mut self, error: Error) -> Result<()> {
        self.failures += 1;
        self.body = None;
        let pause = retry::pause(&self.puller.transport.net.options, self.failures, None);
        match pause.filter(|_| error.is_retryable()) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
    }

    fn verify(&self) -> Result<()> {
        let found = finish(self.hash.clone());
        if self.from == 0 && found != *self.descriptor.digest() {
            let detail = format!("the bytes received have digest {found}");
            return Err(self.error(ErrorKind::DigestMismatch, detail));
        }
        Ok(())
    }

    fn object(&self) -> String {
        format!(
            "{}@{}",
            self.puller.transport.endpoint.name(),
            self.descriptor.digest()
        )
    }

    fn error(&self, kind: ErrorKind, detail: impl Into<String>) -> Error {
        Error::new(kind, STAGE, self.object(), detail)
    }
}
