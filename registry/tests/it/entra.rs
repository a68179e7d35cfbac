//! Entra ID tokens, exchanged as Azure Container Registry does it, and refresh tokens that
//! change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt as _;
use modelship_registry::{AccessToken, BoxError, Credentials, ErrorKind, Repository, TokenSource};

use crate::images::{digest, options, repository};
use crate::server::{Reply, Seen, Server};

/// A registry that takes what `good` says, with its token endpoint at `realm`.
async fn registry(realm: String, good: impl Fn(&str) -> bool + Send + Sync + 'static) -> Server {
    Server::start(move |seen, _| match seen.header("authorization") {
        Some(value) if good(value) => Reply::status(200),
        _ => {
            let value = format!("Bearer realm=\"{realm}\",service=\"acr.invalid\"");
            Reply::Answer(401, vec![("WWW-Authenticate", value)], Vec::new())
        }
    })
    .await
}

fn json(text: impl Into<String>) -> Reply {
    Reply::Answer(200, Vec::new(), text.into().into_bytes())
}

/// A source whose n-th token is `entra-N`, and how often it was asked for which scope.
fn source() -> (TokenSource, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let source: TokenSource = Arc::new(move |scope| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            assert_eq!(scope, "https://containerregistry.azure.net/.default");
            Ok::<_, BoxError>(AccessToken::new(format!("entra-{number}")))
        }
        .boxed()
    });
    (source, count)
}

fn form(seen: &Seen) -> Vec<String> {
    let body = String::from_utf8(seen.body.clone()).unwrap();
    body.split('&').map(str::to_owned).collect()
}

fn has(seen: &Seen, fields: &[&str]) -> bool {
    let form = form(seen);
    fields
        .iter()
        .all(|field| form.iter().any(|had| had == field))
}

#[tokio::test]
async fn an_entra_token_is_exchanged_once_for_all_scopes_and_clones() {
    let issuer = Server::start(|seen, before| match seen.target.as_str() {
        "/oauth2/exchange" => json(r#"{"refresh_token":"refresh-0"}"#),
        _ => json(format!(r#"{{"access_token":"t{}"}}"#, before.len())),
    })
    .await;
    let server = registry(issuer.url("/oauth2/token"), |value| {
        value.starts_with("Bearer t")
    })
    .await;
    let (source, asked) = source();
    let credentials = Credentials::entra_from(source, Some("tenant-1"));
    let one = repository(&server.host(), credentials.clone());
    let name = format!("{}/team/other", server.host());
    let two = Repository::new(&name, credentials.clone(), options()).unwrap();
    let three = repository(&server.host(), credentials);
    for repository in [one, two, three] {
        assert!(repository.has_blob(&digest(b"")).await.unwrap());
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let seen = issuer.seen();
    assert!(seen[0].is("POST", "/oauth2/exchange"));
    let fields = [
        "grant_type=access_token",
        "service=acr.invalid",
        "tenant=tenant-1",
        "access_token=entra-0",
    ];
    assert!(has(&seen[0], &fields), "{:?}", form(&seen[0]));
    assert_eq!(seen.len(), 3);
    for token in &seen[1..] {
        assert!(token.is("POST", "/oauth2/token"));
        let fields = [
            "grant_type=refresh_token",
            "service=acr.invalid",
            "refresh_token=refresh-0",
        ];
        assert!(has(token, &fields), "{:?}", form(token));
    }
    assert!(has(&seen[1], &["scope=repository%3Ateam%2Fapp%3Apull"]));
    assert!(has(&seen[2], &["scope=repository%3Ateam%2Fother%3Apull"]));
    assert_eq!(
        server.seen().len(),
        4,
        "the registry was learned of once: one refusal, three answers"
    );
    assert!(server.seen().iter().all(|seen| {
        !format!("{seen:?}").contains("entra-0") && !format!("{seen:?}").contains("refresh-0")
    }));
}

#[tokio::test]
async fn a_refresh_token_that_was_ended_early_is_exchanged_anew() {
    let tokens = AtomicUsize::new(0);
    let issuer = Server::start(move |seen, before| {
        let exchanges = before
            .iter()
            .filter(|seen| seen.target == "/oauth2/exchange")
            .count();
        if seen.target == "/oauth2/exchange" {
            return json(format!(r#"{{"refresh_token":"refresh-{exchanges}"}}"#));
        }
        match tokens.fetch_add(1, Ordering::SeqCst) {
            0 => json(r#"{"access_token":"t0","expires_in":300}"#),
            1 => Reply::status(401),
            _ => json(r#"{"access_token":"t1","expires_in":300}"#),
        }
    })
    .await;
    let first = AtomicUsize::new(0);
    let server = registry(issuer.url("/oauth2/token"), move |value| {
        // The first token is refused when it is used for the second time.
        value == "Bearer t1" || first.fetch_add(1, Ordering::SeqCst) == 0
    })
    .await;
    let (source, asked) = source();
    let repository = repository(&server.host(), Credentials::entra_from(source, None));
    assert!(repository.has_blob(&digest(b"")).await.unwrap());
    assert!(repository.has_blob(&digest(b"")).await.unwrap());
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    let last = issuer.seen().pop().unwrap();
    assert!(
        has(&last, &["refresh_token=refresh-1"]),
        "{:?}",
        form(&last)
    );
}

#[tokio::test]
async fn an_entra_token_is_for_the_registrys_own_host() {
    let issuer = Server::start(|_, _| json(r#"{"refresh_token":"r"}"#)).await;
    let elsewhere = issuer
        .url("/oauth2/token")
        .replace("127.0.0.1", "localhost");
    let server = registry(elsewhere, |_| false).await;
    let (source, asked) = source();
    let repository = repository(&server.host(), Credentials::entra_from(source, None));
    let error = repository.resolve("1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    assert!(issuer.seen().is_empty());
}

#[tokio::test]
async fn a_source_that_fails_is_named_with_its_cause() {
    let issuer = Server::start(|_, _| Reply::status(500)).await;
    let server = registry(issuer.url("/oauth2/token"), |_| false).await;
    let source: TokenSource =
        Arc::new(|_| async { Err::<AccessToken, BoxError>("no managed identity".into()) }.boxed());
    let repository = repository(&server.host(), Credentials::entra_from(source, None));
    let error = repository.resolve("1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "no managed identity");
    assert!(error.hint().is_some());
    assert!(issuer.seen().is_empty());
}

#[tokio::test]
async fn a_refresh_token_that_the_registry_replaces_is_replaced() {
    let issuer = Server::start(|_, before| {
        let number = before.len();
        json(format!(
            r#"{{"access_token":"t{number}","refresh_token":"next-{number}","expires_in":300}}"#
        ))
    })
    .await;
    let server = registry(issuer.url("/token"), |value| value.starts_with("Bearer t")).await;
    let credentials = Credentials::identity_token("first");
    let repository = repository(&server.host(), credentials.clone());
    repository.has_blob(&digest(b"")).await.unwrap();
    // Another scope takes another token; so does another repository with the same credentials.
    let _ = repository.delete_blob(&digest(b"")).await;
    let name = format!("{}/team/other", server.host());
    let other = Repository::new(&name, credentials, options()).unwrap();
    other.has_blob(&digest(b"")).await.unwrap();
    let used: Vec<String> = issuer
        .seen()
        .iter()
        .flat_map(form)
        .filter(|field| field.starts_with("refresh_token="))
        .collect();
    assert_eq!(
        used,
        [
            "refresh_token=first",
            "refresh_token=next-0",
            "refresh_token=next-1"
        ]
    );
}

#[tokio::test]
async fn a_redirected_token_endpoint_does_not_spread_the_refresh_token() {
    for status in [301, 302, 303, 307, 308] {
        let elsewhere = Server::start(|_, _| json(r#"{"access_token":"t0"}"#)).await;
        let target = elsewhere.url("/collect");
        let issuer = Server::start(move |_, _| Reply::located(status, target.clone())).await;
        let server = registry(issuer.url("/token"), |_| false).await;
        let repository = repository(&server.host(), Credentials::identity_token("hunter2"));
        assert!(repository.resolve("1").await.is_err());
        assert!(
            elsewhere
                .seen()
                .iter()
                .all(|seen| !format!("{:?}", form(seen)).contains("hunter2")),
            "{status}"
        );
    }
}
