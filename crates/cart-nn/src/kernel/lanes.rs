//! Vectors of outputs: what the products of packed weights need of a processor.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod portable;

use crate::kernel::activations::Codes;
use crate::kernel::packed::QUADS;

/// Vectors with a lane for each of some outputs of a tile.
///
/// # Safety
/// All functions need the processor's instructions of the level, and are `inline(always)`, so that
/// they become part of a function that has them enabled. Pointers have as many bytes as is said.
pub(crate) trait Lanes: Copy {
    /// Outputs in a vector: 16, 8 or 4.
    const LANES: usize;
    /// Whether [`Lanes::dots`] takes 128 off codes of 8 bits.
    const SIGNED_BYTES: bool;
    /// Most activation rows that are worked on together.
    const ROWS: usize;

    /// Four codes for each output.
    type Codes: Copy;
    /// An `i32` for each output.
    type Ints: Copy;
    /// An `f32` for each output.
    type Floats: Copy;
    /// An `f32` for each output of a tile.
    type Tile: Copy + AsRef<[Self::Floats]> + AsMut<[Self::Floats]>;

    /// Zeros for a tile.
    unsafe fn zeros() -> Self::Tile;
    /// `4 · LANES` bytes.
    unsafe fn load(at: *const u8) -> Self::Codes;
    /// `(a << by) & mask`, or `(a >> -by) & mask` where `by` is negative, in each byte. Only bits
    /// that stay inside their byte may be in `mask`.
    unsafe fn shift_and(a: Self::Codes, by: i32, mask: u8) -> Self::Codes;
    /// `a | b`.
    unsafe fn or(a: Self::Codes, b: Self::Codes) -> Self::Codes;

    /// Sums of products of `COUNT` quads from `first` on with the activation codes `x`, `[GROUP]`,
    /// of the same inputs. Codes of weights have at most `BITS` bits.
    unsafe fn dots<const BITS: usize, const COUNT: usize>(
        codes: &[Self::Codes; QUADS],
        first: usize,
        x: *const i8,
    ) -> Self::Ints;
    /// `256 · high + low`.
    unsafe fn both(high: Self::Ints, low: Self::Ints) -> Self::Ints;
    /// [`Lanes::both`] of the dots with `x` and with `rests`, for each of `N` rows of a block; of zeros
    /// for those with the rests where not `RESTS`.
    #[inline(always)]
    unsafe fn both_dots<
        const BITS: usize,
        const COUNT: usize,
        const N: usize,
        const RESTS: bool,
    >(
        codes: &[Self::Codes; QUADS],
        first: usize,
        x: *const Codes,
        rests: *const Codes,
    ) -> [Self::Ints; N] {
        // SAFETY: passed on to the caller.
        unsafe {
            let zero = Self::dots::<BITS, 0>(codes, first, x.cast());
            let mut all = [zero; N];
            for (row, both) in all.iter_mut().enumerate() {
                let high = Self::dots::<BITS, COUNT>(codes, first, x.add(row).cast());
                let low = if RESTS {
                    Self::dots::<BITS, COUNT>(codes, first, rests.add(row).cast())
                } else {
                    zero
                };
                *both = Self::both(high, low);
            }
            all
        }
    }
    /// `ints − value · 2^SHIFT` as floats; `ints` as they are where `SHIFT` is 0.
    unsafe fn floats<const SHIFT: u32>(ints: Self::Ints, value: i32) -> Self::Floats;

    /// The same number for every output.
    unsafe fn splat(value: f32) -> Self::Floats;
    /// `a · b`.
    unsafe fn multiply(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a · b + c`.
    unsafe fn multiply_add(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// `LANES` 16-bit floats.
    unsafe fn halves(at: *const u8) -> Self::Floats;
    /// `LANES` bytes with a sign.
    unsafe fn bytes(at: *const u8) -> Self::Floats;
    /// The low and the high nibbles of `LANES` bytes.
    unsafe fn nibbles(at: *const u8) -> [Self::Floats; 2];
    /// Writes `LANES` floats.
    unsafe fn store(floats: Self::Floats, to: *mut f32);
    /// Asks for the line of memory at an address that need not exist.
    #[inline(always)]
    unsafe fn prefetch(at: *const u8) {
        let _ = at;
    }
}
