//! Perplexities with a memory: of the second half of a text, and of a text that has nothing to do with
//! what is remembered.

use std::path::PathBuf;

use cart_engine::{Agent, KnnOptions, MemoryOptions, PerplexityReport, Scored, Telling};
use cart_memory::Input;

use super::outcome::Outcome;
use super::{Bench, facts};
use crate::asking::shuffled;
use crate::facts::generate;
use crate::failure::Failure;

/// Tokens of a chunk, of which the second half is scored.
const CHUNK: usize = 512;
/// Characters of a text that has nothing to do with the facts.
const UNRELATED: usize = 20_000;
/// Energy of what is read into memory: that of `cart memory import`.
const ENERGY: f32 = 0.8;

/// Texts with a memory of facts, each read as a generation reads it: with the memory's spans recalled, and
/// with neighbours of all spans.
pub(super) fn unrelated(bench: &Bench<'_>, seed: u64) -> Result<Vec<Outcome>, Failure> {
    let facts = generate(bench.args.facts, seed);
    let agent = facts::told(bench, facts.iter())?;
    let told: Vec<&str> = facts.iter().map(|fact| fact.told.as_str()).collect();
    let mut outcomes = Vec::new();
    for (name, text) in texts(bench)? {
        let text: String = text.chars().take(UNRELATED).collect();
        let score = |before: &str, memory: MemoryOptions| score(&agent, &text, before, memory);
        let none = score("", MemoryOptions::default())?;
        let context = in_context(&agent, &told.join("\n"), score)?;
        let usual = MemoryOptions::read_only();
        for (way, memory) in
            [("usual reading", usual.clone()), ("neighbours of all", of_all(usual))]
        {
            outcomes.push(Outcome {
                row: format!("{name}: {way}"),
                of: none.scored,
                memory: Some(score("", memory.clone())?.perplexity),
                none: Some(none.perplexity),
                shuffled: Some(score("", shuffled(&memory, seed))?.perplexity),
                context,
            });
        }
    }
    Ok(outcomes)
}

/// The second half of each text, with neighbours from its first half. The seed moves where the chunks
/// begin.
pub(super) fn halves(bench: &Bench<'_>, seed: u64) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::new();
    for (name, text) in texts(bench)? {
        outcomes.extend(half(bench, &name, &text, seed)?);
    }
    Ok(outcomes)
}

/// The texts that were given, or else a licence, with their names.
fn texts(bench: &Bench<'_>) -> Result<Vec<(String, String)>, Failure> {
    if bench.args.text.is_empty() {
        return Ok(vec![("gpl-3.txt".to_owned(), super::super::TEXT.to_owned())]);
    }
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).map_err(|source| {
            let message = format!("{} can't be read: {source}", path.display());
            Failure::refused_with(message, "give a file of UTF-8 text")
        })?;
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), text))
    };
    bench.args.text.iter().map(read).collect()
}

fn half(bench: &Bench<'_>, name: &str, text: &str, seed: u64) -> Result<Vec<Outcome>, Failure> {
    let (first, second) = text.split_at(line_start(text, text.len() / 2));
    let shift = line_start(second, (seed as usize * 701) % (second.len() / 8).max(1));
    let second = &second[shift..];
    let agent = Bench::fresh(&bench.wide)?;
    import(&agent, first)?;
    let score = |before: &str, memory: MemoryOptions| score(&agent, second, before, memory);
    let none = score("", MemoryOptions::default())?;
    let context = in_context(&agent, first, score)?;
    let knn = of_all(MemoryOptions { prefix: None, ..MemoryOptions::read_only() });
    let both = of_all(MemoryOptions::read_only());
    let mut outcomes = Vec::new();
    for (what, memory) in [("neighbours", knn), ("neighbours, recalled spans", both)] {
        outcomes.push(Outcome {
            row: format!("{name}: {what}"),
            of: none.scored,
            memory: Some(score("", memory.clone())?.perplexity),
            none: Some(none.perplexity),
            shuffled: Some(score("", shuffled(&memory, seed))?.perplexity),
            context,
        });
    }
    Ok(outcomes)
}

/// Tells memory a text as `cart memory import` does.
pub(super) fn import(agent: &Agent, text: &str) -> Result<(), Failure> {
    let telling = Telling { text, whole: false, energy: ENERGY, source: "text" };
    for reading in agent.observations(telling).map_err(Failure::refused)? {
        for seen in reading.map_err(Failure::refused)? {
            let told = agent.tell_memory(|memory| Input::Observe { at: memory.now() + 1, seen });
            told.map_err(Failure::refused)?;
        }
    }
    Ok(())
}

fn score(
    agent: &Agent,
    text: &str,
    before: &str,
    memory: MemoryOptions,
) -> Result<PerplexityReport, Failure> {
    let scored = Scored { text, chunk: CHUNK, before, memory };
    cart_engine::perplexity_of(agent, &scored).map_err(Failure::refused)
}

fn of_all(mut memory: MemoryOptions) -> MemoryOptions {
    memory.knn = Some(KnnOptions::of_all());
    memory
}

/// The perplexity with a text before each chunk; none where both do not fit into the context.
fn in_context(
    agent: &Agent,
    before: &str,
    score: impl Fn(&str, MemoryOptions) -> Result<PerplexityReport, Failure>,
) -> Result<Option<f64>, Failure> {
    if !fits(agent, before)? {
        return Ok(None);
    }
    Ok(Some(score(before, MemoryOptions::default())?.perplexity))
}

/// Whether a text leaves room for a chunk after it.
fn fits(agent: &Agent, text: &str) -> Result<bool, Failure> {
    let Some(tokenizer) = agent.tokenizer() else { return Ok(false) };
    let tokens = tokenizer.encode_prompt(text).map_err(Failure::refused)?.len();
    Ok(tokens + CHUNK <= agent.context_length())
}

/// The first start of a line at or after a byte; the end where there is none.
fn line_start(text: &str, at: usize) -> usize {
    let bytes = &text.as_bytes()[at..];
    if at == 0 {
        0
    } else {
        bytes.iter().position(|&b| b == b'\n').map_or(text.len(), |n| at + n + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::line_start;

    #[test]
    fn a_text_is_cut_where_a_line_begins() {
        assert_eq!(line_start("ab\ncd\n", 0), 0);
        assert_eq!(line_start("ab\ncd\n", 1), 3);
        assert_eq!(line_start("ab\ncd", 3), 5);
    }
}
