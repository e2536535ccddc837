//! Everything that can be done to a memory, as values: what a log keeps and a replay applies.

use serde::{Deserialize, Serialize};

use crate::addressing::Addressed;
use crate::associate::{Associated, weight_shares};
use crate::config::MAX_SAMPLES;
use crate::event::{MemoryEvent, Share};
use crate::late::TokenQuery;
use crate::observation::{MAX_TICK, MemoryError, Observation};
use crate::observer::{Counterfactual, Perturbation};
use crate::recall::{Recalled, shares};
use crate::reflect::{Novelty, Reflection};
use crate::slot::SlotRef;
use crate::{SlotId, Tick, UnifiedMemory};

/// One thing that is done to a memory, or asked of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Input {
    /// [`UnifiedMemory::observe`].
    Observe {
        /// The tick.
        at: Tick,
        /// What was seen.
        seen: Observation,
    },
    /// [`UnifiedMemory::advance`].
    Advance {
        /// The tick.
        at: Tick,
    },
    /// [`UnifiedMemory::cycle`].
    Cycle {
        /// The tick.
        at: Tick,
        /// How many.
        cycles: u32,
    },
    /// [`UnifiedMemory::recall`].
    Recall {
        /// The tick.
        at: Tick,
        /// Raw, `[dim]`.
        query: Vec<f32>,
        /// Most memories.
        k: u32,
    },
    /// [`UnifiedMemory::recall_tokens`].
    RecallTokens {
        /// The tick.
        at: Tick,
        /// Raw, `[tokens, dim]`, flat.
        query: Vec<f32>,
        /// The tokens, `[tokens]`, or none.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        token_ids: Vec<u32>,
        /// Most memories.
        k: u32,
    },
    /// [`UnifiedMemory::associate`].
    Associate {
        /// The tick.
        at: Tick,
        /// Raw, `[dim]`.
        query: Vec<f32>,
        /// Most memories.
        k: u32,
    },
    /// [`UnifiedMemory::address`].
    Address {
        /// The tick.
        at: Tick,
        /// Raw, `[dim]`.
        query: Vec<f32>,
        /// Slots of the top-k read and of the random read.
        k: u32,
        /// Of the random read.
        seed: u64,
    },
    /// [`UnifiedMemory::set_gate`].
    SetGate {
        /// The slot.
        slot: SlotRef,
        /// Its gate `A`.
        gate: f32,
    },
    /// [`UnifiedMemory::supersede`].
    Supersede {
        /// The tick.
        at: Tick,
        /// The slot that ends.
        slot: SlotRef,
        /// What takes its place.
        by: SlotRef,
    },
    /// [`UnifiedMemory::set_prompt`].
    Prompt {
        /// Raw, `[dim]`; none takes it away.
        vector: Option<Vec<f32>>,
    },
    /// [`UnifiedMemory::attach_goal`].
    AttachGoal {
        /// The slot.
        slot: SlotRef,
        /// In the normalized space, `[dim]`.
        vector: Vec<f32>,
    },
    /// [`UnifiedMemory::counterfactual`].
    Counterfactual {
        /// Raw, `[dim]`.
        query: Vec<f32>,
        /// How it is perturbed.
        how: Perturbation,
    },
    /// [`UnifiedMemory::novelty`].
    Novelty {
        /// Raw, `[dim]`.
        query: Vec<f32>,
    },
    /// [`UnifiedMemory::reflect`].
    Reflect {
        /// Raw, `[dim]`.
        query: Vec<f32>,
        /// Most memories.
        k: u32,
    },
    /// [`UnifiedMemory::successors`].
    Successors {
        /// The slot.
        slot: SlotId,
    },
}

impl Input {
    /// The tick at which it happens; none where it takes no time.
    pub fn at(&self) -> Option<Tick> {
        match *self {
            Self::Observe { at, .. }
            | Self::Advance { at }
            | Self::Cycle { at, .. }
            | Self::Recall { at, .. }
            | Self::RecallTokens { at, .. }
            | Self::Associate { at, .. }
            | Self::Address { at, .. }
            | Self::Supersede { at, .. } => Some(at),
            _ => None,
        }
    }

    /// Its name in traces and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Observe { .. } => "observe",
            Self::Advance { .. } => "advance",
            Self::Cycle { .. } => "cycle",
            Self::Recall { .. } => "recall",
            Self::RecallTokens { .. } => "recall_tokens",
            Self::Associate { .. } => "associate",
            Self::Address { .. } => "address",
            Self::SetGate { .. } => "set_gate",
            Self::Supersede { .. } => "supersede",
            Self::Prompt { .. } => "prompt",
            Self::AttachGoal { .. } => "attach_goal",
            Self::Counterfactual { .. } => "counterfactual",
            Self::Novelty { .. } => "novelty",
            Self::Reflect { .. } => "reflect",
            Self::Successors { .. } => "successors",
        }
    }
}

/// What an input asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Answer {
    /// To a recall.
    Recalled {
        /// Best first.
        hits: Vec<Recalled>,
    },
    /// To a read that spreads.
    Associated {
        /// Largest weight first.
        hits: Vec<Associated>,
    },
    /// To a read by the meta-policy.
    Addressed {
        /// None where no slot holds.
        read: Option<Addressed>,
    },
    /// To a counterfactual question.
    Counterfactual {
        /// None where long-term memory is empty.
        score: Option<Counterfactual>,
    },
    /// To the question how new something is.
    Novelty {
        /// The answer.
        novelty: Novelty,
    },
    /// To the question what is known.
    Reflected {
        /// The answer.
        reflection: Reflection,
    },
    /// To the question what comes next.
    Successors {
        /// Slots and strengths, strongest first.
        links: Vec<(SlotId, f32)>,
    },
}

/// What an input did.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What was decided and changed, in order.
    pub events: Vec<MemoryEvent>,
    /// What was asked for.
    pub answer: Option<Answer>,
}

impl UnifiedMemory {
    /// Does one thing: the only call that a replay needs.
    ///
    /// # Errors
    /// As the call that it stands for. Nothing has changed then.
    pub fn apply(&mut self, input: &Input) -> Result<Outcome, MemoryError> {
        match input {
            Input::Observe { at, seen } => self.observe(*at, seen).map(Outcome::done),
            Input::Advance { at } => self.advance(*at).map(Outcome::done),
            Input::Cycle { at, cycles } => self.cycle(*at, *cycles).map(Outcome::done),
            Input::Supersede { at, slot, by } => {
                self.supersede(*at, *slot, *by).map(|event| Outcome::done(vec![event]))
            }
            Input::SetGate { slot, gate } => self.set_gate(*slot, *gate).map(Outcome::quiet),
            Input::Prompt { vector } => self.set_prompt(vector.as_deref()).map(Outcome::quiet),
            Input::AttachGoal { slot, vector } => {
                self.attach_goal(*slot, vector).map(Outcome::quiet)
            }
            asked => self.answer(asked),
        }
    }

    fn answer(&mut self, input: &Input) -> Result<Outcome, MemoryError> {
        match input {
            Input::Recall { at, query, k } => {
                self.recall(*at, query, *k as usize).map(Outcome::recalled)
            }
            Input::RecallTokens { at, query, token_ids, k } => {
                let query = TokenQuery { rows: query, token_ids };
                self.recall_tokens(*at, query, *k as usize).map(Outcome::recalled)
            }
            Input::Associate { at, query, k } => {
                let hits = self.associate(*at, query, *k as usize)?;
                let read = weight_shares(&hits);
                Ok(Outcome::read(read, Answer::Associated { hits }))
            }
            Input::Address { at, query, k, seed } => {
                check_seed(*seed)?;
                let read = self.address(*at, query, *k as usize, *seed)?;
                let shares = read.iter().flat_map(Addressed::shares).collect();
                Ok(Outcome::read(shares, Answer::Addressed { read }))
            }
            Input::Counterfactual { query, how } => {
                check_perturbation(how)?;
                let score = self.counterfactual(query, *how)?;
                Ok(Outcome::answered(Answer::Counterfactual { score }))
            }
            Input::Novelty { query } => {
                let novelty = self.novelty(query)?;
                Ok(Outcome::answered(Answer::Novelty { novelty }))
            }
            Input::Reflect { query, k } => {
                let reflection = self.reflect(query, *k as usize)?;
                Ok(Outcome::answered(Answer::Reflected { reflection }))
            }
            Input::Successors { slot } => {
                let links = self.successors(*slot);
                Ok(Outcome::answered(Answer::Successors { links }))
            }
            _ => unreachable!("`apply` does everything that is not a question"),
        }
    }
}

impl Outcome {
    fn done(events: Vec<MemoryEvent>) -> Self {
        Self { events, answer: None }
    }

    fn quiet((): ()) -> Self {
        Self::done(Vec::new())
    }

    fn answered(answer: Answer) -> Self {
        Self { events: Vec::new(), answer: Some(answer) }
    }

    fn read(slots: Vec<Share>, answer: Answer) -> Self {
        Self { events: vec![MemoryEvent::Read { slots }], answer: Some(answer) }
    }

    fn recalled(hits: Vec<Recalled>) -> Self {
        Self::read(shares(&hits), Answer::Recalled { hits })
    }
}

/// Seeds of inputs are exact as doubles, so that every JSON reader gets them.
fn check_seed(seed: u64) -> Result<(), MemoryError> {
    if seed <= MAX_TICK {
        return Ok(());
    }
    let most = MAX_TICK as f64;
    Err(MemoryError::Perturbation { name: "seed", found: seed as f64, least: 0.0, most })
}

fn check_perturbation(how: &Perturbation) -> Result<(), MemoryError> {
    check_seed(how.seed)?;
    let fields = [
        ("samples", f64::from(how.samples), 1.0, f64::from(MAX_SAMPLES)),
        ("sigma", f64::from(how.sigma), 0.0, 100.0),
    ];
    match fields.into_iter().find(|&(_, found, least, most)| !(least..=most).contains(&found)) {
        Some((name, found, least, most)) => {
            Err(MemoryError::Perturbation { name, found, least, most })
        }
        None => Ok(()),
    }
}
