//! Matrix products of bf16 with sums in f32: half the memory traffic of f32 and, with AMX, many times its
//! arithmetic.
//!
//! Three ways to the same sums, up to their order, by instruction set:
//!
//! - `amx`: products of whole tiles (TDPBF16PS);
//! - `avx512bf16`: products of pairs in vectors (VDPBF16PS);
//! - any other: f32 arithmetic on widened values.
//!
//! The first two take denormal values as zero, as their instructions do. So it is with the
//! transposed product ([`gemm_transposed`]).

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_transposed;
pub mod conv;
#[cfg(target_arch = "x86_64")]
mod end;
mod packed;
#[cfg(target_arch = "x86_64")]
mod pairs;
pub(crate) mod peak;
#[cfg(target_arch = "x86_64")]
mod registers;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod transposed;
mod widened;

use half::{bf16, f16};

use crate::element::Element;
use crate::extent::covers;
use crate::gemm::{Ahead, Epilogue, MatrixMut, MatrixRef, panel_width};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Kind;

pub use packed::PackedBf16;
pub use transposed::gemm_transposed;

/// C = epilogue(A·B), for the columns of C: `first_column..first_column + c.columns` of B. C is f32, or
/// bf16 or f16 that is rounded once, after bias and clamp in f32.
///
/// Each element is one sum over k in an order that depends on k only, so the bits do not depend on
/// how rows or columns are spread over calls, as long as `first_column` is a multiple of
/// [`column_step`]. What lies between the rows of A has no influence.
///
/// # Panics
/// If shapes do not fit, or `first_column` is not a multiple of [`column_step`].
pub fn gemm<C: Element>(
    a: MatrixRef<bf16>,
    b: &PackedBf16,
    first_column: usize,
    c: MatrixMut<C>,
    epilogue: Epilogue,
) {
    gemm_ahead(a, b, first_column, c, epilogue, Ahead::default());
}

/// [`gemm`], which asks for `ahead` meanwhile. (Not in tiles, which leave nothing idle.)
///
/// # Panics
/// As [`gemm`].
pub fn gemm_ahead<C: Element>(
    a: MatrixRef<bf16>,
    b: &PackedBf16,
    first_column: usize,
    c: MatrixMut<C>,
    epilogue: Epilogue,
    ahead: Ahead,
) {
    assert_eq!(a.columns, b.k(), "columns of A against rows of B");
    assert_eq!(a.rows, c.rows, "rows of A against rows of C");
    assert!(
        first_column.is_multiple_of(column_step(b.isa)) && covers(b.n(), first_column, c.columns),
        "columns of C against B"
    );
    epilogue.check(b.n());
    let product = Product { a, b, first_column, c, epilogue, ahead };
    // SAFETY: the constructors of the matrices checked their extents; the panels from
    // `first_column` on cover C's columns, and the bias covers them too.
    unsafe { product.run() }
}

/// Columns of B that share a panel: the granularity of [`gemm`]'s `first_column`.
pub fn column_step(isa: Isa) -> usize {
    panel_width(isa)
}

/// Makes products in tiles on this thread take it that tile registers are few, or many, for tests of both: they
/// find out by themselves.
#[doc(hidden)]
pub fn assume_few_tile_registers(few: bool) {
    #[cfg(target_arch = "x86_64")]
    registers::assume(few);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = few;
}

/// A row stride for matrices of `columns` values of bf16: whole cache lines, so that no vector or tile
/// row of an aligned matrix straddles two, and an odd number of them, so that the rows of a matrix
/// whose width is a power of two do not fall on the same cache sets. [`gemm`] takes any stride.
pub fn padded_stride(isa: Isa, columns: usize) -> usize {
    const LINE: usize = 32;
    let lines = columns.next_multiple_of(panel_width(isa)).div_ceil(LINE);
    (lines | 1) * LINE
}

/// A product whose shapes fit.
struct Product<'a, C> {
    a: MatrixRef<'a, bf16>,
    b: &'a PackedBf16,
    first_column: usize,
    c: MatrixMut<'a, C>,
    epilogue: Epilogue<'a>,
    ahead: Ahead<'a>,
}

impl<C: Element> Product<'_, C> {
    /// Computes it, by a function that is not generic: such are compiled in this crate once, generic ones in every
    /// crate that calls them.
    ///
    /// # Safety
    /// The shapes must fit.
    unsafe fn run(self) {
        let Self { a, b, first_column, c, epilogue, ahead } = self;
        // SAFETY: the caller's promise; C is the type that it says it is.
        unsafe {
            match (C::BF16, C::F16) {
                (true, _) => to_bf16(Product { a, b, first_column, c: c.of_type(), epilogue, ahead }),
                (_, true) => to_f16(Product { a, b, first_column, c: c.of_type(), epilogue, ahead }),
                _ => to_f32(Product { a, b, first_column, c: c.of_type(), epilogue, ahead }),
            }
        }
    }

    /// Computes it as the instruction set does.
    ///
    /// # Safety
    /// The shapes must fit.
    unsafe fn by_isa(self) {
        match self.b.isa.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's promise; an `Isa` exists only where its instructions do.
            Kind::Amx => unsafe { amx::gemm(self) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kind::Avx512Bf16 => unsafe { pairs::run(self) },
            _ => widened::run(self),
        }
    }
}

/// # Safety
/// As [`Product::run`].
#[inline(never)]
unsafe fn to_f32(product: Product<f32>) {
    // SAFETY: the caller's promise.
    unsafe { product.by_isa() }
}

/// # Safety
/// As [`Product::run`].
#[inline(never)]
unsafe fn to_bf16(product: Product<bf16>) {
    // SAFETY: the caller's promise.
    unsafe { product.by_isa() }
}

/// # Safety
/// As [`Product::run`].
#[inline(never)]
unsafe fn to_f16(product: Product<f16>) {
    // SAFETY: the caller's promise.
    unsafe { product.by_isa() }
}
