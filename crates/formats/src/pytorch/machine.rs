//! The pickle machine: protocols 0 to 5, for data alone.
//!
//! A pickle is a program for a stack machine. This one knows the operations (Python's
//! `pickletools` documents them) but imports nothing: a name is only a name, and "calling" one
//! means looking it up in a short list of functions that describe data (`calls`). A pickle that
//! calls anything else is refused by that name.

use std::collections::HashMap;

use super::FORMAT;
use super::calls;
use super::tensor::storage_of;
use super::value::{Id, Value, Values};
use crate::error::{Error, Result};

/// No pickle beside weights is larger; keeps indices within 32 bits.
const LARGEST: usize = 1 << 28;

/// The machine: a stack, its marks, and the memo.
pub struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    /// What the pickle built so far.
    pub values: Values,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

impl<'a> Machine<'a> {
    /// Over one or more pickles that follow each other.
    pub fn new(bytes: &'a [u8]) -> Self {
        let values = Values::default();
        Self { bytes, at: 0, values, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() }
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Runs the next pickle up to its end and returns what it describes.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is cut short or malformed, [`Error::Refused`] if it wants to call
    /// a function, with that function's full name.
    pub fn run(&mut self) -> Result<Id> {
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        loop {
            if self.at > LARGEST {
                return Err(self.damaged("the pickle is larger than any that belongs to weights".into()));
            }
            let at = self.at;
            let operation = self.byte()?;
            if operation == b'.' {
                return self.pop();
            }
            self.step(operation, at)?;
        }
    }

    fn damaged(&self, problem: String) -> Error {
        Error::damaged(FORMAT, format!("byte {} of the pickle: {problem}", self.at))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let left = &self.bytes[self.at..];
        if count > left.len() {
            return Err(
                self.damaged(format!("cut short: {count} bytes should follow, {} are left", left.len()))
            );
        }
        self.at += count;
        Ok(&left[..count])
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian unsigned integer of `count` ≤ 8 bytes.
    fn unsigned(&mut self, count: usize) -> Result<u64> {
        Ok(self.take(count)?.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    }

    /// Bytes whose length is stated before them, in `count` bytes.
    fn counted(&mut self, count: usize) -> Result<&'a [u8]> {
        let length = self.unsigned(count)?;
        // A length that does not fit is more than what is left, and refused as that.
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Result<&'a str> {
        let left = &self.bytes[self.at..];
        let Some(end) = left.iter().position(|&byte| byte == b'\n') else {
            return Err(self.damaged("cut short within a line".into()));
        };
        self.at += end + 1;
        std::str::from_utf8(&left[..end]).map_err(|_| self.damaged("a line is not text".into()))
    }

    fn utf8(&self, bytes: &[u8]) -> Result<Value> {
        // Python writes lone surrogates, which no tensor's name has.
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Value::Text(text.into())),
            Err(_) => Err(self.damaged("text is not UTF-8".into())),
        }
    }

    fn integer(&self, text: &str) -> Result<Value> {
        match text {
            "00" => Ok(Value::Bool(false)),
            "01" => Ok(Value::Bool(true)),
            _ => match text.trim_end_matches('L').parse() {
                Ok(value) => Ok(Value::Int(value)),
                Err(_) => Err(self.damaged(format!("{:?} is not an integer", shorten(text)))),
            },
        }
    }

    /// Little-endian two's complement. Integers beyond 128 bits (states of random generators) say
    /// nothing here.
    fn long(bytes: &[u8]) -> Value {
        if bytes.len() > 16 {
            return Value::None;
        }
        let negative = bytes.last().is_some_and(|&last| last >= 0x80);
        let mut wide = if negative { [0xff; 16] } else { [0; 16] };
        wide[..bytes.len()].copy_from_slice(bytes);
        Value::Int(i128::from_le_bytes(wide))
    }

    fn push(&mut self, value: Value) {
        let id = self.values.add(value);
        self.stack.push(id);
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.damaged("takes a value from an empty stack".into()));
        }
        self.stack.pop().ok_or_else(|| self.damaged("takes a value from an empty stack".into()))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| self.damaged("needs a value, but the stack is empty".into()))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.damaged("needs a mark, and there is none".into()))?;
        Ok(self.stack.split_off(mark))
    }

    fn last<const N: usize>(&mut self) -> Result<Vec<Id>> {
        let mut items = (0..N).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
        items.reverse();
        Ok(items)
    }

    fn put(&mut self, index: u64) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Result<()> {
        let Some(&id) = self.memo.get(&index) else {
            return Err(self.damaged(format!("uses memo {index}, which nothing was put into")));
        };
        self.stack.push(id);
        Ok(())
    }

    fn set_items(&mut self, items: &[Id]) -> Result<()> {
        let top = self.top()?;
        if items.len() % 2 == 1 {
            return Err(self.damaged("a key without a value".into()));
        }
        match self.values.get_mut(top) {
            Value::Dict(pairs) => pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            // Objects of unknown classes stay empty.
            Value::Instance(_) => {}
            _ => return Err(self.damaged("sets items of something that is no dictionary".into())),
        }
        Ok(())
    }

    fn append(&mut self, items: &[Id]) -> Result<()> {
        let top = self.top()?;
        match self.values.get_mut(top) {
            Value::List(list) => list.extend_from_slice(items),
            Value::Instance(_) => {}
            _ => return Err(self.damaged("appends to something that is no list".into())),
        }
        Ok(())
    }

    /// The name of a class or function that is about to be used.
    fn callable(&self, id: Id) -> Result<String> {
        match self.values.get(id) {
            Value::Global(name) => Ok(name.clone()),
            _ => Err(self.damaged("calls something that is no function".into())),
        }
    }

    fn call(&mut self, function: Id, arguments: Id) -> Result<()> {
        let name = self.callable(function)?;
        let result = calls::call(&mut self.values, &name, arguments)?;
        self.stack.push(result);
        Ok(())
    }

    /// Making an object of a class without arguments of its own: dictionaries stay dictionaries,
    /// everything else becomes an empty object that remembers the name of its class.
    fn instance(&mut self, class: Id) -> Result<()> {
        let name = self.callable(class)?;
        let value = calls::empty_instance(&name);
        self.push(value);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<Id> {
        let name = calls::full_name(module, name)?;
        Ok(self.values.add(Value::Global(name)))
    }

    fn persistent(&mut self, id: Id) -> Result<()> {
        let value = storage_of(&self.values, id)?;
        self.push(value);
        Ok(())
    }

    #[allow(clippy::too_many_lines)] // One arm an operation.
    fn step(&mut self, operation: u8, at: usize) -> Result<()> {
        match operation {
            // Framing and protocol.
            0x80 => {
                let protocol = self.byte()?;
                if protocol > 5 {
                    return Err(
                        self.damaged(format!("pickle protocol {protocol}; the newest that exists is 5"))
                    );
                }
            }
            0x95 => drop(self.take(8)?),

            // Constants.
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'I' | b'L' => {
                let line = self.line()?;
                let value = self.integer(line)?;
                self.push(value);
            }
            b'J' => {
                let value = self.unsigned(4)? as u32 as i32;
                self.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = self.unsigned(1)?;
                self.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = self.unsigned(2)?;
                self.push(Value::Int(value.into()));
            }
            0x8a | 0x8b => {
                let bytes = self.counted(if operation == 0x8a { 1 } else { 4 })?;
                self.push(Self::long(bytes));
            }
            b'F' => {
                let line = self.line()?;
                let value = line
                    .trim()
                    .parse()
                    .map_err(|_| self.damaged(format!("{:?} is not a number", shorten(line))))?;
                self.push(Value::Float(value));
            }
            b'G' => {
                let value = f64::from_bits(self.unsigned(8)?.swap_bytes());
                self.push(Value::Float(value));
            }
            // Text of Python 2 is text here too: names in old files are such.
            b'S' => {
                let line = self.line()?;
                let inner = line.len().checked_sub(1).and_then(|end| line.get(1..end)).unwrap_or_default();
                self.push(Value::Text(inner.into()));
            }
            b'V' => {
                let line = self.line()?;
                self.push(Value::Text(line.into()));
            }
            b'T' | b'U' => {
                let bytes = self.counted(if operation == b'T' { 4 } else { 1 })?;
                let value = self.utf8(bytes).unwrap_or_else(|_| Value::Bytes(bytes.into()));
                self.push(value);
            }
            0x8c | b'X' | 0x8d => {
                let bytes = self.counted(match operation {
                    0x8c => 1,
                    b'X' => 4,
                    _ => 8,
                })?;
                let value = self.utf8(bytes)?;
                self.push(value);
            }
            b'C' | b'B' | 0x8e | 0x96 => {
                let bytes = self.counted(match operation {
                    b'C' => 1,
                    b'B' => 4,
                    _ => 8,
                })?;
                self.push(Value::Bytes(bytes.into()));
            }

            // The stack.
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                // Python's own pickler pops a mark that nothing was pushed onto this way.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                } else {
                    self.pop()?;
                }
            }
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }

            // The memo.
            b'p' | b'g' => {
                let line = self.line()?;
                let index = line.parse().map_err(|_| self.damaged("a memo index is no number".into()))?;
                if operation == b'p' { self.put(index)? } else { self.recall(index)? }
            }
            b'q' | b'r' => {
                let index = self.unsigned(if operation == b'q' { 1 } else { 4 })?;
                self.put(index)?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            b'h' | b'j' => {
                let index = self.unsigned(if operation == b'h' { 1 } else { 4 })?;
                self.recall(index)?;
            }

            // Containers.
            b')' | b']' | 0x8f => self.push(Value::List(Vec::new())),
            b't' | b'l' | 0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Value::List(items));
            }
            0x85 => {
                let items = self.last::<1>()?;
                self.push(Value::List(items));
            }
            0x86 => {
                let items = self.last::<2>()?;
                self.push(Value::List(items));
            }
            0x87 => {
                let items = self.last::<3>()?;
                self.push(Value::List(items));
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b'd' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Dict(Vec::new()));
                self.set_items(&items)?;
            }
            b's' => {
                let items = self.last::<2>()?;
                self.set_items(&items)?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            b'a' => {
                let items = self.last::<1>()?;
                self.append(&items)?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.append(&items)?;
            }

            // Names, and what is done with them.
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                let id = self.global(module, name)?;
                self.stack.push(id);
            }
            0x93 => {
                let pair = self.last::<2>()?;
                let (Some(module), Some(name)) = (self.values.text(pair[0]), self.values.text(pair[1]))
                else {
                    return Err(self.damaged("a name that is no text".into()));
                };
                let name = calls::full_name(module, name)?;
                self.push(Value::Global(name));
            }
            b'R' => {
                let pair = self.last::<2>()?;
                self.call(pair[0], pair[1])?;
            }
            b'i' => {
                let (module, name) = (self.line()?, self.line()?);
                let items = self.pop_to_mark()?;
                let function = self.global(module, name)?;
                let arguments = self.values.add(Value::List(items));
                self.call(function, arguments)?;
            }
            b'o' => {
                let mut items = self.pop_to_mark()?;
                if items.is_empty() {
                    return Err(self.damaged("calls nothing".into()));
                }
                let function = items.remove(0);
                let arguments = self.values.add(Value::List(items));
                self.call(function, arguments)?;
            }
            0x81 => {
                let pair = self.last::<2>()?;
                self.instance(pair[0])?;
            }
            0x92 => {
                let items = self.last::<3>()?;
                self.instance(items[0])?;
            }
            // State of objects: nothing here has any that matters.
            b'b' => drop(self.last::<1>()?),
            b'P' => {
                let line = self.line()?;
                return Err(self.damaged(format!("a storage named by a line, {:?}", shorten(line))));
            }
            b'Q' => {
                let id = self.pop()?;
                self.persistent(id)?;
            }
            _ => {
                self.at = at;
                return Err(self.damaged(format!("{operation:#04x} is no operation that weights need")));
            }
        }
        Ok(())
    }
}

/// Text from a file, cut so that a message stays readable.
pub fn shorten(text: &str) -> &str {
    text.char_indices().nth(80).map_or(text, |(end, _)| &text[..end])
}
