//! What coding by frequencies will cost, in whole numbers, so that every machine chooses alike.

/// Fractions of a bit in a cost.
pub(super) const ONE_BIT: u64 = 256;

/// log₂ of a number from 1 on, in 256ths, rounded down.
pub(super) fn log2(number: u64) -> u64 {
    let whole = u64::from(number.ilog2());
    // As many bits as a product of two has room for.
    let mut rest = if whole >= 31 { number >> (whole - 31) } else { number << (31 - whole) };
    let mut fraction = 0;
    for _ in 0..8 {
        rest = (rest * rest) >> 31;
        fraction <<= 1;
        if rest >= 1 << 32 {
            rest >>= 1;
            fraction |= 1;
        }
    }
    whole * ONE_BIT + fraction
}

/// What coding symbols takes that occur so often, in 256ths of a bit.
pub(super) fn of_counts(counts: impl IntoIterator<Item = u32> + Clone) -> u64 {
    let total: u64 = counts.clone().into_iter().map(u64::from).sum();
    let cost = |count: u32| u64::from(count) * (log2(total) - log2(u64::from(count)));
    counts.into_iter().filter(|&count| count > 0).map(cost).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms_are_right_to_a_256th() {
        for number in [1, 2, 3, 7, 1000, 65_535, 1 << 31, (1 << 31) + 1, u64::MAX] {
            let exact = (number as f64).log2() * ONE_BIT as f64;
            let found = log2(number) as f64;
            assert!(found <= exact + 1e-6 && exact - found < 1.01, "{number}: {found} {exact}");
        }
    }

    #[test]
    fn even_counts_cost_their_bits_and_one_symbol_nothing() {
        assert_eq!(of_counts([10; 8]), 80 * 3 * ONE_BIT);
        assert_eq!(of_counts([0, 99]), 0);
        assert_eq!(of_counts([]), 0);
    }
}
