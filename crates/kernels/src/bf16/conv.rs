//! Full 3×3 convolution by rows with a filter in bf16: the stem of a network.
//!
//! In tiles (AMX) no patch is written either: a row of a tile of A begins where an output pixel's
//! three neighbouring input pixels do and takes what follows them along, which meets zeros in B. A step
//! of k is one row of the filter.

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::PackedBf16;
#[cfg(target_arch = "x86_64")]
use super::amx::{self, K_STEP, TileRows};
use crate::buffer::Buffer;
use crate::conv::{self, ConvGeometry};
use crate::element::Element;
#[cfg(target_arch = "x86_64")]
use crate::element::convert;
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
    /// For tiles: rows `[ky][kx][in]`, each `ky` filled up to a step.
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
        if isa.0 == Kind::Amx && 3 * channels <= K_STEP && dilation == 1 {
            let mut packed = PackedBf16::new(isa, 3 * K_STEP, outputs);
            packed.pack_with(|row, out| match row % K_STEP {
                at if at < 3 * channels => value(row / K_STEP * 3 * channels + at, out),
                _ => 0.0,
            });
            return Self(Packed::Tiles(packed));
        }
        let _ = dilation;
        let mut packed = PackedB::new(isa, 9 * channels, outputs);
        packed.pack_with(value);
        Self(Packed::Wide(packed))
    }
}

/// [`conv::convolve_rows`] with a filter in bf16. In tiles the inputs are rounded to bf16 as well; they
/// should be finite (an infinite value makes pixels NaN that are no neighbours of it).
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
    let ConvGeometry { outputs, channels, stride, dilation } = geometry;
    assert!(3 * channels <= K_STEP && dilation == 1, "geometry of the filter");
    assert_eq!(output.rows, inputs.len() * outputs, "rows of pixels of the output");
    conv::check_columns(filter.isa, filter.n(), first_column, output.columns, epilogue);
    let needed = geometry.input_len();
    // What the last pixel's step reads beyond them is zero.
    let row_len = (needed + K_STEP).next_multiple_of(K_STEP);
    let rows = scratch.at_least(3 * inputs.len() * row_len);
    for (from, to) in inputs.as_flattened().iter().zip(rows.chunks_exact_mut(row_len)) {
        assert!(from.len() >= needed, "padded row of {} values, {needed} needed", from.len());
        let (values, slack) = to.split_at_mut(needed);
        convert(filter.isa, &from[..needed], values);
        slack.fill(bf16::ZERO);
    }
    let across = outputs.div_ceil(amx::TILE_ROWS);
    let pixels = Pixels {
        rows: &*rows,
        row_len,
        outputs,
        stride: stride * channels,
        across,
        count: inputs.len() * across,
        height: outputs.div_ceil(across.max(1)),
    };
    // SAFETY: what the rows hold was checked, and that the panels and the bias cover the columns; the
    // filter is packed for tiles only where they are.
    unsafe { amx::run(&pixels, filter, first_column, output, epilogue) }
}

/// Rows of output pixels, from three input rows each.
#[cfg(target_arch = "x86_64")]
struct Pixels<'a> {
    rows: &'a [bf16],
    row_len: usize,
    outputs: usize,
    /// Values between the inputs of neighbouring outputs.
    stride: usize,
    /// Tile rows of a row of outputs,
    across: usize,
    /// and of all rows.
    count: usize,
    /// Outputs of a tile row.
    height: usize,
}

#[cfg(target_arch = "x86_64")]
impl Pixels<'_> {
    /// The first output of a tile row.
    fn output(&self, tile: usize) -> usize {
        (tile % self.across * self.height).min(self.outputs - self.height)
    }
}

#[cfg(target_arch = "x86_64")]
impl TileRows for Pixels<'_> {
    fn count(&self) -> usize {
        self.count
    }

    fn height(&self) -> usize {
        self.height
    }

    fn stride(&self) -> usize {
        self.stride
    }

    fn segments(&self) -> usize {
        3
    }

    fn k(&self) -> usize {
        K_STEP
    }

    fn row(&self, tile: usize) -> usize {
        tile / self.across * self.outputs + self.output(tile)
    }

    fn start(&self, tile: usize, segment: usize) -> *const bf16 {
        let row = (3 * (tile / self.across) + segment) * self.row_len;
        self.rows[row + self.output(tile) * self.stride..].as_ptr()
    }
}
