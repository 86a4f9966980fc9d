//! `mobilenet summary`: the layers of a network with their shapes and what they cost.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use mobilenet::Architecture;
use mobilenet::architecture::{Operator, Shape};
use mobilenet::cost::{Cost, Kind, LayerCost};
use serde::Serialize;

use crate::architecture_flags::{ArchitectureFlags, describe};
use crate::failure::{Failure, Outcome};
use crate::model_source;
use crate::style::{Align, FAINT, STRONG, Table, bytes, grouped, percent};

/// Show the layers of a network: shapes, multiply-adds, parameters and their shares
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet summary                                 # the reference network
  mobilenet summary --width 0.5 --resolution 160
  mobilenet summary --body full                     # every block a full 3×3 convolution
  mobilenet summary --model runs/photos --json

Multiply-adds count a multiplication and its addition as one, for one image, as the paper does.")]
pub struct Flags {
    /// Show the network of this model file or run folder instead
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// Images in a batch, for the memory of activations
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: usize,
    #[command(flatten)]
    architecture: ArchitectureFlags,
}

/// What to show.
enum Source {
    Flags(Box<Architecture>),
    Model(PathBuf),
}

struct Settings {
    source: Source,
    batch: usize,
}

impl Flags {
    fn settings(self) -> Outcome<Settings> {
        let source = match (self.model, self.architecture.given()) {
            (Some(_), Some(flag)) => {
                return Err(Failure::usage(format!("{flag} cannot be given with --model: the file says it")));
            }
            (Some(path), None) => Source::Model(path),
            (None, _) => Source::Flags(Box::new(self.architecture.architecture()?)),
        };
        // Whether a batch can be counted does not depend on the network.
        Architecture::default().cost(self.batch).map_err(Failure::usage)?;
        Ok(Settings { source, batch: self.batch })
    }
}

/// Prints the table.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    let Settings { source, batch } = flags.settings()?;
    let architecture = match source {
        Source::Flags(architecture) => *architecture,
        Source::Model(path) => model_source::open(&path)?.architecture,
    };
    let cost = architecture.cost(batch)?;
    if json {
        crate::json::write(out, &Json::new(&architecture, &cost))
    } else {
        text(out, &architecture, &cost)
    }
}

fn text(out: &mut dyn Write, architecture: &Architecture, cost: &Cost) -> Outcome {
    writeln!(out, "{STRONG}{}{STRONG:#}\n", describe(architecture))?;
    let (mult_adds, params) = (cost.mult_adds(), cost.parameters());
    let mut table = Table::new(&[
        ("layer", Align::Left),
        ("operator", Align::Left),
        ("output", Align::Right),
        ("mult-adds", Align::Right),
        ("share", Align::Right),
        ("parameters", Align::Right),
        ("share", Align::Right),
    ]);
    for cost in &cost.layers {
        let layer = &cost.layer;
        let share = |part: u64, whole: u64| match part {
            0 => String::new(),
            _ => percent(part as f64 / whole as f64),
        };
        let count = |n: u64| if n == 0 { "–".to_owned() } else { grouped(n) };
        table.row(vec![
            layer.name.clone(),
            operator(cost),
            shape(layer.output),
            count(cost.mult_adds),
            share(cost.mult_adds, mult_adds),
            count(cost.parameters),
            share(cost.parameters, params),
        ]);
    }
    table.total(vec![
        "total".into(),
        String::new(),
        String::new(),
        grouped(mult_adds),
        String::new(),
        grouped(params),
        String::new(),
    ]);
    table.write(out)?;

    writeln!(out)?;
    let mut shares =
        Table::new(&[("operator", Align::Left), ("mult-adds", Align::Right), ("parameters", Align::Right)]);
    for share in cost.shares() {
        shares.row(vec![
            share.kind.title().into(),
            percent(share.mult_adds_share),
            percent(share.parameters_share),
        ]);
    }
    shares.write(out)?;
    writeln!(out, "{FAINT}(of filters alone: without batch normalisation and biases){FAINT:#}\n")?;

    let images = if cost.batch == 1 { "one image".to_owned() } else { format!("{} images", cost.batch) };
    writeln!(out, "weights      {:>10}  in f32", bytes(4 * params))?;
    writeln!(
        out,
        "activations  {:>10}  for {images}: every layer's output, which training keeps",
        bytes(cost.activation_bytes())
    )?;
    writeln!(
        out,
        "             {:>10}  the largest input and output of one layer, which inference needs",
        bytes(largest_pair(cost))
    )?;
    Ok(())
}

/// `conv 3×3 /2`, `depthwise 3×3`, `pointwise 1×1`, …
fn operator(cost: &LayerCost) -> String {
    let layer = &cost.layer;
    let mut text = match layer.operator {
        Operator::Conv => "conv 3×3",
        Operator::Depthwise => "depthwise 3×3",
        Operator::Pointwise => "pointwise 1×1",
        Operator::GlobalPool => "average pool",
        Operator::Classifier => "fully connected",
    }
    .to_owned();
    if layer.stride > 1 {
        text.push_str(&format!(" /{}", layer.stride));
    }
    if layer.dilation > 1 {
        text.push_str(&format!(" dilated {}", layer.dilation));
    }
    text
}

fn shape(s: Shape) -> String {
    format!("{}×{}×{}", s.height, s.width, s.channels)
}

/// Bytes of the largest input and output of one layer together, in f32.
fn largest_pair(cost: &Cost) -> u64 {
    let values = |cost: &LayerCost| cost.layer.input.len() + cost.layer.output.len();
    let largest = cost.layers.iter().map(values).max().unwrap_or(0);
    (size_of::<f32>() * largest * cost.batch) as u64
}

#[derive(Serialize)]
struct Json<'a> {
    name: String,
    mult_adds: u64,
    mult_adds_without_classifier: u64,
    params: u64,
    filter_params: u64,
    batch: usize,
    activation_bytes: u64,
    largest_pair_bytes: u64,
    layers: Vec<JsonLayer<'a>>,
    shares: Vec<JsonShare>,
    architecture: &'a Architecture,
}

#[derive(Serialize)]
struct JsonLayer<'a> {
    name: &'a str,
    operator: Operator,
    kernel: usize,
    stride: usize,
    dilation: usize,
    input: [usize; 3],
    output: [usize; 3],
    mult_adds: u64,
    mult_adds_share: f64,
    params: u64,
    params_share: f64,
    filter_params: u64,
    activation_bytes: u64,
}

#[derive(Serialize)]
struct JsonShare {
    operator: Kind,
    mult_adds: u64,
    mult_adds_share: f64,
    filter_params: u64,
    filter_params_share: f64,
}

impl<'a> Json<'a> {
    fn new(architecture: &'a Architecture, cost: &'a Cost) -> Self {
        let (mult_adds, params) = (cost.mult_adds(), cost.parameters());
        let size = |s: Shape| [s.height, s.width, s.channels];
        let layer = |cost: &'a LayerCost| JsonLayer {
            name: &cost.layer.name,
            operator: cost.layer.operator,
            kernel: cost.layer.kernel,
            stride: cost.layer.stride,
            dilation: cost.layer.dilation,
            input: size(cost.layer.input),
            output: size(cost.layer.output),
            mult_adds: cost.mult_adds,
            mult_adds_share: cost.mult_adds as f64 / mult_adds as f64,
            params: cost.parameters,
            params_share: cost.parameters as f64 / params as f64,
            filter_params: cost.filter_parameters,
            activation_bytes: cost.activation_bytes,
        };
        let shares = cost.shares().into_iter().map(|share| JsonShare {
            operator: share.kind,
            mult_adds: share.mult_adds,
            mult_adds_share: share.mult_adds_share,
            filter_params: share.filter_parameters,
            filter_params_share: share.parameters_share,
        });
        Self {
            name: describe(architecture),
            mult_adds,
            mult_adds_without_classifier: cost.mult_adds_without_classifier(),
            params,
            filter_params: cost.filter_parameters(),
            batch: cost.batch,
            activation_bytes: cost.activation_bytes(),
            largest_pair_bytes: largest_pair(cost),
            layers: cost.layers.iter().map(layer).collect(),
            shares: shares.collect(),
            architecture,
        }
    }
}
