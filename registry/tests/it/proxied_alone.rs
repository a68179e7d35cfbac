//! Each fault by itself, between a push and a real registry.

use std::time::Duration;

use modelship_registry::Credentials;
use modelship_testkit::fault_proxy::{Fault, Kind, On, Plan, What};
use modelship_testkit::{DockerRegistry, Edition, Security, need};

use crate::proxied::{Bench, SIZE, Shape, Trial};

const HALF: u64 = SIZE as u64 / 2;
const CHUNK: u64 = 300_000;

struct Case {
    name: &'static str,
    shape: Shape,
    faults: Vec<Fault>,
}

fn case(name: &'static str, shape: Shape, faults: impl IntoIterator<Item = Fault>) -> Case {
    Case {
        name,
        shape,
        faults: faults.into_iter().collect(),
    }
}

/// A fault that strikes the first request of a kind.
fn first(name: &'static str, shape: Shape, kind: Kind, what: What) -> Case {
    case(name, shape, [Fault::new(kind, what)])
}

fn plain() -> Shape {
    Shape::new()
}

fn chunks() -> Shape {
    Shape::new().chunked(CHUNK)
}

fn whole() -> Shape {
    Shape::new().whole()
}

/// A push that has credentials, should it be asked for them.
fn known() -> Shape {
    let mut shape = Shape::new();
    shape.credentials = Credentials::basic("me", "hunter2");
    shape
}

fn impatient() -> Shape {
    let mut shape = Shape::new();
    shape.options.stall_timeout = Duration::from_secs(1);
    // All of so small a blob may be in the sockets, on its way to the answer.
    shape.options.commit_timeout = Duration::from_secs(1);
    shape
}

/// A push that begins with one stream and knows chunks that fit.
fn adaptable() -> Shape {
    let mut shape = Shape::new();
    if let Some(profile) = &mut shape.options.profile {
        profile.chunk_size = Some(CHUNK);
    }
    shape
}

fn breaks() -> Vec<Case> {
    let reset = What::ResetAfter;
    let stall = What::StallAfter {
        bytes: HALF,
        time: Duration::from_secs(30),
    };
    let lost = || What::LoseAnswer;
    // The config goes beside the layer and is too short to be struck.
    let put = Fault::new(Kind::Commit, reset(HALF)).times(2);
    let third = Fault::new(Kind::Patch, reset(1000)).nth(3);
    vec![
        first("reset-at-once", plain(), Kind::Patch, reset(0)),
        first("reset-half-way", plain(), Kind::Patch, reset(HALF)),
        case("reset-in-put", whole(), [put]),
        case("reset-in-chunk", chunks(), [third]),
        first("stall", impatient(), Kind::Patch, stall),
        first("patch-answer-lost", plain(), Kind::Patch, lost()),
        first("post-answer-lost", plain(), Kind::OpenSession, lost()),
        first("commit-answer-lost", plain(), Kind::Commit, lost()),
        first("put-answer-lost", whole(), Kind::Commit, lost()),
        first("manifest-answer-lost", plain(), Kind::PutManifest, lost()),
    ]
}

fn answers() -> Vec<Case> {
    let no_range = || What::RangeNotSatisfiable;
    let stale = [
        Fault::new(Kind::Patch, What::ResetAfter(1000)).nth(2),
        Fault::new(Kind::Status, What::StaleRange(100_000)),
    ];
    let created = Fault::new(Kind::Patch, What::CreatedOnPatch).every();
    let second = Fault::new(Kind::Patch, no_range()).nth(2);
    let (busy, unwell) = (What::too_many_requests, What::status(503));
    let early = What::early_status(503);
    let refused = || What::Unauthorized;
    vec![
        first("401-on-post", known(), Kind::OpenSession, refused()),
        first("401-on-patch", known(), Kind::Patch, refused()),
        first("401-on-commit", known(), Kind::Commit, refused()),
        first("429-on-patch", plain(), Kind::Patch, busy(0)),
        first("429-on-commit", plain(), Kind::Commit, busy(1)),
        first("503-on-commit", plain(), Kind::Commit, unwell),
        first("early-503-on-patch", plain(), Kind::Patch, early),
        case("stale-range", chunks(), stale),
        case("201-on-patch", plain(), [created]),
        first("416-on-patch", plain(), Kind::Patch, no_range()),
        case("416-on-chunk", chunks(), [second]),
        first("416-on-put", whole(), Kind::Commit, no_range()),
    ]
}

fn places() -> Vec<Case> {
    let every = |what| [Fault::new(On::Any, what).every()];
    let challenge = || Fault::new(Kind::OpenSession, What::Unauthorized);
    let opened = Fault::new(Kind::OpenSession, What::ForeignLocation);
    let foreign = [
        challenge(),
        opened.nth(2).every(),
        Fault::new(Kind::Patch, What::ForeignLocation).every(),
    ];
    let redirect = |foreign| Fault::new(Kind::Patch, What::Redirect { foreign });
    let (nowhere, here) = (What::MissingLocation, [redirect(false)]);
    vec![
        case("relative", chunks(), every(What::RelativeLocation)),
        case("bare", chunks(), every(What::BareLocation)),
        case("absolute", chunks(), every(What::AbsoluteLocation)),
        case("foreign", known().chunked(CHUNK), foreign),
        first("nowhere", plain(), Kind::OpenSession, nowhere),
        case("307-here", plain(), here),
        case("307-there", known(), [challenge(), redirect(true)]),
    ]
}

fn limits() -> Vec<Case> {
    let cap = |status| {
        let what = What::BodyCap { max: CHUNK, status };
        [Fault::new(On::UploadBody, what).every()]
    };
    let least = Fault::new(On::Any, What::MinChunk(400_000)).every();
    vec![
        case("cap-413", adaptable(), cap(413)),
        case("cap-416", adaptable(), cap(416)),
        case("least-chunk", Shape::new().chunked(1000), [least]),
    ]
}

#[tokio::test]
async fn each_fault_alone_is_survived() {
    for edition in [Edition::Debian, Edition::Distribution3] {
        let registry = DockerRegistry::start(edition, Security::Open).await;
        let Some(registry) = need(registry) else {
            continue;
        };
        let bench = Bench::new(registry);
        let cases = breaks().into_iter().chain(answers());
        for case in cases.chain(places()).chain(limits()) {
            let name = format!("alone/{}", case.name);
            let plan = Plan::of(case.faults);
            let trial = Trial::run(&bench, &name, case.shape, plan).await;
            assert!(!trial.proxy.applied().is_empty(), "{name} did not strike");
            let checked = trial.check(&bench, &name).await;
            checked.unwrap_or_else(|story| panic!("{edition:?} {story}"));
        }
    }
}

#[tokio::test]
async fn a_break_costs_a_window_where_the_registry_keeps_sessions() {
    const LARGE: u64 = 24 << 20;
    // What was in sockets, and unread by the registry, when the connection was reset.
    const WINDOW: u64 = 6 << 20;
    let registry = DockerRegistry::start(Edition::Distribution3, Security::Open).await;
    let Some(registry) = need(registry) else {
        return;
    };
    let bench = Bench::new(registry);
    let mut shape = Shape::new();
    shape.size = usize::try_from(LARGE).unwrap();
    // Long enough for the registry to notice.
    shape.options.retry_base = Duration::from_millis(200);
    let resets = [8 << 20, 5 << 20].map(What::ResetAfter);
    let [one, two] = resets.map(|what| Fault::new(Kind::Patch, what));
    let plan = Plan::of([one, two.nth(2)]);
    let trial = Trial::run(&bench, "alone/window", shape, plan).await;
    let checked = trial.check(&bench, "alone/window").await;
    checked.unwrap_or_else(|story| panic!("{story}"));
    assert_eq!(trial.proxy.applied().len(), 2);
    assert_eq!(trial.proxy.exchanges_of(Kind::OpenSession).len(), 2);
    let sent = trial.proxy.body_bytes();
    assert!(sent < LARGE + 2 * WINDOW, "{sent} bytes of {LARGE}");
}
