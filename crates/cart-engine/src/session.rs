//! One generation as a value: what was read, what was chosen, what is still held back.

mod batch;
mod output;
mod resume;

use std::time::{Duration, Instant};

use cart_nn::decoder::{Run, State};
use cart_nn::{ForwardError, Logits, LogitsFor};
use thiserror::Error;

use crate::agent::Agent;
use crate::chat::ChatError;
use crate::distribution;
use crate::event::{FinishReason, GenerateEvent, Generation, StepEvent, Timings};
use crate::memory_loop::{MemoryLoop, MemoryLoopError};
use crate::options::{GenerateOptions, OptionsError, Prompt};
use crate::prompt_text::PromptText;
use crate::sampling;
use crate::session_section::ResumeError;
use crate::tokenizer::{ParseSpecial, ShowSpecial, TokenizerError};
pub use batch::{PREFILL_CHUNK, step_many};
use output::Output;

/// Why a session can't begin.
#[derive(Debug, Error)]
pub enum StartError {
    /// An option is out of its range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// There is no tokenizer.
    #[error("the cartridge has no tokenizer; give token ids, or pack the model with its tokenizer")]
    NoTokenizer,
    /// There is no chat template.
    #[error("the cartridge has no chat template; give a raw prompt, or pack a model that has one")]
    NoChatTemplate,
    /// The chat template refuses the conversation.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The tokenizer fails on the prompt.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Nothing to continue.
    #[error("the prompt has no tokens; give at least one character")]
    EmptyPrompt,
    /// A token that the model does not have.
    #[error("token {token} at index {index} of the prompt; the vocabulary has {vocab} tokens")]
    TokenOutOfRange {
        /// Where.
        index: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: u64,
    },
    /// The prompt does not leave room for a single token.
    #[error(
        "the prompt has {found} tokens; the context has room for {context}, one of them for the answer: shorten the prompt"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        found: usize,
        /// Positions of the context.
        context: usize,
    },
    /// Half a character waits for its other half.
    #[error("the session holds back part of a character; step once more before moving it")]
    InsideCharacter,
    /// Memory could not take part.
    #[error(transparent)]
    Memory(#[from] MemoryLoopError),
    /// The saved session can't be continued.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// A saved session has the memory in it that it had.
    #[error(
        "memory can't take part in a session that is continued: what it recalled is in the saved state; leave --memory out, or begin anew"
    )]
    ResumeWithMemory,
}

/// Why a step failed. The session is as it was, unless the error says otherwise.
#[derive(Debug, Error)]
pub enum StepError {
    /// There is nothing more to do.
    #[error("the generation has ended ({0:?}); start another one")]
    Finished(FinishReason),
    /// The model failed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The model computed something that is not a number.
    #[error(
        "the logits after token {position} are not finite; the weights or the arithmetic are damaged"
    )]
    NotFinite {
        /// Tokens before, prompt included.
        position: usize,
    },
    /// The tokenizer failed on the new token.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Memory failed; the token it belongs to is lost.
    #[error(transparent)]
    Memory(#[from] MemoryLoopError),
}

/// Why a generation failed.
#[derive(Debug, Error)]
pub enum GenerateError {
    /// It could not begin.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A step failed.
    #[error(transparent)]
    Step(#[from] StepError),
}

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
    /// The same without a prefix, for comparison.
    bare: Option<State>,
    query: Vec<u32>,
    output: Output,
    finished: Option<FinishReason>,
    memory: Option<MemoryLoop>,
    /// Logits of the last token, if all were read and none was chosen.
    ready: Option<Vec<f32>>,
    prefill: Duration,
    decode: Duration,
}

/// What a session reads in the next batch.
#[derive(Clone, Copy, Debug)]
struct Reading {
    tokens: usize,
    logits: LogitsFor,
    ends_prompt: bool,
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
        let memory = MemoryLoop::start(agent, &text, &options.memory, &mut state)?;
        let compare = options.memory.compare && memory.as_ref().is_some_and(MemoryLoop::has_prefix);
        let mut session = Self {
            options: options.clone(),
            prompt: text.tokens.clone(),
            generated: Vec::new(),
            tokens: text.tokens,
            read: 0,
            cut: text.cut,
            state,
            bare: compare.then(|| agent.new_state()),
            query: text.query,
            output: Output::new(options.stop.clone()),
            finished: None,
            memory,
            ready: None,
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

    /// Bytes that its keys and values take.
    pub fn state_bytes(&self) -> usize {
        self.state.bytes() + self.bare.as_ref().map_or(0, State::bytes)
    }

    /// Goes on with another agent: the text so far becomes its prompt. What was shown stays shown.
    /// On failure the session is as it was.
    ///
    /// * `from`: the agent that made the tokens so far
    ///
    /// # Errors
    /// The session stands inside a character, or the text does not suit the other agent.
    pub fn move_to(&mut self, from: &Agent, to: &Agent) -> Result<(), StartError> {
        if !self.at_boundary() {
            return Err(StartError::InsideCharacter);
        }
        let tokens = translate(from, to, &self.tokens)?;
        let query = translate(from, to, &self.query)?;
        let (found, context) = (tokens.len(), to.context_length());
        if found >= context {
            return Err(StartError::PromptTooLong { found, context });
        }
        let text = PromptText {
            tokens,
            query,
            told: Vec::new(),
            answer: "answer",
            continues: false,
            cut: 0,
        };
        let mut state = to.new_state();
        let memory = MemoryLoop::start(to, &text, &self.options.memory, &mut state)?;
        let output = self.output.resumed(to, &text.tokens)?;
        let compare =
            self.options.memory.compare && memory.as_ref().is_some_and(MemoryLoop::has_prefix);
        self.bare = compare.then(|| to.new_state());
        (self.state, self.memory, self.output) = (state, memory, output);
        (self.tokens, self.query, self.read) = (text.tokens, text.query, 0);
        (self.cut, self.ready) = (0, None);
        Ok(())
    }

    /// Ends the session, whether or not the generation has ended: writes to memory what is left, and
    /// says what was done.
    ///
    /// # Errors
    /// Memory can't be written.
    pub fn finish(mut self, agent: &Agent) -> Result<Generation, StepError> {
        self.read_last(agent)?;
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
        let told = self.memory.as_ref().is_some_and(MemoryLoop::wants_prompt_logits);
        let logits = match (told && left > 1, ends_prompt) {
            (true, _) => LogitsFor::All,
            (false, true) => LogitsFor::Last,
            (false, false) => LogitsFor::None,
        };
        Reading { tokens, logits, ends_prompt }
    }

    /// Where the tokens are cut next. It follows from the prompt alone, never from the sessions
    /// beside, so that sums are always taken in the same order.
    fn next_cut(&self) -> usize {
        next_cut(self.cut, self.read)
    }

    /// Whether the state depends on the tokens alone.
    fn is_plain(&self) -> bool {
        self.memory.is_none() && self.bare.is_none()
    }

    /// Begins with what another session has read of the same prompt, if that is kept.
    fn reuse(&mut self, agent: &Agent) {
        if !self.is_plain() {
            return;
        }
        let cuts = std::iter::successors(Some(next_cut(self.cut, 0)), |at| {
            (*at < self.tokens.len()).then(|| next_cut(self.cut, *at))
        });
        let cuts: Vec<usize> = cuts.collect();
        if let Some((state, read)) = agent.prefixes().find(&self.tokens, self.cut, &cuts) {
            (self.state, self.read) = (state, read);
        }
    }

    /// Keeps the state for other sessions, where the prompt was cut.
    ///
    /// * `first`: tokens that were read before the last step
    fn leave(&self, agent: &Agent, first: usize) {
        let cut = self.read == next_cut(self.cut, first) && self.read < self.prompt.len();
        if cut && self.is_plain() && self.generated.is_empty() {
            agent.prefixes().keep(&self.tokens[..self.read], self.cut, first, &self.state);
        }
    }

    /// The session's part of a batch: one run, and one for the bare model if it runs beside.
    fn runs(&mut self, reading: Reading) -> impl Iterator<Item = Run<'_>> {
        let tokens = &self.tokens[self.read..self.read + reading.tokens];
        let taps = self.memory.as_mut().map(|memory| {
            memory.tap.clear();
            &mut memory.tap as &mut dyn cart_nn::Taps
        });
        let run = Run { state: &mut self.state, tokens, logits: reading.logits, taps };
        let logits = if reading.ends_prompt { LogitsFor::Last } else { LogitsFor::None };
        let bare = self.bare.as_mut().map(|state| Run { state, tokens, logits, taps: None });
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

    /// Generates a token from logits that were saved, if there are any.
    fn go_on(&mut self, agent: &Agent) -> Option<Result<StepEvent, StepError>> {
        let row = self.ready.take_if(|_| self.finished.is_none())?;
        if !cart_nn::logits::all_finite(&row) {
            return Some(Err(StepError::NotFinite { position: self.read }));
        }
        let chosen = self.choose(agent, &row, None);
        Some(chosen.map(|(token, event)| {
            self.tokens.push(token);
            StepEvent::Generated(event)
        }))
    }

    /// Chooses the next token from the logits of the last one.
    fn choose(
        &mut self,
        agent: &Agent,
        row: &[f32],
        bare: Option<&[f32]>,
    ) -> Result<(u32, GenerateEvent), StepError> {
        let mixed = match &mut self.memory {
            Some(memory) => memory.mix(agent, row)?,
            None => None,
        };
        let logits = mixed.as_deref().unwrap_or(row);
        let token = sampling::sample(logits, &self.tokens, &self.options.sampling);
        if let Some(memory) = &mut self.memory {
            let reference =
                bare.or_else(|| (mixed.is_some() && !memory.has_prefix()).then_some(row));
            memory.after_choice(token, logits, reference);
        }
        let logprob = distribution::logprob(logits, token);
        let top_logprobs = distribution::top_logprobs(logits, self.options.top_logprobs);
        self.generated.push(token);
        let ends = self.ends(agent, token);
        let (text_delta, stopped) = self.output.push(agent, token, logprob, &top_logprobs, ends)?;
        self.finished = if stopped { Some(FinishReason::Stop) } else { ends };
        let finished = self.finished;
        Ok((token, GenerateEvent { token, text_delta, logprob, top_logprobs, finished }))
    }

    /// Why the generation ends with this token, stop strings aside.
    fn ends(&self, agent: &Agent, token: u32) -> Option<FinishReason> {
        let eos = agent.tokenizer().is_some_and(|tokenizer| tokenizer.is_eos(token));
        if eos && !self.options.ignore_eos {
            return Some(FinishReason::Eos);
        }
        let enough = self.options.max_tokens.is_some_and(|most| self.generated.len() >= most);
        let full = self.state.len() + 1 >= agent.context_length();
        (enough || full).then_some(FinishReason::Length)
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
        let tokens = &self.tokens[first..first + reading.tokens];
        let following = &self.tokens[first + 1..];
        let mut next: Vec<Option<f32>> = if reading.logits == LogitsFor::All {
            let surprise = |(row, &token): (usize, &u32)| {
                Some(-distribution::logprob(logits.row(row), token) as f32)
            };
            following.iter().take(tokens.len()).enumerate().map(surprise).collect()
        } else {
            vec![None; tokens.len()]
        };
        next.resize(tokens.len(), None);
        if let (Some(last), Some(chosen)) = (next.last_mut(), chosen) {
            *last = Some(-chosen as f32);
        }
        Ok(memory.after_read(agent, first, tokens, &next)?)
    }

    /// Reads the last generated token, so that memory gets its hidden state too.
    fn read_last(&mut self, agent: &Agent) -> Result<(), StepError> {
        let told = self.memory.as_ref().is_some_and(MemoryLoop::wants_prompt_logits);
        let ended_by_itself = self.finished == Some(FinishReason::Eos);
        let room = self.state.len() < agent.context_length();
        if !told || ended_by_itself || !room || self.tokens.len() != self.read + 1 {
            return Ok(());
        }
        let reading = Reading { tokens: 1, logits: LogitsFor::None, ends_prompt: false };
        let mut runs: Vec<Run<'_>> = self.runs(reading).collect();
        let logits = agent.forward(&mut runs)?;
        drop(runs);
        self.read += 1;
        self.tell(agent, self.read - 1, reading, &logits[0], None)
    }
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

/// Where a prompt that is cut at `cut` first is cut after `read`.
fn next_cut(cut: usize, read: usize) -> usize {
    let whole = |from: usize| from + ((read - from) / PREFILL_CHUNK + 1) * PREFILL_CHUNK;
    if read < cut { whole(0).min(cut) } else { whole(cut) }
}

/// Tokens of one agent as tokens of another: themselves where both have the same tokenizer, else
/// through their text.
fn translate(from: &Agent, to: &Agent, tokens: &[u32]) -> Result<Vec<u32>, StartError> {
    let document =
        |agent: &Agent| agent.manifest().tokenizer.as_ref().map(|tokenizer| tokenizer.document);
    if document(from) == document(to) {
        return Ok(tokens.to_vec());
    }
    let old = from.tokenizer().ok_or(StartError::NoTokenizer)?;
    let new = to.tokenizer().ok_or(StartError::NoTokenizer)?;
    Ok(new.encode(&old.decode(tokens, ShowSpecial::Yes)?, ParseSpecial::Yes)?)
}
