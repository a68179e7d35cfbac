//! joblib's arrays, whose bytes lie between the opcodes, and how many bytes they are.
//!
//! joblib pickles a stand-in with shape and dtype; when its unpickler has given the stand-in its
//! state, it reads from the file, in this order: one byte with the length of a padding and the
//! padding (since 1.2, where the stand-in names an alignment), then the elements; or, for a dtype
//! of objects, another pickle, which Python's own unpickler loads.

use super::heap::{Kind, Value};
use super::machine::{Flavor, Machine};
use crate::admission::source::{Failure, Scan};

/// How deep dtypes may hold dtypes.
const MAX_DEPTH: u8 = 8;

/// What is known of a dtype.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Size of an element, in bytes.
    pub(super) size: u64,
    /// Whether the elements are Python objects.
    pub(super) objects: bool,
}

impl Machine<'_, '_, '_> {
    /// Passes over the array that belongs to the stand-in on top of the stack.
    pub(super) fn array(&mut self) -> Scan<()> {
        // Inside a frame joblib would read the array from after the frame, and then go on inside.
        if !self.outside_frames() {
            return Err(Failure::broken("an array begins inside a frame"));
        }
        self.leave_frame();
        let wrapper = self.pop()?;
        let (bytes, layout, padded) = self.extent(wrapper).ok_or_else(|| {
            Failure::broken("the size of an array cannot be told from its stand-in")
        })?;
        self.vetting.arrays += 1;
        if layout.objects {
            Machine::new(self.cursor, self.vetting, Flavor::Plain).run()?;
        } else {
            if padded {
                let padding = self.cursor.u8()?;
                self.cursor.skip(padding.into())?;
            }
            self.cursor.skip(bytes)?;
        }
        self.push(Value::Instance)
    }

    /// The size of an array in bytes, its dtype, and whether a padding precedes it.
    fn extent(&self, wrapper: Value) -> Option<(u64, Layout, bool)> {
        let wrapper = self.heap.watched(wrapper)?;
        if wrapper.kind != Kind::ArrayWrapper || wrapper.states != 1 {
            return None;
        }
        let state = self.heap.dict(wrapper.state)?;
        let layout = self.layout(self.heap.entry(state, "dtype")?)?;
        let shape = self.heap.tuple(self.heap.entry(state, "shape")?)?;
        let padded = match self.heap.entry(state, "numpy_array_alignment_bytes") {
            None | Some(Value::None) => false,
            Some(Value::Int(_)) => true,
            _ => return None,
        };
        Some((count(shape)?.checked_mul(layout.size)?, layout, padded))
    }

    /// What is known of a dtype.
    pub(super) fn layout(&self, dtype: Value) -> Option<Layout> {
        self.layout_at(dtype, MAX_DEPTH)
    }

    fn layout_at(&self, dtype: Value, depth: u8) -> Option<Layout> {
        let watched = self.heap.watched(dtype)?;
        let Kind::Dtype(text) = watched.kind else {
            return None;
        };
        let (layout, flexible) = named(self.heap.dtype_text(text))?;
        match watched.states {
            0 => Some(layout),
            1 if depth > 0 => self.with_state(layout, flexible, watched.state, depth - 1),
            _ => None,
        }
    }

    /// A dtype's layout with its state, if the two belong together.
    fn with_state(
        &self,
        layout: Layout,
        flexible: bool,
        state: Value,
        depth: u8,
    ) -> Option<Layout> {
        let [_, _, inner, _, fields, size, _, flags, ..] = self.heap.tuple(state)? else {
            return None;
        };
        let structured = (*inner, *fields) != (Value::None, Value::None);
        let same_size = match size {
            Value::Negative => !flexible && !structured,
            Value::Int(size) => flexible && u64::from(*size) == layout.size,
            _ => false,
        };
        if !same_size {
            return None;
        }
        if !structured {
            return Some(layout);
        }
        let objects = self.inner(*inner, layout, depth)? | self.fields(*fields, layout, depth)?;
        // The flag decides whether NumPy takes the elements for pointers.
        let flagged = matches!(flags, Value::Int(flags) if flags & 1 == 1);
        (objects == flagged).then_some(Layout { objects, ..layout })
    }

    /// Whether the elements of an element are objects; `None` if they do not fit into it.
    fn inner(&self, inner: Value, layout: Layout, depth: u8) -> Option<bool> {
        if inner == Value::None {
            return Some(false);
        }
        let [base, shape] = self.heap.tuple(inner)? else {
            return None;
        };
        let base = self.layout_at(*base, depth)?;
        let shape = match shape {
            Value::Int(_) => std::slice::from_ref(shape),
            _ => self.heap.tuple(*shape)?,
        };
        (count(shape)?.checked_mul(base.size)? == layout.size).then_some(base.objects)
    }

    /// Whether a field is an object; `None` if a field lies outside.
    fn fields(&self, fields: Value, layout: Layout, depth: u8) -> Option<bool> {
        if fields == Value::None {
            return Some(false);
        }
        let mut objects = false;
        for field in self.heap.values(fields)? {
            let [dtype, Value::Int(offset), ..] = self.heap.tuple(field)? else {
                return None;
            };
            let inner = self.layout_at(*dtype, depth)?;
            if u64::from(*offset) + inner.size > layout.size {
                return None;
            }
            objects |= inner.objects;
        }
        Some(objects)
    }
}

/// The number of elements of a shape.
fn count(shape: &[Value]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |count, length| match length {
        Value::Int(length) => count.checked_mul(u64::from(*length)),
        _ => None,
    })
}

/// Whether a text names a dtype in the way in which dtypes are pickled.
pub(super) fn is_dtype(text: &str) -> bool {
    named(text).is_some()
}

/// The layout of a dtype by its name, and whether its size is part of its state.
fn named(text: &str) -> Option<(Layout, bool)> {
    let (kind, digits) = text.split_at_checked(1)?;
    if digits.len() > 9 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let (size, flexible) = match kind {
        "b" | "i" | "u" | "f" | "c" | "m" | "M" | "O" if (1..=32).contains(&number) => {
            (number, false)
        }
        "S" | "V" => (number, true),
        "U" => (number * 4, true),
        _ => return None,
    };
    Some((
        Layout {
            size,
            objects: kind == "O",
        },
        flexible,
    ))
}
