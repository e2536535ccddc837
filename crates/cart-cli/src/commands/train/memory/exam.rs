//! What a cartridge remembers: lessons that it never saw, told and asked the way people would.

use cart_engine::{Agent, GenerateOptions, LayersOptions, MemoryOptions, Scored, perplexity_of};
use serde::Serialize;

use super::lessons::{said, told};
use super::task::Lesson;
use crate::asking::{self, Asked};
use crate::failure::Failure;

/// Most tokens of an answer.
const ANSWER: usize = 32;

/// Tokens of a chunk of the other text, and how many chunks are read.
const CHUNK: usize = 512;
const CHUNKS: usize = 8;

/// How many held-out lessons were answered: the name, or the answer of a file, whole and as it is spelled.
#[derive(Serialize)]
pub(super) struct Recall {
    pub(super) of: usize,
    /// With what was told in memory, and the context gone.
    pub(super) memory: usize,
    /// With what another lesson told.
    pub(super) exchanged: usize,
    /// With an empty memory.
    pub(super) none: usize,
    /// Without memory layers, with what was told in the context.
    pub(super) in_context: usize,
    /// What was answered otherwise with memory, of the first that were.
    pub(super) wrong: Vec<Wrong>,
}

/// An answer that was not the lesson's.
#[derive(Serialize)]
pub(super) struct Wrong {
    pub(super) expected: String,
    pub(super) found: String,
}

/// The perplexity of a text that has nothing to do with what memory says.
#[derive(Serialize)]
pub(super) struct Elsewhere {
    pub(super) without: f64,
    /// With the memory layers, and a memory of all held-out lessons.
    pub(super) with: f64,
    /// By how much it changes, in per cent.
    pub(super) change_percent: f64,
}

/// Memory layers alone, reading.
pub(super) fn layers_alone() -> MemoryOptions {
    MemoryOptions { layers: Some(LayersOptions::default()), ..MemoryOptions::default() }
}

impl Recall {
    pub(super) fn of(agent: &Agent, lessons: &[Lesson]) -> Result<Self, Failure> {
        let told = told(agent, lessons)?;
        let mut others = told.clone();
        others.rotate_left(1.min(told.len()));
        let empty = agent.fork();
        empty.set_memory(None).map_err(Failure::bug)?;
        let ask = |agents: &[Agent]| {
            let asked = |(agent, lesson): (&Agent, &Lesson)| Asked {
                agent: agent.clone(),
                prompt: said(agent, &lesson.ask),
                options: answering(layers_alone()),
            };
            answers(agents.iter().zip(lessons).map(asked).collect())
        };
        let shown = lessons.iter().map(|lesson| {
            let shown = format!("{} {}", lesson.told.join(" "), lesson.ask);
            let options = answering(MemoryOptions::default());
            Asked { agent: empty.clone(), prompt: said(&empty, &shown), options }
        });
        let right = |found: &[String]| {
            found.iter().zip(lessons).filter(|(found, lesson)| lesson.is_answered_by(found)).count()
        };
        let memory = ask(&told)?;
        let missed =
            memory.iter().zip(lessons).filter(|(found, lesson)| !lesson.is_answered_by(found));
        let wrong = missed
            .take(8)
            .map(|(found, lesson)| Wrong { expected: lesson.answer.clone(), found: found.clone() });
        Ok(Self {
            of: lessons.len(),
            memory: right(&memory),
            exchanged: right(&ask(&others)?),
            none: right(&ask(&vec![empty.clone(); lessons.len()])?),
            in_context: right(&answers(shown.collect())?),
            wrong: wrong.collect(),
        })
    }
}

impl Elsewhere {
    /// None where the text is shorter than a chunk.
    pub(super) fn of(
        agent: &Agent,
        lessons: &[Lesson],
        text: &str,
    ) -> Result<Option<Self>, Failure> {
        let told: Vec<String> = lessons.iter().flat_map(|lesson| lesson.told.clone()).collect();
        let all = Lesson { told, ..Lesson::default() };
        let agent = told_all(agent, &all)?;
        let Some(tokenizer) = agent.tokenizer() else { return Ok(None) };
        let chunk = CHUNK.min(agent.context_length());
        let tokens =
            tokenizer.encode(text, cart_engine::ParseSpecial::No).map_err(Failure::refused)?;
        if tokens.len() < chunk {
            return Ok(None);
        }
        let text = tokenizer
            .decode(&tokens[..tokens.len().min(CHUNKS * chunk)], cart_engine::ShowSpecial::No)
            .map_err(Failure::refused)?;
        let measure = |memory: MemoryOptions| {
            let scored = Scored { text: &text, chunk, before: "", memory };
            let measured = perplexity_of(&agent, &scored).map_err(Failure::refused)?;
            Ok::<_, Failure>(measured.perplexity)
        };
        let (without, with) = (measure(MemoryOptions::default())?, measure(layers_alone())?);
        Ok(Some(Self { without, with, change_percent: 100.0 * (with / without - 1.0) }))
    }
}

fn told_all(agent: &Agent, lesson: &Lesson) -> Result<Agent, Failure> {
    let mut told = told(agent, std::slice::from_ref(lesson))?;
    Ok(told.remove(0))
}

fn answering(memory: MemoryOptions) -> GenerateOptions {
    GenerateOptions {
        max_tokens: Some(ANSWER),
        stop: vec!["\n".to_owned()],
        memory,
        ..GenerateOptions::default()
    }
}

fn answers(questions: Vec<Asked>) -> Result<Vec<String>, Failure> {
    let answers = asking::each(questions)?;
    Ok(answers.into_iter().map(|answer| answer.text.trim().to_owned()).collect())
}
