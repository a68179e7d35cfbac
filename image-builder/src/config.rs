//! The image config as JSON: edited in place, so that fields no type of ours knows survive.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::platform::Platform;

/// The time of everything in an image unless the caller sets one: a second after the epoch.
pub(crate) const CREATED: &str = "1970-01-01T00:00:01Z";

/// The user of an image made from scratch: the ids that distroless images call `nonroot`.
pub(crate) const NONROOT: &str = "65532:65532";

/// Edits what a container of the image runs with (image-spec, config.md, `config`).
///
/// Each method returns the edit again, so calls chain.
#[derive(Debug)]
pub struct ConfigEdit {
    config: Map<String, Value>,
}

impl ConfigEdit {
    /// Sets the program to run with its fixed arguments, and clears the default arguments, which
    /// belonged to the former program.
    pub fn entrypoint<S: Into<String>>(&mut self, argv: impl IntoIterator<Item = S>) -> &mut Self {
        self.config.remove("Cmd");
        self.set("Entrypoint", strings(argv))
    }

    /// Sets the default arguments.
    pub fn cmd<S: Into<String>>(&mut self, argv: impl IntoIterator<Item = S>) -> &mut Self {
        self.set("Cmd", strings(argv))
    }

    /// Sets an environment variable, in the place of a former one of the same name.
    pub fn env(&mut self, name: &str, value: &str) -> &mut Self {
        let entry = Value::String(format!("{name}={value}"));
        let list = self.config.entry("Env").or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        if let Value::Array(list) = list {
            let prefix = format!("{name}=");
            let is_same = |old: &&mut Value| {
                old.as_str()
                    .is_some_and(|old| old.starts_with(&prefix) || old == name)
            };
            match list.iter_mut().find(is_same) {
                Some(old) => *old = entry,
                None => list.push(entry),
            }
        }
        self
    }

    /// Sets the working directory.
    pub fn workdir(&mut self, path: &str) -> &mut Self {
        self.set("WorkingDir", path.into())
    }

    /// Sets the user: `uid`, `uid:gid` or names from the image's `/etc/passwd`. Kubernetes can
    /// only tell that a numeric one is not root. An image made from scratch has `65532:65532`.
    pub fn user(&mut self, user: &str) -> &mut Self {
        self.set("User", user.into())
    }

    /// Lets the program run as root, by naming no user.
    pub fn root(&mut self) -> &mut Self {
        self.config.remove("User");
        self
    }

    /// Declares a TCP port the program listens on.
    pub fn expose(&mut self, port: u16) -> &mut Self {
        self.insert_into("ExposedPorts", &format!("{port}/tcp"), json!({}))
    }

    /// Sets a label.
    pub fn label(&mut self, key: &str, value: &str) -> &mut Self {
        self.insert_into("Labels", key, value.into())
    }

    /// Sets the signal that asks the program to stop, such as `SIGTERM`.
    pub fn stop_signal(&mut self, signal: &str) -> &mut Self {
        self.set("StopSignal", signal.into())
    }

    /// Sets Docker's health check: a command, and how often to run it. Kubernetes ignores it.
    pub fn healthcheck<S: Into<String>>(
        &mut self,
        argv: impl IntoIterator<Item = S>,
        interval: Duration,
    ) -> &mut Self {
        let mut test = vec![Value::from("CMD")];
        test.extend(argv.into_iter().map(|arg| Value::from(arg.into())));
        let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        self.set("Healthcheck", json!({ "Interval": nanos, "Test": test }))
    }

    /// Sets any other field of the config object, by its name in the specification.
    pub fn field(&mut self, name: &str, value: Value) -> &mut Self {
        self.set(name, value)
    }

    fn set(&mut self, name: &str, value: Value) -> &mut Self {
        self.config.insert(name.to_owned(), value);
        self
    }

    fn insert_into(&mut self, name: &str, key: &str, value: Value) -> &mut Self {
        let object = self.config.entry(name).or_insert_with(|| json!({}));
        if !object.is_object() {
            *object = json!({});
        }
        if let Value::Object(object) = object {
            object.insert(key.to_owned(), value);
        }
        self
    }
}

fn strings<S: Into<String>>(items: impl IntoIterator<Item = S>) -> Value {
    Value::Array(
        items
            .into_iter()
            .map(|item| Value::String(item.into()))
            .collect(),
    )
}

/// What a config says of one layer.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) diff_id: String,
    pub(crate) created_by: String,
}

/// A whole config: an object that holds what config.md requires.
#[derive(Clone, Debug)]
pub(crate) struct Config(Map<String, Value>);

impl Config {
    /// The config of an image without layers.
    pub(crate) fn new(platform: &Platform) -> Self {
        let mut fields = Map::new();
        fields.insert("architecture".into(), platform.architecture().into());
        fields.insert("os".into(), platform.os().into());
        if let Some(variant) = platform.variant() {
            fields.insert("variant".into(), variant.into());
        }
        fields.insert("config".into(), json!({ "User": NONROOT }));
        Self(fields)
    }

    /// Reads a config, and checks that it lists `layers` diff ids.
    pub(crate) fn parse(bytes: &[u8], layers: usize) -> Result<Self> {
        let invalid =
            |detail: String| Error::new(ErrorKind::Invalid, "read image", "config", detail);
        let fields: Map<String, Value> = serde_json::from_slice(bytes)
            .map_err(|e| invalid("it is not a JSON object".to_owned()).with_source(e))?;
        let config = Self(fields);
        let diff_ids = config.diff_ids();
        if diff_ids.len() != layers {
            let found = diff_ids.len();
            return Err(invalid(format!(
                "it lists {found} diff ids for {layers} layers"
            )));
        }
        Ok(config)
    }

    /// The listed diff ids, as text.
    pub(crate) fn diff_ids(&self) -> Vec<&str> {
        self.0
            .get("rootfs")
            .and_then(|rootfs| rootfs.get("diff_ids"))
            .and_then(Value::as_array)
            .map(|ids| {
                ids.iter()
                    .map(|id| id.as_str().unwrap_or_default())
                    .collect()
            })
            .unwrap_or_default()
    }

    /// The platform, where it is stated in full.
    pub(crate) fn platform(&self) -> Option<Platform> {
        Platform::from_json(&Value::Object(self.0.clone()))
    }

    /// How many history entries claim a layer.
    pub(crate) fn history_layers(&self) -> usize {
        self.history()
            .iter()
            .filter(|entry| !is_empty_layer(entry))
            .count()
    }

    /// Whether there is any history; it is optional.
    pub(crate) fn has_history(&self) -> bool {
        !self.history().is_empty()
    }

    fn history(&self) -> &[Value] {
        let history = self.0.get("history").and_then(Value::as_array);
        history.map(Vec::as_slice).unwrap_or_default()
    }

    /// The object of a container's settings, as JSON.
    pub(crate) fn container(&self) -> Option<&Map<String, Value>> {
        self.0.get("config").and_then(Value::as_object)
    }

    /// Applies an edit to the container's settings.
    pub(crate) fn edit(&mut self, apply: impl FnOnce(&mut ConfigEdit) -> &mut ConfigEdit) {
        let config = self.container().cloned().unwrap_or_default();
        let mut edit = ConfigEdit { config };
        apply(&mut edit);
        self.0.insert("config".into(), Value::Object(edit.config));
    }

    /// Forgets the history of all layers above the lowest `kept`.
    pub(crate) fn cut_history(&mut self, kept: usize) {
        let mut seen = 0;
        let within = self.history().iter().take_while(|entry| {
            seen += usize::from(!is_empty_layer(entry));
            seen <= kept
        });
        let history: Vec<Value> = within.cloned().collect();
        if self.has_history() {
            self.0.insert("history".into(), Value::Array(history));
        }
    }

    /// Forgets the history.
    pub(crate) fn drop_history(&mut self) {
        self.0.remove("history");
    }

    /// The bytes of this config for these layers: sorted keys, one diff id and one history entry
    /// per layer, the base's own entries kept where they are consistent. `base` are the layers
    /// from the bottom that the history of this config is about, except those in `replaced`.
    pub(crate) fn seal(
        &self,
        created: &str,
        layers: &[Entry],
        (base, replaced): (usize, &BTreeSet<usize>),
    ) -> Vec<u8> {
        let mut fields = self.0.clone();
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let rootfs = json!({ "diff_ids": diff_ids, "type": "layers" });
        fields.insert("rootfs".into(), rootfs);
        fields.insert("created".into(), created.into());
        let mut history = if self.history_layers() == base {
            self.history().to_vec()
        } else {
            // A history that does not fit the layers says nothing; readers count on its length.
            let unknown = json!({ "comment": "base layer", "created": created });
            vec![unknown; base]
        };
        let ours = |layer: &Entry| json!({ "created": created, "created_by": layer.created_by });
        let of_layers = history.iter_mut().filter(|entry| !is_empty_layer(entry));
        for (at, entry) in of_layers.enumerate() {
            if let Some(layer) = layers.get(at).filter(|_| replaced.contains(&at)) {
                *entry = ours(layer);
            }
        }
        history.extend(layers.iter().skip(base).map(ours));
        fields.insert("history".into(), Value::Array(history));
        canonical(Value::Object(fields))
    }
}

fn is_empty_layer(entry: &Value) -> bool {
    entry.get("empty_layer").and_then(Value::as_bool) == Some(true)
}

/// Compact JSON with sorted keys, whatever map type `serde_json` was built with.
pub(crate) fn canonical(mut value: Value) -> Vec<u8> {
    value.sort_all_objects();
    value.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(diff_id: &str, created_by: &str) -> Entry {
        Entry {
            diff_id: diff_id.to_owned(),
            created_by: created_by.to_owned(),
        }
    }

    fn base(history: &str) -> Config {
        let text = format!(
            r#"{{"os":"linux","architecture":"arm64","variant":"v8","x-new":{{"b":1,"a":2}},
            "config":{{"Env":["PATH=/bin","A=1"],"Shell":["/bin/sh"],"OnBuild":["RUN x"]}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:a"]}}{history}}}"#
        );
        Config::parse(text.as_bytes(), 1).unwrap()
    }

    #[test]
    fn unknown_fields_survive_an_edit_in_sorted_order() {
        let mut config = base("");
        config.edit(|c| {
            c.entrypoint(["python", "app.py"])
                .env("A", "2")
                .env("B", "3")
                .expose(8080)
                .label("l", "v")
                .user("65532:65532")
                .workdir("/app")
                .stop_signal("SIGINT")
                .healthcheck(["true"], Duration::from_secs(1))
        });
        let layers = [entry("sha256:a", "")];
        let none = BTreeSet::new();
        let text = String::from_utf8(config.seal(CREATED, &layers, (1, &none))).unwrap();
        assert!(text.contains(r#""x-new":{"a":2,"b":1}"#));
        assert!(text.contains(r#""OnBuild":["RUN x"]"#));
        assert!(text.contains(r#""Env":["PATH=/bin","A=2","B=3"]"#));
        assert!(text.contains(r#""Healthcheck":{"Interval":1000000000,"Test":["CMD","true"]}"#));
        assert_eq!(config.platform().unwrap().to_string(), "linux/arm64/v8");
    }

    #[test]
    fn history_fits_the_layers_whatever_the_base_had() {
        let layers = [entry("sha256:a", ""), entry("sha256:b", "ours")];
        let fitting = r#","history":[{"created_by":"x"},{"created_by":"e","empty_layer":true}]"#;
        let wrong = r#","history":[{"created_by":"x"},{"created_by":"y"}]"#;
        for (history, entries) in [("", 2), (fitting, 3), (wrong, 2)] {
            let sealed = base(history).seal(CREATED, &layers, (1, &BTreeSet::new()));
            let config = Config::parse(&sealed, 2).unwrap();
            assert_eq!(config.history_layers(), 2);
            assert_eq!(config.history().len(), entries);
            assert_eq!(config.history()[entries - 1]["created_by"], "ours");
        }
    }

    #[test]
    fn a_config_that_does_not_fit_its_layers_is_refused() {
        for text in ["[]", "nonsense", "{}"] {
            assert!(Config::parse(text.as_bytes(), 1).is_err());
        }
    }
}
