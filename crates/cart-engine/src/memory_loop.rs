//! Memory in the loop of a generation: what is recalled before it, mixed in while it runs, and
//! written down from it.

mod encoder;
mod neighbours;
mod prefix;
mod recalled;
mod said;
mod span;
mod steering;
mod usage;
mod writer;

use std::sync::Arc;
use std::time::Instant;

use cart_memory::{Chain, Input, NextTokenQuery, SlotRef, TokenQuery, UnifiedMemory};
use cart_nn::decoder::State;
use cart_nn::{ForwardError, Taps};
use thiserror::Error;

use crate::agent::Agent;
use crate::event::MemoryUse;
use crate::hidden_tap::HiddenTap;
use crate::memory_layers::Attending;
use crate::memory_log::MemoryLogError;
use crate::options::{MemoryControl, MemoryOptions};
use crate::prompt_text::PromptText;
use crate::tokenizer::TokenizerError;
pub(crate) use encoder::Reading;
pub use encoder::{EncodeError, MemoryQuery, Observations, Telling};
use neighbours::Neighbours;
pub(crate) use prefix::{header, usual_bias};
pub use recalled::{RecalledError, RecalledSpan, RecalledSpans};
use said::Unsaid;
use steering::Goal;
pub(crate) use steering::GoalProbe;
use usage::Usage;
use writer::Writer;

/// Why memory could not take part.
#[derive(Debug, Error)]
pub enum MemoryLoopError {
    /// The memory refused a question.
    #[error("the memory refused: {0}")]
    Memory(#[from] cart_memory::MemoryError),
    /// The memory refused what it was told, could not be begun, or its log could not be written.
    #[error(transparent)]
    Told(#[from] MemoryLogError),
    /// The model failed on a query or a recalled span.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The tokenizer failed on a span.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Of a session, and of the model that runs beside.
pub(crate) type SessionTaps<'t> = (Option<&'t mut dyn Taps>, Option<&'t mut dyn Taps>);

/// Memory's part in one session.
#[derive(Clone, Debug)]
pub(crate) struct MemoryLoop {
    tap: HiddenTap,
    /// Of the model that runs beside, where that has the memory layers too.
    beside: Option<HiddenTap>,
    neighbours: Option<Neighbours>,
    goal: Option<Goal>,
    writer: Option<Writer>,
    usage: Usage,
    /// Tokens that were read to begin: the query, and what was recalled.
    read_first: usize,
    /// What was recalled and not said yet.
    unsaid: Vec<Unsaid>,
}

impl MemoryLoop {
    /// Recalls what the prompt asks for and puts it into the state. None where memory takes no
    /// part.
    ///
    /// A session reads the memory as it was when the session began.
    ///
    /// * `room`: positions that are kept free besides those of the prompt
    pub(crate) fn start(
        agent: &Agent,
        text: &PromptText,
        room: usize,
        options: &MemoryOptions,
        state: &mut State,
    ) -> Result<Option<Self>, MemoryLoopError> {
        if !options.reads() && !options.write {
            return Ok(None);
        }
        let began = Instant::now();
        let options = &options.beside(agent.memory_layers().is_some());
        let mut usage = Usage::default();
        let (mut neighbours, mut goal, mut attending) = (None, None, None);
        let (mut unsaid, mut read_first) = (Vec::new(), 0);
        if let Some(memory) = readable(agent, options)? {
            usage.report.slots = memory.slots().count();
            let recalled = recall(agent, &memory, &text.query, options)?;
            if options.recalls() {
                read_first = prefix::asking(agent, &text.query).len();
            }
            let slots = slots_of(&recalled);
            unsaid = recalled.iter().map(Unsaid::new).collect();
            if let Some(prefix) = &options.prefix {
                let room = agent.context_length().saturating_sub(text.tokens.len() + room);
                let pushed = prefix::push(agent, &recalled, prefix, room, state)?;
                usage.report.prefix_tokens = pushed.tokens;
                read_first += pushed.read;
                for (unsaid, positions) in unsaid.iter_mut().zip(pushed.positions) {
                    unsaid.positions = Some(positions);
                }
            }
            usage.read(&recalled, options.prefix.as_ref());
            goal = goal_of(agent, &memory, options)?;
            attending = attending_of(agent, &memory, options)?;
            neighbours = options.knn.clone().map(|knn| Neighbours::new(memory, slots, knn));
        }
        let writer = options.write.then(|| Writer::new(agent, text));
        usage.recall = began.elapsed();
        let (tap, beside) = taps(agent, goal.as_ref(), attending, &mut usage);
        Ok(Some(Self { tap, beside, neighbours, goal, writer, usage, read_first, unsaid }))
    }

    /// Asks and tells another agent's memory from now on. What was recalled into keys and values stays there.
    ///
    /// * `from`: the agent of the memory so far, which is told what has grown too long for the other
    pub(crate) fn turn_to(
        &mut self,
        from: &Agent,
        to: &Agent,
        query: &[u32],
        options: &MemoryOptions,
    ) -> Result<(), MemoryLoopError> {
        let began = Instant::now();
        let options = &options.beside(to.memory_layers().is_some());
        let mut neighbours = None;
        let memory = readable(to, options)?;
        let slots = memory.as_ref().map_or(0, |memory| memory.slots().count());
        // Where no model runs beside, none can begin to.
        let pulls = self.steers();
        let goal = memory.as_ref().map(|memory| goal_of(to, memory, options)).transpose()?;
        self.goal = goal.flatten().filter(|goal| goal.shift.is_none() || pulls);
        let attending = memory.as_ref().map(|memory| attending_of(to, memory, options));
        let attending = attending.transpose()?.flatten();
        (self.tap, self.beside) = taps(to, self.goal.as_ref(), attending, &mut self.usage);
        if let (Some(memory), Some(knn)) = (memory, &options.knn) {
            let recalled = recall(to, &memory, query, options)?;
            let found = slots_of(&recalled);
            neighbours = Some((Neighbours::new(memory, found, knn.clone()), recalled));
        }
        if let Some(writer) = &mut self.writer {
            writer.turn_to(from, to, &mut self.usage)?;
        }
        let recalled = neighbours.as_ref().map(|(_, recalled)| recalled.as_slice());
        self.usage.turned(slots, recalled.unwrap_or_default());
        self.neighbours = neighbours.map(|(neighbours, _)| neighbours);
        self.usage.spent += began.elapsed();
        Ok(())
    }

    /// Where memory listens from now on, in the session and in the model that runs beside.
    pub(crate) fn taps(&mut self) -> SessionTaps<'_> {
        self.tap.clear();
        let beside = self.beside.as_mut().map(|tap| {
            tap.clear();
            tap as &mut dyn Taps
        });
        (Some(&mut self.tap), beside)
    }

    /// From now on only hidden states are wanted, of what is read last.
    pub(crate) fn ending(&mut self) {
        self.tap = self.tap.clone().ending();
    }

    /// Where in the text the first token is that memory is told, if it is told any: from there on ln p of every token
    /// is needed.
    pub(crate) fn first_told(&self) -> Option<usize> {
        self.writer.as_ref().map(Writer::first)
    }

    /// Whether memory changes hidden states, by a prefix or by memory layers, so that the bare model has
    /// to run beside for a comparison.
    pub(crate) fn changes_states(&self) -> bool {
        self.usage.changes_states()
    }

    /// Whether the goal pulls at the residual stream, so that the model has to run without it beside.
    pub(crate) fn steers(&self) -> bool {
        self.goal.as_ref().is_some_and(|goal| goal.shift.is_some())
    }

    /// What the budget leaves of a step that the goal steered; none where there is none.
    ///
    /// * `logits`: `[vocab]`; `beside`: of the model that runs beside
    fn steered(&mut self, logits: &[f32], beside: Option<&[f32]>) -> Option<Vec<f32>> {
        let began = Instant::now();
        let plain = beside.filter(|_| self.steers()).unwrap_or(logits);
        let found = self.goal.as_ref()?.steered(logits, plain);
        self.usage.steered(&found);
        self.usage.spent += began.elapsed();
        Some(found.logits)
    }

    /// Takes in that tokens were read. The tap holds their hidden states.
    ///
    /// * `first`: the position of the first of them in the text
    /// * `next`: −ln p of the token after each, where it is known
    pub(crate) fn after_read(
        &mut self,
        agent: &Agent,
        first: usize,
        tokens: &[u32],
        next: &[Option<f32>],
    ) -> Result<(), MemoryLoopError> {
        let began = Instant::now();
        if let Some(writer) = &mut self.writer {
            let dim = agent.model().spec().hidden_size as usize;
            let rows = self.tap.rows().chunks_exact(dim);
            for (offset, (&token, row)) in tokens.iter().zip(rows).enumerate() {
                let surprise = next.get(offset).copied().flatten();
                writer.read(agent, first + offset, token, row, surprise, &mut self.usage)?;
            }
        }
        self.usage.spent += began.elapsed();
        Ok(())
    }

    /// What memory makes of the logits of a token that was read since the tap was cleared; none where it
    /// leaves them as they are.
    ///
    /// * `logits`: `[vocab]`; `beside`: those of the model that runs beside
    /// * `read`: the tokens so far, that one last
    /// * `row`: which of the tokens since the tap was cleared it is; the last if absent
    pub(crate) fn change(
        &mut self,
        agent: &Agent,
        (logits, beside): (&[f32], Option<&[f32]>),
        read: &[u32],
        row: Option<usize>,
    ) -> Result<Option<Vec<f32>>, MemoryLoopError> {
        let steered = self.steered(logits, beside);
        let dim = agent.model().spec().hidden_size as usize;
        let row = row.or((self.tap.rows().len() / dim).checked_sub(1));
        let mixed = match row {
            Some(row) => self.mix(agent, steered.as_deref().unwrap_or(logits), read, row)?,
            None => None,
        };
        Ok(mixed.or(steered))
    }

    /// The logits with neighbours mixed in; none where there are none near enough.
    fn mix(
        &mut self,
        agent: &Agent,
        logits: &[f32],
        read: &[u32],
        row: usize,
    ) -> Result<Option<Vec<f32>>, MemoryLoopError> {
        let Some(neighbours) = &self.neighbours else { return Ok(None) };
        let began = Instant::now();
        let dim = agent.model().spec().hidden_size as usize;
        let hidden = &self.tap.rows()[row * dim..][..dim];
        let mixed = neighbours.mix(logits, NextTokenQuery { hidden, read })?;
        self.usage.spent += began.elapsed();
        Ok(mixed.map(|(logits, lambda)| {
            self.usage.mixed(lambda);
            logits
        }))
    }

    /// Takes in which token was chosen, or came.
    ///
    /// * `logits`: as the model gave them; `changed`: what memory made of them; `beside`: those of the
    ///   model that runs beside
    pub(crate) fn after_choice(
        &mut self,
        token: u32,
        logits: &[f32],
        changed: Option<&[f32]>,
        beside: Option<&[f32]>,
    ) {
        let bare = match beside {
            // It runs with the prefix then, for the goal's budget.
            Some(_) if self.steers() && self.changes_states() => None,
            Some(bare) => Some(bare),
            None => (changed.is_some() && !self.changes_states()).then_some(logits),
        };
        self.usage.chosen(token, changed.unwrap_or(logits), bare);
    }

    /// Lets go of what was said whole now: nothing attends to it any more, and it is nobody's neighbour.
    ///
    /// * `before`: the tokens before `token`, which was generated
    /// * `states`: those that have the prefix
    pub(crate) fn let_go(
        &mut self,
        (before, token): (&[u32], u32),
        states: &mut [&mut State],
    ) -> Result<(), ForwardError> {
        let said: Vec<Unsaid> =
            self.unsaid.extract_if(.., |one| one.is_said_by(before, token)).collect();
        for one in said {
            if let Some(neighbours) = &mut self.neighbours {
                neighbours.leave_out(&one.slots);
            }
            let Some(positions) = one.positions else { continue };
            states.iter_mut().try_for_each(|state| state.hush(positions.clone()))?;
        }
        Ok(())
    }

    /// Writes what is left, and says what memory did.
    pub(crate) fn finish(mut self, agent: &Agent) -> Result<MemoryUse, MemoryLoopError> {
        if let Some(mut writer) = self.writer.take() {
            writer.finish(agent, &mut self.usage)?;
        }
        Ok(self.usage.finish(agent.memory_cell().link()))
    }

    /// Tokens that were read to begin: the query, and what was recalled and not kept from before.
    pub(crate) fn read_first(&self) -> usize {
        self.read_first
    }

    /// How long recall took, and everything since.
    pub(crate) fn durations(&self) -> (std::time::Duration, std::time::Duration) {
        (self.usage.recall, self.usage.spent)
    }
}

/// Where memory listens and steers, in the session and in the model that runs beside.
fn taps(
    agent: &Agent,
    goal: Option<&Goal>,
    attending: Option<Attending>,
    usage: &mut Usage,
) -> (HiddenTap, Option<HiddenTap>) {
    let shift = goal.and_then(|goal| goal.shift.clone());
    let attending = attending.map(Arc::new);
    usage.report.layer_tokens = attending.as_ref().map_or(0, |attending| attending.tokens());
    let tap = || HiddenTap::new(agent.tap_layer()).attending(attending.clone());
    let beside = (shift.is_some() && attending.is_some()).then(tap);
    (tap().shifted(shift), beside)
}

fn attending_of(
    agent: &Agent,
    memory: &UnifiedMemory,
    options: &MemoryOptions,
) -> Result<Option<Attending>, MemoryLoopError> {
    let layers = options.layers.as_ref().map(|layers| Attending::of(agent, memory, layers));
    Ok(layers.transpose()?.flatten())
}

fn goal_of(
    agent: &Agent,
    memory: &UnifiedMemory,
    options: &MemoryOptions,
) -> Result<Option<Goal>, MemoryLoopError> {
    let goal = options.goal.as_ref().map(|goal| Goal::of(agent, memory, goal));
    Ok(goal.transpose()?.flatten())
}

/// The memory that answers, unless there is nothing in it.
fn readable(
    agent: &Agent,
    options: &MemoryOptions,
) -> Result<Option<Arc<UnifiedMemory>>, MemoryLoopError> {
    let memory = agent.memory().filter(|memory| options.reads() && memory.slots().next().is_some());
    match (memory, options.control) {
        (Some(memory), MemoryControl::Shuffled(seed)) => Ok(Some(Arc::new(memory.shuffled(seed)?))),
        (memory, _) => Ok(memory),
    }
}

/// Asks the memory with the hidden states of the query. The agent's own memory notes what was read.
fn recall(
    agent: &Agent,
    memory: &UnifiedMemory,
    query: &[u32],
    options: &MemoryOptions,
) -> Result<Vec<Chain>, MemoryLoopError> {
    if !options.recalls() {
        return Ok(Vec::new());
    }
    let top_k = options.prefix.as_ref().map_or(1, |prefix| prefix.top_k);
    let least = options.prefix.clone().unwrap_or_default().min_score;
    let query = prefix::asking(agent, query);
    let rows = prefix::query_rows(agent, query)?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    // What is exchanged is what slots say and not how they are found, or their words would find them.
    let own = agent.memory().filter(|_| options.control != MemoryControl::Real);
    let asked = TokenQuery { rows: &rows, token_ids: query };
    let mut recalled = own.as_deref().unwrap_or(memory).peek_tokens(memory.now(), asked, top_k)?;
    if own.is_some() {
        recalled.iter_mut().for_each(|hit| memory.restate(hit));
    }
    recalled.retain(|hit| hit.cosine >= least);
    if options.control == MemoryControl::Real && !recalled.is_empty() {
        let noted = recalled.len();
        // At the memory's own present: another session may have written meanwhile.
        agent.tell_memory(|memory| Input::RecallTokens {
            at: memory.now(),
            query: rows,
            token_ids: query.to_vec(),
            k: noted as u32,
        })?;
    }
    let linked = options.prefix.as_ref().map_or(0, |prefix| prefix.linked);
    Ok(memory.with_successors(memory.now(), recalled, linked))
}

fn slots_of(recalled: &[Chain]) -> Vec<SlotRef> {
    recalled.iter().flat_map(Chain::slots).map(|hit| hit.slot).collect()
}
