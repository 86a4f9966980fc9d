//! Whether the tiles of AMX are there: the processor's word, the system's state, and its permission.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Whether AMX-TILE and AMX-BF16 can be used. The first call asks the system for permission, for the
/// whole process and its threads to come.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| usable(features(), saved_state(), permitted))
}

/// By what the processor has (CPUID leaf 7, EDX), what the system saves when threads change (XCR0), and, if that is
/// enough, its permission.
fn usable(features: u32, saved_state: u32, permitted: impl FnOnce() -> bool) -> bool {
    features & TILES == TILES && saved_state & TILE_STATE == TILE_STATE && permitted()
}

/// AMX-BF16 and AMX-TILE.
const TILES: u32 = 1 << 22 | 1 << 24;

/// Tile configuration and tile data.
const TILE_STATE: u32 = 1 << 17 | 1 << 18;

/// CPUID leaf 7, EDX (Intel SDM, volume 2A, CPUID); 0 where there is no such leaf.
fn features() -> u32 {
    #[allow(unused_unsafe, reason = "safe to call since a later Rust than ours")]
    // SAFETY: every x86-64 processor has CPUID; leaf 7 is asked for only where it exists.
    unsafe {
        if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 }
    }
}

/// The lower half of XCR0; 0 where the system does not say.
fn saved_state() -> u32 {
    const OSXSAVE: u32 = 1 << 27;
    #[allow(unused_unsafe, reason = "safe to call since a later Rust than ours")]
    // SAFETY: XGETBV exists where CPUID says OSXSAVE; it changes EAX and EDX only.
    unsafe {
        if __cpuid(1).ecx & OSXSAVE == 0 {
            return 0;
        }
        let low: u32;
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags));
        low
    }
}

/// Linux gives tile data only to a process that asked (Documentation/arch/x86/xstate.rst): the first
/// tile instruction of another ends in SIGILL.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILE_DATA: usize = 18;
    let result: isize;
    // SAFETY: the request reads and writes no memory of ours; SYSCALL overwrites RCX and R11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_need_processor_state_and_permission() {
        assert!(usable(u32::MAX, u32::MAX, || true));
        assert!(usable(TILES, TILE_STATE, || true));
        assert!(!usable(TILES, TILE_STATE, || false), "the system refuses");
        let not_asked = || panic!("permission is asked for where there is nothing to permit");
        for missing in [1 << 22, 1 << 24] {
            assert!(!usable(!missing, TILE_STATE, not_asked), "no feature {missing:#x}");
        }
        for missing in [1 << 17, 1 << 18] {
            assert!(!usable(TILES, !missing, not_asked), "state {missing:#x} is not saved");
        }
    }
}
