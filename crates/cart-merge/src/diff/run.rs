//! Reading what differs: in pieces, on all cores, the same sums at every number of threads.

use std::sync::Mutex;

use cart_format::DType;
use rayon::prelude::*;
use serde::Serialize;

use crate::diff::error::DiffError;
use crate::diff::histogram::{BINS, Histogram};
use crate::diff::kernel::{self, Counts};
use crate::diff::module::Place;
use crate::diff::plan::{DiffPlan, Pair};
use crate::diff::rank;
use crate::diff::reading::{self, Buffers, Means, Opened};
use crate::diff::sums::Sums;
use crate::weights::{Tensors, Watch, elements};

/// Elements that one thread works through at once.
const PIECE: usize = 256 << 10;
/// Of these, elements whose values are kept at once. Whole blocks of every type.
const SLICE: usize = 8 << 10;

/// What to find out beyond sums.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiffOptions {
    /// Whether to estimate effective ranks, and from which seed. Tensors are read once more.
    pub rank: Option<u64>,
    /// Whether to count differences by their sizes, which takes about half as long again.
    pub histograms: bool,
}

/// How a tensor differs.
#[derive(Clone, Debug, Serialize)]
pub struct TensorDelta {
    /// Its name.
    pub name: String,
    /// Where in the model.
    #[serde(flatten)]
    pub place: Place,
    /// Its shape on both sides.
    pub shape: Vec<u64>,
    /// Its element type in A.
    pub dtype_a: DType,
    /// Its element type in B.
    pub dtype_b: DType,
    /// Its elements.
    pub elements: u64,
    /// Elements whose values differ; where values of the type are not known, elements in blocks that differ. None where the
    /// types differ and values of one are not known.
    pub changed: Option<u64>,
    /// Numbers; none where values of a type are not known.
    #[serde(flatten)]
    pub numbers: Option<Numbers>,
}

/// A difference in numbers. Δ is B − A; elements that are not finite on a side are left out of all but the counts.
#[derive(Clone, Debug, Serialize)]
pub struct Numbers {
    /// max |Δ|.
    pub max_abs: f64,
    /// Mean |Δ|.
    pub mean_abs: f64,
    /// Mean Δ.
    pub mean: f64,
    /// ‖Δ‖, Frobenius.
    pub norm: f64,
    /// ‖A‖.
    pub norm_a: f64,
    /// ‖B‖.
    pub norm_b: f64,
    /// ‖Δ‖/‖A‖; none where A is zero.
    pub relative: Option<f64>,
    /// The cosine of A and B; none where one is zero.
    pub cosine: Option<f64>,
    /// The effective rank of Δ as a matrix, `(Σ σ²)² / Σ σ⁴` over its singular values σ: `r` of `r` equal ones, and about `mn / (m + n)`
    /// of noise in `m` rows and `n` columns. None where it was not asked for, of vectors, and where Δ is zero.
    pub rank: Option<f64>,
    /// Elements of A that are infinite or no number.
    pub not_finite_a: u64,
    /// Elements of B that are infinite or no number.
    pub not_finite_b: u64,
    /// Sizes of differences; empty where they were not asked for.
    pub histogram: Histogram,
    #[serde(skip)]
    pub(crate) sums: Sums,
}

impl Numbers {
    fn new(sums: Sums, histogram: Histogram) -> Self {
        let count = sums.finite.max(1) as f64;
        Self {
            max_abs: sums.largest,
            mean_abs: sums.absolute / count,
            mean: sums.signed / count,
            norm: sums.square.sqrt(),
            norm_a: sums.a_square.sqrt(),
            norm_b: sums.b_square.sqrt(),
            relative: sums.relative(),
            cosine: sums.cosine(),
            rank: None,
            not_finite_a: sums.not_finite[0],
            not_finite_b: sums.not_finite[1],
            histogram,
            sums,
        }
    }
}

impl DiffPlan {
    /// Reads the tensors of [`DiffPlan::changed`] and says how they differ, in that order, on the current rayon pool. The
    /// numbers depend on the tensors (and the seed) alone. Memory does not grow with the tensors.
    ///
    /// * `tensors`: A is model 0, B is model 1
    ///
    /// # Errors
    /// A tensor can't be read, or the watch cancelled.
    pub fn run(
        &self,
        options: &DiffOptions,
        tensors: &dyn Tensors,
        watch: &dyn Watch,
    ) -> Result<Vec<TensorDelta>, DiffError> {
        let one = |pair: &Pair| {
            let opened = Opened::new(pair, tensors)?;
            let mut delta = delta(&opened, options.histograms, watch)?;
            if let (Some(seed), Some(numbers)) = (options.rank, &mut delta.numbers)
                && numbers.norm > 0.0
                && numbers.not_finite_a + numbers.not_finite_b == 0
            {
                numbers.rank = rank::effective(&opened, seed, watch)?;
            }
            Ok(delta)
        };
        self.changed.par_iter().with_max_len(1).map(one).collect()
    }
}

fn delta(
    opened: &Opened<'_>,
    histograms: bool,
    watch: &dyn Watch,
) -> Result<TensorDelta, DiffError> {
    let pair = opened.pair;
    let means = Means::of(pair.dtypes);
    let all = Mutex::new([0; BINS]);
    let elements = pair.elements() as usize;
    let piece = |index: usize| {
        if watch.cancelled() {
            return Err(DiffError::Cancelled);
        }
        let range = index * PIECE..((index + 1) * PIECE).min(elements);
        let mut counts = histograms.then(Counts::new);
        let sums = sums(opened, means, range.clone(), counts.as_mut())?;
        if let Some(counts) = counts {
            counts.add_to(&mut all.lock().expect("no thread panics holding it"));
        }
        opened.release(range.start, range.len());
        let bytes = pair.dtypes.map(|dtype| elements::bytes_of(dtype, range.len()) as u64);
        watch.add(bytes.iter().sum());
        Ok(sums)
    };
    let pieces = if means == Means::Nothing { 0 } else { elements.div_ceil(PIECE) };
    let parts: Vec<Sums> = (0..pieces).into_par_iter().map(piece).collect::<Result<_, _>>()?;
    let mut sums = Sums::default();
    parts.iter().for_each(|part| sums.add(part));
    let histogram = Histogram::of(&all.into_inner().expect("no thread panics holding it"));
    let known = matches!(means, Means::Narrow | Means::Wide);
    Ok(TensorDelta {
        name: pair.name.to_string(),
        place: pair.place,
        shape: pair.shape.clone(),
        dtype_a: pair.dtypes[0],
        dtype_b: pair.dtypes[1],
        elements: elements as u64,
        changed: (means != Means::Nothing).then_some(sums.changed),
        numbers: known.then(|| Numbers::new(sums, histogram)),
    })
}

/// The sums of a piece, slice by slice.
fn sums(
    opened: &Opened<'_>,
    means: Means,
    range: std::ops::Range<usize>,
    mut counts: Option<&mut Counts>,
) -> Result<Sums, DiffError> {
    let dtypes = opened.pair.dtypes;
    let mut buffers = Buffers::new();
    let mut narrow = [vec![0.0_f32; SLICE], vec![0.0_f32; SLICE]];
    let mut sums = Sums::default();
    for first in range.clone().step_by(SLICE) {
        let len = SLICE.min(range.end - first);
        let counts = counts.as_deref_mut();
        let slice = opened.with((first, len), &mut buffers, |bytes| match means {
            // Where both are stored alike, nothing is copied.
            Means::Narrow if dtypes == [DType::F32; 2] => of_words::<4>(bytes, counts),
            Means::Narrow if dtypes == [DType::BF16; 2] => of_words::<2>(bytes, counts),
            Means::Narrow => {
                let [a, b] = &mut narrow;
                elements::decode(dtypes[0], bytes[0], &mut a[..len], None);
                elements::decode(dtypes[1], bytes[1], &mut b[..len], None);
                kernel::compare(&a[..len], &b[..len], counts)
            }
            Means::Wide => wide(dtypes, bytes, len, counts),
            Means::Blocks | Means::Nothing => blocks(dtypes[0], bytes),
        })?;
        sums.add(&slice);
    }
    Ok(sums)
}

fn of_words<const N: usize>(bytes: [&[u8]; 2], counts: Option<&mut Counts>) -> Sums
where
    [u8; N]: kernel::Narrow,
{
    let [a, b] = bytes.map(|bytes| bytes.as_chunks::<N>().0);
    kernel::compare(a, b, counts)
}

/// One number after the other, in f64. Of one type, bytes decide what changed, so that large integers count too.
fn wide(
    dtypes: [DType; 2],
    bytes: [&[u8]; 2],
    len: usize,
    mut counts: Option<&mut Counts>,
) -> Sums {
    let values = |side: usize| {
        let mut values = vec![0.0; len * reading::parts(dtypes[side])];
        reading::widen(dtypes[side], bytes[side], &mut values);
        values
    };
    let (a, b) = (values(0), values(1));
    let integers = dtypes[0] == dtypes[1] && !dtypes[0].is_float() && dtypes[0] != DType::C64;
    let size = if integers { dtypes[0].block_bytes() as usize } else { 0 };
    let mut sums = Sums::default();
    for (index, (x, y)) in a.iter().zip(&b).enumerate() {
        let changed = if integers {
            let range = index * size..(index + 1) * size;
            bytes[0][range.clone()] != bytes[1][range]
        } else {
            x != y && x.to_bits() != y.to_bits()
        };
        let delta = sums.pair(*x, *y, changed);
        if let (Some(delta), Some(counts)) = (delta, counts.as_deref_mut()) {
            counts.one(delta as f32);
        }
    }
    sums
}

/// Elements in blocks that differ.
fn blocks(dtype: DType, [a, b]: [&[u8]; 2]) -> Sums {
    let size = dtype.block_bytes() as usize;
    let differ = a.chunks(size).zip(b.chunks(size)).filter(|(a, b)| a != b).count() as u64;
    Sums { changed: differ * dtype.block_elements(), ..Sums::default() }
}
