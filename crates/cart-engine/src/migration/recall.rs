//! How much of what a memory recalled before it recalls after.

use std::collections::BTreeSet;

use cart_memory::{TokenQuery, UnifiedMemory};
use serde::{Deserialize, Serialize};

use super::{MigrationError, unread};
use crate::agent::Agent;

/// The ten of recall@10.
const TEN: usize = 10;

/// What two memories recall for the same queries, each asked by its own model. A query is the first two thirds
/// of the words of something that the memory says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RecallReport {
    /// Queries.
    pub queries: usize,
    /// Different texts that can be recalled. At 10 or less, recall@10 says nothing.
    pub texts: usize,
    /// Share of queries for which what was recalled first before is recalled first after.
    pub at_1: f64,
    /// Share for which it is among the ten best after.
    pub at_10: f64,
    /// Share for which the text that the query was taken from was among the ten best before.
    pub own_before: f64,
    /// Share for which it is after.
    pub own_after: f64,
}

/// Asks both memories.
///
/// * `texts`: what the memory says and is asked for
pub(super) fn compare(
    before: (&Agent, &UnifiedMemory),
    after: (&Agent, &UnifiedMemory),
    texts: Vec<&str>,
) -> Result<RecallReport, MigrationError> {
    let now = before.1.now();
    let known: BTreeSet<&str> = before
        .1
        .slots()
        .filter(|(_, slot)| slot.validity.holds(now))
        .map(|(_, slot)| slot.value.text.as_str())
        .collect();
    let mut counts = [0_usize; 5];
    for text in &texts {
        let query = cue(text);
        let [old, new] = [ten(before, &query)?, ten(after, &query)?];
        let Some(first) = old.first() else { continue };
        let found = [
            true,
            new.first() == Some(first),
            new.contains(first),
            old.iter().any(|found| found == text),
            new.iter().any(|found| found == text),
        ];
        counts.iter_mut().zip(found).for_each(|(count, found)| *count += usize::from(found));
    }
    let share = |count: usize| count as f64 / counts[0].max(1) as f64;
    Ok(RecallReport {
        queries: counts[0],
        texts: known.len(),
        at_1: share(counts[1]),
        at_10: share(counts[2]),
        own_before: share(counts[3]),
        own_after: share(counts[4]),
    })
}

/// The texts of the ten best, best first.
fn ten(
    (agent, memory): (&Agent, &UnifiedMemory),
    query: &str,
) -> Result<Vec<String>, MigrationError> {
    let query = agent.memory_query(query).map_err(unread(query))?;
    // Words find a text whatever became of its vectors, and these are what is measured.
    let found = memory.peek_tokens(memory.now(), TokenQuery::of_rows(&query.rows), TEN)?;
    Ok(found.into_iter().map(|hit| hit.text).collect())
}

/// The first two thirds of a text's words, at least two.
fn cue(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words[..(words.len() * 2).div_ceil(3).max(2).min(words.len())].join(" ")
}

#[cfg(test)]
mod tests {
    use super::cue;

    #[test]
    fn a_query_is_two_thirds_of_the_words() {
        assert_eq!(cue("The code of the red boat is 4821."), "The code of the red boat");
        assert_eq!(cue(" one two three "), "one two");
        assert_eq!((cue("one two").as_str(), cue("one").as_str()), ("one two", "one"));
    }
}
