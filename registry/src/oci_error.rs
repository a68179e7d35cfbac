//! Errors of `oci-client` in our terms, without the URLs they carry: a redirect's URL is signed.

use oci_client::errors::{OciDistributionError, OciErrorCode};

use crate::error::{Error, ErrorKind};

/// Converts an error of `oci-client`.
pub(crate) fn convert(
    error: OciDistributionError,
    stage: &'static str,
    object: impl Into<String>,
) -> Error {
    let (kind, detail) = match error {
        OciDistributionError::RequestError(error) => return request(error, stage, object.into()),
        OciDistributionError::UnauthorizedError { .. } => (
            ErrorKind::Unauthorized,
            "the registry does not accept the credentials".to_owned(),
        ),
        OciDistributionError::ServerError { code, .. } => {
            (of_status(code), format!("the registry answered {code}"))
        }
        OciDistributionError::RegistryError { envelope, .. } => {
            let code = envelope.errors.into_iter().next().map(|error| error.code);
            let kind = code.as_ref().map_or(ErrorKind::Protocol, of_code);
            (
                kind,
                code.map_or_else(
                    || "the registry refused".to_owned(),
                    |code| format!("the registry answered {code:?}"),
                ),
            )
        }
        OciDistributionError::DigestError(error) => {
            return Error::new(
                ErrorKind::DigestMismatch,
                stage,
                object,
                "the digest is not usable",
            )
            .with_source(error);
        }
        _ => (
            ErrorKind::Protocol,
            "the registry's answer could not be used".to_owned(),
        ),
    };
    Error::new(kind, stage, object, detail)
}

/// Converts an error met within a body.
pub(crate) fn broken_body(error: std::io::Error, stage: &'static str, object: String) -> Error {
    let detail = "the connection broke";
    match error
        .into_inner()
        .map(<dyn std::error::Error + Send + Sync>::downcast::<reqwest::Error>)
    {
        Some(Ok(error)) => request(*error, stage, object),
        Some(Err(error)) => {
            Error::new(ErrorKind::Unreachable, stage, object, detail).with_source(error)
        }
        None => Error::new(ErrorKind::Unreachable, stage, object, detail),
    }
}

fn request(error: reqwest::Error, stage: &'static str, object: String) -> Error {
    match error.url().cloned() {
        Some(url) => crate::net::transport_error(stage, &url, error),
        None if error.is_timeout() => {
            Error::new(ErrorKind::Timeout, stage, object, "no bytes in time").with_source(error)
        }
        None => Error::new(
            ErrorKind::Unreachable,
            stage,
            object,
            "the connection broke",
        )
        .with_source(error),
    }
}

fn of_status(code: u16) -> ErrorKind {
    match code {
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Forbidden,
        404 => ErrorKind::NotFound,
        408 | 504 => ErrorKind::Timeout,
        429 => ErrorKind::Throttled,
        500..=599 => ErrorKind::Server,
        _ => ErrorKind::Protocol,
    }
}

fn of_code(code: &OciErrorCode) -> ErrorKind {
    match code {
        OciErrorCode::BlobUnknown
        | OciErrorCode::ManifestUnknown
        | OciErrorCode::NameUnknown
        | OciErrorCode::NotFound => ErrorKind::NotFound,
        OciErrorCode::Denied => ErrorKind::Forbidden,
        OciErrorCode::Unauthorized => ErrorKind::Unauthorized,
        OciErrorCode::Toomanyrequests => ErrorKind::Throttled,
        OciErrorCode::Unsupported => ErrorKind::Unsupported,
        _ => ErrorKind::Protocol,
    }
}
