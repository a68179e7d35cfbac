//! The opcodes, all of protocols 0 to 5, as CPython's `pickletools` lists them.

use super::heap::{LONGEST_TEXT, Value};
use super::literal::{decimal, quoted, raw_unicode};
use super::machine::Machine;
use crate::admission::source::{Failure, Line, Scan};

/// The number that torch's files began with before they were archives, as `LONG1` writes it.
const TORCH_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

impl Machine<'_, '_, '_> {
    /// Follows one opcode; `STOP` is the caller's.
    pub(super) fn step(&mut self, opcode: u8) -> Scan<()> {
        match opcode {
            // The stack and the memo.
            b'(' => self.mark(),
            b'0' => self.drop_top(),
            b'1' => self.pop_mark().and_then(|place| self.cut(place)),
            b'2' => self.duplicate(),
            b'p' => self.index_line().and_then(|index| self.put(index)),
            b'q' => self.cursor.u8().and_then(|index| self.put(index.into())),
            b'r' => self.cursor.u32().and_then(|index| self.put(index.into())),
            b'\x94' => self.memoize(),
            b'g' => self.index_line().and_then(|index| self.get(index)),
            b'h' => self.cursor.u8().and_then(|index| self.get(index.into())),
            b'j' => self.cursor.u32().and_then(|index| self.get(index.into())),
            // Containers.
            b']' => self.push(Value::List),
            b'}' => self.empty_dict(),
            b')' => self.tuple_of(0),
            b'\x8f' => self.push(Value::Set),
            b't' => self.pop_mark().and_then(|place| self.tuple_from(place)),
            b'\x85' => self.tuple_of(1),
            b'\x86' => self.tuple_of(2),
            b'\x87' => self.tuple_of(3),
            b'l' => self.gather(Value::List),
            b'\x91' => self.gather(Value::Set),
            b'd' => self.dict(),
            b'a' => self.pop().and_then(|_| self.grows("APPEND")),
            b'e' | b'\x90' => self.extend(),
            b's' => self.set_item(),
            b'u' => self.set_items(),
            // What imports and calls.
            b'c' => self.global(),
            b'\x93' => self.stack_global(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            b'i' => self.inst(),
            b'o' => self.obj(),
            b'\x81' => self.new_object(false),
            b'\x92' => self.new_object(true),
            b'P' => self.persistent_line(),
            b'Q' => self.persistent(),
            b'\x82' => self
                .cursor
                .u8()
                .and_then(|code| self.extension(code.into())),
            b'\x83' => self
                .cursor
                .u16()
                .and_then(|code| self.extension(code.into())),
            b'\x84' => self.cursor.u32().and_then(|code| self.extension(code)),
            _ => self.constant(opcode),
        }
    }

    /// Opcodes that only put a value on the stack, and those about the stream.
    fn constant(&mut self, opcode: u8) -> Scan<()> {
        match opcode {
            b'N' => self.push(Value::None),
            b'\x88' | b'\x89' => self.push(Value::Scalar),
            b'I' => self.number_line(b""),
            b'L' => self.number_line(b"L"),
            b'F' => self
                .cursor
                .line()
                .map(drop)
                .and_then(|()| self.push(Value::Scalar)),
            b'G' => self.cursor.skip(8).and_then(|()| self.push(Value::Scalar)),
            b'J' => self
                .cursor
                .array()
                .and_then(|bytes| self.push(int(i32::from_le_bytes(bytes)))),
            b'K' => self
                .cursor
                .u8()
                .and_then(|value| self.push(Value::Int(value.into()))),
            b'M' => self
                .cursor
                .u16()
                .and_then(|value| self.push(Value::Int(value.into()))),
            b'\x8a' => self.cursor.u8().and_then(|length| self.long(length.into())),
            b'\x8b' => self.length_i32().and_then(|length| self.long(length)),
            b'S' => self.string_line(),
            b'V' => self.unicode_line(),
            b'T' => self
                .length_i32()
                .and_then(|length| self.python_2_text(length)),
            b'U' => self
                .cursor
                .u8()
                .and_then(|length| self.python_2_text(length.into())),
            b'\x8c' => self.cursor.u8().and_then(|length| self.text(length.into())),
            b'X' => self
                .cursor
                .u32()
                .and_then(|length| self.text(length.into())),
            b'\x8d' => self.cursor.u64().and_then(|length| self.text(length)),
            b'C' => self.cursor.u8().and_then(|length| self.blob(length.into())),
            b'B' => self
                .cursor
                .u32()
                .and_then(|length| self.blob(length.into())),
            b'\x8e' | b'\x96' => self.cursor.u64().and_then(|length| self.blob(length)),
            b'\x97' => self.push(Value::Foreign),
            b'\x98' => self.top().map(drop),
            b'\x80' => self.protocol(),
            b'\x95' => self.cursor.u64().and_then(|length| self.frame(length)),
            _ => Err(Failure::broken(format!("0x{opcode:02x} is no opcode"))),
        }
    }

    fn protocol(&mut self) -> Scan<()> {
        match self.cursor.u8()? {
            0..=5 => Ok(()),
            other => Err(Failure::broken(format!("there is no protocol {other}"))),
        }
    }

    /// `INT` and `LONG`: a number in text.
    fn number_line(&mut self, suffix: &[u8]) -> Scan<()> {
        let value = match self.cursor.line()? {
            Line::Whole(line) => {
                let line = line.strip_suffix(suffix).unwrap_or(line);
                let number = decimal(line).and_then(|number| u32::try_from(number).ok());
                match (number, line.strip_prefix(b"-").and_then(decimal)) {
                    (Some(number), _) => Value::Int(number),
                    (None, Some(1..)) => Value::Negative,
                    _ => Value::Scalar,
                }
            }
            Line::Long => Value::Scalar,
        };
        self.push(value)
    }

    /// `LONG1` and `LONG4`: two's complement, little-endian.
    fn long(&mut self, length: u64) -> Scan<()> {
        let mut value = Value::Scalar;
        if length <= 10 {
            let bytes = self.cursor.bytes(usize::try_from(length).unwrap_or(0))?;
            let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
            let high_is_zero = bytes.iter().skip(4).all(|byte| *byte == 0);
            let low = bytes
                .iter()
                .take(4)
                .rev()
                .fold(0, |all, byte| all << 8 | u32::from(*byte));
            value = match (bytes == TORCH_MAGIC, negative, high_is_zero) {
                (true, _, _) => Value::TorchMagic,
                (_, true, _) => Value::Negative,
                (_, _, true) => Value::Int(low),
                _ => Value::Scalar,
            };
        } else {
            self.cursor.skip(length)?;
        }
        self.push(value)
    }

    fn length_i32(&mut self) -> Scan<u64> {
        let length = i32::from_le_bytes(self.cursor.array()?);
        u64::try_from(length).map_err(|_| Failure::broken("a length is negative"))
    }

    /// `STRING`: a quoted line of Python 2.
    fn string_line(&mut self) -> Scan<()> {
        let text = match self.cursor.line()? {
            Line::Whole(line) => quoted(line).map_err(Failure::broken)?,
            Line::Long => None,
        };
        let value = text.map_or(Value::Blob, |text| self.heap.keep_text(&text));
        self.push(value)
    }

    fn unicode_line(&mut self) -> Scan<()> {
        let text = match self.cursor.line()? {
            Line::Whole(line) => raw_unicode(line),
            Line::Long => None,
        };
        let value = text.map_or(Value::Blob, |text| self.heap.keep_text(&text));
        self.push(value)
    }

    /// Text in UTF-8.
    fn text(&mut self, length: u64) -> Scan<()> {
        match usize::try_from(length) {
            Ok(length) if length <= LONGEST_TEXT => {
                let value = self.heap.keep_utf8(self.cursor.bytes(length)?);
                self.push(value)
            }
            _ => self.blob(length),
        }
    }

    /// A text of Python 2, which is decoded as ASCII unless the caller says otherwise.
    fn python_2_text(&mut self, length: u64) -> Scan<()> {
        match usize::try_from(length) {
            Ok(length) if length <= LONGEST_TEXT => {
                let bytes = self.cursor.bytes(length)?;
                let value = if bytes.is_ascii() {
                    self.heap.keep_utf8(bytes)
                } else {
                    Value::Blob
                };
                self.push(value)
            }
            _ => self.blob(length),
        }
    }

    /// Bytes, and texts too long for a name: passed over.
    fn blob(&mut self, length: u64) -> Scan<()> {
        self.cursor.skip(length)?;
        self.push(Value::Blob)
    }

    fn duplicate(&mut self) -> Scan<()> {
        match self.top()? {
            Value::Instance => self.push(Value::Shared),
            value => self.push(value),
        }
    }

    fn empty_dict(&mut self) -> Scan<()> {
        let dict = self.heap.new_dict();
        self.push(dict)
    }

    /// Makes a container of what lies above the mark.
    fn gather(&mut self, made: Value) -> Scan<()> {
        let place = self.pop_mark()?;
        self.cut(place)?;
        self.push(made)
    }

    fn dict(&mut self) -> Scan<()> {
        let place = self.pop_mark()?;
        let items = self.above(place).to_vec();
        if items.len() % 2 == 1 {
            return Err(Failure::broken("a dictionary gets a key without a value"));
        }
        self.cut(place)?;
        let made = self.heap.new_dict();
        if let Value::Dict(dict) = made {
            self.heap.set_items(dict, &items);
        }
        self.push(made)
    }

    fn extend(&mut self) -> Scan<()> {
        let place = self.pop_mark()?;
        self.cut(place)?;
        self.grows("APPENDS or ADDITEMS")
    }

    fn set_item(&mut self) -> Scan<()> {
        let value = self.pop()?;
        let key = self.pop()?;
        if let Value::Dict(dict) = self.top()? {
            self.heap.set_items(dict, &[key, value]);
        }
        self.grows("SETITEM")
    }

    fn set_items(&mut self) -> Scan<()> {
        let place = self.pop_mark()?;
        self.fill_dict(place)?;
        self.grows("SETITEMS")
    }
}

fn int(value: i32) -> Value {
    u32::try_from(value).map_or(Value::Negative, Value::Int)
}
