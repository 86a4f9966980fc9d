//! A model as an ONNX graph.

use mobilenet::architecture::{Layer, Operator, Pads};
use mobilenet::conventions::Activation;
use mobilenet::{Model, Tensor};
use prost::Message;

use super::metadata::{self, PRODUCER};
use super::proto::{
    AttributeProto, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TensorType, TypeProto, ValueInfoProto, attribute_type, data_type,
};
use crate::error::{Error, Result};

/// The version of the operators that are used.
pub const OPSET: i64 = 17;

/// The version of the file format, which came with that of the operators.
const IR_VERSION: i64 = 8;

const INPUT: &str = "input";

/// What a file is to contain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnnxOptions {
    /// Batch normalisations become part of the convolutions (in f64); otherwise they are nodes.
    pub fold_batch_norm: bool,
    /// The input is uint8 `[N, H, W, C]`, normalised in the graph; otherwise f32 `[N, C, H, W]`,
    /// already normalised. Resizing and cropping are for the caller in both cases.
    pub with_preprocessing: bool,
    /// The output is `probabilities`, after a softmax; otherwise `logits`.
    pub probabilities: bool,
}

/// The bytes of a file: one input, `input`, one output, `logits` or `probabilities` `[N, outputs]`;
/// the batch N is open, the image's size that of the model. Pads are given as numbers, those that the
/// model itself computes with. Class names and preprocessing are in the metadata. The same model
/// always gives the same bytes.
///
/// # Errors
/// When the model does not pass [`Model::check`].
pub fn write(model: &Model, options: &OnnxOptions) -> Result<Vec<u8>> {
    model.check()?;
    let architecture = &model.architecture;
    let shape = architecture.input_shape();
    let mut graph = Builder { model, options, graph: GraphProto::default(), value: INPUT.into() };
    let (element, extents) = if options.with_preprocessing {
        graph.preprocess();
        (data_type::UINT8, [shape.height, shape.width, shape.channels])
    } else {
        (data_type::FLOAT, [shape.channels, shape.height, shape.width])
    };
    for layer in architecture.layers()? {
        graph.layer(&layer)?;
    }
    let output = if options.probabilities { "probabilities" } else { "logits" };
    if options.probabilities {
        graph.node("Softmax", output, &[], vec![integer("axis", 1)]);
    }
    let mut graph = graph.graph;
    graph.name = PRODUCER.into();
    graph.input = vec![value_info(INPUT, element, &extents)];
    graph.output = vec![value_info(output, data_type::FLOAT, &[architecture.outputs()])];
    let proto = ModelProto {
        ir_version: IR_VERSION,
        producer_name: PRODUCER.into(),
        producer_version: env!("CARGO_PKG_VERSION").into(),
        doc_string: "MobileNet v1".into(),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        metadata_props: metadata::write(model)?,
    };
    Ok(proto.encode_to_vec())
}

struct Builder<'a> {
    model: &'a Model,
    options: &'a OnnxOptions,
    graph: GraphProto,
    /// The name of what the last node wrote.
    value: String,
}

impl Builder<'_> {
    /// Appends a node that reads the last value and these constants; what it writes has its name.
    fn node(&mut self, operator: &str, name: &str, constants: &[String], attribute: Vec<AttributeProto>) {
        let mut input = vec![std::mem::replace(&mut self.value, name.to_owned())];
        input.extend_from_slice(constants);
        self.graph.node.push(NodeProto {
            input,
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: operator.to_owned(),
            attribute,
            domain: String::new(),
        });
    }

    /// Adds a constant; returns its name.
    fn constant(&mut self, name: &str, shape: &[usize], values: &[f32]) -> String {
        self.graph.initializer.push(TensorProto {
            dims: shape.iter().map(|&extent| extent as i64).collect(),
            data_type: data_type::FLOAT,
            name: name.to_owned(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            ..TensorProto::default()
        });
        name.to_owned()
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        let tensor = self.model.weights.get(name);
        tensor.ok_or_else(|| Error::Tensors(format!("{name}: missing")))
    }

    /// Adds one of the model's tensors as a constant of the same name.
    fn weight(&mut self, name: &str) -> Result<String> {
        let tensor = self.tensor(name)?;
        let (shape, values) = (tensor.shape().to_vec(), tensor.data().to_vec());
        Ok(self.constant(name, &shape, &values))
    }

    /// (x / 255 − mean) / std, from bytes in NHWC to NCHW.
    fn preprocess(&mut self) {
        let p = &self.model.architecture.conventions.preprocessing;
        let parts = p.mean.iter().zip(&p.std).map(|(&mean, &std)| (f64::from(mean), f64::from(std)));
        let (scale, shift): (Vec<f32>, Vec<f32>) =
            parts.map(|(mean, std)| ((1.0 / (255.0 * std)) as f32, (-mean / std) as f32)).unzip();
        self.node("Cast", "pixels", &[], vec![integer("to", data_type::FLOAT.into())]);
        let scale = self.constant("preprocessing.scale", &[scale.len()], &scale);
        self.node("Mul", "scaled", &[scale], Vec::new());
        let shift = self.constant("preprocessing.shift", &[shift.len()], &shift);
        self.node("Add", "normalised", &[shift], Vec::new());
        self.node("Transpose", "image", &[], vec![integers("perm", &[0, 3, 1, 2])]);
    }

    fn layer(&mut self, layer: &Layer) -> Result<()> {
        let name = layer.name.as_str();
        match layer.operator {
            Operator::Conv | Operator::Depthwise | Operator::Pointwise => self.convolution(layer),
            Operator::GlobalPool => {
                self.node("GlobalAveragePool", name, &[], Vec::new());
                self.node("Flatten", "features", &[], vec![integer("axis", 1)]);
                Ok(())
            }
            Operator::Classifier => {
                let weight = self.weight(&format!("{name}.weight"))?;
                let bias = self.weight(&format!("{name}.bias"))?;
                let output = if self.options.probabilities { name } else { "logits" };
                self.node("Gemm", output, &[weight, bias], vec![integer("transB", 1)]);
                Ok(())
            }
        }
    }

    fn convolution(&mut self, layer: &Layer) -> Result<()> {
        let name = layer.name.as_str();
        let groups = if layer.operator == Operator::Depthwise { layer.input.channels } else { 1 };
        let Pads { top, bottom, left, right } = layer.pads;
        let attributes = vec![
            integers("dilations", &[layer.dilation; 2]),
            integer("group", groups as i64),
            integers("kernel_shape", &[layer.kernel; 2]),
            integers("pads", &[top, left, bottom, right]),
            integers("strides", &[layer.stride; 2]),
        ];
        if self.options.fold_batch_norm {
            let [weight, bias] = self.folded(name)?;
            self.node("Conv", name, &[weight, bias], attributes);
        } else {
            let weight = self.weight(&format!("{name}.weight"))?;
            self.node("Conv", name, &[weight], attributes);
            let mut parts = Vec::with_capacity(4);
            for part in ["weight", "bias", "running_mean", "running_var"] {
                parts.push(self.weight(&format!("{name}.bn.{part}"))?);
            }
            let conventions = &self.model.architecture.conventions;
            // ONNX's momentum is the weight of the old statistics.
            let settings = vec![
                float("epsilon", conventions.bn_epsilon),
                float("momentum", 1.0 - conventions.bn_momentum),
            ];
            self.node("BatchNormalization", &format!("{name}.bn"), &parts, settings);
        }
        match self.model.architecture.conventions.activation {
            Activation::Relu => self.node("Relu", &format!("{name}.relu"), &[], Vec::new()),
            Activation::Relu6 => {
                let bounds = ["relu6.min".to_owned(), "relu6.max".to_owned()];
                if !self.graph.initializer.iter().any(|tensor| tensor.name == bounds[0]) {
                    self.constant(&bounds[0], &[], &[0.0]);
                    self.constant(&bounds[1], &[], &[6.0]);
                }
                self.node("Clip", &format!("{name}.relu6"), &bounds, Vec::new());
            }
        }
        Ok(())
    }

    /// Adds the weight and bias of a convolution with its batch normalisation in them.
    fn folded(&mut self, name: &str) -> Result<[String; 2]> {
        let wide = |part: &str| -> Result<Vec<f64>> {
            Ok(self.tensor(&format!("{name}.bn.{part}"))?.data().iter().map(|&value| value.into()).collect())
        };
        let (gamma, beta) = (wide("weight")?, wide("bias")?);
        let (mean, variance) = (wide("running_mean")?, wide("running_var")?);
        let epsilon = f64::from(self.model.architecture.conventions.bn_epsilon);
        let scale: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
        let shifts = beta.iter().zip(&mean).zip(&scale);
        let bias: Vec<f32> = shifts.map(|((b, m), s)| (b - m * s) as f32).collect();
        let weight_name = format!("{name}.weight");
        let tensor = self.tensor(&weight_name)?;
        let shape = tensor.shape().to_vec();
        let filters = tensor.rows().zip(&scale);
        let weight: Vec<f32> =
            filters.flat_map(|(row, s)| row.iter().map(move |&w| (f64::from(w) * s) as f32)).collect();
        if let Some(at) = weight.iter().chain(&bias).position(|value| !value.is_finite()) {
            return Err(Error::Unsupported(format!(
                "{weight_name}: value {at} is not finite once its batch normalisation is folded in; export \
                 with the batch normalisation kept"
            )));
        }
        let weight = self.constant(&weight_name, &shape, &weight);
        Ok([weight, self.constant(&format!("{name}.bias"), &[bias.len()], &bias)])
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), i: value, r#type: attribute_type::INT, ..AttributeProto::default() }
}

fn integers(name: &str, values: &[usize]) -> AttributeProto {
    let ints = values.iter().map(|&value| value as i64).collect();
    AttributeProto { name: name.into(), ints, r#type: attribute_type::INTS, ..AttributeProto::default() }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f: value, r#type: attribute_type::FLOAT, ..AttributeProto::default() }
}

/// An input or output whose first dimension, the batch, is open.
fn value_info(name: &str, elem_type: i32, extents: &[usize]) -> ValueInfoProto {
    let batch = Dimension { dim_param: Some("N".into()), ..Dimension::default() };
    let extents = extents.iter().map(|&extent| Dimension { dim_value: Some(extent as i64), dim_param: None });
    let shape = TensorShapeProto { dim: std::iter::once(batch).chain(extents).collect() };
    let tensor_type = Some(TensorType { elem_type, shape: Some(shape) });
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type }) }
}
