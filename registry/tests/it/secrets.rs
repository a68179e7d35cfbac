//! Secrets stay where they belong, whatever a registry answers.

use std::error::Error as _;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{FutureExt as _, TryStreamExt as _};
use modelship_registry::{
    AccessToken, Artifact, BoxError, Credentials, Descriptor, Error, MediaType, Repository,
};
use proptest::prelude::*;

use crate::images::{digest, noise, options, source};
use crate::server::{Reply, Server};

/// Planted in credentials, tokens and URLs; it must come out nowhere.
const PLANTED: &str = "hunter2";

/// Everything an error says, to people and to logs.
fn words(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?} {:?}", error.hint());
    let mut cause = error.source();
    while let Some(found) = cause {
        write!(text, " {found} {found:?}").unwrap();
        cause = found.source();
    }
    text
}

fn boxed(error: &BoxError) -> String {
    error
        .downcast_ref::<Error>()
        .map_or_else(|| format!("{error} {error:?}"), words)
}

/// What a hostile or broken registry may answer: a status, and headers and bodies that carry
/// secrets, as signed URLs and tokens do.
fn reply(choice: u8, foreign: &str, own: &str) -> Reply {
    let status = [
        200, 201, 202, 204, 206, 301, 307, 308, 400, 401, 403, 404, 416, 429, 500,
    ];
    let status = status[usize::from(choice) % status.len()];
    let locations = [
        format!("{foreign}/u?sig={PLANTED}"),
        format!("{own}/u?sig={PLANTED}"),
        format!("http://me:{PLANTED}@127.0.0.1/u"),
        format!("http://elsewhere.invalid/{PLANTED}"),
        format!("https://[{PLANTED}/"),
    ];
    let challenges = [
        format!("Bearer realm=\"{own}/token?k={PLANTED}\",service=\"{PLANTED}\""),
        format!("Bearer realm=\"http://me:{PLANTED}@127.0.0.1:1/\""),
        format!("Bearer realm=\"https://127.0.0.1:1/{PLANTED}\""),
        "Basic realm=\"r\"".to_owned(),
        format!("Negotiate {PLANTED}"),
    ];
    let pick = usize::from(choice / 15) % 5;
    let headers = vec![
        ("Location", locations[pick].clone()),
        ("WWW-Authenticate", challenges[pick].clone()),
        ("Link", format!("<{}>; rel=\"next\"", locations[pick])),
    ];
    let bodies = [
        format!("{{\"token\":\"{PLANTED}\",\"expires_in\":0}}"),
        format!("{{\"token\":\"{PLANTED}\\n\"}}"),
        format!("{{\"refresh_token\":{PLANTED}"),
        format!(
            "{{\"errors\":[{{\"code\":\"X\",\"message\":\"see https://s.invalid/b?sig={PLANTED}\"}}]}}"
        ),
        String::new(),
    ];
    Reply::Answer(status, headers, bodies[pick].clone().into_bytes())
}

fn credentials(choice: u8) -> Credentials {
    match choice % 6 {
        0 => Credentials::basic("me", PLANTED),
        1 => Credentials::identity_token(PLANTED),
        2 => Credentials::bearer_token(PLANTED),
        3 => Credentials::github(PLANTED),
        4 => Credentials::ecr(&STANDARD.encode(format!("AWS:{PLANTED}"))).unwrap(),
        _ => {
            let source = |_| async { Ok::<_, BoxError>(AccessToken::new(PLANTED)) }.boxed();
            Credentials::entra_from(std::sync::Arc::new(source), None)
        }
    }
}

/// Does everything a repository can do; returns what was said.
async fn everything(repository: &Repository) -> String {
    let data = noise(3000, 1);
    let blob = source(&data, data.len());
    let known = blob
        .clone()
        .with_digest(digest(&data))
        .with_mount_from("team/base");
    let pinned = repository.pin(digest(b"image"));
    let descriptor = Descriptor::new(MediaType::ImageLayer, 3000, digest(&data));
    let artifact = Artifact::new("a/b").with_subject(pinned.clone());
    let mut said = format!("{artifact:?}");
    let mut note = |result: Option<Error>| {
        if let Some(error) = result {
            said.push_str(&words(&error));
        }
    };
    note(repository.push_blob(&blob, &|_| {}).await.err());
    note(repository.push_blob(&known, &|_| {}).await.err());
    note(repository.has_blob(&digest(b"")).await.err());
    note(repository.resolve("1").await.err());
    note(repository.manifest("1").await.err());
    note(repository.tag(&pinned, "1").await.err());
    note(repository.tags().await.err());
    note(repository.referrers(pinned.digest(), None).await.err());
    note(repository.push_artifact(&artifact, &|_| {}).await.err());
    note(repository.delete_tag("1").await.err());
    note(repository.delete_blob(&digest(b"")).await.err());
    note(repository.copy_from(repository, "1", &|_| {}).await.err());
    let read = repository
        .blob(&descriptor, 0)
        .try_for_each(async |_| Ok(()));
    if let Err(error) = read.await {
        said.push_str(&boxed(&error));
    }
    said
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, max_shrink_iters: 20, ..ProptestConfig::default() })]
    #[test]
    fn no_answer_makes_a_secret_come_out_or_travel(
        choices in proptest::collection::vec(any::<u8>(), 1..12),
        kind in any::<u8>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (said, spread) = runtime.block_on(async {
            let foreign = Server::start(|_, _| Reply::status(200)).await;
            let target = foreign.url("").replace("127.0.0.1", "localhost");
            let server = Server::start(move |seen, before| {
                let own = format!("http://{}", seen.header("host").unwrap());
                reply(choices[before.len() % choices.len()], &target, &own)
            })
            .await;
            let mut options = options();
            options.tries = 2;
            options.retry_after_max = std::time::Duration::ZERO;
            let name = format!("{}/team/app", server.host());
            let repository = Repository::new(&name, credentials(kind), options).unwrap();
            let said = everything(&repository).await;
            // Another host sees the address it was given, and no credentials of ours.
            let spread = foreign.seen().into_iter().find(|seen| {
                seen.header("authorization").is_some()
                    || String::from_utf8_lossy(&seen.body).contains(PLANTED)
            });
            (said, spread)
        });
        prop_assert!(!said.contains(PLANTED), "{said}");
        let encoded = STANDARD.encode(format!("me:{PLANTED}"));
        prop_assert!(!said.contains(&encoded));
        prop_assert!(spread.is_none(), "{spread:?}");
    }
}
