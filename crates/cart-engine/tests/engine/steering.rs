//! Ways of memory into the output beyond the spans that a prompt recalls: the goal, links, neighbours of
//! all spans while a text is scored; and corrections.

use cart_engine::{
    Agent, GenerateOptions, GoalOptions, KnnOptions, LoadOptions, MemoryControl, MemoryOptions,
    PerplexityError, PrefixOptions, Scored, perplexity, perplexity_of,
};
use cart_memory::config::GraphRules;

use crate::given::{Shelf, greedy, raw, shelf};

const TOLD: [&str; 3] =
    ["Tom ate soup in the evening.", "The frog lives in the barn.", "The red boat is old."];

fn with(memory: MemoryOptions, max_tokens: usize) -> GenerateOptions {
    GenerateOptions { memory, top_logprobs: 5, ..greedy(max_tokens) }
}

fn tell(agent: &Agent, text: &str) {
    raw(agent, text, &with(MemoryOptions::write_only(), 0));
}

/// An agent whose memory links what comes one after the other, and consolidates at once.
fn linking(shelf: &Shelf) -> Agent {
    let mut load = LoadOptions::default();
    load.memory.graph = Some(GraphRules::default());
    load.memory.consolidate_threshold = 0.0;
    load.memory.observer_interval = 1;
    Agent::load(&shelf.verified(shelf.tiny().id()), &load).unwrap()
}

fn pulling(residual: f32, max_kl: f32) -> MemoryOptions {
    let goal = Some(GoalOptions { strength: 0.0, residual, max_kl });
    MemoryOptions { goal, ..MemoryOptions::default() }
}

fn goal(strength: f32, max_kl: f32) -> MemoryOptions {
    let goal = Some(GoalOptions { strength, residual: 0.0, max_kl });
    MemoryOptions { goal, ..MemoryOptions::default() }
}

#[test]
fn the_goal_steers_within_its_budget_and_says_how_far() {
    let shelf = shelf();
    let agent = linking(&shelf);
    TOLD.iter().for_each(|told| tell(&agent, told));
    assert!(!agent.memory().unwrap().goal().is_zero());
    let bare = raw(&agent, "One day, Anna", &with(MemoryOptions::default(), 12));
    let still = raw(&agent, "One day, Anna", &with(goal(0.0, 1.0), 12));
    assert_eq!(still.top_logprobs, bare.top_logprobs);
    assert_eq!(still.memory.unwrap().goal_steps, 0);
    for way in [goal, pulling] {
        let free = raw(&agent, "One day, Anna", &with(way(8.0, 100.0), 12));
        let used = free.memory.unwrap();
        assert_eq!((used.goal_steps, used.goal_share), (12, 1.0));
        assert!(used.goal_kl > 0.05, "{used:?}");
        assert!((used.kl.unwrap() - used.goal_kl).abs() < 1e-9, "{used:?}");
        let bound = raw(&agent, "One day, Anna", &with(way(8.0, 0.01), 12));
        let used = bound.memory.unwrap();
        assert!(used.goal_kl <= 0.01 + 1e-9 && used.goal_share < 1.0, "{used:?}");
        // A goal that nothing has led to steers elsewhere.
        let control = MemoryControl::Shuffled(3);
        let shuffled = MemoryOptions { control, ..way(8.0, 100.0) };
        let shuffled = raw(&agent, "One day, Anna", &with(shuffled, 12));
        assert_ne!(shuffled.top_logprobs, free.top_logprobs);
    }
}

#[test]
fn steering_leaves_the_keys_that_memory_is_written_with_as_they_are() {
    let shelf = shelf();
    let agent = linking(&shelf);
    TOLD.iter().for_each(|told| tell(&agent, told));
    let fork = agent.fork();
    let write = |agent: &Agent, memory: MemoryOptions| {
        let memory = MemoryOptions { write: true, ..memory };
        raw(agent, "The frog sang all night.", &with(memory, 0));
        let memory = agent.memory().unwrap();
        let (_, slot) = memory.slots().find(|(_, slot)| slot.value.text.contains("sang")).unwrap();
        slot.key.clone()
    };
    assert_eq!(write(&agent, pulling(8.0, 100.0)), write(&fork, MemoryOptions::default()));
}

#[test]
fn what_came_after_is_read_along_the_links() {
    let shelf = shelf();
    let agent = linking(&shelf);
    tell(&agent, "Vera opened the gate. A grey donkey drank milk. Bob went home.");
    let prefix = PrefixOptions { min_score: -1.0, ..PrefixOptions::default() };
    let linked = |linked: usize| {
        let prefix = Some(PrefixOptions { linked, ..prefix.clone() });
        let memory = MemoryOptions { prefix, ..MemoryOptions::default() };
        let used = raw(&agent, "Vera opened the gate.", &with(memory, 1)).memory.unwrap();
        used.read.into_iter().map(|read| read.text).collect::<Vec<String>>()
    };
    assert_eq!(linked(0), ["Vera opened the gate."]);
    assert_eq!(linked(1), ["Vera opened the gate.", "A grey donkey drank milk."]);
}

#[test]
fn what_was_said_last_answers_and_what_it_corrects_is_kept() {
    let shelf = shelf();
    let agent = shelf.tiny();
    for told in
        ["The code of the red boat is 4821.", "Tom ate soup.", "The code of the red boat is 1759."]
    {
        tell(&agent, told);
    }
    let asked = with(MemoryOptions::read_only(), 6);
    let answer = raw(&agent, "The code of the red boat is", &asked);
    assert!(answer.text.contains("1759"), "{}", answer.text);
    let memory = agent.memory().unwrap();
    assert!(memory.slots().all(|(_, slot)| slot.validity.until.is_none()));
}

#[test]
fn a_text_is_scored_with_memory_and_with_a_text_before_it() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let text = "Vera has an old blue boat with 17 windows. The pilot sold 52 green lamps to a baker. \
                Nobody saw the grey donkey of the miller after Sunday. In the evening Oscar counts 39 \
                stones. A tall nurse wrote to Lima about 84 horses and 63 broken bottles.";
    let plain = perplexity(&agent, text, 64).unwrap();
    assert!(plain.memory.is_empty());
    let knn = MemoryOptions { knn: Some(KnnOptions::of_all()), ..MemoryOptions::default() };
    let scored = Scored { text, chunk: 64, memory: knn, ..Scored::default() };
    let empty = perplexity_of(&agent, &scored).unwrap();
    assert_eq!(empty.perplexity.to_bits(), plain.perplexity.to_bits());
    raw(&agent, text, &with(MemoryOptions::write_only(), 0));
    let known = perplexity_of(&agent, &scored).unwrap();
    assert!(known.perplexity < 0.9 * plain.perplexity, "{known:?} {plain:?}");
    assert!(known.memory[0].knn_steps > 0 && known.memory[0].kl.unwrap() > 0.0, "{known:?}");
    let before = Scored { memory: MemoryOptions::default(), before: text, ..scored.clone() };
    let read = perplexity_of(&agent, &before).unwrap();
    assert_eq!(read.scored, plain.scored);
    assert!((read.perplexity / plain.perplexity - 1.0).abs() > 1e-6, "{read:?} {plain:?}");
    let both = Scored { before: text, memory: MemoryOptions::read_only(), ..scored };
    let refused = perplexity_of(&agent, &both);
    assert!(matches!(refused, Err(PerplexityError::BeforeAndPrefix)), "{refused:?}");
}
