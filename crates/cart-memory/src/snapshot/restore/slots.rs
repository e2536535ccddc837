//! The slots of a store, each of its numbers looked at.

use std::collections::BTreeSet;

use cart_format::DType;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::tensors::{Tensors, doubles, floats};
use crate::Normalization;
use crate::bank::Bank;
use crate::config::MergeRule;
use crate::slot::{KeyStatistics, Slot, SlotId, SlotRef, SlotValue, StoreKind, TokenKeys};
use crate::snapshot::layout::{Names, Sizes, names};
use crate::snapshot::state::{SlotState, State};
use crate::snapshot::{RestoreError, SlotProblem};
use crate::vector::{self, VectorError};

/// Slot ids over both stores.
pub(super) struct Ids {
    pub(super) seen: BTreeSet<SlotId>,
    pub(super) next: u64,
}

/// One store of a snapshot.
pub(super) struct StoreReader<'s> {
    pub(super) store: StoreKind,
    pub(super) state: &'s State,
    pub(super) normalization: &'s Normalization,
    pub(super) slots: &'s [SlotState],
    pub(super) capacity: u32,
}

/// The bytes of a store's tensors.
struct StoreBytes<'s> {
    names: Names,
    sizes: Sizes,
    keys: &'s [u8],
    key_sums: &'s [u8],
    token_keys: &'s [u8],
    token_norms: &'s [u8],
    goals: &'s [u8],
}

impl StoreReader<'_> {
    pub(super) fn read(
        &self,
        tensors: &mut Tensors<'_>,
        ids: &mut Ids,
    ) -> Result<Bank, RestoreError> {
        self.check_positions()?;
        let bytes = self.bytes(tensors)?;
        let mut bank = match self.store {
            StoreKind::Stm => Bank::new(self.normalization, self.capacity),
            StoreKind::Ltm => Bank::long_term(self.normalization, self.capacity),
        };
        for state in self.slots {
            let checked = ids.check(state.id).and_then(|()| self.check_numbers(state));
            checked.map_err(|problem| self.refuse(state, problem))?;
        }
        // Most of the work is in the token keys, so slots are made by all threads.
        let made: Vec<_> =
            self.slots.par_iter().map(|state| self.with_unit(state, &bytes)).collect();
        for (state, made) in self.slots.iter().zip(made) {
            let (slot, unit) = made.map_err(|problem| self.refuse(state, problem))?;
            bank.place(state.position as usize, slot, &unit);
        }
        self.check_unused(&bytes)?;
        Ok(bank)
    }

    fn refuse(&self, state: &SlotState, problem: SlotProblem) -> RestoreError {
        RestoreError::Slot { slot: self.name(state), problem }
    }

    /// A slot and its unit key.
    fn with_unit(
        &self,
        state: &SlotState,
        bytes: &StoreBytes<'_>,
    ) -> Result<(Slot, Vec<f32>), SlotProblem> {
        let slot = self.slot(state, bytes)?;
        let unit = self.normalization.unit("key", &slot.key)?;
        Ok((slot, unit))
    }

    fn name(&self, state: &SlotState) -> SlotRef {
        SlotRef { store: self.store, id: state.id }
    }

    fn check_positions(&self) -> Result<(), RestoreError> {
        let mut free_from = 0;
        for state in self.slots {
            let found = state.position;
            let problem = if found >= self.capacity {
                SlotProblem::PositionTooLarge { found, capacity: self.capacity as usize }
            } else if found < free_from {
                SlotProblem::PositionOrder { found }
            } else {
                free_from = found + 1;
                continue;
            };
            return Err(RestoreError::Slot { slot: self.name(state), problem });
        }
        Ok(())
    }

    fn bytes<'t>(&self, tensors: &mut Tensors<'t>) -> Result<StoreBytes<'t>, RestoreError> {
        let past = |slot: Option<&SlotState>| slot.map_or(0, |slot| slot.position as usize + 1);
        let sizes = Sizes {
            dim: self.normalization.dim(),
            span: self.state.config.max_span_tokens as usize,
            rows: past(self.slots.last()),
            spans: past(self.slots.iter().rfind(|slot| slot.token_keys)),
            most_goals: self.state.config.goal_vectors as usize,
            aims: past(self.slots.iter().rfind(|slot| slot.goals > 0)),
        };
        let names = names(self.store);
        let mut take =
            |name, (dtype, shape, _): (DType, Vec<u64>, u64)| tensors.take(name, dtype, shape);
        Ok(StoreBytes {
            keys: take(names.keys, sizes.keys())?,
            key_sums: take(names.key_sums, sizes.key_sums())?,
            token_keys: take(names.token_keys, sizes.token_keys())?,
            token_norms: take(names.token_norms, sizes.token_norms())?,
            goals: take(names.goals, sizes.goals())?,
            names,
            sizes,
        })
    }

    fn check_numbers(&self, state: &SlotState) -> Result<(), SlotProblem> {
        let share = |number: f32| (0.0..=1.0).contains(&number);
        let offered = state.consolidation.map_or(0.0, |done| done.energy);
        let numbers = [
            ("energy", share(state.energy), f64::from(state.energy)),
            ("gate", state.gate.is_finite(), f64::from(state.gate)),
            ("consolidation.energy", share(offered), f64::from(offered)),
            ("sum_weight", state.sum_weight.is_finite(), state.sum_weight),
        ];
        if let Some((name, _, found)) = numbers.into_iter().find(|(_, allowed, _)| !allowed) {
            return Err(SlotProblem::Number { name, found });
        }
        let now = self.state.now;
        let ticks = [
            ("made", state.made),
            ("refreshed", state.refreshed),
            ("read", state.read),
            ("validity.from", state.validity.from),
            ("validity.until", state.validity.until.unwrap_or(0)),
            ("consolidation.at", state.consolidation.map_or(0, |done| done.at)),
        ];
        if let Some((name, found)) = ticks.into_iter().find(|&(_, found)| found > now) {
            return Err(SlotProblem::Tick { name, found, now });
        }
        let (found, allowed) = (state.token_ids.len(), self.state.config.max_span_tokens);
        let keys_alone = self.state.config.merge == MergeRule::Nearest;
        let nothing = found == 0 && (state.text.is_empty() && !keys_alone || state.token_keys);
        if state.goals > self.state.config.goal_vectors {
            return Err(SlotProblem::Number { name: "goals", found: f64::from(state.goals) });
        }
        if found > allowed as usize || nothing {
            return Err(SlotProblem::Tokens { found, allowed });
        }
        Ok(())
    }

    fn slot(&self, state: &SlotState, bytes: &StoreBytes<'_>) -> Result<Slot, SlotProblem> {
        let dim = self.normalization.dim();
        let position = state.position as usize;
        let weighted_sum = doubles(&bytes.key_sums[position * dim * 8..][..dim * 8]);
        if let Some(&found) = weighted_sum.iter().find(|sum| !sum.is_finite()) {
            return Err(SlotProblem::Number { name: "key_sums", found });
        }
        Ok(Slot {
            id: state.id,
            key: floats(&bytes.keys[position * dim * 4..][..dim * 4]),
            value: SlotValue { token_ids: state.token_ids.clone(), text: state.text.clone() },
            token_keys: token_keys(state, bytes)?,
            energy: state.energy,
            gate: state.gate,
            made: state.made,
            refreshed: state.refreshed,
            read: state.read,
            count: state.count,
            source: state.source.clone(),
            validity: state.validity,
            statistics: KeyStatistics {
                weighted_sum,
                weight: state.sum_weight,
                count: state.sum_count,
            },
            consolidation: state.consolidation,
            goals: goals(state, bytes)?,
        })
    }

    /// Values that no slot owns would be lost by saving again.
    fn check_unused(&self, bytes: &StoreBytes<'_>) -> Result<(), RestoreError> {
        let Sizes { dim, span, .. } = bytes.sizes;
        let all = |_: &SlotState| 1;
        let tokens = |slot: &SlotState| if slot.token_keys { slot.token_ids.len() } else { 0 };
        self.check_zero(bytes.names.keys, bytes.keys, (1, dim * 4), all)?;
        self.check_zero(bytes.names.key_sums, bytes.key_sums, (1, dim * 8), all)?;
        self.check_zero(bytes.names.token_keys, bytes.token_keys, (span, dim * 2), tokens)?;
        self.check_zero(bytes.names.token_norms, bytes.token_norms, (span, 4), tokens)?;
        let (most, goals) = (bytes.sizes.most_goals, |slot: &SlotState| slot.goals as usize);
        if most == 0 {
            return Ok(());
        }
        self.check_zero(bytes.names.goals, bytes.goals, (most, dim * 4), goals)
    }

    /// Each position has `rows` rows of `row_bytes`, of which its slot owns the first `owned`.
    fn check_zero(
        &self,
        name: &'static str,
        bytes: &[u8],
        (rows, row_bytes): (usize, usize),
        owned: impl Fn(&SlotState) -> usize,
    ) -> Result<(), RestoreError> {
        let mut free_from = 0;
        let starts = self.slots.iter().map(|slot| (slot.position as usize, owned(slot)));
        for (position, owned) in starts.chain([(bytes.len() / (rows * row_bytes), 0)]) {
            let start = (position * rows * row_bytes).min(bytes.len());
            if let Some(at) = first_set(&bytes[free_from..start]) {
                return Err(RestoreError::StrayRow { name, byte: free_from + at });
            }
            free_from = (start + owned * row_bytes).min(bytes.len());
        }
        Ok(())
    }
}

impl Ids {
    fn check(&mut self, id: SlotId) -> Result<(), SlotProblem> {
        if id.number() >= self.next {
            return Err(SlotProblem::IdNotIssued { next: self.next });
        }
        if self.seen.insert(id) { Ok(()) } else { Err(SlotProblem::IdTaken) }
    }
}

fn token_keys(state: &SlotState, bytes: &StoreBytes<'_>) -> Result<TokenKeys, SlotProblem> {
    let Sizes { dim, span, .. } = bytes.sizes;
    if !state.token_keys {
        return Ok(TokenKeys::empty(dim));
    }
    let tokens = state.token_ids.len();
    let first = state.position as usize * span;
    let halves: Vec<f16> = bytes.token_keys[first * dim * 2..][..tokens * dim * 2]
        .as_chunks()
        .0
        .iter()
        .map(|&half| f16::from_le_bytes(half))
        .collect();
    let mut rows = vec![0.0; halves.len()];
    halves.convert_to_f32_slice(&mut rows);
    let norms = floats(&bytes.token_norms[first * 4..][..tokens * 4]);
    vector::check("token keys", &rows, tokens * dim)?;
    vector::check("token norms", &norms, tokens)?;
    if let Some(row) = norms.iter().position(|&norm| norm <= 0.0) {
        return Err(VectorError::Zero { what: "token norms", row }.into());
    }
    Ok(TokenKeys::from_parts(dim, rows, norms))
}

fn goals(state: &SlotState, bytes: &StoreBytes<'_>) -> Result<Vec<Vec<f32>>, SlotProblem> {
    let Sizes { dim, most_goals, .. } = bytes.sizes;
    let row = |goal: usize| -> Result<Vec<f32>, SlotProblem> {
        let first = (state.position as usize * most_goals + goal) * dim * 4;
        let values = floats(&bytes.goals[first..][..dim * 4]);
        vector::check("goal vector", &values, dim)?;
        Ok(values)
    };
    (0..state.goals as usize).map(row).collect()
}

/// The first byte that is not zero.
fn first_set(bytes: &[u8]) -> Option<usize> {
    // Padding is megabytes, so it is looked at in chunks that the compiler vectorizes.
    let chunk =
        bytes.chunks(256).position(|chunk| chunk.iter().fold(0, |or, byte| or | byte) != 0)?;
    let within = bytes[chunk * 256..].iter().position(|&byte| byte != 0)?;
    Some(chunk * 256 + within)
}
