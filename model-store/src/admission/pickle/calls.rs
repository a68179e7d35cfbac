//! What imports, makes and calls: where a pickle can do harm.

use super::arrays::is_dtype;
use super::heap::{Kind, Value};
use super::machine::{Flavor, Machine};
use crate::admission::globals::Rule;
use crate::admission::source::{Failure, Line, Scan};

/// Longest name of a module or of what is in it, in bytes.
const LONGEST_NAME: usize = 1024;
/// Codecs that only turn text into bytes.
const CODECS: [&str; 5] = ["latin1", "latin-1", "utf-8", "utf8", "ascii"];

impl Machine<'_, '_, '_> {
    /// `GLOBAL`: module and name are lines.
    pub(super) fn global(&mut self) -> Scan<()> {
        let module = self.name_line()?;
        let name = self.name_line()?;
        let value = self.import(&module, &name)?;
        self.push(value)
    }

    /// `STACK_GLOBAL`: module and name are on the stack.
    pub(super) fn stack_global(&mut self) -> Scan<()> {
        let name = self.pop()?;
        let module = self.pop()?;
        let value = match (self.heap.text(module), self.heap.text(name)) {
            (Some(module), Some(name)) => {
                let (module, name) = (module.to_owned(), name.to_owned());
                self.import(&module, &name)?
            }
            _ if is_no_text(module) || is_no_text(name) => {
                return Err(Failure::broken(
                    "it imports something whose name is no text",
                ));
            }
            _ => {
                self.vetting.report(
                    self.at,
                    "it imports something whose name is made while it is loaded",
                );
                Value::Foreign
            }
        };
        self.push(value)
    }

    fn name_line(&mut self) -> Scan<String> {
        match self.cursor.line()? {
            Line::Whole(line) if line.len() <= LONGEST_NAME => str::from_utf8(line)
                .map(str::to_owned)
                .map_err(|_| Failure::broken("a name is not UTF-8")),
            _ => Err(Failure::broken("a name is longer than any name")),
        }
    }

    fn import(&mut self, module: &str, name: &str) -> Scan<Value> {
        let global = self
            .vetting
            .import(self.at, module, name)
            .ok_or_else(|| Failure::broken("it imports more names than any model"))?;
        Ok(match self.vetting.rule(global) {
            Some(Rule::ArrayClass) => Value::ArrayClass,
            _ => Value::Global(global),
        })
    }

    /// `EXT1`, `EXT2`, `EXT4`: a name from a registry of the process that loads it.
    pub(super) fn extension(&mut self, code: u32) -> Scan<()> {
        let detail = format!("it imports extension {code} of a registry that is not in the file");
        self.vetting.report(self.at, detail);
        self.push(Value::Foreign)
    }

    /// `REDUCE`.
    pub(super) fn reduce(&mut self) -> Scan<()> {
        let arguments = self.pop()?;
        let callee = self.pop()?;
        self.vetting.calls += 1;
        let result = self.call(callee, arguments)?;
        self.push(result)
    }

    /// `INST`: module and name are lines, arguments above the mark.
    pub(super) fn inst(&mut self) -> Scan<()> {
        let place = self.pop_mark()?;
        let module = self.name_line()?;
        let name = self.name_line()?;
        let callee = self.import(&module, &name)?;
        self.call_from(callee, place, place)
    }

    /// `OBJ`: class and arguments are above the mark.
    pub(super) fn obj(&mut self) -> Scan<()> {
        let place = self.pop_mark()?;
        let callee = self.above(place).first().copied();
        let callee = callee.ok_or_else(|| Failure::broken("it calls nothing"))?;
        self.call_from(callee, place, place + 1)
    }

    /// Calls with the arguments from one place on, and leaves the result at another.
    fn call_from(&mut self, callee: Value, place: usize, arguments: usize) -> Scan<()> {
        if callee == Value::ArrayClass {
            return Err(Failure::broken(
                "it makes joblib's stand-in for arrays in an odd way",
            ));
        }
        self.vetting.calls += 1;
        self.tuple_from(arguments)?;
        let arguments = self.pop()?;
        self.cut(place)?;
        let result = self.call(callee, arguments)?;
        self.push(result)
    }

    /// `NEWOBJ` and `NEWOBJ_EX`: `class.__new__(class, …)`.
    pub(super) fn new_object(&mut self, keywords: bool) -> Scan<()> {
        if keywords {
            self.pop()?;
        }
        let arguments = self.pop()?;
        let class = self.pop_class()?;
        self.vetting.calls += 1;
        let made = match class {
            Value::ArrayClass => self.array_wrapper(arguments, keywords)?,
            Value::Global(global) => {
                // A global that is denied was told when it was imported.
                if self
                    .vetting
                    .rule(global)
                    .is_some_and(|rule| !rule.makes_instances())
                {
                    let name = self.vetting.name(global);
                    let detail = format!("it makes an instance of {name}, which may only be named");
                    self.vetting.report(self.at, detail);
                }
                match self.rule_of(class) {
                    Some(Rule::Text | Rule::Extra) => Value::Unknown,
                    _ => Value::Instance,
                }
            }
            _ if is_plain(class) => {
                return Err(Failure::broken("it makes an instance of what is no class"));
            }
            _ => {
                self.vetting.report(
                    self.at,
                    "it makes an instance of something it did not import",
                );
                Value::Instance
            }
        };
        self.push(made)
    }

    /// joblib's stand-in for an array, made as joblib makes it.
    fn array_wrapper(&mut self, arguments: Value, keywords: bool) -> Scan<Value> {
        let plain = !keywords && self.heap.tuple(arguments).is_some_and(<[Value]>::is_empty);
        match self.heap.watch(Kind::ArrayWrapper) {
            made @ Value::Watched(_) if plain => Ok(made),
            _ => Err(Failure::broken(
                "it makes joblib's stand-in for arrays in an odd way",
            )),
        }
    }

    /// `BUILD`: `__setstate__`, or attributes set one by one.
    pub(super) fn build(&mut self) -> Scan<()> {
        let state = self.pop()?;
        let target = self.top()?;
        self.vetting.calls += 1;
        match target {
            Value::Instance | Value::Unknown => {
                self.set_top(Value::Shared);
                Ok(())
            }
            Value::Watched(_) => match self.heap.set_state(target, state) {
                Some(Kind::ArrayWrapper) if self.flavor == Flavor::Joblib => self.array(),
                Some(Kind::Dtype(_)) if self.layout(target).is_none() => {
                    // NumPy believes a state: one that hides objects makes pointers of bytes.
                    let detail = "it gives a dtype a state that does not belong to it";
                    self.vetting.report(self.at, detail);
                    Ok(())
                }
                _ => Ok(()),
            },
            Value::Shared | Value::Foreign => {
                let detail = "it gives a state to an object that was complete";
                self.vetting.report(self.at, detail);
                Ok(())
            }
            Value::Global(global) => {
                // Attributes of a class or function reach everyone who uses it.
                let name = self.vetting.name(global).to_owned();
                self.vetting
                    .report(self.at, format!("it changes {name} itself"));
                Ok(())
            }
            _ => Err(Failure::broken(
                "it gives a state to a value that can have none",
            )),
        }
    }

    /// What has just grown must be a container, or an instance that acts like one.
    pub(super) fn grows(&mut self, opcode: &str) -> Scan<()> {
        match self.top()? {
            Value::List
            | Value::Set
            | Value::Dict(_)
            | Value::Instance
            | Value::Unknown
            | Value::Shared
            | Value::Watched(_) => Ok(()),
            Value::Global(_) | Value::Foreign | Value::ArrayClass => {
                self.vetting
                    .report(self.at, format!("it uses {opcode} on what is no container"));
                Ok(())
            }
            _ => Err(Failure::broken(format!("{opcode} needs a container"))),
        }
    }

    /// `PERSID`: a line that the loading program gives a meaning to.
    pub(super) fn persistent_line(&mut self) -> Scan<()> {
        self.cursor.line().map(drop)?;
        self.foreign()
    }

    /// `BINPERSID`: in the form of torch's storages.
    pub(super) fn persistent(&mut self) -> Scan<()> {
        let id = self.pop()?;
        if let Some([kind, class, key, place, count, ..]) = self.heap.tuple(id)
            && self.heap.text(*kind) == Some("storage")
            && let Value::Global(class) = class
            && let Some(Rule::Storage(size)) = self.vetting.rule(*class)
            && let Some(key) = self.heap.text(*key)
            && self.heap.text(*place).is_some()
        {
            if let Value::Int(count) = count {
                self.vetting
                    .storage(key, u64::from(*count) * u64::from(size));
            }
            return self.push(Value::Foreign);
        }
        self.foreign()
    }

    fn foreign(&mut self) -> Scan<()> {
        let detail = "it asks the loading program for an object that is no storage of torch";
        self.vetting.report(self.at, detail);
        self.push(Value::Foreign)
    }

    /// Weighs a call; gives what is known of its result.
    fn call(&mut self, callee: Value, arguments: Value) -> Scan<Value> {
        if is_plain(callee) {
            return Err(Failure::broken("it calls what cannot be called"));
        }
        let Value::Global(global) = callee else {
            self.vetting
                .report(self.at, "it calls something that it did not import");
            return Ok(Value::Instance);
        };
        // A global that is denied was told when it was imported.
        let Some(rule) = self.vetting.rule(global) else {
            return Ok(Value::Instance);
        };
        let items = self.heap.tuple(arguments).map(<[Value]>::to_vec);
        if self.may_call(rule, items.as_deref()) {
            return self.result(rule, items.as_deref());
        }
        let name = self.vetting.name(global).to_owned();
        let detail = format!("it calls {name} with arguments that are not known to be harmless");
        self.vetting.report(self.at, detail);
        Ok(Value::Instance)
    }

    fn may_call(&self, rule: Rule, items: Option<&[Value]>) -> bool {
        match (rule, items) {
            (Rule::Any | Rule::Text | Rule::Extra, _) => true,
            (Rule::Identity, Some(items)) => !items.is_empty(),
            (Rule::Data | Rule::Named | Rule::Storage(_) | Rule::ArrayClass, _) | (_, None) => {
                false
            }
            (Rule::Dtype, Some(items)) => match items {
                [text, ..] => self.heap.text(*text).is_some_and(is_dtype),
                _ => false,
            },
            (Rule::Class, Some(items)) => items.first().is_some_and(|class| self.is_class(*class)),
            (Rule::Constructor, Some(items)) => match items {
                [] | [_] => true,
                [_, make] => self.is_plain_function(*make),
                _ => false,
            },
            (Rule::Reconstructor, Some(items)) => {
                matches!(items, [class, base, _] if self.is_class(*class) && self.is_class(*base))
            }
            (Rule::Codec, Some(items)) => match items {
                [_, codec] => self
                    .heap
                    .text(*codec)
                    .is_some_and(|codec| CODECS.contains(&codec)),
                _ => false,
            },
            (Rule::Scalar, Some(items)) => {
                let dtype = items.first().and_then(|dtype| self.layout(*dtype));
                dtype.is_some_and(|layout| !layout.objects)
            }
            (Rule::FromType, Some(items)) => {
                matches!(items, [function, class, _, _]
                    if self.is_plain_function(*function) && self.is_class(*class))
            }
        }
    }

    fn rule_of(&self, value: Value) -> Option<Rule> {
        match value {
            Value::Global(global) => self.vetting.rule(global),
            _ => None,
        }
    }

    fn is_class(&self, value: Value) -> bool {
        self.rule_of(value).is_some_and(Rule::makes_instances)
    }

    fn is_plain_function(&self, value: Value) -> bool {
        matches!(self.rule_of(value), Some(Rule::Any | Rule::Extra))
    }

    fn result(&mut self, rule: Rule, items: Option<&[Value]>) -> Scan<Value> {
        match (rule, items.and_then(<[Value]>::first)) {
            (Rule::Dtype, Some(Value::Text(text))) => match self.heap.watch(Kind::Dtype(*text)) {
                made @ Value::Watched(_) => Ok(made),
                _ => Err(Failure::broken("it makes more dtypes than any model")),
            },
            (Rule::Codec, _) => Ok(Value::Blob),
            (Rule::Identity, Some(Value::Instance)) => Ok(Value::Shared),
            (Rule::Identity, Some(first)) => Ok(*first),
            _ if self.may_give_text(rule, items) => Ok(Value::Unknown),
            _ => Ok(Value::Instance),
        }
    }

    /// Whether a call may give a text: only the type itself does, called or as an argument of what
    /// makes instances.
    fn may_give_text(&self, rule: Rule, items: Option<&[Value]>) -> bool {
        let text = |rule| matches!(rule, Rule::Text | Rule::Extra);
        let Some(items) = items else {
            return true;
        };
        text(rule)
            || items
                .iter()
                .any(|item| self.rule_of(*item).is_some_and(text))
    }
}

/// Whether a value is certainly not of the type of texts, so that an unpickler stops.
fn is_no_text(value: Value) -> bool {
    is_plain(value) || matches!(value, Value::Instance | Value::Shared | Value::Global(_))
}

/// Whether a value is of a type that is neither a text nor callable, so that an unpickler stops.
fn is_plain(value: Value) -> bool {
    matches!(
        value,
        Value::None
            | Value::Scalar
            | Value::Int(_)
            | Value::Negative
            | Value::TorchMagic
            | Value::Tuple(_)
            | Value::List
            | Value::Set
            | Value::Dict(_)
            | Value::Watched(_)
    )
}
