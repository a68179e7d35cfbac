//! ONNX: a walk over the protobuf wire format, as far as messages that matter go.
//!
//! Field numbers are those of `onnx.proto`.

use std::collections::BTreeSet;

use super::inspect::Place;
use super::policy::Check;
use super::report::{Findings, quote};
use super::source::{Content, Cursor, Failure, Scan};

/// How deep messages may nest.
const MAX_DEPTH: u8 = 64;
/// Longest text that matters, in bytes.
const MAX_TEXT: u64 = 4096;
/// Most different domains that are remembered.
const MAX_DOMAINS: usize = 64;
/// Domains of operators that come with the format or its common runtime.
const DOMAINS: [&str; 8] = [
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.preview",
    "ai.onnx.preview.training",
    "ai.onnx.training",
    "com.microsoft",
    "com.microsoft.nchwc",
];

/// A message that is walked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Training,
    Function,
    Pair,
}

impl Message {
    /// The message that a field holds, if it is one that matters.
    fn field(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) | (Self::Training, 1 | 2) | (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => {
                Self::Tensor
            }
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::Tensor, 13) => Self::Pair,
            _ => return None,
        })
    }

    /// Whether a field holds a text that matters.
    fn text(self, number: u64) -> bool {
        matches!(
            (self, number),
            (Self::Node, 7) | (Self::Function, 10) | (Self::Pair, 1 | 2)
        )
    }
}

/// Checks a file.
pub(super) fn inspect(
    content: &Content<'_>,
    findings: &mut Findings<'_>,
    place: Place<'_>,
) -> Scan<()> {
    let mut walk = Walk {
        cursor: content.open()?,
        seen: Seen::default(),
        place,
    };
    if walk.cursor.at_end()? {
        return Err(Failure::broken("it is empty"));
    }
    walk.message(Message::Model, None, MAX_DEPTH)?;
    let Seen {
        version,
        graph,
        used,
        defined,
        ..
    } = walk.seen;
    if !(version && graph) {
        return Err(Failure::broken("it has no version or no graph"));
    }
    for domain in used
        .difference(&defined)
        .filter(|domain| !DOMAINS.contains(&domain.as_str()))
    {
        let detail = format!("it uses operators of the domain {}", quote(domain));
        findings.add(Check::OnnxCustomOps, None, detail);
    }
    Ok(())
}

#[derive(Default)]
struct Seen {
    version: bool,
    graph: bool,
    /// Domains of the operators that are used, and of those that the model itself defines.
    used: BTreeSet<String>,
    defined: BTreeSet<String>,
    /// The entries that say where the tensor at hand lies.
    external: External,
}

#[derive(Default)]
struct External {
    key: String,
    value: String,
    location: Option<String>,
    offset: u64,
    length: Option<u64>,
    /// Whether the tensor says that its data lies elsewhere.
    elsewhere: bool,
}

struct Walk<'a, 'c> {
    cursor: Cursor<'c>,
    seen: Seen,
    place: Place<'a>,
}

impl Walk<'_, '_> {
    /// Walks through a message up to its end; the outermost ends with the file.
    fn message(&mut self, message: Message, end: Option<u64>, depth: u8) -> Scan<()> {
        if depth == 0 {
            return Err(Failure::broken("messages nest too deep"));
        }
        if message == Message::Tensor {
            self.seen.external = External::default();
        }
        loop {
            let done = match end {
                Some(end) if self.cursor.offset() > end => {
                    return Err(Failure::broken(
                        "a field reaches over the end of its message",
                    ));
                }
                Some(end) => self.cursor.offset() == end,
                None => self.cursor.at_end()?,
            };
            if done {
                break;
            }
            self.field(message, end, depth)?;
        }
        match message {
            Message::Tensor => self.tensor_end(),
            Message::Pair => self.pair_end(),
            _ => Ok(()),
        }
    }

    fn field(&mut self, message: Message, end: Option<u64>, depth: u8) -> Scan<()> {
        let tag = self.varint()?;
        let (number, wire) = (tag >> 3, tag & 7);
        if number == 0 || number > 0x1fff_ffff {
            return Err(Failure::broken(format!("there is no field {number}")));
        }
        let inner = message.field(number);
        if wire != 2 && (inner.is_some() || message.text(number)) {
            return Err(Failure::broken(format!(
                "field {number} of {message:?} is of the wrong type"
            )));
        }
        match wire {
            0 => {
                let value = self.varint()?;
                self.number(message, number, value);
                Ok(())
            }
            1 => self.cursor.skip(8),
            5 => self.cursor.skip(4),
            2 => {
                let length = self.varint()?;
                let stop = self.cursor.offset().checked_add(length);
                let stop = stop.filter(|stop| end.is_none_or(|end| *stop <= end));
                let stop = stop.ok_or_else(|| Failure::broken("a length leaves its message"))?;
                match inner {
                    Some(inner) => {
                        self.seen.graph |= inner == Message::Graph;
                        self.message(inner, Some(stop), depth - 1)
                    }
                    None if message.text(number) => self.text(message, number, length),
                    None => self.cursor.skip(length),
                }
            }
            _ => Err(Failure::broken(format!("there is no wire type {wire}"))),
        }
    }

    fn varint(&mut self) -> Scan<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.cursor.u8()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Failure::broken("a number is too long"))
    }

    fn number(&mut self, message: Message, number: u64, value: u64) {
        match (message, number) {
            (Message::Model, 1) => self.seen.version = true,
            (Message::Tensor, 14) => self.seen.external.elsewhere = value == 1,
            _ => {}
        }
    }

    fn text(&mut self, message: Message, number: u64, length: u64) -> Scan<()> {
        if length > MAX_TEXT {
            return Err(Failure::broken("a name is too long"));
        }
        let bytes = self.cursor.bytes(usize::try_from(length).unwrap_or(0))?;
        let text = str::from_utf8(bytes).map_err(|_| Failure::broken("a name is not UTF-8"))?;
        let text = text.to_owned();
        let external = &mut self.seen.external;
        match (message, number) {
            (Message::Node, _) if self.seen.used.len() < MAX_DOMAINS => {
                self.seen.used.insert(text);
            }
            (Message::Function, _) if self.seen.defined.len() < MAX_DOMAINS => {
                self.seen.defined.insert(text);
            }
            // Key and value can come in any order; the last of each counts.
            (Message::Pair, 1) => external.key = text,
            (Message::Pair, _) => external.value = text,
            _ => {}
        }
        Ok(())
    }

    /// Takes in one entry of what says where a tensor lies.
    fn pair_end(&mut self) -> Scan<()> {
        let external = &mut self.seen.external;
        let (key, text) = (
            std::mem::take(&mut external.key),
            std::mem::take(&mut external.value),
        );
        let number = text
            .parse()
            .map_err(|_| Failure::broken("an offset is no number"));
        match key.as_str() {
            // Readers differ in which of two they take.
            "location" if external.location.is_some() => {
                return Err(Failure::broken("a tensor has two locations"));
            }
            "location" => external.location = Some(text),
            "offset" => external.offset = number?,
            "length" => external.length = Some(number?),
            _ => {}
        }
        Ok(())
    }

    /// What a tensor's data outside of the file must be: in the model, below the file's folder,
    /// and long enough.
    fn tensor_end(&mut self) -> Scan<()> {
        let external = std::mem::take(&mut self.seen.external);
        let Some(location) = external.location else {
            if external.elsewhere {
                return Err(Failure::broken(
                    "a tensor lies elsewhere, and does not say where",
                ));
            }
            return Ok(());
        };
        let odd = location.is_empty()
            || location.contains(['\\', ':', '\0'])
            || location.split('/').any(|part| matches!(part, "" | ".."));
        if odd {
            let detail = format!(
                "a tensor's location {:?} leaves the model",
                quote(&location)
            );
            return Err(Failure::broken(detail));
        }
        let folder = self
            .place
            .path
            .rsplit_once('/')
            .map(|(folder, _)| format!("{folder}/"));
        let parts = location.split('/').filter(|part| *part != ".");
        let file = folder.unwrap_or_default() + &parts.collect::<Vec<_>>().join("/");
        let size = self.place.model.sizes.get(&file).copied().ok_or_else(|| {
            Failure::broken(format!("{} with tensors is not in the model", quote(&file)))
        })?;
        let end = external.offset.checked_add(external.length.unwrap_or(0));
        if end.is_none_or(|end| end > size) {
            let detail = format!("a tensor reaches over the end of {}", quote(&file));
            return Err(Failure::broken(detail));
        }
        self.place.external.borrow_mut().insert(file);
        Ok(())
    }
}
