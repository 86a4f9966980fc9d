//! Where the memory of [`Buffer`](crate::Buffer) comes from: large pages, if the system has some.
//!
//! A network's weights and maps are tens of megabytes, read once an image. In pages of 4 KiB the processor has
//! to look up thousands of them each time, and where they lie is left to chance, so that some sets of a cache get
//! more than they hold. On Linux memory is therefore taken in regions that begin with a page of 2 MiB and are
//! marked for such pages (`MADV_HUGEPAGE`; a system that has none to give gives small ones), and buffers are cut
//! out of them. Small buffers, and all on other systems, come from the global allocator.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

/// Buffers start on a cache line.
const LINE: usize = 64;

/// Buffers of fewer bytes come from the global allocator.
const SMALL: usize = 32 * 1024;

/// Zeroed memory that starts on a cache line; given back when dropped.
pub(crate) struct Memory {
    start: NonNull<u8>,
    /// A multiple of a line.
    bytes: usize,
    from_region: bool,
}

// SAFETY: the memory belongs to this value alone.
unsafe impl Send for Memory {}
// SAFETY: shared, it gives out its address only.
unsafe impl Sync for Memory {}

impl Memory {
    /// `bytes` zeros, or more: whole lines.
    ///
    /// # Panics
    /// If `bytes` exceeds half of the address space. Aborts, as every allocation does, if there is no memory.
    pub fn zeros(bytes: usize) -> Self {
        assert!(bytes <= isize::MAX as usize / 2, "a buffer of {bytes} bytes");
        let bytes = bytes.next_multiple_of(LINE);
        if bytes == 0 {
            return Self { start: NonNull::<Line>::dangling().cast(), bytes, from_region: false };
        }
        if bytes >= SMALL {
            let mut regions = REGIONS.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(start) = regions.take(bytes) {
                return Self { start, bytes, from_region: true };
            }
        }
        let layout = layout(bytes);
        // SAFETY: the layout is not empty.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, bytes, from_region: false }
    }

    /// Its first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its length, at least what was asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.from_region {
            REGIONS.lock().unwrap_or_else(PoisonError::into_inner).give_back(self.start, self.bytes);
        } else if self.bytes > 0 {
            // SAFETY: it was allocated with this layout.
            unsafe { dealloc(self.start.as_ptr(), layout(self.bytes)) }
        }
    }
}

#[repr(align(64))]
struct Line;

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, LINE).expect("checked above")
}

static REGIONS: Mutex<Regions> = Mutex::new(Regions { all: Vec::new() });

/// What the buffers of the process are cut out of.
struct Regions {
    all: Vec<Region>,
}

/// Memory of the system, and what of it is free.
struct Region {
    start: NonNull<u8>,
    /// What can be handed out of it. (Whole pages of the system are mapped.)
    bytes: usize,
    /// Free ranges in order, none beside another.
    free: Vec<(usize, usize)>,
    /// From here on nothing has been handed out yet, and all is zero.
    untouched: usize,
}

// SAFETY: a region belongs to the list that it is in.
unsafe impl Send for Region {}

impl Regions {
    /// `bytes` zeros; nothing if the system has no regions to give.
    fn take(&mut self, bytes: usize) -> Option<NonNull<u8>> {
        if let Some(start) = self.all.iter_mut().find_map(|region| region.take(bytes)) {
            return Some(start);
        }
        let mut region = Region::new(bytes)?;
        let start = region.take(bytes);
        self.all.push(region);
        start
    }

    fn give_back(&mut self, start: NonNull<u8>, bytes: usize) {
        for (index, region) in self.all.iter_mut().enumerate() {
            if let Some(offset) = region.offset(start) {
                if region.give_back(offset, bytes) {
                    self.all.swap_remove(index).unmap();
                }
                return;
            }
        }
    }
}

impl Region {
    /// Where in it an address lies, if it does.
    fn offset(&self, address: NonNull<u8>) -> Option<usize> {
        let offset = address.addr().get().checked_sub(self.start.addr().get())?;
        (offset < self.bytes).then_some(offset)
    }

    fn take(&mut self, bytes: usize) -> Option<NonNull<u8>> {
        let index = self.free.iter().position(|(from, to)| to - from >= bytes)?;
        let (from, to) = &mut self.free[index];
        let at = *from;
        *from += bytes;
        if from == to {
            self.free.remove(index);
        }
        // SAFETY: a free range lies inside.
        let start = unsafe { self.start.add(at) };
        // SAFETY: what was handed out before is nobody's now.
        unsafe { start.write_bytes(0, bytes.min(self.untouched.saturating_sub(at))) };
        self.untouched = self.untouched.max(at + bytes);
        Some(start)
    }

    /// Takes a range back; whether all of the region is free then.
    fn give_back(&mut self, from: usize, bytes: usize) -> bool {
        let mut range = (from, from + bytes);
        let index = self.free.partition_point(|&(other, _)| other < from);
        if self.free.get(index).is_some_and(|next| next.0 == range.1) {
            range.1 = self.free.remove(index).1;
        }
        match index.checked_sub(1).and_then(|before| self.free.get_mut(before)) {
            Some(before) if before.1 == range.0 => before.1 = range.1,
            _ => self.free.insert(index, range),
        }
        self.free == [(0, self.bytes)]
    }
}

#[cfg(target_os = "linux")]
impl Region {
    /// A large page.
    const PAGE: usize = 2 * 1024 * 1024;

    /// Bytes of a region, if one buffer does not need more. (Such a buffer has a region for itself, which goes back
    /// to the system with it.) What is not touched costs addresses only.
    const BYTES: usize = 4 * Self::PAGE;

    /// A region that has room for so many bytes.
    fn new(bytes: usize) -> Option<Self> {
        let bytes = bytes.max(Self::BYTES);
        let pages = bytes.checked_next_multiple_of(Self::PAGE)?;
        let all = pages.checked_add(Self::PAGE)?;
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping touches none that is there.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), all, protection, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return None;
        }
        let before = mapped.addr().next_multiple_of(Self::PAGE) - mapped.addr();
        let behind = Self::PAGE - before;
        // SAFETY: what is unmapped, and marked, are parts of the mapping, in whole pages (the system's pages divide
        // 2 MiB, or calls fail and change nothing).
        unsafe {
            let start = mapped.byte_add(before);
            if before > 0 {
                libc::munmap(mapped, before);
            }
            if behind > 0 {
                libc::munmap(start.byte_add(pages), behind);
            }
            // (A system without large pages refuses, and small ones are as good as any.)
            libc::madvise(start, pages, libc::MADV_HUGEPAGE);
            let start = NonNull::new(start.cast())?;
            Some(Self { start, bytes, free: vec![(0, bytes)], untouched: 0 })
        }
    }

    fn unmap(self) {
        // SAFETY: nobody has any of it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes.next_multiple_of(Self::PAGE)) };
    }
}

#[cfg(not(target_os = "linux"))]
impl Region {
    fn new(_: usize) -> Option<Self> {
        None
    }

    fn unmap(self) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(memory: &mut Memory) -> &mut [u8] {
        // SAFETY: it is so long, and nobody else's.
        unsafe { std::slice::from_raw_parts_mut(memory.start().as_ptr(), memory.bytes()) }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever is taken and given back in whatever order: zeros, aligned, and nobody else's.
        #[test]
        fn memory_is_zero_aligned_and_owned_once(
            steps in prop::collection::vec((0usize..3_000_000, any::<prop::sample::Index>()), 1..40),
        ) {
            let mut held: Vec<(Memory, u8)> = Vec::new();
            for (step, (bytes, which)) in steps.into_iter().enumerate() {
                if step % 3 == 2 {
                    let (mut memory, mark) = held.swap_remove(which.index(held.len()));
                    prop_assert!(bytes_of(&mut memory).iter().all(|&byte| byte == mark));
                }
                let mut memory = Memory::zeros(bytes);
                prop_assert!(memory.bytes() >= bytes);
                prop_assert_eq!(memory.start().addr().get() % LINE, 0);
                let mark = step as u8 + 1;
                let own = bytes_of(&mut memory);
                prop_assert!(own.iter().all(|&byte| byte == 0));
                own.fill(mark);
                held.push((memory, mark));
            }
            for (memory, mark) in &mut held {
                prop_assert!(bytes_of(memory).iter().all(|byte| byte == mark));
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_region_is_whole_again_when_all_is_given_back() {
        let mut regions = Regions { all: Vec::new() };
        let sizes = [64 * 1024, 1 << 20, 40 * 1024, 3 << 20];
        let starts = sizes.map(|bytes| regions.take(bytes).unwrap());
        assert_eq!(regions.all.len(), 1);
        assert_eq!(starts[0].addr().get() % Region::PAGE, 0);
        // What was given back is taken again, joined with its neighbour.
        regions.give_back(starts[1], sizes[1]);
        regions.give_back(starts[0], sizes[0]);
        assert_eq!(regions.take(sizes[0] + sizes[1]), Some(starts[0]));
        // What does not fit has a region for itself, given back to the system with it.
        let large = regions.take((20 << 20) + LINE).unwrap();
        let small = regions.take(1 << 20).unwrap();
        assert_eq!(regions.all.len(), 2);
        regions.give_back(large, (20 << 20) + LINE);
        assert_eq!(regions.all.len(), 1);
        regions.give_back(small, 1 << 20);
        regions.give_back(starts[2], sizes[2]);
        regions.give_back(starts[0], sizes[0] + sizes[1]);
        regions.give_back(starts[3], sizes[3]);
        assert!(regions.all.is_empty());
    }
}
