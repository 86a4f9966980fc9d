//! `mobilenet export`: a model for another project.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mobilenet::{Error, Model, atomic_file};
use mobilenet_formats::Family;
use mobilenet_formats::export::{self, NamedBytes};
use mobilenet_formats::tflite;
use serde::Serialize;

use crate::failure::{Failure, Outcome};
use crate::model_source;

/// Write a model for PyTorch, timm, Hugging Face and others
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  mobilenet export runs/photos --format hf -o photos-hf/   # AutoModelForImageClassification
  mobilenet export best.safetensors --format reference -o reference.safetensors

A format whose network would compute something else than the model (another padding or activation)
is refused, and says why.")]
pub struct Flags {
    /// Model file (of any format that import reads), or the folder of a run
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// What to write
    #[arg(short, long, value_enum)]
    format: Format,
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
    /// A folder that transformers loads: safetensors, config.json, preprocessor_config.json
    Hf,
    /// TensorFlow Lite, 32-bit floats: normalised image in, logits out
    Tflite,
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

/// Loads, converts, writes.
pub fn run(flags: Flags, json: bool, out: &mut dyn Write) -> Outcome {
    let model = model_source::open(&flags.model)?;
    let files = files(&model, &flags)?;
    let mut written = Vec::new();
    for (path, bytes) in files {
        atomic_file::write(&path, |file| file.write_all(&bytes))?;
        written.push(Written { path: path.display().to_string(), bytes: bytes.len() });
    }
    let format =
        flags.format.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    if json {
        crate::json::write(out, &Answer { format, files: written })?;
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
        Format::Timm => in_folder(output, export::timm(model)?),
        Format::Tflite => one(tflite::write(model, tflite::Options::default())?),
        Format::Hf => in_folder(output, export::hugging_face(model)?),
    }
}

/// The files of an export that is a folder, which is made.
fn in_folder(folder: &Path, files: Vec<NamedBytes>) -> Outcome<Vec<(PathBuf, Vec<u8>)>> {
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
    Ok(files.into_iter().map(|(name, bytes)| (folder.join(name), bytes)).collect())
}
