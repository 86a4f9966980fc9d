//! Memory for activations and weights that starts on a cache line.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::element::Element;
use crate::pages::Memory;

/// A slice whose first value starts a cache line, so that the vector loads of rows that are whole
/// lines never straddle two. Large ones lie in large pages where the system has them.
pub struct Buffer<T = f32> {
    memory: Memory,
    len: usize,
    values: PhantomData<T>,
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { memory: Memory::zeros(0), len: 0, values: PhantomData }
    }
}

/// Of `len` values. (More than can be told are more than there can be.)
fn bytes_of<T>(len: usize) -> usize {
    len.saturating_mul(size_of::<T>())
}

impl<T: Element> Clone for Buffer<T> {
    fn clone(&self) -> Self {
        let mut buffer = Self::zeros(self.len);
        buffer.copy_from_slice(self);
        buffer
    }
}

/// Buffers that were made, or grew.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// How often the process has taken memory for a buffer so far: for tests of who takes none. (It does not come from the
/// global allocator, where it is large.)
#[doc(hidden)]
pub fn taken_so_far() -> usize {
    TAKEN.load(Ordering::Relaxed)
}

impl<T: Element> Buffer<T> {
    /// `len` zeros. (An element is plain bits, of which all zeros are the value zero.)
    pub fn zeros(len: usize) -> Self {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        Self { memory: Memory::zeros(bytes_of::<T>(len)), len, values: PhantomData }
    }

    /// Makes room for `len` values and returns them; what they hold is left over from before.
    /// Memory is only ever taken, never given back, so that varying sizes do not allocate for long.
    pub fn at_least(&mut self, len: usize) -> &mut [T] {
        if bytes_of::<T>(len) > self.memory.bytes() {
            let mut longer = Self::zeros(len);
            longer[..self.len].copy_from_slice(self);
            *self = longer;
        }
        self.len = self.len.max(len);
        &mut self[..len]
    }
}

impl<T: Element> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the memory has room for `len` values and is aligned for any element; an element is
        // valid for all bits (the trait is sealed: f32, bf16 and f16).
        unsafe { std::slice::from_raw_parts(self.memory.start().as_ptr().cast(), self.len) }
    }
}

impl<T: Element> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.memory.start().as_ptr().cast(), self.len) }
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
