//! Sessions that are saved and continued, and prompts that are read once.

use cart_engine::{
    Agent, GenerateOptions, KvFormat, LoadOptions, MemoryOptions, Message, Prompt, ResumeError,
    SavedSession, Session, StartError, StepEvent, step_many, with_session, without_session,
};

use crate::given::{Shelf, fixture, shelf};

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), ignore_eos: true, ..Default::default() }
}

/// Tokens of a prompt, the same for the same seed.
fn prompt(len: usize, seed: u32) -> Vec<u32> {
    (0..len as u32).map(|index| (index * 7919 + seed * 31 + 5) % 250).collect()
}

fn tiny() -> (Shelf, cart_format::ManifestId) {
    let shelf = shelf();
    let id = shelf.import(&fixture("tiny"));
    (shelf, id)
}

fn load(shelf: &Shelf, id: cart_format::ManifestId, options: &LoadOptions) -> Agent {
    Agent::load(&shelf.verified(id), options).unwrap()
}

fn run(agent: &Agent, session: &mut Session) -> Vec<(u32, f64)> {
    let mut chosen = Vec::new();
    while session.finished().is_none() {
        if let StepEvent::Generated(event) = session.step(agent).unwrap() {
            chosen.push((event.token, event.logprob));
        }
    }
    chosen
}

fn start(agent: &Agent, tokens: &[u32], max_tokens: usize) -> Session {
    Session::start(agent, &Prompt::Tokens(tokens.to_vec()), &options(max_tokens)).unwrap()
}

#[test]
fn a_session_from_the_store_goes_on_as_if_it_had_never_stopped() {
    let (shelf, id) = tiny();
    for kv in [KvFormat::F32, KvFormat::F16] {
        let agent = load(&shelf, id, &LoadOptions { kv: Some(kv), ..LoadOptions::default() });
        let tokens = prompt(300, 1);
        let whole = run(&agent, &mut start(&agent, &tokens, 24));
        for first in [0, 1, 10] {
            let mut session = start(&agent, &tokens, first);
            let mut found = run(&agent, &mut session);
            let saved = session.save(&agent).unwrap();
            let (manifest, new_bytes) =
                with_session(agent.manifest(), &saved, &shelf.store).unwrap();
            // One token later, all that is new may be in the store from the other format.
            assert!(new_bytes > 0 || first == 1, "{kv}, after {first}");
            let verified = shelf.verified(shelf.store.put_manifest(&manifest).unwrap());
            let later = Agent::load(&verified, &LoadOptions::default()).unwrap();
            let back = SavedSession::read(&verified).unwrap();
            assert_eq!(back, saved);
            assert_eq!(back.kv(), kv);
            let mut session = Session::resume(&later, &back, &[], &options(24 - first)).unwrap();
            found.extend(run(&later, &mut session));
            assert_eq!(found, whole, "{kv}, after {first}");
            assert_eq!(&without_session(&manifest).blobs, &agent.manifest().blobs);
        }
    }
}

#[test]
fn more_text_goes_on_after_what_was_saved() {
    let (shelf, id) = tiny();
    let agent = load(&shelf, id, &LoadOptions::default());
    let tokens = prompt(40, 2);
    let mut session = start(&agent, &tokens, 0);
    run(&agent, &mut session);
    let saved = session.save(&agent).unwrap();
    let more = prompt(30, 3);
    let mut resumed = Session::resume(&agent, &saved, &more, &options(6)).unwrap();
    assert_eq!(resumed.prompt_ids(), [tokens.clone(), more.clone()].concat());
    let found: Vec<u32> = run(&agent, &mut resumed).into_iter().map(|(token, _)| token).collect();
    let mut anew = start(&agent, &[tokens, more].concat(), 6);
    let expected: Vec<u32> = run(&agent, &mut anew).into_iter().map(|(token, _)| token).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_session_that_does_not_fit_is_refused() {
    let (shelf, id) = tiny();
    let agent = load(&shelf, id, &LoadOptions::default());
    let none = SavedSession::read(&shelf.verified(id)).unwrap_err();
    assert!(matches!(none, ResumeError::NoSession));
    let mut session = start(&agent, &prompt(400, 4), 2);
    session.step(&agent).unwrap();
    assert!(session.save(&agent).is_err(), "its prompt was read in part");
    run(&agent, &mut session);
    let saved = session.save(&agent).unwrap();
    let with_memory = GenerateOptions { memory: MemoryOptions::on(), ..options(2) };
    let refused = Session::resume(&agent, &saved, &[], &with_memory).unwrap_err();
    assert!(matches!(refused, StartError::ResumeWithMemory));
    let refused = Session::resume(&agent, &saved, &[1 << 20], &options(2)).unwrap_err();
    assert!(matches!(refused, StartError::Resume(ResumeError::TokenOutOfRange { .. })));

    // The same tensors under a model of other weights.
    let (mut manifest, _) = with_session(agent.manifest(), &saved, &shelf.store).unwrap();
    let mut names = manifest.model.tensors.keys().cloned().collect::<Vec<_>>().into_iter();
    let twins = names.find_map(|name| {
        let entry = manifest.model.tensors[&name].clone();
        let same = |(other, found): (&cart_format::TensorName, &cart_format::TensorEntry)| {
            (*other != name && found.shape == entry.shape && found.blob != entry.blob)
                .then(|| other.clone())
        };
        Some((name.clone(), manifest.model.tensors.iter().find_map(same)?))
    });
    let (one, two) = twins.unwrap();
    let (first, second) =
        (manifest.model.tensors[&one].clone(), manifest.model.tensors[&two].clone());
    manifest.model.tensors.insert(one, second);
    manifest.model.tensors.insert(two, first);
    manifest.origin = None;
    let used: Vec<_> = manifest.uses().into_iter().map(|(_, blob)| blob).collect();
    manifest.blobs.retain(|blob, _| used.contains(blob));
    let verified = shelf.verified(shelf.store.put_manifest(&manifest).unwrap());
    let other = Agent::load(&verified, &LoadOptions::default()).unwrap();
    let back = SavedSession::read(&verified).unwrap();
    let refused = Session::resume(&other, &back, &[], &options(2)).unwrap_err();
    assert!(matches!(refused, StartError::Resume(ResumeError::OtherModel { .. })), "{refused}");

    // A document that lost its last token.
    let (mut manifest, _) = with_session(agent.manifest(), &saved, &shelf.store).unwrap();
    let section = manifest.session.as_mut().unwrap();
    section.positions -= 1;
    let verified = shelf.verified(shelf.store.put_manifest(&manifest).unwrap());
    let refused = SavedSession::read(&verified).unwrap_err();
    assert!(matches!(refused, ResumeError::Counts { .. }), "{refused}");
}

#[test]
fn prompts_that_begin_alike_are_read_once_and_give_the_same_bits() {
    let (shelf, id) = tiny();
    let plain = load(&shelf, id, &LoadOptions::default());
    let cached = LoadOptions { prefix_cache: 64 << 20, ..LoadOptions::default() };
    let agent = load(&shelf, id, &cached);
    let shared = prompt(400, 5);
    for seed in 6..9 {
        let tokens = [shared.clone(), prompt(50, seed)].concat();
        let expected = run(&plain, &mut start(&plain, &tokens, 8));
        assert_eq!(run(&agent, &mut start(&agent, &tokens, 8)), expected, "{seed}");
    }
    let report = agent.prefix_cache();
    assert_eq!((report.entries, report.hits, report.tokens), (1, 2, 2 * 256));
    assert_eq!(report.misses, 1);
    assert_eq!(plain.prefix_cache(), cart_engine::PrefixCacheReport::default());
}

#[test]
fn a_small_cache_forgets_what_was_used_longest_ago() {
    let (shelf, id) = tiny();
    let load =
        |prefix_cache| load(&shelf, id, &LoadOptions { prefix_cache, ..LoadOptions::default() });
    let agent = load(1 << 30);
    run(&agent, &mut start(&agent, &prompt(300, 10), 1));
    let one = agent.prefix_cache().bytes;
    assert!(one > 0);
    let agent = load(2 * one);
    for seed in [11, 12, 11, 13, 11] {
        run(&agent, &mut start(&agent, &prompt(300, seed), 1));
    }
    let report = agent.prefix_cache();
    assert_eq!((report.entries, report.bytes, report.hits), (2, 2 * one, 2));
    let small = load(one - 1);
    run(&small, &mut start(&small, &prompt(300, 14), 1));
    assert_eq!(small.prefix_cache().entries, 0);
}

#[test]
fn a_system_message_is_cut_off_so_that_the_next_conversation_begins_with_it() {
    let (shelf, id) = tiny();
    let plain = load(&shelf, id, &LoadOptions::default());
    let cached = LoadOptions { prefix_cache: 64 << 20, ..LoadOptions::default() };
    let agent = load(&shelf, id, &cached);
    let system =
        Message::new("system", "You answer briefly, in plain words, and never twice. ".repeat(3));
    let mut texts = Vec::new();
    for question in ["What is a seed?", "Where do rivers end, and why?"] {
        let messages = Prompt::Chat(vec![system.clone(), Message::new("user", question)]);
        let found = agent.generate(&messages, &options(6), |_| ()).unwrap();
        let expected = plain.generate(&messages, &options(6), |_| ()).unwrap();
        assert_eq!((&found.token_ids, &found.logprobs), (&expected.token_ids, &expected.logprobs));
        texts.push(found.prompt_ids);
    }
    let report = agent.prefix_cache();
    assert_eq!(report.hits, 1);
    let same = texts[0].iter().zip(&texts[1]).take_while(|(a, b)| a == b).count() as u64;
    assert!(report.tokens >= 32 && report.tokens <= same, "{report:?}, {same} alike");
}

#[test]
fn a_long_prompt_holds_up_the_others_for_one_chunk_at_a_time() {
    let (shelf, id) = tiny();
    let agent = load(&shelf, id, &LoadOptions::default());
    let mut talking = start(&agent, &prompt(3, 15), 20);
    talking.step(&agent).unwrap();
    let mut long = start(&agent, &prompt(480, 16), 20);
    let mut other = start(&agent, &prompt(480, 17), 20);
    let mut done_before = [0; 3];
    for turn in 0..4 {
        let results = step_many(&agent, &mut [&mut talking, &mut long, &mut other]);
        let mut read = 0;
        for (index, result) in results.into_iter().enumerate() {
            let done = match result.unwrap() {
                StepEvent::Generated(_) if index == 0 => continue,
                event if index == 0 => panic!("turn {turn}: the talking session got {event:?}"),
                StepEvent::Prefilled { done, .. } => done,
                StepEvent::Generated(_) => 480,
            };
            read += done - done_before[index];
            done_before[index] = done;
        }
        assert!(read > 0 && read <= cart_engine::PREFILL_CHUNK, "turn {turn}: {read}");
    }
    assert_eq!(done_before, [0, 480, 480]);
}
