//! One connection of the client: each request goes to the registry over a connection of its own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::plan::What;
use super::record::Shared;
use super::rewrite;
use super::route::{Kind, Route};
use super::strict::MANIFEST_BYTES;
use crate::http::{Answer, Request};
use crate::http::{Body, Wire, as_chunk};

/// What follows a request on the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next request.
    Again,
    /// The end, after the client has read the answer.
    Close,
    /// A RST.
    Reset,
}

/// One request and what is to happen to it.
pub(super) struct Turn<'a> {
    pub(super) shared: &'a Shared,
    pub(super) host: usize,
    pub(super) index: usize,
    pub(super) request: Request,
    pub(super) route: Route,
    pub(super) faults: Vec<What>,
}

/// How far a request's body got.
enum Pumped {
    /// To its end.
    Whole,
    /// To the fault's limit.
    Cut,
    /// The registry answered, or ended the connection, before the end.
    Early,
}

/// Where a request's body is cut.
struct Limit {
    bytes: u64,
    then: Then,
    what: What,
}

enum Then {
    Reset,
    Stall(Duration),
    Refuse(u16),
}

/// Serves a connection of the client to its end.
pub(super) async fn serve(stream: TcpStream, host: usize, shared: Arc<Shared>) {
    let mut client = Wire::new(stream);
    loop {
        let next = match client.reader().head().await {
            Ok(Some(head)) => exchange(&mut client, &head, host, &shared).await,
            Ok(None) => return,
            Err(error) => Err(error),
        };
        match next {
            Ok(Next::Again) => {}
            Ok(Next::Close) => return client.linger().await,
            Ok(Next::Reset) | Err(_) => return client.reset(),
        }
    }
}

async fn exchange(
    client: &mut Wire,
    head: &[u8],
    host: usize,
    shared: &Shared,
) -> io::Result<Next> {
    let request = match Request::parse(head) {
        Ok(request) => request,
        Err(reason) => {
            shared.violation(format!("RFC 9112: {reason}"));
            let refusal =
                "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            client.writer().send(refusal).await?;
            return Ok(Next::Close);
        }
    };
    let route = Route::of(&request.method, &request.target);
    let (index, faults) = shared.arrive(host, &request, &route);
    let mut turn = Turn {
        shared,
        host,
        index,
        request,
        route,
        faults,
    };
    if let Some(next) = turn.answer_itself(client).await? {
        return Ok(next);
    }
    turn.forward(client).await
}

impl Turn<'_> {
    pub(super) fn apply(&self, what: &What) {
        self.shared.apply(self.index, &self.route, what);
    }

    async fn forward(&mut self, client: &mut Wire) -> io::Result<Next> {
        let limit = self.limit();
        if let Some(limit) = limit.as_ref().filter(|limit| limit.bytes == 0) {
            return self.cut(client, limit).await;
        }
        let mut upstream = Wire::new(TcpStream::connect(self.shared.upstream).await?);
        if self.request.headers.get("expect").is_some() {
            client
                .writer()
                .send("HTTP/1.1 100 Continue\r\n\r\n")
                .await?;
            self.request.headers.remove("expect");
        }
        upstream.writer().send(self.upstream_head()).await?;
        let early = match self.pump(client, &mut upstream, limit.as_ref()).await? {
            Pumped::Whole => false,
            Pumped::Early => true,
            Pumped::Cut => {
                let Some(limit) = &limit else {
                    return Ok(Next::Reset);
                };
                let next = self.cut(client, limit).await;
                upstream.reset();
                return next;
            }
        };
        let Some(answer) = self.answer(&mut upstream).await? else {
            return Ok(Next::Reset);
        };
        self.shared.answered(self.index, &self.route, &answer);
        if let Some(what) = self.fault(|what| matches!(what, What::LoseAnswer)) {
            self.apply(&what);
            return Ok(Next::Reset);
        }
        self.pass_on(client, &mut upstream, answer, early).await
    }

    fn fault(&self, of: impl Fn(&What) -> bool) -> Option<What> {
        self.faults.iter().find(|what| of(what)).cloned()
    }

    /// The first place where the request's body is to be cut.
    fn limit(&self) -> Option<Limit> {
        let limits = self.faults.iter().filter_map(|what| {
            let (bytes, then) = match *what {
                What::ResetAfter(bytes) => (bytes, Then::Reset),
                What::StallAfter { bytes, time } => (bytes, Then::Stall(time)),
                // A known length has been looked at before.
                What::BodyCap { max, status } if self.request.body.is_chunked() => {
                    (max.saturating_add(1), Then::Refuse(status))
                }
                _ => return None,
            };
            let what = what.clone();
            Some(Limit { bytes, then, what })
        });
        limits.min_by_key(|limit| limit.bytes)
    }

    async fn cut(&self, client: &mut Wire, limit: &Limit) -> io::Result<Next> {
        self.apply(&limit.what);
        match limit.then {
            Then::Reset => Ok(Next::Reset),
            Then::Stall(time) => {
                tokio::time::sleep(time).await;
                Ok(Next::Reset)
            }
            Then::Refuse(status) => self.reply(client, status, Vec::new(), true).await,
        }
    }

    /// The request's head as the registry gets it.
    fn upstream_head(&self) -> String {
        let mut request = self.request.clone();
        let lacks = request.headers.get("authorization").is_none();
        if let Some(value) = self
            .shared
            .authorization()
            .filter(|_| self.host == 1 && lacks)
        {
            request.headers.set("authorization", value);
        }
        request.write()
    }

    /// Sends the request's body on, until its end or its limit, or until the registry answers.
    async fn pump(
        &mut self,
        client: &mut Wire,
        upstream: &mut Wire,
        limit: Option<&Limit>,
    ) -> io::Result<Pumped> {
        let (mut answer, writer) = upstream.halves();
        let mut reader = client.reader();
        let (shared, index, route) = (self.shared, self.index, &self.route);
        let body = &mut self.request.body;
        let chunked = body.is_chunked();
        let mut manifest = (route.kind == Kind::PutManifest).then(Vec::new);
        let copy = async {
            let mut left = limit.map_or(u64::MAX, |limit| limit.bytes);
            while let Some(data) = body.next(&mut reader, left).await? {
                let size = data.len() as u64;
                shared.took(index, route, size, true);
                if let Some(manifest) = manifest.as_mut().filter(|m| m.len() <= MANIFEST_BYTES) {
                    manifest.extend_from_slice(&data);
                }
                let data = if chunked { as_chunk(&data) } else { data };
                if writer.send(data).await.is_err() {
                    return Ok(Pumped::Early);
                }
                left -= size;
                if left == 0 {
                    return Ok(Pumped::Cut);
                }
            }
            if chunked && writer.send("0\r\n\r\n").await.is_err() {
                return Ok(Pumped::Early);
            }
            Ok::<_, io::Error>(Pumped::Whole)
        };
        let done = tokio::select! {
            biased;
            done = copy => done,
            _ = answer.fill() => Ok(Pumped::Early),
        }?;
        if let (Pumped::Whole, Some(manifest)) = (&done, manifest) {
            shared.manifest(index, &self.request, route, &manifest);
        }
        Ok(done)
    }

    /// The head of the registry's answer; `None` when there is none.
    async fn answer(&self, upstream: &mut Wire) -> io::Result<Option<Answer>> {
        loop {
            let Some(head) = upstream.reader().head().await? else {
                return Ok(None);
            };
            let answer = Answer::parse(&head, &self.request.method).map_err(io::Error::other)?;
            if answer.status >= 200 {
                return Ok(Some(answer));
            }
        }
    }

    async fn pass_on(
        &mut self,
        client: &mut Wire,
        upstream: &mut Wire,
        mut answer: Answer,
        early: bool,
    ) -> io::Result<Next> {
        for what in rewrite::rewrite(self, &mut answer) {
            self.apply(&what);
        }
        let mut left = u64::MAX;
        let mut corrupt = None;
        for what in self.faults.clone() {
            match what {
                What::TruncateAnswer(bytes) if answer.body != Body::Done => left = bytes,
                What::CorruptAnswer(at) if answer.body != Body::Done => corrupt = Some(at),
                _ => continue,
            }
            self.apply(&what);
        }
        if early {
            answer.headers.set("Connection", "close");
        }
        self.shared
            .tell(self.index, &self.route, answer.status, &answer.headers);
        let closes = early || left < u64::MAX || answer.closes() || self.request.closes();
        client.writer().send(answer.write()).await?;
        let (chunked, mut sent) = (answer.body.is_chunked(), 0);
        let writer = client.writer();
        while left > 0 {
            let Some(data) = answer.body.next(&mut upstream.reader(), left).await? else {
                break;
            };
            let data = rewrite::corrupt(data, corrupt.and_then(|at| at.checked_sub(sent)));
            left -= data.len() as u64;
            sent += data.len() as u64;
            writer
                .send(if chunked { as_chunk(&data) } else { data })
                .await?;
        }
        if chunked && left > 0 {
            writer.send("0\r\n\r\n").await?;
        }
        Ok(if closes { Next::Close } else { Next::Again })
    }
}
