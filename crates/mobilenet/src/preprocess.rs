//! From a decoded image to the network's input: resize, crop, normalise.
//!
//! Resizing is a convolution on 8-bit values with a filter that widens as the image shrinks
//! (antialiasing), as Pillow does it and so as torchvision and timm do on Pillow images.

use std::cell::RefCell;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use crate::conventions::{Interpolation, Preprocessing, ResizeMode};
use crate::error::{Error, Result};
use crate::image::Image;

/// Above this many bytes the resizer of a thread gives its scratch memory back after use.
const KEPT_SCRATCH: usize = 32 << 20;

thread_local! {
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// A rectangle of an image, in pixels; edges may lie between pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Region {
    /// Pixels left of it.
    pub left: f64,
    /// Pixels above it.
    pub top: f64,
    /// Its width, above 0.
    pub width: f64,
    /// Its height, above 0.
    pub height: f64,
}

impl Region {
    /// The whole of `image`.
    pub fn whole(image: &Image) -> Self {
        Self { left: 0.0, top: 0.0, width: image.width() as f64, height: image.height() as f64 }
    }
}

/// Resizes `region` of `image` to `width`×`height` into `out` (`[height, width, channels]`).
///
/// Where the filter reaches over the region's edge it sees the image's own pixels, not a border,
/// so the result is that of resizing the whole image and cropping then.
pub fn resize_region(
    image: &Image,
    region: Region,
    (width, height): (usize, usize),
    interpolation: Interpolation,
    out: &mut [u8],
) -> Result<()> {
    let failed = |problem: String| Error::Input {
        what: format!("resizing {}×{} pixels to {width}×{height}", image.width(), image.height()),
        expected: "a region inside the image and a target of at least one pixel".into(),
        found: problem,
    };
    let bytes = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(image.channels()));
    if bytes != Some(out.len()) || out.is_empty() {
        return Err(failed(format!("{} bytes for the result", out.len())));
    }
    let whole = Region::whole(image);
    // Rounding may have put an edge outside by a hair.
    let left = region.left.clamp(0.0, whole.width);
    let top = region.top.clamp(0.0, whole.height);
    let region = Region {
        left,
        top,
        width: region.width.min(whole.width - left),
        height: region.height.min(whole.height - top),
    };
    if !(region.width > 0.0 && region.height > 0.0) {
        return Err(failed(format!("{region:?}")));
    }
    if region == whole && (width, height) == (image.width(), image.height()) {
        out.copy_from_slice(image.data());
        return Ok(());
    }
    let filter = match interpolation {
        Interpolation::Bilinear => FilterType::Bilinear,
        Interpolation::Bicubic => FilterType::CatmullRom,
    };
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(filter))
        .crop(region.left, region.top, region.width, region.height)
        .use_alpha(false);
    // Typed calls: the untyped one would compile the resizer for every pixel type there is.
    let result = if image.channels() == 3 {
        resize::<U8x3>(image, width, height, &options, out)
    } else {
        resize::<U8>(image, width, height, &options, out)
    };
    result.map_err(failed)
}

fn resize<P: PixelTrait>(
    image: &Image,
    width: usize,
    height: usize,
    options: &ResizeOptions,
    out: &mut [u8],
) -> Result<(), String> {
    let size = |extent: usize| u32::try_from(extent).map_err(|_| format!("{extent} pixels a side"));
    let source = TypedImageRef::<P>::from_buffer(size(image.width())?, size(image.height())?, image.data())
        .map_err(|e| e.to_string())?;
    let mut target =
        TypedImage::<P>::from_buffer(size(width)?, size(height)?, out).map_err(|e| e.to_string())?;
    RESIZER.with_borrow_mut(|resizer| {
        let result = resizer.resize_typed(&source, &mut target, options);
        if resizer.size_of_internal_buffers() > KEPT_SCRATCH {
            resizer.reset_internal_buffers();
        }
        result.map_err(|e| e.to_string())
    })
}

/// `image`, made smaller so that its short edge has at most `short_edge` pixels; `None` if it has
/// no more already.
pub fn shrink(image: &Image, short_edge: usize, interpolation: Interpolation) -> Result<Option<Image>> {
    let (width, height) = (image.width(), image.height());
    if short_edge == 0 || width.min(height) <= short_edge {
        return Ok(None);
    }
    let (width, height) = scaled_to_short_edge(width, height, short_edge);
    let mut data = vec![0; width * height * image.channels()];
    resize_region(image, Region::whole(image), (width, height), interpolation, &mut data)?;
    Image::new(width, height, image.channels(), data).map(Some)
}

/// The size after the short edge becomes `short_edge`; the long edge truncates, as in torchvision.
fn scaled_to_short_edge(width: usize, height: usize, short_edge: usize) -> (usize, usize) {
    let long = |long: usize, short: usize| {
        ((short_edge as u128 * long as u128 / short.max(1) as u128) as usize).max(short_edge)
    };
    if width <= height { (short_edge, long(height, width)) } else { (long(width, height), short_edge) }
}

impl Preprocessing {
    /// The part of `image` that becomes the network's input of `resolution`×`resolution` pixels.
    ///
    /// With [`ResizeMode::ShortEdge`] the short edge would become `resolution / crop_fraction`
    /// (rounded) and the centre would be cropped; this is where that crop lies in the original.
    pub fn region(&self, image: &Image, resolution: usize) -> Region {
        if self.resize == ResizeMode::Squash {
            // The central part of each edge, in whole pixels (TensorFlow's `central_crop`).
            let axis = |size: usize| {
                let start = (size as f64 * (1.0 - self.crop_fraction) / 2.0).max(0.0).floor();
                (start, size as f64 - 2.0 * start)
            };
            let ((left, width), (top, height)) = (axis(image.width()), axis(image.height()));
            return Region { left, top, width, height };
        }
        let short_edge = ((resolution as f64 / self.crop_fraction).round() as usize).max(resolution);
        let (width, height) = scaled_to_short_edge(image.width(), image.height(), short_edge);
        let axis = |original: usize, scaled: usize| {
            let scale = original as f64 / scaled as f64;
            let start = ((scaled - resolution) as f64 / 2.0).round_ties_even();
            (start * scale, resolution as f64 * scale)
        };
        let (left, width) = axis(image.width(), width);
        let (top, height) = axis(image.height(), height);
        Region { left, top, width, height }
    }

    /// Resizes and crops `image` to `resolution`×`resolution`, still 8 bits a channel, into `out`
    /// of `resolution · resolution · channels` bytes.
    pub fn resize_into(&self, image: &Image, resolution: usize, out: &mut [u8]) -> Result<()> {
        let region = self.region(image, resolution);
        resize_region(image, region, (resolution, resolution), self.interpolation, out)
    }

    /// [`Preprocessing::resize_into`] a new image.
    pub fn resized(&self, image: &Image, resolution: usize) -> Result<Image> {
        let mut data = vec![0; resolution * resolution * image.channels()];
        self.resize_into(image, resolution, &mut data)?;
        Image::new(resolution, resolution, image.channels(), data)
    }

    /// What makes `(x / 255 − mean) / std` of an 8-bit value.
    pub fn normalisation(&self) -> Normalisation {
        let channels = self.mean.iter().zip(&self.std);
        let factors = channels.map(|(&mean, &std)| {
            let (mean, std) = (f64::from(mean), f64::from(std));
            ((1.0 / (255.0 * std)) as f32, (-mean / std) as f32)
        });
        let (scale, offset) = factors.unzip();
        Normalisation { scale, offset }
    }

    /// The normalised value of every 8-bit value, a table for each channel: see [`Normalisation`].
    pub fn tables(&self) -> Vec<[f32; 256]> {
        let Normalisation { scale, offset } = self.normalisation();
        let channels = scale.iter().zip(&offset);
        channels.map(|(scale, offset)| std::array::from_fn(|x| x as f32 * scale + offset)).collect()
    }

    /// The evaluation transform: resize, centre crop and normalise `image` into `out`
    /// (`[resolution, resolution, channels]`).
    ///
    /// Fails if `image` does not have one channel for each of `mean`, or `out` another length.
    pub fn apply(&self, image: &Image, resolution: usize, out: &mut [f32]) -> Result<()> {
        self.check_channels(image.channels())?;
        let len = resolution * resolution * image.channels();
        if out.len() != len {
            return Err(Error::Input {
                what: "room for a preprocessed image".into(),
                expected: format!("{len} values"),
                found: out.len().to_string(),
            });
        }
        let mut resized = vec![0; len];
        self.resize_into(image, resolution, &mut resized)?;
        normalise(&resized, &self.tables(), out);
        Ok(())
    }

    /// Fails unless images of so many `channels` have one for each of `mean` and `std`.
    pub fn check_channels(&self, channels: usize) -> Result<()> {
        if channels == self.mean.len() && self.mean.len() == self.std.len() {
            return Ok(());
        }
        Err(Error::Input {
            what: "channels of an image".into(),
            expected: format!("{} (as many as preprocessing mean and std have values)", self.mean.len()),
            found: channels.to_string(),
        })
    }
}

/// The normalised value of an 8-bit value `x` of channel c is `x · scale[c] + offset[c]`, each operation
/// rounded to f32: the same bits wherever it is computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalisation {
    /// One value a channel.
    pub scale: Vec<f32>,
    /// One value a channel.
    pub offset: Vec<f32>,
}

/// Looks 8-bit pixels up in the tables of [`Preprocessing::tables`], one table a channel.
pub fn normalise(pixels: &[u8], tables: &[[f32; 256]], out: &mut [f32]) {
    match tables {
        [grey] => {
            for (value, &x) in out.iter_mut().zip(pixels) {
                *value = grey[usize::from(x)];
            }
        }
        [red, green, blue] => {
            for (value, x) in out.chunks_exact_mut(3).zip(pixels.chunks_exact(3)) {
                value[0] = red[usize::from(x[0])];
                value[1] = green[usize::from(x[1])];
                value[2] = blue[usize::from(x[2])];
            }
        }
        _ => {
            let channels = tables.len().max(1);
            for (at, (value, &x)) in out.iter_mut().zip(pixels).enumerate() {
                *value = tables.get(at % channels).map_or(0.0, |table| table[usize::from(x)]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conventions::Preset;

    fn gradient(width: usize, height: usize, channels: usize) -> Image {
        let data = (0..width * height * channels).map(|i| (i * 7 % 251) as u8).collect();
        Image::new(width, height, channels, data).unwrap()
    }

    fn preprocessing(channels: usize, crop_fraction: f64) -> Preprocessing {
        Preprocessing {
            mean: vec![0.5; channels],
            std: vec![0.25; channels],
            crop_fraction,
            ..Preset::Reference.conventions().preprocessing
        }
    }

    #[test]
    fn an_image_of_the_right_size_is_only_normalised() {
        let image = gradient(28, 28, 1);
        let mut out = vec![0.0; 28 * 28];
        preprocessing(1, 1.0).apply(&image, 28, &mut out).unwrap();
        for (&value, &x) in out.iter().zip(image.data()) {
            assert!((value - (f32::from(x) / 255.0 - 0.5) / 0.25).abs() < 1e-6);
        }
    }

    #[test]
    fn extreme_shapes_fit() {
        for (width, height) in [(1, 1), (3, 5000), (5000, 3), (2, 1)] {
            for resize in [ResizeMode::ShortEdge, ResizeMode::Squash] {
                let mut out = vec![f32::NAN; 32 * 32 * 3];
                let preprocessing = Preprocessing { resize, ..preprocessing(3, 0.875) };
                preprocessing.apply(&gradient(width, height, 3), 32, &mut out).unwrap();
                assert!(out.iter().all(|v| v.is_finite()));
            }
        }
    }

    #[test]
    fn a_constant_image_stays_constant() {
        let image = Image::new(37, 91, 3, vec![200; 37 * 91 * 3]).unwrap();
        for interpolation in [Interpolation::Bilinear, Interpolation::Bicubic] {
            let preprocessing = Preprocessing { interpolation, ..preprocessing(3, 0.875) };
            assert!(preprocessing.resized(&image, 50).unwrap().data().iter().all(|&v| v == 200));
        }
    }

    #[test]
    fn channels_and_lengths_are_checked() {
        let mut out = vec![0.0; 8 * 8 * 3];
        let error = preprocessing(1, 1.0).apply(&gradient(9, 9, 3), 8, &mut out).unwrap_err();
        assert!(error.to_string().contains("channels of an image: expected 1"), "{error}");
        let error = preprocessing(3, 1.0).apply(&gradient(9, 9, 3), 9, &mut out).unwrap_err();
        assert!(error.to_string().contains("expected 243 values, found 192"), "{error}");
    }

    #[test]
    fn resizing_is_pillows() {
        macro_rules! file {
            ($name:literal) => {
                include_bytes!(concat!("../tests/images/", $name)).as_slice()
            };
        }
        let decode = |bytes: &[u8]| {
            crate::image::decode_bytes(bytes, "golden".as_ref(), 3, &Default::default()).unwrap()
        };
        let photo = decode(file!("photo.png"));
        use Interpolation::{Bicubic, Bilinear};
        for (interpolation, resolution, fraction, expected) in [
            (Bilinear, 24, Some(0.875), file!("resize-bilinear-24-0.875.png")),
            (Bilinear, 24, Some(1.0), file!("resize-bilinear-24-1.0.png")),
            (Bilinear, 64, Some(0.875), file!("resize-bilinear-64-0.875.png")),
            (Bilinear, 31, Some(0.9), file!("resize-bilinear-31-0.9.png")),
            (Bilinear, 24, None, file!("resize-bilinear-24-squash.png")),
            (Bicubic, 24, Some(0.875), file!("resize-bicubic-24-0.875.png")),
            (Bicubic, 24, Some(1.0), file!("resize-bicubic-24-1.0.png")),
            (Bicubic, 64, Some(0.875), file!("resize-bicubic-64-0.875.png")),
            (Bicubic, 31, Some(0.9), file!("resize-bicubic-31-0.9.png")),
            (Bicubic, 24, None, file!("resize-bicubic-24-squash.png")),
        ] {
            let preprocessing = Preprocessing {
                interpolation,
                resize: if fraction.is_some() { ResizeMode::ShortEdge } else { ResizeMode::Squash },
                ..preprocessing(3, fraction.unwrap_or(1.0))
            };
            let ours = preprocessing.resized(&photo, resolution).unwrap();
            let expected = decode(expected);
            let differences = ours.data().iter().zip(expected.data()).map(|(a, b)| a.abs_diff(*b));
            let most = differences.clone().max().unwrap();
            let mean = differences.map(f64::from).sum::<f64>() / ours.data().len() as f64;
            // Pillow resizes rows first, this code columns first; each rounds to 8 bits between,
            // where the cubic, which overshoots at edges, is cut off.
            let allowed = if interpolation == Bilinear { 1 } else { 20 };
            assert!(
                most <= allowed && mean < 0.4,
                "{interpolation:?} {resolution} {fraction:?}: off by {most}, {mean} in the mean"
            );
        }
    }

    #[test]
    fn shrinking_keeps_the_aspect_ratio() {
        let small = shrink(&gradient(100, 60, 3), 30, Interpolation::Bilinear).unwrap().unwrap();
        assert_eq!((small.width(), small.height()), (50, 30));
        assert!(shrink(&gradient(100, 60, 3), 60, Interpolation::Bilinear).unwrap().is_none());
    }
}
