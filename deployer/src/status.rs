//! What runs, and where users reach it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::Kind;
use crate::deployer::Deployer;
use crate::error::{Error, ErrorKind, Result};
use crate::evidence;
use crate::observe::{DeploymentView, items, text};
use crate::outcome::{Address, AppStatus};
use crate::record;
use crate::release::observe;
use crate::rollout::{Progress, image_of_deployment};
use crate::spec::check_app_name;

impl Deployer {
    /// What runs of `app`; `None` when it has no Deployment.
    ///
    /// # Errors
    /// `Invalid` for a name that is none, and what the cluster answers.
    pub async fn status(&self, app: &str) -> Result<Option<AppStatus>> {
        const STAGE: &str = "read status";
        check_app_name(app)?;
        let Some(deployment) = self.cluster.get(STAGE, Kind::Deployment, app).await? else {
            return Ok(None);
        };
        let view = DeploymentView::from_json(&deployment);
        let seen = observe(&self.cluster, app).await?;
        let service = self.cluster.get(STAGE, Kind::Service, app).await?;
        let history = record::history(&self.cluster, app).await?;
        let annotations = deployment
            .pointer("/metadata/annotations")
            .cloned()
            .unwrap_or_default();
        Ok(Some(AppStatus {
            image: image_of_deployment(&deployment),
            revision: view.revision,
            replicas: Progress {
                desired: view.desired,
                updated: view.updated,
                ready: seen.serving.len() as u64,
                available: view.available,
            },
            address: service.as_ref().and_then(|service| self.address(service)),
            annotations: serde_json::from_value::<BTreeMap<_, _>>(annotations).unwrap_or_default(),
            last: history.into_iter().next().map(|stored| stored.release),
        }))
    }

    /// Waits until `app` has an address: at once inside the cluster, and as soon as the cloud has
    /// made one for a load balancer.
    ///
    /// # Errors
    /// `NotFound` when there is no Service, `Timeout` with the cloud's own words when no address
    /// came within `timeout`.
    pub async fn wait_for_address(&self, app: &str, timeout: Duration) -> Result<Address> {
        const STAGE: &str = "wait for address";
        check_app_name(app)?;
        let begin = Instant::now();
        loop {
            match self.cluster.get(STAGE, Kind::Service, app).await {
                Ok(Some(service)) => {
                    if let Some(address) = self.address(&service) {
                        return Ok(address);
                    }
                }
                Ok(None) => {
                    return Err(
                        Error::new(ErrorKind::NotFound, STAGE, app, "it has no Service")
                            .with_hint("release it first"),
                    );
                }
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error),
            }
            if begin.elapsed() >= timeout {
                return Err(self.no_address(app, timeout).await);
            }
            tokio::time::sleep(
                self.limits
                    .poll
                    .min(timeout.saturating_sub(begin.elapsed())),
            )
            .await;
        }
    }

    /// The Service's events name what the cloud refuses, such as a DNS label in use.
    async fn no_address(&self, app: &str, timeout: Duration) -> Error {
        let events: Vec<String> = evidence::events(&self.cluster, app, "")
            .await
            .into_iter()
            .filter(|event| event.starts_with("service/"))
            .collect();
        let mut detail = format!("no address within {} s", timeout.as_secs());
        if let Some(last) = events.last() {
            detail = format!("{detail}; {last}");
        }
        Error::new(ErrorKind::Timeout, "wait for address", app, detail)
            .with_hint("check that the cluster has a cloud load balancer and quota for an address")
    }

    fn address(&self, service: &Value) -> Option<Address> {
        let port = service
            .pointer("/spec/ports/0/port")
            .and_then(Value::as_u64);
        let port = port.and_then(|port| u16::try_from(port).ok())?;
        if text(service, "/spec/type") != "LoadBalancer" {
            let (name, namespace) = (text(service, "/metadata/name"), self.cluster.namespace());
            let host = format!("{name}.{namespace}.svc");
            return Some(Address {
                host,
                port,
                internal: true,
            });
        }
        let mut hosts = items(service, "/status/loadBalancer/ingress")
            .flat_map(|ingress| [text(ingress, "/hostname"), text(ingress, "/ip")])
            .filter(|host| !host.is_empty());
        hosts.next().map(|host| Address {
            host,
            port,
            internal: false,
        })
    }
}
