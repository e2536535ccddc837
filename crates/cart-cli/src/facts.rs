//! Made-up facts for experiments: things that no model can know, told in one process and asked in
//! another.

use std::collections::BTreeSet;

/// A fact, the ways to ask for it, and the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    /// Whom it is about.
    person: String,
    /// The sentence that is told.
    pub(crate) told: String,
    /// A text whose natural continuation is the answer.
    pub(crate) completion: String,
    /// A question.
    pub(crate) question: String,
    /// The word that must come.
    pub(crate) answer: String,
}

const FIRST: [&str; 24] = [
    "Anna", "Boris", "Clara", "David", "Elena", "Frank", "Greta", "Henry", "Irene", "Jonas",
    "Karen", "Louis", "Maria", "Nadia", "Oscar", "Paula", "Quinn", "Robert", "Sofia", "Thomas",
    "Ursula", "Victor", "Wendy", "Yusuf",
];
const LAST: [&str; 20] = [
    "Almeida", "Becker", "Castillo", "Dumont", "Eriksen", "Ferrari", "Grant", "Hoffman", "Ivanov",
    "Jensen", "Keller", "Lopez", "Moreau", "Novak", "Olsen", "Petrov", "Rossi", "Silva", "Tanaka",
    "Weber",
];
const CITIES: [&str; 16] = [
    "Oslo", "Lisbon", "Nairobi", "Lima", "Kyoto", "Prague", "Cairo", "Dublin", "Hanoi", "Quito",
    "Vienna", "Seville", "Tunis", "Geneva", "Boston", "Warsaw",
];
const COLOURS: [&str; 10] =
    ["red", "blue", "green", "yellow", "purple", "orange", "white", "black", "silver", "pink"];
const PETS: [&str; 10] =
    ["parrot", "turtle", "rabbit", "horse", "snake", "goat", "hamster", "duck", "donkey", "cat"];
const JOBS: [&str; 10] = [
    "baker", "pilot", "farmer", "dentist", "painter", "lawyer", "nurse", "tailor", "plumber",
    "chemist",
];

/// `count` facts about different people, the same for the same seed.
pub(crate) fn generate(count: usize, seed: u64) -> Vec<Fact> {
    let mut chance = Chance(seed);
    let mut people = BTreeSet::new();
    let mut facts = Vec::with_capacity(count);
    while facts.len() < count.min(FIRST.len() * LAST.len()) {
        let person = format!("{} {}", chance.pick(&FIRST), chance.pick(&LAST));
        if people.insert(person.clone()) {
            facts.push(fact(&person, facts.len(), &mut chance));
        }
    }
    facts
}

/// `count` facts about different people, each with the same fact with another answer, which corrects
/// it.
pub(crate) fn corrected(count: usize, seed: u64) -> Vec<(Fact, Fact)> {
    let mut chance = Chance(!seed);
    let mut other = |(index, old): (usize, Fact)| loop {
        let new = fact(&old.person, index, &mut chance);
        if new.answer != old.answer {
            return (old, new);
        }
    };
    generate(count, seed).into_iter().enumerate().map(&mut other).collect()
}

fn fact(person: &str, index: usize, chance: &mut Chance) -> Fact {
    let (told, completion, question, answer) = match index % 5 {
        0 => {
            let answer = (1000 + chance.next() % 9000).to_string();
            let said = format!("The access code of {person} is");
            (
                format!("{said} {answer}."),
                said,
                format!("What is the access code of {person}?"),
                answer,
            )
        }
        1 => {
            let answer = chance.pick(&CITIES).to_owned();
            let said = format!("{person} lives in the city of");
            (
                format!("{said} {answer}."),
                said,
                format!("In which city does {person} live?"),
                answer,
            )
        }
        2 => {
            let answer = chance.pick(&COLOURS).to_owned();
            let said = format!("The favourite colour of {person} is");
            let question = format!("What is the favourite colour of {person}?");
            (format!("{said} {answer}."), said, question, answer)
        }
        3 => {
            let answer = chance.pick(&PETS).to_owned();
            let said = format!("The pet of {person} is a");
            (format!("{said} {answer}."), said, format!("What pet does {person} have?"), answer)
        }
        _ => {
            let answer = chance.pick(&JOBS).to_owned();
            let said = format!("{person} works as a");
            (format!("{said} {answer}."), said, format!("What is the job of {person}?"), answer)
        }
    };
    Fact { person: person.to_owned(), told, completion, question, answer }
}

impl Fact {
    /// Whether an answer's first words hold the answer as a word.
    pub(crate) fn is_answered_by(&self, text: &str) -> bool {
        let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.take(16).any(|word| word.eq_ignore_ascii_case(&self.answer))
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// A number under `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_differ_by_person_and_repeat_by_seed() {
        let facts = generate(40, 7);
        assert_eq!(facts, generate(40, 7));
        assert_ne!(facts, generate(40, 8));
        let people: BTreeSet<&String> = facts.iter().map(|fact| &fact.completion).collect();
        assert_eq!(people.len(), 40);
        assert!(facts.iter().all(|fact| fact.told.starts_with(&fact.completion)));
    }

    #[test]
    fn a_correction_changes_the_answer_alone() {
        for (old, new) in corrected(40, 7) {
            assert_ne!(old.answer, new.answer);
            assert_eq!(old.completion, new.completion);
            assert_eq!(old.question, new.question);
        }
    }

    #[test]
    fn only_the_word_itself_is_an_answer() {
        let fact = Fact { answer: "cat".into(), ..generate(1, 0).remove(0) };
        assert!(fact.is_answered_by(" a Cat, I think"));
        assert!(!fact.is_answered_by(" a catalogue"));
    }
}
