//! Tensors: descriptions of views that are checked when they are made, and read when they are
//! wanted.

use std::borrow::Cow;
use std::collections::HashMap;

use mobilenet::Tensor;

use super::FORMAT;
use super::value::{Id, Kind, Storage, Value, Values, View};
use crate::error::{Error, Result};

/// No weight of any network here has more.
const MOST_DIMENSIONS: usize = 8;
/// Characters of a storage's name in a file (numbers, in all versions).
const LONGEST_KEY: usize = 128;

fn damaged(problem: impl Into<String>) -> Error {
    Error::damaged(FORMAT, problem)
}

/// What a pickle's persistent id stands for: a storage
/// `("storage", class, key, location, length[, view])`, or a class with its source
/// `("module", class, file, source)` as files of whole networks have it.
pub fn storage_of(values: &Values, id: Id) -> Result<Value> {
    let malformed = || damaged("a storage's description in the pickle is malformed");
    let parts = values.list(id).ok_or_else(malformed)?;
    let tag = parts.first().and_then(|tag| values.text(*tag));
    match (tag, parts) {
        (Some("module"), [_, class, ..]) => match values.get(*class) {
            class @ Value::Global(_) => Ok(class.clone()),
            _ => Err(malformed()),
        },
        (Some("storage"), [_, class, key, _, length, rest @ ..]) => {
            let Value::Global(class) = values.get(*class) else { return Err(malformed()) };
            let kind = match class.as_str() {
                "torch.storage.UntypedStorage" | "torch.UntypedStorage" => None,
                class => Some(Kind::of_storage(class).ok_or_else(|| {
                    Error::refused(FORMAT, format!("{class} is no kind of tensor storage that is read here"))
                })?),
            };
            let (Some(key), Some(mut length)) = (values.text(*key), values.index(*length)) else {
                return Err(malformed());
            };
            if key.len() > LONGEST_KEY {
                return Err(malformed());
            }
            let mut start = 0;
            // Old files: the storage may be a part (key, offset, size) of another.
            if let Some(part) = rest.first().and_then(|view| values.list(*view)) {
                let [_, offset, size] = part else { return Err(malformed()) };
                let (Some(offset), Some(size)) = (values.index(*offset), values.index(*size)) else {
                    return Err(malformed());
                };
                if offset.checked_add(size).is_none_or(|end| end > length) {
                    return Err(damaged(format!("storage {key}: a part ends beyond its {length} numbers")));
                }
                (start, length) = (offset, size);
            }
            Ok(Value::Storage(Box::new(Storage { key: key.into(), kind, length, start })))
        }
        _ => Err(malformed()),
    }
}

/// The view that `_rebuild_tensor_v2` describes, of the storage's own type.
pub fn view(values: &Values, storage: Id, offset: Id, size: Id, strides: Id) -> Result<Value> {
    view_with_kind(values, storage, offset, size, strides, None)
}

/// The view that `_rebuild_tensor_v3` describes, of a stated type.
///
/// # Errors
/// [`Error::Damaged`] if it is malformed or reaches beyond its storage.
pub fn view_with_kind(
    values: &Values,
    storage: Id,
    offset: Id,
    size: Id,
    strides: Id,
    kind: Option<Kind>,
) -> Result<Value> {
    let malformed = || damaged("a tensor's description in the pickle is malformed");
    let Value::Storage(storage) = values.get(storage) else { return Err(malformed()) };
    let numbers = |id| -> Option<Vec<usize>> {
        let list = values.list(id)?;
        if list.len() > MOST_DIMENSIONS {
            return None;
        }
        list.iter().map(|item| values.index(*item)).collect()
    };
    let (Some(offset), Some(shape), Some(strides)) = (values.index(offset), numbers(size), numbers(strides))
    else {
        return Err(malformed());
    };
    let kind = kind.or(storage.kind).ok_or_else(malformed)?;
    if shape.len() != strides.len() {
        return Err(malformed());
    }
    // The storage's length in numbers of this type.
    let length = match storage.kind {
        Some(own) if own.size() == kind.size() => storage.length,
        Some(_) => return Err(malformed()),
        None => storage.length / kind.size(),
    };
    let beyond = || {
        damaged(format!(
            "a tensor of shape {shape:?} with strides {strides:?} from {offset} reaches beyond storage {:?} \
             of {length} numbers",
            storage.key
        ))
    };
    let product = |extents: &[usize]| extents.iter().try_fold(1usize, |all, n| all.checked_mul((*n).max(1)));
    let last = shape.iter().zip(&strides).try_fold(offset, |sum, (extent, stride)| {
        extent.saturating_sub(1).checked_mul(*stride)?.checked_add(sum)
    });
    let (Some(last), Some(count)) = (last, product(&shape)) else { return Err(beyond()) };
    // More elements than numbers would be a broadcast view, which no weight is.
    if !shape.contains(&0) && (last >= length || count > length) {
        return Err(beyond());
    }
    // The stride of a dimension of one element is never used, and may be anything.
    let strides =
        shape.iter().zip(strides).map(|(extent, stride)| if *extent > 1 { stride } else { 0 }).collect();
    Ok(Value::View(Box::new(View { storage: (**storage).clone(), kind, offset, shape, strides })))
}

/// Where the bytes of storages are.
pub trait Storages {
    /// The bytes of a storage, `needed` of them at least.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the file has no such storage or a shorter one.
    fn bytes(&self, key: &str, needed: usize) -> Result<Cow<'_, [u8]>>;
    /// Whether numbers are big-endian.
    fn big_endian(&self) -> bool;
    /// Bytes of all storages: the bound for what tensors may hold together.
    fn total(&self) -> usize;
}

/// Reads views into tensors, each storage once.
pub struct Reader<'a> {
    storages: &'a dyn Storages,
    read: HashMap<String, Cow<'a, [u8]>>,
    left: usize,
}

impl<'a> Reader<'a> {
    /// Over a file's storages.
    pub fn new(storages: &'a dyn Storages) -> Self {
        Self { storages, read: HashMap::new(), left: storages.total() }
    }

    /// The view's values in row-major order. `name` is for messages.
    ///
    /// # Errors
    /// [`Error::Damaged`] if its storage is missing or cut short, or if tensors share storages so
    /// often that they are many times the file; [`Error::Refused`] for types that are not read.
    pub fn tensor(&mut self, name: &str, view: &View) -> Result<Tensor> {
        let count = if view.shape.contains(&0) { 0 } else { view.shape.iter().product() };
        if let Kind::Other(_) = view.kind {
            return Err(Error::refused(
                FORMAT,
                format!(
                    "{name} is of a quantised, complex or 8-bit type, which is not read; save it as float32"
                ),
            ));
        }
        self.left = self.left.checked_sub(count).ok_or_else(|| {
            damaged(format!("{name}: tensors share the file's storages so often that they exceed it"))
        })?;
        let size = view.kind.size();
        let mut data = Vec::with_capacity(count);
        if count > 0 {
            let key = &view.storage.key;
            // Checked against the storage's stated length when the view was made.
            let unit = view.storage.kind.map_or(1, Kind::size);
            let end = view.storage.start.checked_add(view.storage.length);
            let Some(needed) = end.and_then(|end| end.checked_mul(unit)) else {
                return Err(damaged(format!("{name}: storage {key:?} of impossible length")));
            };
            if !self.read.contains_key(key) {
                self.read.insert(key.clone(), self.storages.bytes(key, needed)?);
            }
            let bytes = &self.read[key];
            if bytes.len() < needed {
                return Err(damaged(format!(
                    "{name}: storage {key:?} should be of {needed} bytes, found {}",
                    bytes.len()
                )));
            }
            let decode = decoder(view.kind, self.storages.big_endian());
            let numbers = &bytes[view.storage.start * unit..needed];
            if view.is_contiguous() {
                let numbers = &numbers[view.offset * size..(view.offset + count) * size];
                data.extend(numbers.chunks_exact(size).map(decode));
            } else {
                gather(view, |at| data.push(decode(&numbers[at * size..(at + 1) * size])));
            }
        }
        Ok(Tensor::new(&view.shape, data)?)
    }
}

/// Calls `take` with the position of each element of a view of at least one, in row-major order.
fn gather(view: &View, mut take: impl FnMut(usize)) {
    let mut index = vec![0; view.shape.len()];
    let mut at = view.offset;
    loop {
        take(at);
        // The next index, innermost dimension first.
        let mut dimension = index.len();
        loop {
            if dimension == 0 {
                return;
            }
            dimension -= 1;
            index[dimension] += 1;
            if index[dimension] < view.shape[dimension] {
                at += view.strides[dimension];
                break;
            }
            at -= view.strides[dimension] * (view.shape[dimension] - 1);
            index[dimension] = 0;
        }
    }
}

/// A function from a number's bytes to f32.
fn decoder(kind: Kind, big_endian: bool) -> impl Fn(&[u8]) -> f32 {
    move |bytes| {
        let mut le = [0; 8];
        le[..bytes.len()].copy_from_slice(bytes);
        if big_endian {
            le[..bytes.len()].reverse();
        }
        let [a, b, c, d, ..] = le;
        match kind {
            Kind::F32 => f32::from_le_bytes([a, b, c, d]),
            Kind::F16 => half::f16::from_le_bytes([a, b]).to_f32(),
            Kind::BF16 => half::bf16::from_le_bytes([a, b]).to_f32(),
            Kind::F64 => f64::from_le_bytes(le) as f32,
            Kind::I8 => f32::from(a as i8),
            Kind::U8 | Kind::Bool | Kind::Other(_) => f32::from(a),
            Kind::I16 => f32::from(i16::from_le_bytes([a, b])),
            Kind::I32 => i32::from_le_bytes([a, b, c, d]) as f32,
            Kind::I64 => i64::from_le_bytes(le) as f32,
        }
    }
}
