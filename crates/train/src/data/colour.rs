//! Colour jitter: brightness, contrast and saturation (torchvision's `ColorJitter`).

use mobilenet::rng::Rng;
use serde::{Deserialize, Serialize};

use super::{DataError, Result};

/// How far colours change: each factor is drawn from `1 − x` to `1 + x`, and the changes are made
/// in random order. 0: not at all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColourJitter {
    /// Multiplies every value.
    pub brightness: f64,
    /// Moves every value away from, or to, the image's mean grey.
    pub contrast: f64,
    /// Moves every value away from, or to, the pixel's own grey. Nothing on grey images.
    pub saturation: f64,
}

impl ColourJitter {
    /// Whether nothing changes.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// An error that names the first value outside 0 to 1.
    pub fn validate(&self) -> Result<()> {
        for (what, value) in [
            ("colour.brightness", self.brightness),
            ("colour.contrast", self.contrast),
            ("colour.saturation", self.saturation),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(DataError::Option { what, found: value.to_string(), expected: "0 to 1" });
            }
        }
        Ok(())
    }
}

/// Rec. 601 weights.
const GREY: [f32; 3] = [0.299, 0.587, 0.114];

/// Changes the colours of `pixels` by chance and writes them, normalised, to `out`.
///
/// `tables` are those of the normalisation; it is linear, so its two ends give it whole.
pub(super) fn jitter(
    limits: &ColourJitter,
    pixels: &[u8],
    channels: usize,
    tables: &[[f32; 256]],
    rng: &mut Rng,
    out: &mut [f32],
) {
    let mut factor = |limit: f64| rng.range(1.0 - limit, 1.0 + limit) as f32;
    let factors = [factor(limits.brightness), factor(limits.contrast), factor(limits.saturation)];
    let mut order = [0, 1, 2];
    rng.shuffle(&mut order);
    for (value, &x) in out.iter_mut().zip(pixels) {
        *value = f32::from(x) / 255.0;
    }
    for change in order {
        let factor = factors[change];
        match change {
            _ if factor == 1.0 => {}
            0 => out.iter_mut().for_each(|v| *v = (*v * factor).min(1.0)),
            1 => {
                let sum: f64 = out.chunks_exact(channels).map(|p| f64::from(grey(p))).sum();
                let mean = (sum / (out.len() / channels) as f64) as f32;
                out.iter_mut().for_each(|v| *v = (mean + factor * (*v - mean)).clamp(0.0, 1.0));
            }
            _ if channels == 1 => {}
            _ => {
                for pixel in out.chunks_exact_mut(channels) {
                    let own = grey(pixel);
                    pixel.iter_mut().for_each(|v| *v = (own + factor * (*v - own)).clamp(0.0, 1.0));
                }
            }
        }
    }
    for pixel in out.chunks_exact_mut(channels) {
        for (value, table) in pixel.iter_mut().zip(tables) {
            *value = table[0] + *value * (table[255] - table[0]);
        }
    }
}

fn grey(pixel: &[f32]) -> f32 {
    match pixel {
        [r, g, b] => GREY[0] * r + GREY[1] * g + GREY[2] * b,
        [v, ..] => *v,
        [] => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jittered(limits: &ColourJitter, pixels: &[u8], seed: u64) -> Vec<f32> {
        let table: [f32; 256] = std::array::from_fn(|x| x as f32);
        let mut out = vec![0.0; pixels.len()];
        jitter(limits, pixels, 3, &[table; 3], &mut Rng::keyed(seed, &[]), &mut out);
        out
    }

    #[test]
    fn each_change_does_what_it_says() {
        let pixels = [200, 40, 90, 10, 100, 60];
        for seed in 0..20 {
            let out = jittered(&ColourJitter { brightness: 0.2, ..Default::default() }, &pixels, seed);
            let factor = out[0] / 200.0;
            assert!((0.8..=1.2).contains(&factor));
            assert!(out.iter().zip(pixels).all(|(o, p)| (o - factor * f32::from(p)).abs() < 1e-3));

            let out = jittered(&ColourJitter { saturation: 0.5, ..Default::default() }, &pixels, seed);
            let own = |p: &[f32]| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
            let before = pixels.map(f32::from);
            assert!((own(&out[..3]) - own(&before[..3])).abs() < 0.1, "saturation keeps the grey");

            let out = jittered(&ColourJitter { contrast: 0.3, ..Default::default() }, &pixels, seed);
            let spread = |v: &[f32]| v[0] - v[1];
            let factor = spread(&out) / spread(&before);
            assert!((0.69..=1.31).contains(&factor), "{factor}");
        }
    }

    #[test]
    fn values_stay_in_range() {
        let all = ColourJitter { brightness: 1.0, contrast: 1.0, saturation: 1.0 };
        for seed in 0..100 {
            let out = jittered(&all, &[255, 0, 128, 3, 250, 9], seed);
            assert!(out.iter().all(|v| (-1e-3..=255.001).contains(v)));
        }
    }
}
