//! Maps that are written part after part, past the caches where they are large.
//!
//! A store to a line that is not in the cache reads it first, and writes it back later: a third of what a layer moves
//! that does little arithmetic. A store past the caches only writes. It pays where a map is read again only after much
//! else has gone by, and costs where the map would still have been there.

use crate::buffer::Buffer;
use crate::element::Element;
use crate::isa::Isa;
use crate::simd::{Kernel, Simd, VALUE, dispatch};

/// A map that is written part after part: see [`write_parts`].
#[derive(Debug)]
pub struct Parts<'a, E: Element> {
    isa: Isa,
    /// What is not written yet.
    map: &'a mut [E],
    /// Where parts are made that go past the caches.
    memory: Option<&'a mut Buffer<E>>,
}

/// Writes parts of `map`, one after the other, by `write`: where it is `large`, past the caches. Each part is made in
/// `memory` then, which stays in them.
pub fn write_parts<E: Element, T>(
    isa: Isa,
    large: bool,
    memory: &mut Buffer<E>,
    map: &mut [E],
    write: impl FnOnce(&mut Parts<E>) -> T,
) -> T {
    // (The fence is not in the destructor of `Parts`, which might never be called.)
    let _fence = large.then_some(Fence(isa));
    write(&mut Parts { isa, map, memory: large.then_some(memory) })
}

impl<E: Element> Parts<'_, E> {
    /// Writes the next `len` values by `make`, which finds left-overs in them.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn part(&mut self, len: usize, make: impl FnOnce(&mut [E])) {
        let map = std::mem::take(&mut self.map);
        assert!(len <= map.len(), "part of {len} values, {} are left", map.len());
        let (part, rest) = map.split_at_mut(len);
        self.map = rest;
        match &mut self.memory {
            None => make(part),
            Some(memory) => {
                let values = memory.at_least(len);
                make(values);
                // SAFETY: as many values; `write_parts`, which lent the map, fences before it returns.
                unsafe { dispatch(self.isa, Copy { from: values, to: part }) }
            }
        }
    }
}

/// Orders what went past the caches before everything that is stored later, when it is dropped.
struct Fence(Isa);

impl Drop for Fence {
    fn drop(&mut self) {
        // SAFETY: no memory is touched.
        unsafe { dispatch(self.0, Order) }
    }
}

struct Order;

impl Kernel for Order {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        // SAFETY: the instruction set is there.
        unsafe { s.fence() }
    }
}

/// Copies as many values, past the caches.
struct Copy<'a, E> {
    from: &'a [E],
    to: &'a mut [E],
}

impl<E: Element> Kernel for Copy<'_, E> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self, s: S) {
        let Self { from, to } = self;
        // What whole aligned vectors do not cover is copied as usual.
        let (bytes, together) = (S::LANES * VALUE, S::LANES * VALUE / size_of::<E>());
        let before = to.as_ptr().align_offset(bytes).min(to.len());
        let (head, rest) = to.split_at_mut(before);
        let (whole, tail) = rest.split_at_mut(rest.len() / together * together);
        let (from_head, from_rest) = from.split_at(before);
        let (from_whole, from_tail) = from_rest.split_at(whole.len());
        head.copy_from_slice(from_head);
        tail.copy_from_slice(from_tail);
        let (from, to) = (from_whole.as_ptr().cast::<f32>(), whole.as_mut_ptr().cast::<f32>());
        // SAFETY: there are as many vectors of either, aligned where they go to; moved as they are, whatever their bits
        // stand for.
        unsafe {
            for at in (0..size_of_val(from_whole) / VALUE).step_by(S::LANES) {
                s.stream(to.add(at), s.load(from.add(at)));
            }
        }
    }
}
