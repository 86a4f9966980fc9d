//! Pictures that are written.

use std::io::Cursor;
use std::path::Path;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::Image;
use crate::atomic_file;
use crate::error::{Error, Result};

impl Image {
    /// Writes the image as PNG, whatever `path` is called; it is there whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] when the file cannot be written, [`Error::Image`] when the image is too large
    /// for the format.
    pub fn save_png(&self, path: &Path) -> Result<()> {
        let failed = |problem: String| Error::Image { path: path.to_owned(), problem };
        let side =
            |extent: usize| u32::try_from(extent).map_err(|_| failed(format!("{extent} pixels a side")));
        let color = if self.channels() == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
        let mut bytes = Cursor::new(Vec::new());
        PngEncoder::new(&mut bytes)
            .write_image(self.data(), side(self.width())?, side(self.height())?, color)
            .map_err(|error| failed(format!("cannot be encoded as PNG: {error}")))?;
        atomic_file::write(path, |file| file.write_all(bytes.get_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{DecodeLimits, decode_file};

    #[test]
    fn what_is_written_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture");
        for channels in [1, 3] {
            let data = (0..5 * 4 * channels).map(|i| (i * 37 % 251) as u8).collect();
            let image = Image::new(5, 4, channels, data).unwrap();
            image.save_png(&path).unwrap();
            assert_eq!(decode_file(&path, channels, &DecodeLimits::default()).unwrap(), image);
        }
    }
}
