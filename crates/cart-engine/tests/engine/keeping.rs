//! Sessions that go on with another agent of the same weights, keys and values kept.

use cart_engine::{
    Agent, GenerateOptions, Generation, KnnOptions, KnnScope, MemoryOptions, PrefixOptions, Prompt,
    Session, StartError, StepEvent,
};

use crate::given::{fixture, greedy, raw, shelf};

const FACT: &str = "The code of the red boat is 4821.";
const QUESTION: &str = "The code of the red boat is";

fn with(memory: MemoryOptions) -> GenerateOptions {
    GenerateOptions { memory, ignore_eos: true, ..greedy(24) }
}

/// The same weights with a memory of its own, which was told something.
fn told(agent: &Agent, text: &str) -> Agent {
    let other = agent.fork();
    let options = GenerateOptions { memory: MemoryOptions::write_only(), ..greedy(0) };
    raw(&other, text, &options);
    other
}

fn observations(agent: &Agent) -> u64 {
    agent.memory().map_or(0, |memory| memory.counters().observations)
}

/// Begins with one agent and goes on with another after a few tokens.
fn flipped(from: &Agent, to: &Agent, options: &GenerateOptions) -> Generation {
    let mut session = Session::start(from, &Prompt::Raw(QUESTION.to_owned()), options).unwrap();
    while session.token_ids().len() < 4 {
        session.step(from).unwrap();
    }
    session.keep_on(from, to).unwrap();
    while session.finished().is_none() {
        // Nothing is read again: each step gives a token.
        assert!(matches!(session.step(to).unwrap(), StepEvent::Generated(_)));
    }
    session.finish(to).unwrap()
}

#[test]
fn a_kept_session_asks_and_tells_the_other_memory() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let other = told(&agent, FACT);
    let knn = KnnOptions { min_cosine: 0.0, scope: KnnScope::All, ..KnnOptions::default() };
    let options = with(MemoryOptions { knn: Some(knn), write: true, ..MemoryOptions::default() });
    let bare = raw(&agent.fork(), QUESTION, &options);
    assert_eq!(bare.memory.unwrap().knn_steps, 0);

    let kept = flipped(&agent, &other, &options);
    let used = kept.memory.unwrap();
    assert_eq!(kept.token_ids[..4], bare.token_ids[..4]);
    assert!(used.knn_steps > 0 && used.knn_steps <= 20, "{used:?}");
    assert!(used.slots > 0 && used.read.iter().any(|read| read.text == FACT), "{used:?}");
    // What the old agent's memory never had to be told, the new one's was.
    assert_eq!(observations(&agent), 0);
    assert_eq!(observations(&other), 1 + used.written as u64);
    assert!(used.written > 0);
}

#[test]
fn what_was_recalled_stays_with_the_keys_and_values() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let knowing = told(&agent, FACT);
    let prefix = PrefixOptions { min_score: -1.0, ..PrefixOptions::default() };
    let options = with(MemoryOptions { prefix: Some(prefix), ..MemoryOptions::default() });
    let whole = raw(&knowing, QUESTION, &options);
    assert!(whole.memory.as_ref().unwrap().prefix_tokens > 0);
    assert_ne!(whole.text, raw(&agent, QUESTION, &options).text, "the prefix says nothing");

    let kept = flipped(&knowing, &agent, &options);
    assert_eq!((&kept.text, &kept.logprobs), (&whole.text, &whole.logprobs));
    // Without memory there is nothing to turn.
    let bare = raw(&agent, QUESTION, &with(MemoryOptions::default()));
    let kept = flipped(&agent, &knowing, &with(MemoryOptions::default()));
    assert_eq!((kept.text, kept.logprobs), (bare.text, bare.logprobs));
}

#[test]
fn keys_and_values_of_other_weights_are_not_kept() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let other = shelf.agent(shelf.import(&fixture("logits/llama-f32-tied")));
    let options = with(MemoryOptions::default());
    let mut session = Session::start(&agent, &Prompt::Raw(QUESTION.to_owned()), &options).unwrap();
    session.step(&agent).unwrap();
    let refused = session.keep_on(&agent, &other).unwrap_err();
    assert!(matches!(refused, StartError::OtherWeights { .. }), "{refused}");
    session.step(&agent).unwrap();
    assert_eq!(session.token_ids(), &raw(&agent, QUESTION, &options).token_ids[..2]);
}
