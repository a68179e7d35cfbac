//! The URLs of one repository, and which foreign URLs a registry may send us to.

use oci_spec::distribution::Reference;
use oci_spec::image::Digest;
use url::{Host, Url};

use crate::error::{Error, ErrorKind, Result};
use crate::options::RegistryOptions;

/// Where a repository lives (distribution-spec, endpoints).
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    base: Url,
    registry: String,
    repository: String,
    plain_http: bool,
}

impl Endpoint {
    pub(crate) fn new(reference: &Reference, options: &RegistryOptions) -> Result<Self> {
        let host = reference.resolve_registry();
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|error| {
                Error::new(
                    ErrorKind::Invalid,
                    "open repository",
                    host,
                    "is not a host name",
                )
                .with_source(error)
            })
        };
        let secure = parse("https")?;
        // Nobody but this machine can listen in on loopback, and a registry there that does
        // speak TLS is always one whose certificate has to be supplied.
        let plain = options.plain_http || (is_loopback(&secure) && options.extra_ca_pem.is_empty());
        Ok(Self {
            base: if plain { parse("http")? } else { secure },
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            plain_http: options.plain_http,
        })
    }

    /// The registry as written by the user.
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    pub(crate) fn repository(&self) -> &str {
        &self.repository
    }

    /// `registry/repository`, the object named in errors.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Scheme, host and port.
    pub(crate) fn origin(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// The host spoken to, without its port.
    pub(crate) fn host(&self) -> &str {
        self.base.host_str().unwrap_or(&self.registry)
    }

    /// Whether `url` is on the registry's host, at whatever port.
    pub(crate) fn is_host_of(&self, url: &Url) -> bool {
        url.host().is_some() && url.host() == self.base.host()
    }

    /// Whether credentials may travel to `url`, a token endpoint: over TLS, or without it on the
    /// registry's own host.
    pub(crate) fn permits_credentials(&self, url: &Url) -> bool {
        let own = self.is_host_of(url) || (is_loopback(url) && is_loopback(&self.base));
        self.permits(url) && (url.scheme() == "https" || own)
    }

    /// The listing of what refers to `digest` (distribution-spec, listing referrers).
    pub(crate) fn referrers(&self, digest: &Digest) -> Url {
        self.at(&format!("referrers/{digest}"))
    }

    pub(crate) fn is_http(&self) -> bool {
        self.base.scheme() == "http"
    }

    fn at(&self, tail: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{tail}", self.repository));
        url
    }

    pub(crate) fn blob(&self, digest: &Digest) -> Url {
        self.at(&format!("blobs/{digest}"))
    }

    pub(crate) fn uploads(&self) -> Url {
        self.at("blobs/uploads/")
    }

    pub(crate) fn manifest(&self, reference: &str) -> Url {
        self.at(&format!("manifests/{reference}"))
    }

    pub(crate) fn tags(&self) -> Url {
        let mut url = self.at("tags/list");
        url.set_query(Some("n=1000"));
        url
    }

    /// Whether `other` is a repository of the same registry, so that blobs can be mounted.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.base.origin() == other.base.origin()
    }

    /// Whether `url` is of this registry, so that credentials may be sent to it.
    pub(crate) fn owns(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Whether credentials and data may travel to `url` at all.
    pub(crate) fn permits(&self, url: &Url) -> bool {
        let scheme_ok = match url.scheme() {
            "https" => true,
            "http" => self.is_http() && (self.plain_http || is_loopback(url)),
            _ => false,
        };
        // A registry elsewhere must not steer us to services of this machine or its cloud host.
        scheme_ok && (self.owns(url) || is_loopback(&self.base) || !is_local_address(url))
    }

    /// Resolves a `Location` of the answer to `asked` (RFC 9110 10.2.2): relative or absolute,
    /// its query kept.
    pub(crate) fn resolve(&self, asked: &Url, location: &str) -> Result<Url> {
        let bad =
            |detail: &str| Error::new(ErrorKind::Protocol, "follow location", self.name(), detail);
        let mut url = asked
            .join(location)
            .map_err(|error| bad("the registry sent a malformed Location").with_source(error))?;
        url.set_fragment(None);
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("the registry sent a Location with user information"));
        }
        // A registry behind a TLS proxy often does not know that it is, and names itself by http.
        if url.scheme() == "http" && self.base.scheme() == "https" && url.host() == self.base.host()
        {
            let upgraded = url
                .set_scheme("https")
                .and_then(|()| url.set_port(self.base.port()));
            upgraded.map_err(|()| bad("the registry sent a malformed Location"))?;
        }
        if !self.permits(&url) {
            return Err(
                bad("the registry sent a Location that is not safe to follow").with_hint(
                    "a Location must use https and must not name an address of this machine",
                ),
            );
        }
        Ok(url)
    }
}

/// Adds `digest` to the query of an upload URL, keeping what is there byte for byte.
pub(crate) fn with_digest(url: &Url, digest: &Digest) -> Url {
    let mut url = url.clone();
    url.query_pairs_mut().append_pair("digest", digest.as_ref());
    url
}

/// Host and port of a URL, the only part of it that is fit for an error.
pub(crate) fn host_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or("unknown host");
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Whether a request that began at `first` may be redirected to `next`: never from TLS to plain
/// HTTP, nor from elsewhere to an address of this machine or its cloud host.
pub(crate) fn may_redirect(first: &Url, next: &Url) -> bool {
    let scheme_ok = match next.scheme() {
        "https" => true,
        "http" => first.scheme() == "http",
        _ => false,
    };
    let strays = is_local_address(next) && !is_local_address(first);
    scheme_ok && !strays && next.username().is_empty() && next.password().is_none()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn is_local_address(url: &Url) -> bool {
    is_loopback(url)
        || match url.host() {
            Some(Host::Ipv4(ip)) => ip.is_link_local() || ip.is_unspecified(),
            Some(Host::Ipv6(ip)) => {
                ip.is_unspecified() || ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some()
            }
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::sha256_of;
    use proptest::prelude::*;

    fn endpoint(name: &str) -> Endpoint {
        Endpoint::new(&name.parse().unwrap(), &RegistryOptions::default()).unwrap()
    }

    #[test]
    fn plain_http_is_for_loopback_or_on_request() {
        assert!(endpoint("127.0.0.1:5000/r").is_http());
        assert!(endpoint("localhost:5000/r").is_http());
        assert!(!endpoint("registry.invalid/r").is_http());
        let options = RegistryOptions {
            plain_http: true,
            ..RegistryOptions::default()
        };
        let chosen = Endpoint::new(&"registry.invalid/r".parse().unwrap(), &options).unwrap();
        assert!(chosen.is_http());
        let options = RegistryOptions {
            extra_ca_pem: vec![b"pem".to_vec()],
            ..RegistryOptions::default()
        };
        let tls = Endpoint::new(&"127.0.0.1:5000/r".parse().unwrap(), &options).unwrap();
        assert!(!tls.is_http());
    }

    #[test]
    fn locations_resolve_and_keep_their_query() {
        let here = endpoint("registry.invalid/a/b");
        let asked = here.uploads();
        let cases = [
            (
                "/v2/a/b/blobs/uploads/1?_state=x%3D",
                "https://registry.invalid/v2/a/b/blobs/uploads/1?_state=x%3D",
            ),
            (
                "u1?s=1",
                "https://registry.invalid/v2/a/b/blobs/uploads/u1?s=1",
            ),
            (
                "https://store.invalid/u?sig=%2B",
                "https://store.invalid/u?sig=%2B",
            ),
            ("http://registry.invalid:80/u", "https://registry.invalid/u"),
            ("//other.invalid/u#f", "https://other.invalid/u"),
        ];
        for (location, expected) in cases {
            assert_eq!(here.resolve(&asked, location).unwrap().as_str(), expected);
        }
        let digest = sha256_of(b"");
        let put = with_digest(&here.resolve(&asked, "u1?s=a%2Fb").unwrap(), &digest);
        assert!(
            put.as_str().contains("?s=a%2Fb&digest=sha256%3Ae3b0"),
            "{put}"
        );
    }

    #[test]
    fn unsafe_locations_are_refused() {
        let here = endpoint("registry.invalid/a");
        for location in [
            "http://elsewhere.invalid/u",
            "ftp://registry.invalid/u",
            "https://u:p@registry.invalid/u",
            "https://127.0.0.1/u",
            "https://169.254.169.254/latest",
            "https://[::1]/u",
        ] {
            let error = here.resolve(&here.uploads(), location).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{location}");
        }
    }

    #[test]
    fn redirects_keep_to_tls_and_away_from_this_machine() {
        let may = |first: &str, next: &str| {
            may_redirect(&Url::parse(first).unwrap(), &Url::parse(next).unwrap())
        };
        assert!(may("https://r.invalid/b", "https://store.invalid/b?sig=1"));
        assert!(may("http://r.invalid/b", "http://store.invalid/b"));
        assert!(may("http://127.0.0.1:1/b", "http://127.0.0.1:2/b"));
        for next in [
            "http://r.invalid/b",
            "http://store.invalid/b",
            "https://127.0.0.1/b",
            "https://169.254.169.254/b",
            "https://u:p@store.invalid/b",
            "ftp://r.invalid/b",
        ] {
            assert!(!may("https://r.invalid/b", next), "{next}");
        }
        assert!(!may("http://r.invalid/b", "http://169.254.169.254/b"));
    }

    #[test]
    fn a_token_endpoint_without_tls_is_on_the_same_host() {
        let options = RegistryOptions {
            plain_http: true,
            ..RegistryOptions::default()
        };
        let here = Endpoint::new(&"registry.invalid/r".parse().unwrap(), &options).unwrap();
        let may = |text: &str| here.permits_credentials(&Url::parse(text).unwrap());
        assert!(may("http://registry.invalid:81/token"));
        assert!(may("https://auth.invalid/token"));
        assert!(!may("http://auth.invalid/token"));
        let loopback = endpoint("127.0.0.1:5000/r");
        assert!(loopback.permits_credentials(&Url::parse("http://localhost:1/t").unwrap()));
    }

    #[test]
    fn only_the_same_origin_is_owned() {
        let here = endpoint("registry.invalid/a");
        let owns = |text: &str| here.owns(&Url::parse(text).unwrap());
        assert!(owns("https://registry.invalid/x"));
        assert!(!owns("https://registry.invalid:444/x"));
        assert!(!owns("http://registry.invalid/x"));
        assert!(!owns("https://registry.invalid.evil.invalid/x"));
    }

    proptest! {
        #[test]
        fn no_location_escapes_the_rules(location in "[ -~]{0,60}") {
            let here = endpoint("registry.invalid/a");
            if let Ok(url) = here.resolve(&here.uploads(), &location) {
                prop_assert_eq!(url.scheme(), "https");
                prop_assert!(url.username().is_empty() && url.password().is_none());
            }
        }
    }
}
