//! Many memories become one, the same whatever their order and whatever was joined before.
//!
//! [`join`] is a function of the *set* of memories that it is given: they are put in order by their ids first, and one
//! that comes twice counts once. So whoever joins what was joined already gives the memories that went into it,
//! and not what came out of them: then joining is commutative, associative and idempotent by
//! construction (spec 42).
//!
//! What happened in several of them before they went different ways is recognized (same id, same
//! tick, same source, same value) and counts once. Nothing is dropped: stores grow as far as they have to.

mod claims;
mod pieces;
mod whole;

use cart_format::MemoryId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bank::Bank;
use crate::config::MAX_SLOTS;
use crate::goal::Goal;
use crate::graph::Graph;
use crate::slot::StoreKind;
use crate::unified::ForeignSpace;
use crate::{Tick, UnifiedMemory};
use pieces::Pieces;

/// What to do where memories contradict each other, and where their goals do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnContradiction {
    /// Both texts hold. Goals are averaged.
    #[default]
    KeepBoth,
    /// What was said last, each memory's ticks counted back from its own end, holds; the other ends. Of goals
    /// the one with more steps stays.
    Newest,
    /// What is worth more (gated energy) holds; the other ends. Of goals the one with more steps stays.
    HighestEnergy,
    /// Nothing is joined.
    Refuse,
}

/// Two texts of different memories that can't both be right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contradiction {
    /// The text that holds; where both do, the one that was said last.
    pub holds: String,
    /// The other.
    pub other: String,
    /// Whether the other has ended.
    pub ended: bool,
}

/// What a join did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct JoinReport {
    /// Memories, each counted once.
    pub memories: usize,
    /// Slots that they have together.
    pub slots_before: usize,
    /// Slots that are in several of them, from a common past.
    pub shared: usize,
    /// Slots that went into one that says the same.
    pub merged: usize,
    /// Slots of the result.
    pub slots: usize,
    /// Texts that contradict each other.
    pub contradictions: Vec<Contradiction>,
    /// The largest angle between two goals, in degrees; none where fewer than two have one.
    pub goal_angle: Option<f32>,
    /// Whether that is over 90°.
    pub goals_conflict: bool,
    /// Places that stores of the result have beyond the largest of their kind.
    pub grown: Grown,
}

/// More places in stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Grown {
    /// In short-term memory.
    pub stm: u32,
    /// In long-term memory.
    pub ltm: u32,
}

/// Why memories can't be joined.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum JoinError {
    /// There is none.
    #[error("there is no memory to join; give at least one")]
    None,
    /// Their vectors can't be compared.
    #[error(transparent)]
    Space(#[from] ForeignSpace),
    /// They contradict each other, and that was to be refused.
    #[error(
        "{} contradict each other, the first: `{}` and `{}`; say which hold with newest, highest-energy or keep-both",
        if *.count == 1 { "2 texts".to_owned() } else { format!("{count} pairs of texts") },
        .first.holds,
        .first.other
    )]
    Contradictions {
        /// How many pairs.
        count: usize,
        /// One of them.
        first: Box<Contradiction>,
    },
    /// Two goals point away from each other, and that was to be refused.
    #[error(
        "two goals are {angle:.0}° apart, and up to 90° can be averaged; say what becomes of them with newest, highest-energy or keep-both"
    )]
    Goals {
        /// The angle between them, in degrees.
        angle: f32,
    },
    /// A store would have too many slots.
    #[error("the memories have {found} slots for one store together, and it has at most {allowed}")]
    TooMany {
        /// Slots.
        found: usize,
        /// Most slots.
        allowed: usize,
    },
}

/// One of the memories, on the common clock.
struct Leaf {
    memory: UnifiedMemory,
    /// Ticks that its clock was put forward.
    shift: Tick,
}

/// One memory with all that these remember.
///
/// * **Slots** of one store that say the same, hold alike, and whose keys are as near as the rules of that store ask for,
///   become one: sums and counts add up, the key is the mean by energy times count, energy the larger. Of a slot
///   that several have from a common past the state with the most observations counts (then the one that was refreshed last).
/// * **Time.** Clocks that are behind are put forward, so that ages stay what they are.
/// * **Links** that several have from a common past count once, others add up; a row in which one
///   passes 1 is scaled down to 1 as a whole.
/// * **The goal** is the mean by steps. **Surprise** is pooled by observations. **Counters** add up.
/// * **Settings** are those of the memory with the most observations (then of the smaller id); stores have as many places as the largest has, or as are needed.
///
/// # Errors
/// There is none, they belong to different spaces, or something was to be refused.
pub fn join(
    memories: &[&UnifiedMemory],
    on_contradiction: OnContradiction,
) -> Result<(UnifiedMemory, JoinReport), JoinError> {
    let leaves = aligned(memories)?;
    let slots_before = leaves.iter().map(|leaf| leaf.memory.slots().count()).sum();
    let mut report = JoinReport { memories: leaves.len(), slots_before, ..JoinReport::default() };
    if let [only] = &leaves[..] {
        report.slots = slots_before;
        return Ok((only.memory.clone(), report));
    }
    let mut joined = frame(&leaves);
    let pieces = Pieces::of(&leaves, &mut report);
    let heirs = pieces.settle(&mut joined, &mut report)?;
    joined.take_links(&leaves, &heirs);
    joined.settle_claims(&heirs, on_contradiction, &mut report)?;
    joined.pool_goals(&leaves, on_contradiction, &mut report)?;
    joined.pool_statistics(&leaves);
    report.slots = joined.slots().count();
    Ok((joined, report))
}

/// Each memory once, in order of id, on one clock.
fn aligned(memories: &[&UnifiedMemory]) -> Result<Vec<Leaf>, JoinError> {
    let mut ordered: Vec<(MemoryId, &UnifiedMemory)> =
        memories.iter().map(|memory| (memory.snapshot().id(), *memory)).collect();
    ordered.sort_by_key(|(id, _)| *id);
    ordered.dedup_by_key(|(id, _)| *id);
    let (_, first) = ordered.first().ok_or(JoinError::None)?;
    let now = memories.iter().map(|memory| memory.now).max().unwrap_or_default();
    let space = first.space;
    let leaf = |(_, memory): &(MemoryId, &UnifiedMemory)| {
        memory.require_space(space)?;
        let mut memory = (*memory).clone();
        let shift = now - memory.now;
        memory.put_forward(shift);
        memory.offers = None;
        Ok(Leaf { memory, shift })
    };
    ordered.iter().map(leaf).collect()
}

/// The settings, and nothing remembered.
fn frame(leaves: &[Leaf]) -> UnifiedMemory {
    let seen = |leaf: &&Leaf| leaf.memory.counters.observations;
    // The last of equals is what `max_by_key` gives, so the order is turned: the smaller id.
    let settings = leaves.iter().rev().max_by_key(seen).expect("there are leaves");
    let mut frame = settings.memory.clone();
    let most = |of: fn(&UnifiedMemory) -> u32| leaves.iter().map(|leaf| of(&leaf.memory)).max();
    frame.config.stm_slots = most(|memory| memory.config.stm_slots).unwrap_or_default();
    frame.config.ltm_slots = most(|memory| memory.config.ltm_slots).unwrap_or_default();
    frame.config.max_span_tokens = most(|memory| memory.config.max_span_tokens).unwrap_or_default();
    frame.stm = Bank::new(&frame.normalization, frame.config.stm_slots);
    frame.ltm = Bank::long_term(&frame.normalization, frame.config.ltm_slots).into();
    (frame.goal, frame.graph) = (Goal::new(frame.dim()), Graph::default());
    frame.next_slot = 0;
    frame
}

impl UnifiedMemory {
    /// Gives an empty store as many places as slots need; says how many more that are than it had.
    fn make_places(&mut self, store: StoreKind, slots: usize) -> Result<u32, JoinError> {
        let allowed = MAX_SLOTS as usize;
        if slots > allowed {
            return Err(JoinError::TooMany { found: slots, allowed });
        }
        let capacity = match store {
            StoreKind::Stm => &mut self.config.stm_slots,
            StoreKind::Ltm => &mut self.config.ltm_slots,
        };
        let grown = (slots as u32).saturating_sub(*capacity);
        *capacity += grown;
        let capacity = *capacity;
        match store {
            StoreKind::Stm => self.stm = Bank::new(&self.normalization, capacity),
            StoreKind::Ltm => self.ltm = Bank::long_term(&self.normalization, capacity).into(),
        }
        Ok(grown)
    }
}
