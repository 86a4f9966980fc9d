//! Class activation maps: which parts of an image speak for a class.
//!
//! Zhou et al. 2016, "Learning Deep Features for Discriminative Localization" (arXiv 1512.04150). They
//! are exact for this network: between the last feature map and the logits are only a mean over pixels
//! and a linear layer, and the two can be swapped.

use crate::error::{Error, Result};
use crate::tensor::Tensor;
use crate::weights::Weights;

/// What each pixel of the last feature map adds to the logit of one output.
///
/// The logit is the mean of `values` plus `bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct ActivationMap {
    /// Rows of the map.
    pub height: usize,
    /// Values in a row.
    pub width: usize,
    /// `[height, width]`, rows from the top. Above 0: speaks for the class; below: against it.
    pub values: Vec<f32>,
    /// The classifier's bias, which no part of the image has a share in.
    pub bias: f32,
}

impl ActivationMap {
    /// The map of `output` (a column of the logits) from the last feature map of one image,
    /// `[1, h, w, C]` as [`crate::cpu::CpuExecutor::feature_maps`] gives it, and the network's weights.
    ///
    /// # Errors
    /// When the feature map is of another shape, or the classifier lacks `output`.
    pub fn new(feature_map: &Tensor, weights: &Weights, output: usize) -> Result<Self> {
        let missing = |name: &str| Error::Weights { tensor: name.to_owned(), problem: "missing".into() };
        let of = |name: &str| weights.get(name).ok_or_else(|| missing(name));
        let (weight, biases) = (of("classifier.weight")?, of("classifier.bias")?);
        let (Some(row), Some(&bias)) = (weight.rows().nth(output), biases.data().get(output)) else {
            return Err(Error::Input {
                what: "output of the classifier".into(),
                expected: format!("below {}", biases.data().len()),
                found: output.to_string(),
            });
        };
        let [1, height, width, channels] = *feature_map.shape() else {
            return Err(not_one_map(row.len(), feature_map));
        };
        if channels != row.len() || channels == 0 {
            return Err(not_one_map(row.len(), feature_map));
        }
        let dot = |pixel: &[f32]| {
            let products = pixel.iter().zip(row).map(|(&x, &w)| f64::from(x) * f64::from(w));
            products.sum::<f64>() as f32
        };
        let values = feature_map.data().chunks_exact(channels).map(dot).collect();
        Ok(Self { height, width, values, bias })
    }

    /// The mean of the map plus the bias.
    pub fn logit(&self) -> f32 {
        let sum: f64 = self.values.iter().map(|&value| f64::from(value)).sum();
        (sum / self.values.len().max(1) as f64 + f64::from(self.bias)) as f32
    }

    /// The values in rows.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// The map at a place between its values, by cubic (Catmull–Rom) interpolation: `x` and `y` go
    /// from 0 at the left and upper edge of the map to 1 at the right and lower one, and a value is in
    /// the middle of its cell. Beyond the outermost values theirs go on.
    ///
    /// The cubic goes through the values and may leave their range between them.
    pub fn sample(&self, x: f64, y: f64) -> f64 {
        if self.values.is_empty() {
            return 0.0;
        }
        let (columns, rows) = (taps(x, self.width), taps(y, self.height));
        let row = |y: usize| {
            let row = &self.values[y * self.width..][..self.width];
            columns.iter().map(|&(x, weight)| weight * f64::from(row[x])).sum::<f64>()
        };
        rows.iter().map(|&(y, weight)| weight * row(y)).sum()
    }
}

fn not_one_map(channels: usize, found: &Tensor) -> Error {
    Error::Input {
        what: "last feature map of an image".into(),
        expected: format!("[1, h, w, {channels}]"),
        found: format!("{:?}", found.shape()),
    }
}

/// The four values around a place from 0 to 1 among `len` ≥ 1, and the share of each.
fn taps(place: f64, len: usize) -> [(usize, f64); 4] {
    let last = (len - 1) as f64;
    let at = (place * len as f64 - 0.5).clamp(0.0, last);
    let (first, t) = (at.floor(), at - at.floor());
    let shares = [
        -0.5 * t + t * t - 0.5 * t * t * t,
        1.0 - 2.5 * t * t + 1.5 * t * t * t,
        0.5 * t + 2.0 * t * t - 1.5 * t * t * t,
        -0.5 * t * t + 0.5 * t * t * t,
    ];
    std::array::from_fn(|i| ((first + i as f64 - 1.0).clamp(0.0, last) as usize, shares[i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::{CpuExecutor, CpuOptions};
    use crate::rng::Rng;
    use crate::{Architecture, Body, Executor};

    fn close(a: f32, b: f32) {
        assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{a} and {b}");
    }

    #[test]
    fn the_mean_of_the_map_and_the_bias_are_the_logit() {
        for (body, resolution, threads) in
            [(Body::Separable, 96, 1), (Body::Separable, 96, 2), (Body::Full, 40, 2), (Body::Shallow, 65, 3)]
        {
            let architecture = Architecture {
                body,
                width_multiplier: 0.125,
                resolution,
                classes: 5,
                ..Architecture::default()
            };
            let mut weights = Weights::random(&architecture, 3).unwrap();
            let biases = (0..5).map(|class| 0.3 * class as f32 - 0.5).collect();
            weights.insert("classifier.bias", Tensor::new(&[5], biases).unwrap());
            let mut rng = Rng::keyed(1, &[]);
            let shape = [3, resolution, resolution, 3];
            let data = (0..shape.iter().product()).map(|_| rng.normal() as f32).collect();
            let images = Tensor::new(&shape, data).unwrap();
            let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
            let mut executor = CpuExecutor::new(&architecture, &weights, &options).unwrap();
            let logits = executor.infer(&images).unwrap();
            let features = executor.features(&images).unwrap();
            let maps = executor.feature_maps(&images).unwrap();
            let side = resolution.div_ceil(32);
            assert_eq!(maps.shape(), [3, side, side, 128]);
            assert_eq!(executor.infer(&images).unwrap(), logits);
            for ((map, logits), features) in maps.rows().zip(logits.rows()).zip(features.rows()) {
                // The pool of the maps is what the classifier reads.
                for (channel, &feature) in features.iter().enumerate() {
                    let sum: f32 = map.iter().skip(channel).step_by(128).sum();
                    close(sum / (side * side) as f32, feature);
                }
                let map = Tensor::new(&[1, side, side, 128], map.to_vec()).unwrap();
                for (output, &logit) in logits.iter().enumerate() {
                    let found = ActivationMap::new(&map, &weights, output).unwrap();
                    assert_eq!((found.height, found.width, found.rows().len()), (side, side, side));
                    close(found.logit(), logit);
                }
            }
            assert!(executor.feature_maps(&features).is_err());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let architecture = Architecture { width_multiplier: 0.125, classes: 5, ..Architecture::default() };
        let weights = Weights::random(&architecture, 3).unwrap();
        let map = |shape: &[usize]| Tensor::zeros(shape);
        let error = ActivationMap::new(&map(&[1, 7, 7, 128]), &weights, 5).unwrap_err().to_string();
        assert_eq!(error, "output of the classifier: expected below 5, found 5");
        for shape in [&[1, 7, 7, 64][..], &[2, 7, 7, 128], &[7, 7, 128]] {
            let error = ActivationMap::new(&map(shape), &weights, 0).unwrap_err().to_string();
            assert!(error.contains("expected [1, h, w, 128]"), "{error}");
        }
    }

    #[test]
    fn sampling_goes_through_the_values_and_along_a_ramp() {
        let values = (0..12).map(|i| i as f32).collect();
        let map = ActivationMap { height: 3, width: 4, values, bias: 0.0 };
        for y in 0..3 {
            for x in 0..4 {
                let found = map.sample((x as f64 + 0.5) / 4.0, (y as f64 + 0.5) / 3.0);
                assert!((found - (4 * y + x) as f64).abs() < 1e-12);
            }
        }
        // Between the inner values a cubic follows a straight line exactly.
        assert!((map.sample(0.5, 0.5) - 5.5).abs() < 1e-12);
        assert!((map.sample(0.55, 0.5) - 5.7).abs() < 1e-12);
        assert_eq!((map.sample(0.0, 0.0), map.sample(1.0, 1.0), map.sample(-9.0, 9.0)), (0.0, 11.0, 8.0));
    }
}
