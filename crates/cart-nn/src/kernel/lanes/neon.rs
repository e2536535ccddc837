//! NEON with 8-bit dot products (the `dotprod` extension).

#[allow(clippy::wildcard_imports, reason = "thirty intrinsics by name say nothing")]
use std::arch::aarch64::*;
use std::arch::asm;

use crate::kernel::lanes::Lanes;
use crate::kernel::packed::QUADS;

/// 16-byte registers: a quarter of a tile.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

// SAFETY, for every block below: the processor has NEON and `dotprod`, and pointers have the bytes
// that `Lanes` says.

impl Lanes for Neon {
    const LANES: usize = 4;
    const SIGNED_BYTES: bool = true;
    const ROWS: usize = 2;

    type Codes = uint8x16_t;
    type Ints = int32x4_t;
    type Floats = float32x4_t;
    type Tile = [float32x4_t; 4];

    #[inline(always)]
    unsafe fn zeros() -> Self::Tile {
        // SAFETY: see above.
        unsafe { [Self::splat(0.0); 4] }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> uint8x16_t {
        // SAFETY: see above.
        unsafe { vld1q_u8(at) }
    }

    #[inline(always)]
    unsafe fn shift_and(a: uint8x16_t, by: i32, mask: u8) -> uint8x16_t {
        // SAFETY: see above.
        unsafe { vandq_u8(vshlq_u8(a, vdupq_n_s8(by as i8)), vdupq_n_u8(mask)) }
    }

    #[inline(always)]
    unsafe fn or(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        // SAFETY: see above.
        unsafe { vorrq_u8(a, b) }
    }

    #[inline(always)]
    unsafe fn dots<const BITS: usize, const COUNT: usize>(
        codes: &[uint8x16_t; QUADS],
        first: usize,
        x: *const i8,
    ) -> int32x4_t {
        // SAFETY: see above.
        unsafe {
            let mut dots = vdupq_n_s32(0);
            for quad in first..first + COUNT {
                let four = vreinterpretq_s8_s32(vld1q_dup_s32(x.add(quad * 4).cast::<i32>()));
                let signed = if BITS == 8 {
                    vreinterpretq_s8_u8(veorq_u8(codes[quad], vdupq_n_u8(0x80)))
                } else {
                    vreinterpretq_s8_u8(codes[quad])
                };
                dots = add_dots(dots, signed, four);
            }
            dots
        }
    }

    #[inline(always)]
    unsafe fn both(high: int32x4_t, low: int32x4_t) -> int32x4_t {
        // SAFETY: see above.
        unsafe { vaddq_s32(vshlq_n_s32::<8>(high), low) }
    }

    #[inline(always)]
    unsafe fn floats<const SHIFT: u32>(ints: int32x4_t, value: i32) -> float32x4_t {
        // SAFETY: see above.
        unsafe {
            if SHIFT == 0 {
                return vcvtq_f32_s32(ints);
            }
            vcvtq_f32_s32(vsubq_s32(ints, vdupq_n_s32(value << SHIFT)))
        }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn multiply(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> float32x4_t {
        // SAFETY: see above. `fcvtl` is part of NEON; its intrinsic takes a type that is not
        // stable.
        unsafe {
            let halves = vld1_u8(at);
            let floats: float32x4_t;
            asm!(
                "fcvtl {0:v}.4s, {1:v}.4h",
                lateout(vreg) floats,
                in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags)
            );
            floats
        }
    }

    #[inline(always)]
    unsafe fn bytes(at: *const u8) -> float32x4_t {
        // SAFETY: see above.
        unsafe {
            let bytes = vreinterpret_s8_u32(vdup_n_u32(at.cast::<u32>().read_unaligned()));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
        }
    }

    #[inline(always)]
    unsafe fn nibbles(at: *const u8) -> [float32x4_t; 2] {
        // SAFETY: see above.
        unsafe {
            let bytes = vreinterpret_u8_u32(vdup_n_u32(at.cast::<u32>().read_unaligned()));
            let wide = vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
            let low = vandq_u32(wide, vdupq_n_u32(15));
            [vcvtq_f32_u32(low), vcvtq_f32_u32(vshrq_n_u32::<4>(wide))]
        }
    }

    #[inline(always)]
    unsafe fn store(floats: float32x4_t, to: *mut f32) {
        // SAFETY: see above.
        unsafe { vst1q_f32(to, floats) }
    }
}

/// `sums` plus sums of four products each.
#[inline(always)]
unsafe fn add_dots(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: see above. The intrinsic of `sdot` is not stable.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums,
            in(vreg) a,
            in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}
