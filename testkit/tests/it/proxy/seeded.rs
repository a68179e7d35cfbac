//! A small client by the book survives the seeded plans, and strict mode finds nothing in it.

use modelship_testkit::fault_proxy::{Kind, Plan};
use reqwest::Response;

use super::{Bench, digest};

const SIZE: usize = 300_000;
const CHUNK: usize = 100_000;
/// More than the requests that a plan can strike.
const TRIES: usize = 12;

/// An upload in chunks, which asks where it stands after every break.
struct Upload<'a> {
    bench: &'a Bench,
    /// Absolute.
    place: String,
    offset: usize,
}

impl Upload<'_> {
    /// Sends, and follows the `Location`; `None` when there is no answer.
    async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Option<Response> {
        let answer = self.bench.send(method, target, headers, body.to_vec());
        let answer = answer.await.ok()?;
        if let Some(place) = answer.headers().get("location") {
            let asked = answer.url().join(place.to_str().unwrap()).unwrap();
            self.place = asked.to_string();
        }
        Some(answer)
    }

    /// What the registry says that it has.
    fn shown(answer: &Response) -> Option<usize> {
        let range = answer.headers().get("range")?.to_str().ok()?;
        let last: usize = range.rsplit('-').next()?.parse().ok()?;
        Some(if last == 0 { 0 } else { last + 1 })
    }

    /// One chunk; whether it arrived.
    async fn chunk(&mut self, body: &[u8]) -> bool {
        let end = body.len().min(self.offset + CHUNK);
        let range = format!("{}-{}", self.offset, end - 1);
        let kind = ("Content-Type", "application/octet-stream");
        let headers = [kind, ("Content-Range", range.as_str())];
        let place = self.place.clone();
        let answer = self.send("PATCH", &place, &headers, &body[self.offset..end]);
        let answer = answer.await.filter(|answer| answer.status().is_success());
        match answer {
            // A Range that shows less is not to be trusted, but after the next question.
            Some(answer) if Self::shown(&answer).is_some_and(|shown| shown <= end) => {
                self.offset = end;
                true
            }
            _ => false,
        }
    }

    /// Where the session stands; whether it still is.
    async fn resume(&mut self) -> bool {
        for _ in 0..TRIES {
            let place = self.place.clone();
            let answer = self.send("GET", &place, &[], &[]).await;
            let Some(answer) = answer else { continue };
            match answer.status().as_u16() {
                204 => {
                    let shown = Self::shown(&answer);
                    self.offset = shown.unwrap_or_default();
                    return shown.is_some();
                }
                404 => return false,
                _ => {}
            }
        }
        false
    }

    /// From an opened session to the commit; whether it was made.
    async fn run(&mut self, body: &[u8], digest: &str) -> bool {
        while self.offset < body.len() {
            if !self.chunk(body).await && !self.resume().await {
                return false;
            }
        }
        let target = format!("{}&digest={digest}", self.place);
        let answer = self.send("PUT", &target, &[], &[]).await;
        answer.is_some_and(|answer| answer.status() == 201)
    }
}

/// Pushes a blob in the face of the plan; how often it began anew.
async fn push(bench: &Bench, body: &[u8]) -> Option<usize> {
    let digest = digest(body);
    let blob = format!("/v2/a/blobs/{digest}");
    for round in 0..TRIES {
        let seen = bench.send("HEAD", &blob, &[], Vec::new()).await;
        if seen.is_ok_and(|answer| answer.status() == 200) {
            return Some(round);
        }
        let mut upload = Upload {
            bench,
            place: String::new(),
            offset: 0,
        };
        let opened = upload.send("POST", "/v2/a/blobs/uploads/", &[], &[]).await;
        if !opened.is_some_and(|answer| answer.status() == 202) || upload.place.is_empty() {
            continue;
        }
        if !upload.run(body, &digest).await {
            let place = upload.place.clone();
            upload.send("DELETE", &place, &[], &[]).await;
        }
    }
    None
}

#[tokio::test]
async fn a_client_by_the_book_survives_and_is_not_blamed() {
    let mut struck = 0;
    for seed in 0..60 {
        let plan = Plan::seeded(seed, SIZE as u64);
        let Some(bench) = Bench::new(plan.clone()).await else {
            return;
        };
        let body = [vec![7; SIZE], seed.to_be_bytes().to_vec()].concat();
        let pushed = push(&bench, &body).await;
        let told = bench.proxy.exchanges().into_iter();
        let told: Vec<_> = told
            .map(|seen| (seen.kind, seen.body_bytes, seen.status))
            .collect();
        assert!(pushed.is_some(), "{seed}: {plan:?}\n{told:?}");
        let violations = bench.proxy.violations();
        assert_eq!(violations, [""; 0], "{seed}: {plan:?}\n{told:?}");
        let lost: u64 = bench
            .proxy
            .applied()
            .iter()
            .map(|fault| fault.session_bytes)
            .sum();
        let most = body.len() as u64 + lost;
        let sent = bench.proxy.body_bytes();
        assert!(
            sent <= most,
            "{seed}: sent {sent} of {most}: {plan:?}\n{told:?}"
        );
        assert!(!bench.proxy.exchanges_of(Kind::HeadBlob).is_empty());
        struck += bench.proxy.applied().len();
    }
    assert!(struck > 60, "only {struck} faults struck");
}
