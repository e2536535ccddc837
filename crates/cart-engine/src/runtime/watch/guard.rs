//! The watch itself, between the steps of the token loop.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cart_format::Probe;

use super::super::flip::Settling;
use super::super::owner::{Command, Owner};
use super::super::resident::Resident;
use super::super::running::{Moved, Running};
use super::collapse::{Meter, Reading};
use super::retelling::Retelling;
use super::{CollapseOptions, Probed, Retold, RolledBack, Trip, WatchOptions, Watching, probing};
use crate::swap::InFlight;
use crate::swap::candidate::millis_since;
use crate::{Session, StepError, StepEvent, step_many};

/// Most streams that are compared with the generation before at once.
const SUSPECTS: usize = 8;

/// The watch over the active generation.
pub(in crate::runtime) struct Watch {
    pub(in crate::runtime) generation: u64,
    /// What the swap did with running streams, and a rollback does again.
    in_flight: InFlight,
    until: Instant,
    probes: Vec<Probe>,
    next_probes: Instant,
    probing: bool,
    /// Whether the window is over and the last probes run.
    ending: bool,
    suspects: Vec<Suspect>,
    state: Watching,
}

/// A stream that has collapsed, as the generation before says it: from where it came to the watched one, as far as it went.
struct Suspect {
    session: Session,
    left: usize,
    meter: Meter,
    found: Reading,
}

/// What the generation before says of a stream that has collapsed.
enum Verdict {
    /// It does so too: the prompt leads there.
    Cleared,
    /// It does not.
    Collapsed,
}

impl Suspect {
    /// Takes in a step; none as long as nothing is known. A session that fails compares with nothing, and convicts nobody.
    fn absorb(
        &mut self,
        stepped: Result<StepEvent, StepError>,
        options: &CollapseOptions,
    ) -> Option<Verdict> {
        let ended = match stepped {
            Ok(StepEvent::Prefilled { .. }) => self.session.finished().is_some(),
            Ok(StepEvent::Generated(event)) => {
                let entropy = self.session.entropy().unwrap_or(f64::INFINITY);
                let reading = self.meter.take(event.token, entropy, options);
                if reading.is_some_and(|reading| reading.collapsed) {
                    return Some(Verdict::Cleared);
                }
                self.left = self.left.saturating_sub(1);
                self.left == 0 || event.finished.is_some()
            }
            Err(_) => return Some(Verdict::Cleared),
        };
        ended.then_some(Verdict::Collapsed)
    }
}

impl Watch {
    pub(in crate::runtime) fn new(
        active: &Resident,
        in_flight: InFlight,
        options: &WatchOptions,
        most: Duration,
    ) -> Option<Self> {
        let window = options.window.min(most);
        let now = Instant::now();
        (!window.is_zero()).then(|| Self {
            generation: active.generation(),
            in_flight,
            until: now + window,
            probes: active.probes().to_vec(),
            // Golden probes have just run; own ones are recorded first.
            next_probes: if active.probes().is_empty() { now } else { now + options.probes_every },
            probing: false,
            ending: false,
            suspects: Vec::new(),
            state: Watching {
                generation: active.generation(),
                window_seconds: window.as_secs_f64(),
                probe_runs: 0,
                largest_shift: 0.0,
                judged: 0,
                collapsed: 0,
                cleared: 0,
            },
        })
    }

    pub(in crate::runtime) fn state(&self) -> &Watching {
        &self.state
    }

    /// Whether there is something to do although no stream runs.
    pub(in crate::runtime) fn is_busy(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// How long a loop with nothing to do may wait.
    pub(in crate::runtime) fn next_look(&self) -> Duration {
        if self.probing {
            // Their answer wakes the loop.
            return Duration::from_hours(1);
        }
        self.next_probes.min(self.until).saturating_duration_since(Instant::now())
    }

    fn trip(&self, reading: Reading) -> Trip {
        let Watching { collapsed, judged, .. } = self.state;
        let Reading { entropy, distinct, .. } = reading;
        Trip::Collapsed { streams: collapsed, judged, entropy, distinct }
    }
}

impl Owner {
    /// Begins to watch the active generation.
    pub(in crate::runtime) fn watch(&mut self, in_flight: InFlight) {
        let options = &self.shared.options;
        let active = self.generations.active();
        self.watch = Watch::new(active, in_flight, &options.watch, options.rollback_window);
    }

    /// Whether streams on this generation are watched: the active one, while there is one to go back to.
    pub(in crate::runtime) fn watches(&self, generation: u64) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.generation == generation)
            && self.generations.previous().is_some()
    }

    /// One look: at streams that stumbled or collapsed, and whether probes are to run.
    pub(in crate::runtime) fn guard(&mut self) {
        let Some(watch) = &self.watch else { return };
        if !self.watches(watch.generation) {
            self.watch = None;
            return;
        }
        let stumbled = self.streams.iter().find_map(Running::stumbled_after);
        if let Some(after_tokens) = stumbled {
            self.trip(Trip::NotFinite { after_tokens });
            return;
        }
        self.suspect();
        if let Some(trip) = self.compare() {
            self.trip(trip);
            return;
        }
        self.run_probes();
    }

    /// Takes down the streams that have collapsed, as the generation before would say them.
    fn suspect(&mut self) {
        let (Some(watch), Some(before)) = (&mut self.watch, self.generations.previous()) else {
            return;
        };
        for stream in self.streams.iter_mut().filter(|stream| stream.runs_on(watch.generation)) {
            let (judged, collapsed) = stream.readings();
            watch.state.judged += usize::from(judged);
            let Some(found) = collapsed.filter(|_| watch.suspects.len() < SUSPECTS) else {
                continue;
            };
            if let Some((session, left)) = stream.as_on(before) {
                watch.suspects.push(Suspect { session, left, meter: Meter::default(), found });
            }
        }
    }

    /// One step of the generation before on the prompts of streams that have collapsed, all in one batch: the sooner it is
    /// known, the less they say.
    fn compare(&mut self) -> Option<Trip> {
        let options = &self.shared.options.watch.collapse;
        let before = self.generations.previous()?;
        let watch = self.watch.as_mut()?;
        if watch.suspects.is_empty() {
            return None;
        }
        let mut sessions: Vec<_> = watch.suspects.iter_mut().map(|one| &mut one.session).collect();
        let stepped = step_many(before.agent(), &mut sessions);
        let mut convicted = None;
        let mut stepped = stepped.into_iter();
        watch.suspects.retain_mut(|suspect| {
            let Some(stepped) = stepped.next() else { return true };
            match suspect.absorb(stepped, options) {
                None => return true,
                Some(Verdict::Cleared) => watch.state.cleared += 1,
                Some(Verdict::Collapsed) => {
                    watch.state.collapsed += 1;
                    convicted = Some(suspect.found);
                }
            }
            false
        });
        let enough = watch.state.collapsed >= options.streams.get();
        let most = 2 * watch.state.collapsed >= watch.state.judged;
        convicted.filter(|_| enough && most).map(|found| watch.trip(found))
    }

    fn run_probes(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let now = Instant::now();
        watch.ending |= now >= watch.until;
        if watch.probing || (now < watch.next_probes && !watch.ending) {
            return;
        }
        let agent = self.generations.active().agent().clone();
        let probes = std::mem::take(&mut watch.probes);
        let reply = self.commands.clone();
        match probing::begin(agent, watch.generation, probes, reply) {
            Ok(()) => watch.probing = true,
            // Where there is no thread to be had, the window ends without.
            Err(_) => self.watch = None,
        }
    }

    /// Takes in what the probes gave.
    pub(in crate::runtime) fn probed(&mut self, probed: Probed) {
        let every = self.shared.options.watch.probes_every;
        let Some(watch) = self.watch.as_mut().filter(|watch| watch.generation == probed.generation)
        else {
            return;
        };
        watch.probing = false;
        watch.probes = probed.probes;
        watch.next_probes = Instant::now() + every;
        watch.state.probe_runs += 1;
        match probed.outcome {
            Err(trip) => self.trip(trip),
            Ok(shift) => {
                watch.state.largest_shift = watch.state.largest_shift.max(shift);
                if watch.ending {
                    self.watch = None;
                }
            }
        }
    }

    /// Leaves the active generation for the one before.
    fn trip(&mut self, trip: Trip) {
        self.close_ended();
        let (begun, Some(watch)) = (Instant::now(), self.watch.take()) else { return };
        let reason = trip.to_string();
        // A swap whose streams are still on their way is answered now, and says that it did not last.
        if let Some(Settling { mut report, reply, .. }) = self.settling.take() {
            report.rolled_back = Some(reason.clone());
            reply(report);
        }
        let Some(left) = self.generations.roll_back() else { return };
        let to = Arc::clone(self.generations.active());
        let (mut moved, mut dropped) = (0, 0);
        for stream in self.streams.iter_mut().filter(|one| one.needs(left.from.generation())) {
            match stream.rescue(&to, watch.in_flight) {
                Moved::Yes => moved += 1,
                Moved::No => dropped += usize::from(stream.has_ended()),
            }
        }
        self.watched.trips.count(&trip);
        let mut report = self.rolled_back_report(&left, watch.in_flight, begun);
        (report.streams_moved, report.streams_dropped) = (moved, dropped);
        report.rolled_back = Some(reason.clone());
        let told = RolledBack {
            trip: Some(trip),
            reason,
            from: left.from.side(),
            to: to.side(),
            active_ms: millis_since(left.since),
            recover_ms: None,
            streams_moved: moved,
            streams_dropped: dropped,
            memory: None,
        };
        if let Some(listener) = &self.shared.options.listener {
            listener.rolled_back(&told);
        }
        self.watched.last_rollback = Some(told);
        self.retell(&left.from, &to, left.before);
        self.begin_settling(report, Box::new(drop), Some(begun));
    }

    /// Tells the generation that runs again what the one was told that was left, beside the token loop.
    pub(in crate::runtime) fn retell(
        &self,
        from: &Arc<Resident>,
        to: &Arc<Resident>,
        before: Option<Arc<cart_memory::UnifiedMemory>>,
    ) {
        let generation = from.generation();
        let retelling = Retelling {
            from: from.agent().clone(),
            to: to.agent().clone(),
            generation,
            before,
            folder: self.shared.options.journal.clone(),
        };
        if !retelling.is_needed() {
            return;
        }
        let reply = self.commands.clone();
        let run = move || {
            let retold = retelling.run();
            // A loop that has ended shows no report; what was written down is written down.
            let _ = reply.send(Command::Retold { generation, retold });
        };
        // Without a thread there is one report without a memory, which says so.
        let _ = crate::sync::thread::Builder::new().name("cart-retell".to_owned()).spawn(run);
    }

    pub(in crate::runtime) fn retold(&mut self, generation: u64, retold: Retold) {
        let last = self.watched.last_rollback.as_mut();
        if let Some(last) = last.filter(|last| last.from.generation == generation) {
            last.memory = Some(retold);
        }
    }
}
