//! The two forms of the experiment: with a model that speaks, and with its hidden states alone.

use cart_engine::{Agent, GenerateOptions, MemoryOptions, Telling};
use cart_memory::{Input, Observation};

use super::report::Turn;
use super::told::Person;
use crate::asking::{self, Asked};
use crate::commands::train::memory::said;
use crate::failure::Failure;

/// What is asked.
const QUESTION: &str = "What is my name?";

/// Most tokens of an answer.
const ANSWER: usize = 32;

/// Matches that are looked at, and how much worse than the best one that matches about as well may be.
const MATCHES: usize = 8;
const AS_WELL: f32 = 0.1;

/// How things are told and asked.
pub(super) enum Form {
    /// Text is read and generated, with memory as these options say.
    Model(MemoryOptions),
    /// Sentences are hidden states.
    Embedding,
}

impl Form {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Model(_) => "model",
            Self::Embedding => "embedding",
        }
    }

    /// Tells everybody's memory something, each in a conversation of its own.
    pub(super) fn tell(
        &self,
        people: &mut [Person],
        text: impl Fn(&Person) -> String,
    ) -> Result<Vec<Turn>, Failure> {
        match self {
            Self::Model(reading) => {
                let telling = |person: &Person| Asked {
                    agent: person.agent.clone(),
                    prompt: said(&person.agent, &text(person)),
                    // What is remembered surprises less.
                    options: options(MemoryOptions { write: true, ..reading.clone() }, 0),
                };
                asking::each(people.iter().map(telling).collect())?;
            }
            Self::Embedding => {
                for person in people.iter() {
                    observe(&person.agent, &text(person))?;
                }
            }
        }
        people.iter_mut().map(Person::turn).collect()
    }

    /// What each agent says the name is.
    ///
    /// * `agents`: one for each answer; their memories do not change
    pub(super) fn ask(&self, agents: &[Agent]) -> Result<Vec<String>, Failure> {
        match self {
            Self::Model(reading) => answers(agents, reading),
            Self::Embedding => agents.iter().map(best_match).collect(),
        }
    }

    /// The same without memory; nothing where there is no model that speaks.
    pub(super) fn ask_bare(&self, agents: &[Agent]) -> Result<Vec<String>, Failure> {
        match self {
            Self::Model(_) => answers(agents, &MemoryOptions::default()),
            Self::Embedding => Ok(vec![String::new(); agents.len()]),
        }
    }
}

fn answers(agents: &[Agent], reading: &MemoryOptions) -> Result<Vec<String>, Failure> {
    let asked = |agent: &Agent| Asked {
        // Being asked leaves a trace in a memory, which is not what is measured.
        agent: agent.fork(),
        prompt: said(agent, QUESTION),
        options: options(reading.clone(), ANSWER),
    };
    let answers = asking::each(agents.iter().map(asked).collect())?;
    Ok(answers.into_iter().map(|answer| answer.text.trim().to_owned()).collect())
}

fn options(memory: MemoryOptions, max_tokens: usize) -> GenerateOptions {
    let stop = if max_tokens == 0 { Vec::new() } else { vec!["\n".to_owned()] };
    GenerateOptions { max_tokens: Some(max_tokens), stop, memory, ..GenerateOptions::default() }
}

/// What is said at once surprises as far as its key is from the nearest that is remembered.
fn observe(agent: &Agent, text: &str) -> Result<(), Failure> {
    let telling = Telling { text, whole: true, energy: 0.0, source: "user" };
    let observations = agent.observations(telling).map_err(Failure::refused)?;
    for group in observations {
        for seen in group.map_err(Failure::refused)? {
            agent.tell_memory(|memory| surprising(memory, seen)).map_err(Failure::refused)?;
        }
    }
    Ok(())
}

fn surprising(memory: &cart_memory::UnifiedMemory, seen: Observation) -> Input {
    let nearest = memory.peek(memory.now(), &seen.key, usize::MAX).unwrap_or_default();
    let nearest = nearest.iter().map(|hit| hit.cosine).fold(0.0_f32, f32::max);
    let distance = 1.0 - nearest;
    let energy = memory.energy_from_surprise(distance);
    let seen = Observation { surprise: vec![distance], energy, ..seen };
    Input::Observe { at: memory.now() + 1, seen }
}

/// What the memory says that matches the question; of what matches about as well, what weighs most.
fn best_match(agent: &Agent) -> Result<String, Failure> {
    let query = agent.memory_query(QUESTION).map_err(Failure::refused)?;
    let Some(memory) = agent.memory() else { return Ok(String::new()) };
    let found =
        memory.peek_tokens(memory.now(), query.tokens(), MATCHES).map_err(Failure::refused)?;
    let best = found.iter().map(|hit| hit.cosine).fold(f32::NEG_INFINITY, f32::max);
    let near = found.iter().filter(|hit| hit.cosine >= best - AS_WELL);
    let most = near.max_by(|a, b| a.bias.total_cmp(&b.bias));
    Ok(most.map(|hit| hit.text.clone()).unwrap_or_default())
}
