//! The families of MobileNet v1 weights: their tensor names and layouts, both ways.
//!
//! What each family's networks do beyond their tensors is in [`mobilenet::Preset`]; the names are
//! those of the projects' own sources (docs/formats.md).

mod layout;
mod names;
mod strangers;

use std::collections::BTreeMap;

use mobilenet::{Preset, Tensor};

pub(crate) use layout::permute;
pub use layout::{Layout, to_ours};
pub use names::{from_ours, to_our_name};
pub use strangers::seems_to_be;

/// A family of tensor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `model.N.M.weight`, `fc.weight` (the PyTorch form).
    Reference,
    /// `conv_stem`, `blocks.S.M.conv_dw`, `classifier`.
    Timm,
    /// `mobilenet_v1.layer.N.convolution.weight`.
    HuggingFace,
    /// `MobilenetV1/Conv2d_N_depthwise/depthwise_weights`.
    TfSlim,
    /// `conv_dw_N/depthwise_kernel`.
    Keras,
    /// This project's own names, without its metadata.
    Native,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 6] =
        [Self::Reference, Self::Timm, Self::HuggingFace, Self::TfSlim, Self::Keras, Self::Native];

    /// The name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference (PyTorch)",
            Self::Timm => "timm",
            Self::HuggingFace => "Hugging Face",
            Self::TfSlim => "TF-slim",
            Self::Keras => "Keras",
            Self::Native => "native",
        }
    }

    /// The values that its networks use where a file does not tell.
    pub fn preset(self) -> Preset {
        match self {
            Self::Reference | Self::Native => Preset::Reference,
            Self::Timm => Preset::Timm,
            Self::HuggingFace => Preset::Hf,
            Self::TfSlim => Preset::TfSlim,
            Self::Keras => Preset::Keras,
        }
    }

    /// The family whose names these are, if any: the one that knows the most of them, and at least
    /// the stem and one block.
    pub fn of<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        let known = |family: &Self| names.clone().filter(|name| to_our_name(*family, name).is_some()).count();
        Self::ALL
            .into_iter()
            .map(|family| (known(&family), family))
            .filter(|(count, _)| *count >= 4)
            .max_by_key(|(count, _)| *count)
            .map(|(_, family)| family)
    }
}

/// A state dict in our names and layouts, and the names that the family does not know.
pub fn translate(
    family: Family,
    tensors: BTreeMap<String, Tensor>,
) -> (BTreeMap<String, Tensor>, Vec<String>) {
    let (mut ours, mut unknown) = (BTreeMap::new(), Vec::new());
    for (name, tensor) in tensors {
        match to_our_name(family, &name) {
            Some((our_name, layout)) => {
                ours.insert(our_name, to_ours(layout, tensor));
            }
            None => unknown.push(name),
        }
    }
    (ours, unknown)
}
