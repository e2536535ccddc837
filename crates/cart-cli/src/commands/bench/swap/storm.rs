//! Streams and swaps at once.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use cart_engine::runtime::{
    EventSink, GenerationRequest, Runtime, RuntimeHandle, RuntimeOptions, RuntimeState,
    StreamError, StreamEvent, WatchOptions,
};
use cart_engine::swap::{InFlight, Loading, MemoryPolicy, SwapRequest};
use cart_engine::{GenerateOptions, MemoryOptions, Prompt};
use cart_format::ManifestId;
use cart_memory::MemoryReport;
use cart_store::Cartridge;

use super::{Candidate, SwapBenchArgs, SwapCounts};
use crate::context::Context;
use crate::facts::Chance;
use crate::failure::Failure;
use crate::history;

/// Different prompts.
const PROMPTS: usize = 24;
/// One of so many clients goes away before its answer is whole.
const VANISHES: usize = 40;
/// One of so many swaps is a rollback, and one to what is damaged.
const ROLLBACK: usize = 12;
const DAMAGED: usize = 8;

/// One of so many changes ends what runs.
const ABORT: usize = 12;

const MODES: [InFlight; 3] = [InFlight::Finish, InFlight::Boundary, InFlight::Keep];
const POLICIES: [MemoryPolicy; 6] = [
    MemoryPolicy::Replace,
    MemoryPolicy::Carry,
    MemoryPolicy::Merge,
    MemoryPolicy::StmOnly,
    MemoryPolicy::GoalOnly,
    MemoryPolicy::Migrate,
];

/// What a stream said on one generation.
pub(super) struct Segment {
    pub(super) manifest: ManifestId,
    pub(super) text: String,
}

/// How a stream ended.
pub(super) enum End {
    /// By itself.
    Finished,
    Aborted,
    Failed(String),
}

/// A stream as its client saw it.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) prompt: usize,
    /// Changes that were over when it was asked.
    pub(super) asked_after: usize,
    pub(super) segments: Vec<Segment>,
    pub(super) end: Option<End>,
    /// The client goes away after so many tokens.
    pub(super) vanishes: Option<usize>,
}

/// What happened.
pub(super) struct Outcome {
    pub(super) streams: Vec<Seen>,
    pub(super) swaps: SwapCounts,
    /// What ran after each change, the first cartridge first.
    pub(super) timeline: Vec<ManifestId>,
    /// Mode and pause in milliseconds of each change.
    pub(super) pauses: Vec<(InFlight, f64)>,
    pub(super) wrong: Vec<String>,
    pub(super) seconds: f64,
    pub(super) tokens: u64,
    pub(super) memory_slots: usize,
    pub(super) peak_rss_bytes: Option<u64>,
}

pub(super) fn prompt(number: usize) -> String {
    let names = ["Anna", "Ben", "Tom", "Mia", "Leo", "Vera"];
    format!("One day, {} went to the barn {number} times.", names[number % names.len()])
}

pub(super) struct Storm<'a> {
    args: &'a SwapBenchArgs,
    candidates: &'a [Candidate],
    /// A copy of each with a bit that is not as it was.
    damaged: Vec<Cartridge>,
    runtime: Runtime,
}

impl<'a> Storm<'a> {
    pub(super) fn new(
        context: &Context,
        args: &'a SwapBenchArgs,
        candidates: &'a [Candidate],
        damaged: Vec<Cartridge>,
    ) -> Result<Self, Failure> {
        let options = RuntimeOptions {
            max_streams: args.at_once,
            max_queued: args.at_once.get().max(256),
            load: history::load_options(context),
            verify_threads: context.threads,
            // What changes is drawn here, and nobody else may change it back.
            watch: WatchOptions { window: Duration::ZERO, ..WatchOptions::default() },
            ..RuntimeOptions::default()
        };
        let first = &candidates[0];
        let runtime = Runtime::start(&first.name, first.cartridge.clone(), options);
        Ok(Self { args, candidates, damaged, runtime: runtime.map_err(Failure::refused)? })
    }

    pub(super) fn run(self) -> Result<Outcome, Failure> {
        let begun = Instant::now();
        let handle = self.runtime.handle();
        let changes = AtomicUsize::new(0);
        let ended = AtomicUsize::new(0);
        let (swapped, streams) = std::thread::scope(|scope| {
            let swapping = scope.spawn(|| self.swap_all(&handle, &changes, &ended));
            let streams = self.stream_all(&handle, &changes, &ended);
            (swapping.join(), streams)
        });
        let mut swapped = swapped.map_err(|_| Failure::bug("the swaps' thread panicked"))?;
        swapped.streams = streams?;
        swapped.seconds = begun.elapsed().as_secs_f64();
        let state = handle.state();
        swapped.tokens = state.tokens;
        swapped.memory_slots =
            state.memory.as_ref().map_or(0, |memory| memory.stm.slots + memory.ltm.slots);
        swapped.peak_rss_bytes = state.peak_rss_bytes;
        Ok(swapped)
    }

    /// Asks until every stream was asked and has ended.
    fn stream_all(
        &self,
        handle: &RuntimeHandle,
        changes: &AtomicUsize,
        ended: &AtomicUsize,
    ) -> Result<Vec<Seen>, Failure> {
        let mut chance = Chance(self.args.seed ^ 0x5eed);
        let (gone, goings) = mpsc::channel();
        let mut streams = Vec::new();
        let mut running = 0;
        while ended.load(Ordering::Relaxed) < self.args.streams {
            while running < self.args.at_once.get() && streams.len() < self.args.streams {
                let seen = Arc::new(Mutex::new(Seen {
                    prompt: chance.below(PROMPTS),
                    asked_after: changes.load(Ordering::SeqCst),
                    segments: Vec::new(),
                    end: None,
                    vanishes: (chance.below(VANISHES) == 0)
                        .then(|| 1 + chance.below(self.args.tokens.get())),
                }));
                let listener = Listener { seen: Arc::clone(&seen), tokens: 0, gone: gone.clone() };
                let request = self.request(&seen, chance.below(2) == 0);
                handle.submit(request, Box::new(listener)).map_err(Failure::refused)?;
                streams.push(seen);
                running += 1;
            }
            goings.recv().map_err(Failure::bug)?;
            running -= 1;
            ended.fetch_add(1, Ordering::Relaxed);
        }
        // The listener may be about to let go of its half.
        let own = |seen: Arc<Mutex<Seen>>| {
            std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner))
        };
        Ok(streams.into_iter().map(own).collect())
    }

    fn request(&self, seen: &Mutex<Seen>, writes: bool) -> GenerationRequest {
        let number = seen.lock().unwrap_or_else(PoisonError::into_inner).prompt;
        // Memory is written and not read, so that a text depends on its cartridges alone.
        let memory = MemoryOptions { write: writes, ..MemoryOptions::default() };
        GenerationRequest {
            prompt: Prompt::Raw(prompt(number)),
            options: GenerateOptions { memory, ..generating(self.args.tokens) },
        }
    }

    /// Changes the cartridge as often as asked, spread over the streams.
    fn swap_all(
        &self,
        handle: &RuntimeHandle,
        changes: &AtomicUsize,
        ended: &AtomicUsize,
    ) -> Outcome {
        let mut chance = Chance(self.args.seed);
        let mut done = Outcome {
            streams: Vec::new(),
            swaps: SwapCounts::default(),
            timeline: vec![self.candidates[0].agent.id()],
            pauses: Vec::new(),
            wrong: Vec::new(),
            seconds: 0.0,
            tokens: 0,
            memory_slots: 0,
            peak_rss_bytes: None,
        };
        for number in 0..self.args.swaps {
            let due = self.args.streams * number / self.args.swaps.max(1);
            while ended.load(Ordering::Relaxed) < due {
                std::thread::sleep(Duration::from_millis(1));
            }
            done.swaps.asked += 1;
            self.swap_once(handle, &mut chance, &mut done);
            changes.store(done.timeline.len() - 1, Ordering::SeqCst);
        }
        done
    }

    /// One change, and whether it went as it had to.
    fn swap_once(&self, handle: &RuntimeHandle, chance: &mut Chance, done: &mut Outcome) {
        let running = *done.timeline.last().expect("the first is there");
        let of = |manifest| self.candidates.iter().find(|one| one.agent.id() == manifest);
        let now = &of(running).expect("only candidates run").agent;
        let in_flight = match chance.below(ABORT) {
            0 => InFlight::Abort,
            _ => MODES[chance.below(MODES.len())],
        };
        let memory = POLICIES[chance.below(POLICIES.len())];
        let before = handle.state();
        let previous = before.rollback_to.and_then(|number| {
            let of_number = before.generations.iter().find(|one| one.generation == number);
            of_number.map(|one| one.manifest)
        });
        if let Some(previous) = previous.filter(|_| chance.below(ROLLBACK) == 0) {
            let same = of(previous).is_some_and(|one| one.agent.basis() == now.basis());
            let must = in_flight != InFlight::Keep || same;
            let result = handle.rollback(in_flight);
            done.swaps.rolled_back += usize::from(result.is_ok());
            let must = if must { Must::Do } else { Must::Refuse };
            return done.note("rollback", must, in_flight, result);
        }
        let next = chance.below(self.candidates.len());
        let candidate = &self.candidates[next];
        // Weights that run already are not read again, so damage to a copy of theirs does not come in.
        let is_other = candidate.agent.basis() != now.basis();
        let (name, cartridge, must) = if chance.below(DAMAGED) == 0 && is_other {
            ("damaged", &self.damaged[next], Must::Refuse)
        } else {
            let same_space = candidate.agent.space() == now.space();
            let fits =
                matches!(memory, MemoryPolicy::Replace | MemoryPolicy::Migrate) || same_space;
            let keeps = in_flight != InFlight::Keep || !is_other;
            let must = if !(keeps && fits) {
                Must::Refuse
            } else if memory == MemoryPolicy::Migrate && !same_space && wants_only(&before) {
                Must::Either
            } else {
                Must::Do
            };
            (candidate.name.as_str(), &candidate.cartridge, must)
        };
        let (name, cartridge) = (name.to_owned(), cartridge.clone());
        let what = format!("{name}, {in_flight:?}, {memory:?}");
        let loading = Loading::Beside;
        let result = handle.swap(SwapRequest { name, cartridge, in_flight, memory, loading });
        done.note(&what, must, in_flight, result);
    }
}

impl Outcome {
    fn note(
        &mut self,
        what: &str,
        must: Must,
        in_flight: InFlight,
        result: Result<cart_engine::swap::SwapReport, cart_engine::swap::SwapError>,
    ) {
        match result {
            Ok(report) => {
                self.swaps.done += 1;
                self.timeline.push(report.to.manifest);
                self.pauses.push((in_flight, report.pause_ms));
                if must == Must::Refuse {
                    self.swaps.wrong += 1;
                    self.wrong.push(format!("done, and had to be refused: {what}"));
                }
            }
            Err(_) if must != Must::Do => self.swaps.refused += 1,
            Err(error) => {
                self.swaps.wrong += 1;
                self.wrong.push(format!("refused, and had to be done: {what}: {error}"));
            }
        }
    }
}

/// What has to come of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Must {
    Do,
    Refuse,
    /// What runs decides while it is on its way.
    Either,
}

/// Whether what is remembered is a goal alone, which can't be migrated unless a stream writes a slot before it moves.
fn wants_only(state: &RuntimeState) -> bool {
    let of =
        |memory: &MemoryReport| memory.stm.slots + memory.ltm.slots == 0 && memory.goal_norm > 0.0;
    state.memory.as_ref().is_some_and(of)
}

/// How every stream is generated.
pub(super) fn generating(tokens: NonZeroUsize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(tokens.get()), ..GenerateOptions::default() }
}

/// A client.
struct Listener {
    seen: Arc<Mutex<Seen>>,
    tokens: usize,
    gone: mpsc::Sender<()>,
}

impl EventSink for Listener {
    fn deliver(&mut self, event: StreamEvent) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            StreamEvent::Started { resident, .. } | StreamEvent::Moved { resident } => {
                seen.segments.push(Segment { manifest: resident.manifest(), text: String::new() });
            }
            StreamEvent::Token(event) => {
                self.tokens += 1;
                if let Some(last) = seen.segments.last_mut() {
                    last.text.push_str(&event.text_delta);
                }
            }
            StreamEvent::Done(_) => seen.end = Some(End::Finished),
            StreamEvent::Failed(StreamError::Aborted { .. }) => seen.end = Some(End::Aborted),
            StreamEvent::Failed(error) => seen.end = Some(End::Failed(error.to_string())),
        }
    }

    fn is_closed(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.vanishes.is_some_and(|after| self.tokens >= after)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Whoever counts may have given up.
        let _ = self.gone.send(());
    }
}
