//! The texts that both models read.

use std::collections::BTreeSet;

use cart_memory::UnifiedMemory;

use super::MigrationError;

/// Every third text of the memory is held out: nothing is fitted on it.
const HELD_OUT: usize = 3;
/// Least different texts of a memory that a map is measured on: with fewer, ten of them are too many for recall@10
/// to say much.
const LEAST_TEXTS: usize = 30;
/// Most texts of a memory that are anchors or queries.
const MOST_TEXTS: usize = 256;

/// The text of anchors where nobody gives others: a text in English that may be copied by everyone.
const TEXT: &str = include_str!("../../../../fixtures/text/gpl-3.txt");

/// Texts of the memory, and others.
pub(super) struct Anchors<'a> {
    own: Vec<&'a str>,
    others: Vec<String>,
}

impl<'a> Anchors<'a> {
    /// Different texts of the memory, at most 256 spread over all of them, and those that were given or
    /// the paragraphs of the built-in text.
    pub(super) fn of(memory: &'a UnifiedMemory, given: Option<&[String]>) -> Self {
        let now = memory.now();
        let mut seen = BTreeSet::new();
        let holding = memory.slots().filter(|(_, slot)| slot.validity.holds(now));
        let own: Vec<&str> = holding
            .map(|(_, slot)| slot.value.text.as_str())
            .filter(|text| seen.insert(*text))
            .collect();
        let step = own.len().div_ceil(MOST_TEXTS).max(1);
        let others = given.map_or_else(paragraphs, <[String]>::to_vec);
        Self { own: own.into_iter().step_by(step).collect(), others }
    }

    /// Refuses what is too little to be measured on.
    pub(super) fn check(&self) -> Result<(), MigrationError> {
        let found = self.own.len();
        if found < LEAST_TEXTS {
            return Err(MigrationError::FewTexts { found, least: LEAST_TEXTS });
        }
        Ok(())
    }

    /// Texts of the memory.
    pub(super) fn all_own(&self) -> Vec<&'a str> {
        self.own.clone()
    }

    /// Texts of the memory that nothing is fitted on.
    pub(super) fn own_held_out(&self) -> Vec<&'a str> {
        self.own.iter().skip(HELD_OUT - 1).step_by(HELD_OUT).copied().collect()
    }

    /// Texts of the memory that a map is fitted on.
    pub(super) fn own_fitted(&self) -> impl Iterator<Item = &'a str> {
        let own = self.own.iter().copied().enumerate();
        own.filter(|(index, _)| index % HELD_OUT != HELD_OUT - 1).map(|(_, text)| text)
    }

    /// The others.
    pub(super) fn others(&self) -> impl Iterator<Item = &str> {
        self.others.iter().map(String::as_str)
    }
}

/// The paragraphs of the built-in text, each in one line.
fn paragraphs() -> Vec<String> {
    let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    TEXT.split("\n\n").map(one_line).filter(|text| text.len() > 20).collect()
}

#[cfg(test)]
mod tests {
    use super::paragraphs;

    #[test]
    fn the_built_in_text_has_paragraphs_of_one_line() {
        let found = paragraphs();
        assert!(found.len() > 100, "{}", found.len());
        assert!(found.iter().all(|text| !text.contains('\n') && text.len() < 2_000));
    }
}
