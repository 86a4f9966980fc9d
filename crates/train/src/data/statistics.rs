//! What a data set looks like: for choosing a resolution, channels and a normalisation.

use rayon::prelude::*;

use super::{DataError, Dataset, Result};

/// Mean and deviation of each channel, of values scaled to `[0, 1]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// The mean of each channel.
    pub mean: Vec<f32>,
    /// The standard deviation of each channel, at least 1e-3.
    pub std: Vec<f32>,
}

/// The median width and the median height of the images; `(0, 0)` for none.
pub fn typical_size(dataset: &dyn Dataset) -> (usize, usize) {
    let median = |mut values: Vec<usize>| {
        let middle = values.len() / 2;
        if values.is_empty() { 0 } else { *values.select_nth_unstable(middle).1 }
    };
    let sizes: Vec<_> = (0..dataset.len()).map(|index| dataset.size(index)).collect();
    (median(sizes.iter().map(|s| s.0).collect()), median(sizes.iter().map(|s| s.1).collect()))
}

/// The number of images of each class.
pub fn class_counts(dataset: &dyn Dataset) -> Vec<usize> {
    let mut counts = vec![0; dataset.classes().len()];
    for index in 0..dataset.len() {
        counts[dataset.label(index)] += 1;
    }
    counts
}

/// Mean and deviation over at most `sample` images, spread evenly; every image weighs the same,
/// and one that cannot be decoded is passed over. The same on every machine.
pub fn statistics(dataset: &dyn Dataset, channels: usize, sample: usize) -> Result<Statistics> {
    let count = sample.min(dataset.len()).max(1);
    let sums: Vec<Vec<[f64; 2]>> = (0..count)
        .into_par_iter()
        .map(|i| dataset.image(i * dataset.len() / count, channels))
        .filter_map(|image| match image {
            Err(DataError::Image(mobilenet::Error::Image { .. })) => None,
            other => Some(other),
        })
        .map(|image| {
            let image = image?;
            let mut histograms = vec![[0u64; 256]; channels];
            for pixel in image.data().chunks_exact(channels) {
                for (histogram, &value) in histograms.iter_mut().zip(pixel) {
                    histogram[usize::from(value)] += 1;
                }
            }
            let pixels = (image.width() * image.height()) as f64;
            let moments = |histogram: [u64; 256]| {
                let (mut first, mut second) = (0.0, 0.0);
                for (value, count) in histogram.into_iter().enumerate() {
                    let (value, weight) = (value as f64 / 255.0, count as f64 / pixels);
                    first += value * weight;
                    second += value * value * weight;
                }
                [first, second]
            };
            Ok(histograms.into_iter().map(moments).collect())
        })
        .collect::<Result<_>>()?;
    if sums.is_empty() {
        return Err(DataError::Option {
            what: "images for mean and deviation",
            found: "none that can be decoded".into(),
            expected: "at least one",
        });
    }
    let (mut mean, mut std) = (Vec::new(), Vec::new());
    for channel in 0..channels {
        let average =
            |moment: usize| sums.iter().map(|image| image[channel][moment]).sum::<f64>() / sums.len() as f64;
        let (first, second) = (average(0), average(1));
        mean.push(first as f32);
        std.push((second - first * first).max(0.0).sqrt().max(1e-3) as f32);
    }
    Ok(Statistics { mean, std })
}
