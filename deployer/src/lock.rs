//! One release at a time: a lock on an application, held as a Lease and renewed while in use.
//!
//! A holder that dies stops renewing, and the next one takes over after the lease has run out.
//! Nothing is ever stuck.

use std::future::Future;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{self, Clock};
use crate::cluster::{Cluster, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::observe::text;
use crate::render::{MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL};

const STAGE: &str = "lock";

/// Who locks, and for how long at a time.
#[derive(Clone)]
pub(crate) struct Lock {
    pub(crate) cluster: Cluster,
    pub(crate) clock: Clock,
    pub(crate) holder: String,
    pub(crate) ttl: Duration,
}

impl Lock {
    /// Does `work` while the lock on `app` is held.
    ///
    /// # Errors
    /// `Conflict` when another holder has the lock or took it over; else what `work` returns.
    pub(crate) async fn hold<T>(
        &self,
        app: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let lease = self.acquire(app).await?;
        let mut held = Held {
            lock: self.clone(),
            lease: Some(lease),
        };
        let outcome = tokio::select! {
            outcome = work => outcome,
            lost = held.keep() => Err(lost),
        };
        if let Some(lease) = held.lease.take() {
            // The work is done whether or not the lease could be removed; it runs out by itself.
            let _ = self.release(&lease).await;
        }
        outcome
    }

    async fn acquire(&self, app: &str) -> Result<Value> {
        let name = lease_name(app);
        let Some(found) = self.cluster.get(STAGE, Kind::Lease, &name).await? else {
            let created = self
                .cluster
                .create(STAGE, Kind::Lease, &self.fresh(app))
                .await;
            return created.map_err(|error| lost_race(app, error));
        };
        let holder = text(&found, "/spec/holderIdentity");
        let seconds = found
            .pointer("/spec/leaseDurationSeconds")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        let renewed = text(&found, "/spec/renewTime");
        let expired = clock::has_passed(&renewed, Duration::from_secs(seconds), (self.clock)());
        if !holder.is_empty() && !expired {
            let detail = format!("{holder} is releasing it (last sign of life {renewed})");
            return Err(
                Error::new(ErrorKind::Conflict, STAGE, app, detail).with_hint(format!(
                    "wait until it is done; a holder that died loses the lock after {seconds} s"
                )),
            );
        }
        let mut taken = self.fresh(app);
        taken["metadata"]["resourceVersion"] = found["metadata"]["resourceVersion"].clone();
        let replaced = self.cluster.replace(STAGE, Kind::Lease, &taken).await;
        replaced.map_err(|error| lost_race(app, error))
    }

    fn fresh(&self, app: &str) -> Value {
        let now = clock::format((self.clock)());
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": lease_name(app),
                "namespace": self.cluster.namespace(),
                "labels": { NAME_LABEL: app, MANAGED_BY_LABEL: MANAGED_BY },
            },
            "spec": {
                "holderIdentity": self.holder,
                "leaseDurationSeconds": self.ttl.as_secs().max(1),
                "acquireTime": now,
                "renewTime": now,
            },
        })
    }

    async fn release(&self, lease: &Value) -> Result<()> {
        let version = text(lease, "/metadata/resourceVersion");
        let name = text(lease, "/metadata/name");
        self.cluster
            .delete("unlock", Kind::Lease, &name, Some(version))
            .await
    }
}

/// The lock while it is held; dropped before its time, it is given back in the background.
struct Held {
    lock: Lock,
    lease: Option<Value>,
}

impl Held {
    /// Renews until the lease is lost.
    async fn keep(&mut self) -> Error {
        loop {
            tokio::time::sleep(self.lock.ttl / 3).await;
            let Some(mut lease) = self.lease.clone() else {
                return Error::new(ErrorKind::Conflict, STAGE, "lease", "was given back");
            };
            lease["spec"]["renewTime"] = json!(clock::format((self.lock.clock)()));
            match self.lock.cluster.replace(STAGE, Kind::Lease, &lease).await {
                Ok(renewed) => self.lease = Some(renewed),
                // Out of touch, but perhaps still the holder: the next renewal decides.
                Err(error) if error.is_retryable() => {}
                Err(error) => {
                    self.lease = None;
                    return Error::new(ErrorKind::Conflict, STAGE, "lease", "the lock was lost")
                        .with_hint("another release took over; see who holds the Lease")
                        .with_source(error);
                }
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let (Some(lease), Ok(runtime)) =
            (self.lease.take(), tokio::runtime::Handle::try_current())
        {
            let lock = self.lock.clone();
            runtime.spawn(async move { lock.release(&lease).await });
        }
    }
}

fn lease_name(app: &str) -> String {
    format!("{app}-release")
}

fn lost_race(app: &str, error: Error) -> Error {
    if error.kind() != ErrorKind::Conflict {
        return error;
    }
    Error::new(
        ErrorKind::Conflict,
        STAGE,
        app,
        "another release took the lock just now",
    )
    .with_hint("wait until it is done")
    .with_source(error)
}
