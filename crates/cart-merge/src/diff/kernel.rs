//! Two runs of f32 values compared, many at once.
//!
//! Differences are taken in f32 (rounded once, as both sides' values are f32) and added up in f64, in eight
//! lanes. Products of f32 values are exact in f64, so that fused operations give the same bits as plain ones, and
//! every processor the same sums.

use crate::diff::histogram::BINS;
use crate::diff::sums::Sums;

/// Sums that are kept side by side.
const LANES: usize = 8;
/// Elements whose differences are kept before they are counted.
const BLOCK: usize = 256;
/// Tables that are counted in by turns, so that equal bins do not wait for each other.
const TABLES: usize = 4;

/// Counts of differences by the upper nine bits of their f32.
#[derive(Clone)]
pub(crate) struct Counts(Box<[[u32; BINS]; TABLES]>);

impl Counts {
    pub(crate) fn new() -> Self {
        Self(Box::new([[0; BINS]; TABLES]))
    }

    pub(crate) fn one(&mut self, delta: f32) {
        self.0[0][bin(delta)] += 1;
    }

    /// Adds to the counts of a tensor.
    pub(crate) fn add_to(&self, counts: &mut [u64; BINS]) {
        for table in self.0.iter() {
            counts.iter_mut().zip(table).for_each(|(sum, count)| *sum += u64::from(*count));
        }
    }

    #[inline(always)]
    fn block(&mut self, deltas: &[f32]) {
        let (fours, rest) = deltas.as_chunks::<TABLES>();
        for four in fours {
            for (table, delta) in self.0.iter_mut().zip(four) {
                table[bin(*delta)] += 1;
            }
        }
        rest.iter().for_each(|delta| self.one(*delta));
    }
}

#[inline(always)]
fn bin(delta: f32) -> usize {
    (delta.to_bits() >> 23) as usize
}

/// What is an f32 in memory, so that it need not be copied to be compared.
pub(crate) trait Narrow: Copy {
    /// Zero.
    const ZERO: Self;

    /// The value.
    fn value(self) -> f32;
}

impl Narrow for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn value(self) -> f32 {
        self
    }
}

/// An f32 as it is stored.
impl Narrow for [u8; 4] {
    const ZERO: Self = [0; 4];

    #[inline(always)]
    fn value(self) -> f32 {
        f32::from_le_bytes(self)
    }
}

/// A bf16 as it is stored.
impl Narrow for [u8; 2] {
    const ZERO: Self = [0; 2];

    #[inline(always)]
    fn value(self) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(self)) << 16)
    }
}

/// Compares values of A and B; as many of each, fewer than 2^32 in one `counts`.
///
/// * `counts`: where differences are counted by their sizes, if they are
pub(crate) fn compare<T: Narrow>(a: &[T], b: &[T], mut counts: Option<&mut Counts>) -> Sums {
    let mut sums = Sums::default();
    let mut deltas = [0.0; BLOCK];
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let block = match counts {
            Some(_) => of_block(a, b, &mut Kept(&mut deltas)),
            None => of_block(a, b, &mut Dropped),
        };
        let all = block.a_square + block.b_square + block.square;
        if !all.is_finite() {
            carefully(a, b, &mut sums, counts.as_deref_mut());
            continue;
        }
        if let Some(counts) = counts.as_deref_mut().filter(|_| block.changed > 0) {
            counts.block(&deltas[..a.len()]);
        }
        sums.add(&block);
    }
    sums
}

/// What becomes of the differences of a block.
trait Deltas {
    /// Takes eight of them, which begin at element `first`.
    fn take(&mut self, first: usize, eight: [f32; LANES]);
}

struct Kept<'d>(&'d mut [f32; BLOCK]);

impl Deltas for Kept<'_> {
    #[inline(always)]
    fn take(&mut self, first: usize, eight: [f32; LANES]) {
        self.0[first..first + LANES].copy_from_slice(&eight);
    }
}

struct Dropped;

impl Deltas for Dropped {
    #[inline(always)]
    fn take(&mut self, _: usize, _: [f32; LANES]) {}
}

/// One by one, where something is not finite, or a difference is too large for an f32.
#[cold]
fn carefully<T: Narrow>(a: &[T], b: &[T], sums: &mut Sums, mut counts: Option<&mut Counts>) {
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x.value(), y.value());
        let changed = x != y && x.to_bits() != y.to_bits();
        let delta = sums.pair(f64::from(x), f64::from(y), changed);
        if let (Some(delta), Some(counts)) = (delta, counts.as_deref_mut()) {
            counts.one(delta as f32);
        }
    }
}

fn of_block<T: Narrow>(a: &[T], b: &[T], deltas: &mut impl Deltas) -> Sums {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions that the function is compiled for.
            return unsafe { of_block_avx512(a, b, deltas) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: as above.
            return unsafe { of_block_avx2(a, b, deltas) };
        }
    }
    of_block_portable::<T, _, false>(a, b, deltas)
}

/// The same operations in the same lanes, more of them at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,fma")]
unsafe fn of_block_avx512<T: Narrow, D: Deltas>(a: &[T], b: &[T], deltas: &mut D) -> Sums {
    of_block_portable::<T, _, true>(a, b, deltas)
}

/// The same operations in the same lanes, more of them at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn of_block_avx2<T: Narrow, D: Deltas>(a: &[T], b: &[T], deltas: &mut D) -> Sums {
    of_block_portable::<T, _, true>(a, b, deltas)
}

/// `sum + x · y`, where the product is exact in f64.
#[inline(always)]
fn plus_product<const FUSED: bool>(sum: f64, x: f64, y: f64) -> f64 {
    if FUSED { x.mul_add(y, sum) } else { sum + x * y }
}

#[inline(always)]
fn of_block_portable<T: Narrow, D: Deltas, const FUSED: bool>(
    a: &[T],
    b: &[T],
    deltas: &mut D,
) -> Sums {
    let (mut changed, mut largest) = ([0_u32; LANES], [0.0_f32; LANES]);
    let [mut signed, mut absolute, mut square] = [[0.0_f64; LANES]; 3];
    let [mut a_square, mut b_square, mut product] = [[0.0_f64; LANES]; 3];
    let mut eight = |a: &[T; LANES], b: &[T; LANES]| {
        let mut differences = [0.0; LANES];
        for lane in 0..LANES {
            let (a, b) = (a[lane].value(), b[lane].value());
            let delta = b - a;
            differences[lane] = delta;
            changed[lane] += u32::from(a != b);
            let size = delta.abs();
            largest[lane] = if size > largest[lane] { size } else { largest[lane] };
            let (x, y, d) = (f64::from(a), f64::from(b), f64::from(delta));
            signed[lane] += d;
            absolute[lane] += d.abs();
            square[lane] = plus_product::<FUSED>(square[lane], d, d);
            a_square[lane] = plus_product::<FUSED>(a_square[lane], x, x);
            b_square[lane] = plus_product::<FUSED>(b_square[lane], y, y);
            product[lane] = plus_product::<FUSED>(product[lane], x, y);
        }
        differences
    };
    let (of_a, a_rest) = a.as_chunks::<LANES>();
    let (of_b, b_rest) = b.as_chunks::<LANES>();
    for (index, (a, b)) in of_a.iter().zip(of_b).enumerate() {
        deltas.take(index * LANES, eight(a, b));
    }
    if !a_rest.is_empty() {
        // What is missing to eight is zero on both sides and changes no sum.
        let (mut a, mut b) = ([T::ZERO; LANES], [T::ZERO; LANES]);
        a[..a_rest.len()].copy_from_slice(a_rest);
        b[..b_rest.len()].copy_from_slice(b_rest);
        deltas.take(of_a.len() * LANES, eight(&a, &b));
    }
    Sums {
        changed: changed.iter().copied().map(u64::from).sum(),
        not_finite: [0; 2],
        finite: a.len() as u64,
        largest: f64::from(largest.iter().copied().fold(0.0, f32::max)),
        signed: signed.iter().sum(),
        absolute: absolute.iter().sum(),
        square: square.iter().sum(),
        a_square: a_square.iter().sum(),
        b_square: b_square.iter().sum(),
        product: product.iter().sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(factor: f32, len: usize) -> Vec<f32> {
        (0..len).map(|index| (index as f32 * factor).sin()).collect()
    }

    #[test]
    fn with_and_without_instructions_the_same() {
        for len in [1, 7, 8, 200, 256] {
            let (a, b) = (values(0.37, len), values(0.71, len));
            let (mut quick, mut plain) = ([0.0; BLOCK], [0.0; BLOCK]);
            let found = of_block(&a, &b, &mut Kept(&mut quick));
            assert_eq!(
                found,
                of_block_portable::<_, _, false>(&a, &b, &mut Kept(&mut plain)),
                "{len}"
            );
            assert_eq!(quick[..len], plain[..len]);
            assert_eq!(found, of_block(&a, &b, &mut Dropped));
        }
    }

    #[test]
    fn stored_values_are_compared_like_others() {
        let (mut a, mut b) = (values(0.37, 1000), values(0.71, 1000));
        (a[3], b[700]) = (f32::NAN, f32::INFINITY);
        let stored = |values: &[f32]| -> Vec<[u8; 4]> {
            values.iter().map(|value| value.to_le_bytes()).collect()
        };
        let short = |values: &[f32]| -> Vec<[u8; 2]> {
            values.iter().map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect()
        };
        let rounded = |values: &[f32]| -> Vec<f32> {
            values.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect()
        };
        let (mut of_words, mut of_values) = (Counts::new(), Counts::new());
        let found = compare(&stored(&a), &stored(&b), Some(&mut of_words));
        assert_eq!(found, compare(&a, &b, Some(&mut of_values)));
        assert_eq!(of_words.0, of_values.0);
        let found = compare(&short(&a), &short(&b), None);
        assert_eq!(found, compare(&rounded(&a), &rounded(&b), None));
    }

    #[test]
    fn sums_are_those_of_one_element_after_the_other() {
        let (a, mut b) = (values(0.37, 1000), values(0.37, 1000));
        (0..1000).step_by(3).for_each(|index| b[index] += 0.25);
        let mut counts = Counts::new();
        let found = compare(&a, &b, Some(&mut counts));
        let mut plain = Sums::default();
        for (x, y) in a.iter().zip(&b) {
            plain.pair(f64::from(*x), f64::from(*y), x != y);
        }
        assert_eq!((found.changed, found.finite), (plain.changed, plain.finite));
        let near = |found: f64, plain: f64| assert!((found - plain).abs() < 1e-6 * plain.abs());
        near(found.square, plain.square);
        near(found.product, plain.product);
        near(found.absolute, plain.absolute);
        near(found.largest, plain.largest);
        let mut all = [0; BINS];
        counts.add_to(&mut all);
        assert_eq!(
            all[(0.25_f32.to_bits() >> 23) as usize - 1] + all[(0.25_f32.to_bits() >> 23) as usize],
            334
        );
    }

    #[test]
    fn what_is_not_finite_is_counted_and_in_no_sum() {
        let (mut a, mut b) = (values(0.37, 300), values(0.37, 300));
        (a[5], b[5]) = (f32::NAN, f32::NAN);
        (a[6], b[7]) = (f32::INFINITY, f32::NAN);
        (a[8], b[8]) = (3e38, -3e38);
        b[290] += 1.0;
        let found = compare(&a, &b, None);
        assert_eq!(found.not_finite, [2, 2]);
        assert_eq!(found.changed, 4);
        assert_eq!(found.finite, 297);
        assert!((found.largest - 6e38).abs() < 1e31);
    }
}
