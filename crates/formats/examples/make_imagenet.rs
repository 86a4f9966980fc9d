//! Writes the model file that `crates/imagenet` embeds: `make_imagenet WEIGHTS LABELS OUTPUT`.
//!
//! WEIGHTS is TF-slim's ImageNet `mobilenet_v1_1.0_224` (a checkpoint, or a safetensors file with
//! the checkpoint's names and layouts), LABELS a text file of its 1000 class names. Large
//! filters are stored as 16-bit floats.

use std::path::Path;

use mobilenet::conventions::ResizeMode;
use mobilenet_formats::{Overrides, source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, labels, output] = arguments.as_slice() else {
        return Err("usage: make_imagenet WEIGHTS LABELS OUTPUT".into());
    };
    let labels = std::fs::read_to_string(labels)?.lines().map(str::to_owned).collect();
    // Photos keep their aspect ratio, as Hugging Face prepares them for the same weights.
    let resize = Some(ResizeMode::ShortEdge);
    let overrides = Overrides { labels: Some(labels), resize, ..Overrides::default() };
    let loaded = source::load(Path::new(weights), &overrides)?;
    for note in &loaded.imported.notes {
        println!("{note}");
    }
    std::fs::write(output, loaded.imported.model.to_bytes_half()?)?;
    println!("{}", serde_json::to_string_pretty(&loaded.imported.model.architecture)?);
    Ok(())
}
