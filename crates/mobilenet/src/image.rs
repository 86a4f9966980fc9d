//! Decoded images, and decoding with limits.
//!
//! The format is recognised by content, whatever the file is called. JPEG (baseline, progressive,
//! grey, CMYK), PNG, GIF (first frame), BMP, WebP and TIFF are read; EXIF orientation is applied,
//! transparency is laid over white, 16-bit channels become 8-bit.

use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use crate::error::{Error, Result};

mod save;
mod structure;

/// The most bytes that a decoder may take for each pixel allowed (RGBA of 32-bit floats).
const BYTES_PER_PIXEL: u64 = 16;

/// A decoded image: 8 bits a channel, rows from the top, `[height, width, channels]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    width: usize,
    height: usize,
    channels: usize,
    data: Vec<u8>,
}

impl Image {
    /// An image over `data` of `[height, width, channels]`; an error if the sizes are zero or do
    /// not fit `data`, or if there are not 1 or 3 channels.
    pub fn new(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Result<Self> {
        let expected = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(channels));
        if !matches!(channels, 1 | 3) || expected != Some(data.len()) || data.is_empty() {
            return Err(Error::Input {
                what: format!("image of {width}×{height} pixels with {channels} channels"),
                expected: "width·height·channels bytes, more than none, with 1 or 3 channels".into(),
                found: format!("{} bytes", data.len()),
            });
        }
        Ok(Self { width, height, channels, data })
    }

    /// Pixels in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// 1 (grey) or 3 (RGB).
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The values, `[height, width, channels]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// The values alone.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// The same image with `channels` 1 (luma of ITU-R Rec. 601) or 3 (grey repeated).
    pub fn with_channels(self, channels: usize) -> Result<Self> {
        let data = match (self.channels, channels) {
            (from, to) if from == to => return Ok(self),
            (3, 1) => self.data.chunks_exact(3).map(luma).collect(),
            (1, 3) => self.data.iter().flat_map(|&grey| [grey; 3]).collect(),
            _ => {
                return Err(Error::Input {
                    what: "channels to decode an image with".into(),
                    expected: "1 (grey) or 3 (RGB)".into(),
                    found: channels.to_string(),
                });
            }
        };
        Self::new(self.width, self.height, channels, data)
    }
}

/// Rec. 601 luma in 16-bit fixed point, as Pillow computes it; a grey pixel keeps its value.
fn luma(rgb: &[u8]) -> u8 {
    let [r, g, b] = [0, 1, 2].map(|c| u32::from(rgb[c]));
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

/// Bounds on what is decoded, checked on the header before memory is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The most pixels (width × height) that an image may have; 100 million unless set, which
    /// takes 300 MB as RGB, and up to three times that while a progressive JPEG is decoded.
    pub max_pixels: u64,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self { max_pixels: 100_000_000 }
    }
}

/// What an image's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// Pixels in a row, after EXIF orientation.
    pub width: usize,
    /// Rows, after EXIF orientation.
    pub height: usize,
    /// Whether the format stores it without colour.
    pub grey: bool,
}

/// Reads and decodes the image at `path` with `channels` 1 or 3; see [`decode_bytes`].
pub fn decode_file(path: &Path, channels: usize, limits: &DecodeLimits) -> Result<Image> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    decode_bytes(&bytes, path, channels, limits)
}

/// Decodes an image with `channels` 1 (luma) or 3 (RGB); `name` is for messages.
///
/// [`Error::Image`] if it is empty, of no format that is read, larger than `limits`, cut short or
/// damaged.
pub fn decode_bytes(bytes: &[u8], name: &Path, channels: usize, limits: &DecodeLimits) -> Result<Image> {
    guarded(name, || {
        let (format, mut decoder) = open(bytes, true, limits)?;
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut decoded = DynamicImage::from_decoder(decoder).map_err(|e| describe(format, &e))?;
        decoded.apply_orientation(orientation);
        to_image(decoded).and_then(|image| image.with_channels(channels)).map_err(|e| e.to_string())
    })
}

/// Reads the header of an image, and checks as far as is cheap that it is whole.
///
/// JPEG, PNG and WebP are followed from segment to segment to their end, which is quick; the other
/// formats have no such structure and are decoded. A file that passes may still hold damaged
/// pixels. Errors as in [`decode_bytes`].
pub fn probe_bytes(bytes: &[u8], name: &Path, limits: &DecodeLimits) -> Result<ImageInfo> {
    guarded(name, || {
        let (format, mut decoder) = open(bytes, true, limits)?;
        let info = info(&mut decoder);
        if !matches!(format, ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP) {
            DynamicImage::from_decoder(decoder).map_err(|e| describe(format, &e))?;
        }
        Ok(info)
    })
}

/// Reads at most `bytes` from the start of the file at `path` and of them only the header; an
/// image that passes may be cut short. Errors as in [`decode_bytes`], and if the header is longer.
pub fn probe_header(path: &Path, bytes: u64, limits: &DecodeLimits) -> Result<ImageInfo> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(Error::io(path, "read"))?;
    file.take(bytes).read_to_end(&mut start).map_err(Error::io(path, "read"))?;
    guarded(path, || open(&start, false, limits).map(|(_, mut decoder)| info(&mut decoder)))
}

fn info(decoder: &mut impl ImageDecoder) -> ImageInfo {
    let (width, height) = decoder.dimensions();
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let turned = matches!(
        orientation,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    let (width, height) = if turned { (height, width) } else { (width, height) };
    ImageInfo { width: width as usize, height: height as usize, grey: !decoder.color_type().has_color() }
}

/// [`probe_bytes`] on the file at `path`.
pub fn probe_file(path: &Path, limits: &DecodeLimits) -> Result<ImageInfo> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    probe_bytes(&bytes, path, limits)
}

/// Runs a decoding step; what fails in it, even by a panic of a decoder, becomes [`Error::Image`].
fn guarded<T>(name: &Path, step: impl FnOnce() -> Result<T, String>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(step))
        .unwrap_or_else(|_| Err("damaged: its decoder gave up on it".into()))
        .map_err(|problem| Error::Image { path: name.to_owned(), problem })
}

/// Recognises the format and reads the header, within `limits`; with `whole`, `bytes` are all of the
/// file and must not be cut short.
fn open<'a>(
    bytes: &'a [u8],
    whole: bool,
    limits: &DecodeLimits,
) -> Result<(ImageFormat, impl ImageDecoder + 'a), String> {
    if bytes.is_empty() {
        return Err("the file is empty (0 bytes)".into());
    }
    let format = image::guess_format(bytes)
        .ok()
        .filter(|format| {
            use ImageFormat::*;
            matches!(format, Jpeg | Png | Gif | Bmp | WebP | Tiff)
        })
        .ok_or_else(|| {
            format!(
                "not an image that can be read: expected JPEG, PNG, GIF, BMP, WebP or TIFF, found {}",
                structure::guess_content(bytes)
            )
        })?;
    if whole {
        structure::check(format, bytes)?;
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut allowed = Limits::no_limits();
    allowed.max_alloc = Some(limits.max_pixels.saturating_mul(BYTES_PER_PIXEL));
    reader.limits(allowed);
    let decoder = reader.into_decoder().map_err(|e| describe(format, &e))?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels == 0 {
        return Err(format!("has no pixels: its header says {width}×{height}"));
    }
    if pixels > limits.max_pixels {
        return Err(format!(
            "too large: {width}×{height} is {} million pixels, the limit is {} million; make it smaller or raise the limit",
            pixels.div_ceil(1_000_000),
            limits.max_pixels / 1_000_000
        ));
    }
    Ok((format, decoder))
}

fn describe(format: ImageFormat, error: &ImageError) -> String {
    let name = structure::name(format);
    match error {
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            format!("truncated {name}: it ends before its last pixel")
        }
        ImageError::Limits(_) => format!("too large: this {name} needs more memory than the limit allows"),
        ImageError::Unsupported(e) => format!("unsupported kind of {name}: {e}"),
        other => format!("damaged {name}: {other}"),
    }
}

/// 8 bits, alpha over white, one channel where there is no colour.
fn to_image(decoded: DynamicImage) -> Result<Image> {
    let (width, height) = (decoded.width() as usize, decoded.height() as usize);
    let color = decoded.color();
    let over_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let (channels, data) = match (color.has_color(), color.has_alpha()) {
        (true, false) => (3, decoded.into_rgb8().into_raw()),
        (false, false) => (1, decoded.into_luma8().into_raw()),
        (true, true) => {
            let rgba = decoded.into_rgba8().into_raw();
            let pixels = rgba.chunks_exact(4);
            (3, pixels.flat_map(|p| [0, 1, 2].map(|c| over_white(p[c], p[3]))).collect())
        }
        (false, true) => {
            let grey_alpha = decoded.into_luma_alpha8().into_raw();
            (1, grey_alpha.chunks_exact(2).map(|p| over_white(p[0], p[1])).collect())
        }
    };
    Image::new(width, height, channels, data)
}

#[cfg(test)]
mod tests;
