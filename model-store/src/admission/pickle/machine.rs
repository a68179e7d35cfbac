//! The unpickler's machine without its effects: stack, marks, memo and frames.

use super::heap::{Heap, Value};
use super::literal::decimal;
use super::vetting::Vetting;
use crate::admission::source::{Cursor, Failure, Line, Scan};

/// Most values on the stack: 32 MiB.
const MAX_STACK: usize = 4 << 20;
/// Most marks on the stack.
const MAX_MARKS: usize = 1 << 20;
/// Most values in the memo: 128 MiB.
const MAX_MEMO: usize = 16 << 20;
/// How far an index of the memo may be ahead of what the memo holds. Picklers count up.
const MEMO_GAP: usize = 4096;

/// Which unpickler is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavor {
    /// Python's own.
    Plain,
    /// joblib's, which reads the bytes of arrays from between the opcodes.
    Joblib,
}

/// A memo slot that holds nothing.
const EMPTY: Option<Value> = None;

/// One run through one pickle.
pub(super) struct Machine<'m, 'c, 'p> {
    pub(super) cursor: &'m mut Cursor<'c>,
    pub(super) vetting: &'m mut Vetting<'p>,
    pub(super) flavor: Flavor,
    pub(super) heap: Heap,
    /// The offset of the opcode at hand.
    pub(super) at: u64,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: Vec<Option<Value>>,
    memo_count: usize,
    frame_end: Option<u64>,
}

impl<'m, 'c, 'p> Machine<'m, 'c, 'p> {
    pub(super) fn new(
        cursor: &'m mut Cursor<'c>,
        vetting: &'m mut Vetting<'p>,
        flavor: Flavor,
    ) -> Self {
        Self {
            at: cursor.offset(),
            cursor,
            vetting,
            flavor,
            heap: Heap::default(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
            memo_count: 0,
            frame_end: None,
        }
    }

    /// Follows one pickle to its end; gives what is known of the object.
    pub(super) fn run(&mut self) -> Scan<Value> {
        loop {
            self.at = self.cursor.offset();
            if self.outside_frames() {
                self.frame_end = None;
            }
            let opcode = self.cursor.u8()?;
            if opcode == b'.' {
                let result = self.pop()?;
                self.end_frame()?;
                return Ok(result);
            }
            self.step(opcode)?;
            if let Some(end) = self.frame_end
                && self.cursor.offset() > end
            {
                return Err(Failure::broken(
                    "an opcode reaches over the end of its frame",
                ));
            }
        }
    }

    pub(super) fn push(&mut self, value: Value) -> Scan<()> {
        if self.stack.len() >= MAX_STACK {
            return Err(Failure::broken("it puts too many values on the stack"));
        }
        self.stack.push(value);
        Ok(())
    }

    /// Where the values above the last mark begin. An unpickler cannot reach below.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    /// Takes a value that may be anything but the class of joblib's stand-in for arrays.
    ///
    /// Where an instance of that class comes from decides which bytes are opcodes and which are
    /// data, so that the class may be used in the one way in which joblib does.
    pub(super) fn pop(&mut self) -> Scan<Value> {
        match self.pop_class()? {
            Value::ArrayClass => Err(odd_array_class()),
            value => Ok(value),
        }
    }

    /// Takes a value that may be any class.
    pub(super) fn pop_class(&mut self) -> Scan<Value> {
        if self.stack.len() <= self.floor() {
            return Err(Failure::broken("it takes a value from an empty stack"));
        }
        self.stack
            .pop()
            .ok_or_else(|| Failure::broken("it takes a value from an empty stack"))
    }

    pub(super) fn top(&self) -> Scan<Value> {
        let above = self.stack.get(self.floor()..).and_then(<[Value]>::last);
        above
            .copied()
            .ok_or_else(|| Failure::broken("it needs a value on an empty stack"))
    }

    /// Puts another value in place of the top.
    pub(super) fn set_top(&mut self, value: Value) {
        if let Some(top) = self.stack.last_mut() {
            *top = value;
        }
    }

    pub(super) fn mark(&mut self) -> Scan<()> {
        if self.marks.len() >= MAX_MARKS {
            return Err(Failure::broken("it puts too many marks on the stack"));
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// Takes the last mark; the values above it are from the place that it gives on.
    pub(super) fn pop_mark(&mut self) -> Scan<usize> {
        self.marks
            .pop()
            .ok_or_else(|| Failure::broken("it takes a mark that is not there"))
    }

    /// The values from a place on.
    pub(super) fn above(&self, place: usize) -> &[Value] {
        self.stack.get(place..).unwrap_or_default()
    }

    /// Takes the values from a place on.
    pub(super) fn cut(&mut self, place: usize) -> Scan<()> {
        if self.above(place).contains(&Value::ArrayClass) {
            return Err(odd_array_class());
        }
        self.stack.truncate(place);
        Ok(())
    }

    /// `POP`: a value, or, where there is none above it, the mark.
    pub(super) fn drop_top(&mut self) -> Scan<()> {
        if self.stack.len() == self.floor() && !self.marks.is_empty() {
            return self.pop_mark().map(drop);
        }
        self.pop_class().map(drop)
    }

    /// Makes a tuple of the values from a place on, and puts it in their stead.
    pub(super) fn tuple_from(&mut self, place: usize) -> Scan<()> {
        let items = self.stack.get(place..).unwrap_or_default();
        let tuple = self.heap.keep_tuple(items);
        self.cut(place)?;
        self.push(tuple)
    }

    /// `TUPLE1` to `TUPLE3`.
    pub(super) fn tuple_of(&mut self, count: usize) -> Scan<()> {
        match self.stack.len().checked_sub(count) {
            Some(place) if place >= self.floor() => self.tuple_from(place),
            _ => Err(Failure::broken("it takes a value from an empty stack")),
        }
    }

    /// The dictionary or other container below the values of the last mark, after taking them.
    pub(super) fn fill_dict(&mut self, place: usize) -> Scan<()> {
        if self.above(place).len() % 2 == 1 {
            return Err(Failure::broken("a dictionary gets a key without a value"));
        }
        if let Some(Value::Dict(dict)) = place.checked_sub(1).and_then(|p| self.stack.get(p)) {
            let items = self.stack.get(place..).unwrap_or_default();
            self.heap.set_items(*dict, items);
        }
        self.cut(place)
    }

    /// Stores the top of the stack in the memo.
    pub(super) fn put(&mut self, index: u64) -> Scan<()> {
        let value = self.top()?;
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if index >= MAX_MEMO || index > self.memo.len() + MEMO_GAP {
            return Err(Failure::broken(format!(
                "it stores a value as number {index}"
            )));
        }
        if index >= self.memo.len() {
            self.memo.resize(index + 1, EMPTY);
        }
        if self.memo[index].replace(value).is_none() {
            self.memo_count += 1;
        }
        Ok(())
    }

    /// `MEMOIZE`: under the number of values stored so far, wherever they are.
    pub(super) fn memoize(&mut self) -> Scan<()> {
        self.put(self.memo_count as u64)
    }

    /// Puts a stored value on the stack.
    pub(super) fn get(&mut self, index: u64) -> Scan<()> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        match self.memo.get(index).copied().flatten() {
            Some(Value::Instance) => self.push(Value::Shared),
            Some(value) => self.push(value),
            None => Err(Failure::broken(format!(
                "it uses value number {index} before it is stored"
            ))),
        }
    }

    /// An index of the memo written as a line.
    pub(super) fn index_line(&mut self) -> Scan<u64> {
        match self.cursor.line()? {
            Line::Whole(line) => decimal(line),
            Line::Long => None,
        }
        .ok_or_else(|| Failure::broken("an index is not a plain number"))
    }

    /// `FRAME`: the next `length` bytes belong together.
    pub(super) fn frame(&mut self, length: u64) -> Scan<()> {
        let here = self.cursor.offset();
        if self.frame_end.is_some_and(|end| here < end) {
            return Err(Failure::broken("a frame begins inside another"));
        }
        self.frame_end = here.checked_add(length);
        match self.frame_end {
            Some(_) => Ok(()),
            None => Err(Failure::broken("a frame is longer than any file")),
        }
    }

    /// Whether the cursor is where a frame ends, or outside of any.
    pub(super) fn outside_frames(&self) -> bool {
        self.frame_end.is_none_or(|end| end <= self.cursor.offset())
    }

    /// Forgets the frame, after bytes that lie outside of frames.
    pub(super) fn leave_frame(&mut self) {
        self.frame_end = None;
    }

    fn end_frame(&self) -> Scan<()> {
        if self.outside_frames() {
            return Ok(());
        }
        Err(Failure::broken("the pickle ends before its frame does"))
    }
}

fn odd_array_class() -> Failure {
    Failure::broken("it uses joblib's stand-in for arrays in a way that joblib does not")
}
