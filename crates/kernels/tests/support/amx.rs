//! AMX for the tests of products of bf16: the machine's, or else an emulator of the instructions that the
//! kernels emit, in the handler of the signal that they raise where they are unknown.
//!
//! The emulator follows Intel's SDM (volume 2, AMX instructions); what would fault there ends the process
//! with a message here.

use mobilenet_kernels::Isa;

/// The instruction set `amx`, if this machine has it or can emulate it.
pub fn isa() -> Option<Isa> {
    let available = Isa::available();
    let has = |name: &str| available.iter().copied().find(|isa| isa.name() == name);
    if let Some(isa) = has("amx") {
        return Some(isa);
    }
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if has("avx512bf16").is_some() {
        emulator::install();
        // SAFETY: the machine has `avx512bf16`, and the emulator serves all threads.
        return Some(unsafe { Isa::amx_for_emulation() });
    }
    None
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod emulator {
    use std::cell::UnsafeCell;
    use std::sync::Once;

    /// Most rows of a tile, and bytes of a row (palette 1).
    const ROWS: usize = 16;
    const ROW_BYTES: usize = 64;

    #[derive(Clone, Copy)]
    struct Tile {
        rows: usize,
        row_bytes: usize,
        data: [[u8; ROW_BYTES]; ROWS],
    }

    impl Tile {
        const EMPTY: Self = Self { rows: 0, row_bytes: 0, data: [[0; ROW_BYTES]; ROWS] };

        fn dword(&self, row: usize, at: usize) -> u32 {
            u32::from_le_bytes(self.data[row][4 * at..][..4].try_into().unwrap())
        }
    }

    struct State {
        configured: bool,
        tiles: [Tile; 8],
    }

    thread_local! {
        // (Without a destructor and made at compile time: it may be used in a signal handler.)
        static STATE: UnsafeCell<State> =
            const { UnsafeCell::new(State { configured: false, tiles: [Tile::EMPTY; 8] }) };
    }

    /// Says what is wrong and ends the process: a handler cannot panic.
    fn fail(what: &str) -> ! {
        for part in ["AMX emulator: ", what, "\n"] {
            // SAFETY: the bytes are there; `write` may be called in a signal handler.
            unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
        }
        // SAFETY: may be called in a signal handler.
        unsafe { libc::abort() }
    }

    fn check(holds: bool, what: &str) {
        if !holds {
            fail(what);
        }
    }

    pub fn install() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // SAFETY: a zeroed `sigaction` is valid, and the handler has the type that SA_SIGINFO asks for.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handle as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                assert_eq!(libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut()), 0);
            }
        });
    }

    extern "C" fn handle(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: Linux passes a `ucontext_t`; the state is this thread's own, and a handler of SIGILL does
        // not interrupt itself.
        unsafe {
            let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
            let at = registers[libc::REG_RIP as usize] as *const u8;
            STATE.with(|state| {
                let length = execute(&mut *state.get(), registers, at);
                registers[libc::REG_RIP as usize] += length as i64;
            });
        }
    }

    /// Numbers of registers in instructions, as indices of `gregs`.
    const REGISTERS: [libc::c_int; 16] = [
        libc::REG_RAX,
        libc::REG_RCX,
        libc::REG_RDX,
        libc::REG_RBX,
        libc::REG_RSP,
        libc::REG_RBP,
        libc::REG_RSI,
        libc::REG_RDI,
        libc::REG_R8,
        libc::REG_R9,
        libc::REG_R10,
        libc::REG_R11,
        libc::REG_R12,
        libc::REG_R13,
        libc::REG_R14,
        libc::REG_R15,
    ];

    /// A memory operand: base plus displacement, the scaled index, and its length in the instruction.
    struct Memory {
        address: usize,
        index: Option<usize>,
        length: usize,
    }

    /// What the last bits of the VEX prefix stand for.
    const NONE: u8 = 0;
    const P66: u8 = 1;
    const F3: u8 = 2;
    const F2: u8 = 3;

    /// Executes the instruction at `at` and returns its length.
    unsafe fn execute(state: &mut State, registers: &[i64; 23], at: *const u8) -> usize {
        // SAFETY: an instruction that raised a signal can be read, and is as long as it says.
        let bytes: [u8; 5] = unsafe { at.cast::<[u8; 5]>().read() };
        let [escape, map, prefix, opcode, modrm] = bytes;
        check(escape == 0xc4 && map & 0x1f == 2 && prefix & 0x84 == 0, "not VEX.128.0F38.W0");
        let (extend_register, extend_index, extend_base) =
            (map & 0x80 == 0, map & 0x40 == 0, map & 0x20 == 0);
        let third = usize::from(!(prefix >> 3) & 0xf);
        let simd = prefix & 3;
        let register = usize::from(modrm >> 3 & 7);
        let direct = modrm >> 6 == 3;
        check(!extend_register, "tile register above 7");
        let memory = || {
            // SAFETY: as above.
            unsafe { memory(registers, at.add(4), extend_index, extend_base) }
        };
        check(opcode == 0x5c || third == 0, "VEX.vvvv of an instruction without a third operand");
        match (opcode, simd, direct) {
            (0x49, NONE, false) => {
                check(register == 0, "reserved instruction");
                let memory = memory();
                check(memory.index.is_none(), "LDTILECFG with an index");
                // SAFETY: the program asked to read these 64 bytes.
                configure(state, unsafe { &*(memory.address as *const [u8; 64]) });
                4 + memory.length
            }
            (0x49, NONE, true) => {
                check(modrm == 0xc0, "reserved instruction");
                state.configured = false;
                state.tiles = [Tile::EMPTY; 8];
                5
            }
            (0x49, F2, true) => {
                check(modrm & 7 == 0, "reserved instruction");
                valid(state, register).data = [[0; ROW_BYTES]; ROWS];
                5
            }
            // TILELOADDT1, TILESTORED, TILELOADD.
            (0x4b, P66 | F2 | F3, false) => {
                let memory = memory();
                check(modrm & 7 == 4, "tile load or store without SIB");
                let stride = memory.index.unwrap_or(0);
                let tile = valid(state, register);
                let loads = simd != F3;
                if loads {
                    tile.data = [[0; ROW_BYTES]; ROWS];
                }
                for row in 0..tile.rows {
                    let at = memory.address.wrapping_add(row.wrapping_mul(stride)) as *mut u8;
                    let data = tile.data[row].as_mut_ptr();
                    // SAFETY: the program asked to read or write these bytes.
                    unsafe {
                        let (from, to) = if loads { (at, data) } else { (data, at) };
                        std::ptr::copy_nonoverlapping(from, to, tile.row_bytes);
                    }
                }
                4 + memory.length
            }
            (0x5c, F3, true) => {
                check(!extend_base && third < 8, "tile register above 7");
                let (a, b) = (usize::from(modrm & 7), third);
                check(register != a && register != b && a != b, "the same tile twice");
                let (a, b) = (*valid(state, a), *valid(state, b));
                // SAFETY: there is AVX-512, hence AVX2 and FMA.
                unsafe { multiply(valid(state, register), &a, &b) }
                5
            }
            _ => fail("an instruction that it does not know"),
        }
    }

    /// Decodes ModRM, SIB and displacement from `at` on.
    unsafe fn memory(registers: &[i64; 23], at: *const u8, extend_index: bool, extend_base: bool) -> Memory {
        let value = |low: u8, extended: bool| {
            registers[REGISTERS[usize::from(low) + 8 * usize::from(extended)] as usize] as usize
        };
        // SAFETY: the instruction is as long as it says.
        unsafe {
            let (mode, low) = (*at >> 6, *at & 7);
            let (mut length, mut index, mut base) = (1, None, low);
            if low == 4 {
                let sib = *at.add(1);
                length = 2;
                base = sib & 7;
                if sib >> 3 & 7 != 4 || extend_index {
                    index = Some(value(sib >> 3 & 7, extend_index) << (sib >> 6));
                }
            }
            check(mode != 0 || base != 5, "an address without base");
            let displacement = match mode {
                0 => 0,
                1 => isize::from(at.add(length).cast::<i8>().read()),
                _ => at.add(length).cast::<i32>().read_unaligned() as isize,
            };
            length += [0, 1, 4][usize::from(mode)];
            Memory { address: value(base, extend_base).wrapping_add_signed(displacement), index, length }
        }
    }

    fn configure(state: &mut State, from: &[u8; 64]) {
        check(from[0] == 1, "palette other than 1");
        check(from[1] == 0, "a start row");
        check(from[2..16].iter().chain(&from[32..48]).chain(&from[56..]).all(|&b| b == 0), "reserved bits");
        for (at, tile) in state.tiles.iter_mut().enumerate() {
            let row_bytes = usize::from(u16::from_le_bytes([from[16 + 2 * at], from[17 + 2 * at]]));
            let rows = usize::from(from[48 + at]);
            check(rows <= ROWS && row_bytes <= ROW_BYTES, "a tile too large");
            check((rows == 0) == (row_bytes == 0), "a tile empty in one direction only");
            *tile = Tile { rows, row_bytes, ..Tile::EMPTY };
        }
        state.configured = true;
    }

    fn valid(state: &mut State, tile: usize) -> &mut Tile {
        check(state.configured, "tiles are not configured");
        let tile = &mut state.tiles[tile];
        check(tile.rows > 0 && tile.row_bytes.is_multiple_of(4), "a tile that is not configured");
        tile
    }

    /// A denormal number as zero.
    fn flush(x: f32) -> f32 {
        if x.is_subnormal() { 0f32.copysign(x) } else { x }
    }

    /// TDPBF16PS: the sums over even and odd k separately, then both, then what C held.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn multiply(c: &mut Tile, a: &Tile, b: &Tile) {
        check(c.rows == a.rows && c.row_bytes == b.row_bytes && a.row_bytes == 4 * b.rows, "shapes of tiles");
        let value = |pair: u32, half: usize| {
            flush(f32::from_bits(if half == 0 { pair << 16 } else { pair & 0xffff_0000 }))
        };
        for row in 0..c.rows {
            let mut sums = [[0f32; ROW_BYTES / 4]; 2];
            for k in 0..a.row_bytes / 4 {
                for (half, sums) in sums.iter_mut().enumerate() {
                    let factor = value(a.dword(row, k), half);
                    for (n, sum) in sums.iter_mut().enumerate() {
                        *sum = flush(factor.mul_add(value(b.dword(k, n), half), *sum));
                    }
                }
            }
            let [even, odd] = sums;
            for (n, (even, odd)) in even.into_iter().zip(odd).enumerate().take(c.row_bytes / 4) {
                let sum = flush(even + odd);
                let sum = flush(flush(f32::from_bits(c.dword(row, n))) + sum);
                c.data[row][4 * n..][..4].copy_from_slice(&sum.to_bits().to_le_bytes());
            }
        }
    }
}
