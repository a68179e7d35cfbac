//! JSON whose bytes depend on its content only.

use bytes::Bytes;
use serde_json::{Map, Value};

/// The bytes of `value` with the keys of every object sorted, whatever map `serde_json` is
/// built with.
pub(crate) fn sorted(value: Value) -> Bytes {
    sort(value).to_string().into()
}

fn sort(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            let sorted: Map<String, Value> = entries
                .into_iter()
                .map(|(key, value)| (key, sort(value)))
                .collect();
            Value::Object(sorted)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sort).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_and_lists_are_not() {
        let value = serde_json::json!({"b": {"z": 1, "a": [2, 1, {"y": 0, "x": 0}]}, "a": null});
        let expected = r#"{"a":null,"b":{"a":[2,1,{"x":0,"y":0}],"z":1}}"#;
        assert_eq!(sorted(value), expected.as_bytes());
    }
}
