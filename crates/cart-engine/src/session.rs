//! One generation as a value: what was read, what was chosen, what is still held back.

mod batch;
mod choice;
mod error;
mod moving;
mod output;
mod prefix;
mod resume;

use std::time::{Duration, Instant};

use cart_nn::decoder::{Run, State};
use cart_nn::{Logits, LogitsFor};

use crate::agent::Agent;
use crate::constraint::Guide;
use crate::distribution;
use crate::event::{FinishReason, GenerateEvent, Generation, StepEvent, Timings};
use crate::memory_cell::MemoryCell;
use crate::memory_loop::MemoryLoop;
use crate::options::{GenerateOptions, Prompt};
use crate::prompt_text::PromptText;
pub use batch::{PREFILL_CHUNK, step_many};
pub use error::{GenerateError, StartError, StepError};
use output::Output;

/// One generation. It does nothing by itself: [`Session::step`] and [`step_many`] move it on.
#[derive(Clone, Debug)]
pub struct Session {
    options: GenerateOptions,
    prompt: Vec<u32>,
    generated: Vec<u32>,
    /// Prompt and generated tokens as the present model sees them.
    tokens: Vec<u32>,
    /// How many of `tokens` were read into the state.
    read: usize,
    /// Where the prompt is cut first; from there on, at every [`PREFILL_CHUNK`].
    cut: usize,
    state: State,
    /// The same without the goal, which its budget is measured from; or, where none steers, without a
    /// prefix, for comparison.
    bare: Option<State>,
    query: Vec<u32>,
    output: Output,
    finished: Option<FinishReason>,
    memory: Option<MemoryLoop>,
    /// What its answer is held to.
    guide: Option<Guide>,
    /// Whose memory takes part.
    cell: MemoryCell,
    /// Logits of the last token, if all were read and none was chosen.
    ready: Option<Vec<f32>>,
    /// Tokens up to the last whole character.
    whole: usize,
    /// Entropy of what the last token was drawn from, where it is asked for.
    entropy: Measured,
    prefill: Duration,
    decode: Duration,
}

/// The entropy of what a token was drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Measured {
    /// Nobody asks for it.
    Off,
    /// In nats; none before the first token.
    On(Option<f64>),
}

/// What a session reads in the next batch.
#[derive(Clone, Copy, Debug)]
struct Reading {
    tokens: usize,
    logits: LogitsFor,
    ends_prompt: bool,
}

impl Reading {
    /// Of a session that has ended: its last token, for memory alone.
    const OF_LAST: Self = Self { tokens: 1, logits: LogitsFor::None, ends_prompt: false };
}

impl Session {
    /// Prepares a generation. The prompt is read by the steps that follow; only recall is done now.
    ///
    /// # Errors
    /// The prompt or the options can't be used, or memory fails.
    pub fn start(
        agent: &Agent,
        prompt: &Prompt,
        options: &GenerateOptions,
    ) -> Result<Self, StartError> {
        options.check()?;
        let text = PromptText::new(agent, prompt, options)?;
        let (found, context) = (text.tokens.len(), agent.context_length());
        if found >= context {
            return Err(StartError::PromptTooLong { found, context });
        }
        let mut state = agent.new_state();
        let agent = &in_conversation(agent, options)?;
        let memory = MemoryLoop::start(agent, &text, 1, &options.memory, &mut state)?;
        let bare = beside(agent, memory.as_ref(), options, &state);
        let guide =
            options.constraint.as_ref().map(|held| Guide::start(agent, held)).transpose()?;
        let mut session = Self {
            options: options.clone(),
            prompt: text.tokens.clone(),
            generated: Vec::new(),
            whole: text.tokens.len(),
            tokens: text.tokens,
            read: 0,
            cut: text.cut,
            state,
            bare,
            query: text.query,
            output: Output::new(options.stop.clone()),
            finished: None,
            memory,
            guide,
            cell: agent.memory_cell().clone(),
            ready: None,
            entropy: Measured::Off,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        };
        session.reuse(agent);
        Ok(session)
    }

    /// Reads the next part of the prompt, or generates a token.
    ///
    /// # Errors
    /// The session has ended, or the model or memory fails.
    pub fn step(&mut self, agent: &Agent) -> Result<StepEvent, StepError> {
        step_many(agent, &mut [self]).pop().expect("one session gives one event")
    }

    /// Tokens that were read when it began, for recall.
    pub(crate) fn read_first(&self) -> usize {
        self.memory.as_ref().map_or(0, MemoryLoop::read_first)
    }

    /// Why it ended, if it has.
    pub fn finished(&self) -> Option<FinishReason> {
        self.finished
    }

    /// The text that may be shown so far.
    pub fn text(&self) -> &str {
        self.output.text()
    }

    /// The prompt's tokens.
    pub fn prompt_ids(&self) -> &[u32] {
        &self.prompt
    }

    /// The tokens generated so far.
    pub fn token_ids(&self) -> &[u32] {
        &self.generated
    }

    /// What it was asked.
    pub fn options(&self) -> &GenerateOptions {
        &self.options
    }

    /// Whether the session stands between two characters, so that [`Session::move_to`] can move it.
    pub fn at_boundary(&self) -> bool {
        self.output.is_whole()
    }

    /// Tokens of its text so far, prompt included.
    pub(crate) fn position(&self) -> usize {
        self.tokens.len()
    }

    /// From now on the entropy of what tokens are drawn from is measured, or not.
    pub(crate) fn measure_entropy(&mut self, measured: bool) {
        match (measured, self.entropy) {
            (true, Measured::Off) => self.entropy = Measured::On(None),
            (false, _) => self.entropy = Measured::Off,
            (true, Measured::On(_)) => {}
        }
    }

    /// Entropy of what the last token was drawn from, in nats, with memory mixed in and before any filter; none
    /// where it was not measured.
    pub(crate) fn entropy(&self) -> Option<f64> {
        match self.entropy {
            Measured::Off => None,
            Measured::On(entropy) => entropy,
        }
    }

    /// Bytes that its keys and values take.
    pub fn state_bytes(&self) -> usize {
        self.state.bytes() + self.bare.as_ref().map_or(0, State::bytes)
    }

    /// Ends the session, whether or not the generation has ended: writes to memory what is left,
    /// and says what was done.
    ///
    /// # Errors
    /// Memory can't be written.
    pub fn finish(mut self, agent: &Agent) -> Result<Generation, StepError> {
        self.read_last(agent)?;
        let agent = &agent.with_cell(&self.cell);
        let (recall, spent) = self.memory.as_ref().map(MemoryLoop::durations).unwrap_or_default();
        let memory = self.memory.map(|memory| memory.finish(agent)).transpose()?;
        let (text, logprobs, top_logprobs) = self.output.into_parts();
        Ok(Generation {
            text,
            prompt_ids: self.prompt,
            token_ids: self.generated,
            logprobs,
            top_logprobs,
            finish: self.finished.unwrap_or(FinishReason::Length),
            timings: Timings { recall, prefill: self.prefill, decode: self.decode, memory: spent },
            memory,
        })
    }

    /// What is read next.
    fn reading(&self) -> Reading {
        let left = self.tokens.len() - self.read;
        let tokens = left.min(self.next_cut() - self.read);
        let ends_prompt = tokens == left;
        let told = self.memory.as_ref().and_then(MemoryLoop::first_told);
        let told = told.filter(|told| left > 1 && *told <= self.read + tokens);
        let logits = match (told, ends_prompt) {
            // The logits of a token are in the row before it.
            (Some(told), _) => LogitsFor::Following {
                from: told.saturating_sub(self.read + 1),
                counted: self.options.memory.surprise,
            },
            (None, true) => LogitsFor::Last,
            (None, false) => LogitsFor::None,
        };
        Reading { tokens, logits, ends_prompt }
    }

    /// The session's part of a batch: one run, and one for the bare model if it runs beside.
    fn runs(&mut self, reading: Reading) -> impl Iterator<Item = Run<'_>> {
        let tokens = &self.tokens[self.read..self.read + reading.tokens];
        if self.finished.is_some() {
            // Nothing comes after it.
            self.memory.iter_mut().for_each(MemoryLoop::ending);
        }
        let (taps, beside) = self.memory.as_mut().map(MemoryLoop::taps).unwrap_or_default();
        let run = Run { state: &mut self.state, tokens, logits: reading.logits, taps };
        let logits = if reading.ends_prompt { LogitsFor::Last } else { LogitsFor::None };
        let bare = self.bare.as_mut().map(|state| Run { state, tokens, logits, taps: beside });
        std::iter::once(run).chain(bare)
    }

    /// Takes in what the batch computed for this session.
    ///
    /// * `logits`: of its run, and of the bare model's if it ran beside
    fn absorb(
        &mut self,
        agent: &Agent,
        reading: Reading,
        logits: &[Logits],
        took: Duration,
    ) -> Result<StepEvent, StepError> {
        let first = self.read;
        self.read += reading.tokens;
        self.leave(agent, first);
        if first < self.prompt.len() && self.generated.is_empty() {
            self.prefill += took;
        } else {
            self.decode += took;
        }
        let began = Instant::now();
        let only_reads = self.options.max_tokens == Some(0);
        let chooses = reading.ends_prompt && !only_reads;
        let event = if let Some(row) = logits[0].last().filter(|_| chooses) {
            if !cart_nn::logits::all_finite(row) {
                return Err(StepError::NotFinite { position: self.read });
            }
            let bare = logits.get(1).and_then(Logits::last);
            let (token, event) = self.choose(agent, row, bare)?;
            self.tell(agent, first, reading, &logits[0], Some(event.logprob))?;
            self.tokens.push(token);
            StepEvent::Generated(event)
        } else {
            self.tell(agent, first, reading, &logits[0], None)?;
            if reading.ends_prompt {
                self.ready = logits[0].last().map(<[f32]>::to_vec);
                self.finished = Some(FinishReason::Length);
            }
            StepEvent::Prefilled { done: self.read, total: self.tokens.len() }
        };
        self.decode += began.elapsed();
        Ok(event)
    }

    /// Tells memory what was read.
    ///
    /// * `chosen`: ln p of the token that was chosen after it, if one was
    fn tell(
        &mut self,
        agent: &Agent,
        first: usize,
        reading: Reading,
        logits: &Logits,
        chosen: Option<f64>,
    ) -> Result<(), StepError> {
        let Some(memory) = &mut self.memory else { return Ok(()) };
        let agent = &agent.with_cell(&self.cell);
        let tokens = &self.tokens[first..first + reading.tokens];
        let mut next: Vec<Option<f32>> = vec![None; tokens.len()];
        let (last, before) = next.split_last_mut().expect("a reading has a token");
        if matches!(reading.logits, LogitsFor::Following { .. }) {
            let unknown = before.len() - logits.following.len();
            for (next, logprob) in before[unknown..].iter_mut().zip(&logits.following) {
                *next = Some(-logprob as f32);
            }
            let after = self.tokens.get(self.read).zip(logits.last());
            *last = after.map(|(&token, row)| -distribution::logprob(row, token) as f32);
        }
        if let Some(chosen) = chosen {
            *last = Some(-chosen as f32);
        }
        Ok(memory.after_read(agent, first, tokens, &next)?)
    }

    /// Whether it has ended and memory is still to be told its last token, which [`step_many`] does, or else
    /// [`Session::finish`].
    pub(crate) fn has_last_to_read(&self, agent: &Agent) -> bool {
        self.finished.is_some() && self.leaves_one_unread(agent)
    }

    /// Whether there is one token left that memory wants.
    fn leaves_one_unread(&self, agent: &Agent) -> bool {
        let told = self.memory.as_ref().and_then(MemoryLoop::first_told).is_some();
        let ended_by_itself = self.finished == Some(FinishReason::Eos);
        let room = self.state.len() < agent.context_length();
        told && !ended_by_itself && room && self.tokens.len() == self.read + 1
    }

    /// Reads the last generated token, so that memory gets its hidden state too.
    fn read_last(&mut self, agent: &Agent) -> Result<(), StepError> {
        if !self.leaves_one_unread(agent) {
            return Ok(());
        }
        let reading = Reading::OF_LAST;
        let mut runs: Vec<Run<'_>> = self.runs(reading).collect();
        let logits = agent.forward(&mut runs)?;
        drop(runs);
        self.read += 1;
        self.tell(agent, self.read - 1, reading, &logits[0], None)
    }
}

/// The agent as it is in the conversation that the options name, if its memory takes part.
fn in_conversation(agent: &Agent, options: &GenerateOptions) -> Result<Agent, StartError> {
    let memory = &options.memory;
    match memory.session.as_deref().filter(|_| memory.reads() || memory.write) {
        Some(name) => Ok(agent.in_conversation(name)?),
        None => Ok(agent.clone()),
    }
}

/// The state of the model that runs beside, if one has to.
///
/// * `state`: of the session, with its prefix
fn beside(
    agent: &Agent,
    memory: Option<&MemoryLoop>,
    options: &GenerateOptions,
    state: &State,
) -> Option<State> {
    let memory = memory?;
    if memory.steers() {
        return Some(state.clone());
    }
    (options.memory.compare && memory.changes_states()).then(|| agent.new_state())
}

impl Agent {
    /// Generates to the end, telling `on_event` about every token.
    ///
    /// # Errors
    /// The prompt or the options can't be used, or the model or memory fails.
    pub fn generate(
        &self,
        prompt: &Prompt,
        options: &GenerateOptions,
        mut on_event: impl FnMut(&GenerateEvent),
    ) -> Result<Generation, GenerateError> {
        let mut session = Session::start(self, prompt, options)?;
        while session.finished().is_none() {
            if let StepEvent::Generated(event) = session.step(self)? {
                on_event(&event);
            }
        }
        Ok(session.finish(self)?)
    }
}
