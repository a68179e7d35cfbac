//! One repository of one registry: the crate's front door.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, Digest, Platform};
use reqwest::Response;
use tokio::sync::Mutex;

use crate::auth::{Auth, Credentials, Scope};
use crate::blob::{Blob, ByteStream, Event, Progress, sha256_of};
use crate::endpoint::Endpoint;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::manifest::{self, Manifest};
use crate::net::{self, Net};
use crate::options::RegistryOptions;
use crate::pinned::PinnedReference;
use crate::pull::{self, Puller};
use crate::retry;
use crate::tags;
use crate::transport::{Call, Transport};
use crate::upload;

const PULL: &str = "pull manifest";
const PUSH: &str = "push manifest";

/// A repository: blobs, manifests and tags. Cheap to clone; clones share connections and tokens.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(crate) transport: Transport,
    puller: Arc<Puller>,
    /// Held while a list of referrers is amended.
    pub(crate) listing: Arc<Mutex<()>>,
}

/// A manifest to be stored: for which stage, under what, as what.
pub(crate) struct Put<'a> {
    pub(crate) stage: &'static str,
    pub(crate) place: &'a str,
    pub(crate) media_type: &'a str,
    pub(crate) headers: HeaderMap,
}

/// Whether somebody else has changed what was to be changed.
pub(crate) fn is_conflict(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT
    )
}

impl Repository {
    /// The repository `name`, such as `registry.example/team/app`. A tag or digest in the name
    /// is ignored. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a name or an option that breaks a rule.
    pub fn new(name: &str, credentials: Credentials, options: RegistryOptions) -> Result<Self> {
        let reference: Reference =
            name.parse()
                .map_err(|error: oci_spec::distribution::ParseError| {
                    Error::new(
                        ErrorKind::Invalid,
                        "open repository",
                        name,
                        "is not a repository name",
                    )
                    .with_source(error)
                })?;
        Self::from_reference(&reference, credentials, options)
    }

    /// The repository of `reference`; its tag and digest are ignored.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn from_reference(
        reference: &Reference,
        credentials: Credentials,
        options: RegistryOptions,
    ) -> Result<Self> {
        let endpoint = Arc::new(Endpoint::new(reference, &options)?);
        let net = Net::new(options)?;
        let auth = Arc::new(Auth::new(net.clone(), Arc::clone(&endpoint), credentials));
        let uploads = upload::Shared::new(&net.options, endpoint.registry());
        let transport = Transport {
            net,
            auth,
            endpoint,
            uploads: Arc::new(uploads),
        };
        let puller = Arc::new(Puller::new(transport.clone()));
        Ok(Self {
            transport,
            puller,
            listing: Arc::default(),
        })
    }

    /// `registry/repository`.
    pub fn name(&self) -> String {
        self.transport.endpoint.name()
    }

    pub(crate) fn scope(&self, push: bool) -> Scope {
        let repository = self.transport.endpoint.repository();
        if push {
            Scope::push(repository)
        } else {
            Scope::pull(repository)
        }
    }

    /// The reference to the manifest `digest` of this repository.
    pub fn pin(&self, digest: Digest) -> PinnedReference {
        let endpoint = &self.transport.endpoint;
        PinnedReference::new(endpoint.registry(), endpoint.repository(), digest)
    }

    /// Whether the registry has the blob `digest`, by one HEAD.
    ///
    /// # Errors
    ///
    /// When the registry cannot be asked.
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        upload::exists(&self.transport, digest, &self.scope(false)).await
    }

    /// Pushes one blob and returns its descriptor.
    ///
    /// With a known digest: one HEAD if the registry has it, else a mount where the blob names a
    /// repository to mount from, else one PUT. Without: one streaming PATCH, hashed on the way,
    /// then the commit. A break is resumed where the registry offers it, else replayed from the
    /// start, within [`RegistryOptions::tries`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::SizeMismatch`] when the source is shorter or longer than declared and
    /// [`ErrorKind::DigestMismatch`] when its bytes are others than declared (nothing is
    /// committed), [`ErrorKind::Source`] when the source fails; else what the registry says.
    pub async fn push_blob(&self, blob: &Blob, progress: Progress<'_>) -> Result<Descriptor> {
        upload::push(&self.transport, blob, 0, progress).await
    }

    /// Pushes an image: its layers, [`RegistryOptions::parallel_uploads`] at a time and the
    /// largest first, then the config and the manifest that `seal` makes of the layers'
    /// descriptors (in the order of `blobs`). The manifest is stored by its digest and gets no
    /// tag.
    ///
    /// When all digests are known beforehand, the manifest is looked for first: an image that is
    /// there takes one request.
    ///
    /// # Errors
    ///
    /// As for [`push_blob`](Self::push_blob); [`ErrorKind::Invalid`] when `seal` fails. No
    /// manifest is pushed unless every blob is there.
    pub async fn push_image(
        &self,
        blobs: Vec<Blob>,
        seal: impl FnOnce(&[Descriptor]) -> Result<Manifest, BoxError>,
        progress: Progress<'_>,
    ) -> Result<PinnedReference> {
        let known: Option<Vec<Descriptor>> = blobs.iter().map(Blob::known_descriptor).collect();
        if let Some(layers) = known {
            let (image, config) = self.seal(&layers, seal)?;
            return self.push_known(blobs, config, &image, progress).await;
        }
        let layers = upload::push_all(&self.transport, &blobs, 0, progress).await?;
        let (image, config) = self.seal(&layers, seal)?;
        upload::push(&self.transport, &config, blobs.len(), progress).await?;
        let digest = sha256_of(&image.bytes);
        let sent = self
            .put_manifest(digest.as_ref(), &digest, &image.media_type, &image.bytes)
            .await?;
        report_manifest(&digest, sent, progress);
        Ok(self.pin(digest))
    }

    /// An image whose digests are all known: when its manifest is there, so is the rest, since a
    /// registry keeps what a manifest names.
    async fn push_known(
        &self,
        mut blobs: Vec<Blob>,
        config: Blob,
        image: &Manifest,
        progress: Progress<'_>,
    ) -> Result<PinnedReference> {
        let digest = sha256_of(&image.bytes);
        let place = digest.as_ref();
        let there = self.head_manifest(place, &self.scope(true)).await?;
        blobs.push(config);
        if there.as_ref() == Some(&digest) {
            for (index, blob) in blobs.iter().enumerate() {
                if let Some(digest) = blob.digest() {
                    upload::report_exists(blob, digest, index, progress);
                }
            }
            report_manifest(&digest, false, progress);
            return Ok(self.pin(digest));
        }
        upload::push_all(&self.transport, &blobs, 0, progress).await?;
        self.send_manifest(place, &digest, &image.media_type, &image.bytes)
            .await?;
        report_manifest(&digest, true, progress);
        Ok(self.pin(digest))
    }

    fn seal(
        &self,
        layers: &[Descriptor],
        seal: impl FnOnce(&[Descriptor]) -> Result<Manifest, BoxError>,
    ) -> Result<(Manifest, Blob)> {
        let image = seal(layers).map_err(|error| {
            let detail = "the image could not be sealed";
            Error::new(ErrorKind::Invalid, PUSH, self.name(), detail).with_source(error)
        })?;
        let config = Blob::bytes(&image.config_media_type, image.config.clone());
        self.check(&image, &config)?;
        Ok((image, config))
    }

    fn check(&self, image: &Manifest, config: &Blob) -> Result<()> {
        let invalid = |detail: &str| Err(Error::new(ErrorKind::Invalid, PUSH, self.name(), detail));
        if image.bytes.len() > manifest::SIZE_MAX {
            return invalid("the manifest is larger than 4 MiB, which registries do not take");
        }
        let named = config
            .digest()
            .is_some_and(|digest| String::from_utf8_lossy(&image.bytes).contains(digest.as_ref()));
        if named {
            Ok(())
        } else {
            invalid("the manifest does not name the config that goes with it")
        }
    }

    /// Stores a manifest under a digest or a tag, unless it is there; says whether it was sent.
    pub(crate) async fn put_manifest(
        &self,
        place: &str,
        digest: &Digest,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<bool> {
        let scope = self.scope(true);
        if self.head_manifest(place, &scope).await?.as_ref() == Some(digest) {
            return Ok(false);
        }
        self.send_manifest(place, digest, media_type, bytes).await?;
        Ok(true)
    }

    async fn send_manifest(
        &self,
        place: &str,
        digest: &Digest,
        media_type: &str,
        bytes: &Bytes,
    ) -> Result<()> {
        let put = Put {
            stage: PUSH,
            place,
            media_type,
            headers: HeaderMap::new(),
        };
        let response = self.put(put, bytes).await?;
        if !response.status().is_success() {
            return Err(self
                .transport
                .unexpected(response, PUSH, self.object(place))
                .await);
        }
        match digest_header(&response) {
            Some(said) if said != *digest => {
                let detail = format!("the registry stored {digest} as {said}");
                Err(Error::new(
                    ErrorKind::DigestMismatch,
                    PUSH,
                    self.object(place),
                    detail,
                ))
            }
            _ => Ok(()),
        }
    }

    /// Stores a manifest under a digest or a tag. The answer is a success or a conflict.
    pub(crate) async fn put(&self, put: Put<'_>, bytes: &Bytes) -> Result<Response> {
        let scope = self.scope(true);
        let url = self.transport.endpoint.manifest(put.place);
        let mut call = Call::new(put.stage, Method::PUT, url, &scope);
        call.headers = put.headers;
        call.body = Some((put.media_type, bytes.clone()));
        let mut attempt = 1;
        loop {
            let response = self.transport.send(&call).await?;
            if response.status().is_success() || is_conflict(response.status()) {
                return Ok(response);
            }
            let object = self.object(put.place);
            let error = self.transport.unexpected(response, put.stage, object).await;
            // The bytes were digested here. The Docker registry says this, too, of a manifest
            // that names a blob whose link is being written by another upload of that blob.
            let passes = error.to_string().contains("DIGEST_INVALID");
            match retry::pause(&self.transport.net.options, attempt, None).filter(|_| passes) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
            attempt += 1;
        }
    }

    /// Points `tag` at a manifest of this repository, byte for byte; nothing is sent when it
    /// does already.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for a bad tag or a reference to another repository,
    /// [`ErrorKind::NotFound`] when the manifest is not there; else what the registry says.
    pub async fn tag(&self, pinned: &PinnedReference, tag: &str) -> Result<()> {
        if pinned.name() != self.name() {
            let detail = format!("is not in {}", self.name());
            return Err(Error::new(
                ErrorKind::Invalid,
                "tag image",
                pinned.to_string(),
                detail,
            ));
        }
        self.check_tag(tag)?;
        if self.head_manifest(tag, &self.scope(true)).await?.as_ref() == Some(pinned.digest()) {
            return Ok(());
        }
        let (bytes, descriptor) = self.manifest(pinned.digest().as_ref()).await?;
        let media_type = descriptor.media_type().to_string();
        self.put_manifest(tag, pinned.digest(), &media_type, &bytes)
            .await?;
        Ok(())
    }

    /// The manifest `tag` points at now, or `None` when there is no such tag.
    ///
    /// # Errors
    ///
    /// When the registry cannot be asked, or `tag` is not one.
    pub async fn resolve(&self, tag: &str) -> Result<Option<PinnedReference>> {
        self.check_tag(tag)?;
        Ok(self
            .head_manifest(tag, &self.scope(false))
            .await?
            .map(|digest| self.pin(digest)))
    }

    /// The digest of a manifest by HEAD; by GET where the registry does not name it in HEAD.
    pub(crate) async fn head_manifest(&self, place: &str, scope: &Scope) -> Result<Option<Digest>> {
        let mut call = Call::new(
            "look up manifest",
            Method::HEAD,
            self.transport.endpoint.manifest(place),
            scope,
        );
        call.accept = Some(manifest::ACCEPT);
        let response = self.transport.send(&call).await?;
        match response.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            status if status.is_success() => {}
            _ => {
                return Err(self
                    .transport
                    .unexpected(response, "look up manifest", self.object(place))
                    .await);
            }
        }
        if let Some(digest) = digest_header(&response) {
            return Ok(Some(digest));
        }
        let (_, descriptor) = self.manifest(place).await?;
        Ok(Some(descriptor.digest().clone()))
    }

    /// The manifest of a tag or a digest: its bytes, verified, and their descriptor. It may be
    /// an index; see [`manifest_for`](Self::manifest_for).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`], [`ErrorKind::DigestMismatch`] for other bytes than asked for, or
    /// what the registry says.
    pub async fn manifest(&self, reference: &str) -> Result<(Bytes, Descriptor)> {
        let (bytes, descriptor, _) = self.fetch(reference).await?;
        Ok((bytes, descriptor))
    }

    /// As [`manifest`](Self::manifest), with the headers of the answer.
    pub(crate) async fn fetch(&self, reference: &str) -> Result<(Bytes, Descriptor, HeaderMap)> {
        let wanted = if reference.contains(':') {
            Some(self.parse_digest(reference)?)
        } else {
            None
        };
        if wanted.is_none() {
            self.check_tag(reference)?;
        }
        let scope = self.scope(false);
        let mut call = Call::new(
            PULL,
            Method::GET,
            self.transport.endpoint.manifest(reference),
            &scope,
        );
        call.accept = Some(manifest::ACCEPT);
        let response = self.transport.send(&call).await?;
        let object = self.object(reference);
        if !response.status().is_success() {
            return Err(self.transport.unexpected(response, PULL, object).await);
        }
        let headers = response.headers().clone();
        let said = digest_header(&response);
        let limit = self.transport.net.options.request_timeout;
        let bytes = net::read_body(response, PULL, manifest::SIZE_MAX, limit).await?;
        let found = sha256_of(&bytes);
        if let Some(expected) = wanted.or(said).filter(|expected| *expected != found) {
            let detail = format!("the bytes received have digest {found}, expected {expected}");
            return Err(Error::new(ErrorKind::DigestMismatch, PULL, object, detail));
        }
        let media_type = manifest::media_type(&headers, &bytes, &object)?;
        let descriptor = Descriptor::new(media_type, bytes.len() as u64, found);
        Ok((bytes, descriptor, headers))
    }

    /// The manifest of one image: as [`manifest`](Self::manifest), choosing `platform` where the
    /// reference is to an index.
    ///
    /// # Errors
    ///
    /// As for [`manifest`](Self::manifest), and [`ErrorKind::NotFound`] when the index does not
    /// have the platform.
    pub async fn manifest_for(
        &self,
        reference: &str,
        platform: &Platform,
    ) -> Result<(Bytes, Descriptor)> {
        let (bytes, descriptor) = self.manifest(reference).await?;
        if !manifest::is_index(descriptor.media_type()) {
            return Ok((bytes, descriptor));
        }
        let chosen = manifest::choose(&bytes, platform)?;
        let (bytes, descriptor) = self.manifest(chosen.digest().as_ref()).await?;
        if manifest::is_index(descriptor.media_type()) {
            let detail = "an index within an index is not an image";
            return Err(Error::new(
                ErrorKind::Unsupported,
                PULL,
                self.object(reference),
                detail,
            ));
        }
        Ok((bytes, descriptor))
    }

    /// The bytes of a blob from the offset `from`. A broken connection is resumed by range. When
    /// read from 0 the stream ends with an error unless the digest is right; otherwise the
    /// reader has to verify the whole.
    pub fn blob(&self, descriptor: &Descriptor, from: u64) -> ByteStream {
        pull::stream(Arc::clone(&self.puller), descriptor.clone(), from)
    }

    /// The tags of the repository, in the registry's order; none for an unknown repository.
    ///
    /// # Errors
    ///
    /// When the registry cannot be asked.
    pub async fn tags(&self) -> Result<Vec<String>> {
        tags::list(&self.transport, &self.scope(false)).await
    }

    pub(crate) fn object(&self, place: &str) -> String {
        let sign = if place.contains(':') { '@' } else { ':' };
        format!("{}{sign}{place}", self.name())
    }

    pub(crate) fn check_tag(&self, tag: &str) -> Result<()> {
        let letter = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let fits = tag.len() <= 128
            && tag.as_bytes().first().is_some_and(letter)
            && tag
                .bytes()
                .all(|byte| letter(&byte) || byte == b'.' || byte == b'-');
        if fits {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Invalid,
            "check tag",
            self.object(tag),
            "is not a valid tag",
        )
        .with_hint(
            "a tag is up to 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'",
        ))
    }

    fn parse_digest(&self, text: &str) -> Result<Digest> {
        let invalid = |detail| Error::new(ErrorKind::Invalid, PULL, self.object(text), detail);
        let digest = Digest::try_from(text)
            .map_err(|error| invalid("is not a digest").with_source(error))?;
        match digest.algorithm() {
            oci_spec::image::DigestAlgorithm::Sha256 => Ok(digest),
            _ => Err(invalid("only sha256 digests can be verified")),
        }
    }
}

fn report_manifest(digest: &Digest, sent: bool, progress: Progress<'_>) {
    progress(Event::Manifest {
        digest: digest.clone(),
        sent,
    });
}

fn digest_header(response: &Response) -> Option<Digest> {
    let value = response
        .headers()
        .get("docker-content-digest")?
        .to_str()
        .ok()?;
    Digest::try_from(value).ok()
}
