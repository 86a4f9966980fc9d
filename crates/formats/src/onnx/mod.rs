//! ONNX: MobileNet v1 graphs, in and out.
//!
//! Reading walks the graph and asks for no names: what torch.onnx (both exporters), tf2onnx, Keras and
//! ONNX Runtime's optimizer write is recognised by its operators, with batch normalisations kept,
//! folded or decomposed, in NCHW or NHWC. Writing gives a graph of the standard's operators alone.

mod array;
mod attributes;
mod fold;
mod head;
mod metadata;
mod preprocessing;
mod proto;
mod step;
mod strangers;
#[cfg(test)]
mod tests;
mod walk;
mod write;

use self::attributes::describe;
use self::walk::Walk;
use crate::Content;
use crate::chain::Chain;
use crate::error::{Error, Result};
use crate::state_dict::Hints;

pub use self::write::{OPSET, OnnxOptions, write};

const FORMAT: &str = "ONNX";

/// Whether a file with these bytes is ONNX, by its fields at the top level. It needs the file from
/// its beginning up to where the graph begins.
pub fn could_be(bytes: &[u8]) -> bool {
    proto::could_be_model(bytes)
}

/// Reads a file.
///
/// # Errors
/// [`Error::Damaged`] when the bytes are not ONNX; [`Error::Refused`] for what is not read (a node is
/// named), for quantised models and for weights in another file; [`Error::OtherNetwork`] with what the
/// network seems to be.
pub fn read(bytes: &[u8]) -> Result<Content> {
    let model = proto::decode(bytes)?;
    let graph = model.graph.as_ref().ok_or_else(|| Error::damaged(FORMAT, "it has no graph"))?;
    let mut walk = Walk::new(graph, bytes.len())?;
    walk.run()?;
    let Walk { of_bytes, input, input_axes, normalisation, steps, classifier, notes, .. } = walk;

    let mut hints = Hints { notes, ..Hints::default() };
    metadata::read(&model.metadata_props, &mut hints);
    let Some([_, channels, height, width]) = input_axes.filter(|_| !steps.is_empty()) else {
        let last = graph.node.last().map_or_else(|| "no node".into(), describe);
        return Err(Error::OtherNetwork(format!("its graph has no convolution; its last node is {last}")));
    };
    let steps = steps.into_iter().map(|step| step.build()).collect::<Result<Vec<_>>>()?;
    let input_channels = steps[0].weight.shape()[1];
    let in_graph = preprocessing::of_nodes(&normalisation, input_channels, channels, of_bytes)
        .map_err(|problem| Error::refused(FORMAT, problem))?;
    if let Some(found) = in_graph {
        // The graph is right on the numbers; only the metadata know of the crop.
        let told = hints.preprocessing.take().unwrap_or_else(|| found.clone());
        let p = preprocessing::Preprocessing { mean: found.mean, std: found.std, ..told };
        hints.notes.push(format!(
            "the graph normalises its input (mean {:?}, std {:?}); this becomes the model's preprocessing",
            p.mean, p.std
        ));
        hints.preprocessing = Some(p);
    }
    let input_size = match (input[height], input[width]) {
        (Some(height), Some(width)) => [height, width],
        _ => [0, 0],
    };
    let classifier = classifier.map(|classifier| classifier.build()).transpose()?;
    Ok(Content::Chain(Chain { steps, classifier, input_size, hints }))
}
