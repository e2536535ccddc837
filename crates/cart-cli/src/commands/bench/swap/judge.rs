//! What streams said, beside what their cartridges give alone.

use std::collections::HashMap;

use cart_engine::Prompt;
use cart_engine::swap::InFlight;
use cart_format::{ArchSpec, ManifestId};

use super::storm::{End, Outcome, Seen, Segment, generating, prompt};
use super::{Candidate, CartridgeRow, ModeRow, StreamCounts, SwapBenchArgs, SwapBenchReport};
use crate::failure::Failure;

/// Things that are wrong and are told.
const TOLD: usize = 20;

/// Holds the streams to what their cartridges give alone.
pub(super) fn report(
    args: &SwapBenchArgs,
    candidates: &[Candidate],
    outcome: &Outcome,
) -> Result<SwapBenchReport, Failure> {
    let mut alone = Alone { args, candidates, known: HashMap::new() };
    let mut counts = StreamCounts { asked: outcome.streams.len(), ..StreamCounts::default() };
    let mut wrong = outcome.wrong.clone();
    for (number, seen) in outcome.streams.iter().enumerate() {
        let place = format!("stream {number} ({})", prompt(seen.prompt));
        match &seen.end {
            Some(End::Finished) => {
                counts.finished += 1;
                counts.moved += usize::from(seen.segments.len() > 1);
            }
            Some(End::Aborted) => counts.aborted += 1,
            Some(End::Failed(error)) => {
                counts.dropped += 1;
                wrong.push(format!("{place} ended with an error: {error}"));
            }
            None if seen.vanishes.is_some() => counts.vanished += 1,
            None => {
                counts.dropped += 1;
                wrong.push(format!("{place} ended without a word"));
            }
        }
        if !is_fresh(seen, &outcome.timeline) {
            counts.stale += 1;
            wrong.push(format!("{place} began on a cartridge that had been left"));
        }
        if let Some(why) = alone.differs(seen)? {
            counts.garbled += 1;
            wrong.push(format!("{place}: {why}"));
        }
    }
    wrong.truncate(TOLD);
    Ok(SwapBenchReport {
        cartridges: candidates.iter().map(row).collect(),
        seed: args.seed,
        at_once: args.at_once.get(),
        tokens: args.tokens.get(),
        seconds: outcome.seconds,
        tokens_generated: outcome.tokens,
        streams: counts,
        swaps: outcome.swaps.clone(),
        modes: modes(&outcome.pauses),
        memory_slots: outcome.memory_slots,
        peak_rss_bytes: outcome.peak_rss_bytes,
        wrong,
    })
}

fn row(candidate: &Candidate) -> CartridgeRow {
    let manifest = candidate.agent.manifest();
    let spec = manifest.model.architecture.as_ref();
    let spec = spec.and_then(|value| ArchSpec::from_value(value).ok());
    CartridgeRow {
        name: candidate.name.clone(),
        manifest: candidate.agent.id(),
        family: spec.map(|spec| spec.family),
    }
}

/// Whether a stream began on what was active when it was asked, or after.
fn is_fresh(seen: &Seen, timeline: &[ManifestId]) -> bool {
    let since = &timeline[seen.asked_after.min(timeline.len() - 1)..];
    seen.segments.first().is_none_or(|first| since.contains(&first.manifest))
}

fn modes(pauses: &[(InFlight, f64)]) -> Vec<ModeRow> {
    let named = [
        (InFlight::Finish, "finish"),
        (InFlight::Boundary, "boundary"),
        (InFlight::Keep, "keep"),
        (InFlight::Abort, "abort"),
    ];
    let row = |(mode, name): (InFlight, &'static str)| {
        let mut of: Vec<f64> =
            pauses.iter().filter(|(at, _)| *at == mode).map(|(_, pause)| *pause).collect();
        of.sort_by(f64::total_cmp);
        let at = |share: f64| of.get((share * of.len() as f64) as usize).or(of.last()).copied();
        let at = |share: f64| at(share).unwrap_or_default();
        ModeRow {
            mode: name,
            swaps: of.len(),
            pause_p50_ms: at(0.5),
            pause_p99_ms: at(0.99),
            pause_max_ms: at(1.0),
        }
    };
    named.into_iter().map(row).filter(|row| row.swaps > 0).collect()
}

/// What cartridges say with nothing beside them.
struct Alone<'a> {
    args: &'a SwapBenchArgs,
    candidates: &'a [Candidate],
    known: HashMap<(ManifestId, String), String>,
}

impl Alone<'_> {
    /// What a stream said that its cartridges do not; none where there is nothing such.
    fn differs(&mut self, seen: &Seen) -> Result<Option<String>, Failure> {
        let mut said = prompt(seen.prompt);
        // What came so far of the answer that goes on, and what it answers.
        let (mut asked, mut since) = (said.clone(), String::new());
        let is_whole = seen.segments.len() == 1 && matches!(seen.end, Some(End::Finished));
        for (number, segment) in seen.segments.iter().enumerate() {
            let goes_on = number > 0 && self.keeps(&seen.segments[number - 1], segment);
            let joined = format!("{since}{}", segment.text);
            let kept = goes_on && self.answer(segment.manifest, &asked)?.starts_with(&joined);
            if !kept {
                (asked, since) = (said.clone(), String::new());
                let alone = self.answer(segment.manifest, &asked)?;
                if !alone.starts_with(&segment.text) || (is_whole && alone != segment.text) {
                    let found = &segment.text;
                    return Ok(Some(format!("said {found:?}, alone it says {alone:?}")));
                }
            }
            since.push_str(&segment.text);
            said.push_str(&segment.text);
        }
        Ok(None)
    }

    /// Whether a stream can have kept what it had read.
    fn keeps(&self, before: &Segment, after: &Segment) -> bool {
        let basis = |of: &Segment| self.candidate(of.manifest).map(|one| one.agent.basis());
        basis(before) == basis(after)
    }

    fn candidate(&self, manifest: ManifestId) -> Option<&Candidate> {
        self.candidates.iter().find(|one| one.agent.id() == manifest)
    }

    fn answer(&mut self, manifest: ManifestId, asked: &str) -> Result<String, Failure> {
        let key = (manifest, asked.to_owned());
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let candidate = self.candidate(manifest);
        let agent = &candidate.ok_or_else(|| Failure::bug("only candidates run"))?.agent;
        let options = generating(self.args.tokens);
        let done = agent.generate(&Prompt::Raw(asked.to_owned()), &options, |_| {});
        let text = done.map_err(Failure::refused)?.text;
        self.known.insert(key, text.clone());
        Ok(text)
    }
}
