//! Changing the layers of an image that is there already.
//!
//! A change of the code alone needs the manifest and the config of the former image, a few
//! kilobytes, and the new code layer; the result is byte for byte what a build from scratch gives.

use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::Layer;
use crate::provenance::{LAYER_ROLE, Role};

const STAGE: &str = "change image";

impl Image {
    /// Adds a layer on top that says what it holds (the annotation [`LAYER_ROLE`] of its
    /// descriptor), so that [`Image::with_role_replaced`] finds it again.
    #[must_use]
    pub fn with_layer_as(self, role: Role, layer: Layer) -> Self {
        self.with_layer(layer.with_annotation(LAYER_ROLE, role.name()))
    }

    /// Puts `layer` into the place `at` from the bottom, counted from 0. Diff ids and history
    /// follow; the layers above stay, so what they build upon must not change its meaning.
    ///
    /// # Errors
    /// `NotFound` if there are not so many layers.
    pub fn with_layer_replaced(mut self, at: usize, layer: Layer) -> Result<Self> {
        let count = self.layers.len();
        let Some(slot) = self.layers.get_mut(at) else {
            let detail = format!("the image has {count} layers");
            let object = format!("layer {at}");
            return Err(Error::new(ErrorKind::NotFound, STAGE, object, detail));
        };
        *slot = layer;
        if at < self.base {
            self.replaced.insert(at);
        }
        self.original = None;
        Ok(self)
    }

    /// Puts `layer` into the place of the one that has this role, as [`Image::with_layer_as`]
    /// gave it.
    ///
    /// # Errors
    /// `NotFound` if no layer has the role, `Conflict` if several have.
    pub fn with_role_replaced(self, role: Role, layer: Layer) -> Result<Self> {
        let mut places =
            (0..self.layers.len()).filter(|&at| Role::of(&self.layers[at]) == Some(role));
        let found = (places.next(), places.next());
        drop(places);
        let error = |kind, detail| {
            let hint = "build the image from scratch, its layers do not fit";
            Err(Error::new(kind, STAGE, role.name(), detail).with_hint(hint))
        };
        match found {
            (Some(at), None) => {
                self.with_layer_replaced(at, layer.with_annotation(LAYER_ROLE, role.name()))
            }
            (None, _) => error(ErrorKind::NotFound, "no layer has this role"),
            _ => error(ErrorKind::Conflict, "several layers have this role"),
        }
    }

    /// Keeps the `count` lowest layers and their history, and drops those above. The settings of
    /// a container stay as they are.
    ///
    /// # Errors
    /// `NotFound` if there are not so many layers.
    pub fn without_layers_above(mut self, count: usize) -> Result<Self> {
        if count > self.layers.len() {
            let detail = format!("the image has {} layers", self.layers.len());
            let object = format!("layer {count}");
            return Err(Error::new(ErrorKind::NotFound, STAGE, object, detail));
        }
        if count == self.layers.len() {
            return Ok(self);
        }
        self.layers.truncate(count);
        if count < self.base {
            // A history that does not fit is replaced as a whole when the image is sealed.
            if self.config.history_layers() == self.base {
                self.config.cut_history(count);
            } else {
                self.config.drop_history();
            }
            self.base = count;
            self.replaced.retain(|&at| at < count);
        }
        self.original = None;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use oci_spec::image::Descriptor;
    use proptest::prelude::*;

    use super::*;
    use crate::image::Sealed;
    use crate::platform::Platform;
    use crate::tree::Tree;

    fn layer(name: &str) -> Layer {
        let mut tree = Tree::new();
        tree.insert_bytes(name, 0o644, name.to_owned()).unwrap();
        let layer = Layer::tree(tree).unwrap().with_history(name);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(layer.measure()).unwrap()
    }

    fn reopen(sealed: &Sealed) -> Image {
        let open = |_: &Descriptor, _| crate::stream::of_bytes(&Bytes::new(), 0);
        Image::from_parts(&sealed.manifest, &sealed.config, open).unwrap()
    }

    fn finish(image: Image, revision: &str) -> Sealed {
        let image = image
            .with_config(|c| {
                c.entrypoint(["/app"])
                    .env("REVISION", revision)
                    .label("l", revision)
            })
            .with_annotation("org.opencontainers.image.revision", revision);
        image.seal().unwrap()
    }

    /// A base, with or without a history that has entries of no layer, then model and code.
    fn build(base: &Image, code: &str, models: usize) -> Sealed {
        let image = (0..models).fold(base.clone(), |image, n| {
            image.with_layer_as(Role::Model, layer(&format!("model{n}")))
        });
        finish(image.with_layer_as(Role::Code, layer(code)), code)
    }

    fn base(layers: usize, history: u8) -> Image {
        let scratch = Image::scratch(&Platform::linux("amd64").unwrap());
        let image = (0..layers).fold(scratch, |image, n| {
            image.with_layer(layer(&format!("base{n}")))
        });
        let sealed = image.seal().unwrap();
        let mut config: serde_json::Value = serde_json::from_slice(&sealed.config).unwrap();
        let empty = serde_json::json!({ "created_by": "ENV", "empty_layer": true });
        match history {
            0 => drop(config.as_object_mut().unwrap().remove("history")),
            1 => config["history"].as_array_mut().unwrap().push(empty),
            2 => config["history"].as_array_mut().unwrap().insert(0, empty),
            _ => {}
        }
        let config = config.to_string();
        let mut manifest: serde_json::Value = serde_json::from_slice(&sealed.manifest).unwrap();
        manifest["config"]["size"] = config.len().into();
        manifest["config"]["digest"] = crate::hash::digest(config.as_bytes()).to_string().into();
        let open = |_: &Descriptor, _| crate::stream::of_bytes(&Bytes::new(), 0);
        Image::from_parts(manifest.to_string().as_bytes(), config.as_bytes(), open).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_swap_gives_the_bytes_of_a_build_from_scratch(
            layers in 0..3_usize, history in 0..4_u8, models in 0..3_usize,
            codes in prop::collection::vec("[a-z]{1,8}", 2..4),
        ) {
            let base = base(layers, history);
            let mut swapped = build(&base, &codes[0], models);
            for code in &codes[1..] {
                let image = reopen(&swapped).with_role_replaced(Role::Code, layer(code)).unwrap();
                swapped = finish(image, code);
                let scratch = build(&base, code, models);
                prop_assert_eq!(&swapped.config, &scratch.config);
                prop_assert_eq!(&swapped.manifest, &scratch.manifest);
            }
            // Taking the layers off again and putting them on gives the same.
            let bare = reopen(&swapped).without_layers_above(layers).unwrap();
            let code = codes.last().unwrap();
            prop_assert_eq!(build(&bare, code, models).manifest, swapped.manifest);
        }
    }

    #[test]
    fn an_annotation_is_kept_where_that_is_asked_for() {
        let first = build(&base(1, 3), "a", 1);
        let opened = reopen(&first);
        assert_eq!(
            opened.annotations()["org.opencontainers.image.revision"],
            "a"
        );
        let kept = opened.clone().with_annotations_kept();
        let kept = kept.with_role_replaced(Role::Code, layer("b")).unwrap();
        assert_eq!(kept.annotations()["org.opencontainers.image.revision"], "a");
        let built_upon = opened.with_layer(layer("c"));
        assert!(built_upon.annotations().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let image = reopen(&build(&base(1, 3), "a", 2));
        let count = image.layers().len();
        let new = || layer("b");
        assert_eq!(
            image
                .clone()
                .with_layer_replaced(count, new())
                .unwrap_err()
                .kind(),
            ErrorKind::NotFound
        );
        assert_eq!(
            image
                .clone()
                .with_role_replaced(Role::Model, new())
                .unwrap_err()
                .kind(),
            ErrorKind::Conflict
        );
        assert_eq!(
            image
                .clone()
                .with_role_replaced(Role::Dependencies, new())
                .unwrap_err()
                .kind(),
            ErrorKind::NotFound
        );
        assert!(image.without_layers_above(count + 1).is_err());
    }
}
