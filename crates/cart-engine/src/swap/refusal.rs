//! Why a swap was refused, and at which stage.

use cart_format::BasisId;
use cart_memory::ForeignSpace;
use cart_store::VerifyError;
use thiserror::Error;

use super::InFlight;
use super::lifecycle::SwapState;
use super::room::NoRoom;
use crate::long_term::LongTermError;
use crate::{
    CalibrationError, FiniteError, LoadError, MigrationError, ProbeError, ProbeFailure,
    ProbeOutcome,
};

/// Why there was no swap. The running generation is as it was.
#[derive(Debug, Error)]
pub enum SwapError {
    /// One at a time.
    #[error(
        "another swap is under way; wait until it is done (its state is in the runtime's state)"
    )]
    InProgress,
    /// There is no generation to go back to.
    #[error(
        "there is nothing to roll back to: the generation before was dropped, or there was none; swap to its cartridge by name"
    )]
    NothingToRollBackTo,
    /// The runtime has been stopped.
    #[error("the runtime has been stopped; start another")]
    Stopped,
    /// What ran before was unloaded, and neither the new cartridge nor that could be loaded.
    #[error(
        "`{name}` was refused after state {stage:?}: {why}; and `{before}`, which was unloaded for it, can't be loaded again: {failure}; nothing runs any more, start the server anew"
    )]
    Lost {
        /// What people call the cartridge.
        name: String,
        /// The last state that it reached.
        stage: SwapState,
        /// Why it got no further.
        why: String,
        /// What ran before.
        before: String,
        /// Why that could not be loaded again.
        failure: Box<SwapFailure>,
    },
    /// The new generation did not get to the next state.
    #[error("`{name}` was refused after state {stage:?}: {failure}; the running cartridge goes on")]
    Refused {
        /// What people call the cartridge.
        name: String,
        /// The last state that it reached.
        stage: SwapState,
        /// Why it got no further.
        #[source]
        failure: Box<SwapFailure>,
    },
}

/// Why a generation did not get to the next state.
#[derive(Debug, Error)]
pub enum SwapFailure {
    /// To `Verified`: keys and values that should stay are those of other weights.
    #[error(
        "in flight `keep` was asked for, but its weights, architecture or tokenizer are not those that run (basis {}; running {}): keys and values of streams would not be its own; swap with in flight `boundary` or `finish`",
        found.short(), running.short()
    )]
    OtherWeights {
        /// What its keys and values depend on.
        found: BasisId,
        /// What those of running streams depend on.
        running: BasisId,
    },
    /// To `Verified`: there is no memory for it.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// To `Verified`: streams can't go on with a cartridge that is loaded after theirs was unloaded.
    #[error(
        "in flight `{}` was asked for, but with stop_first running streams end before what they run on is unloaded; swap with in flight `finish`, or without stop_first",
        format!("{in_flight:?}").to_lowercase()
    )]
    InPlace {
        /// What was asked for.
        in_flight: InFlight,
    },
    /// To `Verified`: the bytes are not what the manifest says.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// To `Loaded`: parts are missing or do not belong together.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// To `Loaded`: it has no tokenizer, so it can't serve text.
    #[error("the cartridge has no tokenizer; pack it with one (--tokenizer FILE)")]
    NoTokenizer,
    /// To `Loaded`: the running memory belongs to another space.
    #[error("the memory can't be carried over: {0}; or swap with memory `migrate` or `replace`")]
    Memory(#[from] ForeignSpace),
    /// To `Loaded`: the running memory can't be brought into the new one's space.
    #[error("the memory can't be migrated: {0}; or swap with memory `replace`")]
    Migration(#[from] MigrationError),
    /// To `Loaded`: the new cartridge has no memory, and none can be begun.
    #[error("a memory can't be begun: {0}")]
    Begin(#[from] CalibrationError),
    /// To `Warm`: there is no long-term memory for it.
    #[error(transparent)]
    LongTerm(#[from] LongTermError),
    /// To `Warm`: it can't compute, or what it computes is not finite.
    #[error("the warm-up failed: {0}")]
    Warm(#[from] FiniteError),
    /// To `Warm`: a golden probe can't be run.
    #[error("a golden probe can't be run: {0}")]
    Probe(#[from] ProbeError),
    /// To `Warm`: a golden probe gave other numbers than it was recorded with.
    #[error("golden probe {index} ({:?}) failed: {}; if this is as it should be, record new ones with `cart probe`", outcome.prompt, what_failed(outcome))]
    ProbeFailed {
        /// Which probe of the commit, from 0.
        index: usize,
        /// What it gave.
        outcome: Box<ProbeOutcome>,
    },
}

impl SwapError {
    /// A short name for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InProgress => "swap_in_progress",
            Self::NothingToRollBackTo => "nothing_to_roll_back_to",
            Self::Stopped => "runtime_stopped",
            Self::Lost { .. } => "nothing_runs",
            Self::Refused { failure, .. } => failure.code(),
        }
    }
}

impl SwapFailure {
    fn code(&self) -> &'static str {
        match self {
            Self::OtherWeights { .. } => "other_weights",
            Self::NoRoom(_) => "no_room",
            Self::InPlace { .. } => "stop_first_in_flight",
            Self::Verify(_) => "verification_failed",
            Self::Load(LoadError::Finite(_)) => "weights_not_finite",
            Self::Load(_) => "load_failed",
            Self::NoTokenizer => "no_tokenizer",
            Self::Memory(_) => "memory_of_another_space",
            Self::Migration(_) | Self::Begin(_) => "memory_not_migrated",
            Self::LongTerm(_) => "no_long_term_memory",
            Self::Warm(_) => "warm_up_failed",
            Self::Probe(_) | Self::ProbeFailed { .. } => "probe_failed",
        }
    }
}

fn what_failed(outcome: &ProbeOutcome) -> String {
    match &outcome.failure {
        None => "nothing differs".to_owned(),
        Some(ProbeFailure::OtherTokens { expected, found }) => {
            format!("its prompt had {} tokens and now has {}", expected.len(), found.len())
        }
        Some(ProbeFailure::UnknownToken { step, token }) => {
            format!("step {step} names token {token}, which the model does not have")
        }
        Some(ProbeFailure::Moved { step, token, expected, found }) => format!(
            "at step {step}, ln p of token {token} was {expected:.3} and is {found:.3}; allowed: {} nat off",
            outcome.tolerance
        ),
    }
}
