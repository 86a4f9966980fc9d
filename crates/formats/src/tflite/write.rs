//! Writes a model as TFLite floats: batch normalisation folded into the convolutions, activations
//! fused, any batch size (one unless the interpreter resizes the input).

use mobilenet::architecture::{Layer, Operator};
use mobilenet::conventions::Activation;
use mobilenet::{Model, Tensor};

use super::file::{self, Field, File};
use super::schema::{activation, code, convolution, options, tensor_type};
use super::told::Told;
use crate::error::{Error, Result};

/// What to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Probabilities in place of logits.
    pub softmax: bool,
}

/// The bytes of a `.tflite` file with one input, `[1, H, W, C]` normalised floats, and one output,
/// `[1, outputs]`.
///
/// Labels and preprocessing lie in a metadata entry `mobilenet` as JSON, which [`super::read()`] knows.
/// A padding that TFLite has not (the reference family's) becomes a `PAD` in front of a convolution.
///
/// # Errors
/// When the model does not pass [`Model::check`] or is too large for the format.
pub fn write(model: &Model, settings: Options) -> Result<Vec<u8>> {
    model.check()?;
    let architecture = &model.architecture;
    let mut writer = Writer { model, file: File::default(), current: 0 };
    let input = architecture.input_shape();
    let shape = [1, input.height, input.width, input.channels];
    writer.current = writer.file.value("input", &shape);
    let first = writer.current;
    for layer in architecture.layers()? {
        match layer.operator {
            Operator::Conv | Operator::Depthwise | Operator::Pointwise => writer.convolution(&layer)?,
            Operator::GlobalPool => writer.pool(&layer),
            Operator::Classifier => writer.classifier(&layer)?,
        }
    }
    if settings.softmax {
        let output = writer.file.value("probabilities", &[1, architecture.outputs()]);
        // β = 1.
        let softmax = vec![(0, Field::Float(1.0))];
        writer.operator(code::SOFTMAX, 1, &[], output, (options::SOFTMAX, softmax));
    }
    let told = serde_json::to_vec(&Told::of(model))
        .map_err(|e| Error::Unsupported(format!("labels cannot be written as JSON: {e}")))?;
    let last = writer.current;
    file::finish(&writer.file, first, last, &told)
}

struct Writer<'a> {
    model: &'a Model,
    file: File,
    /// The tensor that was computed last.
    current: usize,
}

impl Writer<'_> {
    /// An operator on the current tensor and `others`.
    fn operator(
        &mut self,
        code: i32,
        version: i32,
        others: &[usize],
        output: usize,
        options: (u8, Vec<(usize, Field)>),
    ) {
        let mut inputs = vec![self.current];
        inputs.extend(others);
        self.file.operator(code, version, inputs, output, options);
        self.current = output;
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.model.weights.get(name).ok_or_else(|| Error::Tensors(format!("{name} is missing")))
    }

    /// The scale and the shift that batch normalisation is at inference, one a channel, in f64.
    fn folded(&self, layer: &str) -> Result<Vec<(f64, f64)>> {
        let values = |suffix: &str| self.tensor(&format!("{layer}.bn.{suffix}")).map(Tensor::data);
        let (weight, bias) = (values("weight")?, values("bias")?);
        let (mean, variance) = (values("running_mean")?, values("running_var")?);
        let epsilon = f64::from(self.model.architecture.conventions.bn_epsilon);
        let channels = weight.iter().zip(bias).zip(mean.iter().zip(variance));
        Ok(channels
            .map(|((&weight, &bias), (&mean, &variance))| {
                let scale = f64::from(weight) / (f64::from(variance) + epsilon).sqrt();
                (scale, f64::from(bias) - f64::from(mean) * scale)
            })
            .collect())
    }

    fn convolution(&mut self, layer: &Layer) -> Result<()> {
        let depthwise = layer.operator == Operator::Depthwise;
        let same = self.pad(layer);
        let folded = self.folded(&layer.name)?;
        let name = format!("{}.weight", layer.name);
        let weight = self.tensor(&name)?;
        let &[channels, inputs, rows, columns] = weight.shape() else {
            return Err(Error::Tensors(format!("{name}: a shape of {:?}", weight.shape())));
        };
        let value = |o: usize, i: usize, r: usize, c: usize| {
            let at = ((o * inputs + i) * rows + r) * columns + c;
            (f64::from(weight.data()[at]) * folded[o].0) as f32
        };
        let mut data = Vec::with_capacity(weight.data().len());
        let shape = if depthwise {
            for r in 0..rows {
                for c in 0..columns {
                    data.extend((0..channels).map(|o| value(o, 0, r, c)));
                }
            }
            [1, rows, columns, channels]
        } else {
            for o in 0..channels {
                for r in 0..rows {
                    for c in 0..columns {
                        data.extend((0..inputs).map(|i| value(o, i, r, c)));
                    }
                }
            }
            [channels, rows, columns, inputs]
        };
        let bias: Vec<f32> = folded.iter().map(|&(_, shift)| shift as f32).collect();
        let weight = self.file.constant(&name, &shape, tensor_type::FLOAT32, file::floats(&data));
        let bias_name = format!("{}.bias", layer.name);
        let bias = self.file.constant(&bias_name, &[channels], tensor_type::FLOAT32, file::floats(&bias));
        let output = [1, layer.output.height, layer.output.width, channels];
        let output = self.file.value(&layer.name, &output);

        let (stride, dilation) = (layer.stride as i32, layer.dilation as i32);
        let fused = match self.model.architecture.conventions.activation {
            Activation::Relu => activation::RELU,
            Activation::Relu6 => activation::RELU6,
        };
        let later = usize::from(depthwise);
        let mut fields = vec![
            (convolution::PADDING, Field::Byte(if same { convolution::SAME } else { convolution::VALID })),
            (convolution::STRIDE_WIDTH, Field::Int(stride)),
            (convolution::STRIDE_HEIGHT, Field::Int(stride)),
            (convolution::ACTIVATION + later, Field::Byte(fused)),
            (convolution::DILATION_WIDTH + later, Field::Int(dilation)),
            (convolution::DILATION_HEIGHT + later, Field::Int(dilation)),
        ];
        let (code, version, kind) = if depthwise {
            fields.push((convolution::MULTIPLIER, Field::Int(1)));
            // Dilation came with version 2.
            (code::DEPTHWISE_CONV_2D, if dilation > 1 { 2 } else { 1 }, options::DEPTHWISE_CONV_2D)
        } else {
            (code::CONV_2D, 1, options::CONV_2D)
        };
        self.operator(code, version, &[weight, bias], output, (kind, fields));
        Ok(())
    }

    /// Whether TFLite's SAME is a layer's padding; else a `PAD` is written where one is needed.
    fn pad(&mut self, layer: &Layer) -> bool {
        let reach = (layer.kernel - 1) * layer.dilation + 1;
        let along = |size: usize| {
            let total = ((size.div_ceil(layer.stride) - 1) * layer.stride + reach).saturating_sub(size);
            (total / 2, total - total / 2)
        };
        let pads = layer.pads;
        let (rows, columns) = ((pads.top, pads.bottom), (pads.left, pads.right));
        if (rows, columns) == (along(layer.input.height), along(layer.input.width)) {
            return true;
        }
        if (rows, columns) == ((0, 0), (0, 0)) {
            return false;
        }
        let sizes = [0, 0, rows.0, rows.1, columns.0, columns.1, 0, 0];
        let bytes = sizes.iter().flat_map(|&size| (size as i32).to_le_bytes()).collect();
        let name = format!("{}.pad", layer.name);
        let sizes = self.file.constant(&format!("{name}.sizes"), &[4, 2], tensor_type::INT32, bytes);
        let input = layer.input;
        let (height, width) = (input.height + rows.0 + rows.1, input.width + columns.0 + columns.1);
        let output = self.file.value(&name, &[1, height, width, input.channels]);
        self.operator(code::PAD, 1, &[sizes], output, (options::PAD, Vec::new()));
        false
    }

    fn pool(&mut self, layer: &Layer) {
        let axes = [1_i32, 2].iter().flat_map(|axis| axis.to_le_bytes()).collect();
        let axes = self.file.constant("pool.axes", &[2], tensor_type::INT32, axes);
        let output = self.file.value(&layer.name, &[1, layer.output.channels]);
        self.operator(code::MEAN, 1, &[axes], output, (options::REDUCER, vec![(0, Field::Bool(false))]));
    }

    fn classifier(&mut self, layer: &Layer) -> Result<()> {
        let mut constants = Vec::new();
        for suffix in ["weight", "bias"] {
            let name = format!("{}.{suffix}", layer.name);
            let tensor = self.tensor(&name)?;
            let (shape, bytes) = (tensor.shape().to_vec(), file::floats(tensor.data()));
            constants.push(self.file.constant(&name, &shape, tensor_type::FLOAT32, bytes));
        }
        let output = self.file.value("logits", &[1, layer.output.channels]);
        let fields = vec![(0, Field::Byte(activation::NONE))];
        self.operator(code::FULLY_CONNECTED, 1, &constants, output, (options::FULLY_CONNECTED, fields));
        Ok(())
    }
}
