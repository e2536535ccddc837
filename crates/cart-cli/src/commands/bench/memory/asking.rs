//! Many questions at once, each in a session of its own.

use cart_engine::{
    Agent, GenerateOptions, Generation, MemoryControl, MemoryOptions, Prompt, SamplingOptions,
    Session, step_many,
};

use crate::failure::Failure;
use crate::progress::interrupted;

/// Sessions that run beside each other.
const BESIDE: usize = 16;

/// Asks each question in an empty context, and gives the answers in order.
pub(super) fn answers(
    agent: &Agent,
    questions: Vec<(Prompt, MemoryOptions)>,
    max_tokens: usize,
) -> Result<Vec<Generation>, Failure> {
    let asked = |(prompt, memory)| {
        let max_tokens = Some(max_tokens);
        (prompt, GenerateOptions { max_tokens, memory, ..GenerateOptions::default() })
    };
    generations(agent, questions.into_iter().map(asked).collect())
}

/// Goes on with each beginning, sampled at temperature 0.8; the same for the same seed.
pub(super) fn writings(
    agent: &Agent,
    prompts: Vec<Prompt>,
    memory: &MemoryOptions,
    max_tokens: usize,
    seed: u64,
) -> Result<Vec<Generation>, Failure> {
    let begun = |(index, prompt): (usize, Prompt)| {
        let seed = seed.wrapping_mul(1000).wrapping_add(index as u64);
        let options = GenerateOptions {
            sampling: SamplingOptions { temperature: 0.8, seed, ..SamplingOptions::default() },
            max_tokens: Some(max_tokens),
            ignore_eos: true,
            memory: memory.clone(),
            ..GenerateOptions::default()
        };
        (prompt, options)
    };
    generations(agent, prompts.into_iter().enumerate().map(begun).collect())
}

fn generations(
    agent: &Agent,
    asked: Vec<(Prompt, GenerateOptions)>,
) -> Result<Vec<Generation>, Failure> {
    let mut answers: Vec<Option<Generation>> = asked.iter().map(|_| None).collect();
    let mut waiting = asked.into_iter().enumerate();
    let mut running: Vec<(usize, Session)> = Vec::new();
    loop {
        let free = BESIDE - running.len();
        for (index, (prompt, options)) in waiting.by_ref().take(free) {
            let session = Session::start(agent, &prompt, &options).map_err(Failure::refused)?;
            running.push((index, session));
        }
        if running.is_empty() {
            let all = answers.into_iter().map(|answer| answer.expect("each session ended"));
            return Ok(all.collect());
        }
        if interrupted() {
            return Err(Failure::refused_with("interrupted", "nothing was saved"));
        }
        let mut sessions: Vec<&mut Session> =
            running.iter_mut().map(|(_, session)| session).collect();
        for event in step_many(agent, &mut sessions) {
            event.map_err(Failure::refused)?;
        }
        for at in (0..running.len()).rev() {
            if running[at].1.finished().is_some() {
                let (index, session) = running.remove(at);
                answers[index] = Some(session.finish(agent).map_err(Failure::refused)?);
            }
        }
    }
}

/// Reads a text into memory as `cart run -n 0 --memory --write-only` does.
pub(super) fn tell(agent: &Agent, text: &str) -> Result<(), Failure> {
    let options = GenerateOptions {
        max_tokens: Some(0),
        memory: MemoryOptions::write_only(),
        ..GenerateOptions::default()
    };
    let told = agent.generate(&Prompt::Raw(text.to_owned()), &options, |_| {});
    told.map(|_| ()).map_err(Failure::refused)
}

/// The same reading with the memory's texts exchanged.
pub(super) fn shuffled(memory: &MemoryOptions, seed: u64) -> MemoryOptions {
    MemoryOptions { control: MemoryControl::Shuffled(seed), ..memory.clone() }
}
