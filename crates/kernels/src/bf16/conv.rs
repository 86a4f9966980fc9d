//! Full 3×3 convolution by rows with a filter in bf16: the stem of a network.
//!
//! In tiles (AMX) the patches of a few rows are written, rounded to bf16: a colour image's have 27 values, which is
//! one step of k. (Without patches a row of a tile could begin where an output pixel's neighbours do and take along
//! what follows them, which meets zeros in B; but then a step is one row of the filter, and tiles take three.)

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::amx::K_STEP;
#[cfg(target_arch = "x86_64")]
use super::{PackedBf16, gemm};
use crate::buffer::Buffer;
use crate::conv::{self, ConvGeometry};
use crate::element::Element;
#[cfg(target_arch = "x86_64")]
use crate::gemm::MatrixRef;
use crate::gemm::{Epilogue, MatrixMut, PackedB};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Kind;

/// A packed filter.
#[derive(Clone, Debug)]
pub struct ConvFilter(Packed);

#[derive(Clone, Debug)]
enum Packed {
    /// For sums of products in f32.
    Wide(PackedB),
    /// For tiles: rows `[ky][kx][in]`, filled up to a step.
    #[cfg(target_arch = "x86_64")]
    Tiles(PackedBf16),
}

impl ConvFilter {
    /// Packs the filter `value([ky][kx][in], out)` for images of so many channels.
    pub fn new(
        isa: Isa,
        (channels, dilation): (usize, usize),
        outputs: usize,
        value: impl Fn(usize, usize) -> f32,
    ) -> Self {
        #[cfg(target_arch = "x86_64")]
        if isa.0 == Kind::Amx && 9 * channels <= K_STEP && dilation == 1 {
            let mut packed = PackedBf16::new(isa, K_STEP, outputs);
            packed.pack_with(|row, out| if row < 9 * channels { value(row, out) } else { 0.0 });
            return Self(Packed::Tiles(packed));
        }
        let _ = dilation;
        let mut packed = PackedB::new(isa, 9 * channels, outputs);
        packed.pack_with(value);
        Self(Packed::Wide(packed))
    }
}

/// [`conv::convolve_rows`] with a filter in bf16. In tiles the inputs are rounded to bf16 as well.
///
/// # Panics
/// As [`conv::convolve_rows`].
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub fn convolve_rows<C: Element>(
    geometry: ConvGeometry,
    inputs: &[[&[f32]; 3]],
    filter: &ConvFilter,
    first_column: usize,
    output: MatrixMut<C>,
    epilogue: Epilogue,
    scratch: &mut Buffer<bf16>,
) {
    match &filter.0 {
        Packed::Wide(filter) => conv::convolve_rows(geometry, inputs, filter, first_column, output, epilogue),
        #[cfg(target_arch = "x86_64")]
        Packed::Tiles(filter) => {
            in_tiles(geometry, inputs, filter, first_column, output, epilogue, scratch);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn in_tiles<C: Element>(
    geometry: ConvGeometry,
    inputs: &[[&[f32]; 3]],
    filter: &PackedBf16,
    first_column: usize,
    output: MatrixMut<C>,
    epilogue: Epilogue,
    scratch: &mut Buffer<bf16>,
) {
    let ConvGeometry { outputs, channels, dilation, .. } = geometry;
    assert!(9 * channels <= K_STEP && dilation == 1, "geometry of the filter");
    assert_eq!(output.rows, inputs.len() * outputs, "rows of pixels of the output");
    let needed = geometry.input_len();
    let patches = scratch.at_least(inputs.len() * outputs * K_STEP);
    for (rows, patches) in inputs.iter().zip(patches.chunks_exact_mut((outputs * K_STEP).max(1))) {
        for row in rows {
            assert!(row.len() >= needed, "padded row of {} values, {needed} needed", row.len());
        }
        // SAFETY: the rows are as long as was checked, a filter is packed for tiles only where AVX-512 and its
        // bf16 instructions are, and so many patches fit.
        unsafe { gather(geometry, rows.map(<[f32]>::as_ptr), patches.as_mut_ptr()) };
    }
    let patches = MatrixRef::new(patches, output.rows, K_STEP, K_STEP);
    gemm(patches, filter, first_column, output, epilogue);
}

/// The patches of a row of outputs, in bf16: of each output its nine pixels, and zeros up to a step.
///
/// # Safety
/// AVX-512F, BW, VL and BF16 must be present, the three rows hold what the geometry asks for, and a patch have no
/// more than a step.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
unsafe fn gather(geometry: ConvGeometry, rows: [*const f32; 3], patches: *mut bf16) {
    use std::arch::x86_64::*;

    /// Values of a vector: half of a patch.
    const LANES: usize = K_STEP / 2;
    let ConvGeometry { outputs, channels, stride, .. } = geometry;
    let run = 3 * channels;
    // Of each row its place in the patch, the part of it in either half.
    let part = |row: usize, half: usize| {
        let bits = ((1u32 << run) - 1) << (row * run);
        (bits >> (half * LANES)) as __mmask16
    };
    for output in 0..outputs {
        let at = output * stride * channels;
        // SAFETY: only those lanes of a vector are read that are values of a row.
        unsafe {
            let mut halves = [_mm512_setzero_ps(); 2];
            for (half, v) in halves.iter_mut().enumerate() {
                for (row, start) in rows.into_iter().enumerate() {
                    let from = start.wrapping_add(at + half * LANES).wrapping_sub(row * run);
                    *v = _mm512_mask_loadu_ps(*v, part(row, half), from);
                }
            }
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(halves[1], halves[0]));
            _mm512_storeu_si512(patches.add(output * K_STEP).cast(), both);
        }
    }
}
