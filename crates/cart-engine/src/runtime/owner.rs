//! The thread that owns the token loop and makes every decision.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cart_memory::MemoryReport;
use cart_store::Cartridge;

use super::GenerationRequest;
use super::flip::Settling;
use super::generations::Generations;
use super::held::{Replacement, Unloading};
use super::reading::Reading;
use super::resident::Resident;
use super::running::{Goodbye, Outcome, Running};
use super::shared::{Place, Shared, Ticket};
use super::state::{Ended, GenerationState, RuntimeState};
use super::stream::{EventSink, StreamError, StreamEvent};
use super::watch::{Probed, Retold, Watch, WatchState};
use crate::swap::account::Taken;
use crate::swap::candidate::Warm;
use crate::swap::{InFlight, MemoryPolicy, SwapError, SwapReport};
use crate::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use crate::{PREFILL_CHUNK, step_many};

/// What the owner is asked to do.
pub(super) enum Command {
    Submit {
        request: Box<GenerationRequest>,
        sink: Box<dyn EventSink>,
        place: Place,
        ticket: Ticket,
    },
    Embed {
        reading: Box<Reading>,
    },
    Activate {
        incoming: Incoming,
        reply: Sender<SwapReport>,
    },
    RollBack {
        in_flight: InFlight,
        reply: Sender<Result<SwapReport, SwapError>>,
    },
    Active {
        reply: Sender<Arc<Resident>>,
    },
    CutOff {
        reply: Sender<usize>,
    },
    /// Unload everything as soon as nothing runs, and wait for what takes its place.
    Unload {
        reply: Sender<Vec<Arc<Resident>>>,
    },
    /// What takes the place of what was unloaded.
    Replace {
        replacement: Box<Replacement>,
    },
    /// Let go of what could be rolled back to.
    ForgetPrevious {
        reply: Sender<Vec<Arc<Resident>>>,
    },
    /// Say how many bytes are loaded.
    Loaded {
        reply: Sender<u64>,
    },
    /// What the probes of the watched generation gave.
    Probed(Box<Probed>),
    /// What became of the memory of a generation that was left.
    Retold {
        generation: u64,
        retold: Retold,
    },
    Stop,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Command").finish_non_exhaustive()
    }
}

/// A warm generation that is to become active.
pub(super) struct Incoming {
    pub(super) name: String,
    pub(super) cartridge: Cartridge,
    pub(super) warm: Warm,
    pub(super) in_flight: InFlight,
    pub(super) memory: MemoryPolicy,
}

/// A request that waits for a place.
pub(super) struct Waiting {
    request: Box<GenerationRequest>,
    pub(super) sink: Box<dyn EventSink>,
    pub(super) since: Instant,
    /// Given back when the request leaves the queue.
    _place: Place,
    ticket: Ticket,
}

/// Everything that the token loop decides about.
pub(super) struct Owner {
    pub(super) inbox: Receiver<Command>,
    /// Where threads that work for the loop answer.
    pub(super) commands: Sender<Command>,
    pub(super) shared: Arc<Shared>,
    pub(super) generations: Generations,
    pub(super) queue: VecDeque<Waiting>,
    /// Texts that are only read, in turns.
    pub(super) readings: VecDeque<Box<Reading>>,
    pub(super) streams: Vec<Running>,
    pub(super) ended: Ended,
    tokens: u64,
    pub(super) last_swap: Option<SwapReport>,
    /// The swap whose streams are still on their way.
    pub(super) settling: Option<Settling>,
    /// That everything is to be unloaded; nothing new begins then.
    pub(super) unloading: Option<Unloading>,
    /// The watch over the active generation, for a while after a swap.
    pub(super) watch: Option<Watch>,
    /// What the watch has seen and done, apart from what it is doing.
    pub(super) watched: WatchState,
    memory: RememberedReport,
    /// What the generations take that are loaded, and which ones that is of.
    pub(super) taken: Taken,
    counted: Vec<u64>,
}

/// The last report on the memory, with what it was made from.
#[derive(Default)]
struct RememberedReport {
    of: Option<(u64, u64)>,
    report: Option<MemoryReport>,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Turn,
    Stop,
}

impl Drop for Owner {
    /// Also when the loop panics: nobody is to wait for a loop that is gone. What came too late for it hears so.
    fn drop(&mut self) {
        self.shared.stopped();
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Submit { mut sink, .. } => {
                    sink.deliver(StreamEvent::Failed(StreamError::ShuttingDown));
                }
                Command::Embed { reading } => reading.cut_off(),
                _ => {}
            }
        }
    }
}

impl Owner {
    pub(super) fn new(
        generations: Generations,
        (commands, inbox): (Sender<Command>, Receiver<Command>),
        shared: Arc<Shared>,
        taken: Taken,
    ) -> Self {
        Self {
            generations,
            inbox,
            commands,
            shared,
            queue: VecDeque::new(),
            readings: VecDeque::new(),
            streams: Vec::new(),
            ended: Ended::default(),
            tokens: 0,
            last_swap: None,
            settling: None,
            unloading: None,
            watch: None,
            watched: WatchState::default(),
            memory: RememberedReport::default(),
            taken,
            counted: Vec::new(),
        }
    }

    /// What a runtime reports before its first turn.
    pub(super) fn first_state(first: &Arc<Resident>) -> RuntimeState {
        let active = generation_state(first, 0);
        RuntimeState {
            generations: vec![active.clone()],
            active,
            streams: 0,
            queued: 0,
            ended: Ended::default(),
            tokens: 0,
            swap: None,
            last_swap: None,
            rollback_to: None,
            watch: WatchState::default(),
            memory: first.agent().memory().map(|memory| memory.report()),
            long_term: None,
            prefix_cache: first.agent().prefix_cache(),
            session: first.agent().saved_session().cloned(),
            peak_rss_bytes: None,
        }
    }

    /// Turns until it is told to stop, or nobody can tell it anything any more.
    pub(super) fn run(mut self) {
        while self.take_commands() == Next::Turn {
            self.admit();
            self.expire();
            self.step();
            self.guard();
            self.read();
            self.close_done();
            self.settle();
            if self.is_drained() && self.hold() == Next::Stop {
                break;
            }
            self.generations.forget(&self.streams, &self.readings);
            self.publish();
        }
        self.cut_off();
    }

    /// Takes what has come in; waits for something where there is nothing to do.
    fn take_commands(&mut self) -> Next {
        if self.is_idle() {
            match self.inbox.recv_timeout(self.next_look()) {
                Ok(command) => {
                    if self.take(command) == Next::Stop {
                        return Next::Stop;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Next::Stop,
            }
        }
        loop {
            match self.inbox.try_recv() {
                Ok(command) => {
                    if self.take(command) == Next::Stop {
                        return Next::Stop;
                    }
                }
                Err(TryRecvError::Empty) => return Next::Turn,
                Err(TryRecvError::Disconnected) => return Next::Stop,
            }
        }
    }

    fn is_idle(&self) -> bool {
        let compares = self.watch.as_ref().is_some_and(Watch::is_busy);
        self.streams.is_empty() && self.queue.is_empty() && self.readings.is_empty() && !compares
    }

    /// How long a loop with nothing to do may wait.
    fn next_look(&self) -> Duration {
        let forget = self.generations.next_look();
        self.watch.as_ref().map_or(forget, |watch| watch.next_look().min(forget))
    }

    pub(super) fn take(&mut self, command: Command) -> Next {
        match command {
            Command::Submit { request, sink, place, ticket } => {
                let since = Instant::now();
                self.queue.push_back(Waiting { request, sink, since, _place: place, ticket });
            }
            Command::Embed { reading } => self.readings.push_back(reading),
            // A caller that is gone finds the report in the state.
            Command::Activate { incoming, reply } => {
                self.close_ended();
                let report = self.activate(incoming);
                self.begin_settling(report, Box::new(move |report| drop(reply.send(report))), None);
            }
            Command::RollBack { in_flight, reply } => {
                self.close_ended();
                match self.roll_back(in_flight) {
                    Ok(report) => {
                        let reply = move |report| drop(reply.send(Ok(report)));
                        self.begin_settling(report, Box::new(reply), None);
                    }
                    Err(refused) => drop(reply.send(Err(refused))),
                }
            }
            Command::Active { reply } => {
                let _ = reply.send(Arc::clone(self.generations.active()));
            }
            Command::CutOff { reply } => {
                // Whoever asked may be gone; the streams are cut off all the same.
                let _ = reply.send(self.cut_off());
            }
            Command::Probed(probed) => self.probed(*probed),
            Command::Retold { generation, retold } => self.retold(generation, retold),
            Command::Unload { reply } => {
                self.unloading = Some(Unloading { reply, since: Instant::now() });
            }
            // Only a loop that waits for it is sent one.
            Command::Replace { replacement } => drop(replacement),
            Command::ForgetPrevious { reply } => {
                let gone = self.generations.forget_previous(&self.streams, &self.readings);
                self.count_bytes();
                drop(reply.send(gone));
            }
            Command::Loaded { reply } => drop(reply.send(self.taken.bytes())),
            Command::Stop => return Next::Stop,
        }
        Next::Turn
    }

    /// Ends the requests that have waited too long. The longest wait first.
    fn expire(&mut self) {
        if self.unloading.is_some() {
            return;
        }
        let most = self.shared.options.max_wait;
        while let Some(first) = self.queue.pop_front_if(|first| first.since.elapsed() >= most) {
            let Waiting { mut sink, since, .. } = first;
            let waited = Duration::from_secs(since.elapsed().as_secs());
            sink.deliver(StreamEvent::Failed(StreamError::NoPlace { waited }));
            self.ended.failed += 1;
        }
    }

    /// Gives waiting requests a place, in the order in which they came. What recall reads holds up the others, so when
    /// that is as much as a step reads of prompts, the next ones begin after that step.
    fn admit(&mut self) {
        let most = self.shared.options.max_streams.get();
        let mut read = 0;
        while self.streams.len() < most && read < PREFILL_CHUNK && self.unloading.is_none() {
            let Some(Waiting { request, sink, ticket, .. }) = self.queue.pop_front() else {
                return;
            };
            if sink.is_closed() {
                self.ended.cancelled += 1;
                continue;
            }
            match Running::start(self.generations.active(), request, sink, ticket) {
                Some(stream) => {
                    read += stream.read_first();
                    self.streams.push(stream);
                }
                None => self.ended.failed += 1,
            }
        }
    }

    /// One step of every stream: one batch for each generation.
    fn step(&mut self) {
        for resident in self.generations.all() {
            let number = resident.generation();
            let watched = self.watches(number).then_some(&self.shared.options.watch.collapse);
            let mut streams: Vec<&mut Running> =
                self.streams.iter_mut().filter(|stream| stream.steps_on(number)).collect();
            if streams.is_empty() {
                continue;
            }
            let mut sessions: Vec<_> =
                streams.iter_mut().map(|stream| stream.session(watched.is_some())).collect();
            let stepped = step_many(resident.agent(), &mut sessions);
            for (stream, stepped) in streams.into_iter().zip(stepped) {
                self.tokens += stream.absorb(stepped, watched);
            }
        }
    }

    /// One batch of the texts that are only read.
    fn read(&mut self) {
        let Some(reading) = self.readings.pop_front() else { return };
        if reading.is_closed() {
            return;
        }
        if let Some(reading) = reading.step() {
            self.readings.push_back(Box::new(reading));
        }
    }

    /// Closes the streams that are done.
    fn close_done(&mut self) {
        self.close(Running::is_done);
    }

    /// Closes also those whose last token memory is still to be told: nothing is written later to a memory that is carried
    /// over, or let go of, now.
    pub(super) fn close_ended(&mut self) {
        self.close(Running::has_ended);
    }

    /// Whoever has heard that a stream has ended finds a state that counts it.
    fn close(&mut self, is_closed: fn(&Running) -> bool) {
        let mut goodbyes = Vec::new();
        // In the order in which they came, so that memory is written in that order too.
        for stream in self.streams.extract_if(.., |stream| is_closed(stream)) {
            if let Some(settling) = self.settling.as_mut().filter(|_| stream.failed_in_crossing()) {
                settling.report.streams_dropped += 1;
            }
            let (outcome, goodbye) = stream.close();
            match outcome {
                Outcome::Finished => self.ended.finished += 1,
                Outcome::Cancelled => self.ended.cancelled += 1,
                Outcome::Failed => self.ended.failed += 1,
            }
            goodbyes.push(goodbye);
        }
        if !goodbyes.is_empty() {
            self.publish();
            goodbyes.into_iter().for_each(Goodbye::say);
        }
    }

    /// Ends everything with an error, and says how much that was.
    fn cut_off(&mut self) -> usize {
        let cut = self.streams.len() + self.queue.len() + self.readings.len();
        self.readings.drain(..).for_each(|reading| reading.cut_off());
        self.close_ended();
        self.streams.iter_mut().for_each(Running::cut_off);
        self.close_ended();
        self.cut_off_waiting();
        self.settle();
        self.publish();
        cut
    }

    /// Says what is loaded, where that has changed.
    pub(super) fn count_bytes(&mut self) {
        let all = self.generations.all();
        if self.counted.iter().copied().eq(all.iter().map(|one| one.generation())) {
            return;
        }
        self.counted = all.iter().map(|one| one.generation()).collect();
        let mut bytes = 0;
        for (index, one) in all.iter().enumerate() {
            let agent = one.agent();
            let shares = all[..index].iter().any(|other| other.agent().shares_weights_with(agent));
            bytes += agent.footprint().bytes(shares);
        }
        self.taken.set(bytes);
    }

    pub(super) fn publish(&mut self) {
        self.count_bytes();
        let Some(active) = self.generations.current() else { return };
        let of = (active.generation(), active.agent().memory_epoch());
        if self.memory.of != Some(of) {
            let report = active.agent().memory().map(|memory| memory.report());
            self.memory = RememberedReport { of: Some(of), report };
        }
        let on = |resident: &Resident| {
            let number = resident.generation();
            self.streams.iter().filter(|stream| stream.resident.generation() == number).count()
        };
        let state = RuntimeState {
            active: generation_state(active, on(active)),
            generations: self
                .generations
                .all()
                .iter()
                .map(|resident| generation_state(resident, on(resident)))
                .collect(),
            streams: self.streams.len(),
            queued: self.queue.len(),
            ended: self.ended,
            tokens: self.tokens,
            swap: None,
            last_swap: self.last_swap.clone(),
            rollback_to: self.generations.previous().map(|previous| previous.generation()),
            watch: WatchState {
                watching: self.watch.as_ref().map(|watch| watch.state().clone()),
                ..self.watched.clone()
            },
            memory: self.memory.report.clone(),
            long_term: None,
            prefix_cache: active.agent().prefix_cache(),
            session: active.agent().saved_session().cloned(),
            peak_rss_bytes: None,
        };
        self.shared.publish(state, active.agent());
    }
}

fn generation_state(resident: &Resident, streams: usize) -> GenerationState {
    GenerationState {
        name: resident.name().to_owned(),
        manifest: resident.manifest(),
        generation: resident.generation(),
        state: resident.state(),
        streams,
    }
}
