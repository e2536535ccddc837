//! The exchange itself, between two tokens.

use std::sync::Arc;
use std::time::Instant;

use cart_format::BasisId;

use super::generations::Left;
use super::owner::{Incoming, Owner};
use super::resident::Resident;
use super::running::{Moved, Running};
use super::watch::RolledBack;
use crate::swap::candidate::{Took, millis_since};
use crate::swap::{InFlight, MemoryPolicy, SwapError, SwapFailure, SwapReport, SwapSide, peak_rss};

/// A swap that was made, whose streams are still on their way to the new generation.
pub(super) struct Settling {
    pub(super) report: SwapReport,
    pub(super) reply: Box<dyn FnOnce(SwapReport) + Send>,
    /// When the watch saw why, where it is a rollback of its own.
    tripped: Option<Instant>,
}

/// What became of the streams.
#[derive(Clone, Copy, Default)]
pub(super) struct Streams {
    moved: usize,
    on_old: usize,
    aborted: usize,
    move_ms: f64,
}

impl Owner {
    /// Makes a warm generation the active one. Nothing here can fail.
    pub(super) fn activate(&mut self, incoming: Incoming) -> SwapReport {
        let Incoming { name, cartridge, warm, in_flight, memory } = incoming;
        let begun = Instant::now();
        let number = self.generations.next_number();
        let took = warm.took;
        let to = Arc::new(Resident::new(name, number, warm, cartridge));
        let from = self.generations.activate(Arc::clone(&to));
        let streams = self.redirect(&to, in_flight);
        self.watch(in_flight);
        let pause_ms = millis_since(begun);
        self.report(from.side(), in_flight, memory, streams, pause_ms, took)
    }

    /// Makes the generation before the active one again.
    ///
    /// # Errors
    /// There is none, or its weights are others and streams were to keep what they have read.
    pub(super) fn roll_back(&mut self, in_flight: InFlight) -> Result<SwapReport, SwapError> {
        let begun = Instant::now();
        let to = self.generations.previous().ok_or(SwapError::NothingToRollBackTo)?;
        let running = self.generations.active().agent().basis();
        may_keep(in_flight, running, to.agent().basis()).map_err(|failure| SwapError::Refused {
            name: to.name().to_owned(),
            stage: to.state(),
            failure: Box::new(failure),
        })?;
        let left = self.generations.roll_back().ok_or(SwapError::NothingToRollBackTo)?;
        self.watch = None;
        let to = Arc::clone(self.generations.active());
        let streams = self.redirect(&to, in_flight);
        let mut report = self.rolled_back_report(&left, in_flight, begun);
        (report.streams_moved, report.streams_on_old) = (streams.moved, streams.on_old);
        report.streams_aborted = streams.aborted;
        report.move_ms = streams.move_ms;
        self.watched.last_rollback = Some(RolledBack {
            trip: None,
            reason: "it was asked for".to_owned(),
            from: left.from.side(),
            to: to.side(),
            active_ms: millis_since(left.since),
            recover_ms: Some(report.pause_ms),
            streams_moved: streams.moved,
            streams_dropped: 0,
            memory: None,
        });
        self.retell(&left.from, &to, left.before);
        Ok(report)
    }

    /// What a rollback did, apart from the streams.
    pub(super) fn rolled_back_report(
        &self,
        left: &Left,
        in_flight: InFlight,
        begun: Instant,
    ) -> SwapReport {
        let (memory, streams) = (MemoryPolicy::Replace, Streams::default());
        let pause_ms = millis_since(begun);
        self.report(left.from.side(), in_flight, memory, streams, pause_ms, Took::default())
    }

    /// Lets the streams end where they are, or moves them.
    fn redirect(&mut self, to: &Arc<Resident>, in_flight: InFlight) -> Streams {
        let begun = Instant::now();
        let mut streams = Streams::default();
        for stream in &mut self.streams {
            if stream.runs_on(to.generation()) {
                continue;
            }
            let moved = match in_flight {
                InFlight::Finish => Moved::No,
                InFlight::Boundary => stream.move_to(to),
                InFlight::Keep => stream.keep_on(to),
                InFlight::Abort => {
                    stream.abort(to.name());
                    streams.aborted += 1;
                    continue;
                }
            };
            match moved {
                Moved::Yes => streams.moved += 1,
                Moved::No => streams.on_old += 1,
            }
        }
        if matches!(in_flight, InFlight::Boundary | InFlight::Keep) {
            streams.move_ms = millis_since(begun);
        }
        streams
    }

    /// Has the swap answered as soon as every stream that it moves has given a token on the new
    /// generation, or has ended: only then is it known which ones it cost.
    pub(super) fn begin_settling(
        &mut self,
        report: SwapReport,
        reply: Box<dyn FnOnce(SwapReport) + Send>,
        tripped: Option<Instant>,
    ) {
        self.last_swap = Some(report.clone());
        self.settling = Some(Settling { report, reply, tripped });
        self.settle();
        self.publish();
    }

    /// Answers the swap if nothing of it is under way any more.
    pub(super) fn settle(&mut self) {
        let Some(settling) = &mut self.settling else { return };
        let turned_back = self.streams.iter_mut().filter_map(Running::turned_back).count();
        settling.report.streams_moved -= turned_back;
        settling.report.streams_on_old += turned_back;
        if self.streams.iter().any(Running::is_crossing) {
            return;
        }
        if let Some(Settling { report, reply, tripped }) = self.settling.take() {
            let last = self.watched.last_rollback.as_mut();
            if let Some((tripped, last)) = tripped.zip(last) {
                last.recover_ms = Some(millis_since(tripped));
                last.streams_moved = report.streams_moved;
                last.streams_dropped = report.streams_dropped;
            }
            self.last_swap = Some(report.clone());
            self.publish();
            reply(report);
        }
    }

    pub(super) fn report(
        &self,
        from: SwapSide,
        in_flight: InFlight,
        memory: MemoryPolicy,
        streams: Streams,
        pause_ms: f64,
        took: Took,
    ) -> SwapReport {
        let to = self.generations.active();
        SwapReport {
            from,
            to: to.side(),
            in_flight,
            memory,
            bytes_verified: took.bytes_verified,
            bytes_shared: took.bytes_shared,
            verify_ms: took.verify_ms,
            load_ms: took.load_ms,
            warm_ms: took.warm_ms,
            pause_ms,
            move_ms: streams.move_ms,
            probes_passed: took.probes_passed,
            steps_checked: took.steps_checked,
            streams_moved: streams.moved,
            streams_on_old: streams.on_old,
            streams_aborted: streams.aborted,
            // Counted while the moved ones settle.
            streams_dropped: 0,
            memory_slots: to.agent().memory().map_or(0, |memory| memory.slots().count()),
            peak_rss_bytes: peak_rss(),
            rolled_back: None,
        }
    }
}

/// Refuses to keep keys and values of other weights.
///
/// * `running`, `found`: what those of running streams, and those of the new generation, depend on
pub(super) fn may_keep(
    in_flight: InFlight,
    running: BasisId,
    found: BasisId,
) -> Result<(), SwapFailure> {
    if in_flight == InFlight::Keep && found != running {
        return Err(SwapFailure::OtherWeights { found, running });
    }
    Ok(())
}
