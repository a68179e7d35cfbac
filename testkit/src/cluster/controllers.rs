//! The controller manager and the scheduler.

use std::time::Duration;

use super::pki::Pki;
use crate::process::{Launch, Process, client, free_port};
use crate::{Missing, Scratch, Tool, tool};

/// Starts both and waits until they call themselves healthy.
pub(super) async fn start(
    scratch: &Scratch,
    pki: &Pki,
    server: &str,
) -> Result<Vec<Process>, Missing> {
    let manager = [
        format!("--root-ca-file={}", pki.file("ca.crt")),
        format!("--service-account-private-key-file={}", pki.file("sa.key")),
        "--use-service-account-credentials=true".to_owned(),
        "--allocate-node-cidrs=false".to_owned(),
        // Their work is done by nobody here, or by the test's own load balancer.
        "--controllers=*,-nodeipam,-cloud-node-lifecycle,-service-lb-controller".to_owned(),
        "--node-monitor-grace-period=40s".to_owned(),
        "--horizontal-pod-autoscaler-sync-period=5s".to_owned(),
    ];
    let mut started = Vec::new();
    for (name, member, flags) in [
        ("kube-controller-manager", "controllers", manager.as_slice()),
        ("kube-scheduler", "scheduler", &[]),
    ] {
        let port = free_port();
        let process = Launch::new(name, tool::path(Tool::Kubernetes)?.join(name))?
            .args([format!(
                "--kubeconfig={}",
                pki.write_kubeconfig(server, member)?
            )])
            .args([format!(
                "--tls-cert-file={}",
                pki.file(&format!("{member}.crt"))
            )])
            .args([format!(
                "--tls-private-key-file={}",
                pki.file(&format!("{member}.key"))
            )])
            .args([format!("--secure-port={port}")])
            .args(["--bind-address=127.0.0.1", "--leader-elect=false"])
            .args(flags)
            .start(&scratch.join(format!("{member}.log")))?;
        started.push((process, format!("https://127.0.0.1:{port}/healthz")));
    }
    let client = client("kubernetes", Some(&pki.ca_pem()))?;
    let mut ready = Vec::new();
    for (mut process, health) in started {
        let healthy = || async {
            let answer = client.get(&health).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        process.wait_ready(Duration::from_mins(1), healthy).await?;
        ready.push(process);
    }
    Ok(ready)
}
