//! Texts of different memories that can't both be right.

use std::collections::{BTreeMap, BTreeSet};

use super::pieces::Heirs;
use super::{Contradiction, JoinError, JoinReport, OnContradiction};
use crate::correction::{differ_at_their_ends, opening, said_at};
use crate::slot::{SlotRef, SlotValue};
use crate::{Tick, UnifiedMemory};

/// What is said by slots that hold.
struct Claim {
    value: SlotValue,
    /// Long-term slots first.
    slots: Vec<SlotRef>,
    holders: BTreeSet<usize>,
    said: Tick,
    worth: f32,
}

impl UnifiedMemory {
    /// Finds texts of different memories that contradict each other: they begin alike and end differently, or, where the
    /// settings have a rule about it, their keys are as near as that says. What one memory holds by itself is its own affair.
    pub(super) fn settle_claims(
        &mut self,
        heirs: &Heirs,
        on_contradiction: OnContradiction,
        report: &mut JoinReport,
    ) -> Result<(), JoinError> {
        let mut claims = self.claims(heirs);
        let by_value = |a: &Claim, b: &Claim| a.value.cmp(&b.value);
        claims.sort_by(|a, b| match on_contradiction {
            OnContradiction::HighestEnergy => {
                b.worth.total_cmp(&a.worth).then(b.said.cmp(&a.said)).then(by_value(a, b))
            }
            _ => b.said.cmp(&a.said).then(b.worth.total_cmp(&a.worth)).then(by_value(a, b)),
        });
        let ends =
            matches!(on_contradiction, OnContradiction::Newest | OnContradiction::HighestEnergy);
        let mut ended = BTreeSet::new();
        for (winner, loser) in self.pairs(&claims) {
            if ended.contains(&winner) || ended.contains(&loser) {
                continue;
            }
            let (holds, other) = (&claims[winner], &claims[loser]);
            report.contradictions.push(Contradiction {
                holds: holds.value.text.clone(),
                other: other.value.text.clone(),
                ended: ends,
            });
            if ends {
                ended.insert(loser);
                self.end_for(other, holds.slots[0]);
            }
        }
        match report.contradictions.first() {
            Some(first) if on_contradiction == OnContradiction::Refuse => {
                let count = report.contradictions.len();
                Err(JoinError::Contradictions { count, first: Box::new(first.clone()) })
            }
            _ => Ok(()),
        }
    }

    fn claims(&self, heirs: &Heirs) -> Vec<Claim> {
        let mut claims: BTreeMap<&SlotValue, Claim> = BTreeMap::new();
        for (at, slot) in self.slots() {
            if slot.value.is_empty() || !slot.validity.holds(self.now) {
                continue;
            }
            let new = || Claim {
                value: slot.value.clone(),
                slots: Vec::new(),
                holders: BTreeSet::new(),
                said: 0,
                worth: 0.0,
            };
            let claim = claims.entry(&slot.value).or_insert_with(new);
            claim.slots.push(at);
            claim.holders.extend(heirs.holders(at.id));
            claim.said = claim.said.max(said_at(at.store, slot));
            claim.worth = claim.worth.max(slot.gated_energy());
        }
        let mut claims: Vec<Claim> = claims.into_values().collect();
        for claim in &mut claims {
            claim.slots.sort_by_key(|at| (std::cmp::Reverse(at.store), at.id));
        }
        claims
    }

    /// Pairs that contradict each other, as places in `claims`, the smaller first, in order.
    fn pairs(&self, claims: &[Claim]) -> Vec<(usize, usize)> {
        let mut pairs = BTreeSet::new();
        let mut beginning: BTreeMap<[String; 2], Vec<usize>> = BTreeMap::new();
        for (place, claim) in claims.iter().enumerate() {
            let Some(opening) = opening(&claim.value.text) else { continue };
            let alike = beginning.entry(opening).or_default();
            let text = |at: &usize| claims[*at].value.text.as_str();
            let against = alike.iter().filter(|at| {
                claims[**at].holders.is_disjoint(&claim.holders)
                    && differ_at_their_ends(text(at), &claim.value.text)
            });
            pairs.extend(against.map(|&at| (at, place)));
            alike.push(place);
        }
        if let Some(rules) = self.config.contradictions {
            for (place, claim) in claims.iter().enumerate() {
                let apart = (0..place).filter(|&at| {
                    claims[at].holders.is_disjoint(&claim.holders)
                        && self.nearest_keys(&claims[at], claim) >= rules.cosine
                });
                pairs.extend(apart.map(|at| (at, place)));
            }
        }
        pairs.into_iter().collect()
    }

    /// The largest cosine between a key of the one and a key of the other.
    fn nearest_keys(&self, a: &Claim, b: &Claim) -> f32 {
        let unit = |at: &SlotRef| {
            let bank = self.bank(at.store);
            bank.unit(bank.find(at.id).expect("claims are of slots of this memory"))
        };
        let metric = self.normalization.metric();
        let pairs = a.slots.iter().flat_map(|one| b.slots.iter().map(move |other| (one, other)));
        pairs.map(|(one, other)| metric.cosine(unit(one), unit(other))).fold(-1.0, f32::max)
    }

    fn end_for(&mut self, claim: &Claim, winner: SlotRef) {
        let now = self.now;
        for &at in &claim.slots {
            let mut slot = self.find_mut(at).expect("claims are of slots of this memory");
            slot.validity.until = Some(now);
            slot.validity.superseded_by = Some(winner.id);
        }
    }
}
