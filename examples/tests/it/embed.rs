//! The embedding web service: a release by HTTP, and the address that is taken.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::program::{EMBED, program, said};
use crate::site::{Site, shared_base};

/// The service; stopped on drop, however the test ends.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_release_by_http_is_the_release_of_the_program() {
    let Some(base) = shared_base() else { return };
    let site = Site::new(&[]);
    site.adopt(base);
    site.publish("1.0.0");
    let mut command = program(EMBED, &site.path(""));
    command.args(["modelship.toml", "127.0.0.1:0"]);
    let mut service = Service(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    let out = service.0.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut line).unwrap();
    let address = line
        .trim()
        .strip_prefix("listening on ")
        .unwrap()
        .to_owned();
    let url = format!("http://{address}/releases");
    let client = reqwest::Client::new();
    let post = || async { json(client.post(&url).send().await.unwrap()).await };

    let first = post().await;
    assert_eq!(first["unchanged"], false, "{first}");
    let image = first["release"]["image"].as_str().unwrap().to_owned();
    let status = json(client.get(&url).send().await.unwrap()).await;
    assert!(
        image.ends_with(status["image"].as_str().unwrap()),
        "{status}"
    );
    let second = post().await;
    assert_eq!(second["unchanged"], true, "{second}");
    assert_eq!(second["release"]["image"], image.as_str());

    // The service and the program see the same release.
    let program = site.modelship("status --json").json();
    assert_eq!(program["image"], status["image"]);
}

async fn json(response: reqwest::Response) -> Value {
    assert!(response.status().is_success(), "{}", response.status());
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[test]
fn an_address_that_is_taken_is_named() {
    let site = Site::new(&[]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = program(EMBED, &site.path(""));
    said(command.args(["modelship.toml", &address]))
        .refused("listen", &[&address, "in use"])
        .next("another address");
    site.released_nothing();
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let site = Site::new(&[]);
    let mut command = program(EMBED, &site.path(""));
    said(command.args(["none.toml", "127.0.0.1:0"]))
        .refused("configure", &["none.toml"])
        .next("modelship init");
}
