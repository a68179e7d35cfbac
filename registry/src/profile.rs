//! What is known of the registries people push to: how they take bytes, and how many.

/// Bytes of one MiB.
const MIB: u64 = 1 << 20;
/// Chunks where nothing better is known.
const CHUNK: u64 = 16 * MIB;
/// Blobs of known digest up to this size go as one PUT.
const PUT_MAX: u64 = 32 * MIB;

/// How the bytes of a blob travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// One `PATCH` of the whole blob without `Content-Range`, then an empty `PUT`: what docker
    /// and most other clients send, and the only form all registries take.
    Stream,
    /// Several `PATCH`es of [`Profile::chunk_size`] bytes with `Content-Range`.
    Chunked,
    /// One `PUT` of the whole blob. A source of unknown digest is read twice for it.
    Monolithic,
}

/// Where a broken upload may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resume {
    /// Where the status of the session says (distribution-spec, upload status).
    Status,
    /// After the last chunk that was answered; the status is not trusted.
    Acknowledged,
    /// Nowhere; it starts anew.
    Never,
}

/// How to talk to one kind of registry. What it says is where an upload begins: a registry that
/// answers otherwise is followed, from one request to chunks and to a single `PUT`.
///
/// Every profile takes any 2xx for an answer to `PATCH`: the specification says 202, ECR says 201
/// (tart #273), others 204.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// The name of the kind, for logs and errors.
    pub name: &'static str,
    /// How blobs travel that are larger than [`put_max`](Self::put_max) or of unknown digest.
    pub strategy: Strategy,
    /// Bytes per request when chunked; `None` where chunks are not taken at all.
    pub chunk_size: Option<u64>,
    /// The largest blob of known digest, in bytes, that goes as one `PUT`. A broken `PUT` starts
    /// anew, a broken `PATCH` goes on, so this is what one break may cost.
    pub put_max: u64,
    /// Where a broken upload goes on.
    pub resume: Resume,
    /// Whether a mount from another repository is tried.
    pub mounts: bool,
    /// The largest blob in bytes; larger ones are refused before a byte of them is read.
    pub blob_max: Option<u64>,
}

impl Default for Profile {
    /// [`Profile::distribution`].
    fn default() -> Self {
        Self::distribution()
    }
}

impl Profile {
    /// The registry of the distribution project and what derives from it; used for every host
    /// that is not known.
    pub const fn distribution() -> Self {
        Self {
            name: "distribution",
            strategy: Strategy::Stream,
            chunk_size: Some(CHUNK),
            put_max: PUT_MAX,
            resume: Resume::Status,
            mounts: true,
            blob_max: None,
        }
    }

    /// Azure Container Registry. Layers up to 200 GiB (Azure documentation, registry limits).
    /// Large chunks, because write operations are limited per minute (same page); a single body
    /// of many gigabytes is sometimes cut (azure-sdk-for-net #32059).
    pub const fn acr() -> Self {
        Self {
            name: "acr",
            chunk_size: Some(64 * MIB),
            blob_max: Some(200 << 30),
            ..Self::distribution()
        }
    }

    /// GitHub Container Registry. Layers up to 10 GB (GitHub documentation); a ranged request
    /// may not pass 4 MiB (oci-client #35, ocx #237).
    pub const fn ghcr() -> Self {
        Self {
            name: "ghcr",
            chunk_size: Some(4 * MIB),
            blob_max: Some(10_000_000_000),
            ..Self::distribution()
        }
    }

    /// Amazon ECR, private and public. Layers up to 52,000 MiB in at most 4,200 parts (AWS
    /// documentation, service quotas): 16 MiB chunks stay within both. The status of a session
    /// is stale after the first chunk (containers-roadmap #2831).
    pub const fn ecr() -> Self {
        Self {
            name: "ecr",
            resume: Resume::Acknowledged,
            blob_max: Some(52_000 * MIB),
            ..Self::distribution()
        }
    }

    /// Google Artifact Registry and Container Registry, which take no chunks
    /// (dotnet/sdk-container-builds #287, kitops #777).
    pub const fn gar() -> Self {
        Self {
            name: "gar",
            chunk_size: None,
            ..Self::distribution()
        }
    }

    /// Docker Hub. A mount needs a token for the source too (go-containerregistry #1741).
    pub const fn docker_hub() -> Self {
        Self {
            name: "docker hub",
            ..Self::distribution()
        }
    }

    /// zot, which follows the specification.
    pub const fn zot() -> Self {
        Self {
            name: "zot",
            ..Self::distribution()
        }
    }

    /// Harbor: distribution behind a proxy, which may limit a request's body.
    pub const fn harbor() -> Self {
        Self {
            name: "harbor",
            ..Self::distribution()
        }
    }

    /// A registry behind Cloudflare, which takes requests of less than 100 MB (mise #11141).
    pub const fn cloudflare() -> Self {
        Self {
            name: "cloudflare",
            strategy: Strategy::Chunked,
            chunk_size: Some(64 * MIB),
            ..Self::distribution()
        }
    }

    /// The profile of a host, with or without its port, as far as its name tells. zot, Harbor
    /// and what is behind Cloudflare can not be told by name; set
    /// [`RegistryOptions::profile`](crate::RegistryOptions::profile) for those.
    pub fn for_host(host: &str) -> Self {
        let name = host.split(':').next().unwrap_or(host).to_ascii_lowercase();
        let within = |domain: &str| {
            name.strip_suffix(domain)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let any = |domains: &[&str]| domains.iter().any(|domain| within(domain));
        if any(&["azurecr.io", "azurecr.cn", "azurecr.us"]) {
            Self::acr()
        } else if within("ghcr.io") {
            Self::ghcr()
        } else if within("public.ecr.aws") || is_ecr(&name) {
            Self::ecr()
        } else if any(&["pkg.dev", "gcr.io"]) {
            Self::gar()
        } else if within("docker.io") {
            Self::docker_hub()
        } else {
            Self::distribution()
        }
    }
}

/// `ACCOUNT.dkr.ecr[-fips].REGION.amazonaws.com[.cn]`.
fn is_ecr(name: &str) -> bool {
    let amazon = name
        .strip_suffix(".amazonaws.com")
        .or_else(|| name.strip_suffix(".amazonaws.com.cn"));
    amazon.is_some_and(|rest| {
        let mut labels = rest.split('.').skip(1);
        labels.next() == Some("dkr") && matches!(labels.next(), Some("ecr" | "ecr-fips"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_known_by_their_domain_and_by_nothing_else() {
        let cases = [
            ("team.azurecr.io", "acr"),
            ("TEAM.azurecr.cn:443", "acr"),
            ("ghcr.io", "ghcr"),
            ("123.dkr.ecr.eu-west-1.amazonaws.com", "ecr"),
            ("123.dkr.ecr-fips.us-east-1.amazonaws.com", "ecr"),
            ("123.dkr.ecr.cn-north-1.amazonaws.com.cn", "ecr"),
            ("public.ecr.aws", "ecr"),
            ("europe-docker.pkg.dev", "gar"),
            ("gcr.io", "gar"),
            ("docker.io", "docker hub"),
            ("index.docker.io", "docker hub"),
            ("127.0.0.1:5000", "distribution"),
            ("notghcr.io", "distribution"),
            ("ghcr.io.example", "distribution"),
            ("s3.amazonaws.com", "distribution"),
            ("[::1]:5000", "distribution"),
        ];
        for (host, name) in cases {
            assert_eq!(Profile::for_host(host).name, name, "{host}");
        }
    }

    #[test]
    fn the_parts_of_the_largest_layer_stay_within_the_limit() {
        let ecr = Profile::ecr();
        assert!(ecr.blob_max.unwrap().div_ceil(ecr.chunk_size.unwrap()) <= 4200);
    }
}
