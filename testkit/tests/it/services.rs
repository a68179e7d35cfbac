//! The storage services and the registry.

use modelship_testkit::{Azurite, DockerRegistry, Moto, Versitygw, need};

use crate::assert_leaves_nothing;

fn client(ca_pem: Option<&str>) -> reqwest::Client {
    let roots = ca_pem.map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap());
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only(roots)
        .build()
        .unwrap()
}

#[tokio::test]
async fn azurite_makes_containers_and_refuses_strangers() {
    let Some(azurite) = need(Azurite::start().await) else {
        return;
    };
    azurite.create_container("models").await.unwrap();
    let twice = azurite.create_container("models").await.unwrap_err();
    assert!(twice.reason.contains("409"), "{twice}");
    let url = format!(
        "{}/models?restype=container&comp=list",
        azurite.blob_endpoint()
    );
    assert_eq!(client(None).get(url).send().await.unwrap().status(), 403);
    assert_leaves_nothing(azurite, Azurite::process);
}

#[tokio::test]
async fn versitygw_makes_buckets_and_refuses_strangers() {
    let Some(s3) = need(Versitygw::start().await) else {
        return;
    };
    s3.create_bucket("models").await.unwrap();
    s3.create_versioned_bucket("kept").await.unwrap();
    assert!(s3.data_dir().join("models").is_dir());
    let url = format!("{}/models", s3.endpoint());
    assert_eq!(client(None).get(url).send().await.unwrap().status(), 403);
    assert_leaves_nothing(s3, Versitygw::process);
}

#[tokio::test]
async fn moto_keeps_odd_keys_as_they_are() {
    let Some(s3) = need(Moto::start().await) else {
        return;
    };
    s3.create_bucket("models").await.unwrap();
    for key in ["a//b", "a/../b", "ä b%2F+", "folder/"] {
        s3.put_object("models", key, b"1").await.unwrap();
    }
    let list = format!("{}/models?list-type=2", s3.endpoint());
    let answer = client(None).get(list).send().await.unwrap();
    let listed = answer.text().await.unwrap();
    for key in ["a//b", "a/../b", "ä b%2F+", "folder/"] {
        assert!(listed.contains(&format!("<Key>{key}</Key>")), "{listed}");
    }
    assert_leaves_nothing(s3, Moto::process);
}

#[tokio::test]
async fn an_open_registry_answers_and_logs() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let upload = format!("{}/v2/a/b/blobs/uploads/", registry.url());
    let answer = client(None).post(upload).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let seen = registry.requests("POST", "/blobs/uploads/");
    assert_eq!(seen.len(), 1, "{}", registry.log());
    assert_eq!(
        (seen[0].path.as_str(), seen[0].status),
        ("/v2/a/b/blobs/uploads/", 202)
    );
    assert!(
        registry
            .storage_dir()
            .join("docker/registry/v2/repositories/a/b")
            .is_dir()
    );
    assert_leaves_nothing(registry, DockerRegistry::process);
}

#[tokio::test]
async fn a_secured_registry_wants_its_password_and_shows_its_certificate() {
    let Some(registry) = need(DockerRegistry::tls_htpasswd().await) else {
        return;
    };
    let (user, password) = (registry.username().unwrap(), registry.password());
    let client = client(registry.ca_pem());
    for host in [
        registry.host(),
        registry.host().replace("127.0.0.1", "localhost"),
    ] {
        let url = format!("https://{host}/v2/");
        assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
        let known = client
            .get(&url)
            .basic_auth(user, password)
            .send()
            .await
            .unwrap();
        assert_eq!(known.status(), 200);
    }
    assert!(!format!("{registry:?}").contains(password.unwrap()));
    assert_leaves_nothing(registry, DockerRegistry::process);
}
