//! A manifest that is pushed: its type, its digest, and that what it names is there.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Finding, Strict};
use crate::fault_proxy::route::Route;
use crate::http::Request;

const SECTION: &str = "Pushing Manifests";

/// The most that registries must accept ("Pushing Manifests").
pub(in crate::fault_proxy) const MANIFEST_BYTES: usize = 4 * 1024 * 1024;

impl Strict {
    /// Looks at the body of a manifest's `PUT`, which has come wholly.
    pub(in crate::fault_proxy) fn manifest(
        &mut self,
        request: &Request,
        route: &Route,
        body: &[u8],
    ) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut wrong = |text: String| found.push(Finding::new(SECTION, text));
        if body.len() > MANIFEST_BYTES {
            wrong(format!("a manifest of more than {MANIFEST_BYTES} bytes"));
            return found;
        }
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(body)));
        if route.last.starts_with("sha256:") && route.last != digest {
            wrong(format!("the body has the digest {digest}"));
        }
        let manifest: Value = serde_json::from_slice(body).unwrap_or_default();
        let kind = request.headers.get("content-type").unwrap_or_default();
        match manifest["mediaType"].as_str() {
            Some(own) if own != kind => {
                wrong(format!(
                    "Content-Type {kind} of a manifest of mediaType {own}"
                ));
            }
            _ => {}
        }
        for (digest, blob) in named(&manifest) {
            let seen = if blob { &self.blobs } else { &self.manifests };
            if !seen.contains(&(route.name.clone(), digest.to_owned())) {
                let what = if blob { "blob" } else { "manifest" };
                wrong(format!(
                    "names the {what} {digest}, which was not seen present"
                ));
            }
        }
        let key = (route.name.clone(), digest.clone());
        if route.last == digest {
            if self.tagged.contains(&key) && !self.by_digest.contains(&key) {
                wrong("pushed by digest after it was tagged".to_owned());
            }
            self.by_digest.insert(key);
        } else {
            self.tagged.insert(key);
        }
        self.pushed
            .insert((route.name.clone(), route.last.clone()), digest);
        found
    }
}

/// The digests that must be there before the manifest, and whether each is a blob's. A `subject`
/// may come later, and a layer with `urls` may be elsewhere.
fn named(manifest: &Value) -> Vec<(&str, bool)> {
    let list = |name: &str| manifest[name].as_array().map_or(&[][..], Vec::as_slice);
    let layers = list("layers").iter().chain([&manifest["config"]]);
    let blobs = layers.filter(|layer| layer.get("urls").is_none());
    let blobs = blobs.map(|blob| (&blob["digest"], true));
    let manifests = list("manifests").iter().map(|one| (&one["digest"], false));
    let all = blobs.chain(manifests);
    all.filter_map(|(digest, blob)| Some((digest.as_str()?, blob)))
        .collect()
}
