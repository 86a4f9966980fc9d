//! Random changes of training images.
//!
//! Each sample draws from its own generator, so what happens to it depends on nothing else.

use mobilenet::conventions::{Interpolation, Preprocessing};
use mobilenet::image::Image;
use mobilenet::preprocess::{Region, normalise, resize_region};
use mobilenet::rng::Rng;
use serde::{Deserialize, Serialize};

use super::colour::{ColourJitter, jitter};
use super::{DataError, Result};

/// What is changed at random in a training image; by default nothing.
///
/// The order is: crop, flip, colour, normalise, erase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Crop a random part and resize it to the resolution (for photos).
    pub random_resized_crop: Option<RandomResizedCrop>,
    /// Pad by so many pixels on each side and crop back at random (for small images).
    pub pad_crop: Option<usize>,
    /// What the pad holds.
    pub pad_mode: PadMode,
    /// Whether half of the images are mirrored left to right.
    pub flip: bool,
    /// Changes of brightness, contrast and saturation.
    pub colour: ColourJitter,
    /// The probability with which a random rectangle is erased (Zhong et al. 2017).
    pub erase: f64,
}

/// A crop of random area and aspect ratio (Szegedy et al. 2015; torchvision's
/// `RandomResizedCrop`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RandomResizedCrop {
    /// Smallest and largest share of the image's area.
    pub scale: [f64; 2],
    /// Smallest and largest width / height.
    pub ratio: [f64; 2],
}

impl Default for RandomResizedCrop {
    fn default() -> Self {
        Self { scale: [0.08, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

/// What a padded border holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PadMode {
    /// Black.
    #[default]
    Zero,
    /// The image mirrored at its edge pixel, which is not repeated.
    Reflect,
}

/// Smallest and largest share of the area, and width / height, of what is erased.
const ERASE_SCALE: [f64; 2] = [0.02, 0.33];
const ERASE_RATIO: [f64; 2] = [0.3, 3.3];

impl Augmentation {
    /// Whether nothing is changed.
    pub fn is_none(&self) -> bool {
        *self == Self { pad_mode: self.pad_mode, ..Self::default() }
    }

    /// An error that names the first value outside its range.
    pub fn validate(&self) -> Result<()> {
        let wrong = |what, found: String, expected| Err(DataError::Option { what, found, expected });
        if let Some(crop) = &self.random_resized_crop {
            if self.pad_crop.is_some_and(|pad| pad > 0) {
                return wrong(
                    "augmentation",
                    "both random_resized_crop and pad_crop".into(),
                    "at most one of them",
                );
            }
            let [low, high] = crop.scale;
            if !(low > 0.0 && low <= high && high <= 1.0) {
                return wrong(
                    "random_resized_crop.scale",
                    format!("{:?}", crop.scale),
                    "two shares of the area, 0 < smallest ≤ largest ≤ 1",
                );
            }
            let [low, high] = crop.ratio;
            if !(low > 0.0 && low <= high && high.is_finite()) {
                return wrong(
                    "random_resized_crop.ratio",
                    format!("{:?}", crop.ratio),
                    "two ratios width / height, 0 < smallest ≤ largest",
                );
            }
        }
        if self.pad_crop.is_some_and(|pad| pad > 1024) {
            return wrong("pad_crop", format!("{:?}", self.pad_crop), "at most 1024 pixels");
        }
        if !(0.0..=1.0).contains(&self.erase) {
            return wrong("erase", self.erase.to_string(), "a probability from 0 to 1");
        }
        self.colour.validate()
    }
}

impl RandomResizedCrop {
    /// A random region of an image of `width`×`height`: ten tries at an area and a ratio that fit,
    /// else the largest central region within the ratios.
    pub fn region(&self, width: usize, height: usize, rng: &mut Rng) -> Region {
        let area = width as f64 * height as f64;
        let [lowest, highest] = self.ratio.map(f64::ln);
        for _ in 0..10 {
            let target = area * rng.range(self.scale[0], self.scale[1]);
            let ratio = rng.range(lowest, highest).exp();
            let w = (target * ratio).sqrt().round_ties_even() as usize;
            let h = (target / ratio).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let top = rng.below(height - h + 1);
                let left = rng.below(width - w + 1);
                return Region { left: left as f64, top: top as f64, width: w as f64, height: h as f64 };
            }
        }
        let whole = width as f64 / height as f64;
        let (w, h) = if whole < self.ratio[0] {
            (width, ((width as f64 / self.ratio[0]).round_ties_even() as usize).clamp(1, height))
        } else if whole > self.ratio[1] {
            (((height as f64 * self.ratio[1]).round_ties_even() as usize).clamp(1, width), height)
        } else {
            (width, height)
        };
        Region {
            left: ((width - w) / 2) as f64,
            top: ((height - h) / 2) as f64,
            width: w as f64,
            height: h as f64,
        }
    }
}

/// Applies an [`Augmentation`] and normalises; holds the scratch memory of one thread.
pub(super) struct Augmenter<'a> {
    augmentation: &'a Augmentation,
    interpolation: Interpolation,
    resolution: usize,
    channels: usize,
    tables: Vec<[f32; 256]>,
    square: Vec<u8>,
    shifted: Vec<u8>,
}

impl<'a> Augmenter<'a> {
    pub(super) fn new(
        augmentation: &'a Augmentation,
        preprocessing: &Preprocessing,
        resolution: usize,
        channels: usize,
    ) -> Self {
        Self {
            augmentation,
            interpolation: preprocessing.interpolation,
            resolution,
            channels,
            tables: preprocessing.tables(),
            square: Vec::new(),
            shifted: Vec::new(),
        }
    }

    /// Changes `image` by chance and writes it, normalised, to `out`
    /// (`[resolution, resolution, channels]`). Unless a random crop resizes it, `image` must
    /// already be `resolution`×`resolution`.
    pub(super) fn apply(&mut self, image: &Image, rng: &mut Rng, out: &mut [f32]) -> Result<()> {
        let side = self.resolution;
        let len = side * side * self.channels;
        let augmentation = self.augmentation;
        let mut pixels: &[u8] = if let Some(crop) = &augmentation.random_resized_crop {
            let region = crop.region(image.width(), image.height(), rng);
            self.square.resize(len, 0);
            resize_region(image, region, (side, side), self.interpolation, &mut self.square)?;
            &self.square
        } else {
            image.data()
        };
        if pixels.len() != len {
            return Err(DataError::Image(mobilenet::Error::Input {
                what: "prepared image".into(),
                expected: format!("{len} bytes"),
                found: pixels.len().to_string(),
            }));
        }
        if let Some(pad) = augmentation.pad_crop.filter(|&pad| pad > 0) {
            let mut shift = || rng.below(2 * pad + 1) as isize - pad as isize;
            let (down, right) = (shift(), shift());
            self.shifted.resize(len, 0);
            pad_crop(pixels, side, self.channels, (down, right), augmentation.pad_mode, &mut self.shifted);
            pixels = &self.shifted;
        }
        let flip = augmentation.flip && rng.next_u64() >> 63 == 1;
        normalise(pixels, &self.tables, out);
        if !augmentation.colour.is_none() {
            jitter(&augmentation.colour, pixels, self.channels, &self.tables, rng, out);
        }
        if flip {
            flip_rows(out, side, self.channels);
        }
        if augmentation.erase > 0.0 && rng.uniform() < augmentation.erase {
            erase(out, side, self.channels, rng);
        }
        Ok(())
    }
}

/// The window of `side`×`side` pixels that begins `down` rows below and `right` columns right of
/// the image's corner; what lies outside the image is padding.
fn pad_crop(
    pixels: &[u8],
    side: usize,
    channels: usize,
    (down, right): (isize, isize),
    mode: PadMode,
    out: &mut [u8],
) {
    let row_len = side * channels;
    for (y, target) in out.chunks_exact_mut(row_len).enumerate() {
        let y = y as isize + down;
        let inside = (0..side as isize).contains(&y);
        match mode {
            PadMode::Zero if !inside => target.fill(0),
            PadMode::Zero => {
                let row = &pixels[y as usize * row_len..][..row_len];
                let by = (right.unsigned_abs().min(side)) * channels;
                if right >= 0 {
                    target[..row_len - by].copy_from_slice(&row[by..]);
                    target[row_len - by..].fill(0);
                } else {
                    target[..by].fill(0);
                    target[by..].copy_from_slice(&row[..row_len - by]);
                }
            }
            PadMode::Reflect => {
                let row = &pixels[mirror(y, side) * row_len..][..row_len];
                for (x, pixel) in target.chunks_exact_mut(channels).enumerate() {
                    let from = mirror(x as isize + right, side) * channels;
                    pixel.copy_from_slice(&row[from..from + channels]);
                }
            }
        }
    }
}

/// Position `at` brought into `0..side` by mirroring at the edge pixels.
fn mirror(at: isize, side: usize) -> usize {
    let period = (2 * side as isize - 2).max(1);
    let at = at.rem_euclid(period);
    (if at < side as isize { at } else { period - at }) as usize
}

fn flip_rows(values: &mut [f32], side: usize, channels: usize) {
    for row in values.chunks_exact_mut(side * channels) {
        if channels == 1 {
            row.reverse();
            continue;
        }
        for x in 0..side / 2 {
            for c in 0..channels {
                row.swap(x * channels + c, (side - 1 - x) * channels + c);
            }
        }
    }
}

/// Sets a random rectangle to 0, the mean after normalisation (torchvision's `RandomErasing`).
fn erase(values: &mut [f32], side: usize, channels: usize, rng: &mut Rng) {
    let area = (side * side) as f64;
    for _ in 0..10 {
        let target = area * rng.range(ERASE_SCALE[0], ERASE_SCALE[1]);
        let ratio = rng.range(ERASE_RATIO[0].ln(), ERASE_RATIO[1].ln()).exp();
        let h = (target * ratio).sqrt().round_ties_even() as usize;
        let w = (target / ratio).sqrt().round_ties_even() as usize;
        if h < side && w < side {
            let top = rng.below(side - h + 1);
            let left = rng.below(side - w + 1);
            for row in values.chunks_exact_mut(side * channels).skip(top).take(h) {
                row[left * channels..(left + w) * channels].fill(0.0);
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(augmentation: &Augmentation, image: &Image, seed: u64) -> Vec<f32> {
        let preprocessing = Preprocessing {
            mean: vec![0.0; image.channels()],
            std: vec![1.0 / 255.0; image.channels()],
            ..mobilenet::Preset::Reference.conventions().preprocessing
        };
        let side = image.width();
        let mut out = vec![f32::NAN; image.data().len()];
        Augmenter::new(augmentation, &preprocessing, side, image.channels())
            .apply(image, &mut Rng::keyed(seed, &[0]), &mut out)
            .unwrap();
        out
    }

    fn counting(side: usize, channels: usize) -> Image {
        let data = (0..side * side * channels).map(|i| (i % 255 + 1) as u8).collect();
        Image::new(side, side, channels, data).unwrap()
    }

    #[test]
    fn without_augmentation_nothing_changes() {
        let image = counting(6, 3);
        let out = apply(&Augmentation::default(), &image, 1);
        assert!(out.iter().zip(image.data()).all(|(a, &b)| (a - f32::from(b)).abs() < 1e-3));
    }

    #[test]
    fn padded_crops_are_shifts_of_the_image() {
        let image = counting(5, 1);
        for mode in [PadMode::Zero, PadMode::Reflect] {
            let mut seen = std::collections::HashSet::new();
            for seed in 0..200 {
                let augmentation =
                    Augmentation { pad_crop: Some(2), pad_mode: mode, ..Augmentation::default() };
                let out = apply(&augmentation, &image, seed);
                let value = |y: isize, x: isize| match mode {
                    PadMode::Zero if !(0..5).contains(&y) || !(0..5).contains(&x) => 0,
                    PadMode::Zero => image.data()[(y * 5 + x) as usize],
                    PadMode::Reflect => {
                        let at = |v: isize| {
                            if v < 0 {
                                -v
                            } else if v > 4 {
                                8 - v
                            } else {
                                v
                            }
                        };
                        image.data()[(at(y) * 5 + at(x)) as usize]
                    }
                };
                let fits = |down: isize, right: isize| {
                    (0..25).all(|i| {
                        let expected = f32::from(value(i / 5 + down, i % 5 + right));
                        (out[i as usize] - expected).abs() < 1e-3
                    })
                };
                let shift = (-2..=2).flat_map(|d| (-2..=2).map(move |r| (d, r))).find(|&(d, r)| fits(d, r));
                seen.insert(shift.expect("a shift of at most two pixels"));
            }
            assert_eq!(seen.len(), 25, "every shift occurs");
        }
    }

    #[test]
    fn half_of_the_images_are_mirrored() {
        let image = counting(4, 3);
        let augmentation = Augmentation { flip: true, ..Augmentation::default() };
        let mut mirrored = 0;
        for seed in 0..400 {
            let out = apply(&augmentation, &image, seed);
            let plain = out[..3].iter().zip(image.data()).all(|(a, &b)| (a - f32::from(b)).abs() < 1e-3);
            let flipped =
                out[..3].iter().zip(&image.data()[9..]).all(|(a, &b)| (a - f32::from(b)).abs() < 1e-3);
            assert!(plain != flipped);
            mirrored += usize::from(flipped);
        }
        assert!((150..250).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn random_crops_keep_to_scale_and_ratio() {
        let crop = RandomResizedCrop::default();
        let mut areas = Vec::new();
        for seed in 0..2000 {
            let region = crop.region(300, 200, &mut Rng::keyed(seed, &[]));
            assert!(region.left + region.width <= 300.0 && region.top + region.height <= 200.0);
            let ratio = region.width / region.height;
            assert!((0.72..1.40).contains(&ratio), "{ratio}");
            areas.push(region.width * region.height / 60_000.0);
        }
        assert!(areas.iter().all(|a| (0.075..=1.0).contains(a)));
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        // Uniform from 0.08 to about the 200·200·ratio that fit, 0.69 of the area in the mean.
        assert!((0.35..0.43).contains(&mean), "{mean}");
        // Nothing fits a strip: the central part within the ratios.
        let strip = crop.region(3, 5000, &mut Rng::keyed(0, &[]));
        assert_eq!(strip, Region { left: 0.0, top: 2498.0, width: 3.0, height: 4.0 });
        assert_eq!(crop.region(1, 1, &mut Rng::keyed(0, &[])).width, 1.0);
    }

    #[test]
    fn erasing_sets_one_rectangle_to_the_mean() {
        let image = Image::new(20, 20, 1, vec![255; 400]).unwrap();
        let augmentation = Augmentation { erase: 1.0, ..Augmentation::default() };
        for seed in 0..50 {
            let out = apply(&augmentation, &image, seed);
            let erased = out.iter().filter(|&&v| v == 0.0).count();
            assert!((4..=160).contains(&erased), "{erased}");
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        let check = |augmentation: Augmentation| augmentation.validate().unwrap_err().to_string();
        assert_eq!(
            check(Augmentation { erase: 1.5, ..Default::default() }),
            "erase: found 1.5, expected a probability from 0 to 1"
        );
        let crop = RandomResizedCrop { scale: [0.9, 0.5], ..Default::default() };
        assert!(
            check(Augmentation { random_resized_crop: Some(crop), ..Default::default() })
                .contains("random_resized_crop.scale: found [0.9, 0.5]")
        );
        let colour = ColourJitter { contrast: -1.0, ..Default::default() };
        assert!(check(Augmentation { colour, ..Default::default() }).contains("colour.contrast"));
    }
}
