//! A memory brought into another space: other vectors, and everything else as it was.

use cart_format::SpaceId;
use thiserror::Error;

use crate::affine;
use crate::bank::Bank;
use crate::config::MAX_SPAN_TOKENS;
use crate::slot::{Slot, SlotRef, SlotValue, TokenKeys};
use crate::vector::{self, VectorError};
use crate::{Normalization, UnifiedMemory};

/// Most slots whose keys a goal is written as a sum of: those that point most its way.
const BASIS: usize = 512;
/// Ridge on the shares of that sum, so that twins share what they have in common.
const BASIS_RIDGE: f64 = 1e-3;

/// A slot's vectors and tokens in another space.
#[derive(Clone, Debug, PartialEq)]
pub struct Relocated {
    /// Its raw key, `[dim]`.
    pub key: Vec<f32>,
    /// The weighted mean of the observations in its sums, `[dim]`, raw; only looked at where there are any.
    pub mean: Vec<f32>,
    /// What it says, in the tokens of the other model.
    pub value: SlotValue,
    /// Raw hidden states, `[tokens, dim]`, flat: one for each token, or none.
    pub token_keys: Vec<f32>,
}

/// What became of the goal, which has no text.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GoalRelocated {
    /// Its length, which stays.
    pub norm: f32,
    /// Cosine of the goal with what was made of it out of keys, before they moved; 0 where there is none.
    pub explained: f32,
}

/// Why a memory can't be brought into another space.
#[derive(Debug, Error, PartialEq)]
pub enum RelocationError {
    /// Keys are put together from parts that have no text.
    #[error(
        "the memory's keys are put together from {parts} parts, which are not texts of a model; only memories without the rule `parts` can be migrated"
    )]
    Parts {
        /// How many.
        parts: usize,
    },
    /// Vectors in the settings.
    #[error(
        "the memory's rule `bias` has {centres} centres, which are vectors without a text; take them out of its settings first"
    )]
    Centres {
        /// How many.
        centres: usize,
    },
    /// A slot says nothing there.
    #[error("{slot} has no tokens in the other space; a slot has 1 to {allowed}", allowed = MAX_SPAN_TOKENS)]
    NoTokens {
        /// The slot.
        slot: SlotRef,
    },
    /// A slot has too many tokens there.
    #[error("{slot} has {found} tokens in the other space; allowed: 1 to {allowed}", allowed = MAX_SPAN_TOKENS)]
    TooManyTokens {
        /// The slot.
        slot: SlotRef,
        /// Its tokens.
        found: usize,
    },
    /// A vector can't be used.
    #[error("{slot} can't be used in the other space: {problem}")]
    Vector {
        /// The slot.
        slot: SlotRef,
        /// What is wrong with it.
        problem: VectorError,
    },
}

impl UnifiedMemory {
    /// This memory in another space. Every slot keeps its store, position, id, energy, gate, ticks, counts,
    /// source and validity; graph, counters, surprise statistics and settings stay (`max_span_tokens`
    /// rises where a text has more tokens than it allows).
    ///
    /// What is wanted has no text: goal, prompt and goal vectors of slots are written as sums of the keys
    /// that are there (least squares over the 512 that point most their way), and are the same sums of
    /// the moved keys, at the length that they had.
    ///
    /// * `vectors`: each slot's vectors there, in the order of [`UnifiedMemory::slots`]
    ///
    /// # Errors
    /// What `vectors` says, or a vector that can't be used; keys of parts and centres of the bias filter are
    /// refused.
    pub fn relocated<E: From<RelocationError>>(
        &self,
        space: SpaceId,
        normalization: Normalization,
        mut vectors: impl FnMut(SlotRef, &Slot) -> Result<Relocated, E>,
    ) -> Result<(Self, GoalRelocated), E> {
        self.may_move()?;
        let mut moved = self.clone();
        moved.space = space;
        moved.normalization = normalization;
        moved.stm = Bank::new(&moved.normalization, self.config.stm_slots);
        moved.ltm = Bank::long_term(&moved.normalization, self.config.ltm_slots).into();
        for (store, bank) in self.stores() {
            for (position, slot) in bank.iter() {
                let at = SlotRef { store, id: slot.id };
                let there = vectors(at, slot)?;
                moved.put(position, at, slot, there)?;
            }
        }
        let goal = moved.aim_like(self);
        Ok((moved, goal))
    }

    fn may_move(&self) -> Result<(), RelocationError> {
        let parts = self.config.parts.len();
        if parts > 0 {
            return Err(RelocationError::Parts { parts });
        }
        let centres = self.config.bias.as_ref().map_or(0, |rules| rules.centres.len());
        if centres > 0 {
            return Err(RelocationError::Centres { centres });
        }
        Ok(())
    }

    fn put(
        &mut self,
        position: usize,
        at: SlotRef,
        slot: &Slot,
        there: Relocated,
    ) -> Result<(), RelocationError> {
        let refuse = |problem| RelocationError::Vector { slot: at, problem };
        let (dim, found) = (self.dim(), there.value.token_ids.len());
        if found == 0 {
            return Err(RelocationError::NoTokens { slot: at });
        }
        if found > MAX_SPAN_TOKENS as usize {
            return Err(RelocationError::TooManyTokens { slot: at, found });
        }
        self.config.max_span_tokens = self.config.max_span_tokens.max(found as u32);
        let unit = self.normalization.unit("key", &there.key).map_err(refuse)?;
        if !there.token_keys.is_empty() {
            vector::check("token keys", &there.token_keys, found * dim).map_err(refuse)?;
        }
        let token_keys = TokenKeys::normalized(&there.token_keys, &self.normalization);
        let mut statistics = slot.statistics.clone();
        statistics.weighted_sum = vec![0.0; dim];
        if statistics.count > 0 {
            vector::check("mean of the observations", &there.mean, dim).map_err(refuse)?;
            let weight = statistics.weight;
            statistics.weighted_sum =
                there.mean.iter().map(|&value| weight * f64::from(value)).collect();
        }
        let moved = Slot {
            id: slot.id,
            key: there.key,
            value: there.value,
            token_keys: token_keys.map_err(refuse)?,
            statistics,
            source: slot.source.clone(),
            goals: Vec::new(),
            ..*slot
        };
        let bank = self.bank_mut(at.store);
        bank.place(position, moved, &unit);
        Ok(())
    }

    /// Makes what is wanted of the moved keys.
    fn aim_like(&mut self, before: &Self) -> GoalRelocated {
        let basis = Basis::of(before, self);
        let (goal, explained) = basis.moved(before.goal.vector());
        // A prompt without a direction is none.
        let prompt = before.goal.prompt().and_then(|prompt| basis.sums(prompt));
        let aims = |bank: &Bank| -> Vec<Vec<Vec<f32>>> {
            let moved = |slot: &Slot| slot.goals.iter().map(|goal| basis.moved(goal).0).collect();
            bank.iter().map(|(_, slot)| moved(slot)).collect()
        };
        let goals: Vec<_> = aims(&before.stm).into_iter().chain(aims(&before.ltm)).collect();
        self.goal.vector = goal;
        self.goal.prompt = prompt.map(|(prompt, _)| prompt);
        let mut goals = goals.into_iter();
        let mut change = |slot: &mut Slot| slot.goals = goals.next().unwrap_or_default();
        self.stm.change_all(&mut change);
        self.ltm.change_all(&mut change);
        GoalRelocated { norm: self.goal.norm(), explained }
    }
}

/// The unit key of a slot before and after.
struct Moved<'m> {
    before: &'m [f32],
    after: &'m [f32],
}

/// Unit keys before and after.
struct Basis<'m> {
    keys: Vec<Moved<'m>>,
    dim: usize,
}

impl<'m> Basis<'m> {
    fn of(before: &'m UnifiedMemory, after: &'m UnifiedMemory) -> Self {
        let keys = before.stores().zip(after.stores()).flat_map(|((_, old), (_, new))| {
            let moved = |position| Moved { before: old.unit(position), after: new.unit(position) };
            old.iter().map(move |(position, _)| moved(position))
        });
        Self { keys: keys.collect(), dim: after.dim() }
    }

    /// A vector of the space before in the one after, as long as it was, and how much of it the keys
    /// explain, as a cosine. Zero where they explain nothing.
    fn moved(&self, vector: &[f32]) -> (Vec<f32>, f32) {
        self.sums(vector).unwrap_or_else(|| (vec![0.0; self.dim], 0.0))
    }

    fn sums(&self, vector: &[f32]) -> Option<(Vec<f32>, f32)> {
        let norm = vector::norm(vector);
        let mut near: Vec<(&Moved<'_>, f64)> =
            self.keys.iter().map(|key| (key, f64::from(vector::dot(key.before, vector)))).collect();
        near.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        near.truncate(BASIS);
        let shares = shares(&near).filter(|_| norm > 0.0)?;
        let (mut old, mut new) = (vec![0.0; vector.len()], vec![0.0; self.dim]);
        for (&share, (key, _)) in shares.iter().zip(&near) {
            add(&mut old, share, key.before);
            add(&mut new, share, key.after);
        }
        let (old_norm, new_norm) = (length(&old), length(&new));
        if old_norm <= 0.0 || new_norm <= 0.0 {
            return None;
        }
        let product: f64 =
            old.iter().zip(vector).map(|(&sum, &value)| sum * f64::from(value)).sum();
        let moved = new.iter().map(|value| (value * norm / new_norm) as f32).collect();
        Some((moved, (product / (old_norm * norm)).clamp(-1.0, 1.0) as f32))
    }
}

/// How much of each key is in a vector: `(K + εI) c = k` over the keys' products.
///
/// * `near`: keys with their product with the vector
fn shares(near: &[(&Moved<'_>, f64)]) -> Option<Vec<f64>> {
    let n = near.len();
    if n == 0 {
        return None;
    }
    let mut products = vec![0.0; n * n];
    for (row, (first, _)) in near.iter().enumerate() {
        for (column, (second, _)) in near.iter().enumerate().skip(row) {
            products[row * n + column] = f64::from(vector::dot(first.before, second.before));
        }
        products[row * (n + 1)] += BASIS_RIDGE;
    }
    let mut shares: Vec<f64> = near.iter().map(|&(_, product)| product).collect();
    affine::solve(&mut products, n, &mut shares)?;
    Some(shares)
}

fn add(target: &mut [f64], factor: f64, values: &[f32]) {
    target.iter_mut().zip(values).for_each(|(sum, &value)| *sum += factor * f64::from(value));
}

fn length(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemoryConfig;
    use crate::observation::Observation;

    fn space(name: &str) -> SpaceId {
        SpaceId::of(name.as_bytes())
    }

    /// Five things told, of which some are in both stores.
    fn told() -> UnifiedMemory {
        let config =
            MemoryConfig { observer_interval: 2, goal_vectors: 1, ..MemoryConfig::default() };
        let normalization = Normalization::identity(4).unwrap();
        let mut memory = UnifiedMemory::new(space("one"), normalization, config).unwrap();
        for at in 0..5_u32 {
            let key: Vec<f32> = (0..4).map(|axis| if axis == at % 4 { 3.0 } else { 0.5 }).collect();
            let seen = Observation {
                token_keys: [key.clone(), key.clone()].concat(),
                key,
                token_ids: vec![at, at + 1],
                text: format!("text {at}"),
                surprise: vec![1.0, 2.0],
                energy: 0.9,
                source: "test".to_owned(),
            };
            memory.observe(u64::from(at) + 1, &seen).unwrap();
        }
        let slot = memory.slots().next().unwrap().0;
        let goal = memory.goal().vector().to_vec();
        memory.attach_goal(slot, &goal).unwrap();
        memory.set_gate(slot, 0.5).unwrap();
        memory
    }

    /// The same vectors with a fifth value, axes turned, and a token more for each text.
    #[expect(clippy::unnecessary_wraps, reason = "it is given where a reader may fail")]
    fn wider(_: SlotRef, slot: &Slot) -> Result<Relocated, RelocationError> {
        let turn = |values: &[f32]| vec![0.25, values[3], values[0], values[1], values[2]];
        let mut value = slot.value.clone();
        value.token_ids.push(9);
        let key = turn(&slot.key);
        Ok(Relocated { token_keys: key.repeat(3), mean: key.clone(), key, value })
    }

    #[test]
    fn everything_but_vectors_stays() {
        let before = told();
        let to = Normalization::identity(5).unwrap();
        let (after, goal) = before.relocated(space("two"), to, wider).unwrap();
        assert_eq!((after.space(), after.dim()), (space("two"), 5));
        for ((at, old), (there, new)) in before.slots().zip(after.slots()) {
            assert_eq!(at, there);
            let bare = |slot: &Slot| Slot {
                key: Vec::new(),
                token_keys: TokenKeys::empty(1),
                goals: Vec::new(),
                value: SlotValue { token_ids: Vec::new(), ..slot.value.clone() },
                statistics: crate::KeyStatistics {
                    weighted_sum: Vec::new(),
                    ..slot.statistics.clone()
                },
                ..slot.clone()
            };
            assert_eq!(bare(old), bare(new));
            let sum: f64 = new.statistics.weighted_sum.iter().sum();
            assert!(old.statistics.count == 0 || sum > 0.0, "{new:?}");
        }
        assert_eq!(before.counters(), after.counters());
        assert_eq!(before.surprise(), after.surprise());
        // It is a whole memory, which can be saved and told more.
        let snapshot = after.snapshot();
        assert_eq!(UnifiedMemory::restore(&snapshot).unwrap().snapshot(), snapshot);
        // The turn keeps every angle between keys but for one constant value, so the goal turns with them.
        let (old, new) = (before.goal().vector(), after.goal().vector());
        let turned = [old[3], old[0], old[1], old[2]];
        let product: f32 = turned.iter().zip(&new[1..]).map(|(a, b)| a * b).sum();
        let cosine = product / (goal.norm * before.goal().norm());
        assert!(cosine > 0.98 && goal.explained > 0.99, "{cosine} {goal:?}");
        assert!((goal.norm - before.goal().norm()).abs() < 1e-6);
        assert_eq!(after.slots().next().unwrap().1.goals[0].len(), 5);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let before = told();
        let to = || Normalization::identity(5).unwrap();
        let refused = |change: &dyn Fn(&mut Relocated)| {
            let moved = before.relocated(space("two"), to(), |at, slot| {
                let mut there = wider(at, slot)?;
                change(&mut there);
                Ok::<_, RelocationError>(there)
            });
            moved.unwrap_err()
        };
        use RelocationError as E;
        assert!(matches!(refused(&|there| there.key.truncate(4)), E::Vector { .. }));
        assert!(matches!(refused(&|there| there.key[1] = f32::NAN), E::Vector { .. }));
        assert!(matches!(refused(&|there| there.token_keys.truncate(5)), E::Vector { .. }));
        assert!(matches!(refused(&|there| there.value.token_ids.clear()), E::NoTokens { .. }));
        let many = |there: &mut Relocated| there.value.token_ids = vec![1; 4097];
        assert!(matches!(refused(&many), E::TooManyTokens { found: 4097, .. }));
        // A text of more tokens than before raises the setting.
        let grown = before.relocated(space("two"), to(), |at, slot| {
            let mut there = wider(at, slot)?;
            there.value.token_ids = vec![1; 70];
            there.token_keys = there.key.repeat(70);
            Ok::<_, RelocationError>(there)
        });
        assert_eq!(grown.unwrap().0.config().max_span_tokens, 70);
    }
}
