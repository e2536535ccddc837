//! A memory brought from the space of one model into that of another.
//!
//! Two roads. By text: every slot's text is read by the other model, as if it had been told it. By map: an
//! affine map between the two spaces is fitted on texts that both models read, and moves the vectors that
//! are there. Either way it is measured how much of what the memory recalled before it recalls after.

mod anchors;
mod map;
mod recall;
mod text;

use cart_format::SpaceId;
use cart_memory::affine::AffineError;
use cart_memory::{RelocationError, SlotRef, UnifiedMemory};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::agent::Agent;
use crate::calibration::CalibrationError;
use crate::memory_loop::EncodeError;
use crate::tokenizer::TokenizerError;
use anchors::Anchors;
pub use map::MapReport;
pub use recall::RecallReport;
pub use text::migrate_by_text;

/// How vectors get into the other space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MigrateBy {
    /// The other model reads every slot's text.
    #[default]
    Text,
    /// An affine map moves them.
    Map,
}

/// How to migrate.
#[derive(Clone, Debug, PartialEq)]
pub struct MigrationOptions {
    /// The road.
    pub by: MigrateBy,
    /// Texts to fit a map on, beside those of the memory; a part of a licence text in English if absent.
    pub anchors: Option<Vec<String>>,
    /// The least recall@10 of a map that is taken, 0 to 1.
    pub threshold: f64,
}

/// The recall@10 under which a map is refused where nobody says. Where texts are of few kinds, most of a recall@10 of 0.7
/// is had by finding the kind alone; by text, two models agree on 0.94 and more
/// (`crates/cart-memory/benches/RESULTS.md`).
pub const MAP_THRESHOLD: f64 = 0.8;

impl Default for MigrationOptions {
    fn default() -> Self {
        Self { by: MigrateBy::default(), anchors: None, threshold: MAP_THRESHOLD }
    }
}

/// What a migration did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MigrationReport {
    /// The road.
    pub by: MigrateBy,
    /// The space that it came from.
    pub from_space: SpaceId,
    /// Values of a key there.
    pub from_dim: usize,
    /// The space that it is in now.
    pub to_space: SpaceId,
    /// Values of a key here.
    pub to_dim: usize,
    /// Slots, of which none is lost.
    pub slots: usize,
    /// Tokens that they had.
    pub tokens_before: usize,
    /// Tokens that they have.
    pub tokens_after: usize,
    /// Most tokens of a slot, which rises where a text needs it.
    pub max_span_tokens: u32,
    /// The goal's length, which stays.
    pub goal_norm: f32,
    /// Cosine of the goal with the sum of keys that was moved in its place; 0 where there is no goal.
    pub goal_explained: f32,
    /// How much of what was recalled before is recalled after.
    pub recall: RecallReport,
    /// The map, where it was by map.
    pub map: Option<MapReport>,
    /// Whether it stands.
    pub accepted: bool,
}

/// Why a memory can't be migrated.
#[derive(Debug, Error)]
pub enum MigrationError {
    /// There is nothing to do.
    #[error(
        "the memory is of space {} already, which is that of the model it should go to; it can be used there as it is",
        space.short()
    )]
    SameSpace {
        /// The space.
        space: SpaceId,
    },
    /// The memory is not that of the model it should come from.
    #[error(transparent)]
    Foreign(#[from] cart_memory::ForeignSpace),
    /// There is nothing that could be told again.
    #[error("the memory has no slots, so there is nothing to migrate")]
    Empty,
    /// A goal has no text, and there are no keys that it could be a sum of.
    #[error(
        "the memory has a goal (length {norm:.3}) and no slots; a goal has no text and moves as a sum of what slots say, so this one can't be migrated before something is told"
    )]
    GoalAlone {
        /// The goal's length.
        norm: f32,
    },
    /// A slot can't be told again.
    #[error(
        "{slot} has no text, so another model can't be told what it says; only memories with texts can be migrated"
    )]
    NoText {
        /// The slot.
        slot: SlotRef,
    },
    /// A model can't read a slot's text.
    #[error("the text of {slot} can't be read by the model")]
    Slot {
        /// The slot.
        slot: SlotRef,
        /// Why.
        source: EncodeError,
    },
    /// A model can't read an anchor or a query.
    #[error("{text:?} can't be read by the model")]
    Text {
        /// Its beginning.
        text: String,
        /// Why.
        source: EncodeError,
    },
    /// Too little to hold out.
    #[error(
        "the memory has {found} different texts; a map is measured on a third of them and needs {least}: migrate by text"
    )]
    FewTexts {
        /// Texts.
        found: usize,
        /// Least texts.
        least: usize,
    },
    /// A memory refuses a query.
    #[error(transparent)]
    Memory(#[from] cart_memory::MemoryError),
    /// The other model can't begin a memory.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// No map was found.
    #[error(transparent)]
    Affine(#[from] AffineError),
    /// A slot does not fit there.
    #[error(transparent)]
    Relocation(#[from] RelocationError),
    /// A slot's tokens have no text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// The agent's memory in the space of another agent's model, and what came of it. Neither agent changes.
///
/// A map whose recall@10 is under the threshold gives a report that is not accepted; the memory is what it
/// would have been.
///
/// # Errors
/// There is nothing to migrate, a slot has no text, or a model can't read what it has to.
pub fn migrate(
    from: &Agent,
    memory: &UnifiedMemory,
    to: &Agent,
    options: &MigrationOptions,
) -> Result<(UnifiedMemory, MigrationReport), MigrationError> {
    memory.require_space(from.space())?;
    check(memory, to)?;
    if memory.slots().next().is_none() {
        return Err(MigrationError::Empty);
    }
    let anchors = Anchors::of(memory, options.anchors.as_deref());
    let by_text = || text::relocated(memory, to);
    let (moved, goal, recall, map) = match options.by {
        MigrateBy::Text => {
            let (moved, goal) = by_text()?;
            let recall = recall::compare((from, memory), (to, &moved), anchors.all_own())?;
            (moved, goal, recall, None)
        }
        MigrateBy::Map => {
            anchors.check()?;
            let (affine, mut report) = map::fit(from, memory, to, &anchors)?;
            let (moved, goal) = map::relocated(from, memory, to, &affine)?;
            let queries = anchors.own_held_out();
            let recall = recall::compare((from, memory), (to, &moved), queries.clone())?;
            report.by_text = recall::compare((from, memory), (to, &by_text()?.0), queries)?;
            report.threshold = options.threshold;
            (moved, goal, recall, Some(report))
        }
    };
    let accepted = map.is_none() || recall.at_10 >= options.threshold;
    let tokens = |memory: &UnifiedMemory| {
        memory.slots().map(|(_, slot)| slot.value.token_ids.len()).sum::<usize>()
    };
    let report = MigrationReport {
        by: options.by,
        from_space: memory.space(),
        from_dim: memory.dim(),
        to_space: moved.space(),
        to_dim: moved.dim(),
        slots: moved.slots().count(),
        tokens_before: tokens(memory),
        tokens_after: tokens(&moved),
        max_span_tokens: moved.config().max_span_tokens,
        goal_norm: goal.norm,
        goal_explained: goal.explained,
        recall,
        map,
        accepted,
    };
    Ok((moved, report))
}

/// Whether the memory has to move, and can without losing anything.
fn check(memory: &UnifiedMemory, to: &Agent) -> Result<(), MigrationError> {
    if memory.space() == to.space() {
        return Err(MigrationError::SameSpace { space: to.space() });
    }
    let goal = memory.goal();
    let aims = !goal.is_zero() || goal.prompt().is_some();
    if aims && memory.slots().next().is_none() {
        return Err(MigrationError::GoalAlone { norm: goal.norm() });
    }
    match memory.slots().find(|(_, slot)| slot.value.text.trim().is_empty()) {
        Some((slot, _)) => Err(MigrationError::NoText { slot }),
        None => Ok(()),
    }
}

/// A text that a model could not read.
fn unread(text: &str) -> impl FnOnce(EncodeError) -> MigrationError {
    let text = text.chars().take(60).collect();
    |source| MigrationError::Text { text, source }
}
