//! Products of bf16 by f32 arithmetic: B is widened on its way into registers, and a tile's rows of A a
//! block at a time, since one instruction widens many values, but must be spent on each that is taken alone.

use half::bf16;

use super::Product;
use super::tile::{self, Multiply, Scratch};
use crate::element::Element;
use crate::simd::{self, Kernel, Simd, dispatch, for_channel_blocks};

/// # Safety
/// The product's shapes must fit.
pub(super) unsafe fn run<C: Element>(product: Product<C>) {
    let isa = product.b.isa;
    // SAFETY: the caller's promise.
    unsafe { dispatch(isa, product) }
}

impl<C: Element> Kernel for Product<'_, C> {
    type Output = ();
    const BF16: bool = true;

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        // SAFETY: the caller's promises.
        unsafe { tile::run(Widened(s), self) }
    }
}

#[derive(Clone, Copy)]
struct Widened<S>(S);

// SAFETY (of every block below): the caller's promises, see the trait.
#[allow(clippy::undocumented_unsafe_blocks)]
impl<S: Simd> Multiply for Widened<S> {
    type Simd = S;
    type Factors = S::V;
    type A = f32;
    const STEP: usize = 1;

    #[inline(always)]
    fn simd(self) -> S {
        self.0
    }
    #[inline(always)]
    unsafe fn columns(self, from: *const bf16) -> S::V {
        unsafe { self.0.load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn prepare(
        self,
        (a, a_row): (*const bf16, usize),
        rows: usize,
        k: usize,
        scratch: &mut Scratch,
    ) -> (*const f32, usize) {
        for row in 0..rows {
            let to = scratch.row(row);
            assert!(k <= to.len());
            for_channel_blocks!(S, k, |at, n, PARTIAL| unsafe {
                let values = simd::load::<S, PARTIAL>(self.0, a.add(row * a_row + at), n);
                simd::store::<S, PARTIAL>(self.0, to.as_mut_ptr().add(at), values, n);
            });
        }
        let row = scratch.row(0);
        (row.as_ptr(), row.len())
    }
    #[inline(always)]
    unsafe fn splat(self, from: *const f32) -> S::V {
        unsafe { self.0.splat(*from) }
    }
    #[inline(always)]
    unsafe fn splat_last(self, from: *const f32) -> S::V {
        unsafe { self.splat(from) }
    }
    #[inline(always)]
    unsafe fn multiply_add(self, a: S::V, b: S::V, sum: S::V) -> S::V {
        unsafe { self.0.mul_add(a, b, sum) }
    }
}
