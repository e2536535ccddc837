//! Means along great circles. All their factors follow from the inner products of the inputs, so one
//! pass over the tensors finds them.

use libm::{acos, cos, sin};

use crate::weights::error::MergeError;
use crate::weights::step::Axis;
use crate::weights::steps::Ready;
use crate::weights::steps::gram::{Gram, dot, vectors};
use crate::weights::view::{Chunk, Grain, View};

/// Cosine over which slerp is a straight line (mergekit).
const LINEAR_COSINE: f64 = 0.9995;

/// From the base (input 0) to the other (input 1).
pub(super) fn slerp<'a>(view: &View<'_>, t: f64) -> Result<Ready<'a>, MergeError> {
    let gram = Gram::of(view, false)?;
    let norm = |index| Some(gram.norm(index)).filter(|norm| *norm > 1e-8).unwrap_or(1.0);
    let cosine = (gram.get(0, 1) / (norm(0) * norm(1))).clamp(-1.0, 1.0);
    let (a, b) = if cosine.abs() > LINEAR_COSINE {
        (1.0 - t, t)
    } else {
        let theta = acos(cosine);
        (sin((1.0 - t) * theta) / sin(theta), sin(t * theta) / sin(theta))
    };
    Ok(Ready::elements(move |chunk, out| {
        blend(out, [&chunk.inputs[0], &chunk.inputs[1]], [a, b]);
    }))
}

/// Two vectors times two factors, in f64, rounded once.
fn blend(out: &mut [f32], vectors: [&[f32]; 2], factors: [f64; 2]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the instructions that the function is compiled for.
        unsafe { blend_avx2(out, vectors, factors) };
        return;
    }
    blend_portable(out, vectors, factors);
}

/// The same operations, more of them at once.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn blend_avx2(out: &mut [f32], vectors: [&[f32]; 2], factors: [f64; 2]) {
    blend_portable(out, vectors, factors);
}

#[inline(always)]
fn blend_portable(out: &mut [f32], [x, y]: [&[f32]; 2], [a, b]: [f64; 2]) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = (a * f64::from(*x) + b * f64::from(*y)) as f32;
    }
}

/// The factors with which two vectors make the one between them.
#[derive(Clone, Copy, Debug)]
struct Arc {
    first: f64,
    second: f64,
}

impl Arc {
    /// * `products`: of the first with itself, of the second with itself, of both
    fn new(t: f64, [first, second, both]: [f64; 3]) -> Self {
        let norm = |square: f64| square.sqrt().max(1e-7);
        let cosine = (both / (norm(first) * norm(second))).clamp(-1.0, 1.0);
        if 1.0 - cosine * cosine <= 1e-16 {
            return Self { first: 1.0 - t, second: t };
        }
        let theta = acos(cosine);
        Self { first: sin((1.0 - t) * theta) / sin(theta), second: sin(t * theta) / sin(theta) }
    }
}

/// As slerp, whole, by rows or by columns, perhaps of differences from a base (input 0).
pub(super) fn nuslerp<'a>(
    view: &View<'_>,
    t: f64,
    axis: Axis,
    based: bool,
) -> Result<Ready<'a>, MergeError> {
    let first = usize::from(based);
    let fill = move |chunk: &Chunk<'_>, out: &mut [f32], arc: &dyn Fn(usize) -> Arc| {
        let (x, y) = (&chunk.inputs[first], &chunk.inputs[first + 1]);
        for (index, out) in out.iter_mut().enumerate() {
            let (arc, x, y) = (arc(index), f64::from(x[index]), f64::from(y[index]));
            let base = if based { f64::from(chunk.inputs[0][index]) } else { 0.0 };
            *out = (base + arc.first * (x - base) + arc.second * (y - base)) as f32;
        }
    };
    match axis {
        Axis::Whole => {
            let gram = Gram::of(view, based)?;
            let arc = Arc::new(t, [gram.get(0, 0), gram.get(1, 1), gram.get(0, 1)]);
            Ok(Ready::elements(move |chunk, out| fill(chunk, out, &|_| arc)))
        }
        Axis::Rows => {
            let columns = view.columns().max(1);
            Ok(Ready::grains(Grain::Rows(columns), move |chunk, out| {
                let parts = vectors(&chunk.inputs[..first + 2], based);
                let arcs: Vec<Arc> = (parts[0].chunks(columns).zip(parts[1].chunks(columns)))
                    .map(|(x, y)| Arc::new(t, [dot(x, x), dot(y, y), dot(x, y)]))
                    .collect();
                fill(chunk, out, &|index| arcs[index / columns]);
            }))
        }
        Axis::Columns => {
            let rows = view.shape.first().copied().unwrap_or(1).max(1) as usize;
            // Of a vector, the first axis is the last: all numbers are one vector.
            let columns = if view.shape.len() < 2 { 1 } else { view.len() / rows };
            let arcs = column_arcs(view, t, columns, based)?;
            Ok(Ready::grains(Grain::Rows(columns), move |chunk, out| {
                fill(chunk, out, &|index| arcs[index % columns]);
            }))
        }
    }
}

fn column_arcs(
    view: &View<'_>,
    t: f64,
    columns: usize,
    based: bool,
) -> Result<Vec<Arc>, MergeError> {
    let parts = view.map(Grain::Rows(columns), |chunk| {
        let mut products = vec![[0.0; 3]; columns];
        let (bases, others) = chunk.inputs.split_at(usize::from(based));
        for index in 0..chunk.len() {
            let base = bases.first().map_or(0.0, |base| f64::from(base[index]));
            let [x, y] = [0, 1].map(|other: usize| f64::from(others[other][index]) - base);
            let sums = &mut products[index % columns];
            *sums = [sums[0] + x * x, sums[1] + y * y, sums[2] + x * y];
        }
        products
    })?;
    let mut sums = vec![[0.0; 3]; columns];
    for part in &parts {
        for (sums, part) in sums.iter_mut().zip(part) {
            (0..3).for_each(|index| sums[index] += part[index]);
        }
    }
    Ok(sums.into_iter().map(|products| Arc::new(t, products)).collect())
}

/// Combines the inputs, or their differences from the first, with these factors.
fn combine<'a>(factors: Vec<f64>, based: bool) -> Ready<'a> {
    Ready::elements(move |chunk, out| {
        let (base, vectors) = chunk.inputs.split_at(usize::from(based));
        for (index, out) in out.iter_mut().enumerate() {
            let base = base.first().map_or(0.0, |base| f64::from(base[index]));
            let of = |vector: &Vec<f32>| f64::from(vector[index]) - base;
            let sum = vectors.iter().zip(&factors).fold(0.0, |sum, (v, f)| sum + f * of(v));
            *out = (base + sum) as f32;
        }
    })
}

/// A weighted mean on the sphere: one step in the tangent space at the mean direction.
pub(super) fn multislerp<'a>(
    view: &View<'_>,
    weights: &[f64],
    normalize: bool,
    eps: f64,
    based: bool,
) -> Result<Ready<'a>, MergeError> {
    if weights.len() == 1 {
        // As mergekit: the only input, not its difference from the base.
        let only = usize::from(based);
        return Ok(Ready::elements(move |chunk, out| out.copy_from_slice(&chunk.inputs[only])));
    }
    let total: f64 = if normalize { weights.iter().sum() } else { 1.0 };
    let weights: Vec<f64> = weights.iter().map(|weight| weight / total).collect();
    let gram = Gram::of(view, based)?;
    let norms: Vec<f64> = (0..weights.len()).map(|index| gram.norm(index)).collect();
    // Everything is a combination of the inputs: vectors of factors stand for tensors.
    let unit = |index: usize| 1.0 / (norms[index] + eps);
    let mean: Vec<f64> = weights.iter().enumerate().map(|(index, w)| w * unit(index)).collect();
    let length = gram.length(&mean);
    if length < eps {
        if weights.len() == 2 {
            return Ok(combine(weights, based));
        }
        return Err(MergeError::Antipodal { tensor: view.name.to_string() });
    }
    let mean: Vec<f64> = mean.iter().map(|factor| factor / length).collect();
    let mut tangent = vec![0.0; weights.len()];
    for (index, weight) in weights.iter().enumerate() {
        let mut one = vec![0.0; weights.len()];
        one[index] = unit(index);
        let dot = gram.between(&one, &mean);
        let along = one.iter().zip(&mean).map(|(one, mean)| weight * (one - dot * mean));
        tangent.iter_mut().zip(along).for_each(|(sum, part)| *sum += part);
    }
    let angle = gram.length(&tangent) + eps;
    let radius: f64 = norms.iter().zip(&weights).map(|(norm, weight)| norm * weight).sum();
    let factor = |(mean, tangent): (&f64, &f64)| {
        (mean * cos(angle) + tangent * (sin(angle) / angle)) * radius
    };
    Ok(combine(mean.iter().zip(&tangent).map(factor).collect(), based))
}

/// The mean on the sphere, by steps in the tangent space; its length is the mean length.
pub(super) fn karcher<'a>(
    view: &View<'_>,
    max_iter: u32,
    tol: f64,
) -> Result<Ready<'a>, MergeError> {
    let n = view.inputs.len();
    if n == 1 {
        return Ok(combine(vec![1.0], false));
    }
    let gram = Gram::of(view, false)?;
    let norms: Vec<f64> = (0..n).map(|index| gram.norm(index)).collect();
    let radius = norms.iter().sum::<f64>() / n as f64;
    let valid: Vec<usize> = (0..n).filter(|&index| norms[index] > tol).collect();
    if valid.is_empty() {
        return Ok(combine(vec![0.0; n], false));
    }
    let alpha = 1.0 / valid.len() as f64;
    let unit = |index: usize| {
        let mut factors = vec![0.0; n];
        factors[index] = 1.0 / norms[index];
        factors
    };
    let mut mean = vec![0.0; n];
    valid.iter().for_each(|&index| mean[index] = alpha / norms[index]);
    let length = gram.length(&mean);
    mean = if length < tol { unit(valid[0]) } else { scaled(&mean, 1.0 / length) };
    for _ in 0..max_iter {
        let mut tangent = vec![0.0; n];
        for &index in &valid {
            let unit = unit(index);
            let cosine = gram.between(&mean, &unit).clamp(-1.0, 1.0);
            let theta = acos(cosine);
            if theta < tol {
                continue;
            }
            let factor = alpha * theta / sin(theta);
            for (sum, (unit, mean)) in tangent.iter_mut().zip(unit.iter().zip(&mean)) {
                *sum += factor * (unit - cosine * mean);
            }
        }
        let angle = gram.length(&tangent);
        if angle < tol {
            break;
        }
        let along = tangent.iter().map(|factor| factor / angle * sin(angle));
        mean = mean.iter().zip(along).map(|(mean, along)| mean * cos(angle) + along).collect();
        let length = gram.length(&mean);
        if length > tol {
            mean = scaled(&mean, 1.0 / length);
        }
    }
    Ok(combine(scaled(&mean, radius), false))
}

fn scaled(factors: &[f64], by: f64) -> Vec<f64> {
    factors.iter().map(|factor| factor * by).collect()
}
