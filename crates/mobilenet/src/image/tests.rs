use std::path::Path;

use image::{DynamicImage, GrayAlphaImage, ImageFormat, Luma, LumaA, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../../tests/images/", $name)).as_slice()
    };
}

fn decode(bytes: &[u8], channels: usize) -> Result<Image> {
    decode_bytes(bytes, Path::new("test"), channels, &DecodeLimits::default())
}

fn problem(bytes: &[u8]) -> String {
    let error = decode(bytes, 3).unwrap_err();
    assert!(matches!(error, Error::Image { .. }), "{error:?}");
    error.to_string()
}

fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 5) as u8, (y * 9) as u8, ((x + y) * 3) as u8]))
}

/// Mean absolute difference, and the largest.
fn difference(a: &Image, b: &Image) -> (f64, u8) {
    assert_eq!((a.width(), a.height(), a.channels()), (b.width(), b.height(), b.channels()));
    let differences = a.data().iter().zip(b.data()).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences.clone().map(u64::from).sum();
    (sum as f64 / a.data().len() as f64, differences.max().unwrap())
}

#[test]
fn every_kind_of_jpeg_looks_as_pillow_decodes_it() {
    for (name, bytes, expected) in [
        ("progressive", file!("progressive.jpg"), file!("progressive.jpg.expected.png")),
        ("grey", file!("grey.jpg"), file!("grey.jpg.expected.png")),
        ("cmyk", file!("cmyk.jpg"), file!("cmyk.jpg.expected.png")),
        ("ycck", file!("ycck.jpg"), file!("ycck.jpg.expected.png")),
    ] {
        let (mean, _) = difference(&decode(bytes, 3).unwrap(), &decode(expected, 3).unwrap());
        assert!(mean < 1.5, "{name}: mean difference {mean}");
    }
    assert!(probe_bytes(file!("grey.jpg"), Path::new(""), &DecodeLimits::default()).unwrap().grey);
}

#[test]
fn exif_orientation_is_applied() {
    let upright = decode(file!("progressive.jpg"), 3).unwrap();
    let (w, h) = (upright.width(), upright.height());
    let at = |image: &Image, x: usize, y: usize| {
        let start = (y * image.width() + x) * 3;
        [0, 1, 2].map(|c| i32::from(image.data()[start + c]))
    };
    // Where pixel (x, y) of the stored picture is shown (EXIF 2.3, tag 0x0112).
    type Place = fn(usize, usize, usize, usize) -> (usize, usize);
    let places: [Place; 8] = [
        |x, y, _, _| (x, y),
        |x, y, w, _| (w - 1 - x, y),
        |x, y, w, h| (w - 1 - x, h - 1 - y),
        |x, y, _, h| (x, h - 1 - y),
        |x, y, _, _| (y, x),
        |x, y, _, h| (h - 1 - y, x),
        |x, y, w, h| (h - 1 - y, w - 1 - x),
        |x, y, w, _| (y, w - 1 - x),
    ];
    let stored = file!("orientation6.jpg");
    let tag =
        stored.windows(10).position(|b| b == [1, 0x12, 0, 3, 0, 0, 0, 1, 0, 6]).expect("big-endian EXIF");
    for (orientation, place) in (1u8..).zip(places) {
        let mut bytes = stored.to_vec();
        bytes[tag + 9] = orientation;
        let shown = decode(&bytes, 3).unwrap();
        let info = probe_bytes(&bytes, Path::new(""), &DecodeLimits::default()).unwrap();
        assert_eq!((info.width, info.height), (shown.width(), shown.height()));
        for (x, y) in [(0, 0), (w - 1, 0), (0, h - 1), (w / 3, h / 4)] {
            let (sx, sy) = place(x, y, w, h);
            let (a, b) = (at(&upright, x, y), at(&shown, sx, sy));
            assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 24), "{orientation}: {a:?} {b:?}");
        }
    }
}

#[test]
fn palette_and_alpha_lie_over_white() {
    let (_, most) = difference(
        &decode(file!("palette.png"), 3).unwrap(),
        &decode(file!("palette.png.expected.png"), 3).unwrap(),
    );
    assert!(most <= 1);
    let rgba = RgbaImage::from_fn(4, 1, |x, _| Rgba([0, 100, 200, [0, 255, 128, 1][x as usize]]));
    let decoded = decode(&encode(rgba, ImageFormat::Png), 3).unwrap();
    assert_eq!(decoded.data()[..6], [255, 255, 255, 0, 100, 200]);
    assert_eq!(decoded.data()[6..9], [127, 177, 227]);
    let grey = GrayAlphaImage::from_fn(2, 1, |x, _| LumaA([10, [0, 255][x as usize]]));
    assert_eq!(decode(&encode(grey, ImageFormat::Png), 1).unwrap().data(), [255, 10]);
}

#[test]
fn sixteen_bits_become_eight() {
    let deep = image::ImageBuffer::from_fn(256, 1, |x, _| Luma([x as u16 * 257]));
    let decoded = decode(&encode(DynamicImage::ImageLuma16(deep), ImageFormat::Png), 1).unwrap();
    assert!(decoded.data().iter().enumerate().all(|(x, &v)| usize::from(v) == x));
}

#[test]
fn lossless_formats_come_back_exactly_whatever_they_are_called() {
    let original = picture(23, 17);
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP, ImageFormat::Gif]
    {
        let bytes = encode(original.clone(), format);
        let image = decode_bytes(&bytes, Path::new("wrong.jpg"), 3, &DecodeLimits::default()).unwrap();
        let (_, most) = difference(&image, &Image::new(23, 17, 3, original.as_raw().clone()).unwrap());
        // A GIF has 256 colours.
        assert!(most <= if format == ImageFormat::Gif { 40 } else { 0 }, "{format:?}: {most}");
        let info = probe_bytes(&bytes, Path::new(""), &DecodeLimits::default()).unwrap();
        assert_eq!((info.width, info.height, info.grey), (23, 17, false));
    }
}

#[test]
fn of_a_gif_the_first_frame_counts() {
    use image::codecs::gif::GifEncoder;
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for value in [40, 200] {
        let frame = RgbaImage::from_pixel(8, 8, Rgba([value, value, value, 255]));
        encoder.encode_frame(image::Frame::new(frame)).unwrap();
    }
    drop(encoder);
    assert!(decode(&bytes, 1).unwrap().data().iter().all(|v| v.abs_diff(40) < 3));
}

#[test]
fn a_file_cut_short_is_an_error_in_every_format() {
    let original = DynamicImage::ImageRgb8(picture(64, 48));
    for format in [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
        ImageFormat::WebP,
        ImageFormat::Gif,
    ] {
        let bytes = encode(original.clone(), format);
        for keep in [bytes.len() / 4, bytes.len() / 2, bytes.len() * 3 / 4] {
            let message = problem(&bytes[..keep]);
            let wanted = ["truncated", "damaged", "unsupported"];
            assert!(wanted.iter().any(|w| message.contains(w)), "{format:?} {keep}: {message}");
            let probed = probe_bytes(&bytes[..keep], Path::new(""), &DecodeLimits::default());
            assert!(probed.is_err(), "{format:?} {keep}");
        }
    }
    let progressive = file!("progressive.jpg");
    assert!(problem(&progressive[..progressive.len() / 2]).contains("truncated JPEG"));
}

#[test]
fn a_trailer_behind_a_jpeg_does_not_matter() {
    let bytes = [file!("progressive.jpg"), b"made by a camera"].concat();
    assert!(decode(&bytes, 3).is_ok());
}

#[test]
fn what_is_no_image_is_named() {
    assert!(problem(b"").contains("the file is empty (0 bytes)"));
    assert!(problem("hello, wörld".as_bytes()).ends_with("found text"));
    assert!(problem(b"<!DOCTYPE html><html>").ends_with("found HTML or XML"));
    assert!(problem(b"\0\0\0\x18ftypheic").contains("convert it to JPEG"));
    assert!(problem(&[7, 1, 2, 3]).ends_with("bytes that begin 07 01 02 03"));
    assert!(problem(&[0xff, 0xd8, 0xff]).contains("JPEG"));
}

#[test]
fn too_many_pixels_are_refused_before_memory_is_taken() {
    // The header of a 20,000 × 20,000 BMP; no pixels follow, so decoding could not succeed.
    let mut header = encode(picture(1, 1), ImageFormat::Bmp);
    header[18..22].copy_from_slice(&20_000u32.to_le_bytes());
    header[22..26].copy_from_slice(&20_000u32.to_le_bytes());
    let message = problem(&header);
    assert!(
        message.contains("too large: 20000×20000 is 400 million pixels, the limit is 100 million"),
        "{message}"
    );
    let small = DecodeLimits { max_pixels: 100 };
    let png = encode(picture(11, 10), ImageFormat::Png);
    assert!(decode_bytes(&png, Path::new(""), 3, &small).unwrap_err().to_string().contains("too large"));
    assert!(decode_bytes(&png, Path::new(""), 3, &DecodeLimits { max_pixels: 110 }).is_ok());
}

#[test]
fn the_smallest_and_the_narrowest_image_decode() {
    for (width, height) in [(1, 1), (3, 5000)] {
        for format in [ImageFormat::Png, ImageFormat::Jpeg] {
            let image = decode(&encode(picture(width, height), format), 3).unwrap();
            assert_eq!((image.width(), image.height()), (width as usize, height as usize));
        }
    }
}

#[test]
fn channels_convert_by_rec_601() {
    let image = Image::new(2, 1, 3, vec![255, 0, 0, 9, 9, 9]).unwrap();
    let grey = image.with_channels(1).unwrap();
    assert_eq!(grey.data(), [76, 9]);
    assert_eq!(grey.with_channels(3).unwrap().data(), [76, 76, 76, 9, 9, 9]);
    assert!(Image::new(2, 1, 2, vec![0; 4]).is_err());
    assert!(Image::new(0, 1, 3, vec![]).is_err());
    assert!(Image::new(usize::MAX, 2, 3, vec![]).is_err());
}
