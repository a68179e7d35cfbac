//! Services that refuse or are not there: each is named, and no credential is told.

use std::fs;

use modelship_testkit::{Azurite, DockerRegistry, free_port, need};

use crate::program::said;
use crate::site::{Site, shared_base};

/// `secret` with another first letter: as well formed, and wrong.
fn other(secret: &str) -> String {
    let first = if secret.starts_with('A') { "B" } else { "A" };
    format!("{first}{}", &secret[1..])
}

#[tokio::test]
async fn a_wrong_account_key_is_refused_by_the_store_and_never_told() {
    let Some(azurite) = need(Azurite::start().await) else {
        return;
    };
    azurite.create_container("models").await.unwrap();
    let url = format!("az://models.{}/digits@latest", azurite.account());
    let site = Site::new(&[("file://store/digits@latest", &url)]);
    let key = other(azurite.key());
    for arguments in ["run", "publish app/models/digits/1.0.0 digits 1.0.0"] {
        let stage = if arguments == "run" {
            "observe"
        } else {
            "publish"
        };
        let mut command = site.command(arguments);
        command
            .env("AZURE_STORAGE_ENDPOINT", azurite.blob_endpoint())
            .env("AZURE_STORAGE_ACCOUNT_KEY", &key);
        said(&mut command)
            .refused(stage, &["digits"])
            .next("AZURE_STORAGE_ACCOUNT_KEY")
            .keeps(&[&key, azurite.key()]);
    }
    site.released_nothing();

    // The right key finds that nothing was published by the wrong one.
    let mut command = site.command("run");
    command
        .env("AZURE_STORAGE_ENDPOINT", azurite.blob_endpoint())
        .env("AZURE_STORAGE_ACCOUNT_KEY", azurite.key());
    said(&mut command)
        .refused("observe", &["no version has been published"])
        .keeps(&[azurite.key()]);
}

#[tokio::test]
async fn a_wrong_shared_access_signature_is_never_told() {
    let Some(azurite) = need(Azurite::start().await) else {
        return;
    };
    let url = format!("az://models.{}/digits@latest", azurite.account());
    let site = Site::new(&[("file://store/digits@latest", &url)]);
    let signature = "bm90LXRoZS1zaWduYXR1cmU";
    let mut command = site.command("run");
    command
        .env("AZURE_STORAGE_ENDPOINT", azurite.blob_endpoint())
        .env(
            "AZURE_STORAGE_SAS_TOKEN",
            format!("sv=2023-11-03&ss=b&srt=co&sp=rl&se=2099-01-01&sig={signature}%3D"),
        );
    said(&mut command)
        .refused("observe", &["digits"])
        .keeps(&[signature]);
    site.released_nothing();
}

#[tokio::test]
async fn a_wrong_password_is_refused_by_the_registry_and_never_told() {
    let Some(base) = shared_base() else { return };
    let Some(registry) = need(DockerRegistry::tls_htpasswd().await) else {
        return;
    };
    let (user, password) = (registry.username().unwrap(), registry.password().unwrap());
    let target = format!(
        "repository = \"{}/digits\"\nca = \"ca.pem\"",
        registry.host()
    );
    let site = Site::new(&[("layout = \"image\"", &target)]);
    site.adopt(base);
    site.publish("1.0.0");
    fs::write(site.path("ca.pem"), registry.ca_pem().unwrap()).unwrap();

    let wrong = other(password);
    let encoded = log_in(&site, &registry.host(), user, &wrong);
    site.modelship("run")
        .refused("observe", &[&registry.host()])
        .next("log in to the registry again")
        .keeps(&[&wrong, password, &encoded]);
    assert!(registry.requests("PUT", "").is_empty());
    assert!(registry.requests("POST", "").is_empty());
    assert!(
        !registry
            .storage_dir()
            .join("docker/registry/v2/repositories")
            .exists()
    );
    site.released_nothing();

    // With the right one, the same site goes on to plan: the password was all that was wrong.
    log_in(&site, &registry.host(), user, password);
    let plan = site.modelship("plan --json").json();
    assert_eq!(plan["plan"]["action"], "build", "{plan}");
}

/// Writes a docker configuration; the encoded credentials that stand in it.
fn log_in(site: &Site, host: &str, user: &str, password: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let config = serde_json::json!({"auths": {host: {"auth": encoded}}});
    fs::create_dir_all(site.path(".docker")).unwrap();
    fs::write(site.path(".docker/config.json"), config.to_string()).unwrap();
    encoded
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let Some(base) = shared_base() else { return };
    let host = format!("127.0.0.1:{}", free_port());
    let target = format!("repository = \"{host}/digits\"");
    let site = Site::new(&[("layout = \"image\"", &target)]);
    site.adopt(base);
    site.publish("1.0.0");
    site.modelship("run")
        .refused("observe", &[&host, "cannot connect"])
        .next("check the host and port");
    site.released_nothing();
}

#[test]
fn a_store_that_is_not_there_is_named_and_the_key_is_not_told() {
    let endpoint = format!("http://127.0.0.1:{}/acct", free_port());
    let key = "c2VjcmV0LXRoYXQtbm9ib2R5LW1heS1zZWU=";
    let site = Site::new(&[("file://store", "az://models.acct")]);
    let mut command = site.command("run");
    command
        .env("AZURE_STORAGE_ENDPOINT", &endpoint)
        .env("AZURE_STORAGE_ACCOUNT_KEY", key);
    said(&mut command)
        .refused("observe", &["digits"])
        .keeps(&[key]);
    site.released_nothing();
}
