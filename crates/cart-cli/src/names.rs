//! First names, for experiments with what is told.

use std::collections::BTreeSet;
use std::path::Path;

use cart_train::{Chance, TrainError};

use crate::failure::Failure;

/// First names, the most frequent first (U.S. Census Bureau, 1990; public domain).
const NAMES: &str = include_str!("../assets/first-names.txt");

/// Those that are learned from; the others are for experiments.
const LEARNED: usize = 1000;

/// What chance in here is for.
const ORDER: u64 = 31;

/// Names that training learns from.
pub(crate) fn to_learn() -> Vec<String> {
    NAMES.lines().take(LEARNED).map(str::to_owned).collect()
}

/// Names that training does not use, in an order of the seed's.
pub(crate) fn left_out(seed: u64) -> Vec<String> {
    let names: Vec<&str> = NAMES.lines().skip(LEARNED).collect();
    let order = Chance::new(seed, &[ORDER]).order(names.len());
    order.into_iter().map(|at| names[at].to_owned()).collect()
}

/// The names of a file, one a line, each once.
pub(crate) fn read(path: &Path) -> Result<Vec<String>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        let (path, action) = (path.to_owned(), "read");
        Failure::refused(TrainError::File { path, action, source })
    })?;
    let mut seen = BTreeSet::new();
    let names = text.lines().map(str::trim).filter(|name| !name.is_empty() && seen.insert(*name));
    Ok(names.map(str::to_owned).collect())
}

/// Whether a text has some words, whole and as they are spelled.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let alone = |at: usize| {
        let letter = |found: Option<char>| found.is_some_and(char::is_alphanumeric);
        let after = text[at + word.len()..].chars().next();
        !letter(text[..at].chars().next_back()) && !letter(after)
    };
    !word.is_empty() && text.match_indices(word).any(|(at, _)| alone(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_whole_and_spelled_alike() {
        assert!(has_word("Your name is Ann.", "Ann"));
        assert!(has_word("Ann", "Ann"));
        assert!(!has_word("Your name is Anna.", "Ann"));
        assert!(!has_word("Your name is ann.", "Ann"));
        assert!(!has_word("Ann", ""));
    }

    #[test]
    fn names_to_learn_and_others_are_apart() {
        let learned: BTreeSet<String> = to_learn().into_iter().collect();
        let others: BTreeSet<String> = left_out(0).into_iter().collect();
        assert!(learned.is_disjoint(&others));
        assert_eq!((learned.len(), others.len()), (1000, 500));
        assert_ne!(left_out(0), left_out(1));
    }
}
