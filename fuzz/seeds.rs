//! Writes the corpus that fuzzing begins with to `corpus/`: the tiniest network in every format
//! that is written here, and the golden files of those that are not. Run it in this folder:
//! `cargo run --release --bin seeds`.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::write::GzEncoder;
use mobilenet::{Architecture, Model, Preset};
use mobilenet_formats::keras::Classifier;
use mobilenet_formats::onnx::OnnxOptions;
use mobilenet_formats::{Family, export, keras, onnx, tflite};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Golden files larger than this slow the search down more than they help.
const LARGEST: u64 = 400_000;

fn seed(target: &str, name: &str, bytes: &[u8]) -> Outcome {
    let folder = Path::new("corpus").join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), bytes)?)
}

fn goldens(target: &str, folder: &str, extensions: &[&str]) -> Outcome {
    let folder = Path::new("../crates/formats/tests/golden").join(folder);
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let wanted = extensions.iter().any(|extension| name.ends_with(extension));
        if wanted && path.is_file() && path.metadata()?.len() <= LARGEST {
            seed(target, &name, &fs::read(path)?)?;
        }
    }
    Ok(())
}

fn tiny(preset: Preset) -> Outcome<Model> {
    let architecture = Architecture {
        width_multiplier: 0.04,
        resolution: 32,
        classes: 2,
        conventions: preset.conventions(),
        ..Architecture::default()
    };
    Ok(Model::random(architecture, vec!["a".into(), "b".into()], 1)?)
}

fn main() -> Outcome {
    for preset in Preset::ALL {
        let model = tiny(preset)?;
        seed("native", preset.name(), &model.to_bytes()?)?;
        seed("native", &format!("{}_half", preset.name()), &model.to_bytes_half()?)?;
    }
    let (reference, timm, keras_model) =
        (tiny(Preset::Reference)?, tiny(Preset::Timm)?, tiny(Preset::Keras)?);
    seed("pytorch", "tiny.pth", &export::pth(&reference)?)?;
    seed("safetensors", "reference", &export::safetensors(&reference, Family::Reference)?)?;
    seed("safetensors", "timm", &export::safetensors(&timm, Family::Timm)?)?;
    for (name, bytes) in export::hugging_face(&tiny(Preset::Hf)?)?.into_iter().chain(export::timm(&timm)?) {
        let target = if name.ends_with(".json") { "hub_config" } else { "safetensors" };
        seed(target, &format!("{}_{name}", bytes.len()), &bytes)?;
    }
    seed("keras", "tiny.h5", &keras::write_h5(&keras_model, Classifier::Include)?)?;
    seed("keras", "tiny.weights.h5", &keras::write_weights_h5(&keras_model, Classifier::LeaveOut)?)?;
    seed("tflite", "tiny", &tflite::write(&keras_model, tflite::Options::default())?)?;
    for (name, fold_batch_norm, with_preprocessing) in [("folded", true, false), ("kept", false, true)] {
        let options = OnnxOptions { fold_batch_norm, with_preprocessing, probabilities: with_preprocessing };
        seed("onnx", name, &onnx::write(&reference, &options)?)?;
    }

    goldens("pytorch", "torch", &[".pth", ".pt", ".pkl", ".tar"])?;
    goldens("keras", "keras", &[".h5", ".keras"])?;
    goldens("onnx", "onnx", &[".onnx"])?;
    goldens("tf_graph", "tensorflow", &[".pb"])?;
    goldens("tf_checkpoint", "tensorflow", &[".index", ".v1"])?;
    goldens("tflite", "tflite", &[".tflite"])?;

    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2][..], &[7; 8]].concat();
    let labels = [0, 0, 8, 1, 0, 0, 0, 2, 0, 1];
    let pair =
        |images: &[u8], labels: &[u8]| [&(images.len() as u16).to_le_bytes()[..], images, labels].concat();
    seed("idx", "plain", &pair(&images, &labels))?;
    let gzip = |bytes: &[u8]| -> Outcome<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes)?;
        Ok(encoder.finish()?)
    };
    seed("idx", "gzip", &pair(&gzip(&images)?, &gzip(&labels)?))
}
