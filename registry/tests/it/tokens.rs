//! Tokens on real registries with an issuer of their own: one per scope, renewed in time, enough
//! for a mount, exchanged as Azure does it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use modelship_registry::{
    AccessToken, Blob, BoxError, ByteStream, Credentials, ErrorKind, Event, Repository, TokenSource,
};
use modelship_testkit::token_issuer::{self, Options, Reads};
use modelship_testkit::{DockerRegistry, Edition, Security, TokenIssuer, need};

use crate::images::{Events, LAYER, digest, noise, options, repository, seal, source};

const EDITIONS: [Edition; 2] = [Edition::Debian, Edition::Distribution3];

async fn issuer(options: Options) -> TokenIssuer {
    TokenIssuer::start(options).await.unwrap()
}

async fn registry(edition: Edition, issuer: &TokenIssuer) -> Option<DockerRegistry> {
    need(DockerRegistry::start(edition, Security::Token(issuer)).await)
}

fn known() -> Credentials {
    Credentials::basic("tester", "secret")
}

/// The scopes asked for, sorted.
fn asked(issuer: &TokenIssuer) -> Vec<String> {
    let mut scopes: Vec<String> = issuer
        .requests()
        .iter()
        .map(|request| request.scopes.join(" "))
        .collect();
    scopes.sort();
    scopes
}

#[tokio::test]
async fn sixteen_layers_at_once_take_one_token() {
    for edition in EDITIONS {
        // The first answers of the issuer are failures, which all wait out together.
        let issuer = issuer(Options {
            fail_first: 2,
            ..Options::default()
        })
        .await;
        let Some(registry) = registry(edition, &issuer).await else {
            return;
        };
        let mut options = options();
        options.parallel_uploads = 16;
        let name = format!("{}/team/app", registry.host());
        let repository = Repository::new(&name, known(), options).unwrap();
        let layers = (0..16)
            .map(|seed| source(&noise(50_000, 2 * seed + 1), 50_000))
            .collect();
        let pinned = repository.push_image(layers, seal, &|_| {}).await.unwrap();
        repository.tag(&pinned, "1").await.unwrap();
        assert_eq!(
            repository.resolve("1").await.unwrap().as_ref(),
            Some(&pinned)
        );
        let requests = issuer.requests();
        let failed = requests.iter().filter(|request| request.status == 503);
        assert_eq!(failed.count(), 2);
        let mut scopes = asked(&issuer);
        scopes.dedup();
        assert_eq!(
            scopes,
            ["repository:team/app:pull", "repository:team/app:pull,push"]
        );
        assert_eq!(requests.len(), 2 + scopes.len(), "{requests:?}");
    }
}

/// A blob whose second half comes when tokens that were good for its first are not any more.
fn patient(data: Bytes, registry: String, realm: String) -> Blob {
    let size = data.len() as u64;
    Blob::new(LAYER, size, move |from| -> ByteStream {
        let from = usize::try_from(from).unwrap();
        let half = data.len() / 2;
        if from >= half {
            return stream::iter([Ok(data.slice(from..))]).boxed();
        }
        let (first, second) = (data.slice(from..half), data.slice(half..));
        let (registry, realm) = (registry.clone(), realm.clone());
        let rest = async move {
            expire(&registry, &realm).await;
            Ok(second)
        };
        stream::iter([Ok(first)]).chain(stream::once(rest)).boxed()
    })
}

/// Waits until a token issued now is refused.
async fn expire(registry: &str, realm: &str) {
    let client = reqwest::Client::new();
    let url = format!("{realm}?service=testkit-registry&scope=repository:probe:pull,push");
    let answer = client.get(url).basic_auth("tester", Some("secret"));
    let text = answer.send().await.unwrap().text().await.unwrap();
    let token: serde_json::Value = serde_json::from_str(&text).unwrap();
    let token = token["token"].as_str().unwrap();
    for _ in 0..1500 {
        let probe = client.get(format!("{registry}/v2/probe/tags/list"));
        let status = probe.bearer_auth(token).send().await.unwrap().status();
        if status.as_u16() == 401 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!("the token never expired");
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_of_an_upload_costs_no_byte() {
    for edition in EDITIONS {
        let issuer = issuer(Options {
            life_seconds: 3,
            ..Options::default()
        })
        .await;
        let Some(registry) = registry(edition, &issuer).await else {
            return;
        };
        let repository = repository(&registry.host(), known());
        let data = noise(400_000, 3);
        let events = Events::default();
        let blob = patient(data.clone(), registry.url(), issuer.realm());
        let pushed = repository.push_blob(&blob, &events.sink()).await.unwrap();
        assert_eq!(pushed.digest(), &digest(&data));
        assert_eq!(events.sent(), data.len() as u64, "no byte is sent twice");
        assert_eq!(events.retries(), 0, "it is renewed before it is refused");
        let own = asked(&issuer);
        let own = own
            .iter()
            .filter(|scope| *scope == "repository:team/app:pull,push");
        assert!(own.count() >= 2);
    }
}

#[tokio::test]
async fn a_mount_uses_both_scopes_where_the_issuer_reads_them() {
    for edition in EDITIONS {
        for reads in [Reads::All, Reads::First, Reads::Last] {
            let issuer = issuer(Options {
                reads,
                ..Options::default()
            })
            .await;
            let Some(registry) = registry(edition, &issuer).await else {
                return;
            };
            let credentials = known();
            let name = format!("{}/team/base", registry.host());
            let base = Repository::new(&name, credentials.clone(), options()).unwrap();
            let data = noise(10_000, 5);
            base.push_blob(&source(&data, data.len()), &|_| {})
                .await
                .unwrap();
            let app = repository(&registry.host(), credentials);
            let blob = source(&data, data.len())
                .with_digest(digest(&data))
                .with_mount_from("team/base");
            let events = Events::default();
            app.push_blob(&blob, &events.sink()).await.unwrap();
            let mounted = events
                .all()
                .iter()
                .any(|event| matches!(event, Event::Mounted { .. }));
            assert_eq!(mounted, reads == Reads::All, "{edition:?} {reads:?}");
            assert!(app.has_blob(&digest(&data)).await.unwrap());
            let both = "repository:team/app:pull,push repository:team/base:pull".to_owned();
            assert!(asked(&issuer).contains(&both));
        }
    }
}

#[tokio::test]
async fn a_copy_within_a_registry_needs_no_bytes_with_tokens_either() {
    let issuer = issuer(Options::default()).await;
    let Some(registry) = registry(Edition::Debian, &issuer).await else {
        return;
    };
    let credentials = known();
    let name = format!("{}/team/base", registry.host());
    let base = Repository::new(&name, credentials.clone(), options()).unwrap();
    let layer = noise(10_000, 7);
    let pinned = base
        .push_image(vec![source(&layer, layer.len())], seal, &|_| {})
        .await
        .unwrap();
    let app = repository(&registry.host(), credentials);
    let events = Events::default();
    let copied = app
        .copy_from(&base, pinned.digest().as_ref(), &events.sink())
        .await
        .unwrap();
    assert_eq!(copied.digest(), pinned.digest());
    assert_eq!(events.sent(), 0);
    let mut scopes = asked(&issuer);
    let count = scopes.len();
    scopes.dedup();
    assert_eq!(
        scopes.len(),
        count,
        "no scope is asked for twice: {scopes:?}"
    );
}

fn entra(token: String) -> TokenSource {
    Arc::new(move |_| {
        let token = token.clone();
        async { Ok::<_, BoxError>(AccessToken::new(token)) }.boxed()
    })
}

#[tokio::test]
async fn an_entra_identity_pushes_and_pulls() {
    for edition in EDITIONS {
        let issuer = issuer(Options::default()).await;
        let Some(registry) = registry(edition, &issuer).await else {
            return;
        };
        let source_ = entra(issuer.entra_token().to_owned());
        let credentials = Credentials::entra_from(source_, Some("tenant"));
        let repository_ = repository(&registry.host(), credentials);
        let layer = noise(10_000, 9);
        let pinned = repository_
            .push_image(vec![source(&layer, layer.len())], seal, &|_| {})
            .await
            .unwrap();
        repository_.tag(&pinned, "1").await.unwrap();
        assert_eq!(repository_.tags().await.unwrap(), ["1"]);
        repository_.delete_manifest(pinned.digest()).await.unwrap();
        let requests = issuer.requests();
        let kinds = |wanted| {
            requests
                .iter()
                .filter(|request| request.credentials == wanted && request.status == 200)
                .count()
        };
        assert_eq!(kinds(token_issuer::Credentials::AccessToken), 1);
        assert_eq!(kinds(token_issuer::Credentials::RefreshToken), 3);
        assert_eq!(requests.len(), 4, "{requests:?}");

        let wrong = Credentials::entra_from(entra("hunter2".to_owned()), None);
        let error = repository(&registry.host(), wrong)
            .resolve("1")
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:?}");
        assert_eq!(error.stage(), "exchange Entra ID token");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn a_stored_identity_token_and_those_without_any() {
    let issuer = issuer(Options {
        anonymous: true,
        grant: |scope, user| match user {
            Some(_) => scope.actions.clone(),
            None => vec!["pull".to_owned()],
        },
        ..Options::default()
    })
    .await;
    let Some(registry) = registry(Edition::Debian, &issuer).await else {
        return;
    };
    let stored = Credentials::identity_token(issuer.refresh_token());
    let data = noise(1000, 1);
    let blob = source(&data, data.len());
    repository(&registry.host(), stored)
        .push_blob(&blob, &|_| {})
        .await
        .unwrap();
    let anyone = repository(&registry.host(), Credentials::anonymous());
    assert!(anyone.has_blob(&digest(&data)).await.unwrap());
    // To be granted less than asked is a refusal, not a success.
    let error = anyone.push_blob(&blob, &|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:?}");
    assert!(error.hint().unwrap().contains("log in"), "{error:?}");
    let wrong = repository(&registry.host(), Credentials::basic("tester", "hunter2"));
    let error = wrong.push_blob(&blob, &|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn an_account_that_may_only_read_is_told_so() {
    for edition in EDITIONS {
        let issuer = issuer(Options {
            grant: |scope, _| {
                let may = |action: &&String| *action == "pull";
                scope.actions.iter().filter(may).cloned().collect()
            },
            ..Options::default()
        })
        .await;
        let Some(registry) = registry(edition, &issuer).await else {
            return;
        };
        let repository = repository(&registry.host(), known());
        assert_eq!(repository.resolve("1").await.unwrap(), None);
        let data = noise(1000, 1);
        let error = repository
            .push_blob(&source(&data, data.len()), &|_| {})
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error:?}");
        assert!(error.hint().unwrap().contains("pull and push"));
        let error = repository.delete_blob(&digest(&data)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden, "{error:?}");
        assert!(error.hint().unwrap().contains("delete"));
    }
}

#[tokio::test]
async fn more_than_a_thousand_tags_are_listed() {
    let Some(registry) = need(DockerRegistry::start(Edition::Distribution3, Security::Open).await)
    else {
        return;
    };
    let repository = repository(&registry.host(), Credentials::anonymous());
    let pinned = crate::referrers::image(&repository).await;
    repository.tag(&pinned, "t0000").await.unwrap();
    // The others are made in its storage, which is what a tag is there.
    let tags = registry
        .storage_dir()
        .join("docker/registry/v2/repositories/team/app/_manifests/tags");
    for number in 1..2100 {
        let current = tags.join(format!("t{number:04}/current"));
        std::fs::create_dir_all(&current).unwrap();
        std::fs::write(current.join("link"), pinned.digest().to_string()).unwrap();
    }
    let found = repository.tags().await.unwrap();
    let expected: Vec<String> = (0..2100).map(|number| format!("t{number:04}")).collect();
    assert_eq!(found, expected);
    assert_eq!(registry.requests("GET", "/tags/list").len(), 3);
}
