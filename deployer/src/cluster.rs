//! The thin client: a fixed table of kinds, JSON in and out, one place that reads errors.
//!
//! No discovery is done: every kind used here is built in. Reads and server-side applies are
//! repeated after transport errors, because both may be; creates are not.

use std::time::Duration;

use kube::core::Request;
use kube::core::params::{GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::response::Status;
use kube::core::subresource::LogParams;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::observe::text;

const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// kube sets no read timeout of its own.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The kinds this crate touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Namespace,
    ServiceAccount,
    Service,
    ConfigMap,
    Pod,
    Event,
    Deployment,
    ReplicaSet,
    PodDisruptionBudget,
    EndpointSlice,
    Lease,
}

impl Kind {
    const ALL: [Self; 11] = [
        Self::Namespace,
        Self::ServiceAccount,
        Self::Service,
        Self::ConfigMap,
        Self::Pod,
        Self::Event,
        Self::Deployment,
        Self::ReplicaSet,
        Self::PodDisruptionBudget,
        Self::EndpointSlice,
        Self::Lease,
    ];

    /// The API version, kind and plural, as in paths.
    const fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Namespace => ("v1", "Namespace", "namespaces"),
            Self::ServiceAccount => ("v1", "ServiceAccount", "serviceaccounts"),
            Self::Service => ("v1", "Service", "services"),
            Self::ConfigMap => ("v1", "ConfigMap", "configmaps"),
            Self::Pod => ("v1", "Pod", "pods"),
            Self::Event => ("v1", "Event", "events"),
            Self::Deployment => ("apps/v1", "Deployment", "deployments"),
            Self::ReplicaSet => ("apps/v1", "ReplicaSet", "replicasets"),
            Self::PodDisruptionBudget => {
                ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
            }
            Self::EndpointSlice => ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
            Self::Lease => ("coordination.k8s.io/v1", "Lease", "leases"),
        }
    }

    pub(crate) fn of(object: &Value) -> Option<Self> {
        let (version, kind) = (text(object, "/apiVersion"), text(object, "/kind"));
        Self::ALL
            .into_iter()
            .find(|k| k.names().0 == version && k.names().1 == kind)
    }

    fn path(self, namespace: &str) -> String {
        let (version, _, plural) = self.names();
        let root = if version == "v1" {
            "/api/v1".to_owned()
        } else {
            format!("/apis/{version}")
        };
        if self == Self::Namespace {
            format!("{root}/{plural}")
        } else {
            format!("{root}/namespaces/{namespace}/{plural}")
        }
    }

    /// How an object is named in messages, such as `deployment/digits`.
    pub(crate) fn object(self, name: &str) -> String {
        format!("{}/{name}", self.names().1.to_ascii_lowercase())
    }
}

/// How an object is applied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Apply<'a> {
    pub(crate) manager: &'a str,
    pub(crate) dry_run: bool,
    pub(crate) force: bool,
}

/// A namespace of a cluster.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: kube::Client,
    /// The API server's address, for messages.
    server: String,
    namespace: String,
}

impl Cluster {
    pub(crate) fn new(client: kube::Client, server: String, namespace: String) -> Self {
        Self {
            client,
            server,
            namespace,
        }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// The object, or `None` when the server says that there is none.
    pub(crate) async fn get(
        &self,
        stage: &'static str,
        kind: Kind,
        name: &str,
    ) -> Result<Option<Value>> {
        let request = || Request::new(kind.path(&self.namespace)).get(name, &GetParams::default());
        let found = self.repeat(stage, &kind.object(name), request).await;
        match found {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some),
        }
    }

    /// The objects that match a label selector.
    pub(crate) async fn list(
        &self,
        stage: &'static str,
        kind: Kind,
        labels: &str,
    ) -> Result<Vec<Value>> {
        let params = ListParams::default().labels(labels);
        self.list_with(stage, kind, labels, params).await
    }

    /// The events about objects whose field selector matches.
    pub(crate) async fn events(&self, stage: &'static str, fields: &str) -> Result<Vec<Value>> {
        let params = ListParams::default().fields(fields);
        self.list_with(stage, Kind::Event, fields, params).await
    }

    async fn list_with(
        &self,
        stage: &'static str,
        kind: Kind,
        what: &str,
        params: ListParams,
    ) -> Result<Vec<Value>> {
        let request = || Request::new(kind.path(&self.namespace)).list(&params);
        let mut list = self.repeat(stage, &kind.object(what), request).await?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    /// Applies an object server-side, with strict field validation.
    pub(crate) async fn apply(
        &self,
        stage: &'static str,
        object: &Value,
        how: Apply<'_>,
    ) -> Result<Value> {
        let name = text(object, "/metadata/name");
        let kind = Kind::of(object).ok_or_else(|| {
            let kind = text(object, "/kind");
            Error::new(
                ErrorKind::Invalid,
                stage,
                format!("{kind}/{name}"),
                "is of an unknown kind",
            )
        })?;
        let mut params = PatchParams::apply(how.manager).validation_strict();
        params.force = how.force;
        params.dry_run = how.dry_run;
        let request = || {
            Request::new(kind.path(&self.namespace)).patch(&name, &params, &Patch::Apply(object))
        };
        self.repeat(stage, &kind.object(&name), request).await
    }

    /// Creates an object; `Conflict` when it exists.
    pub(crate) async fn create(
        &self,
        stage: &'static str,
        kind: Kind,
        object: &Value,
    ) -> Result<Value> {
        let body = object.to_string().into_bytes();
        let request = Request::new(kind.path(&self.namespace)).create(&PostParams::default(), body);
        self.call(
            stage,
            &kind.object(&text(object, "/metadata/name")),
            request,
        )
        .await
    }

    /// Replaces an object; `Conflict` when its resource version is no longer this one.
    pub(crate) async fn replace(
        &self,
        stage: &'static str,
        kind: Kind,
        object: &Value,
    ) -> Result<Value> {
        let name = text(object, "/metadata/name");
        let body = object.to_string().into_bytes();
        let request =
            Request::new(kind.path(&self.namespace)).replace(&name, &PostParams::default(), body);
        self.call(stage, &kind.object(&name), request).await
    }

    /// Deletes an object, if it is still at `version`.
    pub(crate) async fn delete(
        &self,
        stage: &'static str,
        kind: Kind,
        name: &str,
        version: Option<String>,
    ) -> Result<()> {
        let params = kube::core::params::DeleteParams {
            preconditions: version.map(|resource_version| kube::core::params::Preconditions {
                resource_version: Some(resource_version),
                uid: None,
            }),
            ..Default::default()
        };
        let request = Request::new(kind.path(&self.namespace)).delete(name, &params);
        self.call(stage, &kind.object(name), request)
            .await
            .map(drop)
    }

    /// The last lines of a container's log.
    pub(crate) async fn logs(&self, pod: &str, params: &LogParams) -> Result<String> {
        let object = Kind::Pod.object(pod);
        let request = Request::new(Kind::Pod.path(&self.namespace))
            .logs(pod, params)
            .map_err(|error| bad_request("read logs", &object, error))?;
        match tokio::time::timeout(CALL_TIMEOUT, Box::pin(self.client.request_text(request))).await
        {
            Ok(answer) => answer.map_err(|error| self.explain("read logs", &object, error)),
            Err(_) => Err(self.silent("read logs")),
        }
    }

    /// Calls up to three times, as long as only the transport fails.
    async fn repeat(
        &self,
        stage: &'static str,
        object: &str,
        request: impl Fn() -> Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Value> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.call(stage, object, request()).await {
                Err(error) if error.is_retryable() => tokio::time::sleep(pause).await,
                other => return other,
            }
            pause *= 4;
        }
        self.call(stage, object, request()).await
    }

    async fn call(
        &self,
        stage: &'static str,
        object: &str,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Value> {
        let request = request.map_err(|error| bad_request(stage, object, error))?;
        match tokio::time::timeout(
            CALL_TIMEOUT,
            Box::pin(self.client.request::<Value>(request)),
        )
        .await
        {
            Ok(answer) => answer.map_err(|error| self.explain(stage, object, error)),
            Err(_) => Err(self.silent(stage)),
        }
    }

    fn silent(&self, stage: &'static str) -> Error {
        let detail = format!("no answer within {} s", CALL_TIMEOUT.as_secs());
        Error::new(ErrorKind::Unreachable, stage, &self.server, detail)
            .with_hint("check the network path to the API server")
    }

    fn explain(&self, stage: &'static str, object: &str, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) => explain_status(stage, object, &status),
            kube::Error::Auth(_) => {
                // The cause may quote what a credential plugin printed; it is left out.
                Error::new(
                    ErrorKind::Unauthorized,
                    stage,
                    &self.server,
                    "no credentials to be had",
                )
                .with_hint("sign in again, or check the user in the kubeconfig")
            }
            kube::Error::SerdeError(source) => Error::new(
                ErrorKind::Unavailable,
                stage,
                object,
                "the answer is not JSON",
            )
            .with_source(source),
            other => Error::new(
                ErrorKind::Unreachable,
                stage,
                &self.server,
                "the API server cannot be reached",
            )
            .with_hint("check that the cluster runs and that its address is reachable from here")
            .with_source(other),
        }
    }
}

fn bad_request(stage: &'static str, object: &str, error: kube::core::request::Error) -> Error {
    Error::new(ErrorKind::Invalid, stage, object, "makes no valid request").with_source(error)
}

/// Reads the server's own words (Kubernetes API conventions, "Response Status Kind").
fn explain_status(stage: &'static str, object: &str, status: &Status) -> Error {
    let message = status.message.as_str();
    let new = |kind, detail: &str| Error::new(kind, stage, object, detail);
    match status.code {
        404 if message.starts_with("namespaces ") => new(ErrorKind::NotFound, message)
            .with_hint("create the namespace first, or let the deployer create it"),
        404 => new(ErrorKind::NotFound, message),
        401 => new(
            ErrorKind::Unauthorized,
            "the cluster does not accept these credentials",
        )
        .with_hint("sign in again: the token may have expired"),
        403 if message.contains("exceeded quota") || message.contains("violates PodSecurity") => {
            new(ErrorKind::Forbidden, message).with_hint("meet the namespace's quota or policy")
        }
        403 => new(ErrorKind::Forbidden, message)
            .with_hint("grant this user the verb and resource the message names in this namespace"),
        409 => conflict(stage, object, status),
        400 | 413 | 415 | 422 => new(ErrorKind::Invalid, message),
        // Under apply, a field or value the schema does not know comes back as an internal error.
        500 if is_schema_error(message) => new(ErrorKind::Invalid, message),
        _ => new(ErrorKind::Unavailable, message),
    }
}

fn is_schema_error(message: &str) -> bool {
    [
        "typed patch object",
        "not declared in schema",
        "unable to convert unstructured object",
    ]
    .iter()
    .any(|sign| message.contains(sign))
}

fn conflict(stage: &'static str, object: &str, status: &Status) -> Error {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<String> = causes
        .filter(|cause| cause.reason == "FieldManagerConflict")
        .map(|cause| format!("{} ({})", cause.field, cause.message))
        .collect();
    if fields.is_empty() {
        return Error::new(ErrorKind::Conflict, stage, object, status.message.as_str());
    }
    let detail = format!("fields belong to somebody else: {}", fields.join(", "));
    Error::new(ErrorKind::Conflict, stage, object, detail)
        .with_hint("let their owner give them up, or take ownership explicitly")
}
