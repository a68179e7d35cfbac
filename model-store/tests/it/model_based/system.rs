//! The system under test: the clients, and what must hold after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use modelship_model_store::{
    Error, ErrorKind, GcOptions, ModelStore, ModelVersion, Move, Note, PointerName, PublishOptions,
    RetractOptions, Selector,
};
use object_store::path::Path;
use proptest_state_machine::StateMachineTest;

use super::faulty::{Faults, Faulty, Plan};
use super::world::World;
use super::{
    CLIENTS, CONTENTS, Op, Place, Script, Step, content_digest, content_dir, content_files,
};
use crate::fixtures::read;

/// One client: its own handle, and the locks it has.
struct Client {
    store: ModelStore,
    faults: Arc<Faults>,
    locks: BTreeMap<String, ModelVersion>,
}

pub(crate) struct System {
    place: Place,
    clients: Vec<Client>,
    world: World,
    /// The versions of holds that were granted and not touched since, and locks that must be
    /// readable.
    held: BTreeMap<String, (String, ModelVersion)>,
}

/// How an operation ended; nothing when its requests hung and it was dropped.
type Ended = Option<Result<Option<Move>, Error>>;

impl StateMachineTest for System {
    type SystemUnderTest = Self;
    type Reference = Script;

    fn init_test(place: &Option<Place>) -> Self {
        let place = place.clone().unwrap();
        let client = |_| {
            let faults = Arc::new(Faults::default());
            let inner = Arc::clone(&place.raw);
            let store = Faulty {
                inner,
                faults: Arc::clone(&faults),
            };
            let root = Path::parse(&place.root).unwrap();
            let url = "memory://digits".parse().unwrap();
            Client {
                store: ModelStore::with_object_store(url, Arc::new(store), root),
                faults,
                locks: BTreeMap::new(),
            }
        };
        let runtime = Arc::clone(&place.runtime);
        let world = runtime.block_on(World::read(place.raw.as_ref(), &place.root));
        Self {
            clients: (0..CLIENTS).map(client).collect(),
            world,
            held: BTreeMap::new(),
            place,
        }
    }

    fn apply(mut state: Self, _: &Option<Place>, step: Step) -> Self {
        let runtime = Arc::clone(&state.place.runtime);
        runtime.block_on(async {
            match step {
                Step::One(who, op, plan) => state.one(who, &op, plan).await,
                Step::Two(racers) => state.two(racers).await,
            }
        });
        state
    }

    fn check_invariants(state: &Self, _: &Option<Place>) {
        let runtime = Arc::clone(&state.place.runtime);
        runtime.block_on(async {
            state.check_pointers().await;
            state.check_versions().await;
            state.check_holds().await;
        });
    }
}

/// Runs an operation until it ends or hangs.
async fn perform(client: &mut Client, op: &Op, plan: Plan) -> Ended {
    let faults = Arc::clone(&client.faults);
    faults.plan(plan);
    let ended = tokio::select! {
        biased;
        ended = execute(&client.store, &client.locks, op) => Some(ended),
        () = faults.hung() => None,
    };
    faults.plan(Plan::default());
    // Locks are kept from when they were fresh: later on, they are old.
    if let (Op::Learn(version) | Op::Publish { version, .. }, Some(Ok(_))) = (op, &ended)
        && let Ok(model) = client
            .store
            .resolve(&Selector::Version(version.clone()))
            .await
    {
        client.locks.insert(version.clone(), model);
    }
    ended
}

async fn execute(
    store: &ModelStore,
    locks: &BTreeMap<String, ModelVersion>,
    op: &Op,
) -> Result<Option<Move>, Error> {
    let note = Note::default();
    match op {
        Op::Publish {
            version,
            content,
            latest,
        } => {
            let options = PublishOptions::default().with_move_latest(*latest);
            let published = store
                .publish(content_dir(*content), version, options, &drop)
                .await;
            published.map(|_| None)
        }
        Op::Promote { pointer, version } => store.promote(pointer, version, &note).await,
        Op::Rollback(pointer) => store.rollback(pointer, &note).await,
        Op::Delete(alias) => store.delete_alias(alias, &note).await.map(|()| None),
        Op::Retract { version, force } => {
            let options = RetractOptions::default().with_move_aliases(*force);
            store.retract(version, &options).await.map(|_| None)
        }
        Op::Hold { name, version } => match locks.get(version) {
            Some(model) => store.hold(name, model, &note).await.map(|()| None),
            None => Ok(None),
        },
        Op::Release(name) => store.release_hold(name, &note).await.map(|()| None),
        Op::Collect {
            keep_last,
            retracted,
        } => {
            // A day on, nothing is young, not even the mark of another collection.
            let mut options = GcOptions::new(SystemTime::now() + Duration::from_hours(25));
            options.keep_last = *keep_last;
            options.retracted_after = retracted.then_some(Duration::ZERO);
            store.gc(&options).await.map(|_| None)
        }
        Op::Learn(version) => {
            let found = store.resolve(&Selector::Version(version.clone())).await;
            found.map(|_| None).or(Ok(None))
        }
    }
}

impl System {
    async fn observe(&self) -> World {
        World::read(self.place.raw.as_ref(), &self.place.root).await
    }

    /// One client's operation; if nobody disturbs it, it does what the model does.
    async fn one(&mut self, who: usize, op: &Op, plan: Plan) {
        let disturbed = plan.fault.is_some();
        let lock = self.lock_of(who, op);
        let ended = perform(&mut self.clients[who], op, plan).await;
        let after = self.observe().await;
        if disturbed {
            self.check_touched(&after, &[op]);
        } else {
            let mut expected = self.world.clone();
            let named = lock
                .as_ref()
                .map(|lock| (lock.version().into(), lock.tree_digest().into()));
            let verdict = expected.apply(op, named.as_ref());
            let said = ended.as_ref().unwrap();
            let right = match (said, &verdict) {
                (Ok(_), Ok(())) => true,
                (Err(error), Err(kinds)) => kinds.contains(&error.kind()),
                _ => false,
            };
            assert!(
                right,
                "{op:?}: {said:?}, not {verdict:?}, in {:#?}",
                self.world
            );
            assert_eq!(after, expected, "{op:?} in {:#?}", self.world);
        }
        let granted = matches!(ended, Some(Ok(_)));
        self.settle(op, lock, granted, &after).await;
        self.world = after;
    }

    /// Two operations at the same time: each does its own and nothing else, and who was told that
    /// a pointer moved finds that move in its history.
    async fn two(&mut self, [one, two]: [(usize, Op, Plan); 2]) {
        let locks = [self.lock_of(one.0, &one.1), self.lock_of(two.0, &two.1)];
        let [first, second] = self.clients.get_disjoint_mut([one.0, two.0]).unwrap();
        let (first, second) = tokio::join!(
            perform(first, &one.1, one.2),
            perform(second, &two.1, two.2)
        );
        let after = self.observe().await;
        self.check_touched(&after, &[&one.1, &two.1]);
        for ((op, ended), lock) in [(&one.1, first), (&two.1, second)].into_iter().zip(locks) {
            let ended = ended.unwrap();
            match &ended {
                Ok(Some(moved)) => {
                    let (Op::Promote { pointer, .. } | Op::Rollback(pointer)) = op else {
                        unreachable!("nothing else tells of moves");
                    };
                    let story = &after.pointers[pointer];
                    let found = story
                        .iter()
                        .filter(|entry| entry.sequence == moved.sequence);
                    assert_eq!(found.count(), 1, "{moved:?} in {story:?}");
                }
                Ok(None) => {}
                Err(error) => {
                    let expected = [
                        ErrorKind::Conflict,
                        ErrorKind::NotFound,
                        ErrorKind::Retracted,
                        ErrorKind::Changed,
                    ];
                    assert!(expected.contains(&error.kind()), "{op:?}: {error:?}");
                }
            }
            self.settle(op, lock, ended.is_ok(), &after).await;
        }
        self.world = after;
    }

    fn lock_of(&self, who: usize, op: &Op) -> Option<ModelVersion> {
        match op {
            Op::Hold { version, .. } => self.clients[who].locks.get(version).cloned(),
            _ => None,
        }
    }

    /// Keeps account of the holds that were granted.
    async fn settle(&mut self, op: &Op, lock: Option<ModelVersion>, granted: bool, after: &World) {
        let (Op::Hold { name, .. } | Op::Release(name)) = op else {
            return;
        };
        match lock {
            Some(lock) if granted => {
                let version = lock.version().to_owned();
                let lock = self.refreshed(lock).await;
                self.held.insert(name.clone(), (version, lock));
            }
            // Cut off before it was told, a hold may have gone on to its version.
            Some(lock) if after.holds.get(name) == Some(&[lock.version().to_owned()].into()) => {
                self.held.remove(name);
            }
            None if matches!(op, Op::Release(_)) => {
                self.held.remove(name);
            }
            _ => {}
        }
    }

    /// The same version, locked now: it may have been removed and published again with the same
    /// bytes since, which a hold does not mind and a reader is told.
    async fn refreshed(&self, lock: ModelVersion) -> ModelVersion {
        let store = &self.clients[2].store;
        match read(store, &lock, "a").await {
            Ok(_) => lock,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Changed, "{error:?}");
                let again = Selector::Version(lock.version().to_owned());
                match store.resolve(&again).await {
                    Ok(again) => again,
                    Err(_) => store
                        .resolve(&lock.tree_digest().parse().unwrap())
                        .await
                        .unwrap(),
                }
            }
        }
    }

    /// Whatever became of these operations, everything else is as it was, and histories grew.
    fn check_touched(&self, after: &World, ops: &[&Op]) {
        let before = &self.world;
        let collects = ops.iter().any(|op| matches!(op, Op::Collect { .. }));
        let retracted: BTreeSet<String> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Retract { version, .. } => Some(version.clone()),
                _ => None,
            })
            .collect();
        for (version, digest) in &after.complete {
            let known = before.complete.get(version);
            let published = ops.iter().any(|op| {
                matches!(op, Op::Publish { version: v, content, .. }
                if v == version && content_digest(*content) == *digest)
            });
            assert!(
                known == Some(digest) || (published && (known.is_none() || collects)),
                "{version}"
            );
        }
        if !collects {
            let gone = before
                .complete
                .keys()
                .find(|version| !after.complete.contains_key(*version));
            assert_eq!(gone, None);
            assert_eq!(before.marks, after.marks);
        }
        assert!(before.retracted.is_subset(&after.retracted));
        assert!(
            after
                .retracted
                .difference(&before.retracted)
                .all(|version| retracted.contains(version))
        );
        self.check_touched_names(after, ops);
    }

    fn check_touched_names(&self, after: &World, ops: &[&Op]) {
        let before = &self.world;
        for (pointer, story) in &after.pointers {
            let known = &before.pointers[pointer];
            assert!(
                story.starts_with(known),
                "{pointer}: {known:?}, then {story:?}"
            );
            let allowed = ops.iter().any(|op| match op {
                Op::Publish { .. } => *pointer == PointerName::Latest,
                Op::Promote { pointer: p, .. } | Op::Rollback(p) => p == pointer,
                Op::Delete(alias) => *pointer == PointerName::Alias(alias.clone()),
                Op::Retract { .. } => true,
                _ => false,
            });
            assert!(
                allowed || story == known,
                "{pointer}: {known:?}, then {story:?}"
            );
        }
        for name in before.holds.keys().chain(after.holds.keys()) {
            let allowed = ops
                .iter()
                .any(|op| matches!(op, Op::Hold { name: n, .. } | Op::Release(n) if n == name));
            assert!(
                allowed || before.holds.get(name) == after.holds.get(name),
                "{name}"
            );
        }
    }

    /// No pointer dangles; what is resolved is complete, not retracted, and reads bit by bit.
    async fn check_pointers(&self) {
        let store = &self.clients[0].store;
        for pointer in self.world.pointers.keys() {
            let found = store.resolve(&pointer.selector()).await;
            let named = self.world.target(pointer);
            if let Some(named) = named {
                assert!(
                    self.world.complete.contains_key(named),
                    "{pointer} names {named}"
                );
            }
            let expected = match (named, pointer) {
                (None, PointerName::Latest) => self.world.highest().map(String::as_str),
                (named, _) => named,
            };
            match expected {
                Some(version) if self.world.retracted.contains(version) => {
                    assert_eq!(found.unwrap_err().kind(), ErrorKind::Retracted);
                }
                Some(version) => {
                    let model = found.unwrap();
                    assert_eq!(model.version(), version);
                    self.check_bytes(&model).await;
                }
                None => assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound),
            }
            let told = store.history(pointer, usize::MAX).await.unwrap();
            let told: Vec<u64> = told.iter().rev().map(|entry| entry.sequence).collect();
            let real = self.world.pointers[pointer].iter();
            assert_eq!(told, real.map(|entry| entry.sequence).collect::<Vec<_>>());
        }
    }

    /// A version by its name, unless it is retracted; by its digest always.
    async fn check_versions(&self) {
        let store = &self.clients[1].store;
        for (version, digest) in &self.world.complete {
            let named = store.resolve(&Selector::Version(version.clone())).await;
            if self.world.retracted.contains(version) {
                assert_eq!(named.unwrap_err().kind(), ErrorKind::Retracted);
            } else {
                self.check_bytes(&named.unwrap()).await;
            }
            let model = store
                .resolve(&Selector::Digest(digest.clone()))
                .await
                .unwrap();
            assert_eq!(model.tree_digest(), digest);
            self.check_bytes(&model).await;
        }
        for version in self
            .world
            .claims
            .keys()
            .filter(|v| !self.world.complete.contains_key(*v))
        {
            assert!(
                store
                    .resolve(&Selector::Version(version.clone()))
                    .await
                    .is_err()
            );
        }
        let listed = store.versions().await.unwrap();
        assert_eq!(
            listed,
            self.world.complete.keys().cloned().collect::<Vec<_>>()
        );
    }

    /// What a granted hold holds can be read with the lock it was granted for.
    async fn check_holds(&self) {
        for (name, (version, lock)) in &self.held {
            let held = &self.world.holds[name];
            assert!(held.contains(version), "{name}: {held:?}, not {version}");
            assert!(self.world.complete.contains_key(version), "{version}");
            self.check_bytes(lock).await;
        }
    }

    async fn check_bytes(&self, model: &ModelVersion) {
        let content = (0..CONTENTS).find(|content| content_digest(*content) == model.tree_digest());
        let files = content_files(content.unwrap());
        assert_eq!(model.files().len(), files.len());
        for (path, bytes) in files {
            let found = read(&self.clients[2].store, model, path).await.unwrap();
            assert_eq!(found, bytes, "{path} of {}", model.version());
        }
    }
}
