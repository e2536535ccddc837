//! The single source of truth: everything that an agent remembers, as one value.

use cart_format::SpaceId;
use thiserror::Error;

use crate::bank::{Bank, Changing, SharedBank};
use crate::config::{ConfigError, SearchRule, check_centres, with_parts};
use crate::counters::Counters;
use crate::event::{Cause, MemoryEvent};
use crate::goal::Goal;
use crate::graph::Graph;
use crate::observation::{Checked, MemoryError, Observation, check_tick};
use crate::shared::Offers;
use crate::slot::{Slot, SlotId, SlotRef, StoreKind};
use crate::surprise::{self, SurpriseStatistics};
use crate::{MemoryConfig, Normalization, Tick};

/// Vectors of two spaces were about to meet.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "the memory belongs to space {} but {} was expected; its vectors were made by another model, layer or normalization: migrate it, or run it with its own model",
    found.short(),
    expected.short()
)]
pub struct ForeignSpace {
    /// The space of the memory.
    pub found: SpaceId,
    /// The space that was asked for.
    pub expected: SpaceId,
}

/// The memory of one agent: short-term ring, long-term codebook, goal, association graph, surprise
/// statistics and counters, with the rules of the observer and the gates.
///
/// It is a function of its inputs: the same calls give the same bits, on every machine.
#[derive(Clone, Debug)]
pub struct UnifiedMemory {
    pub(crate) space: SpaceId,
    pub(crate) normalization: Normalization,
    pub(crate) config: MemoryConfig,
    pub(crate) stm: Bank,
    pub(crate) ltm: SharedBank,
    pub(crate) goal: Goal,
    pub(crate) graph: Graph,
    pub(crate) surprise: SurpriseStatistics,
    pub(crate) counters: Counters,
    pub(crate) now: Tick,
    /// When the observer last ran.
    pub(crate) observed_at: Tick,
    /// When long-term memory was last pruned.
    pub(crate) pruned_at: Tick,
    /// The next slot's id.
    pub(crate) next_slot: u64,
    /// What goes to the long-term memory that it shares with others, where it does.
    pub(crate) offers: Option<Offers>,
}

impl UnifiedMemory {
    /// An empty memory for vectors of one space.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(
        space: SpaceId,
        normalization: Normalization,
        config: MemoryConfig,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let normalization = with_parts(normalization, &config)?;
        check_centres(&config, &normalization)?;
        let dim = normalization.dim();
        Ok(Self {
            stm: Bank::new(&normalization, config.stm_slots),
            ltm: Bank::long_term(&normalization, config.ltm_slots).into(),
            goal: Goal::new(dim),
            graph: Graph::default(),
            surprise: SurpriseStatistics::new(&config),
            counters: Counters::default(),
            now: 0,
            observed_at: 0,
            pruned_at: 0,
            next_slot: 0,
            offers: None,
            space,
            normalization,
            config,
        })
    }

    /// Takes in an observation, then lets the observer do what is due.
    ///
    /// * `at`: the tick; equal to or after [`UnifiedMemory::now`]
    ///
    /// # Errors
    /// The observation is malformed, or time would run backwards. Nothing has changed then.
    pub fn observe(
        &mut self,
        at: Tick,
        seen: &Observation,
    ) -> Result<Vec<MemoryEvent>, MemoryError> {
        check_tick(at, self.now)?;
        let checked = Checked::new(seen, &self.normalization, &self.config)?;
        let mut events = Vec::new();
        self.now = at;
        self.counters.observations += 1;
        let surprise = surprise::mean(&seen.surprise);
        let z = surprise.map(|nats| self.surprise.z_score(nats));
        if let Some(nats) = surprise {
            self.surprise.update(nats, self.config.surprise_alpha);
        }
        let position = self.admit(at, checked, &mut events);
        self.contradict(at, (StoreKind::Stm, position), &mut events);
        self.press(at, position, &mut events);
        self.fire(at, &[(self.stm.slot(position).id, 1.0)]);
        if let Some(z) = z {
            self.gate_by_surprise(at, position, z, &mut events);
        }
        self.watch(at, &mut events);
        Ok(events)
    }

    /// Offers what surprises to long-term memory.
    fn gate_by_surprise(
        &mut self,
        at: Tick,
        position: usize,
        z: f64,
        events: &mut Vec<MemoryEvent>,
    ) {
        let Some(rules) = self.config.store else { return };
        let fullness = self.ltm.len() as f64 / self.ltm.capacity() as f64;
        let pressure = 1.0 + f64::from(rules.capacity_pressure) * fullness;
        let needed = f64::from(rules.z_threshold) * pressure;
        let offered = z > needed;
        let slot = self.stm.slot(position).id;
        // A surprise near the largest f32 is more deviations than f32 holds, and JSON has no infinity.
        let z = z.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
        events.push(MemoryEvent::Surprised { slot, z, needed: needed as f32, offered });
        if offered {
            self.counters.surprising += 1;
            self.consolidate(at, position, Cause::Surprise, events);
        }
    }

    /// Lets slots be active, where there is a graph.
    ///
    /// * `slots`: ids and how active they are, 0 to 1
    pub(crate) fn fire(&mut self, at: Tick, slots: &[(SlotId, f32)]) {
        let Some(rules) = self.config.graph else { return };
        self.graph.pass(at, &rules);
        for &(slot, amount) in slots {
            self.graph.activate(at, slot, amount, &rules);
        }
    }

    /// A slot is gone; its links go with it, or to the slot that keeps what it said.
    pub(crate) fn unlink(&mut self, slot: SlotId, heir: Option<SlotId>) {
        if let Some(rules) = self.config.graph {
            self.graph.leave(slot, heir, &rules);
        }
    }

    /// Says where the prompt points; each step of the goal begins with its share
    /// (`goal_prompt_blend`). None takes it away.
    ///
    /// * `prompt`: `[dim]`, raw
    ///
    /// # Errors
    /// The vector can't be used.
    pub fn set_prompt(&mut self, prompt: Option<&[f32]>) -> Result<(), MemoryError> {
        let unit = prompt.map(|raw| self.normalization.unit("prompt", raw)).transpose()?;
        self.goal.prompt = unit;
        Ok(())
    }

    /// Gives a slot one more goal vector; the oldest leaves where it has `goal_vectors` already.
    ///
    /// * `goal`: `[dim]`, in the normalized space, as [`Goal::vector`] is
    ///
    /// # Errors
    /// The slot is not there, the vector can't be used, or slots carry no goal vectors.
    pub fn attach_goal(&mut self, slot: SlotRef, goal: &[f32]) -> Result<(), MemoryError> {
        let most = self.config.goal_vectors as usize;
        if most == 0 {
            return Err(MemoryError::RuleNotSet { rule: "goal_vectors" });
        }
        crate::vector::check("goal vector", goal, self.dim())?;
        let mut slot = self.find_mut(slot)?;
        let goals = &mut slot.goals;
        goals.push(goal.iter().map(|value| value + 0.0).collect());
        let surplus = goals.len().saturating_sub(most);
        goals.drain(..surplus);
        Ok(())
    }

    /// Lets time pass without an observation; the observer does what is due.
    ///
    /// # Errors
    /// Time would run backwards.
    pub fn advance(&mut self, at: Tick) -> Result<Vec<MemoryEvent>, MemoryError> {
        check_tick(at, self.now)?;
        let mut events = Vec::new();
        self.now = at;
        self.watch(at, &mut events);
        Ok(events)
    }

    /// The energy of an observation with this mean surprise (nats), by the statistics so far.
    pub fn energy_from_surprise(&self, mean_surprise: f32) -> f32 {
        surprise::energy_from_surprise(mean_surprise, &self.surprise)
    }

    /// Sets a slot's gate `A`.
    ///
    /// # Errors
    /// The slot is not there, or the gate is not finite.
    pub fn set_gate(&mut self, slot: SlotRef, gate: f32) -> Result<(), MemoryError> {
        if !gate.is_finite() {
            return Err(MemoryError::Gate { found: gate });
        }
        self.find_mut(slot)?.gate = gate + 0.0;
        Ok(())
    }

    /// Ends a slot's validity in favour of another. It is kept, but no longer recalled.
    ///
    /// # Errors
    /// One of the slots is not there, they are the same, or time would run backwards.
    pub fn supersede(
        &mut self,
        at: Tick,
        slot: SlotRef,
        by: SlotRef,
    ) -> Result<MemoryEvent, MemoryError> {
        check_tick(at, self.now)?;
        if slot == by {
            return Err(MemoryError::SupersedesItself { slot });
        }
        self.find_mut(by)?;
        let mut ended = self.find_mut(slot)?;
        ended.validity.until = Some(at);
        ended.validity.superseded_by = Some(by.id);
        drop(ended);
        self.now = at;
        Ok(MemoryEvent::Superseded { slot, by })
    }

    /// Refuses another space.
    ///
    /// # Errors
    /// The memory's vectors do not belong to `expected`.
    pub fn require_space(&self, expected: SpaceId) -> Result<(), ForeignSpace> {
        if self.space == expected {
            return Ok(());
        }
        Err(ForeignSpace { found: self.space, expected })
    }

    /// The same memory, searched otherwise where its long-term memory is large.
    pub fn searching(&self, search: SearchRule) -> Self {
        let config = MemoryConfig { search, ..self.config.clone() };
        Self { config, ..self.clone() }
    }

    /// The space of its vectors.
    pub fn space(&self) -> SpaceId {
        self.space
    }

    /// Values in a key.
    pub fn dim(&self) -> usize {
        self.normalization.dim()
    }

    /// Centre and scale of its keys.
    pub fn normalization(&self) -> &Normalization {
        &self.normalization
    }

    /// Its settings.
    pub fn config(&self) -> &MemoryConfig {
        &self.config
    }

    /// The latest tick it has seen.
    pub fn now(&self) -> Tick {
        self.now
    }

    /// The goal.
    pub fn goal(&self) -> &Goal {
        &self.goal
    }

    /// Running statistics of surprise.
    pub fn surprise(&self) -> &SurpriseStatistics {
        &self.surprise
    }

    /// How often things have happened.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Whether there is nothing that could reach the output: no slot, and no goal.
    pub fn is_empty(&self) -> bool {
        self.stm.len() == 0 && self.ltm.len() == 0 && self.goal.is_zero()
    }

    /// How many slots long-term memory has.
    pub fn entries(&self) -> usize {
        self.ltm.len()
    }

    /// Every slot, short-term first, in order of position.
    pub fn slots(&self) -> impl Iterator<Item = (SlotRef, &Slot)> {
        self.stores().flat_map(|(store, bank)| {
            bank.iter().map(move |(_, slot)| (SlotRef { store, id: slot.id }, slot))
        })
    }

    /// A slot.
    pub fn slot(&self, slot: SlotRef) -> Option<&Slot> {
        let bank = self.bank(slot.store);
        bank.find(slot.id).map(|position| bank.slot(position))
    }

    pub(crate) fn stores(&self) -> impl Iterator<Item = (StoreKind, &Bank)> {
        [(StoreKind::Stm, &self.stm), (StoreKind::Ltm, &self.ltm)].into_iter()
    }

    pub(crate) fn bank(&self, store: StoreKind) -> &Bank {
        match store {
            StoreKind::Stm => &self.stm,
            StoreKind::Ltm => &self.ltm,
        }
    }

    pub(crate) fn bank_mut(&mut self, store: StoreKind) -> &mut Bank {
        match store {
            StoreKind::Stm => &mut self.stm,
            StoreKind::Ltm => &mut self.ltm,
        }
    }

    pub(crate) fn issue_id(&mut self) -> SlotId {
        let id = SlotId(self.next_slot);
        self.next_slot += 1;
        id
    }

    pub(crate) fn find_mut(&mut self, slot: SlotRef) -> Result<Changing<'_>, MemoryError> {
        let bank = self.bank_mut(slot.store);
        match bank.find(slot.id) {
            Some(position) => Ok(bank.slot_mut(position)),
            None => Err(MemoryError::NoSuchSlot { slot }),
        }
    }
}
