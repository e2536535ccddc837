//! The exchange itself, between two tokens.

use std::sync::Arc;
use std::time::Instant;

use super::owner::{Incoming, Owner};
use super::resident::Resident;
use super::running::Moved;
use crate::swap::candidate::{Took, millis_since};
use crate::swap::{InFlight, MemoryPolicy, SwapReport, peak_rss};

/// What became of the streams.
#[derive(Clone, Copy, Default)]
struct Streams {
    moved: usize,
    on_old: usize,
    move_ms: f64,
}

impl Owner {
    /// Makes a warm generation the active one. Nothing here can fail.
    pub(super) fn activate(&mut self, incoming: Incoming) -> SwapReport {
        let Incoming { name, warm, in_flight, memory } = incoming;
        let begun = Instant::now();
        let number = self.generations.next_number();
        let to = Arc::new(Resident::new(name, number, warm.agent, warm.lifecycle));
        let from = self.generations.activate(Arc::clone(&to));
        let streams = self.redirect(&to, in_flight);
        let pause_ms = millis_since(begun);
        self.report(&from, in_flight, memory, streams, pause_ms, warm.took)
    }

    /// Makes the generation before the active one again.
    pub(super) fn roll_back(&mut self, in_flight: InFlight) -> Option<SwapReport> {
        let begun = Instant::now();
        let from = self.generations.roll_back()?;
        let to = Arc::clone(self.generations.active());
        let streams = self.redirect(&to, in_flight);
        let pause_ms = millis_since(begun);
        let memory = MemoryPolicy::Replace;
        Some(self.report(&from, in_flight, memory, streams, pause_ms, Took::default()))
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
            };
            match moved {
                Moved::Yes => streams.moved += 1,
                Moved::No => streams.on_old += 1,
            }
        }
        if in_flight == InFlight::Boundary {
            streams.move_ms = millis_since(begun);
        }
        streams
    }

    fn report(
        &mut self,
        from: &Resident,
        in_flight: InFlight,
        memory: MemoryPolicy,
        streams: Streams,
        pause_ms: f64,
        took: Took,
    ) -> SwapReport {
        let to = self.generations.active();
        let report = SwapReport {
            from: from.side(),
            to: to.side(),
            in_flight,
            memory,
            bytes_verified: took.bytes_verified,
            verify_ms: took.verify_ms,
            load_ms: took.load_ms,
            warm_ms: took.warm_ms,
            pause_ms,
            move_ms: streams.move_ms,
            probes_passed: took.probes_passed,
            steps_checked: took.steps_checked,
            streams_moved: streams.moved,
            streams_on_old: streams.on_old,
            streams_dropped: 0,
            memory_slots: to.agent().memory().map_or(0, |memory| memory.slots().count()),
            peak_rss_bytes: peak_rss(),
        };
        self.last_swap = Some(report.clone());
        report
    }
}
