//! A long-term memory as a head and one record for each entry, for places that keep entries apart: a
//! database, a journal. Whatever comes back from there goes through the checks of a snapshot.

use serde_json::Value;

use super::MemorySnapshot;
use super::error::{RestoreError, SlotProblem};
use super::layout::{StoreTensors, halves_of};
use super::state::{SlotState, State};
use crate::bank::Bank;
use crate::goal::Goal;
use crate::graph::Graph;
use crate::slot::{Slot, SlotId, SlotRef, StoreKind};
use crate::vector::VectorError;
use crate::{Tick, UnifiedMemory};

/// One entry of a long-term memory, or what is offered to one, without loss.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotRecord {
    /// Its place in the codebook, which it keeps for life.
    pub position: u32,
    /// Its fields as in a memory's state (spec 30 §4).
    pub state: Value,
    /// Raw key, `[dim]`.
    pub key: Vec<f32>,
    /// `Σ w · key`, `[dim]`.
    pub key_sums: Vec<f64>,
    /// Unit hidden states at its tokens, `[tokens, dim]`, half precision, little-endian; or empty.
    pub token_keys: Vec<u8>,
    /// Their lengths, `[tokens]`; or empty.
    pub token_norms: Vec<f32>,
    /// Goal vectors, `[goals, dim]`, flat.
    pub goals: Vec<f32>,
}

impl SlotRecord {
    pub(crate) fn of(position: usize, slot: &Slot) -> Self {
        Self {
            position: position as u32,
            state: serde_json::to_value(SlotState::of(position, slot))
                .expect("a slot has only text keys and finite numbers"),
            key: slot.key.clone(),
            key_sums: slot.statistics.weighted_sum.clone(),
            token_keys: halves_of(slot.token_keys.rows()),
            token_norms: slot.token_keys.norms().to_vec(),
            goals: slot.goals.concat(),
        }
    }

    /// Its name, as far as the record says one.
    fn slot(&self) -> SlotRef {
        let id = self.state.get("id").and_then(Value::as_u64).unwrap_or(0);
        SlotRef { store: StoreKind::Ltm, id: SlotId(id) }
    }

    fn read_state(&self) -> Result<SlotState, RestoreError> {
        serde::Deserialize::deserialize(&self.state)
            .map_err(|source| RestoreError::State { source })
    }

    fn check_lengths(&self, state: &SlotState, dim: usize) -> Result<(), RestoreError> {
        let tokens = if state.token_keys { state.token_ids.len() } else { 0 };
        let lengths = [
            ("key", self.key.len(), dim),
            ("key sums", self.key_sums.len(), dim),
            ("token keys (bytes)", self.token_keys.len(), tokens * dim * 2),
            ("token norms", self.token_norms.len(), tokens),
            ("goal vectors", self.goals.len(), state.goals as usize * dim),
        ];
        match lengths.into_iter().find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((what, found, expected)) => Err(RestoreError::Slot {
                slot: self.slot(),
                problem: VectorError::Dimension { what, found, expected }.into(),
            }),
        }
    }
}

impl UnifiedMemory {
    /// The memory without slots, goal and links: settings, centre and scale, ticks and counts. With the
    /// records of its entries it is what long-term memory is.
    pub fn long_term_head(&self) -> MemorySnapshot {
        let mut head = self.clone();
        head.stm = Bank::new(&self.normalization, self.config.stm_slots);
        head.ltm = Bank::long_term(&self.normalization, self.config.ltm_slots).into();
        (head.goal, head.graph, head.offers) = (Goal::new(self.dim()), Graph::default(), None);
        head.snapshot()
    }

    /// The records of all entries, in order of position.
    pub fn long_term_records(&self) -> Vec<SlotRecord> {
        self.ltm.iter().map(|(position, slot)| SlotRecord::of(position, slot)).collect()
    }

    /// What differs from an earlier state of the same memory, by position: the record of what is there
    /// now, or none. Compares by identity, so `before` must be a clone from before the changes.
    pub fn long_term_changes(&self, before: &Self) -> Vec<(u32, Option<SlotRecord>)> {
        let changed = self.ltm.differing(&before.ltm).into_iter();
        changed
            .map(|position| {
                let slot = self.ltm.at(position);
                (position as u32, slot.map(|slot| SlotRecord::of(position, slot)))
            })
            .collect()
    }

    /// A long-term memory from its head and records, which come in order of position.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn from_records(
        head: &MemorySnapshot,
        records: &[SlotRecord],
    ) -> Result<Self, RestoreError> {
        let mut packed = Vec::with_capacity(records.len());
        for (place, record) in records.iter().enumerate() {
            let mut state = record.read_state()?;
            record.check_lengths(&state, head.dim as usize)?;
            state.position = place as u32;
            packed.push(state);
        }
        let mut state: State = serde::Deserialize::deserialize(&head.state)
            .map_err(|source| RestoreError::State { source })?;
        let capacity = state.config.ltm_slots;
        let (span, goals) = (state.config.max_span_tokens, state.config.goal_vectors);
        let layout = (head.dim as usize, span as usize, goals as usize);
        let tensors = StoreTensors::of_records(layout, &packed, records);
        state.ltm = packed;
        state.version = state.lowest_version();
        let mut snapshot = head.clone();
        snapshot.state = serde_json::to_value(state).expect("it was read from such a value");
        snapshot.tensors.extend(tensors.into_tensors());
        snapshot.tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut memory = Self::restore(&snapshot)?;
        memory.spread(records, capacity)?;
        Ok(memory)
    }

    /// Takes over what has changed, by position, as [`UnifiedMemory::long_term_changes`] gives it.
    ///
    /// * `head`: of the memory that has changed
    ///
    /// # Errors
    /// The first thing that does not fit. Nothing has changed then.
    pub fn take_changes(
        &mut self,
        head: &MemorySnapshot,
        changes: &[(u32, Option<SlotRecord>)],
    ) -> Result<(), RestoreError> {
        let records: Vec<SlotRecord> =
            changes.iter().filter_map(|(_, record)| record.clone()).collect();
        let changed = Self::from_records(head, &records)?;
        for &(position, _) in changes {
            if self.ltm.at(position as usize).is_some() {
                self.ltm.remove(position as usize);
            }
        }
        for (position, slot) in changed.ltm.iter() {
            self.ltm.place(position, slot.clone(), changed.ltm.unit(position));
        }
        self.now = changed.now;
        (self.observed_at, self.pruned_at) = (changed.observed_at, changed.pruned_at);
        (self.next_slot, self.counters) = (changed.next_slot, changed.counters);
        Ok(())
    }

    /// The slot of a record that another memory offers to this one, or would.
    ///
    /// # Errors
    /// The record does not fit this memory.
    pub(crate) fn read_offer(&self, record: &SlotRecord) -> Result<Slot, RestoreError> {
        let mut head = self.long_term_head();
        // What is offered has an id of the memory that it comes from.
        let most: Tick = crate::observation::MAX_TICK;
        if let Some(fields) = head.state.as_object_mut() {
            fields.insert("next_slot".to_owned(), most.into());
        }
        let read = Self::from_records(&head, std::slice::from_ref(record))?;
        let slot = read.ltm.iter().next().map(|(_, slot)| slot.clone());
        Ok(slot.expect("one record gives one slot"))
    }

    /// Moves slots that were read one after the other to the positions that their records say.
    fn spread(&mut self, records: &[SlotRecord], capacity: u32) -> Result<(), RestoreError> {
        let mut bank = Bank::long_term(&self.normalization, capacity);
        let mut free_from = 0;
        for ((place, slot), record) in self.ltm.iter().zip(records) {
            let found = record.position;
            let problem = if found >= capacity {
                SlotProblem::PositionTooLarge { found, capacity: capacity as usize }
            } else if found < free_from {
                SlotProblem::PositionOrder { found }
            } else {
                free_from = found + 1;
                bank.place(found as usize, slot.clone(), self.ltm.unit(place));
                continue;
            };
            return Err(RestoreError::Slot { slot: record.slot(), problem });
        }
        self.ltm = bank.into();
        Ok(())
    }
}
