//! The addresses of Azure Blob Storage: which cloud, and the three ways to write one.

use super::check_bucket;

/// The clouds whose endpoints are well known. Any other one is reached by giving the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Cloud {
    #[default]
    Public,
    UsGovernment,
    China,
}

impl Cloud {
    const ALL: [Self; 3] = [Self::Public, Self::UsGovernment, Self::China];

    /// What follows `ACCOUNT.blob.` in the host.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Public => "core.windows.net",
            Self::UsGovernment => "core.usgovcloudapi.net",
            Self::China => "core.chinacloudapi.cn",
        }
    }

    /// The login service of the cloud.
    pub(super) fn authority(self) -> &'static str {
        match self {
            Self::Public => "https://login.microsoftonline.com",
            Self::UsGovernment => "https://login.microsoftonline.us",
            Self::China => "https://login.chinacloudapi.cn",
        }
    }
}

/// A container or bucket, and where it is.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) cloud: Cloud,
    pub(super) account: String,
    pub(super) container: String,
}

impl Place {
    /// Of a scheme that has neither containers nor buckets.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// Of a bucket, which stands for itself.
    pub(super) fn bucket(container: String) -> Self {
        Self {
            container,
            ..Self::default()
        }
    }
}

/// `CONTAINER.ACCOUNT`, the authority of `az://`: the public cloud.
pub(super) fn short(authority: &str) -> Result<Place, String> {
    let (container, account) = authority
        .split_once('.')
        .ok_or("the account is missing: write CONTAINER.ACCOUNT")?;
    Ok(Place {
        cloud: Cloud::Public,
        account: check_account(account)?,
        container: check_bucket(container, "container", "-")?,
    })
}

/// `CONTAINER@ACCOUNT.dfs.SUFFIX`, the authority of `abfss://`.
pub(super) fn abfss(authority: &str) -> Result<Place, String> {
    let (container, host) = authority
        .split_once('@')
        .ok_or("the container is missing: write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net")?;
    let (account, cloud) = parse_host(host, &["dfs"])?;
    Ok(Place {
        cloud,
        account,
        container: check_bucket(container, "container", "-")?,
    })
}

/// `ACCOUNT.blob.SUFFIX` or `ACCOUNT.dfs.SUFFIX`, the authority of `https://`, whose path starts
/// with the container. Gives the rest of the path.
pub(super) fn https<'a>(authority: &str, path: &'a str) -> Result<(Place, &'a str), String> {
    if authority.contains('@') {
        return Err("user info is not allowed; credentials go into the options".into());
    }
    let (account, cloud) = parse_host(authority, &["blob", "dfs"])?;
    let (container, rest) = path.split_once('/').unwrap_or((path, ""));
    let place = Place {
        cloud,
        account,
        container: check_bucket(container, "container", "-")?,
    };
    Ok((place, rest))
}

fn parse_host(host: &str, services: &[&str]) -> Result<(String, Cloud), String> {
    let host = host.to_ascii_lowercase();
    if host.contains(':') {
        return Err("a port is not allowed; a custom endpoint goes into the options".into());
    }
    let mut known = services
        .iter()
        .flat_map(|service| Cloud::ALL.map(|cloud| (service, cloud)));
    let found = known.find_map(|(service, cloud)| {
        let account = host.strip_suffix(&format!(".{service}.{}", cloud.suffix()))?;
        Some((account, cloud))
    });
    let (account, cloud) = found.ok_or_else(|| {
        let service = services.join(" or ");
        format!("the host is not ACCOUNT.{service} of a known cloud of Azure")
    })?;
    Ok((check_account(account)?, cloud))
}

/// Rules of the service: accounts have 3 to 24 lower-case letters and digits.
fn check_account(account: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if (3..=24).contains(&account.len()) && account.chars().all(good) {
        Ok(account.into())
    } else {
        Err("the account must be 3 to 24 lower-case letters and digits".into())
    }
}
