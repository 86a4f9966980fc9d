//! What a pickle builds here: plain data in one arena, never a Python object.

use std::collections::{HashMap, HashSet};

/// The index of a [`Value`] in [`Values`].
///
/// A pickle may name one object many times, so values hold indices; whatever walks them must not
/// recurse without a bound, as they may contain themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id(u32);

/// A value that a pickle describes.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `None`, and whatever matters as little: the result of a harmless call that is not kept.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Int(i128),
    /// A number.
    Float(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A tuple, list or set.
    List(Vec<Id>),
    /// A dictionary in its order; of keys that occur twice the last counts.
    Dict(Vec<(Id, Id)>),
    /// A class or function by its full name. Nothing is looked up and nothing runs.
    Global(String),
    /// An object of a class that is not plain data, by the class' full name. It is empty.
    Instance(String),
    /// A file's block of numbers.
    Storage(Box<Storage>),
    /// A view of a storage.
    View(Box<View>),
}

/// A block of numbers in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The name under which the file has its bytes.
    pub key: String,
    /// What it holds; none where only the views tell (`UntypedStorage`).
    pub kind: Option<Kind>,
    /// Numbers in it (bytes where `kind` is none).
    pub length: usize,
    /// Its first number within the block (old files' views of storages; otherwise 0).
    pub start: usize,
}

/// A tensor: a strided view of a storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What is viewed.
    pub storage: Storage,
    /// What the numbers are.
    pub kind: Kind,
    /// The first number.
    pub offset: usize,
    /// Extent of each dimension.
    pub shape: Vec<usize>,
    /// Numbers from one element to the next, a dimension each.
    pub strides: Vec<usize>,
}

impl View {
    /// Whether the elements follow each other in row-major order.
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&extent, &stride)| {
            let follows = extent <= 1 || stride == step;
            step *= extent;
            follows
        })
    }
}

/// The number types of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    F16,
    BF16,
    F32,
    F64,
    I8,
    U8,
    I16,
    I32,
    I64,
    Bool,
    /// One that is not read (complex, quantised, 8-bit floats), and its bytes a number.
    Other(usize),
}

impl Kind {
    /// Bytes a number.
    pub fn size(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
            Self::Other(size) => size,
        }
    }

    /// Whether it is an integer (or boolean) type.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::I8 | Self::U8 | Self::I16 | Self::I32 | Self::I64 | Self::Bool)
    }

    /// Of a storage class such as `torch.HalfStorage` or `torch.cuda.FloatStorage`.
    pub fn of_storage(class: &str) -> Option<Self> {
        let name = class.strip_prefix("torch.")?;
        Some(match name.strip_prefix("cuda.").unwrap_or(name).strip_suffix("Storage")? {
            "Half" => Self::F16,
            "BFloat16" => Self::BF16,
            "Float" => Self::F32,
            "Double" => Self::F64,
            "Char" => Self::I8,
            "Byte" => Self::U8,
            "Short" => Self::I16,
            "Int" => Self::I32,
            "Long" => Self::I64,
            "Bool" => Self::Bool,
            "QInt8" | "QUInt8" => Self::Other(1),
            "QInt32" => Self::Other(4),
            "ComplexFloat" => Self::Other(8),
            "ComplexDouble" => Self::Other(16),
            _ => return None,
        })
    }

    /// Of a dtype's name, `torch.bfloat16`.
    pub fn of_dtype(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("torch.")? {
            "float16" | "half" => Self::F16,
            "bfloat16" => Self::BF16,
            "float32" | "float" => Self::F32,
            "float64" | "double" => Self::F64,
            "int8" => Self::I8,
            "uint8" => Self::U8,
            "int16" | "short" => Self::I16,
            "int32" | "int" => Self::I32,
            "int64" | "long" => Self::I64,
            "bool" => Self::Bool,
            "float8_e4m3fn" | "float8_e5m2" | "float8_e4m3fnuz" | "float8_e5m2fnuz" => Self::Other(1),
            "uint16" => Self::Other(2),
            "uint32" => Self::Other(4),
            "uint64" | "complex64" => Self::Other(8),
            "complex128" => Self::Other(16),
            _ => return None,
        })
    }
}

/// An arena of values. Each operation of a pickle adds at most one, so that it cannot outgrow the
/// pickle by more than a constant factor.
#[derive(Debug, Default)]
pub struct Values(Vec<Value>);

impl Values {
    /// Adds a value. A pickle of 4 GiB would be needed to run out of indices; the machine's
    /// bound on a pickle's size is below that.
    pub fn add(&mut self, value: Value) -> Id {
        self.0.push(value);
        Id((self.0.len() - 1) as u32)
    }

    /// The value.
    pub fn get(&self, id: Id) -> &Value {
        &self.0[id.0 as usize]
    }

    /// The value, to change.
    pub fn get_mut(&mut self, id: Id) -> &mut Value {
        &mut self.0[id.0 as usize]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The kinds of the storages that were described since there were `before` values.
    pub fn storages_since(&self, before: usize) -> HashMap<String, Option<Kind>> {
        let storages = self.0[before..].iter().filter_map(|value| match value {
            Value::Storage(storage) => Some((storage.key.clone(), storage.kind)),
            _ => None,
        });
        storages.collect()
    }

    /// The dictionaries that hold a tensor. (Each is looked at once, however often it is named.)
    pub fn dicts_of_views(&self) -> HashSet<Id> {
        let holds = |value: &Value| match value {
            Value::Dict(pairs) => pairs.iter().any(|(_, value)| matches!(self.get(*value), Value::View(_))),
            _ => false,
        };
        (0u32..).zip(&self.0).filter(|(_, value)| holds(value)).map(|(id, _)| Id(id)).collect()
    }

    /// The text, if it is one.
    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The items, if it is a tuple or list.
    pub fn list(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The integer as an index, if it is one.
    pub fn index(&self, id: Id) -> Option<usize> {
        match self.get(id) {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    /// What a dictionary has under a text key.
    pub fn lookup(&self, dict: &[(Id, Id)], key: &str) -> Option<Id> {
        dict.iter().rev().find(|(k, _)| self.text(*k) == Some(key)).map(|(_, value)| *value)
    }
}
