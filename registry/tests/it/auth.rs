//! Tokens: fetched once, renewed in time, asked for in the right form, kept to their host.

use std::sync::atomic::{AtomicUsize, Ordering};

use modelship_registry::{Credentials, ErrorKind};

use crate::images::{Events, digest, noise, repository, seal, source};
use crate::server::{Reply, Seen, Server};

fn challenge(realm: &str) -> Reply {
    let value = format!("Bearer realm=\"{realm}\",service=\"reg\"");
    Reply::Answer(401, vec![("WWW-Authenticate", value)], Vec::new())
}

fn registry(seen: &Seen) -> Reply {
    match seen.method.as_str() {
        "POST" | "PATCH" => Reply::located(202, "/v2/team/app/blobs/uploads/s1"),
        "PUT" => Reply::status(201),
        _ => Reply::status(404),
    }
}

/// A token server whose n-th token is `tN`. Those for deleting, which ending a broken upload
/// takes, are not counted.
async fn tokens(field: &'static str) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |seen, _| {
        let name = if seen.target.ends_with("%3Adelete") {
            "delete".to_owned()
        } else {
            format!("t{}", count.fetch_add(1, Ordering::SeqCst))
        };
        let text = format!("{{\"{field}\":\"{name}\",\"expires_in\":3600}}");
        Reply::Answer(200, Vec::new(), text.into_bytes())
    })
    .await
}

#[tokio::test]
async fn parallel_uploads_share_one_token() {
    let issuer = tokens("token").await;
    let realm = issuer.url("/token");
    let server = Server::start(move |seen, _| match seen.header("authorization") {
        Some("Bearer t0") => registry(seen),
        _ => challenge(&realm),
    })
    .await;
    let repository = repository(&server.host(), Credentials::basic("me", "hunter2"));
    let layers: Vec<_> = (0..4)
        .map(|seed| source(&noise(5000, seed * 2 + 1), 5000))
        .collect();
    repository.push_image(layers, seal, &|_| {}).await.unwrap();
    let asked = issuer.seen();
    assert_eq!(asked.len(), 1);
    assert!(
        asked[0].is(
            "GET",
            "/token?service=reg&scope=repository%3Ateam%2Fapp%3Apull%2Cpush"
        ),
        "{}",
        asked[0].target
    );
    assert!(
        asked[0]
            .header("authorization")
            .unwrap()
            .starts_with("Basic ")
    );
    assert!(server.seen().iter().all(|seen| {
        !seen
            .header("authorization")
            .unwrap_or("")
            .starts_with("Basic")
    }));
}

#[tokio::test]
async fn a_token_refused_in_the_middle_of_a_push_is_renewed() {
    for refused in ["PATCH", "PUT"] {
        let issuer = tokens("access_token").await;
        let realm = issuer.url("/token");
        let server = Server::start(move |seen, before| {
            let late = before.iter().any(|seen| seen.method == refused) || seen.method == refused;
            match seen.header("authorization") {
                Some("Bearer t0") if !late => registry(seen),
                Some("Bearer t1" | "Bearer delete") => registry(seen),
                _ => challenge(&realm),
            }
        })
        .await;
        let data = noise(300_000, 1);
        let repository = repository(&server.host(), Credentials::basic("me", "hunter2"));
        let pushed = repository
            .push_blob(&source(&data, data.len()), &|_| {})
            .await
            .unwrap();
        assert_eq!(pushed.digest(), &digest(&data));
        assert_eq!(issuer.count("GET", "%3Apull%2Cpush"), 2);
        let patches = server.count("PATCH", "");
        assert_eq!(
            patches,
            if refused == "PATCH" { 2 } else { 1 },
            "bytes that arrived are not sent again"
        );
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let issuer = tokens("access_token").await;
    let realm = issuer.url("/oauth2/token");
    let server = Server::start(move |seen, _| match seen.header("authorization") {
        Some("Bearer t0") => Reply::status(200),
        _ => challenge(&realm),
    })
    .await;
    let repository = repository(&server.host(), Credentials::identity_token("r+t"));
    assert!(repository.has_blob(&digest(b"")).await.unwrap());
    let asked = issuer.seen();
    assert_eq!(
        (asked[0].method.as_str(), asked[0].target.as_str()),
        ("POST", "/oauth2/token")
    );
    assert_eq!(asked[0].header("authorization"), None);
    let body = String::from_utf8(asked[0].body.clone()).unwrap();
    for field in [
        "grant_type=refresh_token",
        "service=reg",
        "scope=repository%3Ateam%2Fapp%3Apull",
        "refresh_token=r%2Bt",
    ] {
        assert!(body.split('&').any(|part| part == field), "{body}");
    }
}

#[tokio::test]
async fn refused_credentials_name_host_and_source_and_no_secret() {
    let issuer =
        Server::start(|_, _| Reply::Answer(401, Vec::new(), b"hunter2 is wrong".to_vec())).await;
    let realm = issuer.url("/token");
    let server = Server::start(move |_, _| challenge(&realm)).await;
    let credentials =
        Credentials::basic("me", "hunter2").with_source("docker config /x/config.json");
    let repository_ = repository(&server.host(), credentials);
    let error = repository_.resolve("1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains(&server.host()), "{error}");
    assert!(
        error.to_string().contains("docker config /x/config.json"),
        "{error}"
    );
    assert!(error.hint().is_some());
    assert!(!format!("{error:?} {repository_:?}").contains("hunter2"));

    let repository = repository(&server.host(), Credentials::anonymous());
    let error = repository.resolve("1").await.unwrap_err();
    assert!(error.hint().unwrap().contains("log in"), "{error:?}");
}

#[tokio::test]
async fn an_unsafe_token_endpoint_gets_nothing() {
    let server = Server::start(|_, _| challenge("http://tokens.invalid/token")).await;
    let repository = repository(&server.host(), Credentials::basic("me", "hunter2"));
    let error = repository.resolve("1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
}

#[tokio::test]
async fn a_registry_that_omits_headers_is_served_all_the_same() {
    // Some registries send neither Location nor digest on a manifest; by tag it is read instead.
    let server = Server::start(|seen, _| registry(seen)).await;
    let events = Events::default();
    let repository = repository(&server.host(), Credentials::anonymous());
    let layer = source(&noise(10, 1), 10);
    let pinned = repository
        .push_image(vec![layer], seal, &events.sink())
        .await
        .unwrap();
    assert_eq!(
        server.count("PUT", &format!("manifests/{}", pinned.digest())),
        1
    );
    assert_eq!(
        server.count("PUT", "manifests/"),
        1,
        "no tag comes by itself"
    );
}
