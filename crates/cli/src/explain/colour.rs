//! Colours whose order the eye sees: in OKLab, an even rise in lightness from violet over red to a
//! pale yellow.

/// Lightness, chroma and hue (degrees) in OKLCh, evenly spaced from no evidence to the most.
const KNOTS: [[f64; 3]; 6] = [
    [0.24, 0.09, 285.0],
    [0.38, 0.16, 310.0],
    [0.52, 0.20, 355.0],
    [0.66, 0.20, 395.0],
    [0.80, 0.16, 430.0],
    [0.94, 0.12, 460.0],
];

/// The colour of a value from 0 to 1, as sRGB from 0 to 255.
pub fn heat(value: f64) -> [f64; 3] {
    let at = value.clamp(0.0, 1.0) * (KNOTS.len() - 1) as f64;
    let first = (at as usize).min(KNOTS.len() - 2);
    let t = at - first as f64;
    let [lightness, chroma, hue] =
        std::array::from_fn(|i| KNOTS[first][i] + t * (KNOTS[first + 1][i] - KNOTS[first][i]));
    let (sin, cos) = hue.to_radians().sin_cos();
    srgb(lightness, chroma * cos, chroma * sin)
}

/// OKLab to sRGB (Björn Ottosson, "A perceptual color space for image processing", 2020); what lies
/// outside of sRGB is cut off.
fn srgb(lightness: f64, a: f64, b: f64) -> [f64; 3] {
    let l = (lightness + 0.396_337_777_4 * a + 0.215_803_757_3 * b).powi(3);
    let m = (lightness - 0.105_561_345_8 * a - 0.063_854_172_8 * b).powi(3);
    let s = (lightness - 0.089_484_177_5 * a - 1.291_485_548 * b).powi(3);
    let linear = [
        4.076_741_662_1 * l - 3.307_711_591_3 * m + 0.230_969_929_2 * s,
        -1.268_438_004_6 * l + 2.609_757_401_1 * m - 0.341_319_396_5 * s,
        -0.004_196_086_3 * l - 0.703_418_614_7 * m + 1.707_614_701 * s,
    ];
    linear.map(|x| {
        let x = x.clamp(0.0, 1.0);
        255.0 * if x <= 0.003_130_8 { 12.92 * x } else { 1.055 * x.powf(1.0 / 2.4) - 0.055 }
    })
}

/// CIE luminance (0 to 1) of sRGB from 0 to 255.
#[cfg(test)]
pub fn luminance(rgb: [f64; 3]) -> f64 {
    let linear = rgb.map(|x| {
        let x = x / 255.0;
        if x <= 0.040_45 { x / 12.92 } else { ((x + 0.055) / 1.055).powf(2.4) }
    });
    0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_is_always_lighter_and_in_even_steps() {
        // CIE lightness of 33 steps.
        let lightness: Vec<f64> =
            (0..=32).map(|i| 116.0 * luminance(heat(f64::from(i) / 32.0)).cbrt() - 16.0).collect();
        let steps: Vec<f64> = lightness.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|&step| (0.8..4.5).contains(&step)), "{steps:?}");
        assert!(lightness[0] < 20.0 && lightness[32] > 88.0, "{lightness:?}");
    }

    #[test]
    fn white_and_black_are_white_and_black() {
        for (lightness, value) in [(0.0, 0.0), (1.0, 255.0)] {
            for channel in srgb(lightness, 0.0, 0.0) {
                assert!((channel - value).abs() < 0.1, "{channel}");
            }
        }
        // sRGB's red in OKLab, from the paper's table of the transformation.
        let red = srgb(0.627_955, 0.224_863, 0.125_846);
        assert!(red.iter().zip([255.0, 0.0, 0.0]).all(|(a, b)| (a - b).abs() < 1.0), "{red:?}");
        assert_eq!(heat(-1.0), heat(0.0));
        assert_eq!(heat(2.0), heat(1.0));
    }
}
