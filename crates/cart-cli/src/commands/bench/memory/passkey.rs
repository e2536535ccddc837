//! Passkeys amid much else: keys are told at five places of a long text of other sentences.

use cart_engine::{Agent, MemoryOptions, Prompt};

use super::outcome::Outcome;
use super::{Bench, perplexity};
use crate::asking::{answers, shuffled};
use crate::facts::Chance;
use crate::failure::Failure;

/// Most tokens of an answer.
const ANSWER: usize = 12;
/// What the keys are of.
const DOORS: [&str; 5] =
    ["harbour office", "old library", "north gate", "glass house", "boat shed"];
const WHO: [&str; 8] = [
    "The postman",
    "A tall woman",
    "My neighbour",
    "The captain",
    "An old teacher",
    "The gardener",
    "A young nurse",
    "The baker's son",
];
const DID: [&str; 8] = [
    "walked slowly to",
    "asked the way to",
    "painted a picture of",
    "told a story about",
    "took the early train to",
    "wrote a long letter about",
    "dreamed again of",
    "came back from",
];
const WHERE: [&str; 8] = [
    "the quiet village",
    "the market square",
    "a small island",
    "the stone bridge",
    "the green valley",
    "a crowded station",
    "the frozen lake",
    "the edge of the forest",
];
const WHEN: [&str; 8] = [
    "before the rain began",
    "on the last day of summer",
    "while the bells were ringing",
    "because the shop was closed",
    "without saying a word",
    "with two friends and a dog",
    "as the sun went down",
    "to everybody's surprise",
];

/// A key and where it is from.
struct Key {
    door: &'static str,
    key: String,
}

/// Right answers of five, for each length of the text. Text that does not fit into the context is not
/// asked about there.
pub(super) fn passkey(bench: &Bench<'_>, seed: u64) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::new();
    for &tokens in &bench.args.filler {
        let mut chance = Chance(seed ^ (tokens as u64) << 20);
        let keys =
            DOORS.map(|door| Key { door, key: (10_000 + chance.next() % 90_000).to_string() });
        let text = text(&bench.wide, tokens, &keys, &mut chance)?;
        let agent = Bench::fresh(&bench.wide)?;
        perplexity::import(&agent, &text)?;
        let read = MemoryOptions::read_only();
        let count = |before: &str, memory: &MemoryOptions| right(&agent, before, &keys, memory);
        let fits = tokens + 512 <= agent.context_length();
        outcomes.push(Outcome {
            row: format!("{tokens} tokens"),
            of: keys.len(),
            memory: Some(count("", &read)?),
            none: Some(count("", &MemoryOptions::default())?),
            shuffled: Some(count("", &shuffled(&read, seed))?),
            context: fits.then(|| count(&text, &MemoryOptions::default())).transpose()?,
        });
    }
    Ok(outcomes)
}

/// Sentences of about `tokens` tokens in all, with the keys among them.
fn text(
    agent: &Agent,
    tokens: usize,
    keys: &[Key],
    chance: &mut Chance,
) -> Result<String, Failure> {
    let tokenizer = agent.tokenizer().expect("an agent without a tokenizer was refused before");
    let (mut text, mut length, mut told) = (String::new(), 0, 0);
    while length < tokens || told < keys.len() {
        let due = tokens * (2 * told + 1) / (2 * keys.len());
        let sentence = if let Some(Key { door, key }) = keys.get(told).filter(|_| length >= due) {
            told += 1;
            format!("The pass key of the {door} is {key}.")
        } else {
            let [who, did, place, when] = [&WHO, &DID, &WHERE, &WHEN].map(|of| chance.pick(of));
            let day = 1 + chance.next() % 364;
            format!("On day {day}, {} {did} {place} {when}.", lower(who))
        };
        length += tokenizer.encode_prompt(&sentence).map_err(Failure::refused)?.len();
        text += &sentence;
        text.push(' ');
    }
    Ok(text)
}

fn lower(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

fn right(
    agent: &Agent,
    before: &str,
    keys: &[Key],
    memory: &MemoryOptions,
) -> Result<f64, Failure> {
    let asked = |key: &Key| {
        (Prompt::Raw(format!("{before}The pass key of the {} is", key.door)), memory.clone())
    };
    let answers = answers(agent, keys.iter().map(asked).collect(), ANSWER)?;
    let says = |(key, text): (&Key, &str)| {
        text.split(|c: char| !c.is_alphanumeric()).any(|word| word == key.key)
    };
    let pairs = keys.iter().zip(answers.iter().map(|answer| answer.text.as_str()));
    Ok(pairs.filter(|&(key, text)| says((key, text))).count() as f64)
}
