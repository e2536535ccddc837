//! A generation that a swap has just made active is watched for a while, and left again by itself where it fails.
//!
//! Three things end it: logits that are no numbers, an output that collapsed into repetition, and probes that no
//! longer give what they gave. The generation before stays loaded for as long, so that going back takes no longer
//! than any flip. [`WatchOptions`] says what is looked at, [`WatchState`] what was seen.

pub(super) mod collapse;
mod guard;
mod probing;
pub(super) mod retelling;

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::Serialize;

use crate::swap::SwapSide;

pub(super) use guard::Watch;
pub(super) use probing::Probed;
pub use retelling::Retold;

/// How a new generation is watched.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchOptions {
    /// How long; not at all where it is 0, and never longer than it can be rolled back.
    pub window: Duration,
    /// How often its probes run again meanwhile, the last time when the window ends.
    pub probes_every: Duration,
    /// When its output counts as collapsed.
    pub collapse: CollapseOptions,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            window: Duration::from_mins(2),
            probes_every: Duration::from_secs(30),
            collapse: CollapseOptions::default(),
        }
    }
}

/// When an output counts as collapsed. A stream has collapsed where over so many tokens in a row the
/// distributions that they were drawn from had next to no entropy, *and* the tokens repeat themselves: each alone is
/// what good models do too (digits of a number, lines of a table). Or where there are hardly any different ones among them, as
/// where a few tokens share all probability. And where the generation before, given the same prompt, does not do the
/// same: models that are sure of little run into loops by themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct CollapseOptions {
    /// Tokens in a row that are looked at.
    pub tokens: NonZeroUsize,
    /// Mean entropy up to which they have none, in nats.
    pub entropy: f64,
    /// Share of different ones among the runs of three tokens up to which they repeat themselves.
    pub distinct: f64,
    /// Share of different tokens up to which nothing else is said, whatever their entropy.
    pub few: f64,
    /// Streams that have to collapse before the generation is left, and half of those that were looked at.
    pub streams: NonZeroUsize,
}

impl Default for CollapseOptions {
    fn default() -> Self {
        Self {
            tokens: NonZeroUsize::new(64).expect("64 is not 0"),
            entropy: 0.1,
            distinct: 0.25,
            few: 0.0625,
            streams: NonZeroUsize::new(3).expect("3 is not 0"),
        }
    }
}

/// Why a generation was left.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Trip {
    /// Logits that are no numbers.
    NotFinite {
        /// Tokens that had been read before.
        after_tokens: usize,
    },
    /// What streams say has collapsed.
    Collapsed {
        /// Streams that have.
        streams: usize,
        /// Streams that were looked at.
        judged: usize,
        /// Mean entropy of the last one, in nats.
        entropy: f64,
        /// Its share of different runs of three tokens.
        distinct: f64,
    },
    /// A probe gives something else than it did.
    Drifted {
        /// The probe's prompt.
        prompt: String,
        /// How far its log-probabilities are off, in nats; none where they can't be compared.
        largest: Option<f64>,
        /// How far they may be.
        tolerance: f64,
    },
}

impl fmt::Display for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite { after_tokens } => {
                write!(f, "its logits after {after_tokens} tokens were not finite")
            }
            Self::Collapsed { streams, judged, entropy, distinct } => write!(
                f,
                "the output of {streams} of {judged} streams collapsed (entropy {entropy:.3} nat, {:.0} % of runs of three tokens different), and not on the generation before",
                distinct * 100.0
            ),
            Self::Drifted { prompt, largest: Some(largest), tolerance } => write!(
                f,
                "its probe {prompt:?} moved by {largest:.3} nat while it ran; allowed: {tolerance}"
            ),
            Self::Drifted { prompt, largest: None, .. } => {
                write!(f, "its probe {prompt:?} has other tokens than when it was recorded")
            }
        }
    }
}

/// A rollback, whoever asked for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RolledBack {
    /// What the watch saw; none where somebody asked for it.
    pub trip: Option<Trip>,
    /// The same in words.
    pub reason: String,
    /// The generation that was left.
    pub from: SwapSide,
    /// The generation that runs again.
    pub to: SwapSide,
    /// Milliseconds for which the one that was left had been active.
    pub active_ms: f64,
    /// Milliseconds from what the watch saw until the last stream that was moved had given a token on the generation
    /// before, or had ended; none while they are on their way.
    pub recover_ms: Option<f64>,
    /// Streams that went on with the generation before.
    pub streams_moved: usize,
    /// Streams that it ended.
    pub streams_dropped: usize,
    /// What became of what the generation that was left had been told; none while that is under way, and where both
    /// have one memory.
    pub memory: Option<Retold>,
}

/// Hears of what the watch does. Called between two steps, so it must not wait.
pub trait WatchListener: fmt::Debug + Send + Sync {
    /// A generation was left by itself.
    fn rolled_back(&self, report: &RolledBack);
}

/// What is watched, and what was seen so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WatchState {
    /// The generation that is watched.
    pub watching: Option<Watching>,
    /// Generations that were left by themselves, by why.
    pub trips: Trips,
    /// The last rollback.
    pub last_rollback: Option<RolledBack>,
}

/// A generation that is watched.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Watching {
    /// Which.
    pub generation: u64,
    /// For how many seconds.
    pub window_seconds: f64,
    /// How often its probes have run.
    pub probe_runs: u64,
    /// How far they were off at most, in nats.
    pub largest_shift: f64,
    /// Streams that were looked at for as many tokens as it takes to judge them.
    pub judged: usize,
    /// Streams that have collapsed there and not on the generation before.
    pub collapsed: usize,
    /// Streams that have collapsed there as well.
    pub cleared: usize,
}

/// Generations that were left by themselves, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Trips {
    /// Logits that are no numbers.
    pub not_finite: u64,
    /// Collapsed output.
    pub collapsed: u64,
    /// Probes that moved.
    pub drifted: u64,
}

impl Trips {
    pub(super) fn count(&mut self, trip: &Trip) {
        match trip {
            Trip::NotFinite { .. } => self.not_finite += 1,
            Trip::Collapsed { .. } => self.collapsed += 1,
            Trip::Drifted { .. } => self.drifted += 1,
        }
    }
}
