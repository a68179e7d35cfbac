//! Asks a release through its public address: the last step, and the one that users care about.

use std::time::Duration;

use modelship_deployer::Deployer;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::Stage;
use crate::config::Expose;
use crate::error::{Error, ErrorKind, Result};
use crate::event::StageTimer;
use crate::http;
use crate::pipeline::Pipeline;
use crate::release::Release;
use crate::target::Target;

/// How long a load balancer may take to get its address.
const ADDRESS_WITHIN: Duration = Duration::from_mins(5);
/// How long the first answer through a new address may take.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);
/// The Service's port.
const HTTP: u16 = 80;

/// Asks `release` through its address, where it has one that this machine can be asked to reach.
/// An answer that is wrong returns to the release before.
pub(crate) async fn release(pipeline: &Pipeline, release: &mut Release) -> Result<()> {
    let Target::Cluster { deployer, .. } = &pipeline.target else {
        return Ok(());
    };
    let exposed = pipeline.config.deploy.expose == Expose::LoadBalancer;
    if !pipeline.config.deploy.verify.unwrap_or(exposed) {
        return Ok(());
    }
    let timer = StageTimer::start(&pipeline.progress, Stage::Verify, &release.app);
    let address = address(deployer, &release.app).await?;
    match ask_until_right(pipeline, &address).await {
        Ok(()) => {
            release.address = Some(address.clone());
            release
                .stages
                .push(timer.finish(format!("http://{address} answers as it should")));
            Ok(())
        }
        Err(problem) => {
            let undone = pipeline.target.rollback(&release.app, &timer).await;
            let after = match undone {
                Ok(outcome) => format!("rolled back: {outcome}"),
                Err(error) => format!("and the rollback failed: {error}"),
            };
            Err(Error::new(ErrorKind::RolloutFailed, Stage::Verify, format!("http://{address}"), format!("{problem}; {after}"))
                .with_hint("the pods are ready but users are not served: look at the Service, the load balancer and the network policy"))
        }
    }
}

async fn address(deployer: &Deployer, app: &str) -> Result<String> {
    let address = deployer.wait_for_address(app, ADDRESS_WITHIN).await;
    address
        .map(|a| a.host)
        .map_err(|e| Error::step(Stage::Verify, app, e))
}

/// A new address may take a while to be routed: the question is repeated until the answer is
/// right or time is up.
async fn ask_until_right(pipeline: &Pipeline, address: &str) -> Result<(), String> {
    let started = Instant::now();
    loop {
        let problem = match ask_once(pipeline, address).await {
            Ok(()) => return Ok(()),
            Err(problem) => problem,
        };
        if started.elapsed() > ANSWER_WITHIN {
            return Err(format!(
                "{problem} (asked for {} s)",
                ANSWER_WITHIN.as_secs()
            ));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn ask_once(pipeline: &Pipeline, address: &str) -> Result<(), String> {
    let limit = Duration::from_secs(10);
    let connect = tokio::time::timeout(limit, TcpStream::connect((address, HTTP)));
    let stream = connect
        .await
        .map_err(|_| "no connection within 10 s".to_owned())?
        .map_err(|e| e.to_string())?;
    let Some(golden) = &pipeline.golden else {
        let readiness = &pipeline.config.app.readiness;
        let answer = http::ask(stream, address, readiness, None, limit)
            .await
            .map_err(|e| e.to_string())?;
        return if answer.status == 200 {
            Ok(())
        } else {
            Err(format!("{readiness} answered {}", answer.status))
        };
    };
    let answer = http::ask(stream, address, &golden.path, Some(&golden.request), limit).await;
    golden
        .judge(&answer.map_err(|e| e.to_string())?)
        .map(|_| ())
}
