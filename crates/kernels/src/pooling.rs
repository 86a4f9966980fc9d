//! Global average pooling.

use crate::element::Element;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, dispatch, for_channel_blocks, load, store};

/// Pixels that are summed in f32 before their sum is added in f64.
const TOGETHER: usize = 64;

/// Mean over the pixels of one image `[pixels][channels]`, summed in f64 (a few pixels in f32). `sums` is
/// memory for as many values as there are channels. (The mean of no pixels is NaN.)
///
/// # Panics
/// If `image` is not whole pixels of `mean.len()` channels, or `sums` has not one value a channel.
pub fn global_average(isa: Isa, image: &[impl Element], sums: &mut [f64], mean: &mut [f32]) {
    let channels = mean.len();
    assert!(channels > 0 && image.len().is_multiple_of(channels) && sums.len() == channels);
    let pixels = image.len() / channels;
    sums.fill(0.0);
    for pixels in image.chunks(TOGETHER * channels) {
        // SAFETY: whole pixels, and a sum for each channel.
        unsafe { dispatch(isa, Sum { pixels, sums: &mut *mean }) }
        for (sum, part) in sums.iter_mut().zip(&*mean) {
            *sum += f64::from(*part);
        }
    }
    for (mean, sum) in mean.iter_mut().zip(sums) {
        *mean = (*sum / pixels as f64) as f32;
    }
}

/// Writes the sum over pixels of as many channels as there are sums.
struct Sum<'a, E> {
    pixels: &'a [E],
    sums: &'a mut [f32],
}

impl<E: Element> Kernel for Sum<'_, E> {
    type Output = ();
    const BF16: bool = E::BF16;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { pixels, sums } = self;
        let channels = sums.len();
        // SAFETY: the caller's promise.
        unsafe {
            for_channel_blocks!(S, channels, |c, n, PARTIAL| {
                let mut sum = s.splat(0.0);
                for pixel in 0..pixels.len() / channels {
                    sum = s.add(sum, load::<S, PARTIAL>(s, pixels.as_ptr().add(pixel * channels + c), n));
                }
                store::<S, PARTIAL>(s, sums.as_mut_ptr().add(c), sum, n);
            });
        }
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
