//! From the errors of the storage library to ours: kind, words, hint, and no secret.

use std::error::Error as StdError;
use std::io;

use object_store::client::{HttpError, HttpErrorKind};

use crate::error::{Error, ErrorKind};
use crate::store_url::Scheme;

/// Longest text that is kept of a server's answer, in characters.
const MAX_TEXT: usize = 600;

/// What an error message needs to know about the store.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) scheme: Scheme,
    /// The container, bucket or directory, as a person writes it.
    pub(crate) place: String,
    /// Which credential is in use, in words; never its value.
    pub(crate) credential: &'static str,
    /// Wiped out of every text.
    pub(crate) secrets: Vec<String>,
}

impl Site {
    /// Our error for a failure of the storage library.
    pub(crate) fn error(
        &self,
        stage: &'static str,
        object: impl Into<String>,
        error: &object_store::Error,
    ) -> Error {
        let text = self.clean(&chain(error));
        let kind = self.kind(error, &text);
        let detail = self.detail(kind, error, &text);
        let mut ours = Error::new(kind, stage, object, detail).with_source(text.clone());
        if let Some(hint) = self.hint(kind, &text) {
            ours = ours.with_hint(hint);
        }
        ours
    }

    fn kind(&self, error: &object_store::Error, text: &str) -> ErrorKind {
        use object_store::Error as Theirs;
        match error {
            Theirs::NotFound { .. } => ErrorKind::NotFound,
            Theirs::AlreadyExists { .. } => ErrorKind::Conflict,
            Theirs::Precondition { .. } | Theirs::NotModified { .. } => ErrorKind::Changed,
            Theirs::PermissionDenied { .. } if is_bad_credential(text) => ErrorKind::Unauthorized,
            Theirs::PermissionDenied { .. } => ErrorKind::Forbidden,
            Theirs::Unauthenticated { .. } => ErrorKind::Unauthorized,
            Theirs::InvalidPath { .. } | Theirs::UnknownConfigurationKey { .. } => {
                ErrorKind::Invalid
            }
            Theirs::NotSupported { .. } | Theirs::NotImplemented { .. } => ErrorKind::Unsupported,
            _ => self.generic_kind(error, text),
        }
    }

    fn generic_kind(&self, error: &object_store::Error, text: &str) -> ErrorKind {
        if let Some(http) = find::<HttpError>(error) {
            return match http.kind() {
                HttpErrorKind::Timeout => ErrorKind::Timeout,
                _ => ErrorKind::Unreachable,
            };
        }
        if self.scheme == Scheme::File {
            return match find::<io::Error>(error).map(io::Error::kind) {
                Some(io::ErrorKind::PermissionDenied) => ErrorKind::Forbidden,
                _ => ErrorKind::Io,
            };
        }
        if is_bad_credential(text) || text.contains("oauth") {
            return ErrorKind::Unauthorized;
        }
        // The library gives the status only in words.
        let has = |marks: &[&str]| marks.iter().any(|mark| text.contains(mark));
        // Too slow or too often is not wrong.
        let later = has(&["status code: 408", "status code: 429"]);
        if !later && has(&["status code: 4", "without LOCATION"]) {
            ErrorKind::Invalid
        } else {
            ErrorKind::Unreachable
        }
    }

    fn detail(&self, kind: ErrorKind, error: &object_store::Error, text: &str) -> String {
        let (place, credential) = (&self.place, self.credential);
        match kind {
            ErrorKind::NotFound if is_missing_place(text) => format!("{place} does not exist"),
            ErrorKind::NotFound => format!("not found in {place}"),
            ErrorKind::Unauthorized => {
                format!("{place} does not accept the credential ({credential})")
            }
            ErrorKind::Forbidden => {
                format!("{place} does not allow this to the credential ({credential})")
            }
            ErrorKind::Conflict => "it already exists".into(),
            ErrorKind::Changed => "it was replaced meanwhile".into(),
            ErrorKind::Timeout => format!("{place} did not answer in time"),
            ErrorKind::Unreachable
                if find::<HttpError>(error)
                    .is_some_and(|http| http.kind() == HttpErrorKind::Connect) =>
            {
                format!("no connection to {place}")
            }
            ErrorKind::Unreachable => format!("the request to {place} failed"),
            ErrorKind::Unsupported => format!("{place} does not support this operation"),
            ErrorKind::Invalid => format!("{place} refused the request"),
            _ => format!("the storage of {place} failed"),
        }
    }

    fn hint(&self, kind: ErrorKind, text: &str) -> Option<String> {
        match (kind, self.scheme) {
            (ErrorKind::NotFound, Scheme::Azure | Scheme::S3) if is_missing_place(text) => {
                Some(format!("create {} first, or correct the url", self.place))
            }
            (ErrorKind::Unauthorized, scheme) => self
                .renew_hint()
                .or_else(|| credential_hint(scheme))
                .map(str::to_owned),
            (ErrorKind::Forbidden, Scheme::Azure) => Some(self.azure_permission_hint().to_owned()),
            (ErrorKind::Forbidden, Scheme::S3) => Some(
                "give the identity s3:GetObject and s3:ListBucket, and s3:PutObject to publish"
                    .into(),
            ),
            (ErrorKind::Forbidden, Scheme::File) => {
                Some("check the owner and mode of the directory".into())
            }
            (ErrorKind::Timeout | ErrorKind::Unreachable, Scheme::Azure) => {
                Some("check the account in the url, AZURE_STORAGE_ENDPOINT and the network".into())
            }
            (ErrorKind::Timeout | ErrorKind::Unreachable, Scheme::S3) => {
                Some("check AWS_ENDPOINT_URL_S3, AWS_REGION and the network".into())
            }
            (ErrorKind::Invalid, Scheme::S3)
                if text.contains("LOCATION") || text.contains("region") =>
            {
                Some("set AWS_REGION to the region of the bucket".into())
            }
            _ => None,
        }
    }

    /// What to do about a credential that was given and is not accepted.
    fn renew_hint(&self) -> Option<&'static str> {
        match self.credential {
            "account key" => Some(
                "check AZURE_STORAGE_ACCOUNT_KEY: it is not, or no longer, a key of this account",
            ),
            "shared access signature" => {
                Some("renew AZURE_STORAGE_SAS_TOKEN: it is not of this account, or has expired")
            }
            _ => None,
        }
    }

    /// Roles are for identities: a key has none, and a signature names its own permissions.
    fn azure_permission_hint(&self) -> &'static str {
        match self.credential {
            "account key" => {
                "check that the account allows access by its keys and from this network"
            }
            "shared access signature" => {
                "give AZURE_STORAGE_SAS_TOKEN a signature with the permissions read and list, and create and write to publish"
            }
            _ => {
                "give the identity the role Storage Blob Data Reader, and Storage Blob Data Contributor to publish"
            }
        }
    }

    /// Wipes secrets and queries out of a text, and bounds its length.
    pub(crate) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), "***");
        }
        let mut clean = String::new();
        for (at, word) in text.split(char::is_whitespace).enumerate() {
            if at > 0 {
                clean.push(' ');
            }
            let query = if word.contains("://") || word.contains("sig=") {
                word.find('?')
            } else {
                None
            };
            match query {
                Some(at) => {
                    clean.push_str(&word[..at]);
                    clean.push_str("?***");
                }
                None if word.contains("sig=") => clean.push_str("***"),
                None => clean.push_str(word),
            }
        }
        match clean.char_indices().nth(MAX_TEXT) {
            Some((end, _)) => format!("{}…", &clean[..end]),
            None => clean,
        }
    }
}

/// Which variables carry a credential for `scheme`.
pub(crate) fn credential_hint(scheme: Scheme) -> Option<&'static str> {
    match scheme {
        Scheme::Azure => Some(
            "set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, or AZURE_TENANT_ID, AZURE_CLIENT_ID and \
             AZURE_FEDERATED_TOKEN_FILE; or MODELSHIP_INSTANCE_IDENTITY=true for a managed identity",
        ),
        Scheme::S3 => Some(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN for a temporary key), or \
             AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE; or MODELSHIP_INSTANCE_IDENTITY=true for an instance role",
        ),
        Scheme::File | Scheme::Memory => None,
    }
}

/// The codes with which S3 and Azure say that a credential is wrong rather than too weak.
fn is_bad_credential(text: &str) -> bool {
    [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "AuthenticationFailed",
        "InvalidAuthenticationInfo",
        "NoAuthenticationInformation",
        // The words of AuthenticationFailed, which emulators use under other codes too.
        "failed to authenticate the request",
    ]
    .iter()
    .any(|code| text.contains(code))
}

/// Whether an error says that the container or bucket itself does not exist.
pub(crate) fn place_is_missing(error: &object_store::Error) -> bool {
    is_missing_place(&chain(error))
}

fn is_missing_place(text: &str) -> bool {
    text.contains("NoSuchBucket") || text.contains("ContainerNotFound")
}

/// The texts of an error and its causes, without repetitions.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = error.source();
    }
    text
}

/// The first cause of type `T`.
pub(crate) fn find<'a, T: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Site {
        Site {
            scheme: Scheme::Azure,
            place: "container models of account acme".into(),
            credential: "workload identity",
            secrets: vec!["KEY123".into()],
        }
    }

    #[test]
    fn texts_are_wiped() {
        let text = "GET https://acme.blob.invalid/m?sv=1&sig=SECRET failed, key KEY123 sig=SECRET2";
        assert_eq!(
            site().clean(text),
            "GET https://acme.blob.invalid/m?*** failed, key *** ***"
        );
        assert!(site().clean(&"é".repeat(1000)).len() < 1400);
    }

    #[test]
    fn permission_errors_name_the_store_and_the_credential() {
        let error = |text: &'static str| object_store::Error::PermissionDenied {
            path: "m".into(),
            source: text.into(),
        };
        let forbidden = site().error(
            "resolve model",
            "az://models.acme/m",
            &error("AuthorizationPermissionMismatch"),
        );
        assert_eq!(forbidden.kind(), ErrorKind::Forbidden);
        assert!(
            forbidden
                .to_string()
                .contains("container models of account acme")
        );
        assert!(forbidden.to_string().contains("workload identity"));
        assert!(
            forbidden
                .hint()
                .unwrap()
                .contains("Storage Blob Data Reader")
        );
        let unauthorized = site().error(
            "resolve model",
            "az://models.acme/m",
            &error("AuthenticationFailed"),
        );
        assert_eq!(unauthorized.kind(), ErrorKind::Unauthorized);
        assert!(
            unauthorized
                .hint()
                .unwrap()
                .contains("AZURE_STORAGE_ACCOUNT_KEY")
        );
    }

    /// Azurite answers a wrong key with another code than Azure, and the same words.
    #[test]
    fn a_key_that_is_not_accepted_is_to_be_checked_and_needs_no_role() {
        let site = Site {
            credential: "account key",
            ..site()
        };
        let error = |text: &'static str| {
            let denied = object_store::Error::PermissionDenied {
                path: "m".into(),
                source: text.into(),
            };
            site.error("resolve model", "az://models.acme/m", &denied)
        };
        let wrong = error("AuthorizationFailure: Server failed to authenticate the request.");
        assert_eq!(wrong.kind(), ErrorKind::Unauthorized);
        let hint = wrong.hint().unwrap();
        assert!(hint.contains("check AZURE_STORAGE_ACCOUNT_KEY"), "{hint}");
        let fenced = error("AuthorizationFailure: This request is not authorized");
        assert_eq!(fenced.kind(), ErrorKind::Forbidden);
        assert!(!fenced.hint().unwrap().contains("role"));
    }
}
