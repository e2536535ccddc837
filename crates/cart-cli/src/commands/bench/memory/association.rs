//! Spreading activation: one thing was seen just before another that has nothing to do with it; asked
//! with the first, who knows the second?

use cart_engine::{Agent, Generation, MemoryOptions, PrefixOptions, Prompt};

use super::Bench;
use super::outcome::Outcome;
use crate::asking::{answers, shuffled, tell};
use crate::facts::Chance;
use crate::failure::Failure;

/// Pairs of which one part was seen just before the other.
const PAIRS: usize = 24;
/// Most tokens of an answer.
const ANSWER: usize = 16;
/// Best memories that are looked through for the second part.
const BEST: usize = 3;

const WHO: [&str; 12] = [
    "Anna", "Boris", "Clara", "David", "Elena", "Frank", "Greta", "Henry", "Irene", "Jonas",
    "Karen", "Louis",
];
const OPENED: [&str; 12] = [
    "umbrella", "suitcase", "letter", "window", "gate", "drawer", "basket", "bottle", "notebook",
    "curtain", "cupboard", "parcel",
];
const CAME: [&str; 24] = [
    "donkey", "parrot", "turtle", "rabbit", "horse", "snake", "goat", "hamster", "duck", "fox",
    "owl", "wolf", "camel", "tiger", "monkey", "pigeon", "sheep", "squirrel", "frog", "eagle",
    "lizard", "peacock", "zebra", "swan",
];
const WENT: [&str; 8] = [
    "slept behind the old mill",
    "ran across the wet road",
    "stood in the middle of the square",
    "drank from the fountain",
    "walked over the wooden bridge",
    "hid under a blue car",
    "sat on the church wall",
    "waited at the bus stop",
];

/// Two sentences, seen one after the other.
struct Pair {
    first: String,
    second: String,
    /// The word that only the second has.
    came: &'static str,
}

/// How often the second part is found: among what is read for the first, and in the answer.
pub(super) fn association(bench: &Bench<'_>, seed: u64) -> Result<Vec<Outcome>, Failure> {
    let pairs = pairs(seed);
    let agent = Bench::fresh(&bench.wide)?;
    for Pair { first, second, .. } in &pairs {
        tell(&agent, &format!("{first} {second}"))?;
    }
    let graph = PrefixOptions { top_k: 1, linked: 1, ..PrefixOptions::default() };
    // As many spans, and none left out for being too far off.
    let cosine = PrefixOptions { top_k: 2, min_score: -1.0, ..PrefixOptions::default() };
    let mut outcomes = search(&agent, &pairs)?;
    for (way, prefix) in [("graph", graph), ("cosine alone", cosine)] {
        let read = MemoryOptions { prefix: Some(prefix), ..MemoryOptions::default() };
        let with = |memory: &MemoryOptions, shown: bool| ask(&agent, &pairs, memory, shown);
        let none = with(&MemoryOptions::default(), false)?;
        let all = [with(&read, false)?, with(&shuffled(&read, seed), false)?];
        let found = |answers: &[Generation]| count(&pairs, answers, reads);
        let named = |answers: &[Generation]| count(&pairs, answers, names);
        outcomes.push(Outcome {
            row: format!("{way}: read before the answer"),
            of: pairs.len(),
            memory: Some(found(&all[0])),
            none: Some(found(&none)),
            shuffled: Some(found(&all[1])),
            context: None,
        });
        outcomes.push(Outcome {
            row: format!("{way}: named in the answer"),
            of: pairs.len(),
            memory: Some(named(&all[0])),
            none: Some(named(&none)),
            shuffled: Some(named(&all[1])),
            context: Some(named(&with(&MemoryOptions::default(), true)?)),
        });
    }
    Ok(outcomes)
}

/// How often the second part is among the best of the memory itself, with and without spreading.
fn search(agent: &Agent, pairs: &[Pair]) -> Result<Vec<Outcome>, Failure> {
    let memory = agent.memory().expect("it was told the pairs");
    let (mut spread, mut direct) = (0, 0);
    for pair in pairs {
        let asked = agent.memory_query(&pair.first).map_err(Failure::refused)?;
        let asked = asked.tokens();
        let at = memory.now();
        let near = memory.peek_tokens(at, asked, BEST).map_err(Failure::refused)?;
        direct += usize::from(near.iter().any(|hit| hit.text.contains(pair.came)));
        let linked = memory.peek_associated_tokens(at, asked, BEST).map_err(Failure::refused)?;
        spread += usize::from(linked.iter().any(|hit| hit.text.contains(pair.came)));
    }
    let outcome = |row: String, found: usize| Outcome {
        row,
        of: pairs.len(),
        memory: Some(found as f64),
        ..Outcome::default()
    };
    Ok(vec![
        outcome(format!("spreading activation: among the best {BEST}"), spread),
        outcome(format!("cosine alone: among the best {BEST}"), direct),
    ])
}

fn pairs(seed: u64) -> Vec<Pair> {
    let mut chance = Chance(seed);
    let mut animals = CAME;
    for place in (1..animals.len()).rev() {
        animals.swap(place, (chance.next() % (place as u64 + 1)) as usize);
    }
    let pair = |(index, came): (usize, &'static str)| {
        // Each person with each thing at most once.
        let (who, thing) =
            (WHO[index % WHO.len()], OPENED[(index * 5 + index / WHO.len()) % OPENED.len()]);
        Pair {
            first: format!("{who} opened the {thing}."),
            second: format!("A {came} {}.", chance.pick(&WENT)),
            came,
        }
    };
    animals.into_iter().enumerate().take(PAIRS).map(pair).collect()
}

fn ask(
    agent: &Agent,
    pairs: &[Pair],
    memory: &MemoryOptions,
    shown: bool,
) -> Result<Vec<Generation>, Failure> {
    let asked = |pair: &Pair| {
        let before =
            if shown { format!("{} {}\n", pair.first, pair.second) } else { String::new() };
        (Prompt::Raw(format!("{before}{}", pair.first)), memory.clone())
    };
    answers(agent, pairs.iter().map(asked).collect(), ANSWER)
}

fn count(pairs: &[Pair], answers: &[Generation], is: impl Fn(&Pair, &Generation) -> bool) -> f64 {
    pairs.iter().zip(answers).filter(|(pair, answer)| is(pair, answer)).count() as f64
}

fn reads(pair: &Pair, answer: &Generation) -> bool {
    let read = answer.memory.iter().flat_map(|used| &used.read);
    read.into_iter().any(|read| read.text.contains(pair.came))
}

fn names(pair: &Pair, answer: &Generation) -> bool {
    let mut words = answer.text.split(|c: char| !c.is_alphabetic());
    words.any(|word| word.eq_ignore_ascii_case(pair.came))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::pairs;

    #[test]
    fn no_two_pairs_share_a_part() {
        let pairs = pairs(3);
        let firsts: BTreeSet<&String> = pairs.iter().map(|pair| &pair.first).collect();
        let came: BTreeSet<&str> = pairs.iter().map(|pair| pair.came).collect();
        assert_eq!((firsts.len(), came.len()), (pairs.len(), pairs.len()));
    }
}
