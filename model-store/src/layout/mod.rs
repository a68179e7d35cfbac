//! What kind of model a set of files is, told by their names, and whether the set is whole.

pub(crate) mod shards;
pub(crate) mod sums;

use serde::{Deserialize, Serialize};

/// The format of a model, told by the names of its files; no content is looked at.
///
/// Of several, the one that describes the whole wins: an MLflow model with a pickle in it is an
/// MLflow model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Format {
    /// MLflow: a file `MLmodel` describes the rest.
    Mlflow,
    /// TensorFlow: `saved_model.pb` and its variables.
    SavedModel,
    /// Tensors in `*.safetensors`, in one file or in shards with an index.
    Safetensors,
    /// llama.cpp: `*.gguf`, in one file or split.
    Gguf,
    /// `*.onnx`, with or without external data.
    Onnx,
    /// Keras: `*.keras`, `*.h5`, `*.hdf5`.
    Keras,
    /// PyTorch: `*.pt`, `*.pth`, `*.ckpt`, `pytorch_model*.bin`.
    Torch,
    /// scikit-learn and whatever else is kept as a pickle: `*.pkl`, `*.pickle`, `*.joblib`.
    Pickle,
    /// None of these.
    // A lock of a later version may name a format that this one does not know.
    #[serde(other)]
    Plain,
}

impl Format {
    /// The name as locks have it, such as `saved-model`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mlflow => "mlflow",
            Self::SavedModel => "saved-model",
            Self::Safetensors => "safetensors",
            Self::Gguf => "gguf",
            Self::Onnx => "onnx",
            Self::Keras => "keras",
            Self::Torch => "torch",
            Self::Pickle => "pickle",
            Self::Plain => "plain",
        }
    }

    /// The format of the model whose files are called so.
    pub(crate) fn detect<'a>(paths: impl Iterator<Item = &'a str>) -> Self {
        paths
            .map(Self::of_file)
            .min_by_key(|format| *format as u8)
            .unwrap_or(Self::Plain)
    }

    fn of_file(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        match name {
            "MLmodel" => return Self::Mlflow,
            "saved_model.pb" | "saved_model.pbtxt" => return Self::SavedModel,
            _ => {}
        }
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        match extension.to_ascii_lowercase().as_str() {
            "safetensors" => Self::Safetensors,
            "gguf" => Self::Gguf,
            "onnx" => Self::Onnx,
            "keras" | "h5" | "hdf5" => Self::Keras,
            "pt" | "pth" | "ckpt" => Self::Torch,
            "bin" if stem.starts_with("pytorch_model") => Self::Torch,
            "pkl" | "pickle" | "joblib" => Self::Pickle,
            _ => Self::Plain,
        }
    }

    /// Whether a model of this name is probably one object: `digits.pkl`.
    pub(crate) fn is_file_name(name: &str) -> bool {
        Self::of_file(name) != Self::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_names() {
        for (paths, format) in [
            (vec!["data/model.pkl", "MLmodel"], Format::Mlflow),
            (
                vec!["saved_model.pb", "variables/variables.index"],
                Format::SavedModel,
            ),
            (
                vec!["config.json", "model.safetensors"],
                Format::Safetensors,
            ),
            (vec!["model-Q4_K_M.gguf"], Format::Gguf),
            (vec!["model.onnx", "model.onnx.data"], Format::Onnx),
            (vec!["model.keras"], Format::Keras),
            (
                vec!["pytorch_model-00001-of-00002.bin", "config.json"],
                Format::Torch,
            ),
            (vec!["digits.JOBLIB"], Format::Pickle),
            (vec!["weights.bin", "README.md"], Format::Plain),
            (vec![], Format::Plain),
        ] {
            let found = Format::detect(paths.iter().copied());
            assert_eq!(found, format, "{paths:?}");
            let json = serde_json::to_string(&found).unwrap();
            assert_eq!(json, format!("{:?}", format.as_str()));
            assert_eq!(serde_json::from_str::<Format>(&json).unwrap(), found);
        }
        assert_eq!(
            serde_json::from_str::<Format>("\"of-tomorrow\"").unwrap(),
            Format::Plain
        );
        assert!(Format::is_file_name("digits.pkl") && !Format::is_file_name("digits"));
    }
}
