//! Probes of a generation that runs, beside the token loop.

use cart_format::Probe;

use super::super::owner::Command;
use super::Trip;
use crate::sync::mpsc::Sender;
use crate::sync::thread;
use crate::{Agent, ProbeError, ProbeFailure, check_probe, record_probe};

/// What a generation without golden probes is asked: the answers of the first time are what later ones are held to.
const OWN: [&str; 3] = ["The capital of France is", "def main():\n", "1, 2, 3, 4,"];
/// Steps and tokens of these.
const STEPS: usize = 2;
const TOP: usize = 5;

/// What the probes of a generation gave.
#[derive(Debug)]
pub(in crate::runtime) struct Probed {
    pub(in crate::runtime) generation: u64,
    /// The probes, for the next time.
    pub(in crate::runtime) probes: Vec<Probe>,
    /// How far they were off at most, or why the generation must not go on.
    pub(in crate::runtime) outcome: Result<f64, Trip>,
}

/// Runs probes on a thread of their own; what they gave comes as a command. Without a thread there is no answer now.
///
/// * `probes`: those that were recorded; own ones are recorded where there are none
pub(super) fn begin(
    agent: Agent,
    generation: u64,
    probes: Vec<Probe>,
    reply: Sender<Command>,
) -> std::io::Result<()> {
    let run = move || {
        let probed = probed(&agent, generation, probes);
        // A loop that has ended needs no answer.
        let _ = reply.send(Command::Probed(Box::new(probed)));
    };
    thread::Builder::new().name("cart-watch".to_owned()).spawn(run).map(drop)
}

fn probed(agent: &Agent, generation: u64, probes: Vec<Probe>) -> Probed {
    if probes.is_empty() {
        let (probes, outcome) = match own(agent) {
            Ok(probes) => (probes, Ok(0.0)),
            Err(error) => (Vec::new(), trip(error).map_or(Ok(0.0), Err)),
        };
        return Probed { generation, probes, outcome };
    }
    let outcome = largest(agent, &probes);
    Probed { generation, probes, outcome }
}

/// The same for every generation of the same weights.
fn own(agent: &Agent) -> Result<Vec<Probe>, ProbeError> {
    agent.watched_by(|| OWN.iter().map(|prompt| record_probe(agent, prompt, STEPS, TOP)).collect())
}

fn largest(agent: &Agent, probes: &[Probe]) -> Result<f64, Trip> {
    let mut largest = 0.0_f64;
    for probe in probes {
        let outcome = match check_probe(agent, probe) {
            Ok(outcome) => outcome,
            Err(error) => match trip(error) {
                Some(trip) => return Err(trip),
                None => continue,
            },
        };
        if let Some(failure) = &outcome.failure {
            let moved = matches!(failure, ProbeFailure::Moved { .. });
            let largest = moved.then_some(outcome.largest);
            let tolerance = outcome.tolerance;
            return Err(Trip::Drifted { prompt: outcome.prompt, largest, tolerance });
        }
        largest = largest.max(outcome.largest);
    }
    Ok(largest)
}

/// A probe that can't be run says something of the generation only where it computed something.
fn trip(error: ProbeError) -> Option<Trip> {
    match error {
        ProbeError::NotFinite { step, .. } => Some(Trip::NotFinite { after_tokens: step }),
        _ => None,
    }
}
