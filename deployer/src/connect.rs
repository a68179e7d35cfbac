//! From a kubeconfig to a client.

use std::path::Path;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::error::{Error, ErrorKind, Result};

const STAGE: &str = "read kubeconfig";

/// A client and its server's address without user info.
pub(crate) struct Connection {
    pub(crate) client: kube::Client,
    pub(crate) server: String,
}

/// Connects as the kubeconfig file at `path` says.
pub(crate) async fn from_path(path: &Path, context: Option<&str>) -> Result<Connection> {
    let object = path.display().to_string();
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| explain(&object, error))?;
    connect(&object, kubeconfig, context).await
}

/// Connects as the kubeconfig text `yaml` says; relative paths in it are the process's.
pub(crate) async fn from_yaml(yaml: &str, context: Option<&str>) -> Result<Connection> {
    let kubeconfig = Kubeconfig::from_yaml(yaml).map_err(|error| explain("text", error))?;
    connect("text", kubeconfig, context).await
}

async fn connect(
    object: &str,
    kubeconfig: Kubeconfig,
    context: Option<&str>,
) -> Result<Connection> {
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| explain(object, error))?;
    let server = address(&config.cluster_url);
    let client = kube::Client::try_from(config).map_err(|error| match error {
        // A credential plugin's output may be part of the cause; it is left out.
        kube::Error::Auth(_) => Error::new(
            ErrorKind::Unauthorized,
            STAGE,
            object,
            "its user has no usable credentials",
        )
        .with_hint("sign in again, or check that the credential plugin it names is installed"),
        other => {
            Error::new(ErrorKind::Invalid, STAGE, object, "makes no client").with_source(other)
        }
    })?;
    Ok(Connection { client, server })
}

fn address(url: &http::Uri) -> String {
    let host = url.host().unwrap_or("unknown host");
    let scheme = url.scheme_str().unwrap_or("https");
    url.port_u16().map_or_else(
        || format!("{scheme}://{host}"),
        |port| format!("{scheme}://{host}:{port}"),
    )
}

fn explain(object: &str, error: KubeconfigError) -> Error {
    let new = |kind, detail: &str| Error::new(kind, STAGE, object, detail);
    match error {
        KubeconfigError::ReadConfig(source, _) if source.kind() == std::io::ErrorKind::NotFound => {
            new(ErrorKind::NotFound, "there is no such file")
                .with_hint("give the path of a kubeconfig file that exists")
                .with_source(source)
        }
        KubeconfigError::ReadConfig(source, _) => new(ErrorKind::Io, "cannot be read")
            .with_hint("check the permissions of the file")
            .with_source(source),
        // The parser quotes the text around the mistake, which may hold a token.
        KubeconfigError::Parse(_) => new(ErrorKind::Invalid, "is not a kubeconfig")
            .with_hint("check that the file is whole; fetch it again if it is not"),
        KubeconfigError::CurrentContextNotSet => {
            new(ErrorKind::Invalid, "names no current context").with_hint("name the context to use")
        }
        KubeconfigError::LoadContext(name) => {
            new(ErrorKind::Invalid, &format!("has no context {name:?}"))
                .with_hint("name one of its contexts")
        }
        other => new(ErrorKind::Invalid, "cannot be used").with_source(other),
    }
}
