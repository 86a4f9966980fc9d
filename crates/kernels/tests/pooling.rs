//! Global average pooling against the f64 oracle.

mod support;

use mobilenet_kernels::Isa;
use mobilenet_kernels::pooling::{global_average, global_average_backward};
use mobilenet_reference::{dense, magnitudes, widen};
use support::{CHANNELS, Random, assert_within};

#[test]
fn means_and_their_gradients() {
    for (isa, channels) in
        Isa::testable().into_iter().flat_map(|isa| CHANNELS.map(|channels| (isa, channels)))
    {
        for pixels in [1, 2, 3, 49, 1000] {
            let mut random = Random(pixels as u64);
            let image = random.values(pixels * channels);
            // What the sums held before does not matter.
            let (mut sums, mut mean) = (vec![f64::NAN; channels], vec![f32::NAN; channels]);
            global_average(isa, &image, &mut sums, &mut mean);
            let exact = dense::global_average_pool(&widen(&image), 1, channels);
            // Summed in f32 for a few pixels, in f64 beyond.
            let magnitude = dense::global_average_pool(&magnitudes(&widen(&image)), 1, channels);
            assert_within("mean", &mean, &exact, &magnitude, pixels.min(64));

            let d_mean = random.values(channels);
            let mut d_image = vec![f32::NAN; image.len()];
            global_average_backward(&d_mean, &mut d_image);
            let exact = dense::global_average_pool_backward(&widen(&d_mean), pixels, channels);
            assert_within("gradient", &d_image, &exact, &magnitudes(&exact), 2);
        }
    }
}
