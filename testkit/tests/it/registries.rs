//! The editions of the registry, its tokens, and the registry with referrers.

use modelship_testkit::token_issuer::{Credentials, Options, Reads};
use modelship_testkit::{
    DockerRegistry, Edition, FaultProxy, ReferrersRegistry, Security, TokenIssuer,
    fault_proxy::{Fault, Kind, Plan, What},
    need,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::assert_leaves_nothing;

fn client() -> reqwest::Client {
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    client.build().unwrap()
}

async fn post(url: &str, form: &[(&str, &str)]) -> (u16, Value) {
    let answer = client().post(url).form(form).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn get(url: &str, basic: Option<(&str, &str)>) -> (u16, Value) {
    let mut request = client().get(url);
    if let Some((user, password)) = basic {
        request = request.basic_auth(user, Some(password));
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn open(registry: &str, token: &str) -> u16 {
    let url = format!("{registry}/v2/a/blobs/uploads/");
    let request = client().post(url).bearer_auth(token);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn both_editions_serve_and_log() {
    for edition in [Edition::Debian, Edition::Distribution3] {
        let Some(registry) = need(DockerRegistry::start(edition, Security::Open).await) else {
            return;
        };
        assert_eq!(open(&registry.url(), "any").await, 202);
        let seen = registry.requests("POST", "/v2/a/");
        assert_eq!(seen.len(), 1, "{edition:?}: {}", registry.log());
        assert!(!registry.process().log_tail().contains("level=error"));
        let uploads = "docker/registry/v2/repositories/a/_uploads";
        assert!(registry.storage_dir().join(uploads).is_dir());
        assert_leaves_nothing(registry, DockerRegistry::process);
    }
}

#[tokio::test]
async fn the_current_edition_is_secured_too() {
    let registry = DockerRegistry::start(Edition::Distribution3, Security::TlsHtpasswd);
    let Some(registry) = need(registry.await) else {
        return;
    };
    let root = reqwest::Certificate::from_pem(registry.ca_pem().unwrap().as_bytes());
    let client = reqwest::Client::builder().no_proxy();
    let client = client.tls_certs_only([root.unwrap()]).build().unwrap();
    let url = format!("{}/v2/", registry.url());
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
    let known = client
        .get(&url)
        .basic_auth(registry.username().unwrap(), registry.password());
    assert_eq!(known.send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn registries_take_the_issuers_tokens_and_no_others() {
    let issuer = need(TokenIssuer::start(Options::default()).await).unwrap();
    let stranger = need(TokenIssuer::start(Options::default()).await).unwrap();
    let known = Some(("tester", "secret"));
    let query = "service=testkit-registry&scope=repository:a:pull,push";
    let push = format!("{}?{query}", issuer.realm());
    let (status, body) = get(&push, known).await;
    assert_eq!((status, body["expires_in"].as_u64()), (200, Some(300)));
    assert_eq!(body["token"], body["access_token"]);
    let (_, pull) = get(&push.replace(",push", ""), known).await;
    let (_, strange) = get(&format!("{}?{query}", stranger.realm()), known).await;
    for edition in [Edition::Debian, Edition::Distribution3] {
        let registry = DockerRegistry::start(edition, Security::Token(&issuer)).await;
        let Some(registry) = need(registry) else {
            return;
        };
        let answer = client().get(format!("{}/v2/", registry.url())).send();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 401);
        let challenge = answer.headers()["www-authenticate"].to_str().unwrap();
        assert!(challenge.contains(&issuer.realm()), "{challenge}");
        for (token, status) in [(&body, 202), (&pull, 401), (&strange, 401)] {
            let token = token["token"].as_str().unwrap();
            assert_eq!(open(&registry.url(), token).await, status, "{edition:?}");
        }
    }
}

#[tokio::test]
async fn tokens_end_when_they_say() {
    let options = Options {
        life_seconds: 3,
        ..Options::default()
    };
    let issuer = need(TokenIssuer::start(options).await).unwrap();
    let url = format!("{}?scope=repository:a:pull,push", issuer.realm());
    for edition in [Edition::Debian, Edition::Distribution3] {
        let registry = DockerRegistry::start(edition, Security::Token(&issuer)).await;
        let Some(registry) = need(registry) else {
            return;
        };
        let (_, body) = get(&url, Some(("tester", "secret"))).await;
        let token = body["token"].as_str().unwrap();
        assert_eq!(open(&registry.url(), token).await, 202, "{edition:?}");
        let mut status = 202;
        for _ in 0..500 {
            status = open(&registry.url(), token).await;
            if status == 401 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!(
            status, 401,
            "{edition:?}: a token of three seconds never ends"
        );
    }
}

#[tokio::test]
async fn the_issuer_knows_every_grant_and_records_it() {
    let options = Options {
        fail_first: 1,
        reads: Reads::Last,
        grant: |scope, user| match (scope.name.as_str(), user) {
            ("secret", _) => Vec::new(),
            (_, Some(_)) => scope.actions.clone(),
            (_, None) => vec!["pull".to_owned()],
        },
        anonymous: true,
        ..Options::default()
    };
    let issuer = need(TokenIssuer::start(options).await).unwrap();
    let realm = issuer.realm();
    assert_eq!(get(&realm, None).await.0, 503);
    assert_eq!(get(&realm, None).await.0, 200);
    assert_eq!(get(&realm, Some(("tester", "wrong"))).await.0, 401);
    let scopes = ("scope", "repository:a:pull repository:b:pull,push");
    let password = [
        ("grant_type", "password"),
        ("username", "tester"),
        ("password", "secret"),
    ];
    let form = [&password[..], &[scopes, ("access_type", "offline")]].concat();
    let (status, body) = post(&realm, &form).await;
    assert_eq!(
        (status, &body["scope"]),
        (200, &json!("repository:b:pull,push"))
    );
    assert_eq!(body["refresh_token"], issuer.refresh_token());
    let refresh = [
        ("grant_type", "refresh_token"),
        ("refresh_token", issuer.refresh_token()),
    ];
    let form = [&refresh[..], &[("scope", "repository:secret:pull")]].concat();
    let (status, body) = post(&realm, &form).await;
    assert_eq!((status, &body["scope"]), (200, &json!("")));
    let seen = issuer.requests();
    let credentials: Vec<_> = seen
        .iter()
        .map(|one| (one.credentials, one.status))
        .collect();
    assert_eq!(
        credentials,
        [
            (Credentials::None, 503),
            (Credentials::None, 200),
            (Credentials::Basic, 401),
            (Credentials::Password, 200),
            (Credentials::RefreshToken, 200),
        ]
    );
    assert_eq!(
        seen[3].scopes,
        ["repository:a:pull", "repository:b:pull,push"]
    );
}

#[tokio::test]
async fn an_entra_token_is_exchanged_as_azure_does() {
    let issuer = need(TokenIssuer::start(Options::default()).await).unwrap();
    let exchange = format!("{}/oauth2/exchange", issuer.url());
    let form = |token| {
        [
            ("grant_type", "access_token"),
            ("service", "testkit-registry"),
            ("tenant", "t"),
            ("access_token", token),
        ]
    };
    assert_eq!(post(&exchange, &form("wrong")).await.0, 401);
    let (status, body) = post(&exchange, &form(issuer.entra_token())).await;
    assert_eq!(status, 200);
    let refresh = body["refresh_token"].as_str().unwrap();
    let token = format!("{}/oauth2/token", issuer.url());
    let form = [
        ("grant_type", "refresh_token"),
        ("service", "testkit-registry"),
        ("scope", "repository:a:pull,push"),
        ("scope", "repository:b:pull"),
        ("refresh_token", refresh),
    ];
    let (status, body) = post(&token, &form).await;
    assert_eq!((status, body.get("token")), (200, None));
    let registry = DockerRegistry::start(Edition::Debian, Security::Token(&issuer)).await;
    let Some(registry) = need(registry) else {
        return;
    };
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(open(&registry.url(), token).await, 202);
    assert_eq!(issuer.requests()[2].scopes.len(), 2);
}

#[tokio::test]
async fn the_proxy_refuses_with_the_registrys_own_challenge() {
    let issuer = need(TokenIssuer::start(Options::default()).await).unwrap();
    let registry = DockerRegistry::start(Edition::Debian, Security::Token(&issuer)).await;
    let Some(registry) = need(registry) else {
        return;
    };
    let plan = Plan::of([Fault::new(Kind::OpenSession, What::Unauthorized)])
        .with(Fault::new(Kind::OpenSession, What::ForeignLocation).nth(2));
    let proxy = need(FaultProxy::start(&registry.url(), plan).await).unwrap();
    let (_, body) = get(
        &format!("{}?scope=repository:a:pull,push", issuer.realm()),
        Some(("tester", "secret")),
    )
    .await;
    let token = body["token"].as_str().unwrap();
    let url = format!("{}/v2/a/blobs/uploads/", proxy.url());
    let open = || client().post(&url).bearer_auth(token).send();
    let refused = open().await.unwrap();
    assert_eq!(refused.status(), 401);
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.contains("scope=\"repository:a:pull,push\""),
        "{challenge}"
    );
    // The other host wants no token, as storage with signed URLs does not.
    let place = open().await.unwrap().headers()["location"].clone();
    let place = place.to_str().unwrap();
    assert!(place.contains(&proxy.foreign_host()), "{place}");
    let answer = client().patch(place).body("blob").send().await.unwrap();
    assert_eq!(answer.status(), 202);
    let seen = proxy.exchanges_of(Kind::Patch);
    assert_eq!((seen[0].host, seen[0].header("authorization")), (1, None));
}

#[tokio::test]
async fn the_registry_with_referrers_lists_them() {
    let Some(registry) = need(ReferrersRegistry::start().await) else {
        return;
    };
    let base = format!("{}/v2/a", registry.url());
    let digest = |body: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(body)));
    let config = digest(b"{}");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let url = format!("{base}/blobs/uploads/?digest={config}");
    let answer = client().post(url).body("{}").send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let described =
        json!({ "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 });
    let mut manifest =
        json!({ "schemaVersion": 2, "mediaType": kind, "config": described, "layers": [] });
    let mut subject = String::new();
    for round in 0..2 {
        let body = manifest.to_string();
        let own = digest(body.as_bytes());
        let request = client()
            .put(format!("{base}/manifests/{own}"))
            .body(body.clone());
        let answer = request.header("Content-Type", kind).send().await.unwrap();
        assert_eq!(answer.status(), 201, "{round}");
        if round == 0 {
            manifest["subject"] = json!({ "mediaType": kind, "digest": own, "size": body.len() });
            manifest["artifactType"] = json!("application/x-test");
            subject = own;
        }
    }
    let (status, index) = get(&format!("{base}/referrers/{subject}"), None).await;
    assert_eq!(status, 200);
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1);
    assert_leaves_nothing(registry, ReferrersRegistry::process);
}
