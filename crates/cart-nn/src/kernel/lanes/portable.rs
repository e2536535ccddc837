//! Plain Rust.

use half::f16;

use crate::kernel::format::GROUP;
use crate::kernel::lanes::Lanes;
use crate::kernel::packed::{LINE, OUTPUTS, QUADS};
use crate::kernel::vector::fused;

/// Arrays.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

// SAFETY, for every block below: pointers have the bytes that `Lanes` says.

impl Lanes for Portable {
    const LANES: usize = OUTPUTS;
    const SIGNED_BYTES: bool = false;
    const ROWS: usize = 1;

    type Codes = [u8; LINE];
    type Ints = [i32; OUTPUTS];
    type Floats = [f32; OUTPUTS];
    type Tile = [[f32; OUTPUTS]; 1];

    #[inline(always)]
    unsafe fn zeros() -> Self::Tile {
        // SAFETY: see above.
        unsafe { [Self::splat(0.0); 1] }
    }

    #[inline(always)]
    unsafe fn load(at: *const u8) -> Self::Codes {
        // SAFETY: see above.
        unsafe { at.cast::<Self::Codes>().read() }
    }

    #[inline(always)]
    unsafe fn shift_and(a: Self::Codes, by: i32, mask: u8) -> Self::Codes {
        a.map(|a| if by < 0 { a >> -by } else { a << by } & mask)
    }

    #[inline(always)]
    unsafe fn or(mut a: Self::Codes, b: Self::Codes) -> Self::Codes {
        a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
        a
    }

    #[inline(always)]
    unsafe fn dots<const BITS: usize, const COUNT: usize>(
        codes: &[Self::Codes; QUADS],
        first: usize,
        x: *const i8,
    ) -> Self::Ints {
        // SAFETY: see above.
        let x = unsafe { std::slice::from_raw_parts(x, GROUP) };
        let mut dots = [0; OUTPUTS];
        for quad in first..first + COUNT {
            let x: [i32; 4] = std::array::from_fn(|at| i32::from(x[quad * 4 + at]));
            for (dot, codes) in dots.iter_mut().zip(codes[quad].as_chunks::<4>().0) {
                let products = std::array::from_fn::<i32, 4, _>(|at| i32::from(codes[at]) * x[at]);
                *dot += (products[0] + products[1]) + (products[2] + products[3]);
            }
        }
        dots
    }

    #[inline(always)]
    unsafe fn both(high: Self::Ints, low: Self::Ints) -> Self::Ints {
        std::array::from_fn(|lane| high[lane].wrapping_mul(256).wrapping_add(low[lane]))
    }

    #[inline(always)]
    unsafe fn floats<const SHIFT: u32>(ints: Self::Ints, value: i32) -> Self::Floats {
        let value = if SHIFT == 0 { 0 } else { value << SHIFT };
        ints.map(|int| (int - value) as f32)
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Floats {
        [value; OUTPUTS]
    }

    #[inline(always)]
    unsafe fn multiply(a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    unsafe fn multiply_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| fused(a[lane], b[lane], c[lane]))
    }

    #[inline(always)]
    unsafe fn halves(at: *const u8) -> Self::Floats {
        // SAFETY: see above.
        let halves = unsafe { at.cast::<[[u8; 2]; OUTPUTS]>().read() };
        halves.map(|half| f16::from_le_bytes(half).to_f32())
    }

    #[inline(always)]
    unsafe fn bytes(at: *const u8) -> Self::Floats {
        // SAFETY: see above.
        let bytes = unsafe { at.cast::<[i8; OUTPUTS]>().read() };
        bytes.map(f32::from)
    }

    #[inline(always)]
    unsafe fn nibbles(at: *const u8) -> [Self::Floats; 2] {
        // SAFETY: see above.
        let bytes = unsafe { at.cast::<[u8; OUTPUTS]>().read() };
        [bytes.map(|byte| f32::from(byte & 15)), bytes.map(|byte| f32::from(byte >> 4))]
    }

    #[inline(always)]
    unsafe fn store(floats: Self::Floats, to: *mut f32) {
        // SAFETY: see above.
        unsafe { to.cast::<Self::Floats>().write(floats) }
    }
}
