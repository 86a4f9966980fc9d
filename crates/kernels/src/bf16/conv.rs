//! Full 3×3 convolution by rows with a filter in bf16: the stem of a network.
//!
//! Where products are of pairs (`avx512bf16`, `amx`) the patches of a few rows are written, rounded to bf16: a colour
//! image's have 27 values, which in tiles is one step of k. (Without patches a row of a tile could begin where an output
//! pixel's neighbours do and take along what follows them, which meets zeros in B; but then a step is one row of the
//! filter, and tiles take three.)

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::packed::depth_step;
#[cfg(target_arch = "x86_64")]
use super::{PackedBf16, gemm_ahead};
use crate::buffer::Buffer;
use crate::conv::{self, ConvGeometry, Unpadded};
#[cfg(target_arch = "x86_64")]
use crate::depthwise::Present;
#[cfg(target_arch = "x86_64")]
use crate::element;
use crate::element::Element;
#[cfg(target_arch = "x86_64")]
use crate::extent::extent;
#[cfg(target_arch = "x86_64")]
use crate::gemm::{Ahead, MatrixRef};
use crate::gemm::{Epilogue, MatrixMut, PackedB};
use crate::isa::Isa;

/// A packed filter.
#[derive(Clone, Debug)]
pub struct ConvFilter(Packed);

#[derive(Clone, Debug)]
enum Packed {
    /// For sums of products in f32.
    Wide(PackedB),
    /// For products of pairs: rows `[ky][kx][in]`, filled up to whole pairs, or to a step of tiles.
    #[cfg(target_arch = "x86_64")]
    Pairs { filter: PackedBf16, channels: usize },
}

/// Values from one patch to the next: a vector.
#[cfg(target_arch = "x86_64")]
const PATCH: usize = 32;

impl ConvFilter {
    /// Packs the filter `value([ky][kx][in], out)` for images of so many channels.
    pub fn new(
        isa: Isa,
        (channels, dilation): (usize, usize),
        outputs: usize,
        value: impl Fn(usize, usize) -> f32,
    ) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(step) = depth_step(isa)
            && 9 * channels <= PATCH
            && dilation == 1
        {
            let k = (9 * channels).next_multiple_of(step);
            let mut packed = PackedBf16::new(isa, k, outputs);
            packed.pack_with(|row, out| if row < 9 * channels { value(row, out) } else { 0.0 });
            return Self(Packed::Pairs { filter: packed, channels });
        }
        let _ = dilation;
        let mut packed = PackedB::new(isa, 9 * channels, outputs);
        packed.pack_with(value);
        Self(Packed::Wide(packed))
    }

    /// Values of scratch memory that [`convolve_rows`] needs for so many `rows` of outputs, each from three rows of so
    /// many `pixels`.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn scratch_len(&self, rows: usize, outputs: usize, pixels: usize) -> usize {
        match &self.0 {
            Packed::Wide(_) => 0,
            #[cfg(target_arch = "x86_64")]
            Packed::Pairs { channels, .. } => {
                let patches = rows.saturating_mul(extent(outputs, PATCH, PATCH));
                let rounded = extent(pixels, *channels, *channels).next_multiple_of(PATCH);
                patches.saturating_add(rounded.saturating_mul(3).saturating_mul(rows))
            }
        }
    }
}

/// [`conv::convolve_rows`] with a filter in bf16. Where products are of pairs, the inputs are rounded to bf16 as well.
///
/// # Panics
/// As [`conv::convolve_rows`].
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub fn convolve_rows<C: Element>(
    (geometry, unpadded): (ConvGeometry, Option<Unpadded>),
    inputs: &[[&[f32]; 3]],
    filter: &ConvFilter,
    first_column: usize,
    output: MatrixMut<C>,
    epilogue: Epilogue,
    scratch: &mut Buffer<bf16>,
) {
    match &filter.0 {
        Packed::Wide(filter) => {
            conv::convolve_rows((geometry, unpadded), inputs, filter, first_column, output, epilogue);
        }
        #[cfg(target_arch = "x86_64")]
        Packed::Pairs { filter: packed, channels } => {
            assert_eq!(geometry.channels, *channels, "channels of the filter");
            let present = geometry.input_len() / channels.max(&1);
            let present = unpadded.map_or(present, |unpadded| unpadded.present.count);
            let scratch = scratch.at_least(filter.scratch_len(inputs.len(), geometry.outputs, present));
            by_patches((geometry, unpadded), inputs, packed, first_column, output, epilogue, scratch);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn by_patches<C: Element>(
    (geometry, unpadded): (ConvGeometry, Option<Unpadded>),
    inputs: &[[&[f32]; 3]],
    filter: &PackedBf16,
    first_column: usize,
    output: MatrixMut<C>,
    epilogue: Epilogue,
    scratch: &mut [bf16],
) {
    let ConvGeometry { outputs, channels, dilation, .. } = geometry;
    assert!(filter.k() <= PATCH && dilation == 1, "geometry of the filter");
    assert_eq!(output.rows, extent(inputs.len(), outputs, outputs), "rows of pixels of the output");
    let padded = Present { left: 0, count: geometry.input_len() / channels.max(1) };
    let present = unpadded.map_or(padded, |unpadded| unpadded.present);
    let ahead = unpadded.map_or(&[][..], |unpadded| unpadded.ahead);
    let needed = extent(present.count, channels, channels);
    // Behind the patches the rows, rounded: each once, where output rows that follow one another share them.
    let patches_len = inputs.len() * outputs * PATCH;
    let row_len = needed.next_multiple_of(PATCH);
    let (patches, mut free) = scratch.split_at_mut(patches_len);
    let mut before: [(*const f32, *const bf16); 3] = [(std::ptr::null(), std::ptr::null()); 3];
    for (rows, patches) in inputs.iter().zip(patches.chunks_exact_mut((outputs * PATCH).max(1))) {
        let rounded = rows.map(|row| {
            assert!(row.len() >= needed, "row of {} values, {needed} needed", row.len());
            if let Some(&(_, rounded)) = before.iter().find(|(known, _)| *known == row.as_ptr()) {
                return rounded;
            }
            let (to, rest) = std::mem::take(&mut free).split_at_mut(row_len);
            free = rest;
            element::convert(filter.isa, &row[..needed], &mut to[..needed]);
            to.as_ptr()
        });
        before = std::array::from_fn(|at| (rows[at].as_ptr(), rounded[at]));
        // SAFETY: the rows are as long as was checked, a filter is packed for pairs only where AVX-512 and its
        // bf16 instructions are, and so many patches fit.
        unsafe { gather(geometry, present, rounded, patches.as_mut_ptr()) };
    }
    let patches = MatrixRef::new(patches, output.rows, filter.k(), PATCH);
    gemm_ahead(patches, filter, first_column, output, epilogue, Ahead::of([ahead, &[]]));
}

/// The patches of a row of outputs: of each output its nine pixels, zeros for those that are not `present`,
/// and zeros behind them.
///
/// # Safety
/// AVX-512F, BW and VL must be present, the three rows hold the pixels that are said to be present, and a patch
/// have no more than [`PATCH`] values.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma")]
unsafe fn gather(geometry: ConvGeometry, present: Present, rows: [*const bf16; 3], patches: *mut bf16) {
    let ConvGeometry { outputs, channels, stride, .. } = geometry;
    let whole = geometry.whole(present);
    let all = ((1u64 << (9 * channels)) - 1) as u32;
    // SAFETY: the caller's promises; of the others only those pixels are read that are there.
    unsafe {
        for output in (0..whole.start).chain(whole.end..outputs) {
            let mut lanes = 0;
            for pixel in (0..3)
                .filter(|k| (present.left..present.left + present.count).contains(&(output * stride + k)))
            {
                for row in 0..3 {
                    lanes |= ((1u32 << channels) - 1) << ((row * 3 + pixel) * channels);
                }
            }
            patch(geometry, present, rows, lanes, output, patches);
        }
        for output in whole {
            patch(geometry, present, rows, all, output, patches);
        }
    }
}

/// The patch of one output, of which so many `lanes` are there.
///
/// # Safety
/// As [`gather`], for pixels whose lanes are there.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn patch(
    geometry: ConvGeometry,
    present: Present,
    rows: [*const bf16; 3],
    lanes: u32,
    output: usize,
    patches: *mut bf16,
) {
    use std::arch::x86_64::*;

    let ConvGeometry { channels, stride, .. } = geometry;
    let run = 3 * channels;
    let at = (output * stride * channels).wrapping_sub(present.left * channels);
    // SAFETY: only those lanes of a vector are read that are values of a row.
    unsafe {
        let mut v = _mm512_setzero_si512();
        for (row, start) in rows.into_iter().enumerate() {
            // Of the row its place in the patch.
            let part = lanes & (((1u32 << run) - 1) << (row * run));
            let from = start.wrapping_add(at.wrapping_sub(row * run));
            v = _mm512_mask_loadu_epi16(v, part, from.cast());
        }
        _mm512_storeu_si512(patches.add(output * PATCH).cast(), v);
    }
}
