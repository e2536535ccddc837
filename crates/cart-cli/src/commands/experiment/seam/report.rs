//! What came of it.

use std::time::Instant;

use serde::Serialize;

use super::SeamArgs;
use super::form::Form;
use super::told::Person;
use crate::failure::Failure;
use crate::history::LoadedFrom;
use crate::names::has_word;
use crate::table::Table;

/// The experiment.
#[derive(Serialize)]
pub(super) struct SeamReport {
    manifest: String,
    form: &'static str,
    pairs: usize,
    repetitions: u16,
    cycles: u16,
    pub(super) phases: Vec<PhaseReport>,
    /// Slots of the surprise-gated store at the end, over all pairs.
    store_slots: usize,
    seconds: f64,
}

/// What is done to a memory.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    Introduction,
    Repetition,
    Correction,
    Decay,
}

impl Phase {
    pub(super) fn said(self) -> &'static str {
        match self {
            Self::Introduction => "introduction",
            Self::Repetition => "repetition",
            Self::Correction => "correction",
            Self::Decay => "decay",
        }
    }

    fn holds_second(self) -> bool {
        matches!(self, Self::Correction | Self::Decay)
    }
}

/// A phase: what was told in each turn to each memory, and what was answered after it.
#[derive(Serialize)]
pub(super) struct PhaseReport {
    pub(super) phase: Phase,
    /// For each turn a report of each pair.
    pub(super) turns: Vec<Vec<Turn>>,
    pub(super) asked: Asked,
}

/// What was told at once.
#[derive(Clone, Serialize)]
pub(super) struct Turn {
    pub(super) sentences: Vec<Sentence>,
}

/// A sentence as the memory met it.
#[derive(Clone, Serialize)]
pub(super) struct Sentence {
    pub(super) text: String,
    /// Mean of −ln p over its tokens, in nats; the distance from what is nearest, without a model.
    pub(super) surprise: f32,
    /// Deviations over the running mean.
    pub(super) z: f32,
    /// Deviations that the store asked for.
    pub(super) needed: f32,
    /// Whether the store took it.
    pub(super) written: bool,
}

/// Answers after a phase.
#[derive(Serialize)]
pub(super) struct Asked {
    /// Those that give the name that holds, and not the other.
    pub(super) right: usize,
    /// Those that give the other name of the pair.
    pub(super) other: usize,
    /// Those that are right with the next pair's memory.
    pub(super) exchanged: usize,
    /// Those that are right without memory.
    pub(super) none: usize,
    answers: Vec<String>,
}

impl Asked {
    pub(super) fn of(form: &Form, people: &[Person], phase: Phase) -> Result<Self, Failure> {
        let agents: Vec<_> = people.iter().map(|person| person.agent.clone()).collect();
        let mut others = agents.clone();
        others.rotate_left(1);
        let names = |person: &'_ Person| {
            let (first, second) = (person.first.clone(), person.second.clone());
            if phase.holds_second() { (second, first) } else { (first, second) }
        };
        let count = |answers: &[String], says: &dyn Fn(&str, (String, String)) -> bool| {
            let pairs = answers.iter().zip(people);
            pairs.filter(|(answer, person)| says(answer, names(person))).count()
        };
        let right = |answer: &str, (holds, other): (String, String)| {
            // In a text that is recalled, the name that does not hold may be named as such.
            let before_other = answer.split(&format!("not {other}")).next().unwrap_or_default();
            has_word(answer, &holds) && !has_word(before_other, &other)
        };
        let other = |answer: &str, (holds, other): (String, String)| {
            has_word(answer, &other) && !has_word(answer, &holds)
        };
        let answers = form.ask(&agents)?;
        Ok(Self {
            right: count(&answers, &right),
            other: count(&answers, &other),
            exchanged: count(&form.ask(&others)?, &right),
            none: count(&form.ask_bare(&agents)?, &right),
            answers,
        })
    }
}

impl PhaseReport {
    /// Mean of something over the most surprising sentence of each turn of each pair.
    fn mean(&self, of: impl Fn(&Sentence) -> f32) -> Option<f64> {
        mean(self.turns.iter().flatten(), of)
    }

    /// Turns of which the store wrote a sentence.
    pub(super) fn written(&self) -> usize {
        let writes = |turn: &&Turn| turn.sentences.iter().any(|sentence| sentence.written);
        self.turns.iter().flatten().filter(writes).count()
    }

    fn turns(&self) -> usize {
        self.turns.iter().map(Vec::len).sum()
    }
}

/// Mean of something over the most surprising sentence of each turn.
pub(super) fn mean<'t>(
    turns: impl Iterator<Item = &'t Turn>,
    of: impl Fn(&Sentence) -> f32,
) -> Option<f64> {
    let most = |turn: &'t Turn| turn.sentences.iter().max_by(|a, b| a.z.total_cmp(&b.z));
    let found: Vec<f64> = turns.filter_map(most).map(|most| f64::from(of(most))).collect();
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}

impl SeamReport {
    pub(super) fn new(
        origin: &LoadedFrom,
        args: &SeamArgs,
        form: &'static str,
        people: &[Person],
        phases: Vec<PhaseReport>,
        began: Instant,
    ) -> Self {
        let store =
            |person: &Person| person.agent.memory().map_or(0, |memory| memory.report().ltm.slots);
        Self {
            manifest: origin.manifest.hex(),
            form,
            pairs: people.len(),
            repetitions: args.repetitions,
            cycles: args.cycles,
            phases,
            store_slots: people.iter().map(store).sum(),
            seconds: began.elapsed().as_secs_f64(),
        }
    }

    pub(super) fn pairs(&self) -> usize {
        self.pairs
    }

    pub(super) fn table(&self) -> String {
        let mut table = Table::new(&[
            "phase",
            "turns",
            "surprise",
            "z",
            "store wrote",
            "right",
            "other name",
            "exchanged",
            "none",
        ]);
        for phase in &self.phases {
            let number =
                |found: Option<f64>| found.map_or_else(String::new, |found| format!("{found:.2}"));
            let asked = &phase.asked;
            table.row([
                phase.phase.said().to_owned(),
                phase.turns().to_string(),
                number(phase.mean(|sentence| sentence.surprise)),
                number(phase.mean(|sentence| sentence.z)),
                phase.written().to_string(),
                format!("{} of {}", asked.right, self.pairs),
                asked.other.to_string(),
                asked.exchanged.to_string(),
                asked.none.to_string(),
            ]);
        }
        table.render()
    }
}
