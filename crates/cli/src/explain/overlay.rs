//! A class activation map laid over the photo that it belongs to.

use mobilenet::image::Image;
use mobilenet::preprocess::Region;
use mobilenet::{ActivationMap, Result};
use rayon::prelude::*;

use super::colour::heat;

/// What is left of the light outside of the part that the network saw.
const OUTSIDE: f64 = 0.35;
/// How much of its colour the photo loses inside, so that the map's colours stand out.
const GREYED: f64 = 0.6;
/// The share of the map's colour where there is no evidence, and where there is the most.
const OPACITY: [f64; 2] = [0.25, 0.7];

/// `photo` (RGB) at its own size with `map` over `region`, the part that the network saw.
///
/// What speaks against the class is drawn like what says nothing; the colours go up to the map's
/// largest value, so that pictures of different classes do not compare.
pub fn overlay(photo: &Image, region: Region, map: &ActivationMap) -> Result<Image> {
    let largest = map.values.iter().copied().fold(0.0, f32::max);
    let width = photo.width();
    // Colours are drawn for some steps ahead of time: a photo has millions of pixels.
    const STEPS: usize = 1023;
    let colours: Vec<[f64; 3]> = (0..=STEPS).map(|step| heat(step as f64 / STEPS as f64)).collect();
    let mut data = photo.data().to_vec();
    data.par_chunks_exact_mut(3 * width).enumerate().for_each(|(y, row)| {
        let v = (y as f64 + 0.5 - region.top) / region.height;
        for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
            let u = (x as f64 + 0.5 - region.left) / region.width;
            let rgb: [f64; 3] = std::array::from_fn(|c| f64::from(pixel[c]));
            let drawn = if (0.0..=1.0).contains(&u) && (0.0..=1.0).contains(&v) {
                let value = map.sample(u, v) / f64::from(largest);
                let value = if largest > 0.0 { value.clamp(0.0, 1.0) } else { 0.0 };
                let colour = colours[(value * STEPS as f64).round() as usize];
                let share = OPACITY[0] + (OPACITY[1] - OPACITY[0]) * value;
                let grey = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2];
                std::array::from_fn(|c| {
                    let photo = rgb[c] + GREYED * (grey - rgb[c]);
                    photo + share * (colour[c] - photo)
                })
            } else {
                rgb.map(|channel| OUTSIDE * channel)
            };
            for (to, from) in pixel.iter_mut().zip(drawn) {
                *to = from.round() as u8; // Mixtures of values from 0 to 255.
            }
        }
    });
    Image::new(width, photo.height(), 3, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::colour::luminance;

    fn pixel(image: &Image, x: usize, y: usize) -> [f64; 3] {
        std::array::from_fn(|c| f64::from(image.data()[(y * image.width() + x) * 3 + c]))
    }

    #[test]
    fn the_map_lies_on_its_region_and_the_rest_is_dimmed() {
        let photo = Image::new(100, 60, 3, vec![120; 100 * 60 * 3]).unwrap();
        let region = Region { left: 20.0, top: 0.0, width: 60.0, height: 60.0 };
        let mut values = vec![0.0; 9];
        values[2] = 4.0; // The upper right cell.
        values[6] = -4.0;
        let map = ActivationMap { height: 3, width: 3, values, bias: 0.0 };
        let drawn = overlay(&photo, region, &map).unwrap();
        assert_eq!((drawn.width(), drawn.height(), drawn.channels()), (100, 60, 3));
        assert_eq!(pixel(&drawn, 19, 30), [42.0; 3]);
        assert_eq!(pixel(&drawn, 80, 30), [42.0; 3]);
        assert_ne!(pixel(&drawn, 20, 30), [42.0; 3]);
        let light = |x, y| luminance(pixel(&drawn, x, y));
        // The cell's middle is at (20 + 50, 10): the lightest place there is.
        assert!(light(70, 10) > light(60, 10) && light(60, 10) > light(50, 10));
        assert!(light(70, 10) > light(70, 20) && light(70, 20) > light(70, 30));
        assert_eq!(pixel(&drawn, 30, 50), pixel(&drawn, 30, 10), "against is drawn like nothing");
    }

    #[test]
    fn a_map_without_evidence_is_flat() {
        let photo = Image::new(8, 8, 3, (0..192).map(|i| i as u8).collect()).unwrap();
        for value in [0.0, -3.0] {
            let map = ActivationMap { height: 1, width: 1, values: vec![value], bias: 0.0 };
            let drawn = overlay(&photo, Region::whole(&photo), &map).unwrap();
            assert!(luminance(pixel(&drawn, 7, 7)) < luminance(pixel(&photo, 7, 7)));
        }
    }
}
