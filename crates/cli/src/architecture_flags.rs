//! The flags that describe a network, shared by every command that can build one.

use std::ffi::OsStr;
use std::marker::PhantomData;
use std::str::FromStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, Args, Command};
use mobilenet::{Architecture, Body, Preset};

use crate::failure::{Failure, Outcome};

/// A parser of names that the library knows: help and completions list them, and a slip is answered
/// by the library's own message, with the nearest.
#[derive(Clone)]
pub struct Names<T> {
    names: Vec<&'static str>,
    parsed: PhantomData<fn() -> T>,
}

/// A parser of these names.
pub fn one_of<T>(names: impl IntoIterator<Item = &'static str>) -> Names<T> {
    Names { names: names.into_iter().collect(), parsed: PhantomData }
}

impl<T> TypedValueParser for Names<T>
where
    T: FromStr<Err = mobilenet::Error> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, command: &Command, flag: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        StringValueParser::new().try_map(|name| name.parse::<T>()).parse_ref(command, flag, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names.iter().map(PossibleValue::new)))
    }
}

/// What the network is to be; what is not given stays as it is.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Network")]
pub struct ArchitectureFlags {
    /// Width multiplier α, above 0 and at most 2: thins every layer
    #[arg(long, value_name = "ALPHA", allow_negative_numbers = true)]
    pub width: Option<f64>,
    /// Height and width of the input in pixels
    #[arg(long, value_name = "PIXELS")]
    pub resolution: Option<usize>,
    /// What a block is made of
    #[arg(long, value_parser = one_of::<Body>(Body::ALL.map(Body::name)))]
    pub body: Option<Body>,
    /// Stride of the first convolution: 2, or 1 for small images
    #[arg(long, value_name = "STRIDE")]
    pub stem_stride: Option<usize>,
    /// The most by which the last feature map is smaller than the input (8, 16 or 32);
    /// what would stride further dilates
    #[arg(long, value_name = "STRIDE")]
    pub output_stride: Option<usize>,
    /// Number of classes
    #[arg(long, value_name = "N")]
    pub classes: Option<usize>,
    /// Channels of the input: 1 (grey) or 3 (RGB)
    #[arg(long, value_name = "N")]
    pub channels: Option<usize>,
    /// The family whose padding, activation, BN and preprocessing are followed
    #[arg(long, value_name = "FAMILY", value_parser = one_of::<Preset>(Preset::ALL.map(Preset::name)))]
    pub conventions: Option<Preset>,
}

impl ArchitectureFlags {
    /// The first flag that was given, if any.
    pub fn given(&self) -> Option<&'static str> {
        [
            (self.width.is_some(), "--width"),
            (self.resolution.is_some(), "--resolution"),
            (self.body.is_some(), "--body"),
            (self.stem_stride.is_some(), "--stem-stride"),
            (self.output_stride.is_some(), "--output-stride"),
            (self.classes.is_some(), "--classes"),
            (self.channels.is_some(), "--channels"),
            (self.conventions.is_some(), "--conventions"),
        ]
        .into_iter()
        .find_map(|(given, flag)| given.then_some(flag))
    }

    /// The reference network with these flags laid over it, checked.
    pub fn architecture(&self) -> Outcome<Architecture> {
        let mut a = Architecture::default();
        if let Some(preset) = self.conventions {
            a.conventions = preset.conventions();
        }
        a.width_multiplier = self.width.unwrap_or(a.width_multiplier);
        a.resolution = self.resolution.unwrap_or(a.resolution);
        a.body = self.body.unwrap_or(a.body);
        a.stem_stride = self.stem_stride.unwrap_or(a.stem_stride);
        a.output_stride = self.output_stride.unwrap_or(a.output_stride);
        a.classes = self.classes.unwrap_or(a.classes);
        a.input_channels = self.channels.unwrap_or(a.input_channels);
        if a.input_channels == 1 {
            let p = &mut a.conventions.preprocessing;
            for values in [&mut p.mean, &mut p.std] {
                *values = vec![values.iter().sum::<f32>() / values.len().max(1) as f32];
            }
        }
        a.layers().map_err(Failure::usage)?;
        Ok(a)
    }
}

/// `1.0 MobileNet-224, separable, 1000 classes`: how the paper names networks, and what it leaves out.
pub fn describe(a: &Architecture) -> String {
    let mut text = format!("{:?} MobileNet-{}", a.width_multiplier, a.resolution);
    if a.body != Body::Separable {
        text.push_str(&format!(", {} body", a.body.name()));
    }
    text.push_str(&format!(", {} {}", a.classes, if a.classes == 1 { "class" } else { "classes" }));
    if a.input_channels == 1 {
        text.push_str(", grey input");
    }
    if a.stem_stride != 2 {
        text.push_str(&format!(", stem stride {}", a.stem_stride));
    }
    if a.output_stride != 32 {
        text.push_str(&format!(", output stride {}", a.output_stride));
    }
    text
}
