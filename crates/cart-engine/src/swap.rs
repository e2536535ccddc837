//! Changing the running cartridge between two tokens.
//!
//! A swap goes through the states of [`SwapState`], one after the other. Everything that can fail
//! happens on the caller's thread, to a generation that nobody uses yet, while the running one
//! streams on: digests, schema, finiteness, tokenizer against weights, the memory's space, warm-up,
//! golden probes. Only then does the owner of the token loop exchange two pointers. So a swap that
//! fails leaves the running generation as it was.
//!
//! Begin with [`SwapRequest`], [`SwapReport`] and [`SwapError`];
//! [`RuntimeHandle::swap`](crate::runtime::RuntimeHandle::swap) runs one.

pub(crate) mod account;
pub(crate) mod candidate;
pub(crate) mod lifecycle;
pub(crate) mod moving;
mod peak;
mod refusal;
pub(crate) mod room;

use cart_format::ManifestId;
use cart_store::Cartridge;
use serde::{Deserialize, Serialize};

pub use account::MemoryAccount;
pub use lifecycle::{IllegalStep, Lifecycle, SwapState};
pub use refusal::{SwapError, SwapFailure};
pub use room::{NoRoom, RoomLimit};

pub(crate) use peak::peak_rss;

/// What becomes of the streams that run while the cartridge changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InFlight {
    /// They end on the generation that they began on.
    #[default]
    Finish,
    /// At the next token they go on with the new one: what was delivered is turned into text,
    /// tokenized and read again. Where the new generation can't take a stream over (its context is
    /// too short, or it has no chat template), the stream ends on the old one.
    Boundary,
    /// At the next token they go on with the new one, which must have the same weights: their keys and values stay,
    /// with what was recalled into them; nothing is read again. The memory that is asked and told from then on
    /// is the new generation's.
    Keep,
    /// They end now, with an error that says so. What they had said stays said; of memory, sentences that they had ended.
    Abort,
}

/// What becomes of the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryPolicy {
    /// The new cartridge's own.
    #[default]
    Replace,
    /// The running memory moves over. It must belong to the new cartridge's space.
    Carry,
    /// The running memory moves over, into the new cartridge's space: its texts are read by the new model where
    /// that is another one.
    Migrate,
    /// The new cartridge's own, joined with the running one. They must be of one space.
    Merge,
    /// The new cartridge's own, with the short-term memory of the running one. They must be of one space.
    StmOnly,
    /// The new cartridge's own, with the goal of the running one. They must be of one space.
    GoalOnly,
}

/// Where the new generation is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loading {
    /// Beside what runs, which goes on until the new one is warm.
    #[default]
    Beside,
    /// In the place of what runs, where there is no memory for both: that is unloaded first, when its streams have ended,
    /// and requests wait meanwhile. If the new one can't be loaded, the old one is loaded again.
    InPlace,
}

/// A swap that is asked for.
#[derive(Clone, Debug)]
pub struct SwapRequest {
    /// What people call the cartridge, such as `name:tag`.
    pub name: String,
    /// The cartridge. Its golden probes are those of its commit.
    pub cartridge: Cartridge,
    /// What becomes of running streams.
    pub in_flight: InFlight,
    /// What becomes of the memory.
    pub memory: MemoryPolicy,
    /// Where it is loaded.
    pub loading: Loading,
}

/// One side of a swap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapSide {
    /// What people call the cartridge.
    pub name: String,
    /// Its id.
    pub manifest: ManifestId,
    /// The number of the generation; each swap counts one up.
    pub generation: u64,
}

/// What a swap did, and how long it took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SwapReport {
    /// What ran before.
    pub from: SwapSide,
    /// What runs now.
    pub to: SwapSide,
    /// What became of running streams.
    pub in_flight: InFlight,
    /// What became of the memory.
    pub memory: MemoryPolicy,
    /// Bytes whose digests were recomputed.
    pub bytes_verified: u64,
    /// Bytes that were not read again, because what ran before has them loaded: weights and tokenizer,
    /// where the two cartridges have the same.
    pub bytes_shared: u64,
    /// Milliseconds to recompute every digest.
    pub verify_ms: f64,
    /// Milliseconds to load weights, tokenizer and memory, and to check them against each other.
    pub load_ms: f64,
    /// Milliseconds of warm-up and probes.
    pub warm_ms: f64,
    /// Milliseconds for which the token loop stood still, `move_ms` included.
    pub pause_ms: f64,
    /// Milliseconds that `boundary` took to turn the streams' texts into the new generation's
    /// tokens, which are read again in the loop, beside the other streams; or that `keep` took to ask
    /// the new memory.
    pub move_ms: f64,
    /// Golden probes that passed, now or before with the same weights.
    pub probes_passed: usize,
    /// Texts of the warm-up whose logits were checked to be finite and not all the same; 0 where the
    /// weights ran before.
    pub steps_checked: usize,
    /// Streams that go on with the new generation. One that stands inside a character goes over
    /// with the token that ends it.
    pub streams_moved: usize,
    /// Streams that end on the old generation.
    pub streams_on_old: usize,
    /// Streams that the swap ended, because it was told to.
    pub streams_aborted: usize,
    /// Streams that the swap ended: they were moved, and failed before their first token on the new
    /// generation.
    pub streams_dropped: usize,
    /// Slots in the memory after the swap.
    pub memory_slots: usize,
    /// The process's peak resident memory so far, where the system tells.
    pub peak_rss_bytes: Option<u64>,
    /// Why the watch left the new generation again before this report was made; of a rollback, why it was left.
    pub rolled_back: Option<String>,
}
