//! The tile unit of Intel processors (AMX with 8-bit products), by its instructions.
//!
//! No such processor was at hand: what surrounds the instructions is tested with a model of the unit, and
//! [`is_supported`] believes a processor only after comparing what it multiplies with that model.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::OnceLock;

use crate::kernel::activations::{BLOCK, Codes};
use crate::kernel::packed::{LINE, QUADS};
use crate::kernel::product::matrix_unit::{MatrixUnit, Sums};

/// From a row of codes to the next, in bytes.
const ROW: usize = size_of::<Codes>();

/// What `ldtilecfg` reads: for each tile register its rows and the bytes of a row.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Register 0 and 1: sums with codes and with rests, `[16, 16]` of 4 bytes. 2 and 3: codes and rests, `[16, 4 · quads]`.
/// 4: weights, `[quads, 64]`.
pub(crate) struct Amx(());

impl Shapes {
    /// A register for each pair of rows and bytes of a row.
    #[inline(always)]
    fn new<const N: usize>(registers: [(usize, usize); N]) -> Self {
        let mut shapes =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (register, (rows, row_bytes)) in registers.into_iter().enumerate() {
            (shapes.rows[register], shapes.row_bytes[register]) = (rows as u8, row_bytes as u16);
        }
        shapes
    }

    /// # Safety
    /// The processor has AMX-TILE, and the system allows it.
    #[inline(always)]
    unsafe fn load(&self) {
        // SAFETY: 64 bytes are read. The assembly may read and write all memory for all that the compiler
        // knows, so the shapes are there before it, and no tile is used before it.
        unsafe { asm!("ldtilecfg [{shapes}]", shapes = in(reg) self, options(nostack)) };
    }
}

impl MatrixUnit for Amx {
    #[inline(always)]
    unsafe fn begin(quads: usize) -> Self {
        let (sums, codes) = ((BLOCK, LINE), (BLOCK, 4 * quads));
        // SAFETY: passed on to the caller.
        unsafe { Shapes::new([sums, sums, codes, codes, (quads, LINE)]).load() };
        Self(())
    }

    #[inline(always)]
    unsafe fn products<const RESTS: bool>(
        &mut self,
        weights: *const u8,
        x: *const i8,
        rests: *const i8,
        out: &mut [Sums; 2],
    ) {
        let [high, low] = out;
        // SAFETY: the caller has the instructions, and has begun with the shapes of these places.
        unsafe {
            asm!(
                "tileloadd tmm4, [{weights} + {line}]",
                "tileloadd tmm2, [{x} + {row}]",
                "tilezero tmm0",
                "tdpbsud tmm0, tmm2, tmm4",
                "tilestored [{high} + {line}], tmm0",
                weights = in(reg) weights,
                x = in(reg) x,
                high = in(reg) std::ptr::from_mut(high),
                line = in(reg) LINE,
                row = in(reg) ROW,
                options(nostack, preserves_flags),
            );
            if RESTS {
                asm!(
                    "tileloadd tmm3, [{rests} + {row}]",
                    "tilezero tmm1",
                    "tdpbsud tmm1, tmm3, tmm4",
                    "tilestored [{low} + {line}], tmm1",
                    rests = in(reg) rests,
                    low = in(reg) std::ptr::from_mut(low),
                    line = in(reg) LINE,
                    row = in(reg) ROW,
                    options(nostack, preserves_flags),
                );
            }
        }
    }

    #[inline(always)]
    unsafe fn end(self) {
        // SAFETY: the caller has the instructions.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) };
    }
}

/// Multiplies full tiles, four of 16 · 16 · 64 products in a step, for [`crate::machine`].
///
/// # Safety
/// The unit is supported.
pub(crate) unsafe fn products(steps: usize) -> i32 {
    let mut sums = Sums([[0; 16]; BLOCK]);
    let ones = [1_u8; BLOCK * LINE];
    // SAFETY: the caller's promise; tiles are 16 rows of 64 bytes, as the places are.
    unsafe {
        Shapes::new([(BLOCK, LINE); 6]).load();
        asm!(
            "tileloadd tmm4, [{ones} + {line}]",
            "tileloadd tmm5, [{ones} + {line}]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tdpbsud tmm0, tmm4, tmm5",
            "tdpbsud tmm1, tmm4, tmm5",
            "tdpbsud tmm2, tmm4, tmm5",
            "tdpbsud tmm3, tmm4, tmm5",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {line}], tmm0",
            "tilerelease",
            ones = in(reg) ones.as_ptr(),
            line = in(reg) LINE,
            steps = inout(reg) steps.max(1) => _,
            sums = in(reg) &raw mut sums,
            options(nostack),
        );
    }
    sums.0[0][0]
}

/// Whether the processor has the unit, the system lets this process use it, and it multiplies as it should.
pub(crate) fn is_supported() -> bool {
    static SUPPORTED: OnceLock<bool> = OnceLock::new();
    *SUPPORTED.get_or_init(|| {
        // SAFETY: the processor has the instructions and the system allows them, as the two before say.
        has_instructions() && is_allowed() && unsafe { multiplies::<Amx>() }
    })
}

/// AMX-TILE and AMX-INT8, and a system that keeps tiles for each thread.
fn has_instructions() -> bool {
    const OSXSAVE: u32 = 1 << 27;
    const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    if __cpuid_count(7, 0).edx & TILE_AND_INT8 != TILE_AND_INT8 {
        return false;
    }
    #[target_feature(enable = "xsave")]
    unsafe fn kept() -> u64 {
        // SAFETY: the caller has seen OSXSAVE; register 0 is always there.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: OSXSAVE is set.
    unsafe { kept() & TILE_STATE == TILE_STATE }
}

/// Asks the system for the room that tiles take in the state of a thread; threads of the process have it then.
#[cfg(target_os = "linux")]
fn is_allowed() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: a system call that only widens what the process may use.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn is_allowed() -> bool {
    false
}

/// Whether a unit multiplies as its model does.
///
/// # Safety
/// The processor has the unit's instructions.
unsafe fn multiplies<U: MatrixUnit>() -> bool {
    let weights: [u8; QUADS * LINE] = std::array::from_fn(|at| (at * 37 + at / 7) as u8);
    let codes = |by: usize| -> [Codes; BLOCK] {
        std::array::from_fn(|row| {
            Codes(std::array::from_fn(|at| ((row * 89 + at * by) % 255) as i8))
        })
    };
    let (x, rests) = (codes(53), codes(101));
    [QUADS, QUADS / 2].into_iter().all(|quads| {
        let results = [0, 1].map(|of_model| {
            let mut out = [[Sums([[-1; 16]; BLOCK]); 2]; 2];
            let places = (weights.as_ptr(), x.as_ptr().cast(), rests.as_ptr().cast());
            // SAFETY: the caller has the instructions; the places have a group's bytes for 16 rows.
            unsafe {
                if of_model == 1 {
                    twice::<Model>(quads, places, &mut out);
                } else {
                    twice::<U>(quads, places, &mut out);
                }
            }
            out.map(|sums| sums.map(|sums| sums.0))
        });
        results[0] == results[1]
    })
}

/// Without rests and with them.
unsafe fn twice<U: MatrixUnit>(
    quads: usize,
    (weights, x, rests): (*const u8, *const i8, *const i8),
    [without, with]: &mut [[Sums; 2]; 2],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let mut unit = U::begin(quads);
        unit.products::<false>(weights, x, rests, without);
        unit.products::<true>(weights, x, rests, with);
        unit.end();
    }
}

/// The unit in plain Rust.
pub(crate) struct Model {
    quads: usize,
}

impl MatrixUnit for Model {
    unsafe fn begin(quads: usize) -> Self {
        Self { quads }
    }

    unsafe fn products<const RESTS: bool>(
        &mut self,
        weights: *const u8,
        x: *const i8,
        rests: *const i8,
        out: &mut [Sums; 2],
    ) {
        for (codes, sums) in [x, rests].into_iter().zip(out).take(if RESTS { 2 } else { 1 }) {
            for (row, sums) in sums.0.iter_mut().enumerate() {
                for (output, sum) in sums.iter_mut().enumerate() {
                    *sum = (0..4 * self.quads)
                        .map(|at| {
                            // SAFETY: the caller says that the places are there.
                            let (weight, code) = unsafe {
                                let weight = weights.add(at / 4 * LINE + output * 4 + at % 4);
                                (*weight, *codes.add(row * ROW + at))
                            };
                            i32::from(weight) * i32::from(code)
                        })
                        .sum();
                }
            }
        }
    }

    unsafe fn end(self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A unit that forgets the rests.
    struct Forgetful(Model);

    impl MatrixUnit for Forgetful {
        unsafe fn begin(quads: usize) -> Self {
            // SAFETY: plain Rust.
            Self(unsafe { Model::begin(quads) })
        }

        unsafe fn products<const RESTS: bool>(
            &mut self,
            weights: *const u8,
            x: *const i8,
            _: *const i8,
            out: &mut [Sums; 2],
        ) {
            // SAFETY: passed on to the caller.
            unsafe { self.0.products::<RESTS>(weights, x, x, out) };
        }

        unsafe fn end(self) {}
    }

    #[test]
    fn only_a_unit_that_multiplies_rightly_is_believed() {
        // SAFETY: both are plain Rust.
        unsafe {
            assert!(multiplies::<Model>());
            assert!(!multiplies::<Forgetful>());
        }
    }

    #[test]
    fn shapes_are_as_the_processor_reads_them() {
        let shapes = Shapes::new([(16, 64), (8, 32)]);
        assert_eq!(size_of::<Shapes>(), 64);
        assert_eq!(std::mem::offset_of!(Shapes, row_bytes), 16);
        assert_eq!(std::mem::offset_of!(Shapes, rows), 48);
        assert_eq!((shapes.palette, shapes.start_row), (1, 0));
        assert_eq!(
            (&shapes.row_bytes[..3], &shapes.rows[..3]),
            (&[64, 32, 0][..], &[16, 8, 0][..])
        );
    }
}
