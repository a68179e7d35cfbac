//! Ways between this crate and `oci-client`, for programs that use both.

use oci_client::Client;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;

use crate::auth::{Authorization, Credentials};
use crate::error::{Error, ErrorKind, Result};
use crate::net;
use crate::repository::Repository;

const STAGE: &str = "open oci-client";
/// A `NO_PROXY` value that exempts every name and every address.
const EVERY_HOST: &str = "*,0.0.0.0/0,::/0";

/// # Working with `oci-client`
impl Repository {
    /// A client of `oci-client` for what this crate does not offer, such as its typed manifests
    /// and Wasm artifacts, with this repository's trust, proxy and time limits, and what it is
    /// signed in with: hand it to the client's calls. It is good for reading this repository; a
    /// token runs out some minutes later, and then this has to be called again.
    ///
    /// # Errors
    ///
    /// When the registry cannot be asked how it wants to be signed in to, or the options cannot
    /// be used.
    pub async fn oci_client(&self) -> Result<(Client, RegistryAuth)> {
        let scope = self.scope(false);
        let auth = &self.transport.auth;
        if auth.authorization(&scope).await? == Authorization::None {
            // Any answer tells what the registry wants; whether there is such a tag does not
            // matter.
            self.head_manifest("latest", &scope).await?;
        }
        let auth = match auth.authorization(&scope).await? {
            Authorization::None => RegistryAuth::Anonymous,
            Authorization::Basic { username, password } => {
                RegistryAuth::Basic(username, password.reveal().to_owned())
            }
            Authorization::Bearer(token) => RegistryAuth::Bearer(token.reveal().to_owned()),
        };
        // `try_from`, because `new` falls back to defaults, without our roots, on any error.
        let client = Client::try_from(self.oci_client_config()?).map_err(|error| {
            let detail = "cannot be made from the options";
            Error::new(ErrorKind::Invalid, STAGE, self.name(), detail).with_source(error)
        })?;
        Ok((client, auth))
    }

    fn oci_client_config(&self) -> Result<ClientConfig> {
        let options = &self.transport.net.options;
        let certificate = |data| Certificate {
            encoding: CertificateEncoding::Pem,
            data,
        };
        // With no proxy set the client would read the environment; this proxy is never used.
        let (proxy, exempt) = match &options.proxy {
            Some(proxy) => (proxy.clone(), options.no_proxy.clone()),
            None => (
                "http://none.invalid".to_owned(),
                Some(EVERY_HOST.to_owned()),
            ),
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
            // The default takes this machine's platform, which is not the image's.
            platform_resolver: None,
            ..ClientConfig::default()
        })
    }
}

/// Credentials in the form of `oci-client`.
impl From<RegistryAuth> for Credentials {
    fn from(auth: RegistryAuth) -> Self {
        match auth {
            RegistryAuth::Anonymous => Self::anonymous(),
            RegistryAuth::Basic(username, password) => Self::basic(username, password),
            RegistryAuth::Bearer(token) => Self::bearer_token(token),
        }
    }
}
