//! The best slots for a query. A small store is scanned as it is. A large one is scanned in short first
//! (see [`crate::codes`] and [`crate::sketch`]), and only the few slots that may belong to the answer are
//! compared with every bit.

use crate::codes::CodedQuery;
use crate::config::SearchRule;
use crate::page::{Order, ROWS, Short};
use crate::recall::{Hit, Recalled, best_of, says_the_same};
use crate::sketch::SketchedQuery;
use crate::slot::{SlotRef, SlotValue, StoreKind};
use crate::{Tick, UnifiedMemory};

/// Positions of long-term memory from which sketches are looked at first, unless the settings say
/// `exact`. Below it a scan of codes is quick (benches/SPEED.md).
pub(crate) const SKETCHES_FROM: usize = 1 << 16;

impl UnifiedMemory {
    /// The `top_k` best slots of some stores, best first, with those that say the same joined.
    ///
    /// * `unit`: `[dim]`, normalized
    pub(crate) fn best(
        &self,
        unit: &[f32],
        order: Order,
        stores: &[StoreKind],
        top_k: usize,
    ) -> Vec<Recalled> {
        let long_term = stores.contains(&StoreKind::Ltm);
        let is_large = long_term && self.ltm.is_large();
        let mut hits = Vec::new();
        for &store in stores.iter().filter(|&&store| !is_large || store == StoreKind::Stm) {
            self.add_all(unit, order, store, &mut hits);
        }
        if is_large {
            return self.best_with_large(unit, order, hits, top_k);
        }
        best_of(hits, top_k)
    }

    /// Every slot of both stores that holds.
    pub(crate) fn all(&self, unit: &[f32], order: Order) -> Vec<Hit<'_>> {
        let mut hits = Vec::new();
        self.add_all(unit, order, StoreKind::Stm, &mut hits);
        self.add_all(unit, order, StoreKind::Ltm, &mut hits);
        hits
    }

    /// Every slot of a store that holds.
    fn add_all<'m>(&'m self, unit: &[f32], order: Order, store: StoreKind, to: &mut Vec<Hit<'m>>) {
        let bank = self.bank(store);
        let at = order.at();
        for (near, slot) in bank.cosines(unit).filter(|(_, slot)| slot.validity.holds(at)) {
            to.push(self.hit(order, store, near.position, near.cosine));
            debug_assert_eq!(slot.gated_energy(), bank.worth(near.position), "notes are kept");
        }
    }

    fn hit(&self, order: Order, store: StoreKind, position: usize, cosine: f32) -> Hit<'_> {
        let bank = self.bank(store);
        let slot = bank.slot(position);
        let decay = slot.decay(store, order.at(), &self.config);
        let score = order.score(cosine, bank.worth(position), decay);
        Hit { slot, at: SlotRef { store, id: slot.id }, cosine, decay, score }
    }

    /// * `short_term`: what short-term memory has, all of it
    fn best_with_large<'m>(
        &'m self,
        unit: &[f32],
        order: Order,
        short_term: Vec<Hit<'m>>,
        top_k: usize,
    ) -> Vec<Recalled> {
        if top_k == 0 {
            return Vec::new();
        }
        let in_sketches =
            self.config.search == SearchRule::Quick && self.ltm.len() >= SKETCHES_FROM;
        let mut bounds = vec![f32::NEG_INFINITY; self.ltm.pages().len() * ROWS];
        let query = if in_sketches {
            Short::Sketches(SketchedQuery::new(unit))
        } else {
            Short::Codes(CodedQuery::new(unit))
        };
        self.ltm.each_page(&mut bounds, |page, bounds| {
            page.bounds(&query, order, &mut bounds[..page.rows()]);
        });
        let hit = |position| {
            let cosine = self.ltm.cosine(position, unit);
            self.hit(order, StoreKind::Ltm, position, cosine)
        };
        let (mut positions, least) = first_look(&bounds, &short_term, hit, top_k);
        let mut near = positions_from(&bounds, least);
        if in_sketches {
            near = self.ltm.reaching(&near, &CodedQuery::new(unit), order, least);
        }
        positions.extend(near);
        positions.sort_unstable();
        positions.dedup();
        positions.retain(|&position| self.long_term_score(order, position, unit) >= least);
        let hits = short_term.iter().cloned().chain(positions.iter().map(|&at| hit(at)));
        let best = best_of(hits.collect(), top_k);
        let others = self.also_saying(&best, order.at(), &positions);
        if others.is_empty() {
            return best;
        }
        let all = positions.into_iter().chain(others).map(hit);
        best_of(short_term.into_iter().chain(all).collect(), top_k)
    }

    /// The score of a long-term slot, without a look at the slot.
    fn long_term_score(&self, order: Order, position: usize, unit: &[f32]) -> f32 {
        let cosine = self.ltm.cosine(position, unit);
        order.score(cosine, self.ltm.worth(position), 1.0)
    }

    /// Positions of long-term slots that hold and say what one of these says, apart from those known.
    ///
    /// * `known`: sorted
    fn also_saying(&self, best: &[Recalled], at: Tick, known: &[usize]) -> Vec<usize> {
        let mut others = Vec::new();
        for hit in best {
            let value = SlotValue { token_ids: hit.token_ids.clone(), text: hit.text.clone() };
            if value.is_empty() {
                continue;
            }
            others.extend(self.ltm.saying(&value).into_iter().filter(|position| {
                let slot = self.ltm.slot(*position);
                let says = says_the_same(&hit.text, &hit.token_ids, &slot.value);
                says && slot.validity.holds(at) && known.binary_search(position).is_err()
            }));
        }
        others
    }

    /// The largest cosine of a slot of long-term memory, whether it holds or not.
    pub(crate) fn nearest_long_term(&self, unit: &[f32]) -> Option<f32> {
        self.ltm.cosines(unit).map(|(near, _)| near.cosine).reduce(f32::max)
    }
}

impl Order {
    fn score(self, cosine: f32, worth: f32, decay: f32) -> f32 {
        let score = match self {
            Self::Worth(_) => cosine * worth * decay,
            Self::Cosine(_) => cosine,
        };
        // −0 and 0 are the same score; the order of recall must not tell them apart.
        score + 0.0
    }

    fn at(self) -> Tick {
        match self {
            Self::Worth(at) | Self::Cosine(at) => at,
        }
    }
}

/// Positions with the best bounds, and the score that the last of the answer has at least: that of the
/// `top_k`th of them, each value once.
fn first_look<'m>(
    bounds: &[f32],
    short_term: &[Hit<'m>],
    hit: impl Fn(usize) -> Hit<'m>,
    top_k: usize,
) -> (Vec<usize>, f32) {
    let mut looked_at = 4 * top_k + 32;
    loop {
        let positions = largest(bounds, looked_at);
        let hits = short_term.iter().cloned().chain(positions.iter().map(|&at| hit(at)));
        let best = best_of(hits.collect(), top_k);
        if best.len() == top_k {
            return (positions, best[top_k - 1].score);
        }
        if positions.len() < looked_at {
            return (positions, f32::MIN);
        }
        looked_at = looked_at.saturating_mul(16);
    }
}

/// Positions whose bound is at least this, in order.
fn positions_from(bounds: &[f32], least: f32) -> Vec<usize> {
    let mut found = Vec::new();
    for (chunk, bounds) in bounds.chunks(64).enumerate() {
        let most = bounds.iter().fold(f32::NEG_INFINITY, |most, &bound| most.max(bound));
        if most >= least {
            let within = bounds.iter().enumerate().filter(|(_, bound)| **bound >= least);
            found.extend(within.map(|(place, _)| chunk * 64 + place));
        }
    }
    found
}

/// Positions of the `count` largest bounds over −∞, or of all of them where there are fewer; in no
/// order.
fn largest(bounds: &[f32], count: usize) -> Vec<usize> {
    let mut found: Vec<(f32, usize)> = Vec::with_capacity(2 * count);
    let mut least = f32::MIN;
    for (chunk, bounds) in bounds.chunks(64).enumerate() {
        let most = bounds.iter().fold(f32::NEG_INFINITY, |most, &bound| most.max(bound));
        if most < least {
            continue;
        }
        for (place, &bound) in bounds.iter().enumerate().filter(|(_, bound)| **bound >= least) {
            found.push((bound, chunk * 64 + place));
        }
        if found.len() >= 2 * count {
            cut(&mut found, count);
            least = found.iter().fold(f32::INFINITY, |least, &(bound, _)| least.min(bound));
        }
    }
    cut(&mut found, count);
    found.into_iter().map(|(_, position)| position).collect()
}

/// Keeps the largest; of equals the first.
fn cut(found: &mut Vec<(f32, usize)>, count: usize) {
    if found.len() > count {
        found.select_nth_unstable_by(count - 1, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        found.truncate(count);
    }
}

#[cfg(test)]
mod tests;
