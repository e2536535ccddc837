//! Answers that are held to a schema: whatever the model would rather say, what comes fits.

use cart_engine::{
    Agent, Constraint, ConstraintError, FinishReason, GenerateOptions, Grammar, Prompt,
    SamplingOptions, Session, StartError, StepEvent,
};
use serde_json::{Value, json};

use crate::given::{Shelf, fixture, greedy, raw, shelf};

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "minLength": 2, "maxLength": 12 },
            "age": { "type": "integer", "minimum": 0, "maximum": 150 },
            "likes": { "type": "array", "items": { "enum": ["boats", "cats"] }, "maxItems": 3 },
        },
        "required": ["name", "age", "likes"],
        "additionalProperties": false,
    })
}

fn held(schema: &Value, seed: u64) -> GenerateOptions {
    GenerateOptions {
        sampling: SamplingOptions { temperature: 1.5, seed, ..SamplingOptions::default() },
        constraint: Some(Constraint::new(Grammar::JsonSchema(schema.clone()))),
        ..greedy(300)
    }
}

fn fits_person(text: &str) {
    let said: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let fields = said.as_object().unwrap();
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["name", "age", "likes"], "{text}");
    assert!((2..=12).contains(&said["name"].as_str().unwrap().chars().count()), "{text}");
    assert!(said["age"].as_u64().unwrap() <= 150, "{text}");
    let likes = said["likes"].as_array().unwrap();
    assert!(likes.len() <= 3 && likes.iter().all(|one| one == "boats" || one == "cats"), "{text}");
}

/// The tiny model with a tokenizer that has the same tokens but cuts texts into other ones.
fn cut_otherwise(shelf: &Shelf) -> Agent {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("tiny")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("tokenizer.json");
    let mut document: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let merges = document["model"]["merges"].as_array_mut().unwrap();
    merges.truncate(merges.len() / 4);
    std::fs::write(&path, document.to_string()).unwrap();
    shelf.agent(shelf.import(folder.path()))
}

#[test]
fn whatever_is_drawn_fits_the_schema_and_ends_with_it() {
    let agent = shelf().tiny();
    for seed in 0..12 {
        let generation = raw(&agent, "One day, Anna", &held(&person(), seed));
        fits_person(&generation.text);
        assert_ne!(generation.finish, FinishReason::Length);
        assert!(generation.logprobs.iter().all(|logprob| logprob.is_finite()));
    }
    let free = raw(&agent, "One day, Anna", &greedy(20));
    assert!(!free.text.trim_start().starts_with('{'), "{}", free.text);
}

#[test]
fn a_session_beside_and_its_copy_are_held_each_for_itself() {
    let agent = shelf().tiny();
    let prompt = Prompt::Raw("One day, Anna".to_owned());
    let options = held(&person(), 3);
    let alone = raw(&agent, "One day, Anna", &options);
    let mut session = Session::start(&agent, &prompt, &options).unwrap();
    let mut free = Session::start(&agent, &prompt, &greedy(40)).unwrap();
    let mut copy = None;
    let mut steps = 0;
    while session.finished().is_none() {
        let mut both = vec![&mut session];
        if free.finished().is_none() {
            both.push(&mut free);
        }
        cart_engine::step_many(&agent, &mut both).into_iter().for_each(|step| drop(step.unwrap()));
        steps += 1;
        if steps == 8 {
            copy = Some(session.clone());
        }
    }
    assert_eq!(session.text(), alone.text);
    let mut copy = copy.unwrap();
    while copy.finished().is_none() {
        copy.step(&agent).unwrap();
    }
    assert_eq!(copy.text(), alone.text);
    while free.finished().is_none() {
        free.step(&agent).unwrap();
    }
    assert_eq!(free.text(), raw(&agent, "One day, Anna", &greedy(40)).text);
}

#[test]
fn a_move_to_other_tokens_keeps_the_place_in_the_schema() {
    let shelf = shelf();
    let (from, to) = (shelf.tiny(), cut_otherwise(&shelf));
    let prompt = Prompt::Raw("One day, Anna".to_owned());
    for moved_after in [1, 4, 9, 15, 22] {
        let mut session = Session::start(&from, &prompt, &held(&person(), 5)).unwrap();
        let mut tokens = 0;
        let mut moved = false;
        while session.finished().is_none() {
            if let StepEvent::Generated(_) = session.step(if moved { &to } else { &from }).unwrap()
            {
                tokens += 1;
            }
            let still = session.finished().is_none() && session.at_boundary();
            if tokens >= moved_after && still && !moved {
                session.move_to(&from, &to).unwrap();
                moved = true;
            }
        }
        fits_person(session.text());
        assert!(moved_after > 9 || moved, "{moved_after}: {}", session.text());
    }
}

#[test]
fn what_is_compiled_ahead_says_the_same() {
    let agent = shelf().tiny();
    let mut options = held(&person(), 7);
    let late = raw(&agent, "One day, Anna", &options);
    let compiled = agent.compile(Grammar::JsonSchema(person())).unwrap();
    assert_eq!(options.constraint.as_ref(), Some(&compiled));
    options.constraint = Some(compiled);
    for _ in 0..2 {
        assert_eq!(raw(&agent, "One day, Anna", &options).token_ids, late.token_ids);
    }
}

#[test]
fn frames_stand_around_the_json() {
    let agent = shelf().tiny();
    let grammar = Grammar::Framed {
        before: "<call>\n\"say\": ".to_owned(),
        schema: json!({ "$defs": { "n": { "type": "integer", "maximum": 9, "minimum": 0 } },
            "$ref": "#/$defs/n" }),
        after: "\n</call>".to_owned(),
    };
    let constraint = Some(agent.compile(grammar).unwrap());
    let options = GenerateOptions { constraint, ..greedy(60) };
    let generation = raw(&agent, "One day, Anna", &options);
    let number = generation.text.strip_prefix("<call>\n\"say\": ");
    let number = number.and_then(|rest| rest.strip_suffix("\n</call>")).unwrap();
    assert!(number.trim().parse::<u64>().unwrap() <= 9, "{}", generation.text);
    assert_eq!(generation.finish, FinishReason::Stop);
}

#[test]
fn schemas_that_nothing_fits_or_that_lead_elsewhere_are_refused() {
    let agent = shelf().tiny();
    for (schema, says) in [
        (json!({ "type": "nothing" }), "type"),
        (json!({ "type": "integer", "minimum": 5, "maximum": 3 }), "minimum"),
        (json!({ "enum": [] }), ""),
        (json!({ "$ref": "http://127.0.0.1:9/schema.json" }), "127.0.0.1"),
        (json!({ "$ref": "#/$defs/none" }), "none"),
        (json!({ "type": "string", "pattern": "(" }), ""),
    ] {
        let refused = agent.compile(Grammar::JsonSchema(schema.clone())).unwrap_err();
        assert!(matches!(refused, ConstraintError::Schema { .. }), "{schema}: {refused}");
        let said = refused.to_string();
        assert!(said.contains(says) && said.len() < 500, "{schema}: {said}");
        let started = Session::start(&agent, &Prompt::Raw("x".into()), &held(&schema, 0));
        assert!(matches!(started, Err(StartError::Constraint(_))), "{schema}");
    }
}
