//! From tokens that were read to observations of whole sentences.

use cart_memory::{Input, MemoryEvent, Observation};

use super::usage::Usage;
use super::{MemoryLoopError, span};
use crate::agent::Agent;
use crate::prompt_text::{PromptText, Told};
use crate::text_stream::TextStream;
use crate::tokenizer::{ShowSpecial, Tokenizer};

/// Energy of a span whose surprise nobody measured.
const UNMEASURED_ENERGY: f32 = 0.5;

/// Collects tokens with their hidden states and tells memory about each span that is complete.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    told: Vec<Told>,
    /// Tokens of the prompt.
    prompt: usize,
    answer: &'static str,
    /// The part that the answer belongs to: the prompt's last, or one of its own.
    answer_part: usize,
    longest: usize,
    open: Option<Open>,
    /// −ln p of the token that is read next, if it is known.
    next: Option<f32>,
}

/// A span that is not complete.
#[derive(Clone, Debug)]
struct Open {
    source: &'static str,
    /// Which part of the prompt it belongs to.
    part: usize,
    tokens: Vec<u32>,
    /// Whether the span's first token is the text's first, whose hidden state is an outlier.
    at_start: bool,
    hidden: Vec<f32>,
    surprise: Vec<Option<f32>>,
    text: String,
    stream: TextStream,
}

impl Writer {
    pub(super) fn new(agent: &Agent, text: &PromptText) -> Self {
        let longest = agent.max_span_tokens();
        let parts = text.told.len();
        Self {
            told: text.told.clone(),
            prompt: text.tokens.len(),
            answer: text.answer,
            answer_part: if text.continues { parts.saturating_sub(1) } else { parts },
            longest,
            open: None,
            next: None,
        }
    }

    /// The first position that memory is told.
    pub(super) fn first(&self) -> usize {
        self.told.iter().map(|told| told.tokens.start).min().unwrap_or(self.prompt)
    }

    /// Tells another agent's memory from now on: the open span too, unless it is too long for that memory.
    pub(super) fn turn_to(
        &mut self,
        from: &Agent,
        to: &Agent,
        usage: &mut Usage,
    ) -> Result<(), MemoryLoopError> {
        let longest = to.max_span_tokens();
        if self.open.as_ref().is_some_and(|open| open.tokens.len() > longest) {
            self.close(from, usage)?;
        }
        self.longest = longest;
        Ok(())
    }

    /// Takes in a token that was read.
    ///
    /// * `row`: its hidden state, `[hidden_size]`
    /// * `next`: −ln p of the token after it, if that is known
    pub(super) fn read(
        &mut self,
        agent: &Agent,
        position: usize,
        token: u32,
        row: &[f32],
        next: Option<f32>,
        usage: &mut Usage,
    ) -> Result<(), MemoryLoopError> {
        let surprise = std::mem::replace(&mut self.next, next);
        let ends_text = agent.tokenizer().is_some_and(|tokenizer| tokenizer.is_eos(token));
        let place = self.place(position).filter(|_| !ends_text);
        let text = match agent.tokenizer() {
            Some(tokenizer) => tokenizer.decode(&[token], ShowSpecial::No)?,
            None => String::new(),
        };
        if self.open.as_ref().is_some_and(|open| self.closes(open, place, &text)) {
            self.close(agent, usage)?;
        }
        let Some((part, source)) = place else { return Ok(()) };
        let open = self.open.get_or_insert_with(|| Open::new(part, source, position == 0));
        open.push(agent, token, row, surprise)
    }

    /// Says what is left to say.
    pub(super) fn finish(
        &mut self,
        agent: &Agent,
        usage: &mut Usage,
    ) -> Result<(), MemoryLoopError> {
        self.close(agent, usage)
    }

    /// The part that a position belongs to, with its source.
    fn place(&self, position: usize) -> Option<(usize, &'static str)> {
        if position >= self.prompt {
            return Some((self.answer_part, self.answer));
        }
        let part = self.told.iter().position(|told| told.tokens.contains(&position))?;
        Some((part, self.told[part].source))
    }

    fn closes(&self, open: &Open, place: Option<(usize, &'static str)>, text: &str) -> bool {
        place.is_none_or(|(part, _)| part != open.part)
            || open.tokens.len() >= self.longest
            || span::ends_between(&open.text, text)
    }

    fn close(&mut self, agent: &Agent, usage: &mut Usage) -> Result<(), MemoryLoopError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let dim = agent.model().spec().hidden_size as usize;
        let Some(seen) = open.observation(agent, dim)? else { return Ok(()) };
        let told = agent.tell(|memory| {
            let mean = mean(&seen.surprise);
            let energy = mean.map_or(UNMEASURED_ENERGY, |mean| memory.energy_from_surprise(mean));
            Input::Observe { at: memory.now() + 1, seen: Observation { energy, ..seen } }
        })?;
        usage.wrote(&told.outcome.events);
        usage.offers.extend(told.offers);
        Ok(())
    }
}

impl Open {
    fn new(part: usize, source: &'static str, at_start: bool) -> Self {
        Self {
            source,
            part,
            tokens: Vec::new(),
            at_start,
            hidden: Vec::new(),
            surprise: Vec::new(),
            text: String::new(),
            stream: TextStream::new(ShowSpecial::No),
        }
    }

    fn push(
        &mut self,
        agent: &Agent,
        token: u32,
        row: &[f32],
        surprise: Option<f32>,
    ) -> Result<(), MemoryLoopError> {
        self.tokens.push(token);
        self.hidden.extend_from_slice(row);
        self.surprise.push(surprise);
        if let Some(tokenizer) = agent.tokenizer() {
            self.text += &self.stream.push(tokenizer, token)?;
        }
        Ok(())
    }

    /// What memory is told; none where the span says nothing.
    fn observation(
        self,
        agent: &Agent,
        dim: usize,
    ) -> Result<Option<Observation>, MemoryLoopError> {
        let decode = |tokenizer: &Tokenizer| tokenizer.decode(&self.tokens, ShowSpecial::No);
        let text = agent.tokenizer().map(decode).transpose()?;
        let text = text.map(|text| text.trim().to_owned());
        if !span::says_something(&self.tokens, text.as_deref()) {
            return Ok(None);
        }
        let pooled = if self.at_start { &self.hidden[dim..] } else { &self.hidden[..] };
        Ok(Some(Observation {
            key: mean_row(pooled, dim),
            surprise: known(&self.surprise),
            token_keys: self.hidden,
            token_ids: self.tokens,
            text: text.unwrap_or_default(),
            energy: 0.0,
            source: self.source.to_owned(),
        }))
    }
}

/// The surprise of each token; where some are not known, the mean of those that are.
fn known(surprise: &[Option<f32>]) -> Vec<f32> {
    let known: Vec<f32> = surprise.iter().flatten().copied().collect();
    if known.len() == surprise.len() { known } else { mean(&known).into_iter().collect() }
}

fn mean(values: &[f32]) -> Option<f32> {
    let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
    (!values.is_empty()).then(|| (sum / values.len() as f64) as f32)
}

/// * `rows`: `[n, dim]`, n > 0
pub(super) fn mean_row(rows: &[f32], dim: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; dim];
    for row in rows.chunks_exact(dim) {
        for (sum, &value) in sums.iter_mut().zip(row) {
            *sum += f64::from(value);
        }
    }
    let count = (rows.len() / dim) as f64;
    sums.into_iter().map(|sum| (sum / count) as f32).collect()
}

impl Usage {
    fn wrote(&mut self, events: &[MemoryEvent]) {
        self.report.written += 1;
        for event in events {
            match event {
                MemoryEvent::Added { .. } => self.report.slots_added += 1,
                MemoryEvent::Consolidated { .. } => self.report.slots_consolidated += 1,
                _ => {}
            }
        }
    }
}
