//! Slots of many memories: which are the same from a common past, and which say the same.

use std::collections::{BTreeMap, BTreeSet};

use super::{JoinError, JoinReport, Leaf};
use crate::slot::{Slot, SlotId, SlotValue, StoreKind};
use crate::{Tick, UnifiedMemory, vector};

/// What makes a slot of one memory and a slot of another one the same slot: it was made before they
/// went different ways.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    /// On the clock of its memory.
    made: Tick,
    id: SlotId,
    value: SlotValue,
    source: String,
}

/// A slot, once, in the state that counts.
struct Piece<'l> {
    slot: &'l Slot,
    /// Who has it, and under which id.
    holders: Vec<(usize, SlotId)>,
}

/// The slots of both stores.
pub(super) struct Pieces<'l> {
    stores: [(StoreKind, Vec<Piece<'l>>); 2],
}

/// Where what a memory had under an id is now.
#[derive(Default)]
pub(super) struct Heirs {
    of: BTreeMap<(usize, SlotId), SlotId>,
    /// Who has what a slot says.
    holders: BTreeMap<SlotId, BTreeSet<usize>>,
}

impl Heirs {
    pub(super) fn of(&self, leaf: usize, id: SlotId) -> Option<SlotId> {
        self.of.get(&(leaf, id)).copied()
    }

    /// The memories that a slot of the result comes from.
    pub(super) fn holders(&self, id: SlotId) -> &BTreeSet<usize> {
        &self.holders[&id]
    }
}

/// The slots of one store that became one.
struct Cluster {
    slot: Slot,
    unit: Vec<f32>,
    holders: Vec<(usize, SlotId)>,
    /// Whose slot it began with: ids in it are of that memory.
    leader: usize,
}

impl Leaf {
    /// What recognizes a slot of this memory in another one.
    pub(super) fn origin(&self, slot: &Slot) -> Origin {
        Origin {
            made: slot.made - self.shift,
            id: slot.id,
            value: slot.value.clone(),
            source: slot.source.clone(),
        }
    }
}

impl<'l> Pieces<'l> {
    pub(super) fn of(leaves: &'l [Leaf], report: &mut JoinReport) -> Self {
        let stores = [StoreKind::Ltm, StoreKind::Stm];
        let stores = stores.map(|store| (store, of_store(leaves, store)));
        let pieces: usize = stores.iter().map(|(_, pieces)| pieces.len()).sum();
        report.shared = report.slots_before - pieces;
        Self { stores }
    }

    /// Gives them places in an empty memory, one for all that say the same.
    pub(super) fn settle(
        self,
        joined: &mut UnifiedMemory,
        report: &mut JoinReport,
    ) -> Result<Heirs, JoinError> {
        let mut heirs = Heirs::default();
        let mut placed = Vec::new();
        for (store, pieces) in self.stores {
            let before = pieces.len();
            let clusters = clusters(pieces, store, joined);
            report.merged += before - clusters.len();
            let grown = joined.make_places(store, clusters.len())?;
            match store {
                StoreKind::Stm => report.grown.stm = grown,
                StoreKind::Ltm => report.grown.ltm = grown,
            }
            for (position, Cluster { slot, unit, holders, leader }) in
                clusters.into_iter().enumerate()
            {
                let id = joined.issue_id();
                heirs.holders.insert(id, holders.iter().map(|(leaf, _)| *leaf).collect());
                heirs.of.extend(holders.into_iter().map(|holder| (holder, id)));
                placed.push((store, position, leader));
                joined.bank_mut(store).place(position, Slot { id, ..slot }, &unit);
            }
        }
        for (store, position, leader) in placed {
            joined.rename(store, position, |id| heirs.of(leader, id));
        }
        Ok(heirs)
    }
}

fn of_store(leaves: &[Leaf], store: StoreKind) -> Vec<Piece<'_>> {
    let mut pieces: BTreeMap<Origin, Piece<'_>> = BTreeMap::new();
    for (index, leaf) in leaves.iter().enumerate() {
        for (_, slot) in leaf.memory.bank(store).iter() {
            let new = || Piece { slot, holders: Vec::new() };
            let piece = pieces.entry(leaf.origin(slot)).or_insert_with(new);
            piece.holders.push((index, slot.id));
            if lived(slot) > lived(piece.slot) {
                // The first holder is the one whose state counts.
                piece.slot = slot;
                piece.holders.rotate_right(1);
            }
        }
    }
    let mut pieces: Vec<Piece<'_>> = pieces.into_values().collect();
    pieces.sort_by_key(|piece| (piece.slot.made, piece.holders[0]));
    pieces
}

/// How far a slot's state has come: observations, when the last one came, whether it has ended, when it was read.
fn lived(slot: &Slot) -> (u64, Tick, Option<Tick>, Tick, u32) {
    (slot.count, slot.refreshed, slot.validity.until, slot.read, slot.energy.to_bits())
}

/// What says the same becomes one, oldest first.
fn clusters(pieces: Vec<Piece<'_>>, store: StoreKind, frame: &UnifiedMemory) -> Vec<Cluster> {
    let least = match store {
        StoreKind::Stm => frame.config.merge_threshold,
        StoreKind::Ltm => frame.config.novelty_threshold,
    };
    let metric = frame.normalization.metric();
    let mut clusters: Vec<Cluster> = Vec::new();
    let mut saying: BTreeMap<(SlotValue, bool), Vec<usize>> = BTreeMap::new();
    for Piece { slot, holders } in pieces {
        let Ok(unit) = frame.normalization.unit("key", &slot.key) else { continue };
        let key = (slot.value.clone(), slot.validity.holds(frame.now));
        let alike = saying.entry(key).or_default();
        let cosines = alike.iter().map(|&at| (at, metric.cosine(&clusters[at].unit, &unit)));
        let near = cosines.filter(|(_, cosine)| *cosine >= least);
        // Of equals the oldest.
        let best = near.max_by(|(a, x), (b, y)| x.total_cmp(y).then(b.cmp(a)));
        if let Some((at, _)) = best {
            clusters[at].absorb(slot, holders, frame);
            continue;
        }
        alike.push(clusters.len());
        let goals = slot.goals.len().saturating_sub(frame.config.goal_vectors as usize);
        let slot = Slot { goals: slot.goals[goals..].to_vec(), ..slot.clone() };
        clusters.push(Cluster { slot, unit, leader: holders[0].0, holders });
    }
    clusters
}

impl Cluster {
    fn absorb(&mut self, other: &Slot, holders: Vec<(usize, SlotId)>, frame: &UnifiedMemory) {
        let weight = |slot: &Slot| f64::from(slot.energy) * slot.count as f64;
        let (own, theirs) = (weight(&self.slot), weight(other));
        let mut key = self.slot.key.clone();
        let share = theirs / (own + theirs).max(f64::MIN_POSITIVE);
        vector::blend(&mut key, &other.key, share as f32);
        self.slot.absorb(other);
        self.holders.extend(holders);
        // Two opposite keys can meet at the centre, where there is no direction: the old key stays.
        if let Ok(unit) = frame.normalization.unit("key", &key) {
            (self.slot.key, self.unit) = (key, unit);
        }
    }
}

impl UnifiedMemory {
    /// Lets a slot name others by their new ids.
    fn rename(
        &mut self,
        store: StoreKind,
        position: usize,
        heir: impl Fn(SlotId) -> Option<SlotId>,
    ) {
        let mut slot = self.bank_mut(store).slot_mut(position);
        slot.validity.superseded_by = slot.validity.superseded_by.and_then(&heir);
        // A memory is joined whole: what has no heir was gone already.
        if let Some(done) = &mut slot.consolidation {
            done.into = done.into.and_then(&heir);
        }
    }
}
