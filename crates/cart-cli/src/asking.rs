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
pub(crate) fn answers(
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
pub(crate) fn writings(
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
    let of_agent = |(prompt, options)| Asked { agent: agent.clone(), prompt, options };
    each(asked.into_iter().map(of_agent).collect())
}

/// Something asked of an agent.
pub(crate) struct Asked {
    /// All that are asked together have one model, and each may have a memory of its own.
    pub(crate) agent: Agent,
    pub(crate) prompt: Prompt,
    pub(crate) options: GenerateOptions,
}

/// Asks all, some beside each other, and gives what came of each in order.
pub(crate) fn each(asked: Vec<Asked>) -> Result<Vec<Generation>, Failure> {
    let mut answers: Vec<Option<Generation>> = asked.iter().map(|_| None).collect();
    let mut waiting = asked.into_iter().enumerate();
    let mut running: Vec<(usize, Agent, Session)> = Vec::new();
    loop {
        let free = BESIDE - running.len();
        for (index, Asked { agent, prompt, options }) in waiting.by_ref().take(free) {
            let session = Session::start(&agent, &prompt, &options).map_err(Failure::refused)?;
            running.push((index, agent, session));
        }
        let Some(model) = running.first().map(|(_, agent, _)| agent.clone()) else {
            let all = answers.into_iter().map(|answer| answer.expect("each session ended"));
            return Ok(all.collect());
        };
        if interrupted() {
            return Err(Failure::refused_with("interrupted", "nothing was saved"));
        }
        let mut sessions: Vec<&mut Session> =
            running.iter_mut().map(|(_, _, session)| session).collect();
        for event in step_many(&model, &mut sessions) {
            event.map_err(Failure::refused)?;
        }
        for at in (0..running.len()).rev() {
            if running[at].2.finished().is_some() {
                let (index, agent, session) = running.remove(at);
                answers[index] = Some(session.finish(&agent).map_err(Failure::refused)?);
            }
        }
    }
}

/// A text that is read into memory, and nothing more.
pub(crate) fn telling() -> GenerateOptions {
    GenerateOptions {
        max_tokens: Some(0),
        memory: MemoryOptions::write_only(),
        ..GenerateOptions::default()
    }
}

/// Reads a text into memory as `cart run -n 0 --memory --write-only` does.
pub(crate) fn tell(agent: &Agent, text: &str) -> Result<(), Failure> {
    let told = agent.generate(&Prompt::Raw(text.to_owned()), &telling(), |_| {});
    told.map(|_| ()).map_err(Failure::refused)
}

/// The same reading with the memory's texts exchanged.
pub(crate) fn shuffled(memory: &MemoryOptions, seed: u64) -> MemoryOptions {
    MemoryOptions { control: MemoryControl::Shuffled(seed), ..memory.clone() }
}
