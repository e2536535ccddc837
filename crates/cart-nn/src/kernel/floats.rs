//! Numbers side by side, written once for every level.

use half::{bf16, f16};

use crate::kernel::vector::fused;
use crate::kernel::{KernelLevel, Kernels};

/// Numbers that are summed up side by side, at every level, so that sums come out the same.
pub(crate) const SIDE_BY_SIDE: usize = 16;

/// A vector of floats.
///
/// # Safety
/// Every method asks that the processor has the implementation's instructions, and every pointer
/// that `COUNT` numbers lie there.
pub(crate) trait Lanes: Copy {
    /// Numbers in it.
    const COUNT: usize;
    /// Vectors side by side in a panel, so that the sums of six rows stay in registers: 4 of 16
    /// numbers, or 2 of 8.
    const PANEL: usize;

    unsafe fn splat(number: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn load_f16(from: *const f16) -> Self;
    unsafe fn load_bf16(from: *const bf16) -> Self;
    unsafe fn load_i8(from: *const i8) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self · factor + addend`, rounded once.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    unsafe fn mul(self, factor: Self) -> Self;
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn sub(self, other: Self) -> Self;
    /// The larger; `other` where one is not a number.
    unsafe fn max(self, other: Self) -> Self;
    /// The smaller; `other` where one is not a number.
    unsafe fn min(self, other: Self) -> Self;
    /// `2^n`, where these are `1.5 · 2^23 + n` with n from −126 to 127.
    unsafe fn power_of_two(self) -> Self;
    /// The numbers, 0 where `tested` is less than `least`.
    unsafe fn unless_below(self, tested: Self, least: Self) -> Self;

    /// The numbers by themselves, at most 16 of them.
    #[inline(always)]
    unsafe fn spread(self) -> [f32; 16] {
        let mut numbers = [0.0; 16];
        // SAFETY: there is room for 16; the rest is passed on to the caller.
        unsafe { self.store(numbers.as_mut_ptr()) };
        numbers
    }

    /// The sum of the first half and the second one, of their halves, and so on.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: passed on to the caller.
        let mut numbers = unsafe { self.spread() };
        let mut count = Self::COUNT;
        while count > 1 {
            count /= 2;
            for at in 0..count {
                numbers[at] += numbers[at + count];
            }
        }
        numbers[0]
    }

    /// The sum of [`SIDE_BY_SIDE`] numbers, as [`Lanes::sum`] takes it, in one vector or two.
    #[inline(always)]
    unsafe fn sum_of(parts: [Self; 2]) -> f32 {
        // SAFETY: passed on to the caller.
        unsafe {
            match SIDE_BY_SIDE / Self::COUNT {
                1 => parts[0].sum(),
                _ => parts[0].add(parts[1]).sum(),
            }
        }
    }

    /// The largest.
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: passed on to the caller.
        let numbers = unsafe { self.spread() };
        numbers[..Self::COUNT].iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// `e^x` to within two units in the last place; 0 under −87.3 and capped over 88.3; what is not
    /// a number stays so. (Cephes `expf`.)
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        const ROUND: f32 = 12_582_912.0;
        // SAFETY: passed on to the caller.
        unsafe {
            let low = Self::splat(-87.33);
            let x = Self::splat(88.3).min(low.max(self));
            let shifted = x.mul_add(Self::splat(std::f32::consts::LOG2_E), Self::splat(ROUND));
            let power = shifted.sub(Self::splat(ROUND));
            let rest = power.mul_add(Self::splat(-0.693_359_4), x);
            let rest = power.mul_add(Self::splat(2.121_944_4e-4), rest);
            let mut series = Self::splat(1.987_569_1e-4);
            for factor in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
                series = series.mul_add(rest, Self::splat(factor));
            }
            let value = series.mul_add(rest.mul(rest), rest.add(Self::splat(1.0)));
            value.mul(shifted.power_of_two()).unless_below(self, low)
        }
    }
}

/// A stored number that becomes a float on the way into a register.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// # Safety
    /// As for [`Lanes::load`].
    unsafe fn lanes<L: Lanes>(from: *const Self) -> L;

    /// It as a float.
    fn wide(self) -> f32;
}

macro_rules! element {
    ($($of:ty: $load:ident, $wide:expr;)*) => {
        $(impl Element for $of {
            #[inline(always)]
            unsafe fn lanes<L: Lanes>(from: *const Self) -> L {
                // SAFETY: passed on to the caller.
                unsafe { L::$load(from) }
            }

            #[inline(always)]
            fn wide(self) -> f32 {
                $wide(self)
            }
        })*
    };
}

element! {
    f32: load, std::convert::identity;
    f16: load_f16, f16::to_f32;
    bf16: load_bf16, bf16::to_f32;
}

/// Work that is compiled once for each level. `run` must be `inline(always)`.
pub(crate) trait Work {
    /// # Safety
    /// The processor has the instructions of `L`.
    unsafe fn run<L: Lanes>(self);
}

/// Does the work with the widest vectors of the level.
pub(crate) fn at_level(kernels: Kernels, work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    {
        if kernels.level() >= KernelLevel::Avx512Vnni {
            // SAFETY: `Kernels` says that the processor has these instructions.
            return unsafe { x86::with_512(work) };
        }
        if kernels.level() >= KernelLevel::Avx2 {
            // SAFETY: `Kernels` says that the processor has these instructions.
            return unsafe { x86::with_256(work) };
        }
    }
    let _ = (kernels, KernelLevel::Portable);
    // SAFETY: plain Rust.
    unsafe { work.run::<Plain>() }
}

/// Eight numbers in plain Rust.
#[derive(Clone, Copy)]
struct Plain([f32; 8]);

impl Plain {
    #[inline(always)]
    fn zip(self, other: Self, apply: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|at| apply(self.0[at], other.0[at])))
    }
}

impl Lanes for Plain {
    const COUNT: usize = 8;
    const PANEL: usize = 2;

    #[inline(always)]
    unsafe fn splat(number: f32) -> Self {
        Self([number; 8])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: passed on to the caller.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self {
        // SAFETY: passed on to the caller.
        Self(unsafe { from.cast::<[f16; 8]>().read_unaligned() }.map(f16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self {
        // SAFETY: passed on to the caller.
        Self(unsafe { from.cast::<[bf16; 8]>().read_unaligned() }.map(bf16::to_f32))
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: passed on to the caller.
        Self(unsafe { from.cast::<[i8; 8]>().read_unaligned() }.map(f32::from))
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: passed on to the caller.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|at| fused(self.0[at], factor.0[at], addend.0[at])))
    }

    #[inline(always)]
    unsafe fn mul(self, factor: Self) -> Self {
        self.zip(factor, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn power_of_two(self) -> Self {
        let origin = 12_582_912.0_f32.to_bits();
        Self(self.0.map(|number| {
            f32::from_bits(number.to_bits().wrapping_sub(origin).wrapping_add(127) << 23)
        }))
    }

    #[inline(always)]
    unsafe fn unless_below(self, tested: Self, least: Self) -> Self {
        Self(std::array::from_fn(|at| if tested.0[at] < least.0[at] { 0.0 } else { self.0[at] }))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[allow(clippy::wildcard_imports, reason = "thirty intrinsics by name say nothing")]
    use std::arch::x86_64::*;

    use half::{bf16, f16};

    use super::{Lanes, Work};

    /// # Safety
    /// The processor has AVX-512 F, BW, DQ and VL.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    pub(super) unsafe fn with_512(work: impl Work) {
        // SAFETY: this function has the instructions.
        unsafe { work.run::<__m512>() }
    }

    /// # Safety
    /// The processor has AVX2, FMA and F16C.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn with_256(work: impl Work) {
        // SAFETY: this function has the instructions.
        unsafe { work.run::<__m256>() }
    }

    /// Implements a method for each pair of a name and an intrinsic.
    macro_rules! two_operands {
        ($($name:ident = $intrinsic:ident),* $(,)?) => {
            $(#[inline(always)]
            unsafe fn $name(self, other: Self) -> Self {
                // SAFETY: passed on to the caller.
                unsafe { $intrinsic(self, other) }
            })*
        };
    }

    impl Lanes for __m512 {
        const COUNT: usize = 16;
        const PANEL: usize = 4;

        two_operands! {
            mul = _mm512_mul_ps,
            add = _mm512_add_ps,
            sub = _mm512_sub_ps,
            max = _mm512_max_ps,
            min = _mm512_min_ps,
        }

        #[inline(always)]
        unsafe fn splat(number: f32) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm512_set1_ps(number) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Self {
            // SAFETY: passed on to the caller.
            unsafe {
                let high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(high))
            }
        }

        #[inline(always)]
        unsafe fn load_i8(from: *const i8) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: passed on to the caller.
            unsafe { _mm512_storeu_ps(to, self) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm512_fmadd_ps(self, factor, addend) }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: passed on to the caller.
            unsafe {
                let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(self)));
                Lanes::sum(_mm256_add_ps(_mm512_castps512_ps256(self), high))
            }
        }

        #[inline(always)]
        unsafe fn largest(self) -> f32 {
            // SAFETY: passed on to the caller.
            unsafe { _mm512_reduce_max_ps(self) }
        }

        #[inline(always)]
        unsafe fn power_of_two(self) -> Self {
            // SAFETY: passed on to the caller.
            unsafe {
                let origin = _mm512_set1_epi32(12_582_912.0_f32.to_bits() as i32 - 127);
                let exponent = _mm512_sub_epi32(_mm512_castps_si512(self), origin);
                _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
            }
        }

        #[inline(always)]
        unsafe fn unless_below(self, tested: Self, least: Self) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(tested, least), self) }
        }
    }

    impl Lanes for __m256 {
        const COUNT: usize = 8;
        const PANEL: usize = 2;

        two_operands! {
            mul = _mm256_mul_ps,
            add = _mm256_add_ps,
            sub = _mm256_sub_ps,
            max = _mm256_max_ps,
            min = _mm256_min_ps,
        }

        #[inline(always)]
        unsafe fn splat(number: f32) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm256_set1_ps(number) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn load_f16(from: *const f16) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: *const bf16) -> Self {
            // SAFETY: passed on to the caller.
            unsafe {
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))
            }
        }

        #[inline(always)]
        unsafe fn load_i8(from: *const i8) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: passed on to the caller.
            unsafe { _mm256_storeu_ps(to, self) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm256_fmadd_ps(self, factor, addend) }
        }

        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: passed on to the caller.
            unsafe {
                let four =
                    _mm_add_ps(_mm256_castps256_ps128(self), _mm256_extractf128_ps::<1>(self));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }

        #[inline(always)]
        unsafe fn power_of_two(self) -> Self {
            // SAFETY: passed on to the caller.
            unsafe {
                let origin = _mm256_set1_epi32(12_582_912.0_f32.to_bits() as i32 - 127);
                let exponent = _mm256_sub_epi32(_mm256_castps_si256(self), origin);
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
            }
        }

        #[inline(always)]
        unsafe fn unless_below(self, tested: Self, least: Self) -> Self {
            // SAFETY: passed on to the caller.
            unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(tested, least), self) }
        }
    }
}
