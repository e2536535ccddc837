//! The exchange of cartridges, under orders of its threads that a scheduler draws.
//!
//! With the feature `shuttle` every lock, channel, atomic and thread of the runtime is a place at which shuttle
//! (<https://github.com/awslabs/shuttle>) decides who goes on. A thread that waits for ever ends a test as well. It prints the
//! schedule that failed, which `shuttle::replay` runs again.
//!
//!     cargo test --workspace --features cart-engine/shuttle --test flip
//!
//! `CART_FLIP_SCHEDULES` says how many orders each test tries (100 if absent).

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use cart_engine::runtime::{
    ChannelSink, GenerationRequest, Resident, Runtime, RuntimeHandle, RuntimeOptions, StreamError,
    StreamEvent, SubmitError, WatchOptions,
};
use cart_engine::swap::{InFlight, Loading, MemoryPolicy, SwapError, SwapRequest, SwapState};
use cart_engine::{GenerateOptions, Prompt};
use cart_format::{ManifestId, Recipe};
use cart_store::import::{ImportOptions, import};
use cart_store::{Cartridge, Silent, Store};
use shuttle::rand::Rng as _;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::mpsc::Receiver;
use shuttle::thread;
use tempfile::TempDir;

/// Tokens of a stream.
const TOKENS: usize = 5;
/// What streams go on from.
const PROMPTS: [&str; 3] = ["The sea", "A list of", "def main"];

/// Two cartridges of other weights.
struct World {
    cartridges: [(&'static str, Cartridge); 2],
    _folder: TempDir,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(folder.path().join("store")).unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/tiny");
    let other = other_weights(&tiny, &folder.path().join("other"));
    let cartridges = [("one", pack(&store, &tiny)), ("two", pack(&store, &other))];
    World { cartridges, _folder: folder }
});

fn pack(store: &Store, folder: &Path) -> Cartridge {
    let id = import(store, folder, &ImportOptions::default(), &Silent).unwrap().manifest_id;
    let commit = cart_format::Commit::new(id, 0, Recipe::new("import"));
    let id = store.put_commit(&commit).unwrap();
    store.open_cartridge(&store.resolve(&id.hex()).unwrap()).unwrap()
}

/// A copy of a model whose last bytes, those of one tensor, are in another order.
fn other_weights(model: &Path, copy: &Path) -> PathBuf {
    std::fs::create_dir(copy).unwrap();
    for entry in std::fs::read_dir(model).unwrap() {
        let entry = entry.unwrap();
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if entry.file_name() == "model.safetensors" {
            let end = bytes.len();
            // Numbers of two bytes stay whole.
            bytes[end - 4096..].chunks_exact_mut(64).for_each(|row| row.rotate_left(2));
        }
        std::fs::write(copy.join(entry.file_name()), bytes).unwrap();
    }
    copy.to_owned()
}

/// Runs a test under orders that are drawn, half of them with few changes of the thread that goes first, which finds what
/// hangs on one of them.
fn under_all_kinds_of_orders(test: impl Fn() + Send + Sync + Copy + 'static) {
    LazyLock::force(&WORLD);
    let schedules = std::env::var("CART_FLIP_SCHEDULES").map_or(100, |n| n.parse().unwrap());
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = shuttle::Config::new();
        // Loading a model needs more than a coroutine has by default.
        config.stack_size = 8 << 20;
        shuttle::Runner::new(scheduler, config).run(test)
    };
    run(Box::new(RandomScheduler::new(schedules / 2)));
    run(Box::new(PctScheduler::new(3, schedules - schedules / 2)));
}

fn runtime() -> Runtime {
    // What hangs on time is left out: a schedule has none.
    let watch = WatchOptions { window: Duration::ZERO, ..WatchOptions::default() };
    let hours = Duration::from_hours(10);
    let options =
        RuntimeOptions { watch, rollback_window: hours, max_wait: hours, ..Default::default() };
    let (name, first) = &WORLD.cartridges[0];
    Runtime::start(name, first.clone(), options).unwrap()
}

fn options(tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(tokens), ..GenerateOptions::default() }
}

fn ask(handle: &RuntimeHandle, prompt: &str) -> Result<Receiver<StreamEvent>, SubmitError> {
    let (sink, events) = ChannelSink::new();
    let prompt = Prompt::Raw(prompt.to_owned());
    let request = GenerationRequest { prompt, options: options(TOKENS) };
    handle.submit(request, Box::new(sink))?;
    Ok(events)
}

fn exchange(handle: &RuntimeHandle, to: usize, in_flight: InFlight) -> Result<u64, SwapError> {
    let (name, cartridge) = &WORLD.cartridges[to];
    let memory = MemoryPolicy::Replace;
    let (name, cartridge) = ((*name).to_owned(), cartridge.clone());
    let request = SwapRequest { name, cartridge, in_flight, memory, loading: Loading::Beside };
    handle.swap(request).map(|report| report.to.generation)
}

/// What became of a stream: the generations that it ran on, each with what it said there.
struct Heard {
    prompt: &'static str,
    said: Vec<(Arc<Resident>, String)>,
    end: Result<usize, StreamError>,
}

fn listen(prompt: &'static str, events: &Receiver<StreamEvent>) -> Heard {
    let mut said: Vec<(Arc<Resident>, String)> = Vec::new();
    loop {
        match events.recv().expect("a stream ends with an event, not with silence") {
            StreamEvent::Started { resident, .. } => {
                assert!(said.is_empty(), "a stream began twice");
                said.push((resident, String::new()));
            }
            StreamEvent::Moved { resident } => {
                assert!(!said.is_empty(), "a stream was moved before it began");
                said.push((resident, String::new()));
            }
            StreamEvent::Token(token) => said.last_mut().unwrap().1.push_str(&token.text_delta),
            StreamEvent::Done(summary) => {
                return Heard { prompt, said, end: Ok(summary.completion_tokens) };
            }
            StreamEvent::Failed(error) => return Heard { prompt, said, end: Err(error) },
        }
    }
}

/// What a cartridge says with nothing beside it.
fn alone(resident: &Resident, text: &str, tokens: usize) -> String {
    static SAID: Mutex<BTreeMap<(ManifestId, String, usize), String>> = Mutex::new(BTreeMap::new());
    let key = (resident.manifest(), text.to_owned(), tokens);
    if let Some(said) = SAID.lock().unwrap().get(&key) {
        return said.clone();
    }
    let prompt = Prompt::Raw(text.to_owned());
    let said = resident.agent().generate(&prompt, &options(tokens), |_| {}).unwrap().text;
    SAID.lock().unwrap().insert(key, said.clone());
    said
}

impl Heard {
    /// Holds what a stream said on each generation to what that says alone.
    fn is_what_its_generations_say(&self) {
        let mut text = self.prompt.to_owned();
        for (resident, said) in &self.said {
            let expected = alone(resident, &text, TOKENS);
            assert!(
                expected.starts_with(said.as_str()),
                "{:?} said {said:?} on {}, which says {expected:?}",
                self.prompt,
                resident.name()
            );
            text.push_str(said);
        }
        if let Ok(tokens) = self.end {
            assert_eq!(tokens, TOKENS, "{:?} was cut short", self.prompt);
        }
    }
}

/// Looks at the state again and again, and holds it to itself.
fn observe(handle: &RuntimeHandle, times: usize) {
    for _ in 0..times {
        let state = handle.state();
        let active: Vec<_> =
            state.generations.iter().filter(|one| one.state == SwapState::Active).collect();
        assert_eq!(active.len(), 1, "{:?}", state.generations);
        assert_eq!(*active[0], state.active);
        let numbers: Vec<u64> = state.generations.iter().map(|one| one.generation).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
        assert!(!state.generations.iter().any(|one| one.state == SwapState::Dropped));
        if let Some(to) = state.rollback_to {
            assert!(numbers.contains(&to) && to != state.active.generation, "{to} of {numbers:?}");
        }
        assert!(state.streams <= state.generations.iter().map(|one| one.streams).sum());
        thread::yield_now();
    }
}

#[test]
fn streams_swaps_and_rollbacks_in_any_order_lose_and_mix_nothing() {
    under_all_kinds_of_orders(|| {
        let runtime = runtime();
        let handle = runtime.handle();
        let streams: Vec<_> = PROMPTS
            .into_iter()
            .map(|prompt| {
                let handle = handle.clone();
                thread::spawn(move || listen(prompt, &ask(&handle, prompt).unwrap()))
            })
            .collect();
        let swappers: Vec<_> = (0..2)
            .map(|_| {
                let handle = handle.clone();
                thread::spawn(move || {
                    let mut chance = shuttle::rand::thread_rng();
                    let mut aborts = 0;
                    for _ in 0..2 {
                        let ways = [InFlight::Finish, InFlight::Boundary, InFlight::Abort];
                        let in_flight = ways[chance.gen_range(0..3)];
                        let done = if chance.gen_bool(0.3) {
                            handle.rollback(in_flight).map(|report| report.to.generation)
                        } else {
                            exchange(&handle, chance.gen_range(0..2), in_flight)
                        };
                        match done {
                            Ok(_) => aborts += usize::from(in_flight == InFlight::Abort),
                            Err(SwapError::InProgress | SwapError::NothingToRollBackTo) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                    aborts
                })
            })
            .collect();
        let watcher = {
            let handle = handle.clone();
            thread::spawn(move || observe(&handle, 5))
        };
        let heard: Vec<_> = streams.into_iter().map(|one| one.join().unwrap()).collect();
        let aborts: usize = swappers.into_iter().map(|one| one.join().unwrap()).sum();
        watcher.join().unwrap();
        for stream in &heard {
            stream.is_what_its_generations_say();
            match &stream.end {
                Ok(_) => {}
                Err(StreamError::Aborted { .. }) if aborts > 0 => {}
                Err(other) => panic!("{:?} failed: {other}", stream.prompt),
            }
        }
        drop(heard);
        assert_eq!(handle.open_requests(), 0);
        let ended = handle.state().ended;
        assert_eq!(ended.finished + ended.cancelled + ended.failed, 3);
    });
}

#[test]
fn whoever_asks_after_a_swap_is_answered_by_what_it_brought() {
    under_all_kinds_of_orders(|| {
        let runtime = runtime();
        let handle = runtime.handle();
        let beside = {
            let handle = handle.clone();
            thread::spawn(move || listen(PROMPTS[0], &ask(&handle, PROMPTS[0]).unwrap()))
        };
        let mut seen = BTreeSet::from([1]);
        for (to, in_flight) in [(1, InFlight::Finish), (0, InFlight::Boundary), (0, InFlight::Keep)]
        {
            let generation = exchange(&handle, to, in_flight).unwrap();
            assert!(seen.insert(generation), "{generation} came twice");
            assert_eq!(handle.state().active.generation, generation);
            assert_eq!(handle.active().unwrap().generation(), generation);
            let heard = listen(PROMPTS[1], &ask(&handle, PROMPTS[1]).unwrap());
            assert_eq!(heard.said[0].0.generation(), generation);
            assert_eq!(heard.said[0].0.name(), WORLD.cartridges[to].0);
            heard.is_what_its_generations_say();
        }
        let back = handle.rollback(InFlight::Finish).unwrap();
        let heard = listen(PROMPTS[1], &ask(&handle, PROMPTS[1]).unwrap());
        assert_eq!(heard.said[0].0.generation(), back.to.generation);
        let beside = beside.join().unwrap();
        beside.is_what_its_generations_say();
        assert!(beside.end.is_ok());
    });
}

#[test]
fn a_runtime_that_stops_leaves_nobody_waiting() {
    under_all_kinds_of_orders(|| {
        let runtime = runtime();
        let handle = runtime.handle();
        let streams: Vec<_> = PROMPTS
            .into_iter()
            .map(|prompt| {
                let handle = handle.clone();
                thread::spawn(move || match ask(&handle, prompt) {
                    Ok(events) => events.iter().last(),
                    Err(SubmitError::Stopped) => None,
                    Err(other) => panic!("{other}"),
                })
            })
            .collect();
        let swapper = {
            let handle = handle.clone();
            thread::spawn(move || exchange(&handle, 1, InFlight::Boundary))
        };
        let asker = {
            let handle = handle.clone();
            thread::spawn(move || handle.cut_off())
        };
        drop(runtime);
        for stream in streams {
            match stream.join().unwrap() {
                None | Some(StreamEvent::Done(_)) => {}
                Some(StreamEvent::Failed(StreamError::ShuttingDown)) => {}
                Some(other) => panic!("a stream ended with {other:?}"),
            }
        }
        match swapper.join().unwrap() {
            Ok(_) | Err(SwapError::Stopped) => {}
            Err(other) => panic!("{other}"),
        }
        asker.join().unwrap();
        assert_eq!(handle.open_requests(), 0);
        assert!(!handle.is_running());
        assert!(matches!(ask(&handle, PROMPTS[0]), Err(SubmitError::Stopped)));
    });
}
