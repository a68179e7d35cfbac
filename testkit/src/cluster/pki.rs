//! The cluster's certificates, and the kubeconfigs made of them.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;

use super::broken;
use crate::Missing;
use crate::tls::{Authority, Identity, Subject};

/// A folder with `ca.crt`, `sa.key`, `sa.pub` and for each member `NAME.crt` and `NAME.key`.
pub(super) struct Pki {
    folder: PathBuf,
    authority: Authority,
}

impl Pki {
    /// Issues the certificates of the control plane, which listens at `addresses` and on loopback.
    pub(super) fn write(folder: &Path, addresses: &[&str]) -> Result<Self, Missing> {
        std::fs::create_dir(folder).map_err(broken)?;
        let authority = Authority::new()?;
        std::fs::write(folder.join("ca.crt"), authority.pem()).map_err(broken)?;
        let pki = Self {
            folder: folder.to_owned(),
            authority,
        };
        let mut hosts = vec![
            "localhost",
            "kubernetes",
            "kubernetes.default.svc",
            "127.0.0.1",
        ];
        hosts.extend(addresses);
        pki.issue(
            "apiserver",
            &Subject {
                name: "kube-apiserver",
                hosts: &hosts,
                organisation: None,
            },
        )?;
        let local = ["localhost", "127.0.0.1"];
        let member = |name, organisation| Subject {
            name,
            organisation,
            hosts: &local,
        };
        pki.issue("admin", &member("admin", Some("system:masters")))?;
        pki.issue(
            "controllers",
            &member("system:kube-controller-manager", None),
        )?;
        pki.issue("scheduler", &member("system:kube-scheduler", None))?;
        // ES256 is as good as RSA for service account tokens (RFC 7518, section 3.4).
        let tokens = KeyPair::generate().map_err(broken)?;
        std::fs::write(folder.join("sa.key"), tokens.serialize_pem()).map_err(broken)?;
        std::fs::write(folder.join("sa.pub"), tokens.public_key_pem()).map_err(broken)?;
        Ok(pki)
    }

    /// Issues one more certificate.
    pub(super) fn issue(&self, file: &str, subject: &Subject<'_>) -> Result<(), Missing> {
        self.authority
            .issue(subject)?
            .write(&self.folder, file)
            .map(drop)
    }

    /// The path of a file, as an argument.
    pub(super) fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    pub(super) fn ca_pem(&self) -> String {
        self.authority.pem()
    }

    pub(super) fn identity(&self, name: &str) -> Result<Identity, Missing> {
        let read = |kind| std::fs::read_to_string(self.folder.join(format!("{name}.{kind}")));
        let (certificate_pem, key_pem) =
            (read("crt").map_err(broken)?, read("key").map_err(broken)?);
        Ok(Identity {
            certificate_pem,
            key_pem,
        })
    }

    /// A kubeconfig for a member, complete in itself.
    pub(super) fn kubeconfig(&self, server: &str, name: &str) -> Result<String, Missing> {
        let identity = self.identity(name)?;
        let (ca, certificate, key) = (
            STANDARD.encode(self.ca_pem()),
            STANDARD.encode(identity.certificate_pem),
            STANDARD.encode(identity.key_pem),
        );
        Ok(format!(
            "apiVersion: v1
kind: Config
current-context: {name}
clusters:
- name: testkit
  cluster: {{server: \"{server}\", certificate-authority-data: {ca}}}
users:
- name: {name}
  user: {{client-certificate-data: {certificate}, client-key-data: {key}}}
contexts:
- name: {name}
  context: {{cluster: testkit, user: {name}}}
"
        ))
    }

    /// Writes a member's kubeconfig beside its certificate, and gives its path.
    pub(super) fn write_kubeconfig(&self, server: &str, name: &str) -> Result<String, Missing> {
        let path = self.file(&format!("{name}.kubeconfig"));
        std::fs::write(&path, self.kubeconfig(server, name)?).map_err(broken)?;
        Ok(path)
    }
}
