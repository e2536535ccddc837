//! Many streams on one cartridge, which can change under them.
//!
//! One thread owns the token loop and makes every decision: which requests get a place, what the
//! next batch is, when the cartridge changes. Others talk to it through a [`RuntimeHandle`]. A
//! request pins the generation ([`Resident`]) that it runs on.
//!
//! Begin with [`Runtime::start`], then [`RuntimeHandle::submit`] and
//! [`RuntimeHandle::swap`](RuntimeHandle::swap).

mod flip;
mod generations;
mod held;
mod owner;
mod parked;
mod reading;
mod replacing;
mod resident;
mod running;
mod shared;
mod state;
mod stream;
mod watch;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cart_store::Cartridge;
use thiserror::Error;

use crate::long_term::{LongTermError, LongTermSource, SavedConversations};
use crate::swap::candidate::{Staged, Warm};
use crate::swap::moving::Moving;
use crate::swap::{
    InFlight, MemoryAccount, NoRoom, SwapError, SwapFailure, SwapReport, SwapRequest,
};
use crate::sync::mpsc::{self, Sender};
use crate::sync::thread;
use crate::{
    Agent, GenerateOptions, LoadError, LoadOptions, OptionsError, Prompt, session_section,
};
use generations::Generations;
use owner::{Command, Owner};
use reading::Reading;
use shared::{Shared, SwapTurn};

pub use parked::Parked;
pub use reading::{EmbedError, Embeddable, EmbeddingSink, Embeddings};
pub use resident::Resident;
pub use state::{Ended, GenerationState, RuntimeState, SwapUnderWay};
pub use stream::{ChannelSink, EventSink, StreamError, StreamEvent, StreamSummary};
pub use watch::{
    CollapseOptions, Retold, RolledBack, Trip, Trips, WatchListener, WatchOptions, WatchState,
    Watching,
};

/// How a runtime behaves.
#[derive(Clone, Debug)]
pub struct RuntimeOptions {
    /// Most streams that are generated at once.
    pub max_streams: NonZeroUsize,
    /// Most requests that wait for a place; more are refused as [`SubmitError::Busy`].
    pub max_queued: usize,
    /// How long a request may wait for a place before it fails as [`StreamError::NoPlace`].
    pub max_wait: Duration,
    /// How long the previous generation stays to be rolled back to.
    pub rollback_window: Duration,
    /// How a new generation is watched.
    pub watch: WatchOptions,
    /// Hears of what the watch does.
    pub listener: Option<Arc<dyn WatchListener>>,
    /// The folder in which the memory of a generation is written down that is left.
    pub journal: Option<PathBuf>,
    /// What all cartridges together take and may take. Runtimes that are to share a budget are given the same.
    pub account: Arc<MemoryAccount>,
    /// How cartridges are loaded.
    pub load: LoadOptions,
    /// Threads that verify a new cartridge; every core if absent.
    pub verify_threads: Option<usize>,
    /// Where conversations are that were saved, to be taken up.
    pub conversations: Option<Arc<dyn SavedConversations>>,
    /// The long-term memory that others share, if they do; else conversations share the agent's own.
    pub long_term: Option<Arc<dyn LongTermSource>>,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        Self {
            max_streams: NonZeroUsize::new(64).expect("64 is not 0"),
            max_queued: 256,
            max_wait: Duration::from_mins(2),
            rollback_window: Duration::from_mins(10),
            watch: WatchOptions::default(),
            listener: None,
            journal: None,
            account: Arc::default(),
            load: LoadOptions::default(),
            verify_threads: None,
            conversations: None,
            long_term: None,
        }
    }
}

/// A text to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationRequest {
    /// What the model is given.
    pub prompt: Prompt,
    /// How the generation runs.
    pub options: GenerateOptions,
}

/// Why a request was not taken.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// An option is out of its range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The queue is full.
    #[error("{queued} requests wait already; try again in a moment")]
    Busy {
        /// Requests that wait.
        queued: usize,
    },
    /// The runtime has been stopped.
    #[error("the runtime has been stopped")]
    Stopped,
}

/// Why a runtime did not start.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The first cartridge can't be used.
    #[error(transparent)]
    Cartridge(Box<SwapFailure>),
    /// There is no memory for it.
    #[error(
        "`{name}` takes {:.1} MiB, and {:.1} MiB {}; take a smaller one, or raise what it may take",
        found.needed as f64 / f64::from(1 << 20), found.free as f64 / f64::from(1 << 20), found.limit
    )]
    Room {
        /// What people call the cartridge.
        name: String,
        /// What it takes and what there is.
        found: NoRoom,
    },
    /// The system gives no thread.
    #[error("the token loop's thread can't be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// A running token loop. Dropping it stops the loop; [`Runtime::handle`] gives the means to talk to
/// it.
#[derive(Debug)]
pub struct Runtime {
    handle: RuntimeHandle,
    thread: Option<thread::JoinHandle<()>>,
}

impl Runtime {
    /// Verifies, loads and warms up the first cartridge as a swap would, and starts the token loop.
    ///
    /// * `name`: what people call the cartridge
    ///
    /// # Errors
    /// The cartridge can't be used, or no thread can be started.
    pub fn start(
        name: &str,
        cartridge: Cartridge,
        options: RuntimeOptions,
    ) -> Result<Self, RuntimeError> {
        Self::begin(name, 1, cartridge, None, options)
    }

    /// As [`Runtime::start`], with a number and with what was remembered before.
    fn begin(
        name: &str,
        number: u64,
        cartridge: Cartridge,
        moving: Option<Moving>,
        options: RuntimeOptions,
    ) -> Result<Self, RuntimeError> {
        let needed = cartridge.manifest().total_bytes();
        let taken = options
            .account
            .take(needed, 0)
            .map_err(|found| RuntimeError::Room { name: name.to_owned(), found })?;
        let lifecycle = Arc::default();
        let staged = Staged { cartridge: cartridge.clone(), lifecycle, running: None };
        let begins = moving.is_none();
        let warm = prepare(staged, &options, moving)
            .map_err(|failure| RuntimeError::Cartridge(Box::new(failure)))?;
        if begins {
            take_up_own(&warm.agent, &options)
                .map_err(|failure| RuntimeError::Cartridge(Box::new(failure)))?;
        }
        let first = Arc::new(Resident::new(name.to_owned(), number, warm, cartridge));
        // Active from here on, so that whoever asks before the first turn hears so.
        let generations = Generations::new(Arc::clone(&first), options.rollback_window);
        let shared =
            Arc::new(Shared::new(options, Owner::first_state(&first), first.agent().clone()));
        let (commands, inbox) = mpsc::channel();
        let channel = (commands.clone(), inbox);
        let owner = Owner::new(generations, channel, Arc::clone(&shared), taken);
        let thread = thread::Builder::new()
            .name("cart-tokens".to_owned())
            .spawn(move || owner.run())
            .map_err(RuntimeError::Thread)?;
        Ok(Self { handle: RuntimeHandle { commands, shared }, thread: Some(thread) })
    }

    /// The means to talk to it.
    pub fn handle(&self) -> RuntimeHandle {
        self.handle.clone()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // A loop that has ended already has nothing to be told.
        let _ = self.handle.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Talks to a running token loop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RuntimeHandle {
    commands: Sender<Command>,
    shared: Arc<Shared>,
}

impl RuntimeHandle {
    /// Queues a request. Its events go to `sink`, beginning with `Started` or `Failed`.
    ///
    /// # Errors
    /// An option is out of its range, the queue is full, or the runtime has been stopped.
    pub fn submit(
        &self,
        request: GenerationRequest,
        sink: Box<dyn EventSink>,
    ) -> Result<(), SubmitError> {
        request.options.check()?;
        let place = self.shared.take_place()?;
        let ticket = self.shared.open_ticket();
        let request = Box::new(request);
        let submitted = self.commands.send(Command::Submit { request, sink, place, ticket });
        submitted.map_err(|_| SubmitError::Stopped)
    }

    /// Queues texts to be embedded by the active generation. Blocks while they are tokenized, and the first time
    /// while the model's space is calibrated; what is refused then is returned and not delivered.
    ///
    /// # Errors
    /// A text has no tokens, too many, or unknown ones, the queue is full, or the runtime has been stopped.
    pub fn embed(
        &self,
        texts: &[Embeddable],
        sink: Box<dyn EmbeddingSink>,
    ) -> Result<(), EmbedError> {
        let taken = (self.shared.take_place()?, self.shared.open_ticket());
        let resident = self.active()?;
        let reading = Reading::new(resident, texts, sink, taken)?;
        let submitted = self.commands.send(Command::Embed { reading: Box::new(reading) });
        submitted.map_err(|_| SubmitError::Stopped.into())
    }

    /// What its cartridges take, with those of the runtimes that share the account.
    pub fn account(&self) -> &MemoryAccount {
        &self.shared.options.account
    }

    /// What the runtime is doing, as of its last turn.
    pub fn state(&self) -> Arc<RuntimeState> {
        self.shared.state()
    }

    /// Whether the token loop runs.
    pub fn is_running(&self) -> bool {
        self.shared.is_running()
    }

    /// The active generation. Its agent's memory is the live one: read it, save it.
    ///
    /// # Errors
    /// The runtime has been stopped.
    pub fn active(&self) -> Result<Arc<Resident>, SubmitError> {
        self.ask(|reply| Command::Active { reply }).ok_or(SubmitError::Stopped)
    }

    /// Goes back to the generation before, with the memory that it had; a memory that was carried
    /// over stays as it is now.
    ///
    /// # Errors
    /// A swap is under way, there is nothing to go back to or its weights are others while streams should keep
    /// what they have read, or the runtime has been stopped.
    pub fn rollback(&self, in_flight: InFlight) -> Result<SwapReport, SwapError> {
        let _turn: SwapTurn = self.shared.begin_swap("rollback").ok_or(SwapError::InProgress)?;
        let done = self.ask(|reply| Command::RollBack { in_flight, reply });
        done.ok_or(SwapError::Stopped)?
    }

    /// Requests that were taken and have not ended, waiting ones included. Unlike the state, this
    /// is never a turn behind.
    pub fn open_requests(&self) -> usize {
        self.shared.open()
    }

    /// Ends every stream and every waiting request with [`StreamError::ShuttingDown`], and says how
    /// many those were. Blocks until the turn is over.
    pub fn cut_off(&self) -> usize {
        // A loop that has ended has no streams.
        self.ask(|reply| Command::CutOff { reply }).unwrap_or(0)
    }

    fn ask<T>(&self, command: impl FnOnce(Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = mpsc::channel();
        self.commands.send(command(reply)).ok()?;
        answer.recv().ok()
    }
}

/// Refuses at the manifest, before the weights are read, that streams keep keys and values of other weights.
fn check_kept(request: &SwapRequest, running: &Agent) -> Result<(), SwapFailure> {
    let manifest = request.cartridge.manifest();
    // What has the same weights and tokenizer has the same basis, and it is asked for by `keep` alone.
    if request.in_flight != InFlight::Keep || running.has_parts_of(manifest) {
        return Ok(());
    }
    let found = session_section::basis(manifest).map_err(LoadError::Space)?;
    flip::may_keep(request.in_flight, running.basis(), found)
}

/// The way of a cartridge to `Warm`, on this thread.
fn prepare(
    staged: Staged,
    options: &RuntimeOptions,
    moving: Option<Moving>,
) -> Result<Warm, SwapFailure> {
    let warm = staged.verify(options.verify_threads, &options.load)?.load(moving)?.warm()?;
    if let Some(saved) = &options.conversations {
        warm.agent.take_up_conversations(Arc::clone(saved));
    }
    if let Some(source) = &options.long_term {
        warm.agent.share_long_term(source.as_ref())?;
    }
    Ok(warm)
}

/// Gives an agent what its cartridge remembered when it was served before, if that was saved.
fn take_up_own(agent: &Agent, options: &RuntimeOptions) -> Result<(), SwapFailure> {
    let Some(saved) = &options.conversations else { return Ok(()) };
    let what = || "what was remembered outside of sessions".to_owned();
    let own =
        saved.own(agent.id()).map_err(|source| LongTermError::Saved { what: what(), source })?;
    if own.is_some() {
        agent.set_memory(own)?;
    }
    Ok(())
}
