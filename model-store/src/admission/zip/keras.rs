//! The configuration of a Keras model: a tree of layers, some of which are code.

use serde_json::Value;

use crate::admission::policy::Check;
use crate::admission::report::{Findings, quote};
use crate::admission::source::{BUFFER, Content, Scan};

/// Longest configuration that is read, in bytes.
const MAX_CONFIG: usize = 8 << 20;
/// Where Keras's own classes are.
const MODULES: [&str; 7] = [
    "builtins",
    "keras",
    "keras_core",
    "keras_hub",
    "keras_nlp",
    "tensorflow",
    "tf_keras",
];

/// Looks for layers that are code, and for classes from elsewhere.
pub(super) fn look(content: &Content<'_>, findings: &mut Findings<'_>) -> Scan<()> {
    let mut cursor = content.open()?;
    let mut text = Vec::new();
    loop {
        let piece = cursor.peek(BUFFER)?.to_vec();
        if piece.is_empty() {
            break;
        }
        cursor.skip(piece.len() as u64)?;
        text.extend_from_slice(&piece);
        if text.len() > MAX_CONFIG {
            findings.add(
                Check::KerasLambda,
                None,
                "the configuration is too long to be looked into",
            );
            return Ok(());
        }
    }
    match serde_json::from_slice(&text) {
        Ok(config) => walk(&config, findings),
        Err(error) => {
            let detail = format!("the configuration cannot be looked into: {error}");
            findings.add(Check::KerasLambda, None, detail);
        }
    }
    Ok(())
}

/// The parser bounds the depth of the tree.
fn walk(config: &Value, findings: &mut Findings<'_>) {
    match config {
        Value::Array(items) => items.iter().for_each(|item| walk(item, findings)),
        Value::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(Value::as_str);
            if let Some(class) = text("class_name") {
                judge(class, text("module"), findings);
            }
            fields.values().for_each(|field| walk(field, findings));
        }
        _ => {}
    }
}

fn judge(class: &str, module: Option<&str>, findings: &mut Findings<'_>) {
    if matches!(
        class,
        "Lambda" | "__lambda__" | "TFOpLambda" | "SlicingOpLambda"
    ) {
        let detail = "it has a Lambda layer, which holds Python code";
        findings.add(Check::KerasLambda, None, detail);
    }
    let root = module.and_then(|module| module.split('.').next());
    if root.is_some_and(|root| !MODULES.contains(&root)) {
        let module = quote(module.unwrap_or_default());
        let detail = format!(
            "it names {} of module {module}, which is not Keras's",
            quote(class)
        );
        findings.add(Check::KerasLambda, None, detail);
    }
}
