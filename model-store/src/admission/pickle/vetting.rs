//! What a pickle imports and does, weighed against the list of harmless globals.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::admission::globals::{self, Rule};
use crate::admission::report::quote;

/// Different things that are told about one pickle.
const MAX_EVENTS: usize = 64;
/// Different globals that one file may import; large models import some hundred.
const MAX_GLOBALS: usize = 1 << 14;
/// Storages of torch that are remembered by key; more are not accounted for.
const MAX_STORAGES: usize = 1 << 18;

/// Something unsafe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) at: u64,
    pub(super) detail: String,
}

/// A global that the pickle imports.
#[derive(Debug)]
struct Known {
    name: String,
    /// How it may be used; `None` if it is denied.
    rule: Option<Rule>,
}

/// The judge of one file, whatever number of pickles it holds.
#[derive(Debug)]
pub(super) struct Vetting<'p> {
    extra: &'p BTreeSet<String>,
    table: HashMap<String, u32>,
    globals: Vec<Known>,
    pub(super) events: Vec<Event>,
    /// Imports of names that look like names.
    pub(super) imports: u64,
    /// Opcodes that call something.
    pub(super) calls: u64,
    /// Arrays whose bytes lie between the opcodes.
    pub(super) arrays: u64,
    /// Sizes in bytes of torch's storages, by key.
    pub(super) storages: BTreeMap<String, u64>,
}

impl<'p> Vetting<'p> {
    pub(super) fn new(extra: &'p BTreeSet<String>) -> Self {
        Self {
            extra,
            table: HashMap::new(),
            globals: Vec::new(),
            events: Vec::new(),
            imports: 0,
            calls: 0,
            arrays: 0,
            storages: BTreeMap::new(),
        }
    }

    /// Notes something unsafe.
    pub(super) fn report(&mut self, at: u64, detail: impl Into<String>) {
        let detail = detail.into();
        let known = self.events.iter().any(|event| event.detail == detail);
        if !known && self.events.len() < MAX_EVENTS {
            self.events.push(Event { at, detail });
        }
    }

    /// Weighs an import; gives its number, or `None` where there are too many.
    pub(super) fn import(&mut self, at: u64, module: &str, name: &str) -> Option<u32> {
        if is_path(module) && is_path(name) {
            self.imports += 1;
        }
        let key = format!("{module}\n{name}");
        if let Some(known) = self.table.get(&key) {
            return Some(*known);
        }
        let number = u32::try_from(self.globals.len()).ok()?;
        if self.globals.len() >= MAX_GLOBALS {
            return None;
        }
        let rule = self.judge(module, name);
        let name = quote(&format!("{module}.{name}"));
        if rule.is_none() {
            self.report(
                at,
                format!("it imports {name}, which is not known to be harmless"),
            );
        }
        self.table.insert(key, number);
        self.globals.push(Known { name, rule });
        Some(number)
    }

    fn judge(&self, module: &str, name: &str) -> Option<Rule> {
        // Since protocol 4 a name with dots walks through attributes, and reaches anything.
        if name.contains('.') || name.is_empty() || module.is_empty() {
            return None;
        }
        let extra = || {
            self.extra
                .contains(&format!("{module}.{name}"))
                .then_some(Rule::Extra)
        };
        globals::rule(module, name).or_else(extra)
    }

    /// How a global may be used; `None` if it is denied, and so already told.
    pub(super) fn rule(&self, global: u32) -> Option<Rule> {
        self.known(global).and_then(|known| known.rule)
    }

    /// A global's full name, fit to print.
    pub(super) fn name(&self, global: u32) -> &str {
        self.known(global).map_or("", |known| &known.name)
    }

    fn known(&self, global: u32) -> Option<&Known> {
        self.globals.get(usize::try_from(global).ok()?)
    }

    /// Remembers a storage of torch.
    pub(super) fn storage(&mut self, key: &str, bytes: u64) {
        if self.storages.len() < MAX_STORAGES {
            self.storages.insert(key.to_owned(), bytes);
        }
    }
}

/// Whether a text is made like the path of a Python module or name.
fn is_path(text: &str) -> bool {
    let word = |word: &str| {
        let plain = |c: char| c == '_' || c.is_alphanumeric();
        word.chars().all(plain) && word.chars().next().is_some_and(|c| !c.is_numeric())
    };
    text.split('.').all(word)
}
