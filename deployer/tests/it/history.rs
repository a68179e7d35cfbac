//! The history: what it keeps, and the way back.

use modelship_deployer::{ErrorKind, Outcome, ReleaseState};

use crate::world::{APP, World, app, limits, release};

async fn states(world: &World) -> Vec<(u64, String)> {
    let mut states: Vec<_> = world
        .list("v1/configmaps")
        .await
        .iter()
        .filter_map(|object| object["data"]["record.json"].as_str())
        .map(|text| serde_json::from_str::<serde_json::Value>(text).expect("a JSON record"))
        .map(|record| {
            let state = record["state"].as_str().unwrap_or_default().to_owned();
            (record["number"].as_u64().unwrap_or_default(), state)
        })
        .collect();
    states.sort();
    states
}

fn image(digit: char) -> String {
    app(digit).image().to_string()
}

#[tokio::test]
async fn rollback_returns_to_the_release_before_and_then_further() {
    let Some(world) = World::with_node("history-back").await else {
        return;
    };
    let deployer = world.deployer().await;
    for digit in ['1', '2', '3'] {
        assert!(matches!(
            release(&deployer, digit).await,
            Outcome::Available { .. }
        ));
    }
    for (number, digit) in [(4, '2'), (5, '1')] {
        let outcome = deployer.rollback(APP, &|_| {}).await.expect("ends");
        let Outcome::Available {
            release,
            image: deployed,
            ..
        } = outcome
        else {
            panic!("{outcome:?}");
        };
        assert_eq!((release, deployed), (number, image(digit)));
    }
    let expected = [
        "available",
        "available",
        "withdrawn",
        "withdrawn",
        "available",
    ];
    let states = states(&world).await;
    assert_eq!(
        states
            .iter()
            .map(|(_, state)| state.as_str())
            .collect::<Vec<_>>(),
        expected
    );
    let error = deployer
        .rollback(APP, &|_| {})
        .await
        .expect_err("nothing is left");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // The version that runs is recognized although a return brought it here.
    assert!(matches!(
        release(&deployer, '1').await,
        Outcome::Unchanged { release: 5, .. }
    ));
    let last = deployer
        .status(APP)
        .await
        .expect("answers")
        .expect("exists")
        .last
        .expect("recorded");
    assert_eq!(
        (last.rollback_of, last.state),
        (Some(1), ReleaseState::Available)
    );
}

#[tokio::test]
async fn the_history_is_bounded_and_keeps_the_way_back() {
    let Some(world) = World::with_node("history-bound").await else {
        return;
    };
    let mut limits = limits();
    limits.history = 2;
    let deployer = world.deployer().await.with_limits(limits);
    for digit in ['1', '2', '3', 'b', 'b', 'b'] {
        let _ = release(&deployer, digit).await;
    }
    let numbers: Vec<_> = states(&world)
        .await
        .into_iter()
        .map(|(number, _)| number)
        .collect();
    assert_eq!(numbers, [2, 3, 5, 6]);
    let outcome = deployer.rollback(APP, &|_| {}).await.expect("ends");
    assert!(
        matches!(outcome, Outcome::Available { release: 7, .. }),
        "{outcome:?}"
    );
}
