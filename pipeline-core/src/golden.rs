//! The golden request: one real question and the answer that it must get.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Stage;
use crate::error::{Error, ErrorKind, Result};
use crate::http::Answer;

/// A request and what its answer must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Golden {
    /// The path that is asked, such as `/score`.
    pub path: String,
    /// The JSON body that is posted to it.
    pub request: Value,
    /// Each key must stand in the answer with this value; numbers may differ by one part in a thousand.
    pub expect: Map<String, Value>,
}

impl Golden {
    /// Reads a golden request from a JSON file.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Io`] or [`ErrorKind::Invalid`], naming the file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|e| {
            Error::io(Stage::Configure, path, e)
                .with_hint("set `request` in the [smoke] section to a file that exists")
        })?;
        let golden: Self = serde_json::from_slice(&text).map_err(|e| {
            Error::new(
                ErrorKind::Invalid,
                Stage::Configure,
                path.display(),
                e.to_string(),
            )
            .with_hint("the file holds {\"path\": \"/score\", \"request\": …, \"expect\": {…}}")
        })?;
        if golden.expect.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                Stage::Configure,
                path.display(),
                "`expect` is empty, so the check could not fail",
            )
            .with_hint("name at least one key of the answer and its value"));
        }
        Ok(golden)
    }

    /// What is wrong with `answer`, or its parsed body.
    pub(crate) fn judge(&self, answer: &Answer) -> Result<Value, String> {
        if answer.status != 200 {
            return Err(format!(
                "{} answered {}: {}",
                self.path,
                answer.status,
                answer.excerpt()
            ));
        }
        let body: Value = serde_json::from_slice(&answer.body).map_err(|e| {
            format!(
                "{} did not answer JSON ({e}): {}",
                self.path,
                answer.excerpt()
            )
        })?;
        for (key, wanted) in &self.expect {
            match body.get(key) {
                Some(found) if agrees(wanted, found) => {}
                Some(found) => {
                    return Err(format!(
                        "{} answered {key} = {found}, expected {wanted}",
                        self.path
                    ));
                }
                None => {
                    return Err(format!(
                        "{} answered without `{key}`: {}",
                        self.path,
                        answer.excerpt()
                    ));
                }
            }
        }
        Ok(body)
    }
}

/// Whether two JSON values agree; numbers within one part in a thousand.
fn agrees(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Number(w), Value::Number(f)) => match (w.as_f64(), f.as_f64()) {
            (Some(w), Some(f)) => (w - f).abs() <= 1e-3 * w.abs().max(f.abs()),
            _ => w == f,
        },
        (Value::Array(w), Value::Array(f)) => {
            w.len() == f.len() && w.iter().zip(f).all(|(w, f)| agrees(w, f))
        }
        (Value::Object(w), Value::Object(f)) => {
            w.len() == f.len()
                && w.iter()
                    .all(|(k, w)| f.get(k).is_some_and(|f| agrees(w, f)))
        }
        _ => wanted == found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn judged(expect: Value, status: u16, body: &str) -> Result<Value, String> {
        let Value::Object(expect) = expect else {
            panic!("an object")
        };
        let golden = Golden {
            path: "/score".into(),
            request: json!({}),
            expect,
        };
        golden.judge(&Answer {
            status,
            body: body.to_owned().into(),
        })
    }

    #[test]
    fn the_right_answer_passes() {
        let body = r#"{"predictions": [1, 5], "probability": 0.99981, "more": true}"#;
        assert!(
            judged(
                json!({"predictions": [1, 5], "probability": 0.9999}),
                200,
                body
            )
            .is_ok()
        );
    }

    #[test]
    fn every_way_to_be_wrong_is_named() {
        for (status, body, says) in [
            (500, "oops", "answered 500: oops"),
            (200, "not json", "did not answer JSON"),
            (200, "{}", "without `p`"),
            (200, r#"{"p": [1, 6]}"#, "expected [1,5]"),
            (200, r#"{"p": [1]}"#, "expected [1,5]"),
            (200, r#"{"p": "1"}"#, "expected [1,5]"),
        ] {
            let problem = judged(json!({"p": [1, 5]}), status, body).unwrap_err();
            assert!(problem.contains(says), "{problem}");
        }
    }
}
