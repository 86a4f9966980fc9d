//! Full 3×3 convolution by rows, straight from padded input rows: the sum over the taps runs in the
//! registers of the product's tile, so that no patch is ever written.

use crate::element::Element;
use crate::gemm::{Across, Epilogue, MatrixMut, PackedB, Panels, Tile, panel_width};
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, TILE_VECTORS, VALUE, dispatch};

/// How a row of output pixels reads a padded input row without gaps between its pixels: output x,
/// tap k reads pixel `x * stride + k * dilation`.
#[derive(Clone, Copy, Debug)]
pub struct ConvGeometry {
    /// Pixels of an output row.
    pub outputs: usize,
    /// Channels of an input pixel.
    pub channels: usize,
    /// Pixels between neighbouring outputs.
    pub stride: usize,
    /// Pixels between neighbouring taps.
    pub dilation: usize,
}

impl ConvGeometry {
    /// Values that a padded input row must have.
    pub fn input_len(&self) -> usize {
        match self.outputs {
            0 => 0,
            outputs => ((outputs - 1) * self.stride + 2 * self.dilation + 1) * self.channels,
        }
    }
}

/// Rows of output pixels, each from three padded input rows. Row y·outputs + x of `output` is
/// `epilogue(Σ inputs[y][ky][x·stride + kx·dilation][c] · filter[[ky][kx][c]])`, for the columns
/// `first_column..first_column + output.columns` of the filter.
///
/// # Panics
/// If a length does not fit, or `first_column` is not a multiple of [`crate::gemm::column_step`].
pub fn convolve_rows<C: Element>(
    geometry: ConvGeometry,
    inputs: &[[&[f32]; 3]],
    filter: &PackedB,
    first_column: usize,
    output: MatrixMut<C>,
    epilogue: Epilogue,
) {
    assert_eq!(filter.k(), 9 * geometry.channels, "rows of the filter: [3][3][channels]");
    let needed = geometry.input_len();
    for row in inputs.as_flattened() {
        assert!(row.len() >= needed, "padded row of {} values, {needed} needed", row.len());
    }
    assert_eq!(output.rows, inputs.len() * geometry.outputs, "rows of pixels of the output");
    check_columns(filter.isa, filter.n(), first_column, output.columns, epilogue);
    // SAFETY: the rows are as long as the geometry needs; the filter's panels from `first_column` on
    // cover the output's columns, and so do the epilogue's values.
    unsafe { dispatch(filter.isa, ConvolveRows { geometry, inputs, filter, first_column, output, epilogue }) }
}

/// That the filter's `outputs` cover the columns from `first_column` on, and the epilogue too.
pub(crate) fn check_columns(
    isa: Isa,
    outputs: usize,
    first_column: usize,
    columns: usize,
    epilogue: Epilogue,
) {
    assert!(
        first_column.is_multiple_of(panel_width(isa)) && first_column + columns <= outputs,
        "columns of the output against the filter's"
    );
    epilogue.check(outputs);
}

struct ConvolveRows<'a, C> {
    geometry: ConvGeometry,
    inputs: &'a [[&'a [f32]; 3]],
    filter: &'a PackedB,
    first_column: usize,
    output: MatrixMut<'a, C>,
    epilogue: Epilogue<'a>,
}

impl<C: Element> Kernel for ConvolveRows<'_, C> {
    type Output = ();
    const BF16: bool = C::BF16;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { geometry, inputs, filter, first_column, output, epilogue } = self;
        let ConvGeometry { outputs, channels, stride, dilation } = geometry;
        // Neighbouring taps are one run of values, those of a dilated filter three.
        let runs = if dilation == 1 { 1 } else { 3 };
        let width = S::LANES * TILE_VECTORS;
        let across = Across::new::<S>(outputs, output.columns);
        for index in 0..across.tiles() {
            let place = across.place(index);
            let column = first_column + place.column;
            let tile = Tile {
                steps: 3 * channels / runs,
                half_step: false,
                a_row: stride * channels * VALUE,
                a_step: VALUE,
                b_step: width * VALUE,
                b_others: place.panels_away::<S>(filter.k() * width) * VALUE as isize,
                c_row: output.stride,
                columns: place.columns,
                others: place.others,
                accumulate: false,
                bias: epilogue.bias.map(|bias| bias[column..].as_ptr()),
                clamp: epilogue.clamp,
                lowered: epilogue.lowered.map(|lowered| lowered[column..].as_ptr()),
                ahead: Panels::one(filter.data.as_ptr(), 0),
                next: filter.data.as_ptr(),
                next_len: 0,
            };
            for (y, rows) in inputs.iter().enumerate() {
                let mut segments = [rows[0].as_ptr(); 9];
                for (ky, row) in rows.iter().enumerate() {
                    for run in 0..runs {
                        segments[ky * runs + run] = row.as_ptr().wrapping_add(run * dilation * channels);
                    }
                }
                let to = output.data.wrapping_add(y * outputs * output.stride + place.column);
                // SAFETY: `convolve_rows` checked inputs, panels and bias, and that the output has
                // so many rows of its stride.
                unsafe {
                    let b = filter.data.as_ptr().add(column * filter.k());
                    tile.down::<S, _>(s, outputs, &segments[..3 * runs], b, to);
                }
            }
        }
    }
}
