//! The network: loopback only, and connections made from outside.

use modelship_sandbox::{ErrorKind, Process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::rootfs::{finish, output, probe, task, wrote};

/// Starts a server inside on a port the kernel chooses; answers the port.
async fn server(layer: &tempfile::TempDir) -> (Process, u16) {
    let mut process = task(layer, ["serve", "0"]).spawn().await.unwrap();
    wrote(&mut process, "listening ").await;
    wrote(&mut process, "\n").await;
    let logs = process.logs().to_string();
    let port = logs.trim().rsplit(' ').next().unwrap().parse().unwrap();
    (process, port)
}

async fn get(process: &Process, port: u16) -> String {
    let mut stream = process.connect(port).await.unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_server_inside_answers_and_the_host_port_stays_closed() {
    let layer = probe();
    let (process, port) = server(&layer).await;
    let answer = get(&process, port).await;
    assert!(answer.starts_with("HTTP/1.0 200 OK") && answer.ends_with("hello from inside"));
    // The port is free out here: had the server taken it, this would fail.
    TcpListener::bind(("127.0.0.1", port)).await.unwrap();
}

#[tokio::test]
async fn two_sandboxes_use_the_same_port() {
    let layer = probe();
    let mut one = task(&layer, ["serve", "8080"]).spawn().await.unwrap();
    let mut two = task(&layer, ["serve", "8080"]).spawn().await.unwrap();
    for process in [&mut one, &mut two] {
        wrote(process, "listening").await;
        assert!(get(process, 8080).await.contains("hello"));
    }
}

#[tokio::test]
async fn many_connections_at_once_and_dropped_ones_do_no_harm() {
    let layer = probe();
    let (process, port) = server(&layer).await;
    for _ in 0..200 {
        // Polled once and dropped: asks for a socket and never takes it.
        let connecting = process.connect(port);
        tokio::select! { biased; _ = connecting => {}, () = std::future::ready(()) => {} }
    }
    let process = &process;
    let calls = (0..100).map(|_| get(process, port));
    for answer in futures_join(calls).await {
        assert!(answer.contains("hello"));
    }
}

/// Runs futures together on this task; there is no need for a crate for it.
async fn futures_join<F: Future<Output = String>>(calls: impl Iterator<Item = F>) -> Vec<String> {
    let mut calls: Vec<_> = calls.map(|call| (Box::pin(call), None)).collect();
    std::future::poll_fn(move |context| {
        for (call, answer) in &mut calls {
            if answer.is_none()
                && let std::task::Poll::Ready(text) = call.as_mut().poll(context)
            {
                *answer = Some(text);
            }
        }
        if calls.iter().all(|(_, answer)| answer.is_some()) {
            let answers = calls.iter_mut().filter_map(|(_, answer)| answer.take());
            return std::task::Poll::Ready(answers.collect());
        }
        std::task::Poll::Pending
    })
    .await
}

#[tokio::test]
async fn nobody_listening_is_worth_another_try_and_an_ended_process_is_not() {
    let layer = probe();
    let mut process = task(&layer, ["idle"]).spawn().await.unwrap();
    let error = process.connect(8080).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        (ErrorKind::Unreachable, true)
    );
    process.stop(std::time::Duration::ZERO).await.unwrap();
    let error = process.connect(8080).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.is_retryable()),
        (ErrorKind::NotRunning, false)
    );
}

#[tokio::test]
async fn there_is_no_way_out() {
    let layer = probe();
    assert_eq!(output(&task(&layer, ["ifaces"])).await, "lo\n");
    // A documentation address (RFC 5737): there is no route to it inside.
    let (_, text) = finish(&task(&layer, ["dial", "192.0.2.1", "80"])).await;
    assert_eq!(text, "connect: ENETUNREACH\n");
    // Nor does the host's loopback shine through.
    let host = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = host.local_addr().unwrap().port().to_string();
    let (_, text) = finish(&task(&layer, ["dial", "127.0.0.1", &port])).await;
    assert_eq!(text, "connect: ECONNREFUSED\n");
}
