//! How many directions a change has.
//!
//! The effective rank of a matrix with singular values σ is `(Σ σ²)² / Σ σ⁴`, its participation ratio. With `K = S · Sᵀ` for a
//! sketch `S = Ω · Δ` of 64 rows of random signs Ω, the mean of the diagonal of K estimates `Σ σ²`, and that of the squares beside it
//! `Σ σ⁴`, both without bias: two different rows
//! of Ω are independent. Of a matrix with at most 64 rows or columns K is exact.

use cart_format::DType;
use rayon::prelude::*;

use crate::diff::error::DiffError;
use crate::diff::reading::{Buffers, Means, Opened};
use crate::weights::chance::Chance;
use crate::weights::{Watch, elements};

/// Rows of the sketch.
const ROWS: usize = 64;
/// Rows of the matrix that are added to the sketch at once.
const GROUP: usize = 32;
/// Columns of the matrix that a thread works on; whole blocks of every type.
const COLUMNS: usize = 512;

/// The effective rank of the difference; none of a vector, or where values are not f32.
///
/// The matrix has the last axis as its columns, all others as its rows.
pub(crate) fn effective(
    opened: &Opened<'_>,
    seed: u64,
    watch: &dyn Watch,
) -> Result<Option<f64>, DiffError> {
    let pair = opened.pair;
    let columns = pair.shape.last().copied().unwrap_or(1) as usize;
    let rows = (pair.elements() as usize).checked_div(columns).unwrap_or(0);
    if rows < 2 || columns < 2 || Means::of(pair.dtypes) != Means::Narrow {
        return Ok(None);
    }
    let matrix = Matrix { opened, rows, columns };
    let few = rows.min(columns);
    if columns <= ROWS && rows > ROWS {
        return Ok(ratio(&matrix.gram_of_columns()?, columns, true, few));
    }
    let exact = rows <= ROWS;
    let chance = Chance::of(seed, pair.name.as_str(), 0);
    let signs = |row: usize| if exact { None } else { Some(chance.bits(row as u64)) };
    let block = |index: usize| {
        if watch.cancelled() {
            return Err(DiffError::Cancelled);
        }
        matrix.gram_of_sketch(index * COLUMNS, &signs)
    };
    let blocks = columns.div_ceil(COLUMNS);
    let parts: Vec<Vec<f64>> = (0..blocks).into_par_iter().map(block).collect::<Result<_, _>>()?;
    let mut gram = vec![0.0; ROWS * ROWS];
    for part in &parts {
        gram.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    Ok(ratio(&gram, ROWS, exact, few))
}

/// `(Σ σ²)² / Σ σ⁴` from a Gram matrix.
///
/// * `exact`: whether it is the matrix's own, not that of a sketch
/// * `most`: rows or columns, whichever are fewer
fn ratio(gram: &[f64], n: usize, exact: bool, most: usize) -> Option<f64> {
    let trace: f64 = (0..n).map(|i| gram[i * n + i]).sum();
    let squares = |diagonal: bool| -> f64 {
        let of =
            |index: usize| if (index / n == index % n) == diagonal { gram[index] } else { 0.0 };
        (0..n * n).map(|index| of(index) * of(index)).sum()
    };
    let fourth = if exact {
        squares(true) + squares(false)
    } else {
        squares(false) * n as f64 / (n - 1) as f64
    };
    (trace > 0.0 && fourth > 0.0).then(|| (trace * trace / fourth).clamp(1.0, most as f64))
}

struct Matrix<'a> {
    opened: &'a Opened<'a>,
    rows: usize,
    columns: usize,
}

impl Matrix<'_> {
    /// Differences of some elements of a row.
    fn read(
        &self,
        (row, first): (usize, usize),
        buffers: &mut Buffers,
        b: &mut [f32],
        out: &mut [f32],
    ) -> Result<(), DiffError> {
        let [type_a, type_b]: [DType; 2] = self.opened.pair.dtypes;
        let at = (row * self.columns + first, out.len());
        self.opened.with(at, buffers, |[bytes_a, bytes_b]| {
            elements::decode(type_a, bytes_a, out, None);
            elements::decode(type_b, bytes_b, &mut b[..out.len()], None);
            out.iter_mut().zip(b).for_each(|(out, b)| *out = *b - *out);
        })
    }

    /// `S · Sᵀ` of the sketch of some columns, `[ROWS, ROWS]`.
    ///
    /// * `signs`: of a row, a bit for each row of the sketch; none where the row is one itself
    fn gram_of_sketch(
        &self,
        first: usize,
        signs: &(impl Fn(usize) -> Option<u64> + Sync),
    ) -> Result<Vec<f64>, DiffError> {
        let width = COLUMNS.min(self.columns - first);
        let mut sketch = vec![0.0_f32; ROWS * width];
        let (mut group, mut b) = (vec![0.0_f32; GROUP * width], vec![0.0_f32; width]);
        let mut factors = [[0.0_f32; ROWS]; GROUP];
        let mut buffers = Buffers::new();
        for start in (0..self.rows).step_by(GROUP) {
            let rows = GROUP.min(self.rows - start);
            for (index, (out, factors)) in
                group.chunks_exact_mut(width).zip(&mut factors).take(rows).enumerate()
            {
                let row = start + index;
                self.read((row, first), &mut buffers, &mut b, out)?;
                *factors = match signs(row) {
                    Some(bits) => {
                        std::array::from_fn(|j| if bits >> j & 1 == 1 { 1.0 } else { -1.0 })
                    }
                    None => std::array::from_fn(|j| if j == row { 1.0 } else { 0.0 }),
                };
            }
            add_group(&mut sketch, &group[..rows * width], &factors[..rows], width);
            // Where others have other columns of these rows to read, the pages come back from the file.
            self.opened.release(start * self.columns, rows * self.columns);
        }
        let rows: Vec<&[f32]> = sketch.chunks_exact(width).collect();
        let mut gram = vec![0.0; ROWS * ROWS];
        for i in 0..ROWS {
            for j in 0..=i {
                let product = crate::weights::dot(rows[i], rows[j]);
                gram[i * ROWS + j] = product;
                gram[j * ROWS + i] = product;
            }
        }
        Ok(gram)
    }

    /// `Δᵀ · Δ` of a matrix with few columns.
    fn gram_of_columns(&self) -> Result<Vec<f64>, DiffError> {
        let n = self.columns;
        let (mut out, mut b) = (vec![0.0; n], vec![0.0; n]);
        let mut gram = vec![0.0; n * n];
        let mut buffers = Buffers::new();
        for row in 0..self.rows {
            self.read((row, 0), &mut buffers, &mut b, &mut out)?;
            for (i, x) in out.iter().enumerate() {
                for (sum, y) in gram[i * n..(i + 1) * n].iter_mut().zip(&out) {
                    *sum += f64::from(*x) * f64::from(*y);
                }
            }
        }
        Ok(gram)
    }
}

/// Adds rows times their factors to the sketch.
///
/// * `sketch`: `[ROWS, width]`
/// * `group`: `[rows, width]`
/// * `factors`: `[rows, ROWS]`
fn add_group(sketch: &mut [f32], group: &[f32], factors: &[[f32; ROWS]], width: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions that the function is compiled for.
            return unsafe { add_group_avx512(sketch, group, factors, width) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { add_group_avx2(sketch, group, factors, width) };
        }
    }
    add_group_portable(sketch, group, factors, width);
}

/// The same operations, more of them at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn add_group_avx512(
    sketch: &mut [f32],
    group: &[f32],
    factors: &[[f32; ROWS]],
    width: usize,
) {
    add_group_portable(sketch, group, factors, width);
}

/// The same operations, more of them at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn add_group_avx2(sketch: &mut [f32], group: &[f32], factors: &[[f32; ROWS]], width: usize) {
    add_group_portable(sketch, group, factors, width);
}

#[inline(always)]
fn add_group_portable(sketch: &mut [f32], group: &[f32], factors: &[[f32; ROWS]], width: usize) {
    const TILE: usize = 32;
    for tile in (0..width).step_by(TILE) {
        let len = TILE.min(width - tile);
        for (j, out) in sketch.chunks_exact_mut(width).enumerate() {
            let out = &mut out[tile..tile + len];
            if let Ok(out) = <&mut [f32; TILE]>::try_from(&mut *out) {
                let mut sums = *out;
                for (row, factors) in group.chunks_exact(width).zip(factors) {
                    let values: &[f32; TILE] =
                        row[tile..tile + TILE].try_into().expect("a tile is within the row");
                    for lane in 0..TILE {
                        sums[lane] += factors[j] * values[lane];
                    }
                }
                *out = sums;
            } else {
                for (row, factors) in group.chunks_exact(width).zip(factors) {
                    let values = &row[tile..tile + len];
                    out.iter_mut().zip(values).for_each(|(out, x)| *out += factors[j] * x);
                }
            }
        }
    }
}
