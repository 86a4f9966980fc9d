//! Small pictures as `data:` URIs.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};

use crate::data::Dataset;

/// The longest edge of a thumbnail, in pixels.
const EDGE: u32 = 128;

/// Image `index`, at most [`EDGE`] pixels large; `None` if it cannot be read.
pub(super) fn data_uri(images: &dyn Dataset, index: usize) -> Option<String> {
    let channels = if images.is_grey() { 1 } else { 3 };
    let image = images.image(index, channels).ok()?;
    let (width, height) = (image.width(), image.height());
    if width.max(height) <= EDGE as usize {
        return png(width, height, channels, image.data());
    }
    let whole = dynamic(width, height, channels, image.data().to_vec())?;
    let scale = f64::from(EDGE) / width.max(height) as f64;
    let scaled = |edge: usize| ((edge as f64 * scale).round() as u32).max(1);
    let small = imageops::resize(&whole.to_rgb8(), scaled(width), scaled(height), FilterType::Triangle);
    let mut bytes = Vec::new();
    small.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 85)).ok()?;
    Some(format!("data:image/jpeg;base64,{}", base64(&bytes)))
}

/// Pixels in rows, 1 (grey) or 3 (RGB) channels, as a PNG.
pub(super) fn png(width: usize, height: usize, channels: usize, data: &[u8]) -> Option<String> {
    let mut bytes = Cursor::new(Vec::new());
    dynamic(width, height, channels, data.to_vec())?.write_to(&mut bytes, ImageFormat::Png).ok()?;
    Some(format!("data:image/png;base64,{}", base64(bytes.get_ref())))
}

fn dynamic(width: usize, height: usize, channels: usize, data: Vec<u8>) -> Option<DynamicImage> {
    let (width, height) = (u32::try_from(width).ok()?, u32::try_from(height).ok()?);
    match channels {
        1 => GrayImage::from_raw(width, height, data).map(DynamicImage::ImageLuma8),
        _ => RgbImage::from_raw(width, height, data).map(DynamicImage::ImageRgb8),
    }
}

/// RFC 4648, with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0, |group, i| group << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let digit = group >> (18 - 6 * i) & 63;
            out.push(if i > chunk.len() { '=' } else { char::from(ALPHABET[digit as usize]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_rfcs() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }

    #[test]
    fn a_png_is_a_png() {
        let uri = png(2, 1, 3, &[0, 1, 2, 3, 4, 5]).unwrap();
        assert!(uri.starts_with("data:image/png;base64,iVBORw0KGgo"));
        assert!(png(2, 2, 3, &[0; 6]).is_none());
    }
}
