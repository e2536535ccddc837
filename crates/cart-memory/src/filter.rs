//! The filter before consolidation: what is flagged by a word or by its neighbourhood is kept from
//! long-term memory, or goes into it with less energy. Every flagged slot is an event.

use crate::UnifiedMemory;
use crate::config::BiasRules;
use crate::event::{Flag, MemoryEvent};
use crate::slot::{Slot, SlotRef};

/// What the filter makes of a slot that is to be consolidated.
pub(crate) enum Filtered {
    /// Nothing flags it.
    Free,
    /// It goes on with less energy.
    Weakened(Box<Slot>),
    /// It stays out.
    Withheld,
}

impl UnifiedMemory {
    /// Every slot that the filter's rules flag, with the reason, short-term first.
    pub fn flagged(&self) -> Vec<(SlotRef, Flag)> {
        let Some(rules) = &self.config.bias else { return Vec::new() };
        let slots = self.stores().flat_map(|(store, bank)| {
            bank.iter().map(move |(position, slot)| (store, slot, bank.unit(position)))
        });
        slots
            .filter_map(|(store, slot, unit)| {
                let flag = self.flag(rules, slot, unit)?;
                Some((SlotRef { store, id: slot.id }, flag))
            })
            .collect()
    }

    pub(crate) fn filtered(&mut self, position: usize, events: &mut Vec<MemoryEvent>) -> Filtered {
        let Some(rules) = &self.config.bias else { return Filtered::Free };
        let slot = self.stm.slot(position);
        let Some(flag) = self.flag(rules, slot, self.stm.unit(position)) else {
            return Filtered::Free;
        };
        let (id, text) = (slot.id, slot.value.text.clone());
        if rules.keep == 0.0 {
            self.counters.withheld += 1;
            events.push(MemoryEvent::Withheld { slot: id, text, flag });
            return Filtered::Withheld;
        }
        let energy = (f64::from(slot.energy) * f64::from(rules.keep)) as f32;
        let weakened = Slot { energy, ..slot.clone() };
        self.counters.weakened += 1;
        events.push(MemoryEvent::Weakened { slot: id, text, flag, energy });
        Filtered::Weakened(Box::new(weakened))
    }

    fn flag(&self, rules: &BiasRules, slot: &Slot, unit: &[f32]) -> Option<Flag> {
        let said = words(&slot.value.text);
        let listed = rules.words.iter().find(|phrase| has_phrase(&said, &words(phrase)));
        if let Some(word) = listed {
            return Some(Flag::Word { word: word.clone() });
        }
        // Centres were checked when the memory was made.
        let nearest = rules.centres.iter().enumerate().filter_map(|(place, centre)| {
            let centre = self.normalization.unit("bias.centres", centre).ok()?;
            Some((place as u32, self.normalization.metric().cosine(&centre, unit)))
        });
        nearest
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .filter(|&(_, cosine)| cosine >= rules.cosine)
            .map(|(centre, cosine)| Flag::Neighbourhood { centre, cosine })
    }
}

/// The words of a text in lower case: runs of letters and digits.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

fn has_phrase(said: &[String], phrase: &[String]) -> bool {
    !phrase.is_empty() && said.windows(phrase.len()).any(|window| window == phrase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_match_whole_words_in_any_case() {
        let said = words("The OTHER side's plan, again.");
        assert!(has_phrase(&said, &words("other side")));
        assert!(has_phrase(&said, &words("Plan")));
        assert!(!has_phrase(&said, &words("the")[..0]));
        assert!(!has_phrase(&said, &words("plane")));
        assert!(!has_phrase(&said, &words("side plan")));
    }
}
