//! etcd and the API server.

use std::time::Duration;

use super::api::Api;
use super::pki::Pki;
use crate::process::{Launch, Process, client, free_port};
use crate::{Missing, Scratch, Tool, tool};

/// The API server to be: its port and what depends on the tier.
pub(super) struct Server {
    port: u16,
    services: String,
    controllers: bool,
}

impl Server {
    /// Plans a server whose Services get addresses from the range `services`.
    pub(super) fn new(services: &str, controllers: bool) -> Self {
        Self {
            port: free_port(),
            services: services.to_owned(),
            controllers,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Starts both; the server is first in the list, as it has to end first.
    pub(super) async fn start(
        &self,
        scratch: &Scratch,
        pki: &Pki,
        api: &Api,
    ) -> Result<Vec<Process>, Missing> {
        let program = tool::path(Tool::Kubernetes)?.join("kube-apiserver");
        let (etcd, etcd_url) = start_etcd(scratch).await?;
        let mut server = Launch::new("kube-apiserver", program)?
            .args(self.flags(pki, &etcd_url))
            .args([format!(
                "--cert-dir={}",
                scratch.join("apiserver").display()
            )])
            .start(&scratch.join("apiserver.log"))?;
        server
            .wait_ready(Duration::from_mins(2), || api.is_ready())
            .await?;
        Ok(vec![server, etcd])
    }

    fn flags(&self, pki: &Pki, etcd_url: &str) -> Vec<String> {
        let file = |flag: &str, name: &str| format!("--{flag}={}", pki.file(name));
        let mut flags = vec![
            format!("--etcd-servers={etcd_url}"),
            format!("--secure-port={}", self.port),
            format!("--service-cluster-ip-range={}", self.services),
            file("tls-cert-file", "apiserver.crt"),
            file("tls-private-key-file", "apiserver.key"),
            file("client-ca-file", "ca.crt"),
            file("service-account-key-file", "sa.pub"),
            file("service-account-signing-key-file", "sa.key"),
            file("kubelet-client-certificate", "admin.crt"),
            file("kubelet-client-key", "admin.key"),
            file("kubelet-certificate-authority", "ca.crt"),
        ];
        let fixed = [
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            // It would refuse a loopback address as endpoint of the `kubernetes` Service.
            "--endpoint-reconciler-type=none",
            "--kubelet-preferred-address-types=InternalIP",
        ];
        flags.extend(fixed.map(str::to_owned));
        if !self.controllers {
            // Without controllers no namespace has the service account which it demands of pods.
            flags.push("--disable-admission-plugins=ServiceAccount".to_owned());
        }
        flags
    }
}

async fn start_etcd(scratch: &Scratch) -> Result<(Process, String), Missing> {
    let url = format!("http://127.0.0.1:{}", free_port());
    let peer = format!("http://127.0.0.1:{}", free_port());
    let mut etcd = Launch::new("etcd", tool::path(Tool::Etcd)?)?
        .args(["--data-dir".as_ref(), scratch.join("etcd").as_os_str()])
        .args([
            "--listen-client-urls",
            &url,
            "--advertise-client-urls",
            &url,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args([
            "--initial-cluster",
            &format!("default={peer}"),
            "--unsafe-no-fsync",
        ])
        .start(&scratch.join("etcd.log"))?;
    let client = client("etcd", None)?;
    let health = format!("{url}/health");
    let healthy = || async {
        let answer = client.get(&health).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    };
    etcd.wait_ready(Duration::from_mins(1), healthy).await?;
    Ok((etcd, url))
}
