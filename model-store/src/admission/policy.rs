//! `AdmissionPolicy`: what is checked, what follows from a finding, and the limits.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The finding is not even reported.
    Allow,
    /// The finding is reported, and the model is admitted.
    Warn,
    /// The model is not admitted.
    Deny,
}

/// Declares the checks once: the enum, the policy's field of each, its key and its default.
macro_rules! checks {
    ($($(#[$doc:meta])+ $check:ident $field:ident $key:literal $default:ident;)+) => {
        /// What is looked for.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(rename_all = "kebab-case")]
        #[non_exhaustive]
        pub enum Check {
            $($(#[$doc])+ $check,)+
        }

        impl Check {
            /// Every check.
            pub const ALL: &'static [Self] = &[$(Self::$check),+];

            /// The check's key in a policy, such as `unsafe-pickle`.
            pub fn key(self) -> &'static str {
                match self {
                    $(Self::$check => $key,)+
                }
            }
        }

        /// What may enter an image: an action for every check, and limits.
        ///
        /// In a configuration file the keys are the fields' names with `-` for `_`; a key that is
        /// left out has its default, an unknown one is refused.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
        #[non_exhaustive]
        pub struct AdmissionPolicy {
            $($(#[$doc])+ pub $field: Action,)+
            /// Largest size of a file, in bytes; 512 GiB by default.
            pub max_file_bytes: u64,
            /// Largest size of all files together, in bytes; 2 TiB by default.
            pub max_total_bytes: u64,
            /// Largest number of files; 100,000 by default.
            pub max_files: u64,
            /// How many bytes one compressed file may unpack to; 64 GiB by default. It bounds the
            /// time that a decompression bomb takes; memory is bounded in any case.
            pub max_unpacked_bytes: u64,
            /// Globals that a pickle may import besides the built-in list, each as
            /// `module.name`. Whoever adds one vouches that calling it with any arguments, and
            /// giving its instances any state, does no harm. A name with a dot in it (a nested
            /// class) cannot be allowed.
            pub allow_globals: BTreeSet<String>,
        }

        impl Default for AdmissionPolicy {
            fn default() -> Self {
                Self {
                    $($field: Action::$default,)+
                    max_file_bytes: 512 << 30,
                    max_total_bytes: 2 << 40,
                    max_files: 100_000,
                    max_unpacked_bytes: 64 << 30,
                    allow_globals: BTreeSet::new(),
                }
            }
        }

        impl AdmissionPolicy {
            /// What follows from a finding of `check`.
            pub fn action(&self, check: Check) -> Action {
                match check {
                    $(Check::$check => self.$field,)+
                }
            }

            /// Sets what follows from a finding of `check`.
            #[must_use]
            pub fn with_action(mut self, check: Check, action: Action) -> Self {
                match check {
                    $(Check::$check => self.$field = action,)+
                }
                self
            }
        }
    };
}

checks! {
    /// A pickle that imports or calls something outside the list of harmless globals; denied by
    /// default.
    UnsafePickle unsafe_pickle "unsafe-pickle" Deny;
    /// A pickle that cannot be followed to its end, or bytes after it; denied by default, because
    /// an unpickler acts on what comes before the damage.
    UnreadablePickle unreadable_pickle "unreadable-pickle" Deny;
    /// A safetensors file whose header and data do not agree; denied by default.
    MalformedSafetensors malformed_safetensors "malformed-safetensors" Deny;
    /// An ONNX file that is not one, or whose external data leaves the model's folder, is missing
    /// or too short; denied by default.
    MalformedOnnx malformed_onnx "malformed-onnx" Deny;
    /// An ONNX file with operators of a custom domain, which run from a library of their own;
    /// a warning by default.
    OnnxCustomOps onnx_custom_ops "onnx-custom-ops" Warn;
    /// A GGUF file whose counts, lengths or offsets leave the file; denied by default.
    MalformedGguf malformed_gguf "malformed-gguf" Deny;
    /// A NumPy array file whose header and data do not agree; denied by default.
    MalformedArray malformed_array "malformed-array" Deny;
    /// An archive that two readers could understand differently: entries that are duplicate,
    /// overlapping, hidden or named twice; denied by default.
    MalformedArchive malformed_archive "malformed-archive" Deny;
    /// An archive with encrypted entries; denied by default.
    EncryptedArchive encrypted_archive "encrypted-archive" Deny;
    /// An archive or compression that this library does not read (LZ4, bzip2, Zstandard, archives
    /// nested too deep); denied by default.
    UnreadableArchive unreadable_archive "unreadable-archive" Deny;
    /// A Keras model with a `Lambda` layer, which holds Python byte code; denied by default.
    KerasLambda keras_lambda "keras-lambda" Deny;
    /// A torch archive with TorchScript code, which runs in torch's own interpreter; a warning by
    /// default.
    TorchScript torch_script "torch-script" Warn;
    /// A known format that is not looked into (HDF5, TensorFlow graphs, TensorFlow Lite); a
    /// warning by default.
    UnparsedFormat unparsed_format "unparsed-format" Warn;
    /// A binary file of no known format; a warning by default.
    UnknownFormat unknown_format "unknown-format" Warn;
    /// A file, the sum of all files, or an unpacked content beyond its limit; denied by default.
    TooLarge too_large "too-large" Deny;
    /// More files than the limit; denied by default.
    TooManyFiles too_many_files "too-many-files" Deny;
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

impl AdmissionPolicy {
    /// Adds a global that a pickle may import, as `module.name`.
    #[must_use]
    pub fn with_global(mut self, global: impl Into<String>) -> Self {
        self.allow_globals.insert(global.into());
        self
    }

    /// Sets the largest size of a file, in bytes.
    #[must_use]
    pub fn with_max_file_bytes(mut self, bytes: u64) -> Self {
        self.max_file_bytes = bytes;
        self
    }

    /// Sets the largest size of all files together, in bytes.
    #[must_use]
    pub fn with_max_total_bytes(mut self, bytes: u64) -> Self {
        self.max_total_bytes = bytes;
        self
    }

    /// Sets the largest number of files.
    #[must_use]
    pub fn with_max_files(mut self, files: u64) -> Self {
        self.max_files = files;
        self
    }

    /// Sets how many bytes one compressed file may unpack to.
    #[must_use]
    pub fn with_max_unpacked_bytes(mut self, bytes: u64) -> Self {
        self.max_unpacked_bytes = bytes;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_that_serde_reads_and_writes() {
        let json = serde_json::to_value(AdmissionPolicy::default()).unwrap();
        for check in Check::ALL {
            assert!(json.get(check.key()).is_some(), "{check}");
            assert_eq!(serde_json::to_value(check).unwrap(), check.key());
            for action in [Action::Allow, Action::Warn, Action::Deny] {
                let text = format!("{{\"{check}\": {}}}", serde_json::to_value(action).unwrap());
                let policy: AdmissionPolicy = serde_json::from_str(&text).unwrap();
                assert_eq!(policy.action(*check), action);
                let built = AdmissionPolicy::default().with_action(*check, action);
                assert_eq!(policy, built);
            }
        }
    }

    #[test]
    fn unknown_keys_are_refused_and_limits_read() {
        assert!(serde_json::from_str::<AdmissionPolicy>("{\"unsafe-pickel\": \"warn\"}").is_err());
        let text = "{\"max-files\": 3, \"allow-globals\": [\"a.b.C\"]}";
        let policy: AdmissionPolicy = serde_json::from_str(text).unwrap();
        let built = AdmissionPolicy::default()
            .with_max_files(3)
            .with_global("a.b.C");
        assert_eq!(policy, built);
    }
}
