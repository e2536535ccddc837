//! Two agents that were told different things, merged, and asked for all of it.

use cart_engine::{Agent, MemoryOptions};
use cart_memory::{JoinError, JoinReport, OnContradiction, UnifiedMemory, join};

use super::Bench;
use super::facts::{Form, ask, told};
use super::outcome::Outcome;
use crate::facts::{self, Fact};
use crate::failure::Failure;

/// Facts that each of the two is told.
const EACH: usize = 30;
/// Facts of which each is told another end.
const CONTRADICTIONS: usize = 10;

/// What two agents were told.
struct Told {
    /// The first agent's, then the second's.
    facts: Vec<Fact>,
    /// What the first and what the second was told of the same.
    contradictions: Vec<(Fact, Fact)>,
    agents: [Agent; 2],
}

/// Each agent is told its facts; the first was told its side of the contradictions before them, the
/// second after them.
pub(super) fn merging(bench: &Bench<'_>, seed: u64) -> Result<Vec<Outcome>, Failure> {
    let mut pairs = facts::corrected(2 * EACH + CONTRADICTIONS, seed);
    let contradictions = pairs.split_off(2 * EACH);
    let facts: Vec<Fact> = pairs.into_iter().map(|(fact, _)| fact).collect();
    let (first, second) = facts.split_at(EACH);
    let agents = [
        told(bench, contradictions.iter().map(|(old, _)| old).chain(first))?,
        told(bench, second.iter().chain(contradictions.iter().map(|(_, new)| new)))?,
    ];
    let told = Told { facts, contradictions, agents };
    let mut outcomes = told.all(bench, seed)?;
    for rule in [OnContradiction::Newest, OnContradiction::HighestEnergy, OnContradiction::KeepBoth]
    {
        outcomes.extend(told.settled(bench, rule)?);
    }
    outcomes.push(told.refused()?);
    Ok(outcomes)
}

impl Told {
    fn joined(
        &self,
        rule: OnContradiction,
    ) -> Result<Result<(UnifiedMemory, JoinReport), JoinError>, Failure> {
        let memory = |agent: &Agent| {
            agent.memory().ok_or_else(|| Failure::bug("an agent that was told has a memory"))
        };
        let [first, second] = [memory(&self.agents[0])?, memory(&self.agents[1])?];
        Ok(join(&[&*first, &*second], rule))
    }

    fn merged(
        &self,
        bench: &Bench<'_>,
        rule: OnContradiction,
    ) -> Result<(Agent, JoinReport), Failure> {
        let (memory, report) = self.joined(rule)?.map_err(Failure::refused)?;
        let agent = Bench::fresh(&bench.agent)?;
        agent.set_memory(Some(memory)).map_err(Failure::refused)?;
        Ok((agent, report))
    }

    /// All facts, asked from the merged agent and from each alone.
    fn all(&self, bench: &Bench<'_>, seed: u64) -> Result<Vec<Outcome>, Failure> {
        let (merged, _) = self.merged(bench, OnContradiction::KeepBoth)?;
        let right = |texts: &Vec<String>| {
            let right =
                self.facts.iter().zip(texts).filter(|(fact, text)| fact.is_answered_by(text));
            Some(right.count() as f64)
        };
        let mut outcomes = Vec::new();
        for form in Form::of(&merged) {
            let asked = ask(&merged, form, &self.facts, seed, |fact| fact.told.clone())?;
            let [memory, none, shuffled, context] = asked.each_ref().map(right);
            let row = format!("{}, merged", form.name());
            outcomes.push(Outcome { row, of: 2 * EACH, memory, none, shuffled, context });
            for (agent, which) in self.agents.iter().zip(["first", "second"]) {
                let answers = form.answers(agent, &self.facts, &MemoryOptions::read_only())?;
                let row = format!("{}, the {which} alone", form.name());
                let memory = right(&answers);
                outcomes.push(Outcome { row, of: 2 * EACH, memory, ..Outcome::default() });
            }
        }
        Ok(outcomes)
    }

    /// How often an answer is what a policy says that holds, and how often the other.
    fn settled(&self, bench: &Bench<'_>, rule: OnContradiction) -> Result<Vec<Outcome>, Failure> {
        let (agent, report) = self.merged(bench, rule)?;
        let asked: Vec<Fact> = self.contradictions.iter().map(|(_, new)| new.clone()).collect();
        let name = serde_json::to_value(rule).map_err(Failure::bug)?;
        let name = name.as_str().unwrap_or_default().to_owned();
        let mut outcomes = Vec::new();
        let holding = |(old, new): &(Fact, Fact)| {
            let is_of = |text: &str| text == old.told || text == new.told;
            let found = report.contradictions.iter().find(|pair| is_of(&pair.holds));
            found.map(|pair| {
                if pair.holds == old.told {
                    (old.clone(), new.clone())
                } else {
                    (new.clone(), old.clone())
                }
            })
        };
        let sides: Vec<Option<(Fact, Fact)>> = self.contradictions.iter().map(holding).collect();
        let found = sides.iter().flatten().count();
        outcomes.push(of_ten(format!("{name}: found"), found));
        for form in Form::of(&agent) {
            let answers = form.answers(&agent, &asked, &MemoryOptions::read_only())?;
            let says = |holds: bool| {
                let pairs = sides.iter().zip(&answers);
                let said = pairs.filter(|(side, text)| {
                    side.as_ref().is_some_and(|(one, other)| {
                        let (one, other) = if holds { (one, other) } else { (other, one) };
                        one.is_answered_by(text) && !other.is_answered_by(text)
                    })
                });
                said.count()
            };
            outcomes.push(of_ten(format!("{name}, {}: says what holds", form.name()), says(true)));
            outcomes.push(of_ten(format!("{name}, {}: says the other", form.name()), says(false)));
        }
        Ok(outcomes)
    }

    /// How many contradictions a refusal names.
    fn refused(&self) -> Result<Outcome, Failure> {
        let named = match self.joined(OnContradiction::Refuse)? {
            Err(JoinError::Contradictions { count, .. }) => count,
            Err(_) | Ok(_) => 0,
        };
        Ok(of_ten("refuse: named".to_owned(), named))
    }
}

fn of_ten(row: String, count: usize) -> Outcome {
    Outcome { row, of: CONTRADICTIONS, memory: Some(count as f64), ..Outcome::default() }
}
