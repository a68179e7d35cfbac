//! A registry that speaks TLS and sends its readers to plain HTTP, as one with a wrongly set
//! storage middleware does.

use std::time::Duration;

use futures::TryStreamExt as _;
use modelship_registry::{Credentials, Error, ErrorKind, Repository};
use modelship_testkit::process::{Launch, Process};
use modelship_testkit::tls::{Authority, Subject};
use modelship_testkit::{Missing, Scratch, Tool, free_port, need, tool};
use serde_json::json;

use crate::images::{digest, noise, options, source};
use crate::server::{Reply, Server};

struct Registry {
    host: String,
    ca_pem: String,
    _process: Process,
    _scratch: Scratch,
}

async fn redirecting(to: &str) -> Result<Registry, Missing> {
    let program = tool::path(Tool::DockerRegistry)?;
    let scratch = Scratch::new().unwrap();
    let port = free_port();
    let authority = Authority::new()?;
    let subject = Subject {
        name: "registry",
        hosts: &["127.0.0.1"],
        ..Subject::default()
    };
    let (certificate, key) = authority
        .issue(&subject)?
        .write(scratch.path(), "registry")?;
    let config = json!({
        "version": "0.1",
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": scratch.join("storage")}},
        "http": {
            "addr": format!("127.0.0.1:{port}"),
            "tls": {"certificate": certificate, "key": key},
        },
        "middleware": {"storage": [{"name": "redirect", "options": {"baseurl": to}}]},
    });
    let file = scratch.join("config.yml");
    std::fs::write(&file, config.to_string()).unwrap();
    let mut process = Launch::new("docker-registry", program)?
        .args(["serve".as_ref(), file.as_os_str()])
        .current_dir(scratch.path())
        .start(&scratch.join("registry.log"))?;
    let answers = || async {
        tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .is_ok()
    };
    process.wait_ready(Duration::from_secs(30), answers).await?;
    Ok(Registry {
        host: format!("127.0.0.1:{port}"),
        ca_pem: authority.pem(),
        _process: process,
        _scratch: scratch,
    })
}

#[tokio::test]
async fn a_download_does_not_leave_tls() {
    let data = noise(1000, 1);
    let served = data.to_vec();
    let plain = Server::start(move |_, _| Reply::Answer(200, Vec::new(), served.clone())).await;
    let Some(registry) = need(redirecting(&plain.url("/")).await) else {
        return;
    };
    let mut options = options();
    options.extra_ca_pem = vec![registry.ca_pem.as_bytes().to_vec()];
    let name = format!("{}/team/app", registry.host);
    let repository = Repository::new(&name, Credentials::basic("me", "hunter2"), options).unwrap();
    let pushed = repository
        .push_blob(&source(&data, data.len()), &|_| {})
        .await
        .unwrap();
    assert_eq!(pushed.digest(), &digest(&data));
    let read = repository.blob(&pushed, 0).try_for_each(async |_| Ok(()));
    let error = read.await.unwrap_err();
    let error = error.downcast_ref::<Error>().unwrap();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert!(error.hint().unwrap().contains("https"), "{error:?}");
    assert!(plain.seen().is_empty());
}
