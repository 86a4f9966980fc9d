//! For how long tiles stay configured, and awake.
//!
//! Tile registers are configured for a product and given up behind it: whoever shares the core has more of them
//! then, and the system less to save. But that takes 200 cycles, and tiles that have had nothing to do for 1,000 to
//! 2,000 cycles take another 850 to come to speed again (measured on Emerald Rapids). Where products follow one another
//! with depthwise rows between them, a [`Session`] keeps the configuration, and the rows give the tiles something to do
//! ([`keep_awake`]).

use std::marker::PhantomData;

use crate::isa::Isa;

/// While one lives, its thread keeps tiles configured from product to product, and awake during depthwise rows. Of
/// no effect where there are no tiles.
#[derive(Debug)]
pub struct Session {
    opened: bool,
    /// A thread's own.
    thread: PhantomData<*const ()>,
}

impl Session {
    /// For products with `isa` on this thread.
    pub fn open(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        let opened = isa.0 == crate::isa::Kind::Amx;
        #[cfg(not(target_arch = "x86_64"))]
        let (opened, _) = (false, isa);
        #[cfg(target_arch = "x86_64")]
        if opened {
            tiles::enter();
        }
        Self { opened, thread: PhantomData }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if self.opened {
            tiles::leave();
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use tiles::Configured;
#[cfg(target_arch = "x86_64")]
pub(crate) use tiles::{are_configured, keep_awake};

#[cfg(target_arch = "x86_64")]
mod tiles {
    use std::arch::asm;
    use std::cell::Cell;

    use crate::bf16::amx::{TILE_ROW, TILE_ROWS};

    /// What a thread's tiles are configured as.
    #[derive(Clone, Copy)]
    struct State {
        /// Sessions that are open.
        sessions: usize,
        /// Rows of tiles of sums and of A; 0 if tiles are not configured.
        height: u8,
        /// Whether all tiles may hold something.
        all: bool,
    }

    thread_local! {
        static STATE: Cell<State> = const { Cell::new(State { sessions: 0, height: 0, all: false }) };
    }

    pub fn enter() {
        let state = STATE.get();
        STATE.set(State { sessions: state.sessions + 1, ..state });
    }

    pub fn leave() {
        let state = STATE.get();
        STATE.set(State { sessions: state.sessions - 1, ..state });
        give_up();
    }

    /// Gives the tiles up, unless there is a session.
    fn give_up() {
        let state = STATE.get();
        if state.sessions == 0 && state.height > 0 {
            STATE.set(State { height: 0, ..state });
            // SAFETY: tiles are configured only where there are any.
            unsafe {
                asm!(
                    "tilerelease",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nomem, nostack, preserves_flags),
                );
            }
        }
    }

    /// A configuration of the tile registers, given up when dropped, unless there is a session.
    pub(in crate::bf16) struct Configured;

    /// What LDTILECFG reads: palette 1, and for each tile the bytes of a row and the number of rows.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    impl Configured {
        /// Tiles 0 to 3 (sums) and 4, 5 (A) of `height` rows, 6 and 7 (B) of sixteen pairs of k. As long as one of
        /// them is not written to, it is zero and takes no register: so it is, unless `all` may be used, with those
        /// that are not.
        ///
        /// # Safety
        /// There must be tiles, no other `Configured` on this thread, and 1 to 16 rows.
        pub unsafe fn new(height: u8, all: bool) -> Self {
            let state = STATE.get();
            if state.height == height && (all || !state.all) {
                STATE.set(State { all, ..state });
                return Self;
            }
            STATE.set(State { height, all, ..state });
            let mut configuration = Configuration {
                palette: 1,
                start_row: 0,
                reserved: [0; 14],
                row_bytes: [0; 16],
                rows: [0; 16],
            };
            configuration.row_bytes[..8].fill(TILE_ROW);
            configuration.rows[..6].fill(height);
            configuration.rows[6..8].fill(TILE_ROWS as u8);
            // SAFETY: reads 64 bytes; the values are within what palette 1 allows.
            unsafe {
                asm!(
                    "ldtilecfg [{at}]",
                    at = in(reg) &raw const configuration,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly, preserves_flags),
                );
            }
            Self
        }
    }

    impl Drop for Configured {
        fn drop(&mut self) {
            give_up();
        }
    }

    /// All tiles hold something now.
    pub(in crate::bf16) fn all_used() {
        STATE.set(State { all: true, ..STATE.get() });
    }

    /// Whether this thread's tiles are configured.
    pub(crate) fn are_configured() -> bool {
        STATE.get().height > 0
    }

    /// Gives the tiles something to do, between products: to be called every 1,000 cycles or more often.
    ///
    /// # Safety
    /// The tiles must be configured ([`are_configured`]), and their sums be needed no more.
    #[inline(always)]
    pub(crate) unsafe fn keep_awake() {
        // SAFETY: the caller's promise.
        unsafe { asm!("tdpbf16ps tmm0, tmm4, tmm6", options(nomem, nostack, preserves_flags)) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use tiles::all_used;
