//! A fetching process that is killed, and the one that comes after it.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use modelship_model_store::{
    FetchOptions, ModelCache, ModelStore, ModelVersion, ReadOptions, StoreOptions,
};
use modelship_testkit::{Azurite, Versitygw, need};
use serde_json::{Value, json};

use crate::backends::{azurite_options, s3_options};
use crate::caches::{journalled, noise, unsealed};
use crate::counted::Gate;
use crate::fixtures::{dir, pattern, publish};

const CHILD: &str = "MODELSHIP_FETCH_CHILD";
const SIZE: usize = 80 << 20;
/// What is on its way from the store.
const READ: u64 = 32 << 20;
/// What a killed process may have got and not kept: what was on its way, and what lies between two
/// journals.
const WINDOW: u64 = READ + (8 << 20);
/// For headers, and the few bytes that are compared.
const SLACK: u64 = 256 << 10;

fn client(task: &Value) -> StoreOptions {
    let variables = task["variables"].as_object().unwrap();
    let text =
        |(name, value): (&'_ String, &Value)| (name.clone(), value.as_str().unwrap().to_owned());
    let variables: Vec<(String, String)> = variables.iter().map(text).collect();
    StoreOptions::from_env(|name| {
        let found = variables.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value.clone())
    })
}

/// Fetches what it is told to. Only as a child of the tests below.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_fetches() {
    let Some(task) = std::env::var_os(CHILD) else {
        return;
    };
    let task: Value = serde_json::from_str(task.to_str().unwrap()).unwrap();
    let model: ModelVersion = serde_json::from_value(task["model"].clone()).unwrap();
    let cache = ModelCache::open(Path::new(task["cache"].as_str().unwrap())).unwrap();
    let store = ModelStore::open(model.url(), &client(&task)).unwrap();
    let read = ReadOptions::default().with_window(READ);
    let options = FetchOptions::default().with_read(read);
    cache
        .fetch(&store, &model, &options, &|_| ())
        .await
        .unwrap();
}

fn start(task: &Value) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::child_that_fetches"])
        .env(CHILD, task.to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until `done`, for half a minute at most.
async fn until(mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..3_000 {
        if done() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

struct World {
    _server: Box<dyn std::any::Any>,
    gate: Gate,
    model: ModelVersion,
    data: Vec<u8>,
    variables: Value,
}

/// A model in the store `url`, at the server at `endpoint`, which a [`Gate`] stands before.
async fn publish_model(
    url: &str,
    options: &StoreOptions,
    endpoint: &str,
    size: usize,
) -> (Gate, ModelVersion, Vec<u8>) {
    let store = ModelStore::open(&url.parse().unwrap(), options).unwrap();
    let data = noise(size, 13);
    let source = dir(&[("weights", &data), ("config", b"{}")]);
    let model = publish(&store, source.path(), "1").await.unwrap();
    let address = endpoint.trim_start_matches("http://").split('/').next();
    (
        Gate::before(address.unwrap().parse().unwrap()).await,
        model,
        data,
    )
}

async fn s3() -> Option<World> {
    let server = need(Versitygw::start().await)?;
    need(server.create_bucket("models").await)?;
    let (url, options) = ("s3://models/digits", s3_options(&server));
    let (gate, model, data) = publish_model(url, &options, &server.endpoint(), SIZE).await;
    let variables = json!({
        "AWS_ENDPOINT_URL_S3": gate.endpoint(),
        "AWS_REGION": server.region(),
        "AWS_ACCESS_KEY_ID": server.access_key(),
        "AWS_SECRET_ACCESS_KEY": server.secret_key(),
    });
    Some(World {
        _server: Box::new(server),
        gate,
        model,
        data,
        variables,
    })
}

async fn azure() -> Option<World> {
    let server = need(Azurite::start().await)?;
    need(server.create_container("models").await)?;
    let url = format!("az://models.{}/digits", server.account());
    let options = azurite_options(&server);
    let (gate, model, data) =
        publish_model(&url, &options, &server.blob_endpoint(), SIZE / 5).await;
    let variables = json!({
        "AZURE_STORAGE_ENDPOINT": format!("{}/{}", gate.endpoint(), server.account()),
        "AZURE_STORAGE_ACCOUNT_KEY": server.key(),
    });
    Some(World {
        _server: Box::new(server),
        gate,
        model,
        data,
        variables,
    })
}

impl World {
    fn task(&self, model: &ModelVersion, cache: &Path) -> Value {
        json!({ "variables": self.variables, "model": model, "cache": cache })
    }

    /// Lets a process have `bytes` more, then kills it, at once or when what it has got is safe as
    /// far as it promises. Says how much the journal speaks of.
    async fn fetch_and_kill(&self, task: &Value, bytes: u64, settle: bool) -> u64 {
        let cache = Path::new(task["cache"].as_str().unwrap()).to_owned();
        let before = journalled(&cache);
        self.gate.stop_after(bytes);
        let mut child = start(task);
        let served = until(|| self.gate.served_so_far() >= bytes).await;
        let safe = before + bytes.saturating_sub(WINDOW);
        let settled = !settle || until(|| journalled(&cache) >= safe).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(served, "the child did not get so far");
        assert!(until(|| !self.gate.is_busy()).await, "its connections end");
        let durable = journalled(&cache);
        assert!(
            settled,
            "{bytes} after {before}, and only {durable} are safe"
        );
        self.gate.served();
        durable
    }

    /// A last process, which is not killed: it fetches what is missing and nothing else.
    fn finish(&self, task: &Value, durable: u64) {
        self.gate.stop_after(u64::MAX);
        assert!(start(task).wait().unwrap().success());
        let served = self.gate.served();
        let most = self.model.total_size() - durable + SLACK;
        assert!(served <= most, "{served} served after {durable}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_next_process_goes_on_at_the_journalled_byte() {
    let Some(world) = s3().await else {
        return;
    };
    let cut = |seed: u64| {
        let bytes: [u8; 8] = pattern(8, seed * 0x9e37_79b9).try_into().unwrap();
        u64::from_le_bytes(bytes) % (12 << 20)
    };
    for round in 1..=3 {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("cache");
        let cache = ModelCache::open(&dir).unwrap();
        let model = match round % 2 {
            0 => unsealed(&world.model),
            _ => world.model.clone(),
        };
        let task = world.task(&model, &dir);
        // One kill at an odd moment, one when the process stands still.
        let first = world.fetch_and_kill(&task, cut(round), false).await;
        let second = world
            .fetch_and_kill(&task, WINDOW + (12 << 20) + cut(round + 100), true)
            .await;
        assert!(second >= first, "{second} after {first}");
        world.finish(&task, second);
        assert!(cache.contains(&model).unwrap());
        let store = ModelStore::open(model.url(), &client(&task)).unwrap();
        let options = FetchOptions::default().with_rehash(true);
        let cached = cache
            .fetch(&store, &model, &options, &|_| ())
            .await
            .unwrap();
        assert_eq!(world.gate.served(), 0, "it is all here");
        assert_eq!(cached.model().tree_digest(), world.model.tree_digest());
        let found = std::fs::read(cached.path("weights").unwrap()).unwrap();
        assert!(found == world.data, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_want_one_model_fetch_it_once() {
    let Some(world) = azure().await else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("cache");
    let task = world.task(&world.model, &dir);
    let mut children = [start(&task), start(&task), start(&task)];
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let served = world.gate.served();
    assert!(served <= world.model.total_size() + 3 * SLACK, "{served}");
    assert!(
        ModelCache::open(&dir)
            .unwrap()
            .contains(&world.model)
            .unwrap()
    );
}
