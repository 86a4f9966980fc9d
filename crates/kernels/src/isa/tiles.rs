//! Whether the tiles of AMX are there: the processor's word, the system's state, and its permission.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Whether AMX-TILE and AMX-BF16 can be used. The first call asks the system for permission, for the
/// whole process and its threads to come.
pub(super) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| processor_has_tiles() && system_saves_tiles() && permitted())
}

/// CPUID leaf 7, EDX (Intel SDM, volume 2A, CPUID).
fn processor_has_tiles() -> bool {
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    #[allow(unused_unsafe, reason = "safe to call since a later Rust than ours")]
    // SAFETY: every x86-64 processor has CPUID; leaf 7 is asked for only where it exists.
    unsafe {
        let needed = AMX_BF16 | AMX_TILE;
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & needed == needed
    }
}

/// XCR0, bits 17 (tile configuration) and 18 (tile data): saved when threads change.
fn system_saves_tiles() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const TILES: u32 = 0b11 << 17;
    #[allow(unused_unsafe, reason = "safe to call since a later Rust than ours")]
    // SAFETY: XGETBV exists where CPUID says OSXSAVE; it changes EAX and EDX only.
    unsafe {
        if __cpuid(1).ecx & OSXSAVE == 0 {
            return false;
        }
        let low: u32;
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags));
        low & TILES == TILES
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
