//! Floats as whole numbers.

/// A float of so many bytes.
pub(super) trait Word {
    /// Bytes.
    const BYTES: usize;
    /// Bits.
    const BITS: u32 = Self::BYTES as u32 * 8;
    /// Bits of the exponent.
    const EXPONENT: u32;
    /// Bits of the mantissa.
    const MANTISSA: u32 = Self::BITS - 1 - Self::EXPONENT;
    /// All bits set.
    const MASK: u64 = u64::MAX >> (64 - Self::BITS);
    /// The sign.
    const SIGN: u64 = 1 << (Self::BITS - 1);

    fn load(bytes: &[u8]) -> u64;
    fn store(value: u64, bytes: &mut [u8]);

    /// The exponent as it is stored.
    #[inline(always)]
    fn exponent(value: u64) -> u64 {
        (value >> Self::MANTISSA) & ((1 << Self::EXPONENT) - 1)
    }

    /// A number that grows as the float does.
    #[inline(always)]
    fn ordered(value: u64) -> u64 {
        // The sign, spread over all bits.
        let negative = (value >> (Self::BITS - 1)).wrapping_neg();
        (value ^ (negative | Self::SIGN)) & Self::MASK
    }

    /// The float that [`Word::ordered`] came from.
    #[inline(always)]
    fn unordered(value: u64) -> u64 {
        let positive = (value >> (Self::BITS - 1)).wrapping_neg();
        (value ^ (!positive | Self::SIGN)) & Self::MASK
    }

    /// The steps from one float to another, small ones small: 0, -1, 1, -2, …
    #[inline(always)]
    fn steps(from: u64, to: u64) -> u64 {
        let apart = Self::ordered(to).wrapping_sub(Self::ordered(from)) & Self::MASK;
        let negative = (apart >> (Self::BITS - 1)).wrapping_neg();
        ((apart << 1) ^ negative) & Self::MASK
    }

    /// The float that lies so many steps from another.
    #[inline(always)]
    fn after_steps(from: u64, steps: u64) -> u64 {
        let apart = (steps >> 1) ^ (steps & 1).wrapping_neg();
        Self::unordered(Self::ordered(from).wrapping_add(apart) & Self::MASK)
    }
}

macro_rules! words {
    ($($name:ident, $number:ty, $exponent:literal, $doc:literal;)*) => {$(
        #[doc = $doc]
        #[derive(Debug)]
        pub(super) struct $name;

        impl Word for $name {
            const BYTES: usize = size_of::<$number>();
            const EXPONENT: u32 = $exponent;

            #[inline(always)]
            fn load(bytes: &[u8]) -> u64 {
                <$number>::from_le_bytes(bytes.try_into().expect("whole elements are loaded")).into()
            }

            #[inline(always)]
            fn store(value: u64, bytes: &mut [u8]) {
                bytes.copy_from_slice(&(value as $number).to_le_bytes());
            }
        }
    )*};
}

words! {
    Bf16, u16, 8, "The upper half of an f32.";
    F16, u16, 5, "IEEE half.";
    F32, u32, 8, "IEEE single.";
    F64, u64, 11, "IEEE double.";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<W: Word>(values: impl Iterator<Item = u64>) {
        let values: Vec<u64> = values.collect();
        for &from in &values {
            assert_eq!(W::unordered(W::ordered(from)), from);
            for &to in &values {
                assert_eq!(W::after_steps(from, W::steps(from, to)), to);
            }
        }
    }

    #[test]
    fn steps_lead_from_every_float_to_every_other() {
        check::<Bf16>((0..=u64::from(u16::MAX)).step_by(97).chain([0x8000, 0x7fff, 0xffff]));
        check::<F16>((0..=u64::from(u16::MAX)).step_by(131).chain([0x8000]));
        check::<F32>([0, 1, 0x8000_0000, 0x7f80_0000, 0xffff_ffff, 0x3f80_0000].into_iter());
        check::<F64>([0, 1 << 63, u64::MAX, 0x7ff0 << 48, 0x3ff0 << 48].into_iter());
    }

    #[test]
    fn neighbours_are_one_step_apart() {
        let bits = |value: f32| u64::from(value.to_bits());
        assert_eq!(F32::steps(bits(1.0), bits(1.0)), 0);
        assert_eq!(F32::steps(bits(1.0), bits(1.0_f32.next_down())), 1);
        assert_eq!(F32::steps(bits(1.0), bits(1.0_f32.next_up())), 2);
        assert_eq!(F32::steps(bits(-1.0), bits((-1.0_f32).next_down())), 1);
        assert_eq!(F32::steps(bits(-0.0), bits(0.0)), 2);
    }
}
