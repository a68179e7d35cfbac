//! Models in several shards: which ones are missing.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// The index of sharded weights, as model hubs write it: which file has which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Whether a file is an index of shards, which [`named_by_index`] reads.
pub(crate) fn is_index(path: &str) -> bool {
    path.ends_with(".safetensors.index.json") || path.ends_with(".bin.index.json")
}

/// The paths of the shards that the index at `path` names.
pub(crate) fn named_by_index(path: &str, bytes: &[u8]) -> Result<BTreeSet<String>, String> {
    let index: Index = serde_json::from_slice(bytes)
        .map_err(|error| format!("the index of shards cannot be read: {error}"))?;
    let folder = path.rsplit_once('/').map(|(folder, _)| folder);
    let full = |name: String| folder.map_or_else(|| name.clone(), |dir| format!("{dir}/{name}"));
    Ok(index.weight_map.into_values().map(full).collect())
}

/// What tells the shards of one set from those of another: what stands before and after the
/// number, and how many there are.
type Set<'a> = (&'a str, u32, &'a str);

/// The first shard that is missing of those that count themselves, `…-00002-of-00005…`: weights
/// of model hubs and GGUF count from 1, TensorFlow's variables from 0.
pub(crate) fn missing_by_count<'a>(paths: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut sets: BTreeMap<Set<'_>, BTreeSet<u32>> = BTreeMap::new();
    let mut width = 5;
    for path in paths {
        if let Some((before, number, count, after)) = split(path) {
            width = number.len();
            if let (Ok(number), Ok(count)) = (number.parse(), count.parse()) {
                sets.entry((before, count, after))
                    .or_default()
                    .insert(number);
            }
        }
    }
    sets.into_iter().find_map(|((before, count, after), have)| {
        let from_zero = have.contains(&0) || before.ends_with(".data-");
        let first = u32::from(!from_zero);
        // Found among the first that are there plus one, however large the stated count is.
        let missing = (first..first.saturating_add(count)).find(|number| !have.contains(number))?;
        Some(format!(
            "{before}{missing:0width$}-of-{count:0width$}{after}"
        ))
    })
}

/// Splits `model-00002-of-00005.gguf` at its numbers.
fn split(path: &str) -> Option<(&str, &str, &str, &str)> {
    let (head, tail) = path.rsplit_once("-of-")?;
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let end = digits(tail);
    let start = head.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let number = &head[start..];
    let is_count = (4..=9).contains(&end) && number.len() == end && head[..start].ends_with('-');
    is_count.then(|| (&head[..start], number, &tail[..end], &tail[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counted_shards() {
        for (paths, missing) in [
            (vec!["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"], None),
            (vec!["a-00001-of-00002.gguf"], Some("a-00002-of-00002.gguf")),
            (vec!["a-00002-of-00002.gguf"], Some("a-00001-of-00002.gguf")),
            (
                vec!["v/variables.data-00000-of-00001", "v/variables.index"],
                None,
            ),
            (
                vec!["v/variables.data-00001-of-00002"],
                Some("v/variables.data-00000-of-00002"),
            ),
            // Two sets, of which the second is torn.
            (
                vec!["a-0001-of-0001.bin", "b-0001-of-0002.bin"],
                Some("b-0002-of-0002.bin"),
            ),
            (vec!["a-00001-of-4294967295"], None),
            (vec!["best-of-10.bin", "a-1-of-2", "2026-of-00002"], None),
        ] {
            let found = missing_by_count(paths.iter().copied());
            assert_eq!(found.as_deref(), missing, "{paths:?}");
        }
    }

    #[test]
    fn an_index_names_its_shards() {
        let json = br#"{"metadata":{"total_size":1},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors","c":"m-1.safetensors"}}"#;
        let path = "unet/m.safetensors.index.json";
        assert!(is_index(path) && !is_index("model_index.json"));
        let named: Vec<_> = named_by_index(path, json).unwrap().into_iter().collect();
        assert_eq!(named, ["unet/m-1.safetensors", "unet/m-2.safetensors"]);
        assert!(named_by_index(path, b"{}").is_err());
    }

    proptest! {
        #[test]
        fn a_whole_set_misses_nothing_and_a_torn_one_is_seen(count in 1_u32..40, gone in 0_u32..40, from in 0_u32..2) {
            let name = |n: u32| format!("m/x-{n:05}-of-{count:05}.safetensors");
            let all: Vec<_> = (from..from + count).map(name).collect();
            prop_assert_eq!(missing_by_count(all.iter().map(String::as_str)), None);
            let torn: Vec<_> = all.iter().filter(|path| **path != name(gone)).collect();
            if torn.len() < all.len() && !torn.is_empty() && gone > 0 {
                prop_assert_eq!(missing_by_count(torn.iter().map(|path| path.as_str())), Some(name(gone)));
            }
        }

        #[test]
        fn never_panics(path in "\\PC{0,30}(-[0-9]{0,12}-of-[0-9]{0,12})?\\PC{0,8}") {
            let _ = missing_by_count(std::iter::once(path.as_str()));
            let _ = named_by_index(&path, path.as_bytes());
        }
    }
}
