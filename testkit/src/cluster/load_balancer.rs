//! What a cloud does for Services of type LoadBalancer: it gives them an address.

use std::fmt;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::api::Api;
use super::broken;
use crate::Missing;

/// Publishes the cluster address of each Service of type LoadBalancer as its outer address, which
/// on a node of ours the host reaches. Ends when dropped.
pub struct LoadBalancer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl LoadBalancer {
    /// Runs on a thread of its own: a test's runtime may end before the cluster that tests share.
    pub(super) fn start(api: Api) -> Result<Self, Missing> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(broken)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = serve(&api) => {}
                }
            });
        });
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

/// Watches again whenever a watch ends: the client limits how long one lasts.
async fn serve(api: &Api) {
    loop {
        if watch(api).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Without a version, a watch starts with what exists ("Get State and Start at Any").
async fn watch(api: &Api) -> Result<(), Missing> {
    let path = "/api/v1/services?watch=true&timeoutSeconds=20";
    let mut events = api.send(Method::GET, path, None).await?;
    let mut buffer = Vec::new();
    while let Some(chunk) = events.chunk().await.map_err(broken)? {
        buffer.extend_from_slice(&chunk);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).map_err(broken)?;
            publish(api, &event).await?;
        }
    }
    Ok(())
}

async fn publish(api: &Api, event: &Value) -> Result<(), Missing> {
    let service = &event["object"];
    let wanted = service["spec"]["type"] == "LoadBalancer" && event["type"] != "DELETED";
    let ingress = &service["status"]["loadBalancer"]["ingress"];
    let address = &service["spec"]["clusterIP"];
    let name = (
        service["metadata"]["namespace"].as_str(),
        service["metadata"]["name"].as_str(),
    );
    if let (true, true, (Some(namespace), Some(name))) = (wanted, ingress.is_null(), name) {
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}/status");
        let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": address }] } } });
        api.patch(&path, &status).await?;
    }
    Ok(())
}

impl Drop for LoadBalancer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for LoadBalancer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadBalancer").finish_non_exhaustive()
    }
}
