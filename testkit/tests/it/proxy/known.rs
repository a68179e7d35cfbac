//! Strict mode has nothing to say of the clients that everybody uses.

use modelship_testkit::fault_proxy::{Kind, Plan};
use modelship_testkit::{Judge, Tool, need};

use super::Bench;

#[tokio::test]
async fn crane_and_skopeo_push_by_the_book() {
    let Some(bench) = Bench::new(Plan::none()).await else {
        return;
    };
    let judge = need(Judge::new()).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(9);
    layer
        .append_data(&mut header, "file", &b"some text"[..])
        .unwrap();
    let file = judge.home().join("layer.tar");
    std::fs::write(&file, layer.into_inner().unwrap()).unwrap();
    let file = file.to_str().unwrap();
    let image = format!("{}/crane:1", bench.proxy.host());
    let append = ["append", "-f", file, "-t", &image];
    let Some(done) = need(judge.ask(Tool::Crane, &append).await) else {
        return;
    };
    done.succeeded();
    let from = format!("docker://{image}");
    let to = format!("docker://{}/skopeo:1", bench.proxy.host());
    let copy = [
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        &from,
        &to,
    ];
    let Some(done) = need(judge.ask(Tool::Skopeo, &copy).await) else {
        return;
    };
    done.succeeded();
    assert_eq!(bench.proxy.violations(), [""; 0]);
    assert_eq!(bench.proxy.open_sessions(), [""; 0]);
    assert_eq!(bench.proxy.exchanges_of(Kind::PutManifest).len(), 2);
}
