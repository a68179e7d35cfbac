//! A model-based test: several clients publish, name, retract, hold, collect and resolve over one
//! store; operations are cut off at any request, or run two at a time.
//!
//! An operation that nobody disturbs must do exactly what the reference model in `world` does. One
//! that is cut off or raced may do part of it, and touches nothing else. And after every step, what
//! `system` checks must hold: nothing incomplete or retracted is resolved, no pointer dangles, what
//! is held reads bit by bit, histories only grow, and a digest finds even what is retracted.

mod faulty;
mod system;
mod world;

use std::sync::{Arc, LazyLock};

use modelship_model_store::PointerName;
use modelship_testkit::{Versitygw, need};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::fixtures::dir;
use faulty::{Fault, Plan};
use system::System;

pub(crate) const VERSIONS: [&str; 4] = ["1.0.0", "1.1.0", "1.2.0", "1.3.0"];
const CLIENTS: usize = 3;
const CONTENTS: u8 = 2;

/// The files of a content.
pub(crate) fn content_files(content: u8) -> Vec<(&'static str, Vec<u8>)> {
    let mut files = vec![("a", vec![content; 3 + usize::from(content)])];
    if content == 0 {
        files.push(("sub/b", b"b".to_vec()));
    }
    files
}

/// The tree digest, by the rule in the documentation.
pub(crate) fn content_digest(content: u8) -> String {
    let lines = content_files(content).into_iter().map(|(path, bytes)| {
        format!(
            "{path} {} {}\n",
            bytes.len(),
            hex::encode(Sha256::digest(&bytes))
        )
    });
    format!(
        "sha256:{}",
        hex::encode(Sha256::digest(lines.collect::<String>()))
    )
}

/// A directory with a content.
pub(crate) fn content_dir(content: u8) -> &'static std::path::Path {
    static DIRS: LazyLock<Vec<TempDir>> = LazyLock::new(|| {
        let make = |content| {
            let files = content_files(content);
            let files: Vec<_> = files
                .iter()
                .map(|(path, bytes)| (*path, bytes.as_slice()))
                .collect();
            dir(&files)
        };
        (0..CONTENTS).map(make).collect()
    });
    DIRS[usize::from(content)].path()
}

/// What a client does.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Publish {
        version: String,
        content: u8,
        latest: bool,
    },
    Promote {
        pointer: PointerName,
        version: String,
    },
    Rollback(PointerName),
    Delete(String),
    Retract {
        version: String,
        force: bool,
    },
    /// With the lock that this client has, however old.
    Hold {
        name: String,
        version: String,
    },
    Release(String),
    Collect {
        keep_last: Option<usize>,
        retracted: bool,
    },
    /// Resolves a version, and keeps the lock.
    Learn(String),
}

/// One step of a test.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// One client, with what happens to its requests.
    One(usize, Op, Plan),
    /// Two clients at the same time.
    Two([(usize, Op, Plan); 2]),
}

fn version() -> impl Strategy<Value = String> {
    prop::sample::select(VERSIONS.to_vec()).prop_map(str::to_owned)
}

fn collections() -> impl Strategy<Value = Op> {
    (prop::option::of(0..3_usize), any::<bool>()).prop_map(|(keep_last, retracted)| Op::Collect {
        keep_last,
        retracted,
    })
}

fn retractions() -> impl Strategy<Value = Op> {
    (version(), any::<bool>()).prop_map(|(version, force)| Op::Retract { version, force })
}

fn operations() -> impl Strategy<Value = Op> {
    let alias = || prop::sample::select(vec!["a0", "a1"]).prop_map(str::to_owned);
    let hold = || prop::sample::select(vec!["h0", "h1"]).prop_map(str::to_owned);
    let pointer = || {
        let alias = alias().prop_map(PointerName::Alias);
        prop_oneof![Just(PointerName::Latest), alias]
    };
    prop_oneof![
        8 => (version(), 0..CONTENTS, prop::bool::weighted(0.8))
            .prop_map(|(version, content, latest)| Op::Publish { version, content, latest }),
        4 => (pointer(), version()).prop_map(|(pointer, version)| Op::Promote { pointer, version }),
        3 => pointer().prop_map(Op::Rollback),
        1 => alias().prop_map(Op::Delete),
        2 => retractions(),
        3 => (hold(), version()).prop_map(|(name, version)| Op::Hold { name, version }),
        1 => hold().prop_map(Op::Release),
        3 => collections(),
        2 => version().prop_map(Op::Learn),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![2 => Just(Fault::Hang), 1 => Just(Fault::Refuse)];
    let fault = (0..16_usize, kind, any::<bool>());
    let cut = fault.prop_map(|fault| Plan {
        fault: Some(fault),
        pauses: Vec::new(),
    });
    let paced = || {
        prop::collection::vec(0..4_u8, 1..8).prop_map(|pauses| Plan {
            fault: None,
            pauses,
        })
    };
    let racer = move || (0..CLIENTS, operations(), paced());
    // Whoever removes something is the one to race against.
    let rival = move || {
        let removal = prop_oneof![2 => collections(), 1 => retractions(), 3 => operations()];
        (0..CLIENTS, removal, paced())
    };
    prop_oneof![
        5 => (0..CLIENTS, operations()).prop_map(|(who, op)| Step::One(who, op, Plan::default())),
        2 => (0..CLIENTS, operations(), cut).prop_map(|(who, op, plan)| Step::One(who, op, plan)),
        3 => (racer(), rival()).prop_map(|(one, mut two)| {
            // Each racer is a client of its own.
            if one.0 == two.0 {
                two.0 = (two.0 + 1) % CLIENTS;
            }
            Step::Two([one, two])
        }),
    ]
}

/// Where a test runs: a store, the model's folder in it, and the runtime of its connections.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) raw: Arc<dyn ObjectStore>,
    pub(crate) root: String,
    pub(crate) runtime: Arc<tokio::runtime::Runtime>,
}

impl Place {
    fn memory() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Self {
            raw: Arc::new(InMemory::new()),
            root: "m/digits".to_owned(),
            runtime: Arc::new(runtime.unwrap()),
        }
    }
}

/// Chooses the steps; what they must lead to is the model in `world`, which knows what the store
/// really did with the ones that were disturbed.
#[derive(Debug)]
pub(crate) struct Script;

impl ReferenceStateMachine for Script {
    type State = Option<Place>;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self::State> {
        Just(None).boxed()
    }

    fn transitions(_: &Self::State) -> BoxedStrategy<Step> {
        steps().boxed()
    }

    fn apply(state: Self::State, _: &Step) -> Self::State {
        state
    }
}

/// `usual` cases, or as many as `PROPTEST_CASES` says.
fn cases(usual: u32) -> u32 {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default().cases,
        None => usual,
    }
}

/// Runs so many cases of so many steps, each in the place that `place` gives.
fn run(cases: u32, length: std::ops::Range<usize>, place: impl Fn() -> Place) {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let script = Script::sequential_strategy(length);
    let outcome = TestRunner::new(config.clone()).run(&script, |(_, steps, seen)| {
        System::test_sequential(config.clone(), Some(place()), steps, seen);
        Ok(())
    });
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

#[test]
fn clients_over_memory() {
    run(cases(120), 5..40, Place::memory);
}

#[test]
fn clients_over_s3() {
    let runtime = Arc::new(tokio::runtime::Runtime::new().unwrap());
    let Some(server) = need(runtime.block_on(Versitygw::start())) else {
        return;
    };
    if need(runtime.block_on(server.create_bucket("models"))).is_none() {
        return;
    }
    let raw = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_region(server.region())
        .with_access_key_id(server.access_key())
        .with_secret_access_key(server.secret_key())
        .with_allow_http(true)
        .with_bucket_name("models");
    let raw: Arc<dyn ObjectStore> = Arc::new(raw.build().unwrap());
    let case = std::sync::atomic::AtomicUsize::new(0);
    run(cases(3), 5..20, || Place {
        raw: Arc::clone(&raw),
        root: format!(
            "case-{}",
            case.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
        ),
        runtime: Arc::clone(&runtime),
    });
}
