//! A thousand reads from a store that does things wrong: the right bytes come, or a typed error;
//! never wrong bytes, never more memory than was granted, never requests without end.

use std::time::Duration;

use futures::StreamExt as _;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use crate::error::{Error, ErrorKind};
use crate::model::ModelVersion;
use crate::read::options::{Piece, ReadOptions};
use crate::read::source::Source;
use crate::read::stream;
use crate::read::tests::server::{Fault, Server, content};
use crate::read::tests::{Known, model, open};
use crate::store_url::Scheme;

/// The sizes of a part in these tests.
const LEAST: u64 = 1 << 10;
const MOST: u64 = 4 << 10;

#[derive(Debug)]
struct Case {
    scheme: Scheme,
    sizes: Vec<usize>,
    from: usize,
    window: u64,
    requests: usize,
    piece: usize,
    known: Known,
    ignores_tags: bool,
    faults: Vec<Fault>,
}

fn fault(sizes: usize) -> impl Strategy<Value = Fault> {
    let after = 0..5000_usize;
    let seconds = (0..100_u32).prop_map(|n| vec![("retry-after", n.to_string())]);
    let date = Just(vec![
        ("date", "Sun, 22 Nov 2026 08:00:00 GMT".to_owned()),
        ("retry-after", "Sun, 22 Nov 2026 08:00:20 GMT".to_owned()),
    ]);
    let millis = (0..3000_u32).prop_map(|n| vec![("x-ms-retry-after-ms", n.to_string())]);
    let pause = prop_oneof![Just(Vec::new()), seconds, date, millis];
    let code = prop_oneof![Just(429_u16), Just(503), Just(500)];
    prop_oneof![
        20 => Just(Fault::None),
        8 => after.clone().prop_map(Fault::Cut),
        4 => after.clone().prop_map(Fault::Stall),
        2 => Just(Fault::Silence),
        6 => (0..40_000_u64).prop_map(|ms| Fault::Late(Duration::from_millis(ms))),
        2 => Just(Fault::Refused),
        8 => (code, pause).prop_map(|(code, pause)| Fault::Status(code, pause)),
        4 => (after.clone(), any::<bool>()).prop_map(|(after, honest)| Fault::Short { after, honest }),
        2 => Just(Fault::Excess),
        1 => Just(Fault::Shifted),
        1 => Just(Fault::NotPartial),
        1 => prop_oneof![Just(sizes), 1..sizes + 2].prop_map(Fault::Replaced),
        2 => after.prop_map(Fault::Flipped),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let scheme = prop_oneof![Just(Scheme::Azure), Just(Scheme::S3)];
    let size = prop_oneof![1 => Just(0), 3 => 1..3000_usize, 4 => 3000..30_000_usize];
    let sizes = prop::collection::vec(size, 1..4);
    let limits = (
        2 * LEAST..16 * LEAST,
        1..20_usize,
        1..1500_usize,
        0..4_usize,
    );
    let known = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2));
    (scheme, sizes, limits, known).prop_flat_map(|(scheme, sizes, limits, known)| {
        let faults = prop::collection::vec(fault(sizes[0]), 0..24);
        let (window, requests, piece, from) = limits;
        faults.prop_map(move |faults| Case {
            scheme,
            from: sizes[0] * from / 4,
            sizes: sizes.clone(),
            window,
            requests,
            piece,
            known: Known {
                sha256: known.0,
                tags: known.1,
            },
            ignores_tags: known.2,
            faults: faults.clone(),
        })
    })
}

/// What was given out of each file, and how it ended.
struct Outcome {
    files: Vec<Vec<u8>>,
    error: Option<Error>,
}

async fn run(server: &Server, case: &Case, model: &ModelVersion) -> Outcome {
    let store = open(server, case.scheme);
    let mut options = ReadOptions::default()
        .with_window(case.window)
        .with_max_requests(case.requests);
    options.parts = LEAST..=MOST;
    options.window = Some(case.window);
    let sources = model
        .files()
        .iter()
        .map(|file| Source::new(&store, model, file))
        .collect();
    let plan = store.plan(sources, case.from as u64, &options);
    server.state().pool = Some(plan.pool().clone());
    let mut files = vec![Vec::new(); case.sizes.len()];
    let mut error = None;
    let mut pieces = std::pin::pin!(stream::pieces(plan, true));
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(Piece::Chunk { file, bytes }) => files[file].extend_from_slice(&bytes),
            Ok(Piece::End { .. }) => {}
            Err(failed) => error = Some(failed),
        }
        server.measure();
    }
    Outcome { files, error }
}

/// Whether `got` is the beginning of one generation of a file, from an offset on.
fn is_prefix(got: &[u8], size: usize, from: usize, faults: &[Fault]) -> bool {
    let replaced = faults
        .iter()
        .filter(|fault| matches!(fault, Fault::Replaced(_)));
    let generations = u32::try_from(replaced.count()).unwrap();
    (0..=generations).any(|generation| content(size, generation)[from..].starts_with(got))
}

fn check(case: &Case, server: &Server, outcome: &Outcome) -> TestCaseResult {
    let has = |wanted: fn(&Fault) -> bool| case.faults.iter().any(wanted);
    let flipped = has(|fault| matches!(fault, Fault::Flipped(_)));
    let mut all = true;
    for (number, got) in outcome.files.iter().enumerate() {
        let from = if number == 0 { case.from } else { 0 };
        let size = case.sizes[number];
        let complete = got.len() == size - from;
        // A flipped byte is found at the end, before the last chunk is given out. Nothing is
        // compared where reading began in the middle.
        if !flipped || (complete && from == 0) {
            prop_assert!(is_prefix(got, size, from, &case.faults), "file {number}");
        }
        all &= complete;
    }
    let state = server.state();
    if let Some(error) = &outcome.error {
        let possible = match error.kind() {
            // An empty object with bytes is another object.
            ErrorKind::Changed => {
                has(|f| matches!(f, Fault::Replaced(_) | Fault::Shifted))
                    || (case.sizes.contains(&0) && has(|f| matches!(f, Fault::Excess)))
            }
            ErrorKind::Unsupported => has(|f| matches!(f, Fault::NotPartial)),
            ErrorKind::DigestMismatch => flipped || has(|f| matches!(f, Fault::Replaced(_))),
            // Only many failures in a row are final.
            ErrorKind::Unreachable | ErrorKind::Timeout => case.faults.len() >= 6,
            _ => false,
        };
        prop_assert!(possible, "{error:?}");
    } else {
        prop_assert!(all, "bytes are missing without an error");
    }
    prop_assert_eq!(&state.seen.running, &0);
    prop_assert!(state.seen.most_running <= case.requests.max(1) + 1);
    let held = state.seen.most_held as u64;
    // A part that is fetched twice is held twice; and a piece is held twice while it is copied.
    let granted = case.window + MOST + case.piece as u64;
    prop_assert!(held <= granted, "{held} of {granted} bytes held");
    let parts: usize = case.sizes.iter().map(|size| size / 1024 + 1).sum();
    let bound = (parts + case.faults.len() + case.sizes.len()) * 21 / 20 + 1;
    prop_assert!(
        state.seen.requests <= bound,
        "{} requests",
        state.seen.requests
    );
    let may_ask = case.scheme == Scheme::S3 && !case.known.sha256;
    prop_assert!(may_ask || state.seen.heads == 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn the_right_bytes_or_a_typed_error(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let server = Server::new(case.scheme, case.faults.clone());
        server.state().ignores_tags = case.ignores_tags;
        server.state().pieces = (case.piece, Duration::from_millis(1));
        let model = model(&server, case.scheme, &case.sizes, case.known);
        let outcome = runtime.block_on(async {
            let limit = Duration::from_hours(24);
            tokio::time::timeout(limit, run(&server, &case, &model)).await
        });
        // Dropped tasks have given everything back.
        drop(runtime);
        let outcome = outcome.map_err(|_| TestCaseError::fail("it hangs"))?;
        check(&case, &server, &outcome)?;
    }
}
