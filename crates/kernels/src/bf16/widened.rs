//! Products of bf16 by f32 arithmetic: values are widened on their way into registers.

use half::bf16;

use super::Product;
use super::tile::{self, Multiply};
use crate::element::Element;
use crate::simd::{Kernel, Simd, dispatch};

/// # Safety
/// The product's shapes must fit.
pub(super) unsafe fn run<C: Element>(product: Product<C>) {
    let isa = product.b.isa;
    // SAFETY: the caller's promise.
    unsafe { dispatch(isa, product) }
}

impl<C: Element> Kernel for Product<'_, C> {
    type Output = ();

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
    unsafe fn splat(self, from: *const bf16) -> S::V {
        // (Not `to_f32`, which looks for NaN first.)
        unsafe { self.0.splat(f32::from_bits(u32::from((*from).to_bits()) << 16)) }
    }
    #[inline(always)]
    unsafe fn splat_last(self, from: *const bf16) -> S::V {
        unsafe { self.splat(from) }
    }
    #[inline(always)]
    unsafe fn multiply_add(self, a: S::V, b: S::V, sum: S::V) -> S::V {
        unsafe { self.0.mul_add(a, b, sum) }
    }
}
