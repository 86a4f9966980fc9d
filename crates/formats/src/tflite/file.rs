//! Lays tensors, buffers and operators out as a TFLite file.

use flatbuffers::{FlatBufferBuilder, TableFinishedWIPOffset, VOffsetT, WIPOffset};

use super::schema::{
    IDENTIFIER, buffer, metadata, model, operator, operator_code, subgraph, tensor, tensor_type,
};
use super::told;
use crate::error::{Error, Result};

/// Buffers begin at multiples of this (`force_align` in the schema).
const ALIGNMENT: usize = 16;
/// FlatBuffers' offsets have 31 bits to spare.
const LARGEST: usize = (1 << 31) - (1 << 20);

/// A graph under construction.
#[derive(Default)]
pub(super) struct File {
    tensors: Vec<TensorEntry>,
    buffers: Vec<Vec<u8>>,
    operators: Vec<OperatorEntry>,
}

struct TensorEntry {
    name: String,
    shape: Vec<usize>,
    kind: u8,
    /// Its constant, counted from 1.
    buffer: usize,
}

struct OperatorEntry {
    code: i32,
    version: i32,
    inputs: Vec<usize>,
    output: usize,
    options_type: u8,
    options: Vec<(usize, Field)>,
}

/// The value of an option.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    Byte(u8),
    Bool(bool),
    Int(i32),
    Float(f32),
}

/// The bytes of f32 values.
pub(super) fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

impl File {
    /// A tensor that is computed; its first side is the batch.
    pub(super) fn value(&mut self, name: &str, shape: &[usize]) -> usize {
        self.tensor(name, shape, tensor_type::FLOAT32, 0)
    }

    /// A constant tensor.
    pub(super) fn constant(&mut self, name: &str, shape: &[usize], kind: u8, bytes: Vec<u8>) -> usize {
        self.buffers.push(bytes);
        let buffer = self.buffers.len();
        self.tensor(name, shape, kind, buffer)
    }

    fn tensor(&mut self, name: &str, shape: &[usize], kind: u8, buffer: usize) -> usize {
        self.tensors.push(TensorEntry { name: name.to_owned(), shape: shape.to_vec(), kind, buffer });
        self.tensors.len() - 1
    }

    /// An operator, in the order of execution.
    pub(super) fn operator(
        &mut self,
        code: i32,
        version: i32,
        inputs: Vec<usize>,
        output: usize,
        (options_type, options): (u8, Vec<(usize, Field)>),
    ) {
        self.operators.push(OperatorEntry { code, version, inputs, output, options_type, options });
    }
}

type Builder = FlatBufferBuilder<'static>;
type Offset = WIPOffset<TableFinishedWIPOffset>;

/// The place of a field in a vtable.
fn slot(id: usize) -> VOffsetT {
    (4 + 2 * id) as VOffsetT
}

fn table(builder: &mut Builder, fields: impl FnOnce(&mut Builder)) -> Offset {
    let start = builder.start_table();
    fields(builder);
    WIPOffset::new(builder.end_table(start).value())
}

fn integers(
    builder: &mut Builder,
    values: impl Iterator<Item = usize>,
) -> WIPOffset<flatbuffers::Vector<'static, i32>> {
    let values: Vec<i32> = values.map(|value| value as i32).collect();
    builder.create_vector(&values)
}

/// The file's bytes.
///
/// # Errors
/// When it would be larger than the format allows.
pub(super) fn finish(file: &File, input: usize, output: usize, told: &[u8]) -> Result<Vec<u8>> {
    let size = file.buffers.iter().map(Vec::len).sum::<usize>() + told.len();
    if size > LARGEST {
        return Err(Error::Unsupported(format!(
            "{size} bytes of weights are more than a TFLite file can hold"
        )));
    }
    let mut builder = Builder::with_capacity(size + (64 << 10));
    // Buffer 0 stands for "no buffer"; the metadata's comes last.
    let none: &[u8] = &[];
    let contents = std::iter::once(none).chain(file.buffers.iter().map(Vec::as_slice)).chain([told]);
    let buffers: Vec<Offset> = contents.map(|bytes| write_buffer(&mut builder, bytes)).collect();
    let metadata_buffer = buffers.len() - 1;
    let buffers = builder.create_vector(&buffers);

    let tensors: Vec<Offset> = file.tensors.iter().map(|entry| write_tensor(&mut builder, entry)).collect();
    let tensors = builder.create_vector(&tensors);
    let mut codes: Vec<(i32, i32)> = file.operators.iter().map(|entry| (entry.code, entry.version)).collect();
    codes.sort_unstable();
    codes.dedup();
    let operators: Vec<Offset> =
        file.operators.iter().map(|entry| write_operator(&mut builder, entry, &codes)).collect();
    let operators = builder.create_vector(&operators);
    let (inputs, outputs) =
        (integers(&mut builder, [input].into_iter()), integers(&mut builder, [output].into_iter()));
    let name = builder.create_string("main");
    let graph = table(&mut builder, |builder| {
        builder.push_slot_always(slot(subgraph::TENSORS), tensors);
        builder.push_slot_always(slot(subgraph::INPUTS), inputs);
        builder.push_slot_always(slot(subgraph::OUTPUTS), outputs);
        builder.push_slot_always(slot(subgraph::OPERATORS), operators);
        builder.push_slot_always(slot(subgraph::NAME), name);
    });
    let subgraphs = builder.create_vector(&[graph]);
    let codes: Vec<Offset> = codes
        .iter()
        .map(|&(code, version)| {
            table(&mut builder, |builder| {
                builder.push_slot_always(slot(operator_code::CODE), code);
                builder.push_slot_always(slot(operator_code::VERSION), version);
                builder.push_slot_always(slot(operator_code::OLD_CODE), code.min(127) as i8);
            })
        })
        .collect();
    let codes = builder.create_vector(&codes);
    let name = builder.create_string(told::NAME);
    let entry = table(&mut builder, |builder| {
        builder.push_slot_always(slot(metadata::NAME), name);
        builder.push_slot_always(slot(metadata::BUFFER), metadata_buffer as u32);
    });
    let entries = builder.create_vector(&[entry]);
    let description = builder.create_string("MobileNet v1 (arXiv 1704.04861)");
    let root = table(&mut builder, |builder| {
        builder.push_slot_always(slot(model::VERSION), 3_u32);
        builder.push_slot_always(slot(model::OPERATOR_CODES), codes);
        builder.push_slot_always(slot(model::SUBGRAPHS), subgraphs);
        builder.push_slot_always(slot(model::DESCRIPTION), description);
        builder.push_slot_always(slot(model::BUFFERS), buffers);
        builder.push_slot_always(slot(model::METADATA), entries);
    });
    builder.finish(root, Some(IDENTIFIER));
    Ok(aligned(builder.finished_data()))
}

/// A buffer whose bytes end up aligned: a file is built from its end, so its distance from there is
/// what counts.
fn write_buffer(builder: &mut Builder, bytes: &[u8]) -> Offset {
    if bytes.is_empty() {
        return table(builder, |_| {});
    }
    while !(builder.unfinished_data().len() + bytes.len()).is_multiple_of(ALIGNMENT) {
        builder.push(0_u8);
    }
    let data = builder.create_vector(bytes);
    table(builder, |builder| builder.push_slot_always(slot(buffer::DATA), data))
}

/// The file with zeros after its head, so that its length is a multiple of the alignment. All
/// offsets but the first are between what lies behind.
fn aligned(bytes: &[u8]) -> Vec<u8> {
    let missing = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
    let (head, rest) = bytes.split_at(8);
    let root = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) + missing as u32;
    let mut file = Vec::with_capacity(bytes.len() + missing);
    file.extend(root.to_le_bytes());
    file.extend(&head[4..]);
    file.resize(8 + missing, 0);
    file.extend(rest);
    file
}

fn write_tensor(builder: &mut Builder, entry: &TensorEntry) -> Offset {
    let name = builder.create_string(&entry.name);
    let shape = integers(builder, entry.shape.iter().copied());
    // What is computed has any batch size.
    let signature = (entry.buffer == 0).then(|| {
        let mut open: Vec<i32> = entry.shape.iter().map(|&side| side as i32).collect();
        open[0] = -1;
        builder.create_vector(&open)
    });
    table(builder, |builder| {
        builder.push_slot_always(slot(tensor::SHAPE), shape);
        builder.push_slot_always(slot(tensor::NAME), name);
        builder.push_slot_always(slot(tensor::BUFFER), entry.buffer as u32);
        if let Some(signature) = signature {
            builder.push_slot_always(slot(tensor::SIGNATURE), signature);
        }
        builder.push_slot_always(slot(tensor::TYPE), entry.kind as i8);
    })
}

fn write_operator(builder: &mut Builder, entry: &OperatorEntry, codes: &[(i32, i32)]) -> Offset {
    let inputs = integers(builder, entry.inputs.iter().copied());
    let outputs = integers(builder, [entry.output].into_iter());
    let options = table(builder, |builder| {
        for &(id, field) in &entry.options {
            match field {
                Field::Byte(value) => builder.push_slot_always(slot(id), value),
                Field::Bool(value) => builder.push_slot_always(slot(id), value),
                Field::Int(value) => builder.push_slot_always(slot(id), value),
                Field::Float(value) => builder.push_slot_always(slot(id), value),
            }
        }
    });
    let index = codes.iter().position(|&code| code == (entry.code, entry.version)).unwrap_or(0);
    table(builder, |builder| {
        builder.push_slot_always(slot(operator::CODE_INDEX), index as u32);
        builder.push_slot_always(slot(operator::INPUTS), inputs);
        builder.push_slot_always(slot(operator::OUTPUTS), outputs);
        builder.push_slot_always(slot(operator::OPTIONS), options);
        builder.push_slot_always(slot(operator::OPTIONS_TYPE), entry.options_type);
    })
}
