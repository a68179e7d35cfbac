//! The judges read and write registries from a home of their own, and tools install.

use modelship_testkit::{DockerRegistry, Judge, Tool, need, tool};

/// Takes an empty image through all judges: umoci makes it, skopeo pushes it, crane and podman read.
async fn judge_all(registry: &DockerRegistry) -> Option<()> {
    let judge = Judge::of(registry).unwrap();
    let image = format!("{}/empty:1", registry.host());
    need(judge.ask(Tool::Umoci, &["init", "--layout", "made"]).await)?.succeeded();
    need(judge.ask(Tool::Umoci, &["new", "--image", "made:1"]).await)?.succeeded();
    let target = format!("docker://{image}");
    let copy = ["copy", "--preserve-digests", "oci:made:1", &target];
    need(judge.ask(Tool::Skopeo, &copy).await)?.succeeded();
    let digest = need(judge.ask(Tool::Crane, &["digest", &image]).await)?;
    assert!(digest.succeeded().starts_with("sha256:"));
    need(
        judge
            .ask(Tool::Crane, &["validate", "--remote", &image])
            .await,
    )?
    .succeeded();
    let pinned = format!("{}/empty@{}", registry.host(), digest.succeeded());
    need(judge.ask(Tool::Podman, &["pull", &pinned]).await)?.succeeded();
    assert!(
        registry
            .requests("PUT", "/manifests/1")
            .iter()
            .all(|seen| seen.status == 201)
    );
    Some(())
}

#[tokio::test]
async fn judges_know_an_open_registry() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    judge_all(&registry).await;
}

#[tokio::test]
async fn judges_know_a_secured_registry_and_strangers_do_not() {
    let Some(registry) = need(DockerRegistry::tls_htpasswd().await) else {
        return;
    };
    judge_all(&registry).await;
    let image = format!("{}/empty:1", registry.host());
    let Some(stranger) = need(modelship_testkit::judge::crane(&["digest", &image]).await) else {
        return;
    };
    assert!(!stranger.status.success());
}

#[test]
fn what_is_installed_is_found_again_without_installing() {
    for tool in Tool::ALL {
        let Some(path) = need(tool::path(tool)) else {
            continue;
        };
        let silent = |message: &str| panic!("{}: {message}", tool.name());
        assert_eq!(tool::install(tool, &silent).unwrap(), path);
    }
}

#[test]
#[ignore = "downloads through the package managers, and builds for minutes"]
fn what_is_missing_is_installed() {
    for (tool, installed) in tool::install_all(&|message| println!("{message}")) {
        assert!(installed.is_ok(), "{}: {installed:?}", tool.name());
    }
}
