//! After the first calls inference takes no memory but what it returns, however many layers there are.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use mobilenet::architecture::Body;
use mobilenet::cpu::{CpuExecutor, CpuOptions, Precision};
use mobilenet::{Architecture, Executor, Tensor, Weights};
use mobilenet_kernels::Isa;
use mobilenet_kernels::buffer::taken_so_far;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted, in all threads.
struct Counted;

// SAFETY: all is the system's, as it asks for it.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.realloc(start, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

const THREADS: usize = 2;

/// Calls that are counted.
const CALLS: usize = 10;

// (One test, so that nothing else in the process allocates.)
#[test]
fn inference_allocates_what_it_returns_only() {
    for body in [Body::Separable, Body::Shallow] {
        let a =
            Architecture { body, width_multiplier: 0.25, resolution: 64, classes: 11, ..Default::default() };
        let weights = Weights::random(&a, 7).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            for isa in Isa::testable() {
                let options =
                    CpuOptions { threads: Some(THREADS), isa: Some(isa), precision, ..CpuOptions::default() };
                let mut executor = CpuExecutor::new(&a, &weights, &options).unwrap();
                for batch in [1, 5] {
                    let images = Tensor::zeros(&[batch, 64, 64, 3]);
                    let pixels = vec![0u8; images.data().len()];
                    let mut counted = |what: &str, mut call: Box<dyn FnMut(&mut CpuExecutor) + '_>| {
                        // The first call plans, folds, packs and takes memory.
                        call(&mut executor);
                        let before = (ALLOCATIONS.load(Ordering::Relaxed), taken_so_far());
                        (0..CALLS).for_each(|_| call(&mut executor));
                        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before.0;
                        let what = format!("{what}, {body:?}, {} {precision:?}, batch {batch}", isa.name());
                        // The logits, their shape and values, and the two values of a normalisation of pixels. (And
                        // what Rust needs for a thread that begins only now.)
                        let most = if what.starts_with("infer_pixels") { 4 } else { 2 } * CALLS + THREADS;
                        assert!(allocations <= most, "{allocations} allocations in {CALLS} calls: {what}");
                        // (Where bf16 is converted, each thread has rows of its own for that, from its first share on.)
                        let most = if precision == Precision::Bf16 { THREADS } else { 0 };
                        let taken = taken_so_far() - before.1;
                        assert!(taken <= most, "{taken} buffers of {what}");
                    };
                    counted("infer", Box::new(|executor| _ = executor.infer(&images).unwrap()));
                    counted("infer_pixels", Box::new(|executor| _ = executor.infer_pixels(&pixels).unwrap()));
                }
            }
        }
    }
}
