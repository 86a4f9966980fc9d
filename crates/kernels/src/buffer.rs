//! Memory for activations and weights that starts on a cache line.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use crate::element::Element;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

const LINE: usize = 64;

/// A slice whose first value starts a cache line, so that the vector loads of rows that are whole
/// lines never straddle two.
#[derive(Clone)]
pub struct Buffer<T = f32> {
    lines: Vec<Line>,
    len: usize,
    values: PhantomData<T>,
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), len: 0, values: PhantomData }
    }
}

/// Lines for `len` values. (An element is plain bits, of which all zeros are the value zero.)
fn lines<T: Element>(len: usize) -> usize {
    (len * size_of::<T>()).div_ceil(LINE)
}

impl<T: Element> Buffer<T> {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self { lines: vec![Line([0; LINE]); lines::<T>(len)], len, values: PhantomData }
    }

    /// Makes room for `len` values and returns them; what they hold is left over from before.
    /// Memory is only ever taken, never given back, so that varying sizes do not allocate for long.
    pub fn at_least(&mut self, len: usize) -> &mut [T] {
        if len > self.len {
            self.lines.resize(lines::<T>(len), Line([0; LINE]));
            self.len = len;
        }
        &mut self[..len]
    }
}

impl<T: Element> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` values fit into the lines, which are aligned for any element; an element is
        // valid for all bits (the trait is sealed: f32, bf16 and f16).
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Element> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T> std::fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_cache_line_and_keeps_what_it_held() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let mut buffer = Buffer::<f32>::zeros(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            buffer.fill(1.0);
            assert_eq!(buffer.at_least(len + 40)[..len], vec![1.0; len]);
            assert_eq!(buffer.at_least(3).len(), 3);
        }
    }
}
