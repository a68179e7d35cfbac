//! Certificates for loopback servers, made for one test and forgotten with it.

use std::fmt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};

use crate::Missing;

/// A certificate authority for one test.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key (PKCS #8).
    pub key_pem: String,
}

/// For whom a certificate is issued.
#[derive(Clone, Debug, Default)]
pub struct Subject<'a> {
    /// The common name.
    pub name: &'a str,
    /// The organisation, which Kubernetes reads as the group.
    pub organisation: Option<&'a str>,
    /// DNS names and IP addresses.
    pub hosts: &'a [&'a str],
}

impl Authority {
    /// Makes an authority with a fresh P-256 key.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn new() -> Result<Self, Missing> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "modelship-testkit");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(broken)?;
        let issuer = CertifiedIssuer::self_signed(params, key).map_err(broken)?;
        Ok(Self { issuer })
    }

    /// The authority's certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Issues a certificate that serves as server's and as client's.
    ///
    /// # Errors
    /// When a host is not a DNS name or an address.
    pub fn issue(&self, subject: &Subject<'_>) -> Result<Identity, Missing> {
        let hosts: Vec<String> = subject.hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).map_err(broken)?;
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, subject.name);
        if let Some(organisation) = subject.organisation {
            name.push(DnType::OrganizationName, organisation);
        }
        params.distinguished_name = name;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().map_err(broken)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(broken)?;
        Ok(Identity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

impl Identity {
    /// Writes `NAME.crt` and `NAME.key` into `folder` and gives their paths.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<(PathBuf, PathBuf), Missing> {
        let files = (
            folder.join(format!("{name}.crt")),
            folder.join(format!("{name}.key")),
        );
        std::fs::write(&files.0, &self.certificate_pem).map_err(broken)?;
        std::fs::write(&files.1, &self.key_pem).map_err(broken)?;
        Ok(files)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

fn broken(error: impl fmt::Display) -> Missing {
    Missing::broken("certificates", error)
}
