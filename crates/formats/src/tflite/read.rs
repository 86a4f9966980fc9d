//! From a TFLite file to the network that [`crate::tensorflow`] walks.

use half::f16;
use mobilenet::Tensor;
use mobilenet::conventions::Activation;

use super::FORMAT;
use super::flatbuffer::{Table, Vector};
use super::schema::{
    activation, buffer, code, convolution, metadata, model, operator, operator_code, subgraph, tensor,
    tensor_type,
};
use super::told::{self, Told};
use crate::Content;
use crate::chain::StepPadding;
use crate::error::{Error, Result};
use crate::tensorflow::network::{Convolution, FilterLayout, MISSING, Network, Node, Op};
use crate::tensorflow::walk;

/// Reads a TFLite model of floats; weights may be 16-bit with `DEQUANTIZE` after them, as
/// TensorFlow's float16 conversion leaves them.
///
/// # Errors
/// [`Error::Refused`] for a quantized model, with what to do; [`Error::OtherNetwork`] when it is not
/// a chain of convolutions; [`Error::Damaged`] for offsets and lengths that lead outside the file.
pub fn read(bytes: &[u8]) -> Result<Content> {
    if !super::looks_like(bytes) {
        return Err(Error::damaged(FORMAT, "expected `TFL3` at byte 4; not a TFLite file"));
    }
    let root = Table::root(bytes)?;
    let buffers = root.vector(model::BUFFERS, 4)?;
    let graph = root.vector(model::SUBGRAPHS, 4)?.table(0)?;
    let graph = graph.ok_or_else(|| Error::damaged(FORMAT, "a model without a graph"))?;
    let mut lowering = Lowering {
        codes: root.vector(model::OPERATOR_CODES, 4)?,
        buffers,
        tensors: graph.vector(subgraph::TENSORS, 4)?,
        network: Network::default(),
        written_by: Vec::new(),
        budget: 4 * bytes.len(),
    };
    lowering.tensors(graph.vector(subgraph::INPUTS, 4)?)?;
    let operators = graph.vector(subgraph::OPERATORS, 4)?;
    for index in 0..operators.len() {
        if let Some(table) = operators.table(index)? {
            lowering.operator(index, &table)?;
        }
    }
    let mut chain = walk::chain(&lowering.network, FORMAT)?;
    if let Some(told) = told(&root, buffers)? {
        told.into_hints(&mut chain.hints);
    }
    Ok(Content::Chain(chain))
}

/// What this project's writer left in the file's metadata.
fn told(root: &Table<'_>, buffers: Vector<'_>) -> Result<Option<Told>> {
    let entries = root.vector(model::METADATA, 4)?;
    for index in 0..entries.len().min(64) {
        let Some(entry) = entries.table(index)? else { continue };
        if entry.vector(metadata::NAME, 1)?.bytes() == told::NAME.as_bytes() {
            let place = usize::try_from(entry.int(metadata::BUFFER, 0)?).unwrap_or(usize::MAX);
            let Some(table) = buffers.table(place)? else { continue };
            return Ok(serde_json::from_slice(table.vector(buffer::DATA, 1)?.bytes()).ok());
        }
    }
    Ok(None)
}

struct Lowering<'a> {
    codes: Vector<'a>,
    buffers: Vector<'a>,
    tensors: Vector<'a>,
    network: Network,
    /// The node that has each tensor's value.
    written_by: Vec<usize>,
    /// How many bytes of constants may still be read: several tensors may share a buffer, but a file
    /// in which that makes much more than its own size is made to fill memory.
    budget: usize,
}

impl<'a> Lowering<'a> {
    /// A node for every tensor, until an operator writes it.
    fn tensors(&mut self, inputs: Vector<'a>) -> Result<()> {
        for index in 0..self.tensors.len() {
            let Some(table) = self.tensors.table(index)? else { continue };
            let op = match self.constant(&table)? {
                Some(constant) => constant,
                None => Op::Other("tensor that nothing writes".into()),
            };
            self.push(table.name(tensor::NAME)?, op, Vec::new());
            self.written_by.push(index);
        }
        for number in 0..inputs.len().min(8) {
            let Some(index) = inputs.int(number)?.and_then(|i| usize::try_from(i).ok()) else { continue };
            let Some(table) = self.tensors.table(index)? else { continue };
            let integer = table.byte(tensor::TYPE, 0)? != tensor_type::FLOAT32;
            self.network.nodes[index].op = Op::Input { shape: shape(&table)?, integer };
        }
        Ok(())
    }

    fn push(&mut self, name: String, op: Op, inputs: Vec<usize>) -> usize {
        self.network.nodes.push(Node { name, op, inputs });
        self.network.nodes.len() - 1
    }

    fn constant(&mut self, table: &Table<'a>) -> Result<Option<Op>> {
        let place = usize::try_from(table.int(tensor::BUFFER, 0)?).unwrap_or(usize::MAX);
        let Some(data) = self.buffers.table(place)?.filter(|_| place > 0) else { return Ok(None) };
        let bytes = data.vector(buffer::DATA, 1)?.bytes();
        if bytes.is_empty() {
            return Ok(None);
        }
        let kind = table.byte(tensor::TYPE, 0)?;
        let (words, halves) = (bytes.as_chunks::<4>().0, bytes.as_chunks::<2>().0);
        let values: Box<dyn Iterator<Item = f32>> = match kind {
            tensor_type::FLOAT32 => Box::new(words.iter().map(|&b| f32::from_le_bytes(b))),
            tensor_type::INT32 => Box::new(words.iter().map(|&b| i32::from_le_bytes(b) as f32)),
            tensor_type::FLOAT16 => Box::new(halves.iter().map(|&b| f16::from_le_bytes(b).to_f32())),
            tensor_type::INT64 => {
                Box::new(bytes.as_chunks::<8>().0.iter().map(|&b| i64::from_le_bytes(b) as f32))
            }
            kind => return Ok(Some(Op::Other(format!("constant of tensor type {kind}")))),
        };
        self.budget = self.budget.checked_sub(bytes.len()).ok_or_else(|| {
            Error::damaged(FORMAT, "its constants share buffers to many times the file's size")
        })?;
        let sides = shape(table)?;
        let values: Vec<f32> = values.collect();
        let count = sides.iter().try_fold(1_usize, |product, &side| product.checked_mul(side));
        if count != Some(values.len()) {
            return Err(Error::damaged(
                FORMAT,
                format!(
                    "tensor `{}`: {} values for shape {sides:?}",
                    table.name(tensor::NAME)?,
                    values.len()
                ),
            ));
        }
        Ok(Some(Op::Constant(Tensor::new(&sides, values)?)))
    }

    fn operator(&mut self, number: usize, table: &Table<'a>) -> Result<()> {
        let code = self.code(table)?;
        let places = table.vector(operator::INPUTS, 4)?;
        let mut inputs = Vec::new();
        for index in 0..places.len().min(8) {
            // −1 stands for an input that is left out, as a bias may be.
            let Some(place) = places.int(index)?.filter(|&place| place >= 0) else { break };
            let node = usize::try_from(place).ok().and_then(|place| self.written_by.get(place));
            inputs.push(node.copied().unwrap_or(MISSING));
        }
        let output = table.vector(operator::OUTPUTS, 4)?.int(0)?.and_then(|i| usize::try_from(i).ok());
        let Some(output) = output.filter(|&output| output < self.written_by.len()) else {
            return Err(Error::damaged(FORMAT, format!("operator {number} writes no tensor of the graph")));
        };
        // Names of tensors that a converter merged list every operation, separated by semicolons.
        let full = self.network.nodes[output].name.clone();
        let name = full.split(';').next_back().unwrap_or_default().to_owned();
        let options = table.table(operator::OPTIONS)?;
        let byte = |id, default| options.map_or(Ok(default), |options| options.byte(id, default));
        let mut fused = activation::NONE;
        let op = match code {
            code::CONV_2D | code::DEPTHWISE_CONV_2D => {
                self.refuse_quantized(&places, &name)?;
                let depthwise = code == code::DEPTHWISE_CONV_2D;
                fused = byte(convolution::ACTIVATION + usize::from(depthwise), activation::NONE)?;
                Op::Convolution(read_convolution(options.as_ref(), depthwise, &name)?)
            }
            code::FULLY_CONNECTED => {
                self.refuse_quantized(&places, &name)?;
                fused = byte(0, activation::NONE)?;
                Op::MatMul { transposed: true }
            }
            code::ADD | code::SUB | code::MUL | code::DIV => {
                fused = byte(0, activation::NONE)?;
                match code {
                    code::ADD => Op::Add,
                    code::SUB => Op::Subtract,
                    code::MUL => Op::Multiply,
                    _ => Op::Divide,
                }
            }
            code::AVERAGE_POOL_2D | code::MEAN => Op::Pool,
            code::RELU => Op::Activation(Activation::Relu),
            code::RELU6 => Op::Activation(Activation::Relu6),
            code::MINIMUM => Op::Minimum,
            code::MAXIMUM => Op::Maximum,
            code::RSQRT => Op::ReciprocalRoot,
            code::RESHAPE | code::SQUEEZE | code::EXPAND_DIMS => Op::Reshape,
            code::TRANSPOSE => Op::Transpose,
            code::SOFTMAX | code::LOG_SOFTMAX => Op::Softmax,
            code::RESIZE_BILINEAR => Op::Resize,
            code::PAD => Op::Pad,
            code::CAST => Op::Cast { integer: self.kind(&places, 0)? != Some(tensor_type::FLOAT32) },
            code::DEQUANTIZE if self.kind(&places, 0)? == Some(tensor_type::FLOAT16) => Op::Identity,
            code::DEQUANTIZE | code::QUANTIZE => return Err(quantized(&name)),
            other => Op::Other(format!("operator {other}")),
        };
        let mut node = self.push(name.clone(), op, inputs);
        match fused {
            activation::NONE => {}
            activation::RELU => node = self.push(name, Op::Activation(Activation::Relu), vec![node]),
            activation::RELU6 => node = self.push(name, Op::Activation(Activation::Relu6), vec![node]),
            other => node = self.push(name, Op::Other(format!("fused activation {other}")), vec![node]),
        }
        self.written_by[output] = node;
        Ok(())
    }

    fn code(&self, table: &Table<'a>) -> Result<i32> {
        let index = usize::try_from(table.int(operator::CODE_INDEX, 0)?).unwrap_or(usize::MAX);
        let Some(code) = self.codes.table(index)? else {
            return Err(Error::damaged(
                FORMAT,
                format!("an operator of code {index} of {}", self.codes.len()),
            ));
        };
        let old = i32::from(code.byte(operator_code::OLD_CODE, 0)?);
        Ok(old.max(code.int(operator_code::CODE, 0)?))
    }

    /// The type of an operator's input.
    fn kind(&self, places: &Vector<'a>, number: usize) -> Result<Option<u8>> {
        let Some(place) = places.int(number)?.and_then(|place| usize::try_from(place).ok()) else {
            return Ok(None);
        };
        self.tensors.table(place)?.map(|table| table.byte(tensor::TYPE, 0)).transpose()
    }

    fn refuse_quantized(&self, places: &Vector<'a>, name: &str) -> Result<()> {
        for number in 0..2 {
            if matches!(self.kind(places, number)?, Some(tensor_type::INT8 | tensor_type::UINT8)) {
                return Err(quantized(name));
            }
        }
        Ok(())
    }
}

fn quantized(name: &str) -> Error {
    Error::refused(
        FORMAT,
        format!(
            "this model is quantized (8-bit integers at `{name}`); give the float32 or float16 model \
             that it was made from"
        ),
    )
}

fn shape(table: &Table<'_>) -> Result<Vec<usize>> {
    let sides = table.vector(tensor::SHAPE, 4)?;
    let side = |index| Ok(usize::try_from(sides.int(index)?.unwrap_or(0)).unwrap_or(0));
    (0..sides.len().min(8)).map(side).collect()
}

fn read_convolution(options: Option<&Table<'_>>, depthwise: bool, name: &str) -> Result<Convolution> {
    let wrong = |what: &str| Error::damaged(FORMAT, format!("convolution `{name}`: {what}"));
    let options = options.ok_or_else(|| wrong("no options"))?;
    if depthwise && options.int(convolution::MULTIPLIER, 0)? > 1 {
        return Err(Error::OtherNetwork(format!(
            "the depthwise convolution `{name}` has several filters for a channel"
        )));
    }
    let later = usize::from(depthwise);
    let side = |id: usize, default: i32| {
        let value = options.int(id, default)?;
        usize::try_from(value)
            .ok()
            .filter(|&value| (1..64).contains(&value))
            .ok_or_else(|| wrong("expected strides and dilations from 1"))
    };
    Ok(Convolution {
        layout: if depthwise { FilterLayout::OneHwc } else { FilterLayout::Ohwi },
        stride: [side(convolution::STRIDE_HEIGHT, 0)?, side(convolution::STRIDE_WIDTH, 0)?],
        dilation: [
            side(convolution::DILATION_HEIGHT + later, 1)?,
            side(convolution::DILATION_WIDTH + later, 1)?,
        ],
        padding: match options.byte(convolution::PADDING, convolution::SAME)? {
            convolution::SAME => StepPadding::Same,
            convolution::VALID => StepPadding::Explicit { top: 0, bottom: 0, left: 0, right: 0 },
            _ => return Err(wrong("expected padding SAME or VALID")),
        },
        channels_first: false,
    })
}
