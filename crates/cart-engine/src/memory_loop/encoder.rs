//! Texts outside a generation: as memory is asked about them, and as it is told them.

use std::ops::Range;

use cart_memory::{Observation, TokenQuery};
use cart_nn::decoder::Run;
use cart_nn::{ForwardError, LogitsFor};
use thiserror::Error;

use super::{prefix, span, writer};
use crate::agent::Agent;
use crate::hidden_tap::HiddenTap;
use crate::text_stream::TextStream;
use crate::tokenizer::{ParseSpecial, ShowSpecial, Tokenizer, TokenizerError};

/// Most positions that are read at once. A sentence sees those before it in the same reading.
const READING: usize = 512;

/// Why a text could not be brought into the memory's space.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// There is no tokenizer.
    #[error(
        "the cartridge has no tokenizer, so a text has no tokens; pack the model with its tokenizer"
    )]
    NoTokenizer,
    /// Nothing was said.
    #[error("the text has no tokens; give at least a word")]
    Empty,
    /// It does not fit into the context.
    #[error("the text has {found} tokens, and the context has room for {allowed}")]
    TooLong {
        /// Its tokens.
        found: usize,
        /// Most tokens.
        allowed: usize,
    },
    /// The tokenizer fails on the text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model fails on it.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

/// A text that asks memory.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryQuery {
    /// Hidden states of the last 256 tokens at most, `[tokens, dim]`, raw, flat: what a prompt asks with
    /// ([`cart_memory::UnifiedMemory::peek_tokens`]).
    pub rows: Vec<f32>,
    /// These tokens.
    pub token_ids: Vec<u32>,
    /// Their mean without the first, `[dim]`: the key that an observation of the text has.
    pub key: Vec<f32>,
}

/// A text that was read alone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    /// Its tokens, each with the bytes that it stands for.
    pub(crate) tokens: Vec<(u32, Range<usize>)>,
    /// Their hidden states, `[tokens, dim]`, raw, flat.
    pub(crate) rows: Vec<f32>,
    /// The key that an observation of it has, `[dim]`, raw.
    pub(crate) key: Vec<f32>,
    /// Whether the first row says where it stands and not what was said.
    pub(crate) at_start: bool,
}

impl MemoryQuery {
    /// What a recall by tokens is asked with.
    pub fn tokens(&self) -> TokenQuery<'_> {
        TokenQuery { rows: &self.rows, token_ids: &self.token_ids }
    }
}

impl Agent {
    /// A text as memory is told it at the beginning of a context, as one span.
    ///
    /// # Errors
    /// There is no tokenizer, the text has no tokens or more than the context has room for, or the model
    /// fails.
    pub(crate) fn read_alone(&self, text: &str) -> Result<Reading, EncodeError> {
        let tokenizer = self.tokenizer().ok_or(EncodeError::NoTokenizer)?;
        let tokens = tokenizer.encode_with_ranges(text, ParseSpecial::No)?;
        if tokens.is_empty() {
            return Err(EncodeError::Empty);
        }
        let bos = tokenizer.special().bos.filter(|_| tokenizer.special().add_bos);
        let (found, skipped) = (tokens.len(), usize::from(bos.is_some()));
        let allowed = self.context_length().saturating_sub(skipped);
        if found > allowed {
            return Err(EncodeError::TooLong { found, allowed });
        }
        let read: Vec<u32> =
            bos.into_iter().chain(tokens.iter().map(|&(token, _)| token)).collect();
        let dim = self.model().spec().hidden_size as usize;
        let rows = hidden_of(self, &read)?.split_off(skipped * dim);
        let at_start = bos.is_none();
        let pooled = if at_start { without_first(&rows, dim) } else { &rows };
        let key = writer::mean_row(pooled, dim);
        Ok(Reading { tokens, rows, key, at_start })
    }

    /// A text as the prompt of a generation asks memory with it.
    ///
    /// # Errors
    /// There is no tokenizer, the text has no tokens, or the model fails.
    pub fn memory_query(&self, text: &str) -> Result<MemoryQuery, EncodeError> {
        let tokens = self.tokenizer().ok_or(EncodeError::NoTokenizer)?.encode_prompt(text)?;
        if tokens.is_empty() {
            return Err(EncodeError::Empty);
        }
        let token_ids = prefix::asking(self, &tokens).to_vec();
        let rows = prefix::query_rows(self, &token_ids)?;
        let dim = self.model().spec().hidden_size as usize;
        let key = writer::mean_row(without_first(&rows, dim), dim);
        Ok(MemoryQuery { rows, token_ids, key })
    }

    /// A text as memory is told it: an observation for each sentence or line, with hidden states and
    /// tokens, as a generation would write it, but without surprise. Spans that say nothing (fewer than
    /// two tokens, no letter or digit) are left out.
    ///
    /// # Errors
    /// There is no tokenizer, or it fails on the text.
    pub fn observations<'a>(
        &'a self,
        telling: Telling<'a>,
    ) -> Result<Observations<'a>, EncodeError> {
        let tokenizer = self.tokenizer().ok_or(EncodeError::NoTokenizer)?;
        let tokens = tokenizer.encode(telling.text, ParseSpecial::No)?;
        let bos = tokenizer.special().bos.filter(|_| tokenizer.special().add_bos);
        let room = READING.min(self.context_length()).saturating_sub(usize::from(bos.is_some()));
        let longest = self.max_span_tokens().min(room).max(1);
        let spans = if telling.whole && (1..=longest).contains(&tokens.len()) {
            std::iter::once(0..tokens.len()).collect()
        } else {
            spans(tokenizer, &tokens, longest)?
        };
        Ok(Observations { agent: self, tokenizer, telling, tokens, spans, next: 0, bos, room })
    }
}

/// A text that memory is to be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Telling<'t> {
    /// What is said.
    pub text: &'t str,
    /// Whether a text that fits into one slot goes into one, whatever sentences it has.
    pub whole: bool,
    /// How much it matters, 0 to 1.
    pub energy: f32,
    /// Where it comes from, in words.
    pub source: &'t str,
}

/// The observations of a text, in the groups in which the model reads them: one reading at a time is
/// held, however long the text is.
#[derive(Debug)]
pub struct Observations<'a> {
    agent: &'a Agent,
    tokenizer: &'a Tokenizer,
    telling: Telling<'a>,
    tokens: Vec<u32>,
    spans: Vec<Range<usize>>,
    /// The span that is read next.
    next: usize,
    /// What goes before each reading.
    bos: Option<u32>,
    /// Most tokens of a reading, apart from that.
    room: usize,
}

impl Iterator for Observations<'_> {
    type Item = Result<Vec<Observation>, EncodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = &self.spans[self.next..];
        let reading = &left[..read_at_once(left, self.room)];
        self.next += reading.len();
        (!reading.is_empty()).then(|| self.read(reading))
    }
}

impl Observations<'_> {
    /// The observations of consecutive spans, read together.
    fn read(&self, reading: &[Range<usize>]) -> Result<Vec<Observation>, EncodeError> {
        let tokens = reading[0].start..reading[reading.len() - 1].end;
        let hidden = self.hidden(tokens.clone())?;
        let dim = self.agent.model().spec().hidden_size as usize;
        let skipped = usize::from(self.bos.is_some());
        let mut seen = Vec::new();
        for span in reading {
            let ids = &self.tokens[span.clone()];
            let text = self.tokenizer.decode(ids, ShowSpecial::No)?.trim().to_owned();
            if !span::says_something(ids, Some(&text)) {
                continue;
            }
            let start = span.start - tokens.start + skipped;
            let rows = hidden[start * dim..(start + span.len()) * dim].to_vec();
            // The first position of a text says where it is and not what was said.
            let pooled = if start == 0 { without_first(&rows, dim) } else { &rows };
            seen.push(Observation {
                key: writer::mean_row(pooled, dim),
                token_keys: rows,
                token_ids: ids.to_vec(),
                text,
                surprise: Vec::new(),
                energy: self.telling.energy,
                source: self.telling.source.to_owned(),
            });
        }
        Ok(seen)
    }

    /// The hidden states of these tokens and of what goes before them, `[positions, dim]`, flat.
    fn hidden(&self, tokens: Range<usize>) -> Result<Vec<f32>, ForwardError> {
        let read: Vec<u32> =
            self.bos.into_iter().chain(self.tokens[tokens].iter().copied()).collect();
        hidden_of(self.agent, &read)
    }
}

/// The hidden states of these tokens, read alone, `[tokens, dim]`, flat.
fn hidden_of(agent: &Agent, tokens: &[u32]) -> Result<Vec<f32>, ForwardError> {
    let mut tap = HiddenTap::new(agent.tap_layer()).ending();
    agent.forward(&mut [Run {
        state: &mut agent.new_state(),
        tokens,
        logits: LogitsFor::None,
        taps: Some(&mut tap),
    }])?;
    Ok(tap.rows().to_vec())
}

/// Rows without the first, where there are others.
fn without_first(rows: &[f32], dim: usize) -> &[f32] {
    if rows.len() > dim { &rows[dim..] } else { rows }
}

/// Where sentences and lines are, of at most `longest` tokens.
fn spans(
    tokenizer: &Tokenizer,
    tokens: &[u32],
    longest: usize,
) -> Result<Vec<Range<usize>>, TokenizerError> {
    let mut spans = Vec::new();
    let mut start = 0;
    let (mut before, mut stream) = (String::new(), TextStream::new(ShowSpecial::No));
    for (index, &token) in tokens.iter().enumerate() {
        let text = tokenizer.decode(&[token], ShowSpecial::No)?;
        if index > start && (index - start >= longest || span::ends_between(&before, &text)) {
            spans.push(start..index);
            start = index;
            (before, stream) = (String::new(), TextStream::new(ShowSpecial::No));
        }
        before += &stream.push(tokenizer, token)?;
    }
    if start < tokens.len() {
        spans.push(start..tokens.len());
    }
    Ok(spans)
}

/// How many of these spans are read together: at least one, as each has room.
fn read_at_once(spans: &[Range<usize>], room: usize) -> usize {
    spans.iter().take_while(|span| span.end - spans[0].start <= room).count()
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of spans, of which some have one")]
mod tests {
    use super::read_at_once;

    #[test]
    fn what_is_read_at_once_has_room() {
        let spans = [10..13, 13..15, 15..19, 19..20];
        assert_eq!(read_at_once(&spans, 5), 2);
        assert_eq!(read_at_once(&spans, 4), 1);
        assert_eq!(read_at_once(&spans, 10), 4);
        assert_eq!(read_at_once(&spans[2..], 4), 1);
        assert_eq!(read_at_once(&[0..3], 3), 1);
        assert_eq!(read_at_once(&[], 3), 0);
    }
}
