//! Memory in the loop: exact where it is empty, written while the model generates, saved and
//! restored, and of one space.

use cart_engine::{
    Agent, GenerateOptions, GoalOptions, KnnOptions, KnnScope, LoadError, LoadOptions,
    MemoryControl, MemoryOptions, MemorySectionError, Message, PrefixOptions, Prompt, SaveError,
    Session, StepError, StepEvent, step_many,
};
use cart_memory::{RestoreError, StoreKind};

use crate::given::{fixture, greedy, raw, shelf};

const FACT: &str = "The code of the red boat is 4821.";
const QUESTION: &str = "The code of the red boat is";

fn with(memory: MemoryOptions, max_tokens: usize) -> GenerateOptions {
    GenerateOptions { memory, top_logprobs: 5, ..greedy(max_tokens) }
}

/// Reads whatever is there, however far.
fn eager() -> MemoryOptions {
    MemoryOptions {
        prefix: Some(PrefixOptions { min_score: -1.0, linked: 2, ..PrefixOptions::default() }),
        knn: Some(KnnOptions { min_cosine: 0.0, scope: KnnScope::All, ..KnnOptions::default() }),
        goal: Some(GoalOptions::default()),
        compare: true,
        ..MemoryOptions::default()
    }
}

fn tell(agent: &Agent, text: &str) {
    let told = raw(agent, text, &with(MemoryOptions::write_only(), 0));
    assert!(told.token_ids.is_empty());
    assert_eq!(told.memory.unwrap().written, 1);
}

#[test]
fn empty_memory_is_exact_to_the_bit() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let bare = raw(&agent, QUESTION, &with(MemoryOptions::default(), 24));
    let empty = raw(&agent, QUESTION, &with(eager(), 24));
    agent.update_memory(|memory| assert!(memory.is_empty())).unwrap();
    let born = raw(&agent, QUESTION, &with(eager(), 24));
    for with_memory in [empty, born] {
        assert_eq!(with_memory.token_ids, bare.token_ids);
        assert_eq!(with_memory.top_logprobs, bare.top_logprobs);
        assert_eq!(bits(&with_memory.logprobs), bits(&bare.logprobs));
        let used = with_memory.memory.unwrap();
        assert!(used.read.is_empty() && used.prefix_tokens == 0 && used.knn_steps == 0);
        assert_eq!((used.delta_logprob, used.kl), (Some(0.0), Some(0.0)));
    }
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn writing_does_not_change_what_is_generated() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let bare = raw(&agent, "One day, Anna", &with(MemoryOptions::default(), 40));
    let written = raw(&agent, "One day, Anna", &with(MemoryOptions::write_only(), 40));
    assert_eq!(written.token_ids, bare.token_ids);
    let memory = agent.memory().unwrap();
    let used = written.memory.unwrap();
    assert_eq!(used.slots_added, memory.report().stm.slots);
    assert!(used.slots_added >= 2, "{used:?}");
    // Whole sentences, in order, with everything that was read but nothing else.
    let texts: Vec<&str> = memory.slots().map(|(_, slot)| slot.value.text.as_str()).collect();
    assert!(texts[0].starts_with("One day, Anna went") && texts[0].ends_with('.'), "{texts:?}");
    let all = format!("One day, Anna{}", bare.text);
    assert!(texts.iter().all(|text| all.contains(text)), "{texts:?}\n{all}");
    for (_, slot) in memory.slots() {
        assert_eq!(slot.token_keys.len(), slot.value.token_ids.len());
    }
    let energies: Vec<f32> = memory.slots().map(|(_, slot)| slot.energy).collect();
    assert!(energies.windows(2).any(|pair| pair[0] != pair[1]), "{energies:?}");
}

#[test]
fn chats_are_remembered_without_their_markers() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let messages = vec![
        Message::new("user", "An old question."),
        Message::new("assistant", "An old answer."),
        Message::new("user", "My name is Vera. My boat is red."),
    ];
    let options = with(MemoryOptions::write_only(), 60);
    agent.generate(&Prompt::Chat(messages), &options, |_| {}).unwrap();
    let memory = agent.memory().unwrap();
    let slots: Vec<(&str, &str)> = memory
        .slots()
        .filter(|(at, _)| at.store == StoreKind::Stm)
        .map(|(_, slot)| (slot.source.as_str(), slot.value.text.as_str()))
        .collect();
    assert_eq!(slots[..2], [("user", "My name is Vera."), ("user", "My boat is red.")]);
    assert!(
        slots.len() > 2 && slots[2..].iter().all(|(source, _)| *source == "assistant"),
        "{slots:?}"
    );
    assert!(slots.iter().all(|(_, text)| !text.contains("im_") && !text.contains("old")));
}

#[test]
fn a_fact_that_was_told_comes_back_and_its_use_is_reported() {
    let shelf = shelf();
    let agent = shelf.tiny();
    for fact in [FACT, "Tom ate soup in the evening.", "The frog lives in the barn."] {
        tell(&agent, fact);
    }
    let bare = raw(&agent, QUESTION, &with(MemoryOptions::default(), 6));
    assert!(!bare.text.contains("4821"), "{}", bare.text);
    let options = MemoryOptions { compare: true, ..MemoryOptions::read_only() };
    let recalled = raw(&agent, QUESTION, &with(options, 6));
    let used = recalled.memory.unwrap();
    assert_eq!(used.read[0].text, FACT, "{used:?}");
    assert_eq!(used.slots, 3);
    assert!(used.prefix_tokens > 8);
    assert!(recalled.text.contains("4821"), "{} {used:?}", recalled.text);
    assert!(used.delta_logprob.unwrap() > 0.5 && used.kl.unwrap() > 0.1, "{used:?}");
    assert!(used.micros_per_token > 0.0);
    assert_eq!(agent.memory().unwrap().counters().recalls, 1);
}

#[test]
fn what_was_recalled_before_is_not_read_again_and_gives_the_same_bits() {
    let shelf = shelf();
    let answers = |prefix_cache| {
        let agent = shelf.tiny_with(&LoadOptions { prefix_cache, ..LoadOptions::default() });
        tell(&agent, FACT);
        tell(&agent, "Tom ate soup in the evening.");
        let prefix =
            PrefixOptions { min_score: -1.0, top_k: 2, linked: 0, ..PrefixOptions::default() };
        let ask = |question| {
            let memory = MemoryOptions { prefix: Some(prefix.clone()), ..eager() };
            let found = raw(&agent, question, &with(memory, 6));
            let used = found.memory.unwrap();
            assert_eq!(used.read.len(), 2);
            (found.token_ids, bits(&found.logprobs), used.prefix_tokens)
        };
        ([QUESTION, "What did Tom eat?", QUESTION].map(ask), agent.prefix_cache())
    };
    let (plain, none) = answers(0);
    let (kept, cache) = answers(64 << 20);
    assert_eq!(kept, plain);
    assert_eq!((none.span_hits, none.span_misses, none.bytes), (0, 0, 0));
    // Two facts and what stands before them.
    assert_eq!((cache.span_misses, cache.span_hits, cache.entries), (3, 6, 3));
    let positions = 2 * plain[0].2 as u64;
    assert_eq!(cache.tokens, positions, "each is read once for three answers");
    // Enough for one span at a time.
    let (small, cache) = answers(cache.bytes * 3 / 4);
    assert_eq!(small, plain);
    assert!(cache.span_hits > 0 && cache.span_misses > 3, "{cache:?}");
}

#[test]
fn a_shuffled_memory_reads_as_much_and_knows_nothing() {
    let shelf = shelf();
    let agent = shelf.tiny();
    for fact in [FACT, "Tom ate soup in the evening.", "The frog lives in the barn."] {
        tell(&agent, fact);
    }
    let before = agent.memory().unwrap().snapshot();
    let control = MemoryControl::Shuffled(1);
    let options = MemoryOptions { control, ..MemoryOptions::read_only() };
    let shuffled = raw(&agent, QUESTION, &with(options, 6));
    let used = shuffled.memory.unwrap();
    assert_eq!(used.read.len(), 1);
    assert_ne!(used.read[0].text, FACT);
    assert!(!shuffled.text.contains("4821"), "{}", shuffled.text);
    assert_eq!(agent.memory().unwrap().snapshot(), before, "a control leaves no trace");
}

#[test]
fn the_same_calls_give_the_same_memory() {
    let shelf = shelf();
    let memory = || {
        let agent = shelf.tiny();
        tell(&agent, FACT);
        raw(&agent, QUESTION, &with(MemoryOptions::on(), 12));
        agent.memory().unwrap().snapshot()
    };
    assert_eq!(memory(), memory());
}

#[test]
fn the_last_token_is_told_alike_by_a_step_with_others_and_at_the_end() {
    let shelf = shelf();
    let told = |steps_on: bool| {
        let agent = shelf.tiny();
        let options = with(MemoryOptions::write_only(), 7);
        let prompt = Prompt::Raw("One day, Anna".into());
        let mut session = Session::start(&agent, &prompt, &options).unwrap();
        while session.finished().is_none() {
            session.step(&agent).unwrap();
        }
        if steps_on {
            let mut other = Session::start(&agent, &prompt, &greedy(4)).unwrap();
            let mut stepped = step_many(&agent, &mut [&mut other, &mut session]);
            assert!(matches!(stepped.pop(), Some(Ok(StepEvent::Prefilled { .. }))));
            assert!(matches!(session.step(&agent), Err(StepError::Finished(_))));
        }
        session.finish(&agent).unwrap();
        agent.memory().unwrap().snapshot()
    };
    assert_eq!(told(true), told(false));
}

#[test]
fn save_load_save_gives_the_same_id_and_recalls_the_same() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let nothing = agent.save_memory(&shelf.store);
    assert!(matches!(nothing, Err(SaveError::NoMemory)), "{nothing:?}");
    tell(&agent, FACT);
    tell(&agent, "Tom ate soup in the evening.");
    let saved = agent.save_memory(&shelf.store).unwrap();
    assert_eq!(saved.slots, 2);
    assert!(saved.new_bytes > 0);
    assert_eq!(saved.manifest.model, agent.manifest().model);
    assert_eq!(saved.manifest.origin, agent.manifest().origin);

    let loaded = shelf.agent(saved.id);
    assert_eq!(loaded.space(), agent.space());
    assert_eq!(loaded.memory().unwrap().snapshot(), agent.memory().unwrap().snapshot());
    let again = loaded.save_memory(&shelf.store).unwrap();
    assert_eq!((again.id, again.new_bytes), (saved.id, 0));

    let options = with(MemoryOptions::read_only(), 6);
    assert_eq!(raw(&loaded, QUESTION, &options).text, raw(&agent, QUESTION, &options).text);
    tell(&loaded, "The frog lives in the barn.");
    assert_ne!(loaded.save_memory(&shelf.store).unwrap().id, saved.id);
}

#[test]
fn a_memory_of_another_space_is_refused() {
    let shelf = shelf();
    let agent = shelf.tiny();
    tell(&agent, FACT);
    let saved = agent.save_memory(&shelf.store).unwrap();
    let small = shelf.verified(shelf.import(&fixture("logits/llama-f32-tied")));
    let mut mixed = small.manifest().clone();
    mixed.memory.clone_from(&saved.manifest.memory);
    for (what, blob) in saved.manifest.uses() {
        if what.starts_with("memory") {
            mixed.blobs.insert(blob, saved.manifest.blobs[&blob].clone());
        }
    }
    let refused = Agent::load(&shelf.put(&mixed), &LoadOptions::default());
    assert!(
        matches!(
            refused,
            Err(LoadError::Memory(MemorySectionError::Restore(RestoreError::ForeignSpace(_))))
        ),
        "{refused:?}"
    );
    let other = shelf.agent(small.manifest_id());
    let memory = (*agent.memory().unwrap()).clone();
    assert!(other.set_memory(Some(memory.clone())).is_err());
    assert!(other.memory().is_none());
    assert!(shelf.tiny().set_memory(Some(memory)).is_ok());
}

#[test]
fn recurrent_models_read_what_is_recalled_as_tokens() {
    let shelf = shelf();
    for name in ["mamba", "nemotron-h"] {
        let agent = shelf.agent(shelf.import(&fixture("logits").join(name)));
        let tokens = |count: u32, seed: u32| (0..count).map(move |i| (i * i * 7 + seed * i) % 96);
        let told: Vec<u32> = tokens(20, 3).collect();
        let asked: Vec<u32> = tokens(9, 5).collect();
        let generate = |tokens: &[u32], memory, most| {
            agent.generate(&Prompt::Tokens(tokens.to_vec()), &with(memory, most), |_| {}).unwrap()
        };
        let written = generate(&told, MemoryOptions::write_only(), 0).memory.unwrap();
        assert_eq!(written.written, 1, "{name}");
        let span = agent.memory().unwrap().slots().next().unwrap().1.value.token_ids.clone();
        let prefix = MemoryOptions { knn: None, ..eager() };
        let with_memory = generate(&asked, prefix, 6);
        let used = with_memory.memory.unwrap();
        assert_eq!((used.read.len(), used.prefix_tokens), (1, span.len()), "{name}");
        assert!(used.delta_logprob.is_some_and(|delta| delta != 0.0), "{name}: {used:?}");
        let read = generate(&[span, asked].concat(), MemoryOptions::default(), 6);
        assert_eq!(with_memory.token_ids, read.token_ids, "{name}");
        for (a, b) in with_memory.logprobs.iter().zip(&read.logprobs) {
            assert!((a - b).abs() < 1e-4, "{name}: {a} {b}");
        }
    }
}
