//! What users of `oci-client` 0.18 meet, and users of this crate do not.
//!
//! | there | here |
//! |---|---|
//! | 4 MiB chunks, one request each; one request per piece of the source | `faults::one_pass_takes_three_requests` |
//! | a ping before every request | [`an_open_registry_is_not_pinged`] |
//! | no retry, no resume, no cancel | `faults` |
//! | 16 uploads fetch 16 tokens | `auth::sixteen_that_wait_share_one_token_request` |
//! | a 401 in the middle of a push ends it | `auth::a_token_refused_in_the_middle_of_a_push_is_renewed` |
//! | wrong credentials become none | `auth::refused_credentials_name_host_and_source_and_no_secret` |
//! | a mount asks for the target's scope only | `auth::a_mount_asks_for_both_scopes_and_goes_on_without` |
//! | a mount answered by a session is an error | [`the_session_of_a_mount_that_was_not_done_is_used`] |
//! | a missing Location panics | `auth::a_registry_that_omits_headers_is_served_all_the_same` |
//! | a relative Location panics | [`a_relative_location_is_followed`] |
//! | layers are sent again on every push | `real::a_second_push_sends_no_byte` |
//! | a stream cannot fall back | `faults::a_registry_that_limits_requests_gets_chunks` |
//! | an empty blob is refused | `real::an_empty_blob_is_a_blob` |
//! | no refresh token grant; expiry ignored | `auth::an_identity_token_is_exchanged_by_post`, [`an_opaque_token_is_kept_as_long_as_it_lives`] |
//! | referrers: one page, refusals read as none | `referrers` |
//! | the image of the machine that builds | [`the_platform_is_the_one_asked_for`] |
//! | an index without a type is pushed as docker's | [`an_index_keeps_its_bytes`] |
//! | typed configs lose fields | `copies::an_index_arrives_whole_and_a_second_copy_moves_nothing` |

use modelship_registry::{Credentials, Event, Platform, Repository};
use modelship_testkit::{DockerRegistry, need};
use oci_client::secrets::RegistryAuth;
use serde_json::json;

use crate::images::{Events, digest, noise, options, repository, source};
use crate::referrers::image;
use crate::server::{Reply, Seen, Server};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn registry(seen: &Seen) -> Reply {
    match seen.method.as_str() {
        "POST" | "PATCH" => Reply::located(202, "/v2/team/app/blobs/uploads/s1"),
        "PUT" => Reply::status(201),
        _ => Reply::status(404),
    }
}

#[tokio::test]
async fn an_open_registry_is_not_pinged() {
    let server = Server::start(|seen, _| registry(seen)).await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let data = noise(1 << 20, 1);
    for _ in 0..4 {
        repository
            .push_blob(&source(&data, data.len()), &|_| {})
            .await
            .unwrap();
    }
    assert_eq!(server.seen().len(), 4 * 3);
    assert!(server.seen().iter().all(|seen| seen.target != "/v2/"));
}

#[tokio::test]
async fn the_session_of_a_mount_that_was_not_done_is_used() {
    let server = Server::start(|seen, _| {
        if seen.target.contains("mount=") {
            Reply::located(202, "/v2/team/app/blobs/uploads/of-the-mount?x=1")
        } else {
            registry(seen)
        }
    })
    .await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let data = noise(1000, 1);
    let blob = source(&data, data.len())
        .with_digest(digest(&data))
        .with_mount_from("team/base");
    let events = Events::default();
    repository.push_blob(&blob, &events.sink()).await.unwrap();
    assert_eq!(server.count("POST", ""), 1, "no second session");
    assert_eq!(server.count("PUT", "/of-the-mount?x=1&digest="), 1);
    assert!(
        events
            .all()
            .iter()
            .any(|event| matches!(event, Event::Uploaded { .. }))
    );
}

#[tokio::test]
async fn a_relative_location_is_followed() {
    for (location, expected) in [
        (
            "s1?_state=a%2Fb",
            "/v2/team/app/blobs/uploads/s1?_state=a%2Fb",
        ),
        ("../uploads/s2", "/v2/team/app/blobs/uploads/s2"),
        ("?upload=s3", "/v2/team/app/blobs/uploads/?upload=s3"),
    ] {
        let server = Server::start(move |seen, _| match seen.method.as_str() {
            "POST" => Reply::located(202, location),
            "PATCH" => Reply::status(202),
            _ => registry(seen),
        })
        .await;
        let repository = repository(&server.host(), Credentials::anonymous());
        let data = noise(1000, 1);
        repository
            .push_blob(&source(&data, data.len()), &|_| {})
            .await
            .unwrap();
        assert_eq!(server.count("PATCH", expected), 1, "{location}");
        assert_eq!(server.count("PUT", expected), 1, "{location}");
    }
}

#[tokio::test]
async fn an_opaque_token_is_kept_as_long_as_it_lives() {
    let issuer = Server::start(|_, _| {
        let text = r#"{"token":"opaque","expires_in":86400}"#;
        Reply::Answer(200, Vec::new(), text.into())
    })
    .await;
    let realm = issuer.url("/token");
    let server = Server::start(move |seen, _| {
        if seen.header("authorization") == Some("Bearer opaque") {
            return Reply::status(200);
        }
        let value = format!("Bearer realm=\"{realm}\"");
        Reply::Answer(401, vec![("WWW-Authenticate", value)], Vec::new())
    })
    .await;
    let repository = repository(&server.host(), Credentials::basic("me", "hunter2"));
    for _ in 0..5 {
        repository.has_blob(&digest(b"")).await.unwrap();
    }
    assert_eq!(issuer.seen().len(), 1);
    assert_eq!(server.seen().len(), 6, "one refusal, then none");
}

#[tokio::test]
async fn the_platform_is_the_one_asked_for() {
    let body = |name: &str| json!({"mediaType": MANIFEST, "of": name}).to_string();
    let entry = move |name: &str, variant: &str| {
        let bytes = body(name);
        json!({
            "mediaType": MANIFEST, "digest": digest(bytes.as_bytes()).to_string(), "size": bytes.len(),
            "platform": {"os": "linux", "architecture": "arm", "variant": variant},
        })
    };
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry("five", "v5"), entry("seven", "v7")]});
    let server = Server::start(move |seen, _| {
        let place = seen.target.rsplit('/').next().unwrap();
        let names = ["five", "seven"];
        let named = names
            .iter()
            .find(|name| digest(body(name).as_bytes()).as_ref() == place);
        let bytes = named.map_or_else(|| index.to_string(), |name| body(name));
        Reply::Answer(200, Vec::new(), bytes.into_bytes())
    })
    .await;
    let repository = repository(&server.host(), Credentials::anonymous());
    for (variant, name) in [("v5", "five"), ("v7", "seven")] {
        let platform: Platform = serde_json::from_value(
            json!({"os": "linux", "architecture": "arm", "variant": variant}),
        )
        .unwrap();
        let (bytes, _) = repository.manifest_for("1", &platform).await.unwrap();
        assert_eq!(bytes, body(name).as_bytes());
    }
}

#[tokio::test]
async fn an_index_keeps_its_bytes() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    // No `mediaType` in the body: the header alone tells what it is.
    let bytes: &[u8] = b"{\"schemaVersion\": 2,\n \"manifests\": [ ]}";
    let server = Server::start(move |_, _| {
        Reply::Answer(
            200,
            vec![("Content-Type", INDEX.to_owned())],
            bytes.to_vec(),
        )
    })
    .await;
    let from = repository(&server.host(), Credentials::anonymous());
    let to = repository(&registry.host(), Credentials::anonymous());
    let copied = to.copy_from(&from, "1", &|_| {}).await.unwrap();
    assert_eq!(copied.digest(), &digest(bytes));
    let (back, descriptor) = to.manifest(copied.digest().as_ref()).await.unwrap();
    assert_eq!(back, bytes);
    assert_eq!(descriptor.media_type().to_string(), INDEX);
}

#[tokio::test]
async fn oci_client_reads_what_was_pushed() {
    for secured in [false, true] {
        let started = if secured {
            DockerRegistry::tls_htpasswd().await
        } else {
            DockerRegistry::open().await
        };
        let Some(registry) = need(started) else {
            return;
        };
        let mut options = options();
        let ca = registry.ca_pem().map(|pem| pem.as_bytes().to_vec());
        options.extra_ca_pem.extend(ca);
        let auth = match (registry.username(), registry.password()) {
            (Some(user), Some(password)) => RegistryAuth::Basic(user.into(), password.into()),
            _ => RegistryAuth::Anonymous,
        };
        let name = format!("{}/team/app", registry.host());
        let repository = Repository::new(&name, auth.into(), options).unwrap();
        let pinned = image(&repository).await;
        repository.tag(&pinned, "1").await.unwrap();
        let (client, auth) = repository.oci_client().await.unwrap();
        assert_eq!(matches!(auth, RegistryAuth::Basic(..)), secured);
        let reference = format!("{name}:1").parse().unwrap();
        let found = client.pull_image_manifest(&reference, &auth).await;
        let (manifest, found) = found.unwrap();
        assert_eq!(found, pinned.digest().to_string());
        let mut layer = Vec::new();
        let pulled = client.pull_blob(&reference, &manifest.layers[0], &mut layer);
        pulled.await.unwrap();
        assert_eq!(layer, noise(2000, 3));
    }
}
