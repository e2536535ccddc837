//! What the runtime is doing, for people, metrics and tests.

use cart_format::ManifestId;
use cart_memory::MemoryReport;
use serde::Serialize;

use super::watch::WatchState;
use crate::long_term::LongTermState;
use crate::swap::{SwapReport, SwapState};
use crate::{PrefixCacheReport, SavedSessionReport};

/// What the runtime is doing. It is written after every turn of the token loop.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuntimeState {
    /// The generation that new streams run on.
    pub active: GenerationState,
    /// Every generation that is not dropped, oldest first, the active one included.
    pub generations: Vec<GenerationState>,
    /// Streams that are being generated.
    pub streams: usize,
    /// Requests that wait for a place.
    pub queued: usize,
    /// Streams that ended, by how.
    pub ended: Ended,
    /// Tokens generated since the start.
    pub tokens: u64,
    /// The swap that is under way, if any.
    pub swap: Option<SwapUnderWay>,
    /// The last swap or rollback that was done.
    pub last_swap: Option<SwapReport>,
    /// The number of the generation that `rollback` would go back to.
    pub rollback_to: Option<u64>,
    /// What is watched after a swap, and what came of it.
    pub watch: WatchState,
    /// The active generation's memory, in numbers.
    pub memory: Option<MemoryReport>,
    /// The long-term memory that conversations share; none where there was no conversation.
    pub long_term: Option<LongTermState>,
    /// What the active generation keeps of prompts that it read.
    pub prefix_cache: PrefixCacheReport,
    /// The session that was saved in the active generation's cartridge.
    pub session: Option<SavedSessionReport>,
    /// The process's peak resident memory so far, where the system tells.
    pub peak_rss_bytes: Option<u64>,
}

/// A generation, from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GenerationState {
    /// What people call the cartridge.
    pub name: String,
    /// Its id.
    pub manifest: ManifestId,
    /// Its number; each swap counts one up.
    pub generation: u64,
    /// Where it is in its life.
    pub state: SwapState,
    /// Streams that run on it.
    pub streams: usize,
}

/// A swap that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SwapUnderWay {
    /// What people call the new cartridge.
    pub name: String,
    /// The state that it has reached.
    pub state: SwapState,
}

/// Streams that ended, by how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// At a stop string, at the limit of tokens, or at the end of the text.
    pub finished: u64,
    /// Because nobody listened any more.
    pub cancelled: u64,
    /// With an error.
    pub failed: u64,
}
