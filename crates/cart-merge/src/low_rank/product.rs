//! Products of two factors, a piece at a time.

use cart_format::low_rank::{How, Values};

use crate::weights::{TensorBytes, Trouble, elements};

/// `scale · up · down`, as f32 values that are computed where they are read.
///
/// Every element is a sum over the rank in order, each product and each sum rounded once, so that the bits
/// are the same however the tensor is cut and whatever the processor.
pub(super) struct Product {
    scale: f32,
    rank: usize,
    columns: usize,
    /// `[rows, rank]`
    up: Vec<f32>,
    /// `[rank, columns]`
    down: Vec<f32>,
}

impl Product {
    /// The product that is added to a tensor; none where its values are replaced.
    pub(super) fn of(how: &How) -> Option<Self> {
        let How::Add { scale, up, down, .. } = how else { return None };
        let [rank, columns] = [down.shape[0], down.shape[1]].map(|axis| axis as usize);
        let (scale, up, down) = (*scale as f32, floats(up), floats(down));
        Some(Self { scale, rank, columns, up, down })
    }

    /// Fills `out` with the elements from `first` on, counted in C order.
    pub(super) fn fill(&self, first: usize, out: &mut [f32]) {
        let (mut at, mut rest) = (first, out);
        while !rest.is_empty() {
            let (row, column) = (at / self.columns, at % self.columns);
            let (now, later) = rest.split_at_mut((self.columns - column).min(rest.len()));
            now.fill(0.0);
            for (k, factor) in self.up[row * self.rank..][..self.rank].iter().enumerate() {
                let values = &self.down[k * self.columns + column..][..now.len()];
                add_times(now, values, *factor);
            }
            now.iter_mut().for_each(|value| *value *= self.scale);
            at += now.len();
            rest = later;
        }
    }
}

impl TensorBytes for Product {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), Trouble> {
        let mut values = vec![0.0; buffer.len() / 4];
        self.fill(at as usize / 4, &mut values);
        for (bytes, value) in buffer.as_chunks_mut::<4>().0.iter_mut().zip(&values) {
            *bytes = value.to_le_bytes();
        }
        Ok(())
    }
}

/// Bytes as f32 values.
pub(super) fn floats(values: &Values) -> Vec<f32> {
    let mut floats = vec![0.0; values.shape.iter().product::<u64>() as usize];
    elements::decode(values.dtype, &values.bytes, &mut floats, None);
    floats
}

/// `sums += factor · values`, without fused operations.
#[inline]
pub(super) fn add_times(sums: &mut [f32], values: &[f32], factor: f32) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions that the function is compiled for.
        return unsafe { add_times_avx2(sums, values, factor) };
    }
    add_times_portable(sums, values, factor);
}

/// The same operations, more of them at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn add_times_avx2(sums: &mut [f32], values: &[f32], factor: f32) {
    add_times_portable(sums, values, factor);
}

#[inline(always)]
fn add_times_portable(sums: &mut [f32], values: &[f32], factor: f32) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * value;
    }
}

#[cfg(test)]
mod tests {
    use cart_format::DType;

    use super::*;

    #[test]
    fn pieces_are_those_of_the_whole() {
        let matrix = |shape: [u64; 2], factor: f32| {
            let values = (0..shape[0] * shape[1]).map(|at| (at as f32 * factor).sin());
            let bytes = values.flat_map(f32::to_le_bytes).collect();
            Values { dtype: DType::F32, shape: shape.to_vec(), bytes }
        };
        let (up, down) = (matrix([5, 3], 0.7), matrix([3, 11], 0.3));
        let (u, d) = (floats(&up), floats(&down));
        let product = Product::of(&How::Add { scale: 0.5, up, down, error: None }).unwrap();
        let mut whole = vec![0.0; 55];
        product.fill(0, &mut whole);
        for (at, value) in whole.iter().enumerate() {
            let terms =
                (0..3).map(|k| f64::from(u[at / 11 * 3 + k]) * f64::from(d[k * 11 + at % 11]));
            assert!((f64::from(*value) - 0.5 * terms.sum::<f64>()).abs() < 1e-6);
        }
        for (first, len) in [(0, 1), (3, 20), (10, 12), (50, 5)] {
            let mut bytes = vec![0; len * 4];
            product.read_at(first as u64 * 4, &mut bytes).unwrap();
            let expected: Vec<u8> =
                whole[first..first + len].iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(bytes, expected);
        }
    }
}
