//! What the walk knows about the objects that an unpickler would make.
//!
//! A value is a tag and an index into arenas that only grow, so that a pickle can neither nest
//! values deep enough to exhaust the stack of this program nor tie them into knots. When an arena
//! is full, new values in it are [`Value::Other`]: less is known, so less is admitted.

/// Longest text that is kept, in bytes; names of modules and classes are shorter.
pub(super) const LONGEST_TEXT: usize = 256;
/// Room for texts, in bytes.
const ROOM_FOR_TEXT: usize = 64 << 20;
/// Longest tuple whose items are kept.
const LONGEST_TUPLE: usize = 16;
/// Room for texts, for tuples, and for the items of tuples: 32 MiB each.
const ROOM_FOR_ITEMS: usize = 4 << 20;
/// Room for dictionaries, for their entries and for tracked instances.
const ROOM_FOR_OBJECTS: usize = 1 << 20;
/// Most entries of a dictionary that are kept.
const LONGEST_DICT: usize = 32;

/// What is known of a value. Eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// `None`.
    None,
    /// A number, boolean or other value without attributes that matter.
    Scalar,
    /// An integer that is not negative.
    Int(u32),
    /// A negative integer.
    Negative,
    /// The number that the files of old torch begin with.
    TorchMagic,
    /// A text that is known exactly.
    Text(u32),
    /// A text, bytes or bytearray that is too long to be kept, or not valid.
    Blob,
    /// A tuple whose items are known.
    Tuple(u32),
    /// A list, or a tuple that is too long to be kept.
    List,
    /// A set.
    Set,
    /// A dictionary.
    Dict(u32),
    /// A global, by its number in the table of globals.
    Global(u32),
    /// The class of joblib's stand-in for an array.
    ArrayClass,
    /// An instance that is watched: a dtype, or joblib's stand-in for an array.
    Watched(u32),
    /// Any other instance that a call gave, and that has no state yet.
    Instance,
    /// What a call gave that can give a text.
    Unknown,
    /// An instance from the memo, or one that has its state. Picklers write an instance's state
    /// once, to where it was made.
    Shared,
    /// A value that comes from outside the pickle.
    Foreign,
}

/// A dictionary: its entries whose keys are known texts.
#[derive(Debug, Default)]
pub(super) struct Dict {
    entries: Vec<(u32, Value)>,
    /// Whether an entry was left out that could have any key.
    vague: bool,
}

/// An instance that is watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    /// What it is.
    pub(super) kind: Kind,
    /// The last state it was given, and how many times it was.
    pub(super) state: Value,
    pub(super) states: u8,
}

/// What a watched instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `numpy.dtype`, by the text it was made from.
    Dtype(u32),
    /// joblib's stand-in, after which the array's bytes follow.
    ArrayWrapper,
}

/// The arenas.
#[derive(Debug, Default)]
pub(super) struct Heap {
    text: String,
    texts: Vec<(u32, u32)>,
    items: Vec<Value>,
    tuples: Vec<(u32, u8)>,
    dicts: Vec<Dict>,
    entries: usize,
    watched: Vec<Watched>,
}

fn index(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn place(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

impl Heap {
    /// Keeps a text.
    pub(super) fn keep_text(&mut self, text: &str) -> Value {
        let full =
            self.text.len() + text.len() > ROOM_FOR_TEXT || self.texts.len() >= ROOM_FOR_ITEMS;
        if text.len() > LONGEST_TEXT || full {
            return Value::Blob;
        }
        self.texts.push((index(self.text.len()), index(text.len())));
        self.text.push_str(text);
        Value::Text(index(self.texts.len() - 1))
    }

    /// Keeps a text, if the bytes are UTF-8.
    pub(super) fn keep_utf8(&mut self, bytes: &[u8]) -> Value {
        match str::from_utf8(bytes) {
            Ok(text) => self.keep_text(text),
            // Python decodes lone surrogates; no name in any list has one.
            Err(_) => Value::Blob,
        }
    }

    fn text_at(&self, text: u32) -> &str {
        let (start, len) = self.texts.get(place(text)).copied().unwrap_or_default();
        self.text
            .get(place(start)..place(start) + place(len))
            .unwrap_or_default()
    }

    /// The text, where it is one that is known.
    pub(super) fn text(&self, value: Value) -> Option<&str> {
        match value {
            Value::Text(text) => Some(self.text_at(text)),
            _ => None,
        }
    }

    /// Keeps a tuple.
    pub(super) fn keep_tuple(&mut self, items: &[Value]) -> Value {
        if items.len() > LONGEST_TUPLE || self.items.len() + items.len() > ROOM_FOR_ITEMS {
            return Value::List;
        }
        if self.tuples.len() >= ROOM_FOR_ITEMS {
            return Value::List;
        }
        self.tuples.push((
            index(self.items.len()),
            u8::try_from(items.len()).unwrap_or(0),
        ));
        self.items.extend_from_slice(items);
        Value::Tuple(index(self.tuples.len() - 1))
    }

    /// The items, where it is a tuple that is known.
    pub(super) fn tuple(&self, value: Value) -> Option<&[Value]> {
        let Value::Tuple(tuple) = value else {
            return None;
        };
        let (start, len) = self.tuples.get(place(tuple)).copied()?;
        self.items
            .get(place(start)..place(start) + usize::from(len))
    }

    /// Makes an empty dictionary.
    pub(super) fn new_dict(&mut self) -> Value {
        if self.dicts.len() < ROOM_FOR_OBJECTS {
            self.dicts.push(Dict::default());
            return Value::Dict(index(self.dicts.len() - 1));
        }
        // An index that no dictionary has: nothing is known about it.
        Value::Dict(u32::MAX)
    }

    /// Sets entries, given as key, value, key, value.
    pub(super) fn set_items(&mut self, dict: u32, items: &[Value]) {
        for pair in items.chunks_exact(2) {
            self.set_item(dict, pair[0], pair[1]);
        }
    }

    fn set_item(&mut self, dict: u32, key: Value, value: Value) {
        let known = self.dicts.get(place(dict)).and_then(|found| {
            let name = self.text(key)?;
            found
                .entries
                .iter()
                .position(|(text, _)| self.text_at(*text) == name)
        });
        let full = self.entries >= ROOM_FOR_OBJECTS;
        let Some(found) = self.dicts.get_mut(place(dict)) else {
            return;
        };
        match (known, key) {
            (Some(known), _) => found.entries[known].1 = value,
            (None, Value::Text(text)) if !full && found.entries.len() < LONGEST_DICT => {
                found.entries.push((text, value));
                self.entries += 1;
            }
            _ => found.vague = true,
        }
    }

    /// A dictionary, if all its entries are known.
    pub(super) fn dict(&self, dict: Value) -> Option<&Dict> {
        let Value::Dict(dict) = dict else {
            return None;
        };
        self.dicts.get(place(dict)).filter(|dict| !dict.vague)
    }

    /// The entry of a dictionary.
    pub(super) fn entry(&self, dict: &Dict, name: &str) -> Option<Value> {
        let found = dict
            .entries
            .iter()
            .find(|(text, _)| self.text_at(*text) == name);
        found.map(|(_, value)| *value)
    }

    /// All values of a dictionary, if they are known.
    pub(super) fn values(&self, dict: Value) -> Option<Vec<Value>> {
        let dict = self.dict(dict)?;
        Some(dict.entries.iter().map(|(_, value)| *value).collect())
    }

    /// Watches an instance.
    pub(super) fn watch(&mut self, kind: Kind) -> Value {
        if self.watched.len() >= ROOM_FOR_OBJECTS {
            return Value::Instance;
        }
        self.watched.push(Watched {
            kind,
            state: Value::None,
            states: 0,
        });
        Value::Watched(index(self.watched.len() - 1))
    }

    /// A watched instance.
    pub(super) fn watched(&self, value: Value) -> Option<Watched> {
        match value {
            Value::Watched(watched) => self.watched.get(place(watched)).copied(),
            _ => None,
        }
    }

    /// Gives a watched instance its state; gives its kind.
    pub(super) fn set_state(&mut self, value: Value, state: Value) -> Option<Kind> {
        let Value::Watched(watched) = value else {
            return None;
        };
        let watched = self.watched.get_mut(place(watched))?;
        watched.state = state;
        watched.states = watched.states.saturating_add(1);
        Some(watched.kind)
    }

    /// The text that a dtype was made from.
    pub(super) fn dtype_text(&self, text: u32) -> &str {
        self.text_at(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_small() {
        assert_eq!(size_of::<Value>(), 8);
    }

    #[test]
    fn dictionaries_know_when_they_do_not_know() {
        let mut heap = Heap::default();
        let (key, other) = (heap.keep_text("shape"), heap.keep_text("shape"));
        let dict = heap.new_dict();
        let Value::Dict(id) = dict else { panic!() };
        heap.set_items(id, &[key, Value::Int(1), other, Value::Int(2)]);
        let known = heap.dict(dict).unwrap();
        assert_eq!(heap.entry(known, "shape"), Some(Value::Int(2)));
        assert_eq!(heap.entry(known, "dtype"), None);
        heap.set_items(id, &[Value::Blob, Value::Int(1)]);
        assert!(heap.dict(dict).is_none());
        assert!(heap.dict(Value::Dict(u32::MAX)).is_none());
    }

    #[test]
    fn what_is_too_long_is_not_known() {
        let mut heap = Heap::default();
        assert_eq!(heap.keep_text(&"x".repeat(LONGEST_TEXT + 1)), Value::Blob);
        assert_eq!(heap.keep_utf8(b"\xed\xa0\x80"), Value::Blob);
        assert_eq!(
            heap.keep_tuple(&[Value::None; LONGEST_TUPLE + 1]),
            Value::List
        );
        let text = heap.keep_text("os");
        let tuple = heap.keep_tuple(&[text, Value::None]);
        assert_eq!(heap.tuple(tuple), Some(&[text, Value::None][..]));
        assert_eq!(heap.text(text), Some("os"));
    }
}
