//! Whether a file goes on to its end, seen from its segments without decoding.
//!
//! JPEG decoders fill up what is missing with grey, as a viewer should; a trainer must not learn
//! from such pictures, so a file without its end marker counts as truncated here.

use image::ImageFormat;

/// The format's name for messages.
pub(super) fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Png => "PNG",
        ImageFormat::Gif => "GIF",
        ImageFormat::Bmp => "BMP",
        ImageFormat::WebP => "WebP",
        ImageFormat::Tiff => "TIFF",
        _ => "image",
    }
}

/// An error if the file of that format is cut short, as far as its structure shows.
pub(super) fn check(format: ImageFormat, bytes: &[u8]) -> Result<(), String> {
    let (whole, end) = match format {
        ImageFormat::Jpeg => (jpeg_ends(bytes), "end-of-image marker"),
        ImageFormat::Png => (png_ends(bytes), "IEND chunk"),
        ImageFormat::WebP => (webp_ends(bytes), "last bytes"),
        _ => (true, ""),
    };
    if whole {
        return Ok(());
    }
    Err(format!(
        "truncated {}: its {end} is missing after {} bytes; copy the file anew",
        name(format),
        bytes.len()
    ))
}

/// Follows JPEG segments and entropy-coded data up to the EOI marker (ITU-T T.81, annex B).
/// What comes behind it (a second picture, a maker's trailer) does not matter.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // The next marker: 0xFF and a byte that is neither stuffing (0) nor a fill (0xFF) nor a
        // restart marker.
        let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) else {
            return false;
        };
        at += found + 1;
        match bytes.get(at) {
            None => return false,
            Some(0xd9) => return true,
            Some(0xff) => {}
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(_) => {
                let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { return false };
                at += 1 + usize::from(u16::from_be_bytes([high, low])).max(2);
            }
        }
    }
}

/// Follows PNG chunks up to IEND (PNG specification, section 5).
fn png_ends(bytes: &[u8]) -> bool {
    let mut at = 8;
    while let Some(header) = bytes.get(at..).and_then(|rest| rest.get(..8)) {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        at = at.saturating_add(12).saturating_add(length);
        if &header[4..] == b"IEND" {
            return at <= bytes.len();
        }
    }
    false
}

/// Compares the length with that in the RIFF header.
fn webp_ends(bytes: &[u8]) -> bool {
    match bytes.get(4..8) {
        Some(&[a, b, c, d]) => u64::from(u32::from_le_bytes([a, b, c, d])) + 8 <= bytes.len() as u64,
        _ => false,
    }
}

/// What a file that is no image seems to hold, for the message.
pub(super) fn guess_content(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(512)];
    if start.get(4..8) == Some(b"ftyp") {
        return "HEIC, AVIF or a video; convert it to JPEG first".into();
    }
    if start.starts_with(b"%PDF") {
        return "a PDF document".into();
    }
    let text = match std::str::from_utf8(start) {
        Ok(text) => Some(text),
        // The cut may have fallen into a character.
        Err(e) if e.error_len().is_none() => std::str::from_utf8(&start[..e.valid_up_to()]).ok(),
        Err(_) => None,
    };
    match text {
        Some(text) if !text.chars().any(|c| c.is_control() && !c.is_whitespace()) => {
            if text.trim_start().starts_with(['<']) { "HTML or XML".into() } else { "text".into() }
        }
        _ => {
            let hex: Vec<_> = start.iter().take(8).map(|b| format!("{b:02x}")).collect();
            format!("bytes that begin {}", hex.join(" "))
        }
    }
}
