//! What is told, asked, and to be answered.

use std::path::Path;

use cart_format::BlobId;
use cart_train::{Chance, TrainError};
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::MemoryArgs;
use crate::failure::Failure;
use crate::names;

/// What chance in here is for.
const SPLIT: u64 = 21;
const FORM: u64 = 22;

/// Something that is told, in one or more conversations, and asked for in a later one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lesson {
    /// Each in a conversation of its own.
    pub(super) told: Vec<String>,
    /// Cycles of the memory between one and the next.
    pub(super) cycles: u32,
    pub(super) ask: String,
    pub(super) answer: String,
    /// What an answer must have in it, as whole words.
    pub(super) key: String,
}

impl Lesson {
    /// Whether an answer has the key in it, as whole words.
    pub(super) fn is_answered_by(&self, text: &str) -> bool {
        names::has_word(text, &self.key)
    }
}

/// Lessons to learn from, and to be asked at the end.
pub(super) struct Task {
    pub(super) lessons: Vec<Lesson>,
    pub(super) held_out: Vec<Lesson>,
    /// What the recipe says.
    pub(super) described: Value,
}

/// Why lessons can't be read.
#[derive(Debug, Error)]
enum TaskError {
    #[error(
        "line {line} of {file} is no lesson: {source}; a lesson is {{\"told\": …, \"ask\": …, \"answer\": …}}"
    )]
    Line { file: String, line: usize, source: serde_json::Error },
    #[error(
        "{file} has {found} {what}; {held_out} are to be held out, and one or more are to be learned from"
    )]
    TooFew { file: String, what: &'static str, found: usize, held_out: usize },
    #[error("line {line} of {file} tells, asks or answers nothing")]
    Empty { file: String, line: usize },
}

/// A line of a file of lessons.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    told: OneOrMany,
    ask: String,
    answer: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Task {
    pub(super) fn of(args: &MemoryArgs) -> Result<Self, Failure> {
        if args.task == "names" { Self::names(args) } else { Self::file(args) }
    }

    /// A name is told and asked for; in one of four lessons another one was told before.
    fn names(args: &MemoryArgs) -> Result<Self, Failure> {
        let (file, names) = match &args.names {
            Some(path) => (path.display().to_string(), names::read(path)?),
            None => ("the list of names".to_owned(), names::to_learn()),
        };
        let (found, held_out) = (names.len(), args.held_out);
        if found <= held_out {
            let what = "names";
            return Err(Failure::refused(TaskError::TooFew { file, what, found, held_out }));
        }
        let order = Chance::new(args.seed, &[SPLIT]).order(found);
        let (held, learned) = order.split_at(held_out);
        let learned: Vec<&str> =
            learned.iter().take(args.count).map(|&at| names[at].as_str()).collect();
        let lesson = |(place, name): (usize, &&str)| {
            let mut chance = Chance::new(args.seed, &[FORM, place as u64]);
            let other = learned[chance.below(learned.len())];
            if place % 4 == 3 && other != *name {
                return corrected(
                    other,
                    name,
                    chance.below(CORRECTIONS.len()),
                    chance.below(16) as u32,
                );
            }
            let form = if place % 2 == 0 { 0 } else { chance.below(TOLD.len()) };
            let ask = if place % 2 == 0 { 0 } else { chance.below(ASKED.len()) };
            named(name, form, ask)
        };
        let lessons = learned.iter().enumerate().map(lesson).collect();
        let held_out = held.iter().map(|&at| named(&names[at], 0, 0)).collect();
        let described = json!({
            "names": BlobId::of(names.join("\n").as_bytes()).hex(), "count": learned.len(), "held_out": held.len(),
        });
        Ok(Self { lessons, held_out, described })
    }

    fn file(args: &MemoryArgs) -> Result<Self, Failure> {
        let path = Path::new(&args.task);
        let (file, text) = (args.task.clone(), read(path)?);
        let mut all = Vec::new();
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (file, line_number) = (file.clone(), index + 1);
            let lesson: Line = serde_json::from_str(line).map_err(|source| {
                Failure::refused(TaskError::Line { file: file.clone(), line: line_number, source })
            })?;
            let told = match lesson.told {
                OneOrMany::One(told) => vec![told],
                OneOrMany::Many(told) => told,
            };
            let says = |text: &String| !text.trim().is_empty();
            if told.is_empty() || !told.iter().chain([&lesson.ask, &lesson.answer]).all(says) {
                return Err(Failure::refused(TaskError::Empty { file, line: line_number }));
            }
            let Line { ask, answer, .. } = lesson;
            let key = answer.trim().trim_end_matches(['.', '!']).to_owned();
            all.push(Lesson { told, cycles: 0, ask, answer, key });
        }
        let (found, held_out) = (all.len(), args.held_out);
        if found <= held_out {
            let what = "lessons";
            return Err(Failure::refused(TaskError::TooFew { file, what, found, held_out }));
        }
        let order = Chance::new(args.seed, &[SPLIT]).order(found);
        let pick = |places: &[usize]| places.iter().map(|&at| all[at].clone()).collect::<Vec<_>>();
        let (held, learned) = order.split_at(held_out);
        let described = json!({
            "lessons": BlobId::of(text.as_bytes()).hex(), "count": learned.len(), "held_out": held.len(),
        });
        Ok(Self { lessons: pick(learned), held_out: pick(held), described })
    }
}

const TOLD: [&str; 4] = [
    "Hello! My name is {}. Please remember my name.",
    "Hi, my name is {}.",
    "You can call me {}.",
    "I am {}. Nice to meet you!",
];
const ASKED: [&str; 3] = ["What is my name?", "Do you remember my name?", "Who am I?"];
const CORRECTIONS: [&str; 3] = [
    "Actually, my name is {}, not {other}.",
    "I made a mistake. My name is {}.",
    "My name is {} now. Please remember my new name.",
];

/// A name, told and asked for in one of some ways.
fn named(name: &str, told: usize, ask: usize) -> Lesson {
    Lesson {
        told: vec![TOLD[told].replace("{}", name)],
        cycles: 0,
        ask: ASKED[ask].to_owned(),
        answer: answer(name),
        key: name.to_owned(),
    }
}

/// A name, told after another one.
pub(super) fn corrected(other: &str, name: &str, form: usize, cycles: u32) -> Lesson {
    let correction = CORRECTIONS[form].replace("{other}", other).replace("{}", name);
    let told = vec![TOLD[0].replace("{}", other), correction];
    let (answer, key) = (answer(name), name.to_owned());
    Lesson { told, cycles, ask: ASKED[0].to_owned(), answer, key }
}

fn answer(name: &str) -> String {
    format!("Your name is {name}.")
}

fn read(path: &Path) -> Result<String, Failure> {
    let path = path.to_owned();
    std::fs::read_to_string(&path)
        .map_err(|source| Failure::refused(TrainError::File { path, action: "read", source }))
}
