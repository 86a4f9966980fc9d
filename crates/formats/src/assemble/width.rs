//! Which width multiplier and body a file's channels follow.

use mobilenet::architecture::Operator;
use mobilenet::conventions::WidthRounding;
use mobilenet::{Architecture, Body};

use crate::error::{Error, Result};

/// Sets the body, width multiplier and rounding of `architecture` such that its layers have these
/// output channels: the stem's, then each block's.
///
/// # Errors
/// [`Error::OtherNetwork`] when no width multiplier gives them.
pub(super) fn fit(
    architecture: &mut Architecture,
    channels: &[usize],
    full: bool,
    hint: Option<f64>,
) -> Result<()> {
    architecture.body = match (channels.len(), full) {
        (14, false) => Body::Separable,
        (14, true) => Body::Full,
        (9, false) => Body::Shallow,
        (count, _) => {
            return Err(Error::OtherNetwork(format!(
                "{} blocks after the stem; a MobileNet v1 has 13, or 8 without the five of 512 channels",
                count.saturating_sub(1)
            )));
        }
    };
    let preferred = architecture.conventions.width_rounding;
    let others = [WidthRounding::AtLeast8, WidthRounding::Truncate, WidthRounding::MultipleOf8];
    let last = channels[channels.len() - 1] as f64 / 1024.0;
    for rounding in std::iter::once(preferred).chain(others.into_iter().filter(|&r| r != preferred)) {
        // The roundest of the multipliers that give the same channels.
        let quarters = (1..=8).map(|k| f64::from(k) / 4.0);
        let twentieths = (1..=40).map(|k| f64::from(k) / 20.0);
        let sixteenths = (1..=32).map(|k| f64::from(k) / 16.0);
        let thousandths = (1..=2000).map(|k| f64::from(k) / 1000.0);
        let candidates = hint
            .into_iter()
            .chain(quarters)
            .chain(twentieths)
            .chain(sixteenths)
            .chain(thousandths)
            .chain([last]);
        for alpha in candidates.filter(|alpha| (alpha - last).abs() <= 0.02) {
            architecture.width_multiplier = alpha;
            architecture.conventions.width_rounding = rounding;
            if blocks(architecture).is_some_and(|found| found == channels) {
                return Ok(());
            }
        }
    }
    Err(Error::OtherNetwork(format!(
        "its channels {channels:?} follow no width multiplier; at 1.0 they are 32, 64, 128, 128, 256, 256, 512 … 1024"
    )))
}

/// The output channels of the stem and of each block.
fn blocks(architecture: &Architecture) -> Option<Vec<usize>> {
    let layers = architecture.layers().ok()?;
    let ends = layers.iter().filter(|layer| matches!(layer.operator, Operator::Conv | Operator::Pointwise));
    Some(ends.map(|layer| layer.output.channels).collect())
}
