//! Finding low-rank factors of the difference of two cartridges.
//!
//! The best factors of rank r are the first r singular vectors with their values (Eckart and Young, 1936). They are found by
//! subspace iteration from random signs, with a few directions more than asked for (Halko, Martinsson and Tropp, "Finding structure
//! with randomness", SIAM Review 53, 2011, algorithms 4.4 and 5.1), reading the tensors row by row: memory is that of factors.

use cart_format::low_rank::{Change, How, LowRank, Source, Values};
use cart_format::{DType, Manifest, ManifestId};
use rayon::prelude::*;

use crate::diff::reading::{Buffers, Means, Opened};
use crate::diff::{DiffError, DiffPlan, Pair};
use crate::low_rank::error::ExtractionError;
use crate::low_rank::product::add_times;
use crate::low_rank::subspace::{Eigen, Tall};
use crate::weights::chance::Chance;
use crate::weights::{Tensors, Watch, elements};

/// Directions beyond those that are asked for.
const MORE: usize = 8;
/// Times that the subspace is turned towards the greatest singular values.
const TURNS: usize = 2;
/// Times that a tensor is read.
const PASSES: u64 = 3 + 2 * TURNS as u64;
/// Parts of the rows of a tensor, whose sums are added up in order.
const PARTS: usize = 16;
/// Elements that are read at once, if a row has not more.
const READ: usize = 64 << 10;
/// What decides where the iteration begins.
const SEED: u64 = 0;
/// A direction whose singular value is smaller than this part of the greatest says nothing in f32.
const FAINT: f64 = 1e-7;

/// What was extracted.
#[derive(Clone, Debug)]
pub struct Extraction {
    /// The changes.
    pub delta: LowRank,
    /// Weights whose change is approximated, and those that are replaced.
    pub factored: u64,
    /// Weights that are replaced as a whole: vectors, small matrices, types without values.
    pub replaced: u64,
}

/// Approximates what turns A's weights into B's.
///
/// * `rank`: most factors of a tensor, from 1 on
/// * `tensors`: A is model 0, B is model 1
///
/// # Errors
/// The two have not the same tensors, tokenizer and architecture, or the same weights; a value is not
/// finite; a tensor can't be read; or the watch cancelled.
pub fn extract(
    [a, b]: [(ManifestId, &Manifest); 2],
    rank: u64,
    tensors: &dyn Tensors,
    watch: &dyn Watch,
) -> Result<Extraction, ExtractionError> {
    let plan = DiffPlan::new(a.1, b.1);
    refuse_unlike(&plan, a.1, b.1)?;
    if plan.changed.is_empty() {
        return Err(ExtractionError::Same);
    }
    let one = |pair: &Pair| {
        let opened = Opened::new(pair, tensors)?;
        change(&opened, rank as usize, watch)
    };
    let found: Vec<Found> =
        plan.changed.par_iter().with_max_len(1).map(one).collect::<Result<_, _>>()?;
    let sum = |of: fn(&Found) -> f64| found.iter().map(of).sum::<f64>();
    let (left, all) = (sum(|one| one.left), sum(|one| one.all));
    let error = if all > 0.0 { (left / all).sqrt() } else { 0.0 };
    let is_factored = |one: &&Found| matches!(one.change.how, How::Add { .. });
    let factored = found.iter().filter(is_factored).count() as u64;
    let replaced = found.len() as u64 - factored;
    let source = Source::Difference { target: b.0, rank, error };
    let tensors = found.into_iter().map(|one| one.change).collect();
    Ok(Extraction { delta: LowRank { base: a.0, source, tensors }, factored, replaced })
}

fn refuse_unlike(plan: &DiffPlan, a: &Manifest, b: &Manifest) -> Result<(), ExtractionError> {
    let refuse = |what, tensor: &str, how: String| {
        Err(ExtractionError::Unlike { what, tensor: tensor.to_owned(), how })
    };
    if let Some(one) = plan.reshaped.first() {
        let how = format!("is {:?} in A and {:?} in B", one.shape_a, one.shape_b);
        return refuse("tensor", one.name.as_str(), how);
    }
    if let Some(one) = plan.renamed.first() {
        return refuse("tensor", one.a.as_str(), format!("is called `{}` in B", one.b));
    }
    for (lone, side) in [(plan.removed.first(), "A"), (plan.added.first(), "B")] {
        if let Some(lone) = lone {
            return refuse("tensor", lone.name.as_str(), format!("is in {side} alone"));
        }
    }
    let document = |of: &Manifest| of.tokenizer.as_ref().map(|tokenizer| tokenizer.document);
    for (what, same) in [
        ("tokenizer", document(a) == document(b)),
        ("architecture", a.model.architecture == b.model.architecture),
    ] {
        if !same {
            return refuse("the", what, "of B is another".to_owned());
        }
    }
    Ok(())
}

/// A change, and the squares of what it leaves and of all.
struct Found {
    change: Change,
    left: f64,
    all: f64,
}

fn change(opened: &Opened<'_>, rank: usize, watch: &dyn Watch) -> Result<Found, ExtractionError> {
    let pair = opened.pair;
    let name = pair.name.clone();
    let has_values = Means::of(pair.dtypes) == Means::Narrow;
    if let ([rows, columns], true) = (pair.shape.as_slice(), has_values) {
        let matrix = Matrix { opened, rows: *rows as usize, columns: *columns as usize, watch };
        // Where factors would be as long as the tensor, its values are exact.
        if rank.saturating_mul(matrix.rows + matrix.columns) < matrix.rows * matrix.columns {
            return matrix.factors(rank);
        }
    }
    let values = whole(opened)?;
    watch.add(pair.bytes());
    let all = if has_values { norm(opened)? } else { 0.0 };
    Ok(Found { change: Change { name, how: How::Replace(values) }, left: 0.0, all })
}

/// All of B's bytes.
fn whole(opened: &Opened<'_>) -> Result<Values, DiffError> {
    let pair = opened.pair;
    let len = pair.elements() as usize;
    let bytes = opened.with((0, len), &mut Buffers::new(), |[_, b]| b.to_vec())?;
    Ok(Values { dtype: pair.dtypes[1], shape: pair.shape.clone(), bytes })
}

/// ‖Δ‖².
fn norm(opened: &Opened<'_>) -> Result<f64, ExtractionError> {
    let len = opened.pair.elements() as usize;
    let mut delta = vec![0.0; len];
    difference(opened, 0, &mut Buffers::new(), &mut Vec::new(), &mut delta)?;
    Ok(squares(&delta))
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum()
}

/// Writes B − A from element `first` on.
fn difference(
    opened: &Opened<'_>,
    first: usize,
    buffers: &mut Buffers,
    b: &mut Vec<f32>,
    out: &mut [f32],
) -> Result<(), ExtractionError> {
    let [type_a, type_b]: [DType; 2] = opened.pair.dtypes;
    b.resize(out.len(), 0.0);
    opened.with((first, out.len()), buffers, |[bytes_a, bytes_b]| {
        elements::decode(type_a, bytes_a, out, None);
        elements::decode(type_b, bytes_b, b, None);
        out.iter_mut().zip(&*b).for_each(|(out, b)| *out = *b - *out);
    })?;
    if out.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    Err(ExtractionError::NotFinite { tensor: opened.pair.name.to_string() })
}

/// A difference, seen as a matrix.
struct Matrix<'a> {
    opened: &'a Opened<'a>,
    rows: usize,
    columns: usize,
    watch: &'a dyn Watch,
}

impl Matrix<'_> {
    /// The best factors of at most this rank.
    fn factors(&self, rank: usize) -> Result<Found, ExtractionError> {
        let width = (rank + MORE).min(self.rows).min(self.columns);
        let chance = Chance::of(SEED, self.opened.pair.name.as_str(), 0);
        let mut right = Tall::new(self.columns, width);
        for (at, value) in right.values.iter_mut().enumerate() {
            *value = if chance.bits(at as u64) & 1 == 1 { 1.0 } else { -1.0 };
        }
        let mut left = self.times(&right)?.orthonormalized();
        for _ in 0..TURNS {
            right = self.transposed_times(&left)?.orthonormalized();
            left = self.times(&right)?.orthonormalized();
        }
        // Δ is nearly left · weightedᵀ, whose columns are turned into singular vectors.
        let weighted = self.transposed_times(&left)?;
        let Eigen { values, vectors } = Eigen::of(weighted.gram(), width);
        let first = values.first().copied().unwrap_or(0.0).sqrt();
        let kept = values[..rank.min(width)].iter().filter(|value| value.sqrt() > FAINT * first);
        let kept = kept.count().max(1);
        let (mut up, mut down) = (left.times(&vectors, kept), weighted.times(&vectors, kept));
        // Both factors get the root of each singular value.
        let roots: Vec<f32> =
            values[..kept].iter().map(|value| value.sqrt().sqrt() as f32).collect();
        for row in up.values.chunks_exact_mut(kept) {
            row.iter_mut().zip(&roots).for_each(|(value, root)| *value *= root);
        }
        for row in down.values.chunks_exact_mut(kept) {
            let divided = row.iter_mut().zip(&roots).filter(|(_, root)| **root > 0.0);
            divided.for_each(|(value, root)| *value /= root);
        }
        self.found(&up, &transposed(&down))
    }

    /// The change, and what it leaves.
    fn found(&self, up: &Tall, down: &Tall) -> Result<Found, ExtractionError> {
        let measure = |part: &mut [f64; 2], row: usize, delta: &mut [f32]| {
            part[0] += squares(delta);
            for (k, factor) in up.row(row).iter().enumerate() {
                add_times(delta, down.row(k), -factor);
            }
            part[1] += squares(delta);
        };
        let parts = self.over_rows(|| [0.0_f64; 2], measure)?;
        let [all, left] = [0, 1].map(|which| parts.iter().map(|part| part[which]).sum::<f64>());
        let error = Some(if all > 0.0 { (left / all).sqrt() } else { 0.0 });
        let values = |of: &Tall| Values {
            dtype: DType::F32,
            shape: vec![(of.values.len() / of.columns) as u64, of.columns as u64],
            bytes: of.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        let how = How::Add { scale: 1.0, up: values(up), down: values(down), error };
        Ok(Found { change: Change { name: self.opened.pair.name.clone(), how }, left, all })
    }

    /// Works through Δ row by row, in parts that are the same at every number of threads; gives each
    /// part's outcome.
    fn over_rows<T: Send>(
        &self,
        start: impl Fn() -> T + Sync,
        work: impl Fn(&mut T, usize, &mut [f32]) + Sync,
    ) -> Result<Vec<T>, ExtractionError> {
        let (rows, columns) = (self.rows.div_ceil(PARTS), self.columns);
        let at_once = (READ / columns).max(1);
        let part = |index: usize| {
            let mut part = start();
            let (mut buffers, mut b) = (Buffers::new(), Vec::new());
            let mut delta = vec![0.0; at_once * columns];
            let range = (index * rows).min(self.rows)..((index + 1) * rows).min(self.rows);
            for first in range.clone().step_by(at_once) {
                if self.watch.cancelled() {
                    return Err(DiffError::Cancelled.into());
                }
                let delta = &mut delta[..at_once.min(range.end - first) * columns];
                difference(self.opened, first * columns, &mut buffers, &mut b, delta)?;
                self.opened.release(first * columns, delta.len());
                for (row, delta) in delta.chunks_exact_mut(columns).enumerate() {
                    work(&mut part, first + row, delta);
                }
                let bytes =
                    self.opened.pair.dtypes.map(|dtype| elements::bytes_of(dtype, delta.len()));
                self.watch.add(bytes.iter().sum::<usize>() as u64 / PASSES);
            }
            Ok(part)
        };
        (0..PARTS).into_par_iter().map(part).collect()
    }

    /// `Δ · right`.
    fn times(&self, right: &Tall) -> Result<Tall, ExtractionError> {
        let n = right.columns;
        let rows = self.rows.div_ceil(PARTS);
        let multiply = |part: &mut Vec<f32>, row: usize, delta: &mut [f32]| {
            let out = &mut part[row % rows * n..][..n];
            for (value, right) in delta.iter().zip(right.values.chunks_exact(n)) {
                add_times(out, right, *value);
            }
        };
        let parts = self.over_rows(|| vec![0.0_f32; rows * n], multiply)?;
        let mut values = parts.concat();
        values.truncate(self.rows * n);
        Ok(Tall { columns: n, values })
    }

    /// `Δᵀ · left`.
    fn transposed_times(&self, left: &Tall) -> Result<Tall, ExtractionError> {
        let n = left.columns;
        let multiply = |part: &mut Vec<f32>, row: usize, delta: &mut [f32]| {
            for (out, value) in part.chunks_exact_mut(n).zip(delta.iter()) {
                add_times(out, left.row(row), *value);
            }
        };
        let parts = self.over_rows(|| vec![0.0_f32; self.columns * n], multiply)?;
        let mut values = vec![0.0; self.columns * n];
        for part in &parts {
            values.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        Ok(Tall { columns: n, values })
    }
}

/// What columns become rows of.
fn transposed(matrix: &Tall) -> Tall {
    let rows = matrix.values.len() / matrix.columns;
    let values = (0..matrix.values.len()).map(|at| matrix.row(at % rows)[at / rows]).collect();
    Tall { columns: rows, values }
}

#[cfg(test)]
mod tests;
