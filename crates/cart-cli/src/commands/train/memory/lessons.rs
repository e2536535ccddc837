//! From lessons in words to what a model sees of them: told to a memory as in a conversation, asked as
//! in another.

use cart_engine::{
    Agent, GenerateOptions, LayersOptions, Message, ParseSpecial, Prompt, SamplingOptions, Session,
    ShowSpecial,
};
use cart_memory::Input;
use cart_train::memory::{Lesson as Taught, Remembered};

use super::task::Lesson;
use crate::asking::{self, Asked, telling};
use crate::failure::Failure;

/// Lessons whose memories are there together.
const TOGETHER: usize = 64;

/// Tokens of an anchor.
const ANCHOR: usize = 72;

/// Questions that have nothing to do with what anybody told.
const OTHERWISE: [&str; 8] = [
    "What is the capital of France?",
    "How do I boil an egg?",
    "Write a short poem about the sea.",
    "What is 12 plus 30?",
    "Why is the sky blue?",
    "Give me three tips for a good night's sleep.",
    "What is the largest planet?",
    "Tell me a short story about a fox.",
];

/// Something said to the agent; without a chat template, a text to be gone on with.
pub(crate) fn said(agent: &Agent, text: &str) -> Prompt {
    match agent.chat_template() {
        Some(_) => Prompt::Chat(vec![Message::new("user", text)]),
        None => Prompt::Raw(text.to_owned()),
    }
}

/// The agent with an empty memory of its own, for each lesson, told what the lesson tells.
pub(super) fn told(agent: &Agent, lessons: &[Lesson]) -> Result<Vec<Agent>, Failure> {
    let mut agents = Vec::new();
    for _ in lessons {
        let fresh = agent.fork();
        fresh.set_memory(None).map_err(Failure::bug)?;
        agents.push(fresh);
    }
    let rounds = lessons.iter().map(|lesson| lesson.told.len()).max().unwrap_or(0);
    for round in 0..rounds {
        let mut tellings = Vec::new();
        for (agent, lesson) in agents.iter().zip(lessons) {
            let Some(text) = lesson.told.get(round) else { continue };
            if round > 0 && lesson.cycles > 0 {
                let cycles = lesson.cycles;
                let cycle =
                    |memory: &cart_memory::UnifiedMemory| Input::Cycle { at: memory.now(), cycles };
                agent.tell_memory(cycle).map_err(Failure::refused)?;
            }
            let prompt = said(agent, text);
            tellings.push(Asked { agent: agent.clone(), prompt, options: telling() });
        }
        asking::each(tellings)?;
    }
    Ok(agents)
}

/// What memory layers beside some layers see of each lesson.
pub(super) fn taught(
    agent: &Agent,
    lessons: &[Lesson],
    layers: &[usize],
    mut done: impl FnMut(usize),
) -> Result<Vec<Taught>, Failure> {
    let mut taught = Vec::new();
    for lessons in lessons.chunks(TOGETHER) {
        for (agent, lesson) in told(agent, lessons)?.iter().zip(lessons) {
            let options = LayersOptions::default();
            let seen = agent.remembered_states(layers, &options).map_err(Failure::refused)?;
            let memory = Remembered { states: seen.states, bias: seen.bias };
            let prompt = prompt_tokens(agent, &said(agent, &lesson.ask))?;
            taught.push(Taught { memory, prompt, answer: answer_tokens(agent, &lesson.answer)? });
        }
        done(taught.len());
    }
    Ok(taught)
}

/// Texts that the model goes on with by itself: from nothing, and after questions.
pub(super) fn anchors(agent: &Agent, count: usize, seed: u64) -> Result<Vec<Vec<u32>>, Failure> {
    let mut wanted = Vec::new();
    for place in 0..count {
        let prompt = match OTHERWISE.get(place / 2).filter(|_| place % 2 == 0) {
            Some(question) => said(agent, question),
            None => Prompt::Tokens(beginning(agent)),
        };
        let options = GenerateOptions {
            sampling: SamplingOptions {
                temperature: 1.0,
                seed: seed.wrapping_add(place as u64),
                ..SamplingOptions::default()
            },
            max_tokens: Some(ANCHOR),
            ignore_eos: true,
            ..GenerateOptions::default()
        };
        wanted.push(Asked { agent: agent.clone(), prompt, options });
    }
    let texts = asking::each(wanted)?;
    let whole = |text: &cart_engine::Generation| {
        let tokens: Vec<u32> = text.prompt_ids.iter().chain(&text.token_ids).copied().collect();
        (tokens.len() >= ANCHOR).then(|| tokens[tokens.len() - ANCHOR..].to_vec())
    };
    Ok(texts.iter().filter_map(whole).collect())
}

/// What a memory is that was told each of these texts.
pub(super) fn others(
    agent: &Agent,
    texts: &[Vec<u32>],
    layers: &[usize],
) -> Result<Vec<Remembered>, Failure> {
    let Some(tokenizer) = agent.tokenizer() else { return Ok(Vec::new()) };
    let mut lessons = Vec::new();
    for text in texts {
        let text = tokenizer.decode(text, ShowSpecial::No).map_err(Failure::refused)?;
        let told = vec![text.trim().to_owned()];
        lessons.push(Lesson { told, ..Lesson::default() });
    }
    lessons.retain(|lesson| !lesson.told[0].is_empty());
    let options = LayersOptions::default();
    let seen = told(agent, &lessons)?.into_iter().map(|agent| {
        let seen = agent.remembered_states(layers, &options).map_err(Failure::refused)?;
        Ok(Remembered { states: seen.states, bias: seen.bias })
    });
    seen.collect()
}

/// What a text begins with where nothing was said.
fn beginning(agent: &Agent) -> Vec<u32> {
    let special =
        agent.tokenizer().map(|tokenizer| tokenizer.special().clone()).unwrap_or_default();
    vec![special.bos.or(special.eos.first().copied()).unwrap_or(0)]
}

/// The tokens of a prompt.
pub(crate) fn prompt_tokens(agent: &Agent, prompt: &Prompt) -> Result<Vec<u32>, Failure> {
    let options = GenerateOptions { max_tokens: Some(0), ..GenerateOptions::default() };
    let session = Session::start(agent, prompt, &options).map_err(Failure::refused)?;
    Ok(session.prompt_ids().to_vec())
}

/// The tokens of an answer, with what ends it.
pub(crate) fn answer_tokens(agent: &Agent, text: &str) -> Result<Vec<u32>, Failure> {
    let tokenizer = agent.tokenizer().ok_or_else(|| {
        Failure::refused_with("the cartridge has no tokenizer", "pack the model with its tokenizer")
    })?;
    let text = match agent.chat_template() {
        Some(_) => text.to_owned(),
        None => format!(" {text}"),
    };
    let mut tokens = tokenizer.encode(&text, ParseSpecial::No).map_err(Failure::refused)?;
    tokens.extend(tokenizer.special().eos.first());
    Ok(tokens)
}
