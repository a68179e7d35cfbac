//! Azure connection strings: `AccountName=…;AccountKey=…;BlobEndpoint=…`.

use crate::options::StoreOptions;

/// The parts of a connection string that a blob client needs.
#[derive(Default)]
pub(crate) struct ConnectionString {
    account: Option<String>,
    key: Option<String>,
    sas: Option<String>,
    endpoint: Option<String>,
    suffix: Option<String>,
}

impl ConnectionString {
    /// Splits `text`. An error says what is wrong without repeating the text, which is a secret.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for part in text
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part
                .split_once('=')
                .ok_or("the connection string has a part without `=`")?;
            let slot = match name {
                "AccountName" => &mut parsed.account,
                "AccountKey" => &mut parsed.key,
                "SharedAccessSignature" => &mut parsed.sas,
                "BlobEndpoint" => &mut parsed.endpoint,
                "EndpointSuffix" => &mut parsed.suffix,
                _ => continue,
            };
            *slot = Some(value.to_owned());
        }
        Ok(parsed)
    }

    /// Fills those of `options` that are not given otherwise; `account` is the URL's.
    pub(crate) fn fill(self, options: &mut StoreOptions, account: &str) -> Result<(), String> {
        if let Some(own) = self.account.as_deref().filter(|own| *own != account) {
            return Err(format!(
                "the connection string is for account {own}, the url names {account}"
            ));
        }
        let endpoint = self.endpoint.or_else(|| {
            let suffix = self.suffix?;
            Some(format!("https://{account}.blob.{suffix}"))
        });
        let fill = |slot: &mut Option<String>, value| *slot = slot.take().or(value);
        fill(&mut options.azure_endpoint, endpoint);
        fill(&mut options.azure_account_key, self.key);
        fill(&mut options.azure_sas, self.sas);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_what_is_missing() {
        let text = "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=a2V5==;EndpointSuffix=core.invalid";
        let mut options = StoreOptions::default();
        ConnectionString::parse(text)
            .unwrap()
            .fill(&mut options, "acme")
            .unwrap();
        assert_eq!(options.azure_account_key.as_deref(), Some("a2V5=="));
        assert_eq!(
            options.azure_endpoint.as_deref(),
            Some("https://acme.blob.core.invalid")
        );
    }

    #[test]
    fn refuses_another_account_without_showing_the_key() {
        let mut options = StoreOptions::default();
        let parsed = ConnectionString::parse("AccountName=other;AccountKey=SECRET").unwrap();
        let error = parsed.fill(&mut options, "acme").unwrap_err();
        assert!(error.contains("other") && !error.contains("SECRET"));
        assert!(
            ConnectionString::parse("SECRET")
                .err()
                .is_some_and(|why| !why.contains("SECRET"))
        );
    }
}
