//! `StoreOptions`: endpoints and credentials, and where they come from.

use std::fmt;

/// Endpoints and credentials of a store.
///
/// [`StoreOptions::from_env`] fills every field from the variable named in its documentation; an
/// embedding program may set them by hand. `Debug` shows whether a secret is there, never the
/// secret.
///
/// Where several Azure credentials are given, the first of these is used: bearer token, workload
/// identity, client secret, SAS token, account key, connection string. For S3: access key, web
/// identity. The machine's own identity is asked only with
/// [`use_instance_identity`](Self::use_instance_identity), so that a missing credential is an
/// error at once and not after a search of the network.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreOptions {
    /// `AZURE_STORAGE_ENDPOINT`: the blob endpoint, where it is not
    /// `https://ACCOUNT.blob.core.windows.net`; for Azurite
    /// `http://127.0.0.1:PORT/devstoreaccount1`.
    pub azure_endpoint: Option<String>,
    /// `AZURE_STORAGE_ACCOUNT_KEY`: a key of the storage account, in base64.
    pub azure_account_key: Option<String>,
    /// `AZURE_STORAGE_SAS_TOKEN`: a shared access signature, `sv=…&sig=…`.
    pub azure_sas: Option<String>,
    /// `AZURE_STORAGE_TOKEN`: an access token for storage.
    pub azure_bearer_token: Option<String>,
    /// `AZURE_STORAGE_CONNECTION_STRING`: `AccountName=…;AccountKey=…;…`.
    pub azure_connection_string: Option<String>,
    /// `AZURE_TENANT_ID`: the tenant of the identity.
    pub azure_tenant_id: Option<String>,
    /// `AZURE_CLIENT_ID`: the client id of the identity.
    pub azure_client_id: Option<String>,
    /// `AZURE_FEDERATED_TOKEN_FILE`: a file with a token of the platform, read at every refresh.
    pub azure_federated_token_file: Option<String>,
    /// `AZURE_CLIENT_SECRET`: the secret of the identity.
    pub azure_client_secret: Option<String>,
    /// `AZURE_AUTHORITY_HOST`: the login service, where it is not the public cloud's.
    pub azure_authority_host: Option<String>,
    /// `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL`: the endpoint of an S3-compatible store,
    /// addressed with the bucket in the path.
    pub aws_endpoint: Option<String>,
    /// `AWS_REGION` or `AWS_DEFAULT_REGION`: the bucket's region. Never guessed; only a custom
    /// endpoint has a default, `us-east-1`.
    pub aws_region: Option<String>,
    /// `AWS_ACCESS_KEY_ID`: the id of an access key.
    pub aws_access_key_id: Option<String>,
    /// `AWS_SECRET_ACCESS_KEY`: its secret.
    pub aws_secret_access_key: Option<String>,
    /// `AWS_SESSION_TOKEN`: the token that belongs to a temporary access key.
    pub aws_session_token: Option<String>,
    /// `AWS_ROLE_ARN`: the role to take on with a web identity.
    pub aws_role_arn: Option<String>,
    /// `AWS_WEB_IDENTITY_TOKEN_FILE`: a file with the web identity's token.
    pub aws_web_identity_token_file: Option<String>,
    /// `AWS_ALLOW_HTTP`: allow an S3 endpoint without TLS that is not on this machine.
    pub aws_allow_http: bool,
    /// `AZURE_ALLOW_HTTP`: allow an Azure endpoint without TLS that is not on this machine.
    pub azure_allow_http: bool,
    /// `MODELSHIP_INSTANCE_IDENTITY`: use the identity of the virtual machine or pod.
    pub use_instance_identity: bool,
    /// `MODELSHIP_ANONYMOUS`: send no credential at all, for public stores.
    pub anonymous: bool,
}

impl StoreOptions {
    /// Reads the options from variables, through `lookup`: usually
    /// `|name| std::env::var(name).ok()`, at the edge of a program. Empty values count as unset.
    ///
    /// ```
    /// use modelship_model_store::StoreOptions;
    /// let options = StoreOptions::from_env(|name| (name == "AWS_REGION").then(|| "eu-west-1".into()));
    /// assert_eq!(options.aws_region.as_deref(), Some("eu-west-1"));
    /// ```
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let flag = |name: &str| matches!(text(name).as_deref(), Some("true" | "1" | "yes"));
        Self {
            azure_endpoint: text("AZURE_STORAGE_ENDPOINT"),
            azure_account_key: text("AZURE_STORAGE_ACCOUNT_KEY"),
            azure_sas: text("AZURE_STORAGE_SAS_TOKEN"),
            azure_bearer_token: text("AZURE_STORAGE_TOKEN"),
            azure_connection_string: text("AZURE_STORAGE_CONNECTION_STRING"),
            azure_tenant_id: text("AZURE_TENANT_ID"),
            azure_client_id: text("AZURE_CLIENT_ID"),
            azure_federated_token_file: text("AZURE_FEDERATED_TOKEN_FILE"),
            azure_client_secret: text("AZURE_CLIENT_SECRET"),
            azure_authority_host: text("AZURE_AUTHORITY_HOST"),
            aws_endpoint: text("AWS_ENDPOINT_URL_S3").or_else(|| text("AWS_ENDPOINT_URL")),
            aws_region: text("AWS_REGION").or_else(|| text("AWS_DEFAULT_REGION")),
            aws_access_key_id: text("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key: text("AWS_SECRET_ACCESS_KEY"),
            aws_session_token: text("AWS_SESSION_TOKEN"),
            aws_role_arn: text("AWS_ROLE_ARN"),
            aws_web_identity_token_file: text("AWS_WEB_IDENTITY_TOKEN_FILE"),
            aws_allow_http: flag("AWS_ALLOW_HTTP"),
            azure_allow_http: flag("AZURE_ALLOW_HTTP"),
            use_instance_identity: flag("MODELSHIP_INSTANCE_IDENTITY"),
            anonymous: flag("MODELSHIP_ANONYMOUS"),
        }
    }

    /// Every secret in the options, for wiping them out of texts that others wrote.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let fields = [
            &self.azure_account_key,
            &self.azure_sas,
            &self.azure_bearer_token,
            &self.azure_connection_string,
            &self.azure_client_secret,
            &self.aws_secret_access_key,
            &self.aws_session_token,
        ];
        fields.into_iter().flatten().cloned().collect()
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = |value: &Option<String>| value.as_ref().map(|_| "***");
        f.debug_struct("StoreOptions")
            .field(
                "azure_endpoint",
                &self.azure_endpoint.as_deref().map(crate::store_url::redact),
            )
            .field("azure_account_key", &secret(&self.azure_account_key))
            .field("azure_sas", &secret(&self.azure_sas))
            .field("azure_bearer_token", &secret(&self.azure_bearer_token))
            .field(
                "azure_connection_string",
                &secret(&self.azure_connection_string),
            )
            .field("azure_tenant_id", &self.azure_tenant_id)
            .field("azure_client_id", &self.azure_client_id)
            .field(
                "azure_federated_token_file",
                &self.azure_federated_token_file,
            )
            .field("azure_client_secret", &secret(&self.azure_client_secret))
            .field("azure_authority_host", &self.azure_authority_host)
            .field(
                "aws_endpoint",
                &self.aws_endpoint.as_deref().map(crate::store_url::redact),
            )
            .field("aws_region", &self.aws_region)
            .field("aws_access_key_id", &self.aws_access_key_id)
            .field(
                "aws_secret_access_key",
                &secret(&self.aws_secret_access_key),
            )
            .field("aws_session_token", &secret(&self.aws_session_token))
            .field("aws_role_arn", &self.aws_role_arn)
            .field(
                "aws_web_identity_token_file",
                &self.aws_web_identity_token_file,
            )
            .field("aws_allow_http", &self.aws_allow_http)
            .field("azure_allow_http", &self.azure_allow_http)
            .field("use_instance_identity", &self.use_instance_identity)
            .field("anonymous", &self.anonymous)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let options = StoreOptions::from_env(|name| Some(format!("SECRET-{name}")));
        let text = format!("{options:?}");
        for name in [
            "ACCOUNT_KEY",
            "SAS_TOKEN",
            "STORAGE_TOKEN",
            "CONNECTION_STRING",
            "CLIENT_SECRET",
            "SECRET_ACCESS",
            "SESSION_TOKEN",
        ] {
            assert!(!text.contains(name), "{name}: {text}");
        }
        assert_eq!(options.secrets().len(), 7);
    }

    #[test]
    fn the_specific_endpoint_wins_and_empty_is_unset() {
        let options = StoreOptions::from_env(|name| match name {
            "AWS_ENDPOINT_URL_S3" => Some("https://s3.invalid".into()),
            "AWS_ENDPOINT_URL" => Some("https://aws.invalid".into()),
            "AWS_REGION" => Some(String::new()),
            "AWS_DEFAULT_REGION" => Some("eu-north-1".into()),
            "MODELSHIP_ANONYMOUS" => Some("true".into()),
            _ => None,
        });
        assert_eq!(options.aws_endpoint.as_deref(), Some("https://s3.invalid"));
        assert_eq!(options.aws_region.as_deref(), Some("eu-north-1"));
        assert!(options.anonymous && !options.aws_allow_http);
    }
}
