//! Questions to long-term memory that leave no trace: how new is this, and what is like it?

use serde::{Deserialize, Serialize};

use crate::page::Order;
use crate::recall::Recalled;
use crate::slot::{SlotRef, StoreKind};
use crate::{MemoryError, UnifiedMemory};

/// How new something is to long-term memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Novelty {
    /// `1 − cosine` with the nearest slot that holds: 0 for what is known, 1 for what points
    /// nowhere like it; 1 where long-term memory is empty.
    pub novelty: f32,
    /// The nearest slot; none where long-term memory is empty.
    pub nearest: Option<SlotRef>,
    /// Whether it would become an entry of its own, by `novelty_threshold`.
    pub novel: bool,
}

/// What long-term memory knows that is like a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reflection {
    /// How new the query is.
    pub novelty: Novelty,
    /// The nearest memories by cosine, nearest first; their `score` is the cosine.
    pub known: Vec<Recalled>,
}

impl UnifiedMemory {
    /// How new a query is to long-term memory.
    ///
    /// * `query`: `[dim]`, raw
    ///
    /// # Errors
    /// The query can't be used.
    pub fn novelty(&self, query: &[f32]) -> Result<Novelty, MemoryError> {
        let unit = self.normalization.unit("query", query)?;
        let known = self.like(&unit, 1);
        Ok(self.novelty_of(known.first()))
    }

    /// "What do I know that is like this?": the `top_k` nearest of long-term memory, whatever they
    /// are worth.
    ///
    /// * `query`: `[dim]`, raw
    ///
    /// # Errors
    /// The query can't be used.
    pub fn reflect(&self, query: &[f32], top_k: usize) -> Result<Reflection, MemoryError> {
        let unit = self.normalization.unit("query", query)?;
        let mut known = self.like(&unit, top_k.max(1));
        let novelty = self.novelty_of(known.first());
        known.truncate(top_k);
        Ok(Reflection { novelty, known })
    }

    /// How alike the slots of a store are: the cosine of each pair, in order of position.
    pub fn cosines(&self, store: StoreKind) -> Vec<f32> {
        let bank = self.bank(store);
        let units: Vec<&[f32]> = bank.iter().map(|(position, _)| bank.unit(position)).collect();
        let metric = self.normalization.metric();
        let with_later = |(index, a): (usize, &&[f32])| {
            let later: Vec<f32> = units[index + 1..].iter().map(|b| metric.cosine(a, b)).collect();
            later
        };
        units.iter().enumerate().flat_map(with_later).collect()
    }

    /// What the goal points to: the `top_k` nearest slots of both stores, nearest first, whatever they
    /// are worth; their `score` is the cosine with the goal. None while there is no goal.
    pub fn wanted(&self, top_k: usize) -> Vec<Recalled> {
        let norm = self.goal.norm();
        if norm == 0.0 {
            return Vec::new();
        }
        let unit: Vec<f32> = self.goal.vector().iter().map(|value| value / norm).collect();
        let order = Order::Cosine(self.now);
        self.best(&unit, order, &[StoreKind::Stm, StoreKind::Ltm], top_k)
    }

    fn like(&self, unit: &[f32], top_k: usize) -> Vec<Recalled> {
        self.best(unit, Order::Cosine(self.now), &[StoreKind::Ltm], top_k)
    }

    fn novelty_of(&self, nearest: Option<&Recalled>) -> Novelty {
        let cosine = nearest.map_or(0.0, |nearest| nearest.cosine);
        Novelty {
            novelty: 1.0 - cosine,
            nearest: nearest.map(|nearest| nearest.slot),
            novel: nearest.is_none_or(|nearest| nearest.cosine < self.config.novelty_threshold),
        }
    }
}
