//! The functions that a pickle may "call": those that describe data. None of them is run; each
//! arm below states what its result would be.
//!
//! Lists are moved out of the arguments, not copied: a pickle that calls a million times with one
//! long list gets one list.

use super::FORMAT;
use super::tensor::{view, view_with_kind};
use super::value::{Id, Kind, Value, Values};
use crate::error::{Error, Result};

/// Characters of a class' or function's name; it is copied where it is used.
const LONGEST_NAME: usize = 512;
/// Characters of text that is turned into the bytes of a number.
const LONGEST_SCALAR: usize = 64;

/// `module.name`, with Python 2's names of modules as today's.
pub fn full_name(module: &str, name: &str) -> Result<String> {
    if module.len() + name.len() > LONGEST_NAME {
        return Err(Error::damaged(FORMAT, "a name of more than 512 characters in the pickle"));
    }
    let module = match module {
        "__builtin__" => "builtins",
        "copy_reg" => "copyreg",
        module => module,
    };
    Ok(format!("{module}.{name}"))
}

/// What an object of class `name` is before anything was put into it.
pub fn empty_instance(name: &str) -> Value {
    match name {
        "collections.OrderedDict" | "collections.defaultdict" | "collections.Counter" | "builtins.dict" => {
            Value::Dict(Vec::new())
        }
        "builtins.list" | "builtins.tuple" | "builtins.set" | "builtins.frozenset" => Value::List(Vec::new()),
        _ => Value::Instance(name.into()),
    }
}

/// The result of calling `name` with the tuple `arguments`.
///
/// # Errors
/// [`Error::Refused`] with the name where it is none of the functions that describe data.
pub fn call(values: &mut Values, name: &str, arguments: Id) -> Result<Id> {
    let Value::List(all) = values.get(arguments) else {
        return Err(Error::damaged(FORMAT, format!("the pickle calls {name} without a tuple")));
    };
    // No function here looks at more than its first eight arguments.
    let mut a: [Option<Id>; 8] = [None; 8];
    a.iter_mut().zip(all).for_each(|(slot, id)| *slot = Some(*id));
    let malformed =
        || Error::damaged(FORMAT, format!("the pickle calls {name} with arguments that it does not take"));

    let value = match name {
        "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor" => {
            let [Some(storage), Some(offset), Some(size), Some(strides), ..] = a else {
                return Err(malformed());
            };
            view(values, storage, offset, size, strides)?
        }
        "torch._utils._rebuild_tensor_v3" => {
            let [Some(storage), Some(offset), Some(size), Some(strides), _, _, Some(dtype), _] = a else {
                return Err(malformed());
            };
            let Value::Global(dtype) = values.get(dtype) else { return Err(malformed()) };
            let Some(kind) = Kind::of_dtype(dtype) else {
                return Err(Error::refused(FORMAT, format!("a tensor of type {dtype}, which is not read")));
            };
            view_with_kind(values, storage, offset, size, strides, Some(kind))?
        }
        // A parameter, or an object whose first part is the tensor: the tensor itself.
        "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
            return a[0].ok_or_else(malformed);
        }
        "torch._tensor._rebuild_from_type_v2" => {
            // (function, type, arguments, state)
            let [Some(function), Some(_), Some(inner), ..] = a else { return Err(malformed()) };
            return match values.get(function) {
                Value::Global(function) if function.starts_with("torch._utils._rebuild_tensor") => {
                    let function = function.clone();
                    call(values, &function, inner)
                }
                _ => Err(malformed()),
            };
        }

        "collections.OrderedDict" | "builtins.dict" => match a[0] {
            None => Value::Dict(Vec::new()),
            // Python 2 wrote ordered dictionaries as lists of pairs.
            Some(items) => Value::Dict(pairs(values, items).ok_or_else(malformed)?),
        },
        "collections.defaultdict" => Value::Dict(Vec::new()),
        "builtins.list" | "builtins.tuple" | "builtins.set" | "builtins.frozenset" | "torch.Size" => {
            match a[0].map(|items| values.get_mut(items)) {
                None => Value::List(Vec::new()),
                Some(Value::List(items)) => Value::List(std::mem::take(items)),
                Some(_) => return Err(malformed()),
            }
        }

        // Numbers of NumPy: (dtype, bytes).
        "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar" => {
            let [Some(dtype), Some(bytes), ..] = a else { return Err(malformed()) };
            scalar(values.get(dtype), values.get(bytes))
        }
        "numpy.dtype" => match a[0].and_then(|name| values.text(name)) {
            Some(name) if name.len() <= 8 => Value::Global(format!("numpy.dtype.{name}")),
            _ => Value::None,
        },
        // Bytes in pickles of protocol 2 are text in Latin-1.
        "_codecs.encode" => match a[0].and_then(|text| values.text(text)) {
            Some(text) if text.chars().count() <= LONGEST_SCALAR => {
                Value::Bytes(text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect())
            }
            _ => Value::None,
        },

        // `copyreg._reconstructor(class, base, state)`: an object of protocols 0 and 1.
        "copyreg._reconstructor" => match a[0].map(|class| values.get(class)) {
            Some(Value::Global(class)) => empty_instance(class),
            _ => return Err(malformed()),
        },
        name if harmless(name) => Value::Instance(name.into()),
        name => {
            return Err(Error::refused(
                FORMAT,
                format!(
                    "the file asks to call {name}, which is none of the functions that describe tensors; \
                     nothing was run. Unless you trust where it is from, delete it; otherwise save the \
                     weights alone, torch.save(model.state_dict(), \"weights.pth\")"
                ),
            ));
        }
    };
    Ok(values.add(value))
}

/// Whether `name` makes a plain value that training scripts keep beside their weights, which is
/// not looked into.
fn harmless(name: &str) -> bool {
    matches!(
        name,
        "torch.device"
            | "torch.Generator"
            | "torch.serialization._get_layout"
            | "argparse.Namespace"
            | "builtins.bytearray"
            | "builtins.bytes"
            | "builtins.complex"
            | "builtins.range"
            | "builtins.slice"
            | "builtins.object"
            | "numpy.core.multiarray._reconstruct"
            | "numpy._core.multiarray._reconstruct"
            | "numpy._core.numeric._frombuffer"
            | "numpy.core.numeric._frombuffer"
            | "datetime.datetime"
            | "datetime.date"
            | "datetime.timedelta"
            | "decimal.Decimal"
            | "uuid.UUID"
            | "pathlib.Path"
            | "pathlib.PosixPath"
            | "pathlib.WindowsPath"
            | "pathlib.PurePosixPath"
            | "pathlib.PureWindowsPath"
            | "pathlib._local.Path"
            | "pathlib._local.PosixPath"
            | "pathlib._local.WindowsPath"
            | "pathlib._local.PurePosixPath"
            | "pathlib._local.PureWindowsPath"
    )
}

/// The pairs of a list of two-element lists, or what a dictionary holds.
fn pairs(values: &mut Values, items: Id) -> Option<Vec<(Id, Id)>> {
    match values.get_mut(items) {
        Value::Dict(pairs) => Some(std::mem::take(pairs)),
        Value::List(list) => {
            let list = std::mem::take(list);
            list.into_iter()
                .map(|pair| match values.list(pair)? {
                    [key, value] => Some((*key, *value)),
                    _ => None,
                })
                .collect()
        }
        _ => None,
    }
}

/// A NumPy scalar's value; nothing for types that no training script keeps.
fn scalar(dtype: &Value, bytes: &Value) -> Value {
    let (Value::Global(dtype), Value::Bytes(bytes)) = (dtype, bytes) else { return Value::None };
    match (dtype.trim_start_matches("numpy.dtype."), bytes.as_slice()) {
        ("f8", &[a, b, c, d, e, f, g, h]) => Value::Float(f64::from_le_bytes([a, b, c, d, e, f, g, h])),
        ("f4", &[a, b, c, d]) => Value::Float(f32::from_le_bytes([a, b, c, d]).into()),
        ("i8", &[a, b, c, d, e, f, g, h]) => Value::Int(i64::from_le_bytes([a, b, c, d, e, f, g, h]).into()),
        ("i4", &[a, b, c, d]) => Value::Int(i32::from_le_bytes([a, b, c, d]).into()),
        _ => Value::None,
    }
}
