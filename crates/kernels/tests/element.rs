//! Kernels over bf16 storage do what they do in f32, with values widened before and rounded after.

mod support;

use half::{bf16, f16};
use mobilenet_kernels::depthwise::{Centring, Present, RowEpilogue, RowGeometry, convolve_row};
use mobilenet_kernels::stream::write_parts;
use mobilenet_kernels::{Buffer, Clamp, Element, Isa, element, pooling};
use support::{CHANNELS, Random, on_every_isa};

fn narrowed(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&value| bf16::from_f32(value)).collect()
}

fn widened(values: &[bf16]) -> Vec<f32> {
    values.iter().map(|value| value.to_f32()).collect()
}

#[test]
fn depthwise_rows_are_those_of_the_widened_values_rounded_once() {
    on_every_isa(|isa| {
        for channels in CHANNELS {
            for (stride, dilation) in [(1, 1), (2, 1), (1, 2)] {
                let geometry = RowGeometry {
                    outputs: 9 / stride,
                    channels,
                    pixel_stride: channels + 3,
                    output_stride: channels + 1,
                    stride,
                    dilation,
                    present: Some(Present { left: dilation, count: 9 }),
                };
                let mut random = Random(7);
                let map = narrowed(&random.values(3 * geometry.input_len()));
                let (taps, bias) = (random.values(9 * channels), random.values(channels));
                let epilogue = Some(RowEpilogue {
                    bias: &bias,
                    clamp: Clamp::RELU6,
                    centring: Centring::default(),
                    half_sums: false,
                });
                let wide = widened(&map);
                let len = geometry.input_len();
                let size = geometry.outputs * geometry.output_stride;
                let mut exact = vec![0.0f32; size];
                let rows = [0, 1, 2].map(|k| &wide[k * len..][..len]);
                convolve_row(isa, geometry, rows, &taps, epilogue, &mut exact);
                let rows = [0, 1, 2].map(|k| &map[k * len..][..len]);
                let mut mixed = vec![0.0f32; size];
                convolve_row(isa, geometry, rows, &taps, epilogue, &mut mixed);
                assert_eq!(mixed, exact, "{} {channels}: bf16 to f32", isa.name());
                let mut rounded = vec![bf16::ZERO; size];
                convolve_row(isa, geometry, rows, &taps, epilogue, &mut rounded);
                assert_eq!(rounded, narrowed(&exact), "{} {channels}: bf16 to bf16", isa.name());
            }
        }
    });
}

#[test]
fn stores_round_to_the_nearest_and_keep_what_is_not_a_number() {
    // Around ties (of odd and even neighbours), the largest values, denormals, zeros, infinities.
    let mut values =
        vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::NAN, -f32::NAN];
    values.push(f32::from_bits(0x7f80_0001));
    for upper in [0x3f80u32, 0x3f81, 0xc2ff, 0x7f7f, 0x0000, 0x0001, 0x8001, 0x007f] {
        for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            values.push(f32::from_bits(upper << 16 | lower));
        }
    }
    let mut random = Random(3);
    values.extend((0..1000).map(|_| f32::from_bits(random.next() as u32)));
    on_every_isa(|isa| {
        // One pixel between zeros, under a filter that passes it on.
        let channels = values.len();
        let geometry = RowGeometry {
            outputs: 1,
            channels,
            pixel_stride: channels,
            output_stride: channels,
            stride: 1,
            dilation: 1,
            present: None,
        };
        let mut taps = vec![0.0; 9 * channels];
        taps[4 * channels..5 * channels].fill(1.0);
        let zeros = vec![0.0f32; 3 * channels];
        let mut row = zeros.clone();
        row[channels..2 * channels].copy_from_slice(&values);
        let mut found = vec![bf16::ZERO; channels];
        convolve_row(isa, geometry, [&zeros, &row, &zeros], &taps, None, &mut found);
        for (found, &value) in found.iter().zip(&values) {
            let expected = bf16::from_f32(value);
            // AVX512-BF16's own instruction takes denormal values as zero.
            let flushed =
                ["avx512bf16", "amx"].contains(&isa.name()) && value.is_subnormal() && found.to_f32() == 0.0;
            let same = *found == expected || found.is_nan() && expected.is_nan() || flushed;
            assert!(same, "{}: {value:e} ({:#x}) became {found:e}", isa.name(), value.to_bits());
        }
    });
}

#[test]
fn a_buffer_and_a_pool_of_bf16() {
    let mut buffer = Buffer::<bf16>::zeros(5);
    assert_eq!(buffer.as_ptr() as usize % 64, 0);
    assert_eq!(*buffer, [bf16::ZERO; 5]);
    buffer.at_least(100)[99] = bf16::ONE;
    assert_eq!(buffer.len(), 100);
    let image: Vec<bf16> = narrowed(&[1.0, -2.0, 3.0, 6.0]);
    let (mut sums, mut mean) = ([0.0; 2], [0.0; 2]);
    pooling::global_average(Isa::best(), &image, &mut sums, &mut mean);
    assert_eq!(mean, [2.0, 2.0]);
    assert_eq!(<bf16 as Element>::from_f32(1.0 + 1.0 / 256.0), bf16::ONE, "of two equally near the even one");
}

#[test]
fn bytes_are_normalised_by_channel_with_the_same_bits_everywhere() {
    let (scale, offset) = ([0.017, 0.0175, -0.3, 2.0], [-2.1, -2.04, 7.5, 0.25]);
    for isa in Isa::testable() {
        for channels in 1..=4 {
            for pixels in [0, 1, 2, 5, 16, 31, 64, 300] {
                let from: Vec<u8> = (0..pixels * channels).map(|at| (at * 37 % 256) as u8).collect();
                let mut to = vec![f32::NAN; from.len()];
                element::normalise(isa, &from, (&scale[..channels], &offset[..channels]), &mut to);
                for (at, (&value, &byte)) in to.iter().zip(&from).enumerate() {
                    let expected = f32::from(byte) * scale[at % channels] + offset[at % channels];
                    assert_eq!(value.to_bits(), expected.to_bits(), "{} {channels} {at}", isa.name());
                }
            }
        }
    }
}

#[test]
fn f16_is_rounded_to_the_nearest_and_widened_exactly() {
    let mut values =
        vec![0.0, -0.0, 65504.0, 65519.9, 65520.0, 1e6, -1e6, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    for upper in [0x3c00u32, 0x3c01, 0xc2ff, 0x7bfe, 0x0000, 0x0001, 0x8001, 0x03ff, 0x0400] {
        let value = f16::from_bits(upper as u16).to_f32();
        // Around the middle between it and the next.
        let next = f16::from_bits(upper as u16 + 1).to_f32();
        let middle = (value + next) / 2.0;
        values.extend([
            value,
            middle,
            f32::from_bits(middle.to_bits() + 1),
            f32::from_bits(middle.to_bits() - 1),
        ]);
    }
    let mut random = Random(3);
    values.extend((0..1000).map(|_| f32::from_bits(random.next() as u32)));
    values.extend(random.values(1000));
    on_every_isa(|isa| {
        for len in [values.len(), 1, 3, 17, 31] {
            let values = &values[..len];
            let mut narrow = vec![f16::ONE; len];
            element::convert(isa, values, &mut narrow);
            for (found, &value) in narrow.iter().zip(values) {
                let expected = f16::from_f32(value);
                let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                assert!(same, "{}: {value:e} became {found:e}", isa.name());
            }
            let mut wide = vec![0.0f32; len];
            element::convert(isa, &narrow, &mut wide);
            for (found, value) in wide.iter().zip(narrow) {
                let expected = value.to_f32();
                let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
                assert!(same, "{}: {value:e} became {found:e}", isa.name());
            }
        }
    });
}

#[test]
fn values_are_added_to_as_many_others() {
    on_every_isa(|isa| {
        for len in [0, 1, 7, 16, 33, 100] {
            let mut random = Random(len as u64);
            let (values, mut sums) = (random.values(len), random.values(len));
            let expected: Vec<f32> = values.iter().zip(&sums).map(|(value, sum)| sum + value).collect();
            element::accumulate(isa, &values, &mut sums);
            assert_eq!(sums, expected, "{} {len}", isa.name());
        }
    });
}

/// Parts of any length, wherever they begin, past the caches or not; and nothing beyond them.
fn check_parts<E: Element + PartialEq>(isa: Isa, large: bool) {
    let value = |index: usize| E::from_f32(index as f32 % 251.0 - 125.0);
    let mut map = [E::from_f32(777.0); 1300];
    let mut memory = Buffer::<E>::default();
    for first in [0, 1, 5, 16] {
        map.fill(E::from_f32(777.0));
        let mut written = 0;
        write_parts(isa, large, &mut memory, &mut map[first..first + 1000], |parts| {
            for len in [64, 1, 0, 200, 31, 33, 500] {
                parts.part(len, |part| {
                    assert_eq!(part.len(), len);
                    part.iter_mut().zip(written..).for_each(|(to, index)| *to = value(index));
                });
                written += len;
            }
        });
        for (index, &found) in map.iter().enumerate() {
            let inside = index.checked_sub(first).filter(|&index| index < written);
            let expected = inside.map_or(E::from_f32(777.0), value);
            assert!(found == expected, "{} from {first}, value {index}", isa.name());
        }
    }
}

#[test]
fn maps_are_written_in_parts() {
    on_every_isa(|isa| {
        for large in [true, false] {
            check_parts::<f32>(isa, large);
            check_parts::<bf16>(isa, large);
            check_parts::<f16>(isa, large);
        }
    });
}

#[test]
#[should_panic(expected = "part of 6 values, 5 are left")]
fn parts_end_with_the_map() {
    write_parts(Isa::best(), true, &mut Buffer::default(), &mut [0.0; 9], |parts| {
        parts.part(4, |part| part.fill(1.0));
        parts.part(6, |part| part.fill(1.0));
    });
}

#[test]
fn bits_that_stand_for_nothing_go_past_the_caches_as_they_are() {
    on_every_isa(|isa| {
        // (A signalling NaN, a denormal number and a negative zero.)
        let odd = [0x7fa0_0001, 0x0000_0001, 0x8000_0000].map(f32::from_bits);
        let mut map = vec![0.0; 96];
        write_parts(isa, true, &mut Buffer::default(), &mut map, |parts| {
            parts.part(96, |part| part.iter_mut().zip(odd.iter().cycle()).for_each(|(to, &odd)| *to = odd));
        });
        for (found, expected) in map.iter().zip(odd.iter().cycle()) {
            assert_eq!(found.to_bits(), expected.to_bits(), "{}", isa.name());
        }
    });
}
