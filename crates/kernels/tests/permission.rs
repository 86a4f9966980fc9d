//! A system that does not permit tiles (AMX): they are not used, and nothing ends in SIGILL.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use half::bf16;
use mobilenet_kernels::Isa;
use mobilenet_kernels::bf16::{PackedBf16, gemm};
use mobilenet_kernels::gemm::{Epilogue, MatrixMut, MatrixRef};

const ARCH_REQ_XCOMP_PERM: u32 = 0x1023;

/// From here on the system refuses this thread, and those that it starts, what asks for tile data.
fn refuse_tiles() {
    const RETURN_NOT_PERMITTED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let load = |offset: usize| libc::sock_filter {
        code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16,
        jt: 0,
        jf: 0,
        k: offset as u32,
    };
    // Skips so many steps unless what was loaded is `k`.
    let unless = |k: u32, skip: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skip,
        k,
    };
    let answer = |k: u32| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k };
    let mut steps = [
        load(std::mem::offset_of!(libc::seccomp_data, nr)),
        unless(libc::SYS_arch_prctl as u32, 3),
        load(std::mem::offset_of!(libc::seccomp_data, args)),
        unless(ARCH_REQ_XCOMP_PERM, 1),
        answer(RETURN_NOT_PERMITTED),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the filter lives for the call; it lets pass what anything here needs.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter), 0);
    }
}

// (Alone in its process, since the first answer is kept.)
#[test]
fn tiles_that_are_not_permitted_are_not_used() {
    refuse_tiles();
    // SAFETY: the request reads and writes no memory of ours.
    let refused = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, 18) };
    assert_eq!(refused, -1, "the filter does not work");

    let names: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
    assert!(!names.contains(&"amx"), "{names:?}");
    assert!("amx".parse::<Isa>().unwrap_err().contains("this machine has portable"));
    // 2·3 summed 64 times, everywhere.
    let (rows, k, n) = (5, 64, 40);
    let a = vec![bf16::from_f32(2.0); rows * k];
    let mut b = PackedBf16::new(Isa::best(), k, n);
    b.pack_transposed(&vec![3.0; n * k]);
    let mut c = vec![0.0; rows * n];
    gemm(MatrixRef::new(&a, rows, k, k), &b, 0, MatrixMut::new(&mut c, rows, n, n), Epilogue::default());
    assert_eq!(c, vec![384.0; rows * n]);
}
