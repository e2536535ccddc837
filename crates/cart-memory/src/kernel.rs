//! Products of many rows with one query, at the level that the processor allows.
//!
//! Every level gives the same bits: floats are added up in the order of [`dot`](crate::vector::dot),
//! and everything else is whole numbers.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Values in a row of codes, and in a word of a sketch: rows are padded to this.
pub(crate) const GROUP: usize = 64;
/// Rows of sketches that are looked at together.
pub(crate) const TOGETHER: usize = 8;
/// Bits of a value of the query, where rows have one.
pub(crate) const PLANES: usize = 4;

/// Which instructions the products use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Plain Rust.
    Portable,
    /// x86-64 with AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 (F, BW, VL, VNNI and VPOPCNTDQ).
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// Every level of this architecture, slowest first.
    const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
    ];

    /// The best level of this processor.
    pub(crate) fn best() -> Self {
        Self::ALL.iter().copied().rfind(|level| level.is_supported()).unwrap_or(Self::Portable)
    }

    fn is_supported(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("avx512vpopcntdq")
            }
        }
    }
}

/// The dot product of each row with the query, with the bits of [`dot`](crate::vector::dot).
///
/// * `rows`: `[products, dim]`, `query`: `[dim]`
/// * `products`: `[products]`, is overwritten
pub(crate) fn dots(level: Level, rows: &[f32], query: &[f32], products: &mut [f32]) {
    assert_eq!(rows.len(), products.len() * query.len(), "rows are whole");
    match level {
        Level::Portable => portable::dots(rows, query, products),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: levels are made by `Level::best` and by tests, which ask the processor first.
        Level::Avx2 => unsafe { x86::dots_avx2(rows, query, products) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 => unsafe { x86::dots_avx512(rows, query, products) },
    }
}

/// `Σ code · query` of each row.
///
/// * `rows`: `[products, stride]`, each code 128 more than it is; `query`: `[stride]`, whole groups
/// * `products`: `[products]`, is overwritten
pub(crate) fn code_products(level: Level, rows: &[u8], query: &[i8], products: &mut [i32]) {
    assert_eq!(rows.len(), products.len() * query.len(), "rows are whole");
    match level {
        Level::Portable => portable::code_products(rows, query, products),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: levels are made by `Level::best` and by tests, which ask the processor first.
        Level::Avx2 => unsafe { x86::code_products_avx2(rows, query, products) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 => unsafe { x86::code_products_avx512(rows, query, products) },
    }
}

/// Bits of rows of sketches, in groups of eight rows, and what a query has under them.
pub(crate) struct SketchSums<'s> {
    /// `[groups, words, 8]`: a word of each row beside the other.
    pub(crate) bits: &'s [[u64; TOGETHER]],
    /// `[words, 4]`: bit `p` of 64 values of the query in plane `p`.
    pub(crate) query: &'s [[u64; PLANES]],
    /// Sum of the query's values under the bits of each row, `[groups, 8]`, is overwritten.
    pub(crate) sums: &'s mut [[u64; TOGETHER]],
    /// Bits of each row, `[groups, 8]`, is overwritten.
    pub(crate) counts: &'s mut [[u64; TOGETHER]],
}

/// Adds up what a query has under the bits of each row.
pub(crate) fn sketch_sums(level: Level, task: SketchSums<'_>) {
    match level {
        Level::Portable => portable::sketch_sums(task),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: levels are made by `Level::best` and by tests, which ask the processor first.
        Level::Avx2 => unsafe { x86::sketch_sums_avx2(task) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 => unsafe { x86::sketch_sums_avx512(task) },
    }
}

/// Asks for values that are soon looked at, so that they need not be waited for. Changes nothing.
pub(crate) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks((GROUP / size_of::<T>()).max(1)) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every such processor has the instruction, and it reads nothing that can be seen.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;
    use crate::vector;

    fn levels() -> impl Iterator<Item = Level> {
        Level::ALL.iter().copied().filter(|level| level.is_supported())
    }

    #[test]
    fn every_level_gives_the_bits_of_the_one_dot_product() {
        let mut chance = Seeded::new(1);
        for dim in [1, 15, 16, 37, 256, 576] {
            let mut row = || -> Vec<f32> { (0..dim).map(|_| chance.normal() as f32).collect() };
            let query = row();
            let rows: Vec<f32> = (0..19).flat_map(|_| row()).collect();
            let expected: Vec<u32> =
                rows.chunks_exact(dim).map(|row| vector::dot(row, &query).to_bits()).collect();
            for level in levels() {
                let mut found = vec![f32::NAN; 19];
                dots(level, &rows, &query, &mut found);
                let found: Vec<u32> = found.into_iter().map(f32::to_bits).collect();
                assert_eq!(found, expected, "{level:?}, dim {dim}");
            }
        }
    }

    #[test]
    fn every_level_counts_codes_and_bits_alike() {
        let mut chance = Seeded::new(2);
        let mut byte = || (chance.normal() * 60.0).clamp(-127.0, 127.0) as i8;
        for words in [1, 4, 9] {
            let query: Vec<i8> = (0..words * GROUP).map(|_| byte()).collect();
            let codes: Vec<i8> = (0..5 * words * GROUP).map(|_| byte()).collect();
            let product = |row: &[i8]| -> i32 {
                row.iter().zip(&query).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
            };
            let expected: Vec<i32> = codes.chunks_exact(words * GROUP).map(product).collect();
            let stored: Vec<u8> = codes.iter().map(|&code| (i16::from(code) + 128) as u8).collect();
            let word = |at: usize| (at as u64 + 3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let planes: Vec<[u64; PLANES]> =
                (0..words).map(|at| std::array::from_fn(|plane| word(at * 7 + plane))).collect();
            let bits: Vec<[u64; TOGETHER]> = (0..2 * words)
                .map(|at| std::array::from_fn(|row| word(at * 31 + row + 99)))
                .collect();
            for level in levels() {
                let mut found = vec![0; 5];
                code_products(level, &stored, &query, &mut found);
                assert_eq!(found, expected, "{level:?}");
                let (mut sums, mut counts) = (vec![[0; TOGETHER]; 2], vec![[0; TOGETHER]; 2]);
                let (sums_of, counts_of) = (&mut sums, &mut counts);
                let task =
                    SketchSums { bits: &bits, query: &planes, sums: sums_of, counts: counts_of };
                sketch_sums(level, task);
                for (group, row) in (0..2).flat_map(|group| (0..TOGETHER).map(move |r| (group, r)))
                {
                    let (mut sum, mut count) = (0, 0);
                    for (at, bit) in (0..words).flat_map(|at| (0..64).map(move |bit| (at, bit))) {
                        let under = bits[group * words + at][row] >> bit & 1;
                        count += under;
                        let value: u64 = (0..PLANES).map(|p| (planes[at][p] >> bit & 1) << p).sum();
                        sum += under * value;
                    }
                    assert_eq!((sums[group][row], counts[group][row]), (sum, count), "{level:?}");
                }
            }
        }
    }
}
