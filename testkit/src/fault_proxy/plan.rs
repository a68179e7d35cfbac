//! Which faults strike which requests.

use std::time::Duration;

use super::route::Kind;

/// The requests that a fault looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum On {
    /// Requests of one kind.
    Is(Kind),
    /// Those that carry bytes of a blob: `PATCH`, `PUT` of a session and `POST` with a body.
    UploadBody,
    /// All.
    Any,
}

impl From<Kind> for On {
    fn from(kind: Kind) -> Self {
        Self::Is(kind)
    }
}

/// What happens to a request that is struck.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// Both connections are reset once so many bytes of the request's body have come. A body that
    /// is shorter is not struck; 0 strikes before the first byte.
    ResetAfter(u64),
    /// So many bytes of the request's body are taken, none for that long, and then both
    /// connections are reset.
    StallAfter {
        /// Bytes of the request's body.
        bytes: u64,
        /// How long nothing happens.
        time: Duration,
    },
    /// The request waits that long before it goes on.
    Delay(Duration),
    /// The registry gets the whole request and answers; the client's connection is reset instead.
    LoseAnswer,
    /// The proxy answers; the registry never sees the request.
    Answer(Reply),
    /// 401, with the challenge that the registry would give. Of an open registry it is
    /// `Basic realm="testkit"`.
    Unauthorized,
    /// 416 to a `PATCH` or `PUT`, which the registry never sees.
    RangeNotSatisfiable,
    /// The `Range` of the answer shows so many bytes fewer than the registry has.
    StaleRange(u64),
    /// 201 where the registry answers 202, as ECR does for `PATCH`.
    CreatedOnPatch,
    /// The answer has no `Location`.
    MissingLocation,
    /// `Location` is a path with its query.
    RelativeLocation,
    /// `Location` is only the last part of its path with the query, to be resolved against the
    /// request (RFC 3986, section 5.2).
    BareLocation,
    /// `Location` is an absolute URL on the host that was asked.
    AbsoluteLocation,
    /// `Location` is an absolute URL on the proxy's other port: another host to the client.
    ForeignLocation,
    /// 307 to the same target on the other port, or on the same.
    Redirect {
        /// Whether it points to the other port.
        foreign: bool,
    },
    /// The mount is not made: the registry opens a session, and answers 202.
    MountRefused,
    /// 404 without a body, as of a registry without the referrers API.
    NoReferrers,
    /// The answer's body ends after so many bytes, and the connection with it.
    TruncateAnswer(u64),
    /// One byte of the answer's body is changed.
    CorruptAnswer(u64),
    /// Bodies longer than `max` are refused with `status`: 413, or 416 as GHCR does.
    BodyCap {
        /// Bytes.
        max: u64,
        /// The status of the refusal.
        status: u16,
    },
    /// The answer that opens a session has `OCI-Chunk-Min-Length`, and a chunk that follows a
    /// smaller one gets 416. To be used with [`On::Any`] and [`Fault::every`].
    MinChunk(u64),
}

/// An answer that the proxy gives by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Fields of its head.
    pub headers: Vec<(String, String)>,
    /// Whether it comes at once and ends the connection, instead of after the request's body.
    pub early: bool,
}

impl What {
    /// An answer with `status`, after the body of the request has been taken.
    pub fn status(status: u16) -> Self {
        Self::Answer(Reply {
            status,
            headers: Vec::new(),
            early: false,
        })
    }

    /// An answer with `status` that does not wait for the body and ends the connection.
    pub fn early_status(status: u16) -> Self {
        Self::Answer(Reply {
            status,
            headers: Vec::new(),
            early: true,
        })
    }

    /// 429 with `Retry-After` in seconds.
    pub fn too_many_requests(retry_after: u32) -> Self {
        Self::Answer(Reply {
            status: 429,
            headers: vec![("Retry-After".to_owned(), retry_after.to_string())],
            early: false,
        })
    }
}

/// A fault: the requests it looks at, which of them it strikes, and what it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub(super) on: On,
    pub(super) part: String,
    pub(super) first: u32,
    pub(super) times: u32,
    pub(super) what: What,
}

impl Fault {
    /// Strikes the first request that `on` looks at.
    pub fn new(on: impl Into<On>, what: What) -> Self {
        Self {
            on: on.into(),
            part: String::new(),
            first: 1,
            times: 1,
            what,
        }
    }

    /// Strikes the `n`th instead of the first, counted from 1.
    #[must_use]
    pub fn nth(mut self, n: u32) -> Self {
        self.first = n;
        self
    }

    /// Strikes so many in a row instead of one.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// Strikes all, from the first or the [nth](Self::nth).
    #[must_use]
    pub fn every(self) -> Self {
        self.times(u32::MAX)
    }

    /// Looks only at requests whose path and query contain `part`.
    #[must_use]
    pub fn target(mut self, part: impl Into<String>) -> Self {
        self.part = part.into();
        self
    }

    /// Whether it strikes the request that is the `count`th it looks at.
    pub(super) fn strikes(&self, count: u32) -> bool {
        count >= self.first && count - self.first < self.times
    }
}

/// The faults of a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub(super) faults: Vec<Fault>,
}

impl Plan {
    /// A proxy that only watches.
    pub fn none() -> Self {
        Self::default()
    }

    /// The given faults.
    pub fn of(faults: impl IntoIterator<Item = Fault>) -> Self {
        Self {
            faults: faults.into_iter().collect(),
        }
    }

    /// One fault more.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// The faults.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}
