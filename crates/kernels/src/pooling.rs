//! Global average pooling.

use crate::element::Element;

/// Mean over the pixels of one image `[pixels][channels]`, summed in f64.
///
/// # Panics
/// If `image` is not whole pixels of `mean.len()` channels.
pub fn global_average(image: &[impl Element], sums: &mut [f64], mean: &mut [f32]) {
    let channels = mean.len();
    assert!(channels > 0 && image.len().is_multiple_of(channels) && sums.len() == channels);
    let pixels = image.len() / channels;
    sums.fill(0.0);
    for pixel in image.chunks_exact(channels) {
        for (sum, &value) in sums.iter_mut().zip(pixel) {
            *sum += f64::from(value.to_f32());
        }
    }
    for (mean, sum) in mean.iter_mut().zip(sums) {
        *mean = (*sum / pixels as f64) as f32;
    }
}

/// The gradient of every pixel from that of the mean.
///
/// # Panics
/// If `d_image` is not whole pixels of `d_mean.len()` channels.
pub fn global_average_backward<E: Element>(d_mean: &[f32], d_image: &mut [E]) {
    let channels = d_mean.len();
    assert!(channels > 0 && d_image.len().is_multiple_of(channels));
    let share = 1.0 / (d_image.len() / channels) as f32;
    for pixel in d_image.chunks_exact_mut(channels) {
        for (d, &mean) in pixel.iter_mut().zip(d_mean) {
            *d = E::from_f32(mean * share);
        }
    }
}
