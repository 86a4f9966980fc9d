//! The native model file: safetensors, with everything that is not a tensor as JSON metadata.
//!
//! Metadata keys: `format` ("mobilenet"), `version` ("1"), `architecture` and `labels` (JSON).
//! The header is written here and not by the safetensors crate, whose metadata come in a random
//! order, so that one model has one sequence of bytes.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use half::f16;
use half::slice::HalfFloatSliceExt;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorInfo};
use serde::Serialize;

use super::Model;
use crate::tensor::Tensor;
use crate::weights::Weights;

const FORMAT: &str = "mobilenet";
const VERSION: u32 = 1;

/// Bytes of the length that stands before the header.
const LENGTH: usize = size_of::<u64>();

/// The longest header that the safetensors format allows.
const LONGEST_HEADER: u64 = 100_000_000;

#[derive(Serialize)]
struct Header<'a> {
    __metadata__: BTreeMap<&'a str, String>,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, TensorInfo>,
}

/// How filters are stored. Always f32 are vectors (batch normalisation, bias), whose running
/// variances span more than half precision does, and filters with a sum over few values, where errors
/// of rounding do not average out: depthwise ones and the stem's. They are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    F32,
    F16,
}

/// Whether each output of a filter is a sum over many values.
pub(super) fn is_large(filter: &Tensor) -> bool {
    const MANY: usize = 32;
    filter.shape().len() > 1 && filter.shape()[1..].iter().product::<usize>() >= MANY
}

impl Storage {
    fn of(self, tensor: &Tensor) -> Dtype {
        match self {
            Self::F16 if is_large(tensor) => Dtype::F16,
            _ => Dtype::F32,
        }
    }
}

/// Writes a model; tensors in the order of their names.
pub(super) fn write(model: &Model, storage: Storage, file: &mut dyn Write) -> io::Result<()> {
    let mut end = 0;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in model.weights.iter() {
        let (start, dtype) = (end, storage.of(tensor));
        end += tensor.data().len() * dtype.bitsize() / 8;
        let info = TensorInfo { dtype, shape: tensor.shape().to_vec(), data_offsets: (start, end) };
        tensors.insert(name, info);
    }
    let metadata = BTreeMap::from([
        ("format", FORMAT.to_owned()),
        ("version", VERSION.to_string()),
        ("architecture", serde_json::to_string(&model.architecture)?),
        ("labels", serde_json::to_string(&model.labels)?),
    ]);
    let mut header = serde_json::to_vec(&Header { __metadata__: metadata, tensors })?;
    header.resize(header.len().next_multiple_of(LENGTH), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut bytes = Vec::new();
    for (_, tensor) in model.weights.iter() {
        bytes.clear();
        match storage.of(tensor) {
            Dtype::F16 => bytes.extend(tensor.data().iter().flat_map(|&v| f16::from_f32(v).to_le_bytes())),
            _ => bytes.extend(tensor.data().iter().flat_map(|value| value.to_le_bytes())),
        }
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// Whether a file of `length` bytes that begins like this can be a safetensors file.
pub(super) fn could_be_model(start: &[u8], length: u64) -> bool {
    header_length(start).is_some_and(|header| header < length && start.get(LENGTH) == Some(&b'{'))
}

fn header_length(bytes: &[u8]) -> Option<u64> {
    let length = u64::from_le_bytes(bytes.first_chunk().copied()?);
    (length <= LONGEST_HEADER).then_some(length)
}

/// Reads a model whose parts may not fit together yet; the error is the problem in words.
pub(super) fn read(bytes: &[u8]) -> Result<Model, String> {
    let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| explain(bytes, &error))?;
    let data = &bytes[LENGTH + header..];

    let entries = metadata.metadata().as_ref();
    let entry = |key: &str| entries.and_then(|entries| entries.get(key)).map(String::as_str);
    match (entry("format"), entry("version")) {
        (Some(FORMAT), Some(version)) if version == VERSION.to_string() => {}
        (Some(FORMAT), version) => {
            return Err(format!(
                "version {} of the model format; this program reads version {VERSION}: use the program \
                 that wrote the file, or a newer one",
                version.unwrap_or("(missing)")
            ));
        }
        (found, _) => return Err(not_ours(found, &metadata)),
    }
    let architecture = json(entry("architecture"), "architecture")?;
    let labels = json(entry("labels"), "labels")?;

    let mut stored = Vec::new();
    let names = metadata.offset_keys();
    for name in &names {
        let info = metadata.info(name).ok_or_else(|| format!("{name}: not in the header"))?;
        let (start, end) = info.data_offsets;
        let bytes = data.get(start..end).ok_or_else(|| format!("{name}: lies outside the file"))?;
        let read = match info.dtype {
            Dtype::F32 => from_f32,
            Dtype::F16 => from_f16,
            found => return Err(format!("{name}: expected values of type F32 or F16, found {found}")),
        };
        stored.push(Stored { shape: &info.shape, bytes, read });
    }
    let mut weights = Weights::new();
    for ((values, stored), name) in read_all(&stored).into_iter().zip(&stored).zip(&names) {
        let tensor = Tensor::new(stored.shape, values).map_err(|error| format!("{name}: {error}"))?;
        weights.insert(name.as_str(), tensor);
    }
    Ok(Model { architecture, labels, weights })
}

/// A tensor in the file.
struct Stored<'a> {
    shape: &'a [usize],
    bytes: &'a [u8],
    read: fn(&[u8]) -> Vec<f32>,
}

/// The values of each tensor. A large file is shared out over a few threads: what takes the time is
/// memory that is touched for the first time.
fn read_all(stored: &[Stored]) -> Vec<Vec<f32>> {
    const BYTES_A_THREAD: usize = 1 << 20;
    const MOST_THREADS: usize = 4;
    let bytes: usize = stored.iter().map(|stored| stored.bytes.len()).sum();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(stored) = stored.get(index) else { return done };
            done.push((index, (stored.read)(stored.bytes)));
        }
    };
    let mut values = thread::scope(|scope| {
        let others = 1..(bytes / BYTES_A_THREAD).min(cores).min(MOST_THREADS);
        // Where the system gives no thread, the others do its work.
        let others: Vec<_> =
            others.filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        let mut values = work();
        for other in others {
            values.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        values
    });
    values.sort_unstable_by_key(|(index, _)| *index);
    values.into_iter().map(|(_, values)| values).collect()
}

fn from_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// Half-precision values, by the machine's own instruction where it has one.
fn from_f16(bytes: &[u8]) -> Vec<f32> {
    const STEP: usize = 1024;
    let mut values = vec![0.0; bytes.len() / size_of::<f16>()];
    let mut halves = [f16::ZERO; STEP];
    for (values, bytes) in values.chunks_mut(STEP).zip(bytes.chunks(STEP * size_of::<f16>())) {
        let halves = &mut halves[..values.len()];
        for (half, &bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
            *half = f16::from_le_bytes(bytes);
        }
        halves.convert_to_f32_slice(values);
    }
    values
}

fn json<T: serde::de::DeserializeOwned>(text: Option<&str>, key: &str) -> Result<T, String> {
    let text = text.ok_or_else(|| format!("its metadata lack `{key}`; the file was changed by hand"))?;
    serde_json::from_str(text).map_err(|error| {
        format!("its metadata's `{key}` cannot be read ({error}); was it written by a newer program?")
    })
}

/// A safetensors file of somebody else.
fn not_ours(format: Option<&str>, metadata: &Metadata) -> String {
    let found = match format {
        Some(format) => format!("format `{format}`"),
        None => "no `format`".into(),
    };
    let tensors = metadata.offset_keys();
    let first = tensors.first().map(|name| format!(", first tensor `{name}`")).unwrap_or_default();
    format!(
        "a safetensors file, but not a model of this program: {found} in its metadata{first}; \
         expected format `{FORMAT}`, as `mobilenet train` saves it"
    )
}

/// Why bytes are not a safetensors file: cut short, or something else altogether.
fn explain(bytes: &[u8], error: &SafeTensorError) -> String {
    if bytes.is_empty() {
        return "an empty file; its writing or copying failed".into();
    }
    for (start, what) in STRANGERS {
        if bytes.starts_with(start) {
            return format!("not a model file: it looks like {what}; expected a safetensors file");
        }
    }
    let Some(length) = header_length(bytes).filter(|_| bytes.get(LENGTH) == Some(&b'{')) else {
        return "not a model file; expected a safetensors file, as `mobilenet train` saves it".into();
    };
    let damaged = "damaged or cut short; copy it again, or use the run's other model file";
    let header = &bytes[LENGTH..];
    let Some(header) = usize::try_from(length).ok().and_then(|length| header.get(..length)) else {
        return format!(
            "{damaged} (the header should be {length} bytes, the file ends after {})",
            header.len()
        );
    };
    let rest = bytes.len() - LENGTH - header.len();
    match missing(header, rest) {
        Some(problem) => format!("{damaged} ({problem})"),
        None => format!("{damaged} ({error})"),
    }
}

/// The first tensor that a file with `rest` bytes of values does not hold whole.
fn missing(header: &[u8], rest: usize) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Offsets {
        data_offsets: (usize, usize),
    }
    let mut header: HashMap<String, serde_json::Value> = serde_json::from_slice(header).ok()?;
    header.remove("__metadata__");
    let offsets = header.into_iter().filter_map(|(name, value)| {
        Some((serde_json::from_value::<Offsets>(value).ok()?.data_offsets, name))
    });
    let ((start, end), name) = offsets.filter(|&((_, end), _)| end > rest).min()?;
    let there = rest.saturating_sub(start);
    Some(format!("{name}: {there} of its {} bytes are there", end.saturating_sub(start)))
}

/// How files begin that people take for models.
const STRANGERS: [(&[u8], &str); 8] = [
    (b"PK\x03\x04", "a PyTorch checkpoint or another zip archive"),
    (b"\x89HDF", "an HDF5 file (Keras)"),
    (b"\x80\x02", "a Python pickle (old PyTorch)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GGUF", "a GGUF file"),
    (b"\x08\x07\x12", "an ONNX model"),
];
