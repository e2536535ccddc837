//! Dreaming: an offline job over long-term memory that merges what is redundant, lets slots attend
//! to each other, rehearses links and finds new ones, and is taken back if it made anything worse.

mod check;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use check::DreamCheck;

use crate::config::GraphRules;
use crate::filter::words;
use crate::gate::{EPSILON, sigmoid};
use crate::seeded::Seeded;
use crate::slot::{Slot, SlotId, SlotValue};
use crate::{UnifiedMemory, vector};

/// Links that one rehearsal follows.
const REHEARSED_LINKS: usize = 4;
/// What a rehearsal adds to a link, as a share of the graph's rate.
const REHEARSAL: f64 = 0.1;

/// How to dream.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DreamOptions {
    /// Seed of rehearsals and probes.
    pub seed: u64,
    /// Cosine from which two slots with the same words are redundant.
    pub redundancy: f32,
    /// Share of words (those in both over those in either) from which texts count as the same; at 1
    /// their words are equal and in the same order.
    pub overlap: f32,
    /// Share of a key that what it attends to replaces.
    pub refine: f32,
    /// Temperature of the attention between slots.
    pub temperature: f32,
    /// Attention from which two slots are linked, where the memory has a graph.
    pub link: f32,
    /// Paths through the graph that are rehearsed.
    pub rehearsals: u32,
    /// By how much the mean reconstruction error may rise.
    pub tolerance: f32,
}

impl Default for DreamOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            redundancy: 0.9,
            overlap: 1.0,
            refine: 0.02,
            temperature: 0.1,
            link: 0.25,
            rehearsals: 32,
            tolerance: 0.01,
        }
    }
}

/// An option that can't be.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
#[error("dream option `{name}` is {found}; allowed: {least} to {most}")]
pub struct DreamError {
    /// The option.
    pub name: &'static str,
    /// Its value.
    pub found: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

/// Two slots that became one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// The slot that stayed.
    pub kept: SlotId,
    /// The slot that went into it.
    pub gone: SlotId,
    /// Cosine of the two.
    pub cosine: f32,
    /// What the one that went said.
    pub text: String,
}

/// What a dream did, and whether it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DreamReport {
    /// Whether the changes stand; otherwise the memory is what it was.
    pub accepted: bool,
    /// Long-term slots before.
    pub slots_before: usize,
    /// Long-term slots after, as dreamed.
    pub slots_after: usize,
    /// What was merged.
    pub merged: Vec<Merged>,
    /// Keys that moved towards what they attend to.
    pub refined: usize,
    /// Links that are new.
    pub new_links: usize,
    /// Links that were rehearsed.
    pub rehearsed: usize,
    /// The checks before.
    pub before: DreamCheck,
    /// The checks after.
    pub after: DreamCheck,
}

impl UnifiedMemory {
    /// The memory after a dream, and what it did. Where a probe finds less than before, or
    /// reconstruction is worse than the tolerance allows, the memory is an exact copy of this one.
    ///
    /// # Errors
    /// An option is out of its range.
    pub fn dream(&self, options: &DreamOptions) -> Result<(Self, DreamReport), DreamError> {
        options.check()?;
        let mut dreamed = self.clone();
        let merged = dreamed.merge_redundant(options);
        let refined = dreamed.attend(options);
        let links_before = self.links().count();
        let rehearsed = dreamed.rehearse(options);
        let heirs: Vec<(SlotId, SlotId)> =
            merged.iter().map(|merged| (merged.gone, merged.kept)).collect();
        let before = DreamCheck::of(self, self, &[], options);
        let after = DreamCheck::of(self, &dreamed, &heirs, options);
        let accepted = after.recall >= before.recall
            && after.reconstruction <= before.reconstruction + f64::from(options.tolerance);
        let report = DreamReport {
            accepted,
            slots_before: self.ltm.len(),
            slots_after: dreamed.ltm.len(),
            merged,
            refined,
            new_links: dreamed.links().count().saturating_sub(links_before),
            rehearsed,
            before,
            after,
        };
        Ok((if accepted { dreamed } else { self.clone() }, report))
    }

    /// Joins slots that are redundant, those worth most first. The sums of both are added up.
    fn merge_redundant(&mut self, options: &DreamOptions) -> Vec<Merged> {
        let mut order: Vec<usize> = self.ltm.iter().map(|(position, _)| position).collect();
        let worth = |position: usize| self.ltm.slot(position).gated_energy();
        order.sort_by(|&a, &b| worth(b).total_cmp(&worth(a)).then(a.cmp(&b)));
        let mut merged = Vec::new();
        let mut gone = vec![false; order.len()];
        for first in 0..order.len() {
            for second in first + 1..order.len() {
                if gone[first] || gone[second] {
                    continue;
                }
                let (kept, other) = (order[first], order[second]);
                let cosine =
                    self.normalization.metric().cosine(self.ltm.unit(kept), self.ltm.unit(other));
                if cosine >= options.redundancy && self.same_words(kept, other, options.overlap) {
                    gone[second] = true;
                    merged.push(self.join(kept, other, cosine));
                }
            }
        }
        merged
    }

    fn same_words(&self, a: usize, b: usize, overlap: f32) -> bool {
        let (a, b) = (self.ltm.slot(a), self.ltm.slot(b));
        let alike = a.validity.until == b.validity.until;
        alike && says_nearly(&a.value, &b.value, overlap)
    }

    fn join(&mut self, kept: usize, other: usize, cosine: f32) -> Merged {
        let gone = self.ltm.remove(other);
        let mut slot = self.ltm.slot_mut(kept);
        let (own, theirs) = (slot.statistics.weight + EPSILON, gone.statistics.weight + EPSILON);
        let mut key = slot.key.clone();
        vector::blend(&mut key, &gone.key, (theirs / (own + theirs)) as f32);
        slot.absorb(&gone);
        let id = slot.id;
        drop(slot);
        // Two opposite keys can meet at the centre, where there is no direction: the old key stays.
        if let Ok(unit) = self.normalization.unit("key", &key) {
            self.ltm.slot_mut(kept).key = key;
            self.ltm.set_unit(kept, &unit);
        }
        self.stm.change_all(|slot| {
            if let Some(done) = slot.consolidation.as_mut().filter(|d| d.into == Some(gone.id)) {
                done.into = Some(id);
            }
        });
        // With an heir, nothing that has ended holds again, so there are no events.
        self.succeed(&gone, Some(id), &mut Vec::new());
        Merged { kept: id, gone: gone.id, cosine, text: gone.value.text }
    }

    /// Self-attention between slots: each key moves a little towards what it attends to, and what it
    /// attends to much is linked. Returns how many keys moved.
    fn attend(&mut self, options: &DreamOptions) -> usize {
        let positions: Vec<usize> = self.ltm.iter().map(|(position, _)| position).collect();
        let mut moved = Vec::new();
        for &query in &positions {
            let attention = self.attention(query, &positions, options.temperature);
            let from = self.ltm.slot(query).id;
            if let Some(rules) = self.config.graph {
                for &(place, share) in
                    attention.iter().filter(|(_, s)| *s >= f64::from(options.link))
                {
                    let to = self.ltm.slot(place).id;
                    self.graph.strengthen(from, to, f64::from(rules.rate) * share, &rules);
                }
            }
            if options.refine > 0.0 && !attention.is_empty() {
                moved.push((query, self.attended(query, &attention, options.refine)));
            }
        }
        let mut count = 0;
        for (position, key) in moved {
            if let Ok(unit) = self.normalization.unit("key", &key) {
                self.ltm.slot_mut(position).key = key;
                self.ltm.set_unit(position, &unit);
                count += 1;
            }
        }
        count
    }

    /// `softmax(cosine / temperature)` over the other slots.
    fn attention(&self, query: usize, slots: &[usize], temperature: f32) -> Vec<(usize, f64)> {
        let unit = self.ltm.unit(query);
        let others = slots.iter().copied().filter(|&place| place != query);
        let score =
            |place| f64::from(self.normalization.metric().cosine(unit, self.ltm.unit(place)));
        let mut all: Vec<(usize, f64)> =
            others.map(|place| (place, (score(place) - 1.0) / f64::from(temperature))).collect();
        let most = all.iter().map(|&(_, score)| score).fold(f64::NEG_INFINITY, f64::max);
        for (_, score) in &mut all {
            *score = libm::exp(*score - most);
        }
        let sum: f64 = all.iter().map(|&(_, power)| power).sum();
        all.iter().map(|&(place, power)| (place, power / sum)).collect()
    }

    fn attended(&self, query: usize, attention: &[(usize, f64)], refine: f32) -> Vec<f32> {
        let mut read = vec![0.0_f64; self.dim()];
        for &(place, share) in attention {
            for (sum, &value) in read.iter_mut().zip(&self.ltm.slot(place).key) {
                *sum += share * f64::from(value);
            }
        }
        let read: Vec<f32> = read.into_iter().map(|value| value as f32).collect();
        let own = &self.ltm.slot(query).key;
        let mut key = own.clone();
        vector::blend(&mut key, &read, refine);
        // A part that the slot lacks is not made up from what others have.
        self.normalization.metric().mask(&mut key, own);
        key
    }

    /// Follows links from slots drawn by what they are worth, and strengthens them a little.
    fn rehearse(&mut self, options: &DreamOptions) -> usize {
        let Some(rules) = self.config.graph else { return 0 };
        let slots: Vec<(SlotId, f64)> =
            self.ltm.iter().map(|(_, slot)| (slot.id, f64::from(slot.gated_energy()))).collect();
        let mut chance = Seeded::new(options.seed);
        let mut rehearsed = 0;
        let weights: Vec<f64> = slots.iter().map(|&(_, worth)| worth).collect();
        for _ in 0..options.rehearsals {
            let Some(place) = chance.weighted(&weights) else { break };
            rehearsed += self.follow(slots[place].0, &rules);
        }
        rehearsed
    }

    fn follow(&mut self, start: SlotId, rules: &GraphRules) -> usize {
        let mut at = start;
        for step in 0..REHEARSED_LINKS {
            let Some(&(next, _)) = self.graph.successors(at).first() else { return step };
            self.graph.strengthen(at, next, REHEARSAL * f64::from(rules.rate), rules);
            at = next;
        }
        REHEARSED_LINKS
    }
}

impl DreamOptions {
    fn check(&self) -> Result<(), DreamError> {
        let fields = [
            ("redundancy", self.redundancy, -1.0, 1.0),
            ("overlap", self.overlap, 0.0, 1.0),
            ("refine", self.refine, 0.0, 1.0),
            ("temperature", self.temperature, 1e-3, 1e3),
            ("link", self.link, 0.0, 1.0),
            ("tolerance", self.tolerance, 0.0, 2.0),
        ];
        let wrong =
            fields.into_iter().find(|&(_, found, least, most)| !(least..=most).contains(&found));
        match wrong {
            Some((name, found, least, most)) => Err(DreamError {
                name,
                found: f64::from(found),
                least: f64::from(least),
                most: f64::from(most),
            }),
            None => Ok(()),
        }
    }
}

impl Slot {
    /// Takes in what another slot that says the same has, except for its key.
    pub(crate) fn absorb(&mut self, other: &Self) {
        let worth = |slot: &Self| sigmoid(f64::from(slot.gate)) * f64::from(slot.energy);
        if worth(other) > worth(self) {
            self.gate = other.gate;
        }
        self.energy = self.energy.max(other.energy);
        self.made = self.made.min(other.made);
        self.refreshed = self.refreshed.max(other.refreshed);
        self.read = self.read.max(other.read);
        self.validity.from = self.validity.from.min(other.validity.from);
        self.count += other.count;
        self.statistics.merge(&other.statistics);
    }
}

/// Whether two values say the same up to case, punctuation and, under an overlap of 1, some words.
fn says_nearly(a: &SlotValue, b: &SlotValue, overlap: f32) -> bool {
    if a.text.is_empty() || b.text.is_empty() {
        return a.token_ids == b.token_ids;
    }
    let (a, b) = (words(&a.text), words(&b.text));
    if overlap >= 1.0 {
        return a == b;
    }
    let both = a.iter().filter(|word| b.contains(word)).count();
    let either = a.len() + b.iter().filter(|word| !a.contains(word)).count();
    both as f32 >= overlap * either as f32
}
