//! The cluster cannot be reached, or says no.

use modelship_deployer::{Deployer, ErrorKind, Expose, Resources};
use serde_json::json;

use crate::world::{APP, World, app, record};

#[tokio::test]
async fn an_unreadable_kubeconfig_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config");
    let error = Deployer::from_kubeconfig(&path, None, "prod")
        .await
        .expect_err("there is no file");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains(&path.display().to_string()),
        "{error}"
    );
    assert!(error.hint().is_some());

    std::fs::write(&path, "users: [{name: u, user: {token: c2VjcmV0}}, ").expect("written");
    let error = Deployer::from_kubeconfig(&path, None, "prod")
        .await
        .expect_err("half a file");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(!format!("{error:?}").contains("c2VjcmV0"), "{error:?}");

    let empty = "apiVersion: v1\nkind: Config\ncurrent-context: a\n";
    let error = Deployer::from_kubeconfig_yaml(empty, Some("b"), "prod")
        .await
        .expect_err("no context");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("\"b\""), "{error}");
}

fn kubeconfig(server: &str, user: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Config, current-context: x,
          clusters: [{{name: c, cluster: {{server: \"{server}\", insecure-skip-tls-verify: true}}}}],
          users: [{{name: u, user: {user}}}],
          contexts: [{{name: x, context: {{cluster: c, user: u}}}}]}}"
    )
}

#[tokio::test]
async fn an_unreachable_server_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let server = format!("http://{address}");
    let deployer = Deployer::from_kubeconfig_yaml(&kubeconfig(&server, "{}"), None, "prod")
        .await
        .expect("a kubeconfig");
    let error = deployer
        .release(&app('1'), &record("1"), &|_| {})
        .await
        .expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.is_retryable());
    assert!(error.to_string().contains(&server), "{error}");
}

#[tokio::test]
async fn unknown_and_powerless_users_are_told_apart() {
    let Some(world) = World::api_only("access-users").await else {
        return;
    };
    let yaml = world.cluster.kubeconfig_yaml();
    let server = yaml
        .split(|c: char| c.is_whitespace() || "\",{}".contains(c))
        .find(|word| word.starts_with("https://"))
        .expect("a server");
    let stranger = kubeconfig(server, "{token: nonsense}");
    let deployer = Deployer::from_kubeconfig_yaml(&stranger, None, &world.namespace)
        .await
        .expect("a kubeconfig");
    let error = deployer
        .status(APP)
        .await
        .expect_err("nobody knows this token");
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(!format!("{error:?}").contains("nonsense"));

    let anonymous = kubeconfig(server, "{}");
    let deployer = Deployer::from_kubeconfig_yaml(&anonymous, None, &world.namespace)
        .await
        .expect("a kubeconfig");
    let error = deployer
        .status(APP)
        .await
        .expect_err("anonymous may nothing");
    assert!(
        matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::Unauthorized),
        "{error}"
    );
    assert!(error.hint().is_some());
}

#[tokio::test]
async fn a_missing_namespace_is_an_error_unless_it_may_be_created() {
    let Some(world) = World::api_only("access-here").await else {
        return;
    };
    let elsewhere = Deployer::from_kubeconfig(world.cluster.kubeconfig(), None, "access-nosuch")
        .await
        .expect("a kubeconfig");
    let error = elsewhere
        .release(&app('1'), &record("1"), &|_| {})
        .await
        .expect_err("missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("access-nosuch"), "{error}");

    // Nothing rolls out here, but the namespace and the objects are made.
    let creating = elsewhere.with_create_namespace(true);
    let (spec, key) = (app('1'), record("1"));
    let applied = tokio::sync::Notify::new();
    let sink = |event| {
        if event == modelship_deployer::Event::Applied("deployment/digits".to_owned()) {
            applied.notify_one();
        }
    };
    tokio::select! {
        outcome = creating.release(&spec, &key, &sink) => panic!("{outcome:?}"),
        () = applied.notified() => {}
    }
    let path = "/api/v1/namespaces/access-nosuch";
    let namespace = world
        .cluster
        .api()
        .get(path)
        .await
        .expect("answers")
        .expect("created");
    assert_eq!(
        namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
}

#[tokio::test]
async fn a_field_of_somebody_else_is_a_conflict_that_names_both_and_nothing_is_written() {
    let Some(world) = World::api_only("access-conflict").await else {
        return;
    };
    let service = json!({ "metadata": { "name": APP }, "spec": { "type": "ClusterIP", "ports": [{ "port": 80 }] } });
    world
        .cluster
        .api()
        .create(&world.path("v1/services"), &service)
        .await
        .expect("created");
    let before = world.versions().await;
    let public = app('1').with_expose(Expose::LoadBalancer {
        azure_dns_label: None,
    });
    let deployer = world.deployer().await;
    let error = deployer
        .release(&public, &record("1"), &|_| {})
        .await
        .expect_err("a conflict");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let text = error.to_string();
    assert!(
        text.contains(".spec.type") && text.contains("conflict with"),
        "{text}"
    );
    assert_eq!(world.versions().await, before);
}

#[tokio::test]
async fn what_the_schema_refuses_is_invalid_and_nothing_is_written() {
    let Some(world) = World::api_only("access-invalid").await else {
        return;
    };
    let before = world.versions().await;
    let odd = app('1').with_resources(Resources::new("lots", "16Mi", "64Mi"));
    let deployer = world.deployer().await;
    let error = deployer
        .release(&odd, &record("1"), &|_| {})
        .await
        .expect_err("no quantity");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(!error.is_retryable());
    assert_eq!(world.versions().await, before);
}
