//! A small pool of threads for fork-join work on ranges of items.
//!
//! Work is cut into items by its shape, never by the number of threads; every item writes only its
//! own part of the output. So results do not depend on which thread does what. (Where an item's results do not
//! depend on which others are computed with it, each thread can have one range of items instead, as long as it is
//! fast: [`Pool::run_shares`].) Each thread starts
//! on its own contiguous share (so that it finds in its cache what it wrote for the layer before)
//! and then helps with the others'. Waiting threads spin for a moment before they sleep: between
//! the layers of one network there are only microseconds. Where there are more threads than cores
//! they sleep at once, since spinning would take the cores from those that work.
//!
//! Two threads of a pool should not be on one processor, where they would take turns (parallel/place.rs).
//!
//! Nobody waits for a thread that has not begun: a job is over when its items are done, and a
//! worker that the system wakes too late finds it closed.

mod place;
mod shares;

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

pub use shares::Shares;

/// Turns of the waiting loop before a worker sleeps: some 100 µs.
const SPINS: u32 = 4096;

/// Marks a job that takes no more workers; the bits below count those that came in.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// A value alone on its cache lines (two, for the adjacent-line prefetcher).
#[repr(align(128))]
#[derive(Default)]
struct Lone<T>(T);

/// A job: a closure on the caller's stack, with its type erased.
#[derive(Clone, Copy)]
struct Job {
    call: unsafe fn(*const (), usize),
    data: *const (),
}

/// A job that workers enter: on one cache line, so that who enters has the job with it.
struct Open {
    /// Workers that have entered, and [`CLOSED`].
    entered: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
}

struct Shared {
    open: Lone<Open>,
    /// Counts jobs; a change publishes `open`.
    epoch: Lone<AtomicUsize>,
    /// Workers that have left it.
    left: Lone<AtomicUsize>,
    asleep: Vec<Lone<AtomicBool>>,
    /// The processor that each thread was on when its last job began.
    places: Vec<Lone<AtomicUsize>>,
    /// [`SPINS`], or none where there are more threads than cores.
    spins: u32,
    stop: AtomicBool,
    /// Whether `panic` holds something: looked at after every job, where a lock would cost each of them.
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn std::any::Any + Send>>>,
}

// SAFETY: `job` is written by the caller of `run` only while no worker reads it (`entered` is closed,
// and who had entered has left), and published by opening `entered`; its pointer is used only
// between entering and leaving, and `run` closes the job and waits for whoever has entered before it
// returns. Everything else is atomic or behind a mutex.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    /// Keeps what a worker's part of a job threw, until the caller takes it; before the worker leaves the job.
    fn keep_panic(&self, panic: Box<dyn std::any::Any + Send>) {
        *self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(panic);
        self.panicked.store(true, Ordering::Relaxed);
    }

    fn take_panic(&self) -> Option<Box<dyn std::any::Any + Send>> {
        self.panicked.store(false, Ordering::Relaxed);
        self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

/// Threads that run items of work side by side; the calling thread is one of them. One job at a time: whoever
/// runs one has the pool for itself (`&mut`), so that there is nothing to lock.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Next item of each thread's share.
    cursors: Vec<Lone<AtomicUsize>>,
    /// What each thread took for its share, in nanoseconds; 0 if another did it.
    taken: Vec<Lone<AtomicU64>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller's included; 0 is taken as 1.
    ///
    /// # Errors
    /// If the system gives no more threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.max(1);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let shared = Arc::new(Shared {
            open: Lone(Open { entered: AtomicUsize::new(CLOSED), job: UnsafeCell::new(None) }),
            epoch: Lone::default(),
            left: Lone::default(),
            asleep: (0..threads).map(|_| Lone::default()).collect(),
            places: (0..threads).map(|_| Lone(AtomicUsize::new(place::UNKNOWN))).collect(),
            spins: if threads > cores { 0 } else { SPINS },
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut pool = Self {
            shared: shared.clone(),
            workers: Vec::new(),
            cursors: (0..threads).map(|_| Lone::default()).collect(),
            taken: (0..threads).map(|_| Lone::default()).collect(),
        };
        for worker in 1..threads {
            let shared = shared.clone();
            let handle = thread::Builder::new()
                .name(format!("mobilenet-{worker}"))
                .spawn(move || work(&shared, worker))?;
            pool.workers.push(handle);
        }
        Ok(pool)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.cursors.len()
    }

    /// Calls `f(item, scratch, part)` once for every item of `0..items`, each with its own part of
    /// `parts` and with scratch that no other thread has at the time. Returns when all are done.
    ///
    /// # Panics
    /// If `scratch` has fewer entries than there are threads, or if `f` panics (then after all
    /// threads have stopped).
    pub fn run<S: Send, P: Parts>(
        &mut self,
        items: usize,
        scratch: &mut [S],
        parts: P,
        f: impl Fn(usize, &mut S, P::Part) + Sync,
    ) {
        // SAFETY: `run_items` gives every item to one thread, once.
        self.run_items(items, scratch, |_, item, scratch| f(item, scratch, unsafe { parts.part(item) }));
    }

    /// Calls `f(range, scratch, part)` for one range of items a thread, which together are `0..items`, each with its
    /// part of `parts` and with scratch that no other thread has at the time. Returns when all are done.
    ///
    /// `shares`, to be kept for the next time that the same work is to be done, sees to it that a slower thread
    /// gets fewer items. So what is computed of an item must not depend on the range that it is in.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn run_shares<S: Send, P: Parts>(
        &mut self,
        shares: &mut Shares,
        items: usize,
        scratch: &mut [S],
        parts: P,
        f: impl Fn(Range<usize>, &mut S, P::Part) + Sync,
    ) {
        let threads = self.threads();
        for taken in &self.taken {
            taken.0.store(0, Ordering::Relaxed);
        }
        shares.cut(items, threads);
        self.run_items(threads, scratch, |worker, share, scratch| {
            let range = shares.range(share);
            if range.is_empty() {
                return;
            }
            // (Some targets without threads have no clock, either.)
            let start = (threads > 1).then(Instant::now);
            // SAFETY: `run_items` gives every share to one thread, once, and the shares are disjoint.
            f(range.clone(), scratch, unsafe { parts.parts(range) });
            if let Some(start) = start
                && worker == share
            {
                let taken = start.elapsed().as_nanos() as u64;
                self.taken[worker].0.store(taken.max(1), Ordering::Relaxed);
            }
        });
        shares.learn(|worker| self.taken[worker].0.load(Ordering::Relaxed));
    }

    /// Calls `f(worker, item, scratch)` once for every item. No other job must run.
    fn run_items<S: Send>(&self, items: usize, scratch: &mut [S], f: impl Fn(usize, usize, &mut S) + Sync) {
        let threads = self.threads();
        assert!(scratch.len() >= threads, "scratch for {threads} threads");
        let scratch = chunks(&mut scratch[..threads], 1);
        let share = |worker: usize| worker * items / threads;
        for (worker, cursor) in self.cursors.iter().enumerate() {
            cursor.0.store(share(worker), Ordering::Relaxed);
        }
        let work = |worker: usize| {
            // SAFETY: every thread comes with its own number, one call after the other.
            let mine = unsafe { &mut scratch.part(worker)[0] };
            for owner in (worker..threads).chain(0..worker) {
                let end = share(owner + 1);
                loop {
                    let item = self.cursors[owner].0.fetch_add(1, Ordering::Relaxed);
                    if item >= end {
                        break;
                    }
                    f(worker, item, mine);
                }
            }
        };
        self.fork_join(&work);
    }

    /// Calls `work(0)` here and `work(worker)` on the other threads, as far as they come before the
    /// first call is over (and perhaps twice on one that comes early), and waits for all that came.
    fn fork_join<F: Fn(usize) + Sync>(&self, work: &F) {
        unsafe fn call<F: Fn(usize) + Sync>(data: *const (), worker: usize) {
            // SAFETY: `data` is the `work` of the `fork_join` that waits for this call.
            unsafe { (*data.cast::<F>())(worker) }
        }
        let shared = &*self.shared;
        if self.workers.is_empty() {
            return work(0);
        }
        let job = Job { call: call::<F>, data: std::ptr::from_ref(work).cast() };
        // SAFETY: no job runs (`run` has the pool for itself, the last job is closed and was waited for), so nobody
        // reads.
        unsafe { *shared.open.0.job.get() = Some(job) };
        if shared.spins > 0 {
            be_at(&shared.places[0], place::current());
        }
        shared.left.0.store(0, Ordering::Relaxed);
        shared.open.0.entered.store(0, Ordering::Release);
        shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        for (worker, handle) in (1..).zip(&self.workers) {
            if shared.asleep[worker].0.swap(false, Ordering::SeqCst) {
                handle.thread().unpark();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| work(0)));
        let entered = shared.open.0.entered.fetch_or(CLOSED, Ordering::AcqRel);
        let mut spins = 0;
        while shared.left.0.load(Ordering::Acquire) < entered {
            spins += 1;
            if spins < shared.spins {
                std::hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        let other = if shared.panicked.load(Ordering::Relaxed) { shared.take_panic() } else { None };
        if let Some(panic) = own.err().or(other) {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what its jobs throw; there is nothing to learn from its end.
            let _ = worker.join();
        }
    }
}

/// The life of a worker.
fn work(shared: &Shared, worker: usize) {
    let mut seen = 0;
    loop {
        let mut spins = 0;
        while shared.epoch.0.load(Ordering::SeqCst) == seen {
            if spins < shared.spins {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            shared.asleep[worker].0.store(true, Ordering::SeqCst);
            // Looked at once more: a job published in between finds either `asleep` set (and
            // unparks) or this worker awake.
            if shared.epoch.0.load(Ordering::SeqCst) == seen {
                thread::park();
            }
            shared.asleep[worker].0.store(false, Ordering::SeqCst);
        }
        // Of several jobs that went by only the last can still be open.
        seen = shared.epoch.0.load(Ordering::SeqCst);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        if shared.spins > 0 {
            part_company(&shared.places, worker);
        }
        if shared.open.0.entered.fetch_add(1, Ordering::AcqRel) & CLOSED != 0 {
            // Too late; the next job begins to count anew.
            continue;
        }
        // SAFETY: the job was written before it was opened, and stays until all that entered left.
        if let Some(job) = unsafe { *shared.open.0.job.get() } {
            // SAFETY: the closure lives until `fork_join` returns, which waits for all that entered.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.data, worker) })) {
                shared.keep_panic(panic);
            }
        }
        shared.left.0.fetch_add(1, Ordering::Release);
    }
}

/// Moves the worker, which is the thread that calls, to another processor if the caller of the pool or a
/// worker before this one is on the same.
fn part_company(places: &[Lone<AtomicUsize>], worker: usize) {
    let mut here = place::current();
    let is_here = |other: &Lone<AtomicUsize>| other.0.load(Ordering::Relaxed) == here;
    if here != place::UNKNOWN && places[..worker].iter().any(is_here) {
        let others = places.iter().enumerate().filter(|(other, _)| *other != worker);
        place::leave(here, others.map(|(_, place)| place.0.load(Ordering::Relaxed)));
        here = place::current();
    }
    be_at(&places[worker], here);
}

/// Notes where a thread is. (Written to only if that changes: else the others would have to fetch it every time.)
fn be_at(place: &Lone<AtomicUsize>, here: usize) {
    if place.0.load(Ordering::Relaxed) != here {
        place.0.store(here, Ordering::Relaxed);
    }
}

/// Something that falls into disjoint parts, one an item: [`chunks`] of a slice, or a tuple of such.
///
/// # Safety
/// Different items' parts must not overlap.
pub unsafe trait Parts: Sync {
    /// The part of one item, or of several that follow one another.
    type Part;

    /// The part of these items.
    ///
    /// # Safety
    /// An item must be in at most one part at a time.
    unsafe fn parts(&self, items: Range<usize>) -> Self::Part;

    /// The part of `item`.
    ///
    /// # Safety
    /// As [`Parts::parts`].
    unsafe fn part(&self, item: usize) -> Self::Part {
        // SAFETY: the caller's promise.
        unsafe { self.parts(item..item + 1) }
    }
}

/// A slice cut into pieces of equal size, the last one perhaps shorter; items beyond it get nothing.
#[derive(Debug)]
pub struct Chunks<'a, T> {
    data: *mut T,
    len: usize,
    size: usize,
    slice: PhantomData<&'a mut [T]>,
}

/// Cuts `slice` into pieces of `size`: item i owns `slice[i * size..(i + 1) * size]`.
pub fn chunks<T>(slice: &mut [T], size: usize) -> Chunks<'_, T> {
    Chunks { data: slice.as_mut_ptr(), len: slice.len(), size, slice: PhantomData }
}

// SAFETY: it hands out disjoint `&mut` parts of a slice that it borrows exclusively.
unsafe impl<T: Send> Sync for Chunks<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Chunks<'_, T> {}

// SAFETY: parts of different items are different ranges of one slice.
unsafe impl<'a, T: Send> Parts for Chunks<'a, T> {
    type Part = &'a mut [T];

    unsafe fn parts(&self, items: Range<usize>) -> &'a mut [T] {
        let [start, end] = [items.start, items.end].map(|item| item.saturating_mul(self.size).min(self.len));
        // SAFETY: start ≤ end ≤ len; an item is in one part at a time, and parts of others are disjoint.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), end - start) }
    }
}

/// Ranges of the items of other parts, each of which is one item here.
#[derive(Debug)]
pub struct Ranges<'a, P> {
    parts: P,
    ends: &'a [usize],
}

/// Range i of the items of `parts` ends before `ends[i]`, where the next one starts.
///
/// # Panics
/// If an end lies before the one before it.
pub fn ranges<P: Parts>(parts: P, ends: &[usize]) -> Ranges<'_, P> {
    assert!(ends.is_sorted(), "ranges that follow one another");
    Ranges { parts, ends }
}

impl<P> Ranges<'_, P> {
    fn start(&self, range: usize) -> usize {
        range.checked_sub(1).map_or(0, |before| self.ends[before])
    }
}

// SAFETY: the ranges of different items do not overlap, as their ends are in order.
unsafe impl<P: Parts> Parts for Ranges<'_, P> {
    type Part = P::Part;

    unsafe fn parts(&self, items: Range<usize>) -> P::Part {
        // SAFETY: the caller's promise, passed on.
        unsafe { self.parts.parts(self.start(items.start)..self.start(items.end)) }
    }
}

// SAFETY: there is nothing to overlap.
unsafe impl Parts for () {
    type Part = ();

    unsafe fn parts(&self, _: Range<usize>) {}
}

macro_rules! tuple_parts {
    ($($name:ident)+) => {
        // SAFETY: each member keeps its own promise.
        unsafe impl<$($name: Parts),+> Parts for ($($name,)+) {
            type Part = ($($name::Part,)+);

            #[allow(non_snake_case)]
            unsafe fn parts(&self, items: Range<usize>) -> Self::Part {
                let ($($name,)+) = self;
                // SAFETY: the caller's promise, passed on.
                unsafe { ($($name.parts(items.clone()),)+) }
            }
        }
    };
}
tuple_parts!(A B);
tuple_parts!(A B C);
tuple_parts!(A B C D);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_done_once_with_its_own_part() {
        for threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(threads).unwrap();
            let mut scratch = vec![0usize; threads];
            for items in [0, 1, 2, 7, 100] {
                let mut out = vec![0u32; items * 3];
                let mut short = vec![0u32; (items * 2).saturating_sub(1)];
                pool.run(
                    items,
                    &mut scratch,
                    (chunks(&mut out, 3), chunks(&mut short, 2)),
                    |item, count, (a, b)| {
                        *count += 1;
                        a.iter_mut().for_each(|x| *x += item as u32 + 1);
                        b.iter_mut().for_each(|x| *x += 1);
                    },
                );
                assert!(out.chunks(3).enumerate().all(|(i, part)| part == [i as u32 + 1; 3]));
                assert!(short.iter().all(|&x| x == 1));
            }
            assert_eq!(scratch.iter().sum::<usize>(), 110);
        }
    }

    /// Workers that come late, early, twice or not at all.
    #[test]
    fn far_more_threads_than_cores_do_every_item_once() {
        const THREADS: usize = 24;
        let mut pool = Pool::new(THREADS).unwrap();
        let mut scratch = vec![0usize; THREADS];
        for job in 0..1000usize {
            let items = job % 40;
            let mut out = vec![0u16; items];
            pool.run(items, &mut scratch, chunks(&mut out, 1), |item, count, part| {
                *count += 1;
                part[0] += item as u16 + 1;
            });
            assert!(out.iter().enumerate().all(|(i, &x)| x == i as u16 + 1), "job {job}: {out:?}");
        }
        assert_eq!(scratch.iter().sum::<usize>(), (0..1000).map(|job| job % 40).sum());
    }

    #[test]
    fn workers_wake_up_after_sleeping() {
        let mut pool = Pool::new(2).unwrap();
        for _ in 0..5 {
            thread::sleep(std::time::Duration::from_millis(20));
            let mut out = vec![0u8; 64];
            pool.run(64, &mut [(), ()], chunks(&mut out, 1), |_, (), part| part[0] = 1);
            assert!(out.iter().all(|&x| x == 1));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(3).unwrap();
        let mut run = |bad: usize| {
            catch_unwind(AssertUnwindSafe(|| {
                pool.run(30, &mut [(); 3], (), |item, (), ()| assert_ne!(item, bad, "bad item"));
            }))
        };
        assert!(run(29).is_err());
        assert!(run(0).is_err());
        assert!(run(99).is_ok());
    }
}
