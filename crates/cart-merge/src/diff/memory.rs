//! Two memories compared: slots by what they say, links by the slots at their ends, and the numbers around them.

use std::collections::BTreeMap;

use cart_format::SpaceId;
use cart_memory::{Link, Slot, SlotId, SlotRef, StoreKind, SurpriseStatistics, UnifiedMemory};
use serde::Serialize;
use serde_json::Value;

use crate::diff::fields::{FieldChange, field_changes};

/// What a slot is worth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SlotWeights {
    /// 0 to 1.
    pub energy: f32,
    /// The gate `A`.
    pub gate: f32,
    /// σ(A) · energy.
    pub weight: f32,
    /// Observations in it.
    pub count: u64,
    /// Whether something else was put in its place.
    pub superseded: bool,
}

/// A slot that one side has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotFacts {
    /// Which store.
    pub store: StoreKind,
    /// What it says.
    pub text: String,
    /// Where it comes from.
    pub source: String,
    /// What it is worth.
    #[serde(flatten)]
    pub weights: SlotWeights,
}

/// A slot that says the same in the same store, with other numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotChange {
    /// Which store.
    pub store: StoreKind,
    /// What it says.
    pub text: String,
    /// What it is worth in A.
    pub a: SlotWeights,
    /// What it is worth in B.
    pub b: SlotWeights,
    /// The cosine of its two keys; none where spaces differ or a key is zero.
    pub key_cosine: Option<f64>,
}

/// Something that both remember, in other stores: consolidated, or gone from one of two.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotMove {
    /// Where A has it, short-term first, once for each slot.
    pub from: Vec<StoreKind>,
    /// Where B has it.
    pub to: Vec<StoreKind>,
    /// What it says.
    pub text: String,
    /// What A's first slot of it is worth.
    pub a: SlotWeights,
    /// What B's first slot of it is worth.
    pub b: SlotWeights,
}

/// A link of the association graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LinkChange {
    /// What the slot says where it begins.
    pub from: String,
    /// What the slot says where it ends.
    pub to: String,
    /// Its strength in A; none where A has it not.
    pub a: Option<f32>,
    /// Its strength in B; none where B has it not.
    pub b: Option<f32>,
}

/// How the goal moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct GoalChange {
    /// The cosine of both; none where one is zero, or of two spaces.
    pub cosine: Option<f64>,
    /// The angle between both, in degrees.
    pub degrees: Option<f64>,
    /// The length in A.
    pub norm_a: f64,
    /// The length in B.
    pub norm_b: f64,
    /// Entries that pulled that of A.
    pub steps_a: u64,
    /// Entries that pulled that of B.
    pub steps_b: u64,
}

/// Running statistics of surprise, where they differ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SurpriseChange {
    /// Of A.
    pub a: SurpriseStatistics,
    /// Of B.
    pub b: SurpriseStatistics,
}

/// A counter that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CounterChange {
    /// Which.
    pub name: String,
    /// In A.
    pub a: u64,
    /// In B.
    pub b: u64,
}

/// A memory in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MemoryNumbers {
    /// The space of its vectors.
    pub space: SpaceId,
    /// The latest tick.
    pub now: u64,
    /// Short-term slots.
    pub stm: usize,
    /// Long-term slots.
    pub ltm: usize,
    /// Links.
    pub links: usize,
}

/// How two memories differ.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryDiff {
    /// A's; none where it has no memory.
    pub a: Option<MemoryNumbers>,
    /// B's; none where it has no memory.
    pub b: Option<MemoryNumbers>,
    /// Whether their vectors can't be compared.
    pub foreign_space: bool,
    /// Slots that are equal.
    pub same: usize,
    /// Slots that say what A does not remember.
    pub added: Vec<SlotFacts>,
    /// Slots that say what B does not remember.
    pub removed: Vec<SlotFacts>,
    /// What both remember, in other stores.
    pub moved: Vec<SlotMove>,
    /// Slots with other numbers.
    pub changed: Vec<SlotChange>,
    /// Links that are equal.
    pub links_same: usize,
    /// Links that differ.
    pub links: Vec<LinkChange>,
    /// How the goal moved; none where a side has no memory.
    pub goal: Option<GoalChange>,
    /// Statistics of surprise, where they differ.
    pub surprise: Option<SurpriseChange>,
    /// Counters that differ.
    pub counters: Vec<CounterChange>,
    /// Settings that differ.
    pub settings: Vec<FieldChange>,
}

impl MemoryDiff {
    /// Compares two memories.
    pub fn new(a: Option<&UnifiedMemory>, b: Option<&UnifiedMemory>) -> Self {
        let mut diff = Self { a: a.map(numbers), b: b.map(numbers), ..Self::default() };
        if let (Some(a), Some(b)) = (a, b) {
            diff.foreign_space = a.space() != b.space();
            diff.of_both(a, b);
        }
        let matched = diff.slots(a, b);
        diff.links(a, b, &matched);
        diff
    }

    /// Whether anything differs.
    pub fn is_changed(&self) -> bool {
        let quiet = Self { same: 0, links_same: 0, goal: None, a: None, b: None, ..self.clone() };
        let turned = self.goal.is_some_and(|goal| {
            goal.steps_a != goal.steps_b
                || goal.norm_a != goal.norm_b
                || goal.cosine.is_some_and(|cosine| cosine < 1.0 - 1e-9)
        });
        quiet != Self::default() || turned || self.a != self.b
    }

    /// What is beside the slots.
    fn of_both(&mut self, a: &UnifiedMemory, b: &UnifiedMemory) {
        let (goal_a, goal_b) = (a.goal(), b.goal());
        let cosine =
            if self.foreign_space { None } else { cosine(goal_a.vector(), goal_b.vector()) };
        self.goal = Some(GoalChange {
            cosine,
            degrees: cosine.map(|cosine| libm::acos(cosine).to_degrees()),
            norm_a: f64::from(goal_a.norm()),
            norm_b: f64::from(goal_b.norm()),
            steps_a: goal_a.steps(),
            steps_b: goal_b.steps(),
        });
        let (surprise_a, surprise_b) = (*a.surprise(), *b.surprise());
        self.surprise =
            (surprise_a != surprise_b).then_some(SurpriseChange { a: surprise_a, b: surprise_b });
        let count = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0);
        let counters = |of: &UnifiedMemory| serde_json::to_value(of.counters()).ok();
        let changes = field_changes(counters(a).as_ref(), counters(b).as_ref());
        self.counters = changes
            .into_iter()
            .map(|change| CounterChange {
                name: change.field,
                a: count(change.a.as_ref()),
                b: count(change.b.as_ref()),
            })
            .collect();
        let settings = |of: &UnifiedMemory| serde_json::to_value(of.config()).ok();
        self.settings = field_changes(settings(a).as_ref(), settings(b).as_ref());
    }

    /// Pairs slots that say the same.
    ///
    /// Returns for each slot of B that has a counterpart the slot of A.
    fn slots(
        &mut self,
        a: Option<&UnifiedMemory>,
        b: Option<&UnifiedMemory>,
    ) -> BTreeMap<SlotId, SlotId> {
        let mut groups: BTreeMap<Content<'_>, [Vec<(SlotRef, &Slot)>; 2]> = BTreeMap::new();
        for (side, memory) in [a, b].into_iter().enumerate() {
            for (reference, slot) in memory.into_iter().flat_map(UnifiedMemory::slots) {
                groups.entry(Content::of(slot)).or_default()[side].push((reference, slot));
            }
        }
        let mut matched = BTreeMap::new();
        for [of_a, of_b] in groups.into_values() {
            self.of_one_content(of_a, of_b, &mut matched);
        }
        let by_weight = |a: &SlotFacts, b: &SlotFacts| {
            (a.store, b.weights.weight).partial_cmp(&(b.store, a.weights.weight))
        };
        self.added.sort_by(|a, b| by_weight(a, b).unwrap_or(std::cmp::Ordering::Equal));
        self.removed.sort_by(|a, b| by_weight(a, b).unwrap_or(std::cmp::Ordering::Equal));
        matched
    }

    /// Slots that say the same.
    fn of_one_content<'s>(
        &mut self,
        mut of_a: Vec<(SlotRef, &'s Slot)>,
        mut of_b: Vec<(SlotRef, &'s Slot)>,
        matched: &mut BTreeMap<SlotId, SlotId>,
    ) {
        let stores = |of: &[(SlotRef, &Slot)]| of.iter().map(|(slot, _)| slot.store).collect();
        let (from, to): (Vec<StoreKind>, Vec<StoreKind>) = (stores(&of_a), stores(&of_b));
        let first = (of_a.first().map(|one| one.1), of_b.first().map(|one| one.1));
        for store in [StoreKind::Stm, StoreKind::Ltm] {
            while let (Some(left), Some(right)) = (place(&of_a, store), place(&of_b, store)) {
                let (left, right) = (of_a.remove(left).1, of_b.remove(right).1);
                matched.insert(right.id, left.id);
                self.in_one_store(store, left, right);
            }
        }
        for ((_, left), (_, right)) in of_a.iter().zip(&of_b) {
            matched.insert(right.id, left.id);
        }
        if let (Some(left), Some(right)) = first {
            if from != to {
                let text = left.value.text.clone();
                let (a, b) = (weights(left), weights(right));
                self.moved.push(SlotMove { from, to, text, a, b });
            }
            return;
        }
        self.removed.extend(of_a.iter().map(|(reference, slot)| facts(reference.store, slot)));
        self.added.extend(of_b.iter().map(|(reference, slot)| facts(reference.store, slot)));
    }

    fn in_one_store(&mut self, store: StoreKind, a: &Slot, b: &Slot) {
        let (weights_a, weights_b) = (weights(a), weights(b));
        // Keys of two spaces differ whatever they mean.
        if weights_a == weights_b && (self.foreign_space || a.key == b.key) {
            self.same += 1;
            return;
        }
        let key_cosine = if self.foreign_space { None } else { cosine(&a.key, &b.key) };
        let text = a.value.text.clone();
        self.changed.push(SlotChange { store, text, a: weights_a, b: weights_b, key_cosine });
    }

    fn links(
        &mut self,
        a: Option<&UnifiedMemory>,
        b: Option<&UnifiedMemory>,
        matched: &BTreeMap<SlotId, SlotId>,
    ) {
        let ends = |memory: Option<&UnifiedMemory>| -> BTreeMap<SlotId, String> {
            let slots = memory.into_iter().flat_map(UnifiedMemory::slots);
            slots.map(|(_, slot)| (slot.id, slot.value.text.clone())).collect()
        };
        let (texts_a, texts_b) = (ends(a), ends(b));
        let change = |texts: &BTreeMap<SlotId, String>, link: &Link, a, b| LinkChange {
            from: texts.get(&link.from).cloned().unwrap_or_default(),
            to: texts.get(&link.to).cloned().unwrap_or_default(),
            a,
            b,
        };
        let mut left: BTreeMap<(SlotId, SlotId), Link> = a
            .into_iter()
            .flat_map(UnifiedMemory::links)
            .map(|link| ((link.from, link.to), link))
            .collect();
        for link in b.into_iter().flat_map(UnifiedMemory::links) {
            let ends = (matched.get(&link.from), matched.get(&link.to));
            let before = match ends {
                (Some(from), Some(to)) => left.remove(&(*from, *to)),
                _ => None,
            };
            if before.is_some_and(|before| before.strength == link.strength) {
                self.links_same += 1;
            } else {
                let strength = before.map(|before| before.strength);
                self.links.push(change(&texts_b, &link, strength, Some(link.strength)));
            }
        }
        self.links
            .extend(left.values().map(|link| change(&texts_a, link, Some(link.strength), None)));
    }
}

/// What makes two slots the same: what they say, or, where they say nothing, where they point.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Content<'s> {
    text: &'s str,
    token_ids: &'s [u32],
    key: Vec<u32>,
}

impl<'s> Content<'s> {
    fn of(slot: &'s Slot) -> Self {
        let bits = || slot.key.iter().map(|value| value.to_bits()).collect();
        Self {
            text: &slot.value.text,
            token_ids: &slot.value.token_ids,
            key: if slot.value.is_empty() { bits() } else { Vec::new() },
        }
    }
}

fn place(slots: &[(SlotRef, &Slot)], store: StoreKind) -> Option<usize> {
    slots.iter().position(|(reference, _)| reference.store == store)
}

fn numbers(memory: &UnifiedMemory) -> MemoryNumbers {
    let of = |store| memory.slots().filter(|(slot, _)| slot.store == store).count();
    MemoryNumbers {
        space: memory.space(),
        now: memory.now(),
        stm: of(StoreKind::Stm),
        ltm: of(StoreKind::Ltm),
        links: memory.links().count(),
    }
}

fn weights(slot: &Slot) -> SlotWeights {
    SlotWeights {
        energy: slot.energy,
        gate: slot.gate,
        weight: slot.gated_energy(),
        count: slot.count,
        superseded: slot.validity.until.is_some(),
    }
}

fn facts(store: StoreKind, slot: &Slot) -> SlotFacts {
    SlotFacts {
        store,
        text: slot.value.text.clone(),
        source: slot.source.clone(),
        weights: weights(slot),
    }
}

/// The cosine of two vectors; none where one is zero, or they are not of one length.
fn cosine(a: &[f32], b: &[f32]) -> Option<f64> {
    if a == b && a.iter().any(|value| *value != 0.0) {
        return Some(1.0);
    }
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
    (norms > 0.0 && a.len() == b.len()).then(|| (dot(a, b) / norms).clamp(-1.0, 1.0))
}
