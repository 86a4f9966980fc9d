//! `mobilenet export`: a model for another project.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mobilenet::{Error, Model, atomic_file};
use mobilenet_formats::export::{self, NamedBytes};
use mobilenet_formats::onnx::{self, OnnxOptions};
use mobilenet_formats::{Family, keras, tflite};
use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::model_source;

/// Write a model for PyTorch, timm, Hugging Face, ONNX, Keras or TFLite
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet export runs/photos --format hf -o photos-hf/   # AutoModelForImageClassification
  mobilenet export runs/photos --format onnx --with-preprocessing -o photos.onnx
  mobilenet export imagenet --format tflite -o imagenet.tflite

A format whose network would compute something else than the model (another padding or activation)
is refused, and says why.")]
pub struct Flags {
    /// Model file (of any format that import reads), or the folder of a run
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// What to write
    #[arg(short, long, value_enum)]
    format: Format,
    /// onnx: keep batch normalisation as nodes of its own
    #[arg(long)]
    keep_batch_norm: bool,
    /// onnx: take uint8 [N, H, W, C] pixels and normalise them in the graph
    #[arg(long)]
    with_preprocessing: bool,
    /// onnx, tflite: end in probabilities, not logits
    #[arg(long)]
    probabilities: bool,
    /// h5, weights.h5: leave the classifier out (`include_top=False`)
    #[arg(long)]
    no_top: bool,
    /// The file to write; a folder for hf, and for timm if the name has no extension
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
}

/// The formats, as the command line names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// This project's model file
    Native,
    /// safetensors with the names of the PyTorch reference network
    Reference,
    /// A .pth with the same names, for torch.load and load_state_dict
    Pth,
    /// safetensors with timm's names; a folder gets its config.json too
    Timm,
    /// ONNX, opset 17, batch of any size
    Onnx,
    /// Weights for keras.applications.MobileNet, Keras 2 and 3 (HDF5)
    H5,
    /// The same as a Keras 3 .weights.h5
    #[value(name = "weights.h5")]
    WeightsH5,
    /// TFLite, float32, one image
    Tflite,
    /// A folder that transformers loads: safetensors, config.json, preprocessor_config.json
    Hf,
}

#[derive(Serialize)]
struct Answer {
    format: String,
    files: Vec<Written>,
}

#[derive(Serialize)]
struct Written {
    path: String,
    bytes: usize,
}

impl Flags {
    fn classifier(&self) -> keras::Classifier {
        if self.no_top { keras::Classifier::LeaveOut } else { keras::Classifier::Include }
    }

    /// A usage error for a flag that the format has no use for.
    fn check(&self) -> Outcome {
        let onnx = self.format == Format::Onnx;
        let keras = matches!(self.format, Format::H5 | Format::WeightsH5);
        for (given, flag, fits) in [
            (self.keep_batch_norm, "--keep-batch-norm", onnx),
            (self.with_preprocessing, "--with-preprocessing", onnx),
            (self.probabilities, "--probabilities", onnx || self.format == Format::Tflite),
            (self.no_top, "--no-top", keras),
        ] {
            if given && !fits {
                let format = self.format.name();
                return Err(Failure::usage(format!("{flag}: means nothing for --format {format}")));
            }
        }
        Ok(())
    }
}

impl Format {
    /// The name on the command line.
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// Loads, converts, writes.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    flags.check()?;
    let model = model_source::open(&flags.model)?;
    let files = files(&model, &flags)?;
    let mut written = Vec::new();
    for (path, bytes) in files {
        atomic_file::write(&path, |file| file.write_all(&bytes))?;
        written.push(Written { path: path.display().to_string(), bytes: bytes.len() });
    }
    if json {
        crate::json::write(out, &Answer { format: flags.format.name(), files: written })?;
        return Ok(());
    }
    for file in written {
        writeln!(out, "{} ({:.1} MB)", file.path, file.bytes as f64 / 1e6)?;
    }
    Ok(())
}

/// What is to be written where.
fn files(model: &Model, flags: &Flags) -> Outcome<Vec<(PathBuf, Vec<u8>)>> {
    let output = &flags.output;
    let one = |bytes: Vec<u8>| -> Outcome<Vec<(PathBuf, Vec<u8>)>> {
        if output.is_dir() {
            return Err(Failure::usage(format!(
                "{}: a folder; expected the name of the file to write",
                output.display()
            )));
        }
        Ok(vec![(output.clone(), bytes)])
    };
    match flags.format {
        Format::Native => one(model.to_bytes()?),
        Format::Reference => one(export::safetensors(model, Family::Reference)?),
        Format::Pth => one(export::pth(model)?),
        Format::Timm if output.extension().is_some() && !output.is_dir() => {
            one(export::safetensors(model, Family::Timm)?)
        }
        Format::Onnx => one(onnx::write(
            model,
            &OnnxOptions {
                fold_batch_norm: !flags.keep_batch_norm,
                with_preprocessing: flags.with_preprocessing,
                probabilities: flags.probabilities,
            },
        )?),
        Format::H5 => one(keras::write_h5(model, flags.classifier())?),
        Format::WeightsH5 => one(keras::write_weights_h5(model, flags.classifier())?),
        Format::Tflite => one(tflite::write(model, tflite::Options { softmax: flags.probabilities })?),
        Format::Timm => in_folder(output, export::timm(model)?),
        Format::Hf => in_folder(output, export::hugging_face(model)?),
    }
}

/// The files of an export that is a folder, which is made.
fn in_folder(folder: &Path, files: Vec<NamedBytes>) -> Outcome<Vec<(PathBuf, Vec<u8>)>> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    Ok(files.into_iter().map(|(name, bytes)| (folder.join(name), bytes)).collect())
}
