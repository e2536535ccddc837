//! Recalled spans as keys and values in front of a prompt.

use std::ops::Range;
use std::sync::Arc;

use cart_memory::{Chain, Recalled};
use cart_nn::decoder::{Run, Span, State};
use cart_nn::{ForwardError, LogitsFor};

use super::MemoryLoopError;
use crate::agent::Agent;
use crate::hidden_tap::HiddenTap;
use crate::options::PrefixOptions;
use crate::tokenizer::ParseSpecial;

/// Stands before the spans. Its first token takes the attention that models give to the start of a
/// text, so that no span has to.
const HEADER: &str = "Facts:\n";
/// Stands after each span.
const SEPARATOR: &str = "\n";
/// Most tokens of a query: the last ones.
const QUERY_TOKENS: usize = 256;
/// What a slot of usual weight has for its bias: `ln(σ(0) · ½)`.
const USUAL_BIAS: f32 = -1.386_294_4;

/// The part of a query that asks memory: its last tokens.
pub(super) fn asking<'q>(agent: &Agent, query: &'q [u32]) -> &'q [u32] {
    let most = QUERY_TOKENS.min(agent.context_length());
    &query[query.len().saturating_sub(most)..]
}

/// The hidden states of what asks memory, `[tokens, hidden_size]`, flat, read alone.
pub(super) fn query_rows(agent: &Agent, query: &[u32]) -> Result<Vec<f32>, ForwardError> {
    if query.is_empty() {
        return Ok(Vec::new());
    }
    let mut tap = HiddenTap::new(agent.tap_layer()).ending();
    agent.forward(&mut [Run {
        state: &mut agent.new_state(),
        tokens: query,
        logits: LogitsFor::None,
        taps: Some(&mut tap),
    }])?;
    Ok(tap.rows().to_vec())
}

/// The bias on the attention scores of a recalled span.
pub(super) fn bias(hit: &Recalled, options: &PrefixOptions) -> f32 {
    options.attention_bias + hit.bias - USUAL_BIAS
}

/// What a slot of usual weight has for its bias.
pub(crate) fn usual_bias() -> f32 {
    USUAL_BIAS
}

/// What stands before spans wherever they are read.
pub(crate) fn header(agent: &Agent) -> Result<Vec<u32>, MemoryLoopError> {
    affix(agent, HEADER, true)
}

/// What stands after each span.
pub(super) fn separator(agent: &Agent) -> Result<Vec<u32>, MemoryLoopError> {
    affix(agent, SEPARATOR, false)
}

/// Puts the spans into an empty state, the best one last and so nearest to the prompt: as keys and
/// values, or, where a layer is recurrent, as tokens that are read. Spans that
/// do not fit into `room` positions are left out, the worst first.
///
/// Nothing is filled where there are no spans, so that the state stays as it was.
pub(super) fn push(
    agent: &Agent,
    recalled: &[Chain],
    options: &PrefixOptions,
    room: usize,
    state: &mut State,
) -> Result<Pushed, MemoryLoopError> {
    let header = header(agent)?;
    let separator = separator(agent)?;
    let mut left = room.saturating_sub(header.len());
    let fits = recalled.iter().map(|chain| (&chain.first, tokens_of(chain, &separator)));
    let fits = fits.take_while(|(first, tokens)| {
        let fits = !first.token_ids.is_empty() && tokens.len() <= left;
        left -= if fits { tokens.len() } else { 0 };
        fits
    });
    let chosen: Vec<(&Recalled, Vec<u32>)> = fits.collect();
    if chosen.is_empty() {
        return Ok(Pushed::default());
    }
    if !agent.model().takes_spans() {
        let tokens = read(agent, &header, &chosen, state)?;
        return Ok(Pushed { tokens, read: tokens, positions: Vec::new() });
    }
    let (model, mut pushed) = (agent.model(), Pushed::default());
    if !header.is_empty() {
        model.push_span(state, &*span_of(agent, &[], &header, &mut pushed.read)?, 0.0)?;
    }
    for (hit, tokens) in chosen.into_iter().rev() {
        let span = span_of(agent, &header, &tokens, &mut pushed.read)?;
        let from = state.len();
        model.push_span(state, &span, bias(hit, options))?;
        pushed.positions.push(from..state.len());
    }
    pushed.positions.reverse();
    pushed.tokens = state.len();
    Ok(pushed)
}

/// A span as it reads after `sink`: as it was read before, if that is kept.
///
/// * `read`: grows by the tokens that had to be read
fn span_of(
    agent: &Agent,
    sink: &[u32],
    tokens: &[u32],
    read: &mut usize,
) -> Result<Arc<Span>, ForwardError> {
    let kept = agent.prefixes();
    if let Some(span) = kept.find_span(sink, tokens) {
        return Ok(span);
    }
    *read += sink.len() + tokens.len();
    let span = Arc::new(agent.model().encode_span(sink, tokens)?);
    kept.keep_span(sink, tokens, &span);
    Ok(span)
}

/// What stands before a prompt.
#[derive(Debug, Default)]
pub(super) struct Pushed {
    /// Positions that were filled.
    pub(super) tokens: usize,
    /// Tokens that were read for it, and not kept from before.
    pub(super) read: usize,
    /// Of each span, the best first, where they have positions of their own.
    pub(super) positions: Vec<Range<usize>>,
}

/// Reads the spans as a text of its own, for a model with recurrent layers, whose states take no
/// keys and values. Each span then sees those before it, and none has a bias.
fn read(
    agent: &Agent,
    header: &[u32],
    chosen: &[(&Recalled, Vec<u32>)],
    state: &mut State,
) -> Result<usize, MemoryLoopError> {
    let spans = chosen.iter().rev().flat_map(|(_, tokens)| tokens);
    let tokens: Vec<u32> = header.iter().chain(spans).copied().collect();
    let logits = LogitsFor::None;
    agent.forward(&mut [Run { state, tokens: &tokens, logits, taps: None }])?;
    Ok(state.len())
}

/// What was recalled and what follows it, as one text, so that the model reads the one on from the other.
fn tokens_of(chain: &Chain, separator: &[u32]) -> Vec<u32> {
    let said = chain.slots().flat_map(|hit| &hit.token_ids);
    said.chain(separator).copied().collect()
}

/// The tokens of a fixed text; none where the cartridge has no tokenizer.
fn affix(agent: &Agent, text: &str, starts: bool) -> Result<Vec<u32>, MemoryLoopError> {
    let Some(tokenizer) = agent.tokenizer() else { return Ok(Vec::new()) };
    let mut tokens = tokenizer.encode(text, ParseSpecial::No)?;
    if let Some(bos) = tokenizer.special().bos.filter(|_| starts && tokenizer.special().add_bos) {
        tokens.insert(0, bos);
    }
    Ok(tokens)
}
