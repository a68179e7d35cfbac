//! What refers to an image: never "none" when the registry did not say so, never lost when
//! others write too.

use bytes::Bytes;
use futures::future::join_all;
use modelship_registry::{
    Artifact, Blob, Credentials, Descriptor, Digest, ErrorKind, PinnedReference, Repository,
};
use modelship_testkit::fault_proxy::{Fault, Kind, Plan, What};
use modelship_testkit::{DockerRegistry, FaultProxy, ReferrersRegistry, need};
use serde_json::{Value, json};

use crate::images::{digest, noise, repository, seal, source};
use crate::server::{Reply, Seen, Server};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const SBOM: &str = "application/spdx+json";
const SIGNATURE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

fn entry(name: &str, kind: Option<&str>) -> Value {
    let mut entry = json!({
        "mediaType": MANIFEST,
        "digest": digest(name.as_bytes()).to_string(),
        "size": name.len(),
    });
    if let Some(kind) = kind {
        entry["artifactType"] = json!(kind);
    }
    entry
}

fn index(entries: &[Value]) -> Vec<u8> {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
        .to_string()
        .into_bytes()
}

fn listed(entries: &[Value], mut headers: Vec<(&'static str, String)>) -> Reply {
    headers.push(("Content-Type", INDEX.to_owned()));
    Reply::Answer(200, headers, index(entries))
}

fn digests(found: &[Descriptor]) -> Vec<Digest> {
    found.iter().map(|entry| entry.digest().clone()).collect()
}

fn tag(subject: &Digest) -> String {
    subject.to_string().replace(':', "-")
}

#[tokio::test]
async fn a_refusal_is_never_no_referrers() {
    let subject = digest(b"image");
    for (status, kind) in [
        (400, ErrorKind::Invalid),
        (401, ErrorKind::Unauthorized),
        (403, ErrorKind::Forbidden),
        (405, ErrorKind::Unsupported),
        (429, ErrorKind::Throttled),
        (500, ErrorKind::Server),
        (503, ErrorKind::Server),
    ] {
        let refusal = br#"{"errors":[{"code":"DENIED","message":"no"}]}"#;
        for on_tag in [false, true] {
            let server = Server::start(move |seen, _| {
                if on_tag && seen.target.contains("/referrers/") {
                    return Reply::status(404);
                }
                Reply::Answer(status, Vec::new(), refusal.to_vec())
            })
            .await;
            let repository = repository(&server.host(), Credentials::anonymous());
            let error = repository.referrers(&subject, None).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{status} {on_tag}");
        }
    }
    // Nor is a page that is no list.
    let server = Server::start(|_, _| Reply::Answer(200, Vec::new(), b"<html>".to_vec())).await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let error = repository.referrers(&subject, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn pages_are_followed_and_circles_are_not() {
    let subject = digest(b"image");
    let next = format!("</v2/team/app/referrers/{subject}?page=2>; rel=\"next\"");
    let server = Server::start(move |seen, _| {
        if seen.target.contains("page=2") {
            listed(&[entry("c", None), entry("a", None)], Vec::new())
        } else {
            listed(
                &[entry("a", None), entry("b", None)],
                vec![("Link", next.clone())],
            )
        }
    })
    .await;
    let found = repository(&server.host(), Credentials::anonymous())
        .referrers(&subject, None)
        .await
        .unwrap();
    assert_eq!(digests(&found), [digest(b"a"), digest(b"b"), digest(b"c")]);

    for link in [
        "<?page=1>; rel=\"next\"",
        "<https://elsewhere.invalid/v2/>; rel=\"next\"",
    ] {
        let server =
            Server::start(move |_, _| listed(&[entry("a", None)], vec![("Link", link.to_owned())]))
                .await;
        let repository = repository(&server.host(), Credentials::anonymous());
        let error = repository.referrers(&subject, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{link}");
        let error = repository.tags().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{link}");
        assert!(server.seen().len() <= 4, "{link}");
    }
}

#[tokio::test]
async fn a_filter_is_the_registrys_or_ours() {
    let subject = digest(b"image");
    // Applied: an entry without a type, as Azure Container Registry lists them, is believed.
    let server = Server::start(|seen, _| {
        assert!(
            seen.target
                .contains("?artifactType=application%2Fspdx%2Bjson")
        );
        let applied = ("OCI-Filters-Applied", "artifactType".to_owned());
        listed(&[entry("a", None)], vec![applied])
    })
    .await;
    let found = repository(&server.host(), Credentials::anonymous())
        .referrers(&subject, Some(SBOM))
        .await
        .unwrap();
    assert_eq!(digests(&found), [digest(b"a")]);

    // Not applied: it is looked up, also where the type of the empty config is given instead.
    let bare = json!({"mediaType": MANIFEST, "config": {"mediaType": SBOM}}).to_string();
    let unnamed = entry(&bare, None);
    let artifact = json!({"mediaType": MANIFEST, "artifactType": SBOM}).to_string();
    let misnamed = entry(&artifact, Some("application/vnd.oci.empty.v1+json"));
    let server = Server::start(move |seen, _| {
        if seen.target.contains("/manifests/") {
            let wanted = [&bare, &artifact];
            let found = wanted
                .iter()
                .find(|text| seen.target.ends_with(digest(text.as_bytes()).as_ref()));
            return found.map_or(Reply::status(404), |text| {
                Reply::Answer(200, Vec::new(), text.as_bytes().to_vec())
            });
        }
        let entries = [
            entry("a", Some(SIGNATURE)),
            entry("b", Some(SBOM)),
            unnamed.clone(),
            misnamed.clone(),
        ];
        listed(&entries, Vec::new())
    })
    .await;
    let found = repository(&server.host(), Credentials::anonymous())
        .referrers(&subject, Some(SBOM))
        .await
        .unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].digest(), &digest(b"b"));
    assert!(
        found
            .iter()
            .all(|entry| entry.artifact_type().as_ref().unwrap().to_string() == SBOM)
    );
}

/// A registry without the API: stores what is put, and refuses every other conditional write.
fn storing(seen: &Seen, before: &[Seen], subject: &Digest, foreign: &Value) -> Reply {
    let path = format!("/manifests/{}", tag(subject));
    let puts: Vec<&Seen> = before.iter().filter(|seen| seen.is("PUT", &path)).collect();
    let typed = vec![
        ("Content-Type", INDEX.to_owned()),
        ("ETag", format!("\"v{}\"", puts.len())),
    ];
    if seen.is("PUT", &path) {
        return Reply::status(if puts.is_empty() { 412 } else { 201 });
    }
    if seen.is("GET", &path) {
        return match puts.len() {
            // Somebody else's entry was there, and another came with the conflict.
            0 => Reply::Answer(200, typed, index(std::slice::from_ref(foreign))),
            1 => Reply::Answer(200, typed, index(&[foreign.clone(), entry("late", None)])),
            _ => Reply::Answer(200, typed, puts[puts.len() - 1].body.clone()),
        };
    }
    match (seen.method.as_str(), seen.target.contains(subject.as_ref())) {
        ("GET", true) if seen.target.contains("/manifests/") => {
            let headers = vec![("Content-Type", MANIFEST.to_owned())];
            Reply::Answer(200, headers, b"image".to_vec())
        }
        ("GET", _) => Reply::status(404),
        ("HEAD", _) => Reply::status(200),
        _ => Reply::status(201),
    }
}

#[tokio::test]
async fn a_conflict_over_the_list_is_settled_and_loses_nobodys_entry() {
    let image = br#"{"schemaVersion":2}"#;
    let subject = digest(image);
    let mut foreign = entry("foreign", Some(SIGNATURE));
    foreign["x-vendor"] = json!({"kept": true});
    let (script_subject, script_foreign) = (subject.clone(), foreign.clone());
    let server = Server::start(move |seen, before| {
        match storing(seen, before, &script_subject, &script_foreign) {
            Reply::Answer(status, headers, body) if body == b"image" => {
                Reply::Answer(status, headers, image.to_vec())
            }
            other => other,
        }
    })
    .await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let artifact = Artifact::new(SBOM).with_subject(repository.pin(subject.clone()));
    let pinned = repository.push_artifact(&artifact, &|_| {}).await.unwrap();

    let path = format!("/manifests/{}", tag(&subject));
    let puts: Vec<Seen> = server
        .seen()
        .into_iter()
        .filter(|seen| seen.is("PUT", &path))
        .collect();
    assert_eq!(puts.len(), 2);
    assert_eq!(puts[0].header("if-match"), Some("\"v0\""));
    assert_eq!(puts[1].header("if-match"), Some("\"v1\""));
    let written: Value = serde_json::from_slice(&puts[1].body).unwrap();
    let entries = written["manifests"].as_array().unwrap();
    assert_eq!(entries[0], foreign);
    assert_eq!(entries[1], entry("late", None));
    assert_eq!(entries[2]["digest"], pinned.digest().to_string());
    assert_eq!(entries[2]["artifactType"], SBOM);
}

#[tokio::test]
async fn a_registry_that_lists_by_itself_gets_no_tag() {
    let image = br#"{"schemaVersion":2}"#;
    let subject = digest(image);
    let said = subject.to_string();
    let server = Server::start(move |seen, _| match seen.method.as_str() {
        "GET" => Reply::Answer(
            200,
            vec![("Content-Type", MANIFEST.to_owned())],
            image.to_vec(),
        ),
        "HEAD" => Reply::status(200),
        _ => Reply::Answer(201, vec![("OCI-Subject", said.clone())], Vec::new()),
    })
    .await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let artifact = Artifact::new(SBOM).with_subject(repository.pin(subject));
    repository.push_artifact(&artifact, &|_| {}).await.unwrap();
    assert_eq!(server.count("PUT", "/manifests/sha256:"), 1);
    assert_eq!(server.count("PUT", ""), 1);
}

#[tokio::test]
async fn a_tag_that_is_something_else_is_left_alone() {
    let image = br#"{"schemaVersion":2}"#;
    let subject = digest(image);
    let server = Server::start(move |seen, _| match seen.method.as_str() {
        "GET" if seen.target.contains("/referrers/") => Reply::status(404),
        "GET" => Reply::Answer(
            200,
            vec![("Content-Type", MANIFEST.to_owned())],
            image.to_vec(),
        ),
        "HEAD" => Reply::status(200),
        _ => Reply::status(201),
    })
    .await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let error = repository.referrers(&subject, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    let artifact = Artifact::new(SBOM).with_subject(repository.pin(subject));
    let error = repository
        .push_artifact(&artifact, &|_| {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert_eq!(server.count("PUT", "/manifests/sha256-"), 0);
}

#[tokio::test]
async fn a_bad_artifact_is_refused_before_anything_is_sent() {
    let server = Server::start(|_, _| Reply::status(500)).await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let elsewhere: PinnedReference = format!("r.invalid/a@{}", digest(b"")).parse().unwrap();
    for artifact in [
        Artifact::new("not a type"),
        Artifact::new(SBOM).with_subject(elsewhere),
    ] {
        let error = repository
            .push_artifact(&artifact, &|_| {})
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
    assert!(server.seen().is_empty());
}

pub(crate) async fn image(repository: &Repository) -> PinnedReference {
    let layer = noise(2000, 3);
    repository
        .push_image(vec![source(&layer, layer.len())], seal, &|_| {})
        .await
        .unwrap()
}

pub(crate) fn sbom(number: usize, subject: &PinnedReference) -> Artifact {
    let text = Bytes::from(format!("{{\"spdx\":{number}}}"));
    Artifact::new(SBOM)
        .with_blob(Blob::bytes(SBOM, text))
        .with_annotation("number", number.to_string())
        .with_subject(subject.clone())
}

#[tokio::test]
async fn eight_at_once_are_all_listed_by_the_docker_registry() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let repository = repository(&registry.host(), Credentials::anonymous());
    let image = image(&repository).await;
    assert!(
        repository
            .referrers(image.digest(), None)
            .await
            .unwrap()
            .is_empty()
    );
    let artifacts: Vec<Artifact> = (0..8).map(|number| sbom(number, &image)).collect();
    let pushes = artifacts
        .iter()
        .map(|artifact| repository.push_artifact(artifact, &|_| {}));
    let mut pushed: Vec<String> = join_all(pushes)
        .await
        .into_iter()
        .map(|pinned| pinned.unwrap().digest().to_string())
        .collect();
    // Again, and one without a blob.
    let again = repository
        .push_artifact(&artifacts[3], &|_| {})
        .await
        .unwrap();
    assert!(pushed.contains(&again.digest().to_string()));
    let signature = Artifact::new(SIGNATURE).with_subject(image.clone());
    let signature = repository.push_artifact(&signature, &|_| {}).await.unwrap();

    let found = repository
        .referrers(image.digest(), Some(SBOM))
        .await
        .unwrap();
    let mut listed: Vec<String> = digests(&found).iter().map(Digest::to_string).collect();
    pushed.sort();
    listed.sort();
    assert_eq!(listed, pushed);
    let annotations = found[0].annotations().as_ref().unwrap();
    assert!(annotations.contains_key("number"));
    let all = repository.referrers(image.digest(), None).await.unwrap();
    assert_eq!(all.len(), 9);
    assert_eq!(
        digests(
            &repository
                .referrers(image.digest(), Some(SIGNATURE))
                .await
                .unwrap()
        ),
        [signature.digest().clone()]
    );
    assert_eq!(registry.requests("GET", "/referrers/").len(), 4);
    assert_eq!(
        repository.tags().await.unwrap(),
        [tag(image.digest())],
        "the list is a tag, which the reader of tags sees"
    );
}

#[tokio::test]
async fn refusals_on_the_way_to_a_real_registry_are_not_taken_for_none() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let direct = repository(&registry.host(), Credentials::anonymous());
    let image = image(&direct).await;
    let artifact = direct
        .push_artifact(&sbom(1, &image), &|_| {})
        .await
        .unwrap();
    for (status, kind) in [(403, ErrorKind::Forbidden), (429, ErrorKind::Throttled)] {
        for struck in [Kind::Referrers, Kind::GetManifest] {
            let plan = Plan::of([Fault::new(struck, What::status(status)).every()]);
            let Some(proxy) = need(FaultProxy::start(&registry.url(), plan).await) else {
                return;
            };
            let through = repository(&proxy.host(), Credentials::anonymous());
            let error = through.referrers(image.digest(), None).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{struck:?} {error:?}");
        }
    }
    let plan = Plan::of([Fault::new(Kind::Referrers, What::too_many_requests(0))]);
    let Some(proxy) = need(FaultProxy::start(&registry.url(), plan).await) else {
        return;
    };
    let through = repository(&proxy.host(), Credentials::anonymous());
    let found = through.referrers(image.digest(), None).await.unwrap();
    assert_eq!(digests(&found), [artifact.digest().clone()]);
}

#[tokio::test]
async fn a_lost_answer_to_the_list_is_settled_by_reading_it() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let direct = repository(&registry.host(), Credentials::anonymous());
    let image = image(&direct).await;
    let faults = (1..=3).map(|nth| Fault::new(Kind::PutManifest, What::LoseAnswer).nth(nth * 2));
    let Some(proxy) = need(FaultProxy::start(&registry.url(), Plan::of(faults)).await) else {
        return;
    };
    let through = repository(&proxy.host(), Credentials::anonymous());
    for number in 0..3 {
        let subject = through.pin(image.digest().clone());
        through
            .push_artifact(&sbom(number, &subject), &|_| {})
            .await
            .unwrap();
    }
    let found = direct.referrers(image.digest(), None).await.unwrap();
    assert_eq!(found.len(), 3);
    assert!(proxy.violations().is_empty(), "{:?}", proxy.violations());
}

#[tokio::test]
async fn a_registry_with_the_api_lists_what_was_attached() {
    let Some(registry) = need(ReferrersRegistry::start().await) else {
        return;
    };
    let repository = repository(&registry.host(), Credentials::anonymous());
    let image = image(&repository).await;
    assert!(
        repository
            .referrers(image.digest(), None)
            .await
            .unwrap()
            .is_empty()
    );
    let bill = repository
        .push_artifact(&sbom(1, &image), &|_| {})
        .await
        .unwrap();
    let signature = Artifact::new(SIGNATURE).with_subject(image.clone());
    let signature = repository.push_artifact(&signature, &|_| {}).await.unwrap();
    for (kind, expected) in [(SBOM, &bill), (SIGNATURE, &signature)] {
        let found = repository
            .referrers(image.digest(), Some(kind))
            .await
            .unwrap();
        assert_eq!(digests(&found), [expected.digest().clone()]);
        assert_eq!(found[0].artifact_type().as_ref().unwrap().to_string(), kind);
    }
    let all = repository.referrers(image.digest(), None).await.unwrap();
    assert_eq!(all.len(), 2);

    // From a registry with the API to one that needs the tag.
    let Some(other) = need(DockerRegistry::open().await) else {
        return;
    };
    let target = crate::images::repository(&other.host(), Credentials::anonymous());
    target
        .copy_with_referrers_from(&repository, image.digest().as_ref(), &|_| {})
        .await
        .unwrap();
    let copied = target.referrers(image.digest(), None).await.unwrap();
    let sorted = |found: &[Descriptor]| {
        let mut names: Vec<String> = digests(found).iter().map(Digest::to_string).collect();
        names.sort();
        names
    };
    assert_eq!(sorted(&copied), sorted(&all));
}
