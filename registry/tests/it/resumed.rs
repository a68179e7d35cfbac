//! A pushing process that is killed, and the one that comes after it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::Bytes;
use futures::StreamExt as _;
use modelship_registry::{
    Blob, Credentials, Descriptor, ErrorKind, Event, Profile, RegistryOptions, Repository,
};
use modelship_testkit::{DockerRegistry, Edition, Security, need};

use crate::images::{Events, LAYER, digest, noise, options};
use crate::server::{Reply, Seen, Server};

const CHILD: &str = "MODELSHIP_PUSH_CHILD";
const SIZE: usize = 24 << 20;
/// What may be on its way at the time of the kill: in sockets, and in the registry.
const WINDOW: u64 = 6 << 20;

fn journaled(folder: &Path) -> RegistryOptions {
    let mut options = options();
    options.journal = Some(folder.to_owned());
    let mut profile = Profile::distribution();
    profile.put_max = 0;
    options.profile = Some(profile);
    options
}

/// The model, which stops for ever before byte `until`.
fn model(until: usize, known: bool) -> Blob {
    let data = noise(SIZE, 7);
    let sum = known.then(|| digest(&data));
    let blob = Blob::new(LAYER, SIZE as u64, move |from| {
        let from = usize::try_from(from).unwrap();
        let rest = data.slice(from.min(until)..until);
        let pieces: Vec<_> = rest
            .chunks(100_000)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let more = futures::stream::iter(pieces);
        if until < SIZE {
            more.chain(futures::stream::pending()).boxed()
        } else {
            more.boxed()
        }
    });
    match sum {
        Some(sum) => blob.with_digest(sum),
        None => blob.with_identity("az://models/digits@3 tar/1"),
    }
}

/// Pushes until its source stops, says so, and waits to be killed. Only as a child of the tests
/// below.
#[tokio::test]
async fn child_that_waits_to_be_killed() {
    let Some(task) = std::env::var_os(CHILD) else {
        return;
    };
    let task = task.into_string().unwrap();
    let parts: Vec<&str> = task.split('|').collect();
    let until: usize = parts[1].parse().unwrap();
    let options = journaled(&PathBuf::from(parts[2]));
    let repository = Repository::new(parts[0], Credentials::anonymous(), options).unwrap();
    let report = |event| {
        if let Event::Uploading { done, .. } = event
            && done >= until as u64
        {
            println!("\nSTOPPED");
            std::io::stdout().flush().unwrap();
        }
    };
    let blob = model(until, parts[3] == "known");
    let _ = repository.push_blob(&blob, &report).await;
}

/// Lets a process push up to byte `until`, and kills it there.
fn push_and_kill(name: &str, until: usize, folder: &Path, known: bool) {
    let known = if known { "known" } else { "unknown" };
    let task = format!("{name}|{until}|{}|{known}", folder.display());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "resumed::child_that_waits_to_be_killed"])
        .arg("--nocapture")
        .env(CHILD, task)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let stopped = lines.find(|line| line.as_ref().is_ok_and(|line| line == "STOPPED"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(stopped.is_some(), "the child ended before it was killed");
}

/// The push after the kill.
async fn push(name: &str, folder: &Path, known: bool) -> (Descriptor, Events, Repository) {
    let credentials = Credentials::anonymous();
    let repository = Repository::new(name, credentials, journaled(folder)).unwrap();
    let events = Events::default();
    let pushed = repository
        .push_blob(&model(SIZE, known), &events.sink())
        .await
        .unwrap();
    (pushed, events, repository)
}

fn resumed(events: &Events) -> Option<u64> {
    events.all().into_iter().find_map(|event| match event {
        Event::Resumed { offset, .. } => Some(offset),
        _ => None,
    })
}

async fn kill_and_go_on(registry: &DockerRegistry, keeps: bool) {
    let scratch = tempfile::tempdir().unwrap();
    let data = noise(SIZE, 7);
    // Before the first byte moves, in the middle, and before the last.
    for (round, until) in [0, 1_234_567, 13 << 20, SIZE - 1].into_iter().enumerate() {
        let known = round % 2 == 1;
        let name = format!("{}/killed/{round}", registry.host());
        push_and_kill(&name, until, scratch.path(), known);
        let (pushed, events, repository) = push(&name, scratch.path(), known).await;
        assert_eq!(pushed.digest(), &digest(&data), "until {until}");
        assert!(repository.has_blob(pushed.digest()).await.unwrap());
        let files = std::fs::read_dir(scratch.path()).unwrap().count();
        assert_eq!(files, 0, "the note goes with the upload");
        let (offset, sent) = (resumed(&events).unwrap_or(0), events.sent());
        assert!(sent >= SIZE as u64 - offset, "until {until}");
        if keeps {
            let most = SIZE as u64 - until as u64 + WINDOW;
            assert!(sent < most, "until {until}: {sent} sent, from {offset}");
        }
    }
}

#[tokio::test]
async fn after_a_kill_a_registry_that_forgets_gets_it_all() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    kill_and_go_on(&registry, false).await;
}

#[tokio::test]
async fn after_a_kill_a_registry_that_keeps_sessions_gets_the_rest() {
    let registry = DockerRegistry::start(Edition::Distribution3, Security::Open).await;
    if let Some(registry) = need(registry) {
        kill_and_go_on(&registry, true).await;
    }
}

const SESSION: &str = "/v2/team/app/blobs/uploads/s1";

fn fine(seen: &Seen) -> Reply {
    match seen.method.as_str() {
        "POST" | "PATCH" => Reply::located(202, SESSION),
        "PUT" => Reply::status(201),
        "DELETE" => Reply::status(204),
        _ => Reply::status(404),
    }
}

#[tokio::test]
async fn a_failed_push_leaves_its_session_to_the_next_and_no_longer() {
    const KEPT: usize = 3 << 20;
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let down = std::sync::Arc::clone(&broken);
    let server = Server::start(move |seen, _| {
        let down = down.load(std::sync::atomic::Ordering::Relaxed);
        match seen.method.as_str() {
            "PATCH" if down => Reply::CutAfter(KEPT),
            "GET" if down => Reply::status(503),
            "GET" => Reply::Answer(204, vec![("Range", format!("0-{}", KEPT - 1))], Vec::new()),
            _ => fine(seen),
        }
    })
    .await;
    let scratch = tempfile::tempdir().unwrap();
    let name = format!("{}/team/app", server.host());
    let mut options = journaled(scratch.path());
    options.tries = 1;
    let repository = Repository::new(&name, Credentials::anonymous(), options).unwrap();
    let error = repository
        .push_blob(&model(SIZE, false), &|_| {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(server.count("DELETE", ""), 0);
    broken.store(false, std::sync::atomic::Ordering::Relaxed);
    let (pushed, events, _) = push(&name, scratch.path(), false).await;
    assert_eq!(pushed.digest(), &digest(&noise(SIZE, 7)));
    assert_eq!(resumed(&events), Some(KEPT as u64));
    assert_eq!(server.count("POST", ""), 1);
    // The same again finds no note.
    let (_, events, _) = push(&name, scratch.path(), false).await;
    assert_eq!(resumed(&events), None);
}

#[tokio::test]
async fn a_session_of_other_bytes_is_found_out_and_sent_anew() {
    let server = Server::start(|seen, before| match seen.method.as_str() {
        "GET" => Reply::Answer(204, vec![("Range", "0-1999999".to_owned())], Vec::new()),
        // It hashes what it has, and that is something else.
        "PUT" if !before.iter().any(|seen| seen.method == "PUT") => {
            let body = br#"{"errors":[{"code":"DIGEST_INVALID"}]}"#;
            Reply::Answer(400, Vec::new(), body.to_vec())
        }
        "PATCH" if before.iter().all(|seen| seen.method != "GET") => Reply::CutAfter(1 << 20),
        _ => fine(seen),
    })
    .await;
    let scratch = tempfile::tempdir().unwrap();
    let name = format!("{}/team/app", server.host());
    let mut options = journaled(scratch.path());
    options.tries = 1;
    let repository = Repository::new(&name, Credentials::anonymous(), options).unwrap();
    let failed = repository.push_blob(&model(SIZE, false), &|_| {}).await;
    assert!(failed.is_err());
    let (pushed, events, _) = push(&name, scratch.path(), false).await;
    assert_eq!(pushed.digest(), &digest(&noise(SIZE, 7)));
    assert_eq!(resumed(&events), Some(2_000_000));
    let last = server.seen();
    let last = last.iter().rfind(|seen| seen.method == "PATCH").unwrap();
    assert_eq!(last.body.len(), SIZE, "all of it");
}

#[tokio::test]
async fn an_outage_ends_the_push_and_not_its_session() {
    const KEPT: usize = 2 << 20;
    // The registry is gone between the break and the question where it stands.
    let server = Server::start(|seen, before| match seen.method.as_str() {
        "PATCH" if before.iter().all(|seen| seen.method != "PATCH") => Reply::CutAfter(KEPT),
        "GET" if before.iter().filter(|seen| seen.method == "GET").count() < 3 => {
            Reply::CutAfter(0)
        }
        "GET" => Reply::Answer(204, vec![("Range", format!("0-{}", KEPT - 1))], Vec::new()),
        _ => fine(seen),
    })
    .await;
    let scratch = tempfile::tempdir().unwrap();
    let name = format!("{}/team/app", server.host());
    let mut options = journaled(scratch.path());
    options.tries = 3;
    let repository = Repository::new(&name, Credentials::anonymous(), options).unwrap();
    let error = repository
        .push_blob(&model(SIZE, true), &|_| {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(
        (server.count("POST", ""), server.count("DELETE", "")),
        (1, 0)
    );
    let (pushed, events, _) = push(&name, scratch.path(), true).await;
    assert_eq!(pushed.digest(), &digest(&noise(SIZE, 7)));
    assert_eq!(resumed(&events), Some(KEPT as u64));
    assert_eq!(events.sent(), (SIZE - KEPT) as u64);
}
