//! Several blobs at once: shared room, one upload for each content, order, and the end of all
//! when one fails.

use bytes::Bytes;
use futures::StreamExt as _;
use modelship_registry::{Blob, Credentials, ErrorKind, Event, Repository};
use modelship_testkit::{DockerRegistry, need};

use crate::images::{Events, digest, noise, options, repository, seal, source};
use crate::server::{Reply, Seen, Server};

fn fine(seen: &Seen) -> Reply {
    match seen.method.as_str() {
        "POST" | "PATCH" => Reply::located(202, "/v2/team/app/blobs/uploads/s1"),
        "PUT" => Reply::status(201),
        "DELETE" => Reply::status(204),
        _ => Reply::status(404),
    }
}

fn known(data: &Bytes) -> Blob {
    source(data, data.len()).with_digest(digest(data))
}

#[tokio::test]
async fn the_same_content_is_sent_once() {
    let server = Server::start(|seen, _| fine(seen)).await;
    let (twice, other) = (noise(100_000, 1), noise(200_000, 2));
    let blobs = vec![
        known(&twice).with_annotation("n", "1"),
        known(&other),
        known(&twice).with_annotation("n", "3"),
    ];
    let repository = repository(&server.host(), Credentials::anonymous());
    let events = Events::default();
    let mut sealed = Vec::new();
    let seal = |layers: &[_]| {
        sealed = layers.to_vec();
        seal(layers)
    };
    repository
        .push_image(blobs, seal, &events.sink())
        .await
        .unwrap();
    assert_eq!(server.count("PUT", digest(&twice).digest()), 1);
    let notes = sealed.iter().map(|layer| {
        let notes = layer.annotations().as_ref();
        notes.and_then(|notes| notes.get("n").cloned())
    });
    let expected = [Some("1".to_owned()), None, Some("3".to_owned())];
    assert_eq!(notes.collect::<Vec<_>>(), expected);
    let third = |event: &Event| matches!(event, Event::Exists { blob: 2, .. });
    assert!(events.all().iter().any(third));
}

#[tokio::test]
async fn the_largest_goes_first_and_descriptors_stay_in_order() {
    let server = Server::start(|seen, _| fine(seen)).await;
    let data: Vec<Bytes> = [10_000, 300_000, 20_000]
        .iter()
        .map(|size| noise(*size, 1))
        .collect();
    let blobs = data.iter().map(|data| source(data, data.len())).collect();
    let mut options = options();
    options.parallel_uploads = 1;
    // Less than any upload holds: each runs alone, and all run.
    options.upload_window = 1;
    let name = format!("{}/team/app", server.host());
    let repository = Repository::new(&name, Credentials::anonymous(), options).unwrap();
    let mut sealed = Vec::new();
    let seal = |layers: &[_]| {
        sealed = layers.to_vec();
        seal(layers)
    };
    repository.push_image(blobs, seal, &|_| {}).await.unwrap();
    let sent: Vec<usize> = server
        .seen()
        .iter()
        .filter(|seen| seen.method == "PATCH")
        .map(|seen| seen.body.len())
        .collect();
    assert_eq!(sent, [300_000, 20_000, 10_000]);
    let digests: Vec<_> = sealed.iter().map(|layer| layer.digest().clone()).collect();
    assert_eq!(
        digests,
        data.iter().map(|data| digest(data)).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn when_one_fails_the_others_end_their_sessions() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    // The endless one moves until it is stopped; the other fails once that is under way.
    let endless = Blob::new("x/y", 1 << 50, |_| {
        let step = async || {
            tokio::task::yield_now().await;
            Ok(Bytes::from_static(&[0; 1000]))
        };
        futures::stream::repeat(()).then(move |()| step()).boxed()
    });
    let (started, wait) = tokio::sync::watch::channel(false);
    let failing = Blob::new("x/y", 1 << 20, move |_| {
        let mut wait = wait.clone();
        let fail = async move {
            let _ = wait.wait_for(|started| *started).await;
            Err("the store is gone".into())
        };
        futures::stream::once(fail).boxed()
    });
    let progress = |event| {
        if let Event::Uploading { blob: 0, done, .. } = event {
            started.send_replace(done > 1 << 20);
        }
    };
    let repository = repository(&registry.host(), Credentials::anonymous());
    let error = repository
        .push_image(vec![endless, failing], seal, &progress)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
    assert_eq!(registry.requests("POST", "").len(), 2);
    assert_eq!(registry.requests("DELETE", "").len(), 2);
    assert!(registry.requests("PUT", "").is_empty());
}

#[tokio::test]
async fn a_change_of_code_sends_code_and_json_only() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let repository = repository(&registry.host(), Credentials::anonymous());
    let layers: Vec<Bytes> = (1..=4).map(|n| noise(200_000, 2 * n + 1)).collect();
    let image = |code: u32| -> Vec<Blob> {
        let code = noise(5_000, code);
        layers.iter().chain([&code]).map(known).collect()
    };
    let push = async |code, events: &Events| {
        let pushed = repository
            .push_image(image(code), seal, &events.sink())
            .await;
        pushed.unwrap()
    };
    push(91, &Events::default()).await;
    let before = registry.requests("", "").len();
    let events = Events::default();
    push(93, &events).await;
    let after = registry.requests("", "").split_off(before);
    let count = |method: &str| after.iter().filter(|seen| seen.method == method).count();
    // The manifest, five layers and the config are looked for; two blobs and the manifest sent.
    let counts = (count("HEAD"), count("POST"), count("PUT"), count("PATCH"));
    assert_eq!(counts, (7, 2, 3, 0), "{after:?}");
    assert!(events.sent() < 7_000, "{}", events.sent());

    let before = registry.requests("", "").len();
    let again = Events::default();
    push(93, &again).await;
    assert_eq!(
        (registry.requests("", "").len() - before, again.sent()),
        (1, 0)
    );
}
