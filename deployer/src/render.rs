//! From an [`AppSpec`] to manifests: pure, sorted, without a clock.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::spec::{AppSpec, Expose, check_namespace};

/// The prefix of every label and annotation of this crate.
pub(crate) const PREFIX: &str = "modelship.github.io";
/// The label that finds an application's objects.
pub(crate) const NAME_LABEL: &str = "app.kubernetes.io/name";
/// The label that finds everything this crate made.
pub(crate) const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub(crate) const MANAGED_BY: &str = "modelship";

/// The user and group of the application's processes; not root, and no user of any base image.
const UID: u32 = 65532;
/// How long a replica goes on serving after it was told to stop, until every node has taken it
/// out of its routing table.
const PRE_STOP_SECONDS: u64 = 5;
/// How long the requests in flight may then take; gunicorn's own graceful timeout is 30 s.
const GRACE_SECONDS: u64 = PRE_STOP_SECONDS + 35;
const STARTUP_PERIOD_SECONDS: u64 = 2;

/// The manifests of `spec` in `namespace`, in the order they are applied.
///
/// ServiceAccount, Service, PodDisruptionBudget (from two replicas on) and Deployment. They meet
/// the Restricted Pod Security Standard. The pod template depends on content only, so a release
/// that changes nothing restarts nothing.
///
/// # Errors
/// `Invalid` when a name, a port or a path breaks a rule of Kubernetes.
pub fn render(spec: &AppSpec, namespace: &str) -> Result<Vec<Value>> {
    spec.validate()?;
    check_namespace(namespace)?;
    let mut objects = vec![service_account(spec, namespace), service(spec, namespace)];
    if spec.replicas >= 2 {
        objects.push(disruption_budget(spec, namespace));
    }
    objects.push(deployment(spec, namespace));
    Ok(objects.iter().map(sorted).collect())
}

/// The manifests as one YAML stream, keys sorted, documents in the order given.
pub fn to_yaml(objects: &[Value]) -> String {
    let mut yaml = String::new();
    for object in objects {
        yaml.push_str("---\n");
        // A JSON value has string keys only, so writing it as YAML into memory cannot fail.
        yaml.push_str(&serde_yaml_ng::to_string(&sorted(object)).unwrap_or_default());
    }
    yaml
}

/// The same value with every map in key order, whatever map type `serde_json` was built with.
pub(crate) fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            let entries = entries
                .into_iter()
                .map(|(key, value)| (key.clone(), sorted(value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

fn metadata(spec: &AppSpec, namespace: &str) -> Value {
    json!({
        "name": spec.name,
        "namespace": namespace,
        "labels": { NAME_LABEL: spec.name, MANAGED_BY_LABEL: MANAGED_BY },
    })
}

fn service_account(spec: &AppSpec, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(spec, namespace),
        "automountServiceAccountToken": false,
    })
}

fn service(spec: &AppSpec, namespace: &str) -> Value {
    let mut metadata = metadata(spec, namespace);
    let mut kind = "ClusterIP";
    if let Expose::LoadBalancer { azure_dns_label } = &spec.expose {
        kind = "LoadBalancer";
        if let Some(label) = azure_dns_label {
            metadata["annotations"] =
                json!({ "service.beta.kubernetes.io/azure-dns-label-name": label });
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "type": kind,
            "selector": { NAME_LABEL: spec.name },
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http" }],
        },
    })
}

fn disruption_budget(spec: &AppSpec, namespace: &str) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(spec, namespace),
        "spec": {
            "maxUnavailable": 1,
            "selector": { "matchLabels": { NAME_LABEL: spec.name } },
        },
    })
}

fn deployment(spec: &AppSpec, namespace: &str) -> Value {
    let mut metadata = metadata(spec, namespace);
    if !spec.annotations.is_empty() {
        metadata["annotations"] = json!(spec.annotations);
    }
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": spec.replicas,
            "selector": { "matchLabels": { NAME_LABEL: spec.name } },
            "minReadySeconds": spec.min_ready.as_secs(),
            "progressDeadlineSeconds": spec.progress_deadline().as_secs(),
            "revisionHistoryLimit": 5,
            "strategy": {
                "type": "RollingUpdate",
                // Never fewer replicas than asked for; 25 % of up to four rounds up to one.
                "rollingUpdate": { "maxUnavailable": 0, "maxSurge": "25%" },
            },
            "template": {
                "metadata": { "labels": { NAME_LABEL: spec.name, MANAGED_BY_LABEL: MANAGED_BY } },
                "spec": pod(spec),
            },
        },
    })
}

fn pod(spec: &AppSpec) -> Value {
    let mut pod = json!({
        "serviceAccountName": spec.name,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": { NAME_LABEL: spec.name } },
        }],
        "containers": [container(spec)],
        "volumes": [{ "name": "tmp", "emptyDir": {} }],
    });
    if !spec.pull_secrets.is_empty() {
        pod["imagePullSecrets"] = spec
            .pull_secrets
            .iter()
            .map(|name| json!({ "name": name }))
            .collect();
    }
    pod
}

fn container(spec: &AppSpec) -> Value {
    let mut env = spec.env.clone();
    // gunicorn binds 0.0.0.0:$PORT when nothing else is said.
    env.entry("PORT".to_owned())
        .or_insert_with(|| spec.port.to_string());
    let env: Vec<Value> = env
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let resources = &spec.resources;
    let mut container = json!({
        "name": spec.name,
        "image": spec.image.to_string(),
        "imagePullPolicy": "IfNotPresent",
        "ports": [{ "name": "http", "containerPort": spec.port, "protocol": "TCP" }],
        "env": env,
        "resources": {
            "requests": { "cpu": resources.cpu, "memory": resources.memory },
            "limits": { "memory": resources.memory_limit },
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
        "lifecycle": { "preStop": { "sleep": { "seconds": PRE_STOP_SECONDS } } },
    });
    add_probes(&mut container, spec);
    if !spec.env_secrets.is_empty() {
        container["envFrom"] = spec
            .env_secrets
            .iter()
            .map(|name| json!({ "secretRef": { "name": name } }))
            .collect();
    }
    container
}

/// Startup covers loading the model, readiness decides on traffic, and liveness is slow to judge,
/// so that a long queue of requests is not mistaken for a hang.
fn add_probes(container: &mut Value, spec: &AppSpec) {
    let probe = |period: u64, timeout: u64, failures: u64| {
        json!({
            "httpGet": { "path": spec.readiness_path, "port": "http" },
            "periodSeconds": period,
            "timeoutSeconds": timeout,
            "failureThreshold": failures,
        })
    };
    container["startupProbe"] = probe(STARTUP_PERIOD_SECONDS, 2, startup_failures(spec.startup));
    container["readinessProbe"] = probe(5, 3, 3);
    container["livenessProbe"] = probe(15, 10, 4);
}

fn startup_failures(startup: Duration) -> u64 {
    startup.as_secs().div_ceil(STARTUP_PERIOD_SECONDS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec() -> AppSpec {
        let image = format!("reg.invalid/team/digits@sha256:{}", "1".repeat(64));
        AppSpec::flask("digits", image.parse().expect("pinned"))
    }

    fn golden_spec() -> AppSpec {
        spec()
            .with_env("MODEL_DIR", "/models/digits")
            .with_annotation("modelship.github.io/commit", "0123456")
            .with_pull_secret("registry")
            .with_env_secret("digits-keys")
            .with_expose(Expose::LoadBalancer {
                azure_dns_label: Some("digits-prod".into()),
            })
    }

    #[test]
    fn the_manifests_are_these_bytes() {
        let yaml = to_yaml(&render(&golden_spec(), "prod").expect("renders"));
        let golden = include_str!("golden/flask.yaml");
        assert_eq!(yaml, golden, "src/golden/flask.yaml holds other manifests");
    }

    #[test]
    fn every_object_is_what_kubernetes_declares() {
        use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, policy::v1 as policy};
        let objects = render(&golden_spec(), "prod").expect("renders");
        let [account, service, budget, deployment] = objects.as_slice() else {
            panic!("four objects, found {}", objects.len());
        };
        // Typed and back: a field Kubernetes does not know would be gone.
        let account_typed: core::ServiceAccount =
            serde_json::from_value(account.clone()).expect("service account");
        let service_typed: core::Service =
            serde_json::from_value(service.clone()).expect("service");
        let budget_typed: policy::PodDisruptionBudget =
            serde_json::from_value(budget.clone()).expect("budget");
        let deployment_typed: apps::Deployment =
            serde_json::from_value(deployment.clone()).expect("deployment");
        for (ours, typed) in [
            (account, serde_json::to_value(account_typed)),
            (service, serde_json::to_value(service_typed)),
            (budget, serde_json::to_value(budget_typed)),
            (deployment, serde_json::to_value(deployment_typed)),
        ] {
            assert_eq!(sorted(&typed.expect("serializes")), *ours);
        }
    }

    #[test]
    fn one_replica_has_no_disruption_budget() {
        let objects = render(&spec().with_replicas(1), "prod").expect("renders");
        assert!(
            objects
                .iter()
                .all(|object| object["kind"] != "PodDisruptionBudget")
        );
    }

    proptest! {
        /// Notes about a release never reach the pods, and rendering has no memory.
        #[test]
        fn annotations_never_touch_the_pod_template(
            notes in proptest::collection::btree_map("[a-z]{1,8}", "[ -~]{0,20}", 0..5),
            replicas in 1u32..9,
        ) {
            let plain = spec().with_replicas(replicas);
            let noted = notes.iter().fold(plain.clone(), |app, (k, v)| app.with_annotation(k, v));
            let template = |app: &AppSpec| {
                let objects = render(app, "prod").expect("renders");
                objects.last().expect("a deployment")["spec"]["template"].clone()
            };
            prop_assert_eq!(template(&plain), template(&noted));
            prop_assert_eq!(
                to_yaml(&render(&noted, "prod").expect("renders")),
                to_yaml(&render(&noted, "prod").expect("renders"))
            );
        }
    }
}
