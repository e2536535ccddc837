//! Where the time of a forward pass goes, part by part.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use crate::matrix::Linear;

/// A part of a pass that is timed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Rows of the embedding.
    Embedding,
    /// The norm and the product before a mixer: queries, keys and values, or what a recurrence takes.
    MixerInput,
    /// Attention with its rotation and its cache, or a recurrence.
    Mixer,
    /// The product after a mixer, and the sum with the residual.
    MixerOutput,
    /// The norm, the product or products before an MLP's activation, and the activation.
    MlpInput,
    /// The product after it, and the sum with the residual.
    MlpOutput,
    /// A mixture of experts as a whole.
    Experts,
    /// The last norm and the product with the output matrix.
    Head,
}

impl Part {
    /// All of them, in the order of a pass.
    pub const ALL: [Self; 8] = [
        Self::Embedding,
        Self::MixerInput,
        Self::Mixer,
        Self::MixerOutput,
        Self::MlpInput,
        Self::MlpOutput,
        Self::Experts,
        Self::Head,
    ];

    /// A name for tables and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::MixerInput => "mixer-input",
            Self::Mixer => "mixer",
            Self::MixerOutput => "mixer-output",
            Self::MlpInput => "mlp-input",
            Self::MlpOutput => "mlp-output",
            Self::Experts => "experts",
            Self::Head => "head",
        }
    }
}

/// What a part took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PartTime {
    /// How often it ran.
    pub calls: u64,
    /// Wall-clock time.
    pub time: Duration,
    /// Bytes of weights that its products read, once a call.
    pub weight_bytes: u64,
    /// Multiplications of a weight with an activation.
    pub products: u64,
}

/// What the parts of one or more passes took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    parts: [PartTime; Part::ALL.len()],
}

impl Profile {
    /// What `part` took.
    pub fn part(&self, part: Part) -> PartTime {
        self.parts[part as usize]
    }

    /// The time of all parts.
    pub fn time(&self) -> Duration {
        self.parts.iter().map(|part| part.time).sum()
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Profile>> = const { RefCell::new(None) };
}

/// Calls `work`, and says what the parts of [`Model::forward`](crate::Model::forward) took in the calls that it
/// made on this thread. [`graph`](crate::graph) has no parts.
pub fn profiled<R>(work: impl FnOnce() -> R) -> (R, Profile) {
    let outer = CURRENT.replace(Some(Profile::default()));
    let result = work();
    (result, CURRENT.replace(outer).unwrap_or_default())
}

/// Calls `work`, and keeps what it took if this thread is being profiled.
///
/// * `linear`: the weights that it multiplies with, and how many rows of activations
pub(crate) fn timed<R>(
    part: Part,
    linear: Option<(&Linear, usize)>,
    work: impl FnOnce() -> R,
) -> R {
    if CURRENT.with_borrow(Option::is_none) {
        return work();
    }
    let began = Instant::now();
    let result = work();
    let time = began.elapsed();
    CURRENT.with_borrow_mut(|profile| {
        let Some(profile) = profile else { return };
        let sum = &mut profile.parts[part as usize];
        sum.calls += 1;
        sum.time += time;
        if let Some((linear, rows)) = linear {
            sum.weight_bytes += linear.bytes();
            sum.products += (linear.inputs * linear.outputs * rows) as u64;
        }
    });
    result
}
