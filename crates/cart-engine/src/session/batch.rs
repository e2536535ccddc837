//! Many sessions in one pass through the model.

use std::time::Instant;

use cart_nn::decoder::Run;
use cart_nn::{ForwardError, Logits};

use super::{Reading, Session, StepError};
use crate::agent::Agent;
use crate::event::StepEvent;

/// Tokens of prompts that one step reads, over all sessions: so long does a long prompt hold up
/// the others. A prompt is cut after its system message and then at multiples of it, whoever else
/// is there, so that its text does not depend on them.
pub const PREFILL_CHUNK: usize = 256;

/// Moves every session on by one step, all of them in one pass through the model: those with a
/// prompt to read read a part of it, the others generate a token each. One that has ended reads its last token where memory
/// is still to be told that; its event is [`StepEvent::Prefilled`].
///
/// Returns one result for each session, in order. A session that fails does not stop the others.
pub fn step_many(
    agent: &Agent,
    sessions: &mut [&mut Session],
) -> Vec<Result<StepEvent, StepError>> {
    let began = Instant::now();
    let readings = readings(agent, sessions);
    match forward(agent, sessions, &readings) {
        Ok(logits) => {
            let took = began.elapsed();
            let mut logits = logits.as_slice();
            let mut results = Vec::with_capacity(sessions.len());
            for (session, reading) in sessions.iter_mut().zip(&readings) {
                results.push(match *reading {
                    Some(reading) => {
                        let runs = 1 + usize::from(session.bare.is_some());
                        let (own, others) = logits.split_at(runs);
                        logits = others;
                        session.absorb(agent, reading, own, took)
                    }
                    None => session.go_on(agent).unwrap_or_else(|| waiting(session)),
                });
            }
            results
        }
        // Nothing has changed, so each one can show by itself whether it was the cause.
        Err(_) if sessions.len() > 1 => sessions
            .iter_mut()
            .flat_map(|session| step_many(agent, &mut [&mut **session]))
            .collect(),
        Err(error) => vec![Err(error.into())],
    }
}

/// What each session reads; none for those that have ended and those whose prompt waits for its
/// turn.
fn readings(agent: &Agent, sessions: &[&mut Session]) -> Vec<Option<Reading>> {
    let going = |session: &Session| session.finished.is_none();
    let reads_prompt = |session: &Session| session.tokens.len() - session.read > 1;
    let mut room = PREFILL_CHUNK;
    let reading = |session: &&mut Session| {
        if session.has_last_to_read(agent) {
            return Some(Reading::OF_LAST);
        }
        if !going(session) || session.ready.is_some() {
            return None;
        }
        let reading = session.reading();
        if reads_prompt(session) {
            room = room.checked_sub(reading.tokens)?;
        }
        Some(reading)
    };
    sessions.iter().map(reading).collect()
}

fn forward(
    agent: &Agent,
    sessions: &mut [&mut Session],
    readings: &[Option<Reading>],
) -> Result<Vec<Logits>, ForwardError> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    for (session, reading) in sessions.iter_mut().zip(readings) {
        if let Some(reading) = reading {
            runs.extend(session.runs(*reading));
        }
    }
    if runs.is_empty() { Ok(Vec::new()) } else { agent.forward(&mut runs) }
}

/// The event of a session that read nothing.
fn waiting(session: &Session) -> Result<StepEvent, StepError> {
    match session.finished {
        Some(reason) => Err(StepError::Finished(reason)),
        None => Ok(StepEvent::Prefilled { done: session.read, total: session.tokens.len() }),
    }
}
