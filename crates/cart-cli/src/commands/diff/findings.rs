//! The report of `cart diff`, which is also what the terminal and the page show.

use cart_engine::SavedSessionReport;
use cart_merge::diff::{
    DiffPlan, FieldChange, Histogram, Lone, Magnitude, MemoryDiff, Numbers, Place, Renamed, RollUp,
    TensorDelta, TokenizerDiff,
};
use serde::Serialize;

use super::answers::Answers;

/// What differs from A to B.
#[derive(Serialize)]
pub(crate) struct DiffReport {
    pub(crate) a: String,
    pub(crate) b: String,
    pub(crate) identical: bool,
    pub(crate) tensors: Tensors,
    /// None where only digests were compared.
    pub(crate) weights: Option<Weights>,
    pub(crate) architecture_changed: bool,
    pub(crate) architecture: Vec<FieldChange>,
    pub(crate) tokenizer_changed: bool,
    pub(crate) tokenizer: TokenizerDiff,
    pub(crate) metadata: Vec<FieldChange>,
    pub(crate) memory: Memories,
    pub(crate) session: SessionDiff,
    /// None where answers were not asked for.
    pub(crate) behaviour: Option<Answers>,
    pub(crate) shared_bytes: u64,
    pub(crate) only_a_bytes: u64,
    pub(crate) only_b_bytes: u64,
}

/// Tensors, by what became of them.
#[derive(Serialize)]
pub(crate) struct Tensors {
    pub(crate) same: usize,
    pub(crate) added: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) changed: Vec<Changed>,
    pub(crate) renamed: Vec<Renamed>,
}

/// A tensor of one name that differs.
#[derive(Serialize)]
pub(crate) struct Changed {
    pub(crate) name: String,
    /// Type and shape in A.
    pub(crate) a: String,
    /// Type and shape in B.
    pub(crate) b: String,
    #[serde(flatten)]
    pub(crate) place: Place,
    /// Elements in B.
    pub(crate) elements: u64,
    /// Elements that changed; none where shapes differ, or it was not looked at.
    #[serde(rename = "changed")]
    pub(crate) moved: Option<u64>,
    #[serde(flatten)]
    pub(crate) numbers: Option<Numbers>,
}

impl Changed {
    /// ‖Δ‖/‖W‖ for an order: what can't be compared first, then what moved most.
    fn size(&self) -> f64 {
        let relative = self.numbers.as_ref().map(|numbers| numbers.relative);
        relative.flatten().unwrap_or(f64::INFINITY)
    }

    /// The share of elements that changed, 0 to 1.
    pub(crate) fn share(&self) -> Option<f64> {
        Some(self.moved? as f64 / self.elements.max(1) as f64)
    }
}

/// The numbers of all tensors that were compared.
#[derive(Serialize)]
pub(crate) struct Weights {
    /// In a word.
    pub(crate) magnitude: Magnitude,
    #[serde(flatten)]
    pub(crate) totals: RollUp,
    /// Sizes of all differences.
    pub(crate) histogram: Histogram,
    /// Elements that are infinite or no number, in A and B.
    pub(crate) not_finite: [u64; 2],
    #[serde(skip)]
    deltas: Vec<TensorDelta>,
}

impl Weights {
    pub(super) fn new(totals: RollUp, deltas: Vec<TensorDelta>) -> Self {
        let mut histogram = Histogram::default();
        let mut not_finite = [0, 0];
        for numbers in deltas.iter().filter_map(|delta| delta.numbers.as_ref()) {
            histogram.add(&numbers.histogram);
            not_finite[0] += numbers.not_finite_a;
            not_finite[1] += numbers.not_finite_b;
        }
        let magnitude = Magnitude::of(totals.all.relative.unwrap_or(0.0));
        Self { magnitude, totals, histogram, not_finite, deltas }
    }
}

impl Tensors {
    pub(super) fn new(plan: &DiffPlan, weights: Option<&Weights>) -> Self {
        let names = |lone: &[Lone]| lone.iter().map(|one| one.name.to_string()).collect();
        let mut changed: Vec<Changed> = match weights {
            Some(weights) => weights.deltas.iter().map(of_delta).collect(),
            None => plan.changed.iter().map(of_pair).collect(),
        };
        changed.extend(plan.reshaped.iter().map(|one| Changed {
            name: one.name.to_string(),
            a: format!("{} {:?}", one.dtype_a, one.shape_a),
            b: format!("{} {:?}", one.dtype_b, one.shape_b),
            place: one.place,
            elements: one.shape_b.iter().product(),
            moved: None,
            numbers: None,
        }));
        changed.sort_by(|a, b| b.size().total_cmp(&a.size()).then_with(|| a.name.cmp(&b.name)));
        Self {
            same: plan.same.len(),
            added: names(&plan.added),
            removed: names(&plan.removed),
            changed,
            renamed: plan.renamed.clone(),
        }
    }
}

fn of_delta(delta: &TensorDelta) -> Changed {
    Changed {
        name: delta.name.clone(),
        a: format!("{} {:?}", delta.dtype_a, delta.shape),
        b: format!("{} {:?}", delta.dtype_b, delta.shape),
        place: delta.place,
        elements: delta.elements,
        moved: delta.changed,
        numbers: delta.numbers.clone(),
    }
}

fn of_pair(pair: &cart_merge::diff::Pair) -> Changed {
    Changed {
        name: pair.name.to_string(),
        a: format!("{} {:?}", pair.dtypes[0], pair.shape),
        b: format!("{} {:?}", pair.dtypes[1], pair.shape),
        place: pair.place,
        elements: pair.elements(),
        moved: None,
        numbers: None,
    }
}

/// Both memories.
#[derive(Serialize)]
pub(crate) struct Memories {
    pub(crate) memory_changed: bool,
    pub(crate) goal_cosine: Option<f64>,
    #[serde(flatten)]
    pub(crate) diff: MemoryDiff,
}

impl From<MemoryDiff> for Memories {
    fn from(diff: MemoryDiff) -> Self {
        Self {
            memory_changed: diff.is_changed(),
            goal_cosine: diff.goal.and_then(|goal| goal.cosine),
            diff,
        }
    }
}

/// The saved sessions of both, and whether they differ in anything.
#[derive(Serialize)]
pub(crate) struct SessionDiff {
    pub(crate) changed: bool,
    pub(crate) a: Option<SavedSessionReport>,
    pub(crate) b: Option<SavedSessionReport>,
}
