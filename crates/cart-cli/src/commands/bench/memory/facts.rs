//! Facts and corrections, asked for after the context is gone.

use cart_engine::{Agent, MemoryOptions, Message, Prompt};

use super::Bench;
use super::outcome::Outcome;
use crate::asking::{answers, shuffled, tell};
use crate::facts::{self, Fact};
use crate::failure::Failure;

/// Most tokens of an answer.
const ANSWER: usize = 16;

/// A way of asking.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Completion,
    Question,
    Chat,
}

impl Form {
    pub(super) fn of(agent: &Agent) -> impl Iterator<Item = Self> {
        let chat = agent.chat_template().map(|_| Self::Chat);
        [Self::Completion, Self::Question].into_iter().chain(chat)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Completion => "completion",
            Self::Question => "question",
            Self::Chat => "chat",
        }
    }

    /// * `shown`: what stands in the context; it may be empty
    fn prompt(self, fact: &Fact, shown: &str) -> Prompt {
        let after = |asked: &str, between: &str| match shown {
            "" => asked.to_owned(),
            shown => format!("{shown}{between}{asked}"),
        };
        match self {
            Self::Completion => Prompt::Raw(after(&fact.completion, "\n")),
            Self::Question => {
                Prompt::Raw(after(&format!("Question: {}\nAnswer:", fact.question), "\n"))
            }
            Self::Chat => Prompt::Chat(vec![Message::new("user", after(&fact.question, " "))]),
        }
    }

    /// What is answered with nothing in the context.
    pub(super) fn answers(
        self,
        agent: &Agent,
        facts: &[Fact],
        memory: &MemoryOptions,
    ) -> Result<Vec<String>, Failure> {
        self.answers_to(agent, facts, memory, |_| String::new())
    }

    /// * `shown`: what stands in the context
    fn answers_to(
        self,
        agent: &Agent,
        facts: &[Fact],
        memory: &MemoryOptions,
        shown: impl Fn(&Fact) -> String,
    ) -> Result<Vec<String>, Failure> {
        let asked = |fact: &Fact| (self.prompt(fact, &shown(fact)), memory.clone());
        let answers = answers(agent, facts.iter().map(asked).collect(), ANSWER)?;
        Ok(answers.into_iter().map(|answer| answer.text).collect())
    }
}

/// Facts told one by one, each in a context of its own, and asked for in an empty one.
pub(super) fn facts(bench: &Bench<'_>, seed: u64) -> Result<Vec<Outcome>, Failure> {
    let facts = facts::generate(bench.args.facts, seed);
    let agent = told(bench, facts.iter())?;
    let mut outcomes = Vec::new();
    for form in Form::of(&agent) {
        let asked = ask(&agent, form, &facts, seed, |fact| fact.told.clone())?;
        let right = |texts: &Vec<String>| {
            let right = facts.iter().zip(texts).filter(|(fact, text)| fact.is_answered_by(text));
            Some(right.count() as f64)
        };
        outcomes.push(outcome(form.name().to_owned(), facts.len(), &asked, right));
    }
    Ok(outcomes)
}

/// Half as many facts, all told, and then all told again with other ends.
pub(super) fn corrections(bench: &Bench<'_>, seed: u64) -> Result<Vec<Outcome>, Failure> {
    let (before, after): (Vec<Fact>, Vec<Fact>) =
        facts::corrected(bench.args.facts / 2, seed).into_iter().unzip();
    let agent = told(bench, before.iter().chain(&after))?;
    let mut outcomes = Vec::new();
    for form in Form::of(&agent) {
        let both = |fact: &Fact| {
            let first = before.iter().find(|first| first.completion == fact.completion);
            format!("{} {}", first.map_or("", |first| &first.told), fact.told)
        };
        let asked = ask(&agent, form, &after, seed, both)?;
        let counted = |says: &dyn Fn((&Fact, &Fact), &str) -> bool, texts: &Vec<String>| {
            let pairs = before.iter().zip(&after).zip(texts);
            Some(pairs.filter(|(pair, text)| says(*pair, text)).count() as f64)
        };
        let new = |(old, new): (&Fact, &Fact), text: &str| {
            new.is_answered_by(text) && !old.is_answered_by(text)
        };
        let old = |(old, _): (&Fact, &Fact), text: &str| old.is_answered_by(text);
        let row = |what: &str| format!("{}, {what}", form.name());
        outcomes.push(outcome(row("says the new"), after.len(), &asked, |t| counted(&new, t)));
        outcomes.push(outcome(row("says the old"), after.len(), &asked, |t| counted(&old, t)));
    }
    Ok(outcomes)
}

/// An agent that was told facts.
pub(super) fn told<'f>(
    bench: &Bench<'_>,
    facts: impl Iterator<Item = &'f Fact>,
) -> Result<Agent, Failure> {
    let agent = Bench::fresh(&bench.agent)?;
    for fact in facts {
        tell(&agent, &fact.told)?;
    }
    Ok(agent)
}

/// What was answered with memory, without, with texts exchanged, and with the fact in the context.
pub(super) fn ask(
    agent: &Agent,
    form: Form,
    facts: &[Fact],
    seed: u64,
    shown: impl Fn(&Fact) -> String,
) -> Result<[Vec<String>; 4], Failure> {
    let read = MemoryOptions::read_only();
    Ok([
        form.answers(agent, facts, &read)?,
        form.answers(agent, facts, &MemoryOptions::default())?,
        form.answers(agent, facts, &shuffled(&read, seed))?,
        form.answers_to(agent, facts, &MemoryOptions::default(), shown)?,
    ])
}

fn outcome(
    row: String,
    of: usize,
    [memory, none, shuffled, context]: &[Vec<String>; 4],
    count: impl Fn(&Vec<String>) -> Option<f64>,
) -> Outcome {
    Outcome {
        row,
        of,
        memory: count(memory),
        none: count(none),
        shuffled: count(shuffled),
        context: count(context),
    }
}
