//! On which processor a thread is, and how it gets to another.
//!
//! Linux wakes a thread near the one that wakes it, and moves it elsewhere by and by. A worker whose jobs take
//! microseconds sleeps too often for that: it can stay on its caller's processor, where the caller does
//! all the work before the worker's turn comes, for as long as the process lives, while the other
//! processors idle. So a worker that finds itself there leaves. It is not bound to where it goes: the
//! system may move it as before.

/// Of a thread of which it is not known.
pub const UNKNOWN: usize = usize::MAX;

/// The processor that this thread is on.
pub fn current() -> usize {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: it reads nothing of ours.
        usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(UNKNOWN)
    }
    #[cfg(not(target_os = "linux"))]
    UNKNOWN
}

/// Moves this thread from processor `here` to another one that it may use and that is not among `others`;
/// if there is none, to any other. Where that cannot be, it stays.
#[cfg_attr(not(target_os = "linux"), allow(unused_variables))]
pub fn leave(here: usize, others: impl Iterator<Item = usize>) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: a set of processors is plain bits, of which all zeros are the empty one; its functions
        // are given sets that live here, and numbers below what a set holds.
        unsafe {
            let size = size_of::<libc::cpu_set_t>();
            let mut allowed: libc::cpu_set_t = std::mem::zeroed();
            if here >= 8 * size || libc::sched_getaffinity(0, size, &mut allowed) != 0 {
                return;
            }
            let mut free = allowed;
            libc::CPU_CLR(here, &mut free);
            let mut elsewhere = free;
            for other in others.filter(|&other| other < 8 * size) {
                libc::CPU_CLR(other, &mut free);
            }
            if libc::CPU_COUNT(&free) > 0 {
                elsewhere = free;
            }
            // It moves at once when it may no longer be where it is.
            if libc::CPU_COUNT(&elsewhere) > 0 && libc::sched_setaffinity(0, size, &elsewhere) == 0 {
                libc::sched_setaffinity(0, size, &allowed);
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_leaves_and_is_not_bound() {
        let allowed = || {
            // SAFETY: as in `leave`.
            unsafe {
                let mut allowed: libc::cpu_set_t = std::mem::zeroed();
                assert_eq!(libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut allowed), 0);
                (0..libc::CPU_SETSIZE as usize)
                    .filter(|&cpu| libc::CPU_ISSET(cpu, &allowed))
                    .collect::<Vec<_>>()
            }
        };
        let before = allowed();
        // Whatever is taken: the thread may go wherever it might before.
        for taken in [vec![], before.clone(), vec![UNKNOWN, 5000]] {
            leave(current(), taken.into_iter());
            assert_eq!(allowed(), before);
        }
        // Where all but one of the others are taken, it is there right after.
        if let [first, second, ..] = before[..] {
            let others = |but: usize| before.iter().copied().filter(move |&cpu| cpu != but);
            // (The system may move the thread in between: seldom.)
            let arrived = (0..50).filter(|round| {
                let (from, to) = if round % 2 == 0 { (first, second) } else { (second, first) };
                leave(from, others(to));
                current() == to
            });
            assert!(arrived.count() > 25);
        }
    }
}
