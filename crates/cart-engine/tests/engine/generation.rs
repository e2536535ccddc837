//! Sessions: alone, together, in parts, to their various ends.

use cart_engine::{
    FinishReason, GenerateError, GenerateEvent, GenerateOptions, Message, OptionsError, Prompt,
    SamplingOptions, Session, ShowSpecial, StartError, StepError, StepEvent, step_many,
};

use crate::given::{fixture, greedy, raw, shelf};

const FACT: &str = "The code of the red boat is 4821. What is the code of the red boat? \
    The code of the red boat is";

#[test]
fn greedy_text_is_the_models_and_events_add_up_to_it() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let mut events: Vec<GenerateEvent> = Vec::new();
    let mut options = greedy(40);
    options.top_logprobs = 3;
    let generation = agent
        .generate(&Prompt::Raw(FACT.into()), &options, |event| events.push(event.clone()))
        .unwrap();
    assert!(generation.text.starts_with(" 4821."), "{}", generation.text);
    let text: String = events.iter().map(|event| event.text_delta.as_str()).collect();
    assert_eq!(text, generation.text);
    let ids: Vec<u32> = events.iter().map(|event| event.token).collect();
    assert_eq!((ids.len(), ids), (40, generation.token_ids.clone()));
    let decoded = agent.tokenizer().unwrap().decode(&generation.token_ids, ShowSpecial::No);
    assert_eq!(decoded.unwrap(), generation.text);
    let (last, earlier) = events.split_last().unwrap();
    assert_eq!(last.finished, Some(FinishReason::Length));
    assert!(earlier.iter().all(|event| event.finished.is_none()));
    for event in &events {
        assert_eq!((event.top_logprobs[0].token, event.top_logprobs.len()), (event.token, 3));
        assert!((event.top_logprobs[0].logprob - event.logprob).abs() < 1e-9);
    }
    assert_eq!(generation.memory, None);
}

#[test]
fn a_batch_changes_nothing() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let long = "Anna went to the barn. ".repeat(60);
    let prompts = [FACT, "One day, Tom", long.as_str(), "What is"];
    let sampled = |seed| GenerateOptions {
        sampling: SamplingOptions { temperature: 0.8, top_k: 40, seed, ..Default::default() },
        ..greedy(12)
    };
    let alone: Vec<_> = (0..4).map(|i| raw(&agent, prompts[i], &sampled(i as u64))).collect();
    let mut sessions: Vec<Session> = (0..4)
        .map(|i| {
            let prompt = Prompt::Raw(prompts[i].to_owned());
            Session::start(&agent, &prompt, &sampled(i as u64)).unwrap()
        })
        .collect();
    let mut short_done_while_long_reads = false;
    while sessions.iter().any(|session| session.finished().is_none()) {
        let mut going: Vec<&mut Session> =
            sessions.iter_mut().filter(|session| session.finished().is_none()).collect();
        let events = step_many(&agent, &mut going);
        let events: Vec<StepEvent> = events.into_iter().map(Result::unwrap).collect();
        short_done_while_long_reads |= matches!(
            (&events[0], events.get(2)),
            (StepEvent::Generated(_), Some(StepEvent::Prefilled { .. }))
        );
    }
    assert!(short_done_while_long_reads, "the long prompt held the others up");
    for (session, alone) in sessions.into_iter().zip(alone) {
        let together = session.finish(&agent).unwrap();
        assert_eq!((together.text, together.token_ids), (alone.text, alone.token_ids));
    }
}

#[test]
fn one_failure_in_a_batch_does_not_stop_the_others() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let start = |n| Session::start(&agent, &Prompt::Raw("One day".into()), &greedy(n)).unwrap();
    let (mut ended, mut going) = (start(1), start(5));
    ended.step(&agent).unwrap();
    assert_eq!(ended.finished(), Some(FinishReason::Length));
    let results = step_many(&agent, &mut [&mut ended, &mut going]);
    assert!(matches!(results[0], Err(StepError::Finished(FinishReason::Length))));
    assert!(matches!(results[1], Ok(StepEvent::Generated(_))));
}

#[test]
fn a_stop_string_ends_the_text_before_it_wherever_tokens_part() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let whole = raw(&agent, FACT, &greedy(40)).text;
    for stop in ["21. Wh", ".", "What is the code", "\u{1f600}"] {
        let mut options = greedy(40);
        options.stop = vec![stop.to_owned()];
        let mut shown = String::new();
        let stopped = agent
            .generate(&Prompt::Raw(FACT.into()), &options, |event| shown += &event.text_delta)
            .unwrap();
        let expected = whole.find(stop).map_or(whole.as_str(), |at| &whole[..at]);
        assert_eq!(stopped.text, expected);
        assert_eq!(shown, expected);
        let reason = if whole.contains(stop) { FinishReason::Stop } else { FinishReason::Length };
        assert_eq!(stopped.finish, reason);
    }
}

#[test]
fn an_end_of_text_token_ends_a_chat_and_is_not_shown() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let chat = Prompt::Chat(vec![Message::new("user", "My name is Vera.")]);
    let answer = agent.generate(&chat, &greedy(60), |_| {}).unwrap();
    assert_eq!(answer.finish, FinishReason::Eos);
    assert!(answer.text.starts_with("I will remember that."), "{}", answer.text);
    assert!(!answer.text.contains("im_end"), "{}", answer.text);
    assert!(agent.tokenizer().unwrap().is_eos(*answer.token_ids.last().unwrap()));
    let on = GenerateOptions { ignore_eos: true, ..greedy(60) };
    assert_eq!(agent.generate(&chat, &on, |_| {}).unwrap().token_ids.len(), 60);
}

#[test]
fn a_full_context_ends_a_generation() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let options = GenerateOptions { ignore_eos: true, ..GenerateOptions::default() };
    let generation = raw(&agent, "One day, Anna", &options);
    assert_eq!(generation.finish, FinishReason::Length);
    assert_eq!(generation.prompt_ids.len() + generation.token_ids.len(), 512);
}

#[test]
fn what_can_not_begin_says_why() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let start = |prompt| Session::start(&agent, &prompt, &greedy(1)).unwrap_err();
    let long = start(Prompt::Tokens(vec![7; 512]));
    assert!(matches!(long, StartError::PromptTooLong { found: 512, context: 512 }), "{long}");
    assert!(long.to_string().contains("512"));
    assert!(matches!(start(Prompt::Raw(String::new())), StartError::EmptyPrompt));
    let foreign = start(Prompt::Tokens(vec![3, 1024]));
    assert!(
        matches!(foreign, StartError::TokenOutOfRange { index: 1, token: 1024, vocab: 1024 }),
        "{foreign}"
    );
    assert!(matches!(start(Prompt::Chat(Vec::new())), StartError::Chat(_)));
    let stop = GenerateOptions { stop: vec!["a".into(), String::new()], ..greedy(1) };
    let refused = agent.generate(&Prompt::Raw("x".into()), &stop, |_| {}).unwrap_err();
    assert!(
        matches!(
            refused,
            GenerateError::Start(StartError::Options(OptionsError::EmptyStop { index: 1 }))
        ),
        "{refused}"
    );
}

#[test]
fn a_cartridge_without_tokenizer_takes_tokens_only() {
    let shelf = shelf();
    let agent = shelf.agent(shelf.import(&fixture("logits/llama-f32-tied")));
    let refused = |prompt| Session::start(&agent, &prompt, &greedy(1)).unwrap_err();
    assert!(matches!(refused(Prompt::Raw("x".into())), StartError::NoTokenizer));
    let chat = Prompt::Chat(vec![Message::new("user", "x")]);
    assert!(matches!(refused(chat), StartError::NoTokenizer));
    let ids = agent.generate(&Prompt::Tokens(vec![5, 6]), &greedy(3), |_| {}).unwrap();
    assert_eq!((ids.token_ids.len(), ids.text.as_str()), (3, ""));
}

#[test]
fn a_cartridge_without_chat_template_refuses_chat() {
    let shelf = shelf();
    let mut manifest = shelf.tiny().manifest().clone();
    let template = manifest.tokenizer.as_mut().unwrap().chat_template.take().unwrap();
    if !manifest.uses().iter().any(|(_, blob)| *blob == template) {
        manifest.blobs.remove(&template);
    }
    let agent = shelf.agent(shelf.put(&manifest).manifest_id());
    let chat = Prompt::Chat(vec![Message::new("user", "x")]);
    let refused = Session::start(&agent, &chat, &greedy(1)).unwrap_err();
    assert!(matches!(refused, StartError::NoChatTemplate), "{refused}");
}

#[test]
fn a_moved_session_goes_on_as_if_nothing_had_happened() {
    let shelf = shelf();
    let agent = shelf.tiny();
    let other = shelf.tiny();
    let expected = raw(&agent, FACT, &greedy(30));
    let prompt = Prompt::Raw(FACT.to_owned());
    let mut session = Session::start(&agent, &prompt, &greedy(30)).unwrap();
    for _ in 0..9 {
        session.step(&agent).unwrap();
    }
    session.move_to(&agent, &other).unwrap();
    while session.finished().is_none() {
        session.step(&other).unwrap();
    }
    let moved = session.finish(&other).unwrap();
    assert_eq!((moved.text, moved.token_ids), (expected.text, expected.token_ids));
}
