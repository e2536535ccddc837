//! A pass of runs through the graph.

use std::collections::BTreeSet;
use std::ops::Range;

use candle_core::{Result, Tensor};
use cart_format::arch::MixerSpec;

use super::Graph;
use super::layer::{Layer, Mixer, MixerLayer};
use super::operations::{Turns, linear, soft_cap, wide_dtype};
use super::state::GraphState;
use super::taps::GraphTaps;
use crate::forward::{ForwardError, LogitsFor};
use crate::state::OtherLayers;

/// Tokens for one state.
pub struct GraphRun<'a> {
    /// What was read before; the tokens are appended.
    pub state: &'a mut GraphState,
    /// Token ids, `[batch, n]`, row after row, with the state's batch.
    pub tokens: &'a [u32],
    /// Sees and changes tensors of this run.
    pub taps: Option<&'a mut dyn GraphTaps>,
}

/// What all layers of a pass share.
pub(super) struct Pass {
    /// For each rotation of the model, the turns of all rows.
    pub(super) turns: Vec<Turns>,
    pub(super) segments: Vec<Segment>,
    /// Whether nothing precedes the sequences and nobody goes on from their states, so that what
    /// reads a sequence at once may be used and states stay empty.
    pub(super) whole: bool,
}

/// The rows of one run.
pub(super) struct Segment {
    pub(super) rows: Range<usize>,
    pub(super) batch: usize,
    /// Positions of each sequence.
    pub(super) count: usize,
    /// Positions before them.
    pub(super) past: usize,
    /// What hides positions, for each window that a layer has.
    pub(super) masks: Vec<(Option<usize>, Option<Tensor>)>,
    /// The state's bias on scores, `[past + count]`.
    pub(super) slot_bias: Option<Tensor>,
}

impl Graph {
    /// Runs the tokens of all `runs` through the layers and the final norm, and appends them to
    /// their states. The rows of all runs go through the products together; attention and scans
    /// work run by run.
    ///
    /// Returns the normed hidden states of each run, `[batch, n, hidden_size]`, which
    /// [`Graph::logits`] makes logits of.
    ///
    /// # Errors
    /// See [`ForwardError`]. No state has changed then.
    pub fn hidden(
        &self,
        runs: &mut [GraphRun<'_>],
    ) -> std::result::Result<Vec<Tensor>, ForwardError> {
        for (index, run) in runs.iter().enumerate() {
            self.check(index, run.state, run.tokens)?;
        }
        let mut states: Vec<GraphState> = runs.iter().map(|run| run.state.clone()).collect();
        let hidden = self.pass(runs, &mut states)?;
        for (run, state) in runs.iter_mut().zip(states) {
            *run.state = state;
        }
        Ok(hidden)
    }

    /// Logits of normed hidden states: `[…, hidden_size]` to `[…, vocab]`.
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn logits(&self, hidden: &Tensor) -> std::result::Result<Tensor, ForwardError> {
        let (outer, width) = hidden.dims().split_at(hidden.rank() - 1);
        let rows = hidden.contiguous()?.reshape(((), width[0]))?;
        let logits = linear(&rows, &self.head, None)?;
        let logits = logits.to_dtype(wide_dtype(logits.dtype()))?;
        let logits = match self.spec.logit_softcap {
            Some(cap) => soft_cap(&logits, cap)?,
            None => logits,
        };
        Ok(logits.reshape([outer, &[self.spec.vocab_size as usize]].concat())?)
    }

    /// As [`Graph::hidden`], with the logits of the positions that `rows` asks for,
    /// `[batch, positions, vocab]`; none for [`LogitsFor::None`].
    ///
    /// # Errors
    /// As [`Graph::hidden`].
    pub fn forward(
        &self,
        runs: &mut [GraphRun<'_>],
        rows: LogitsFor,
    ) -> std::result::Result<Vec<Option<Tensor>>, ForwardError> {
        let hidden = self.hidden(runs)?;
        let of_run = |(run, hidden): (&mut GraphRun<'_>, &Tensor)| {
            let count = hidden.dim(1)?;
            let wanted = rows.rows(count);
            if wanted == 0 {
                return Ok(None);
            }
            let logits = self.logits(&hidden.narrow(1, count - wanted, wanted)?)?;
            Ok(Some(match &mut run.taps {
                Some(taps) => taps.logits(&logits)?.unwrap_or(logits),
                None => logits,
            }))
        };
        runs.iter_mut().zip(&hidden).map(of_run).collect()
    }

    /// Checks that `state` can take `tokens`.
    pub(crate) fn check(
        &self,
        index: usize,
        state: &GraphState,
        tokens: &[u32],
    ) -> std::result::Result<(), ForwardError> {
        if tokens.is_empty() {
            return Err(ForwardError::Empty { run: index });
        }
        let (found, batch) = (tokens.len(), state.batch);
        if !found.is_multiple_of(batch) {
            return Err(ForwardError::Uneven { run: index, found, batch });
        }
        let vocab = self.spec.vocab_size as usize;
        let outside = tokens.iter().position(|&token| token as usize >= vocab);
        if let Some(at) = outside {
            let token = tokens[at];
            return Err(ForwardError::TokenOutOfRange { run: index, index: at, token, vocab });
        }
        self.check_state(index, state, found / batch)
    }

    /// Checks that `state` is of this model and has room for `new` positions.
    pub(super) fn check_state(
        &self,
        run: usize,
        state: &GraphState,
        new: usize,
    ) -> std::result::Result<(), ForwardError> {
        if let Some(what) = OtherLayers::between(state.shapes(), self.shapes.iter().copied()) {
            return Err(ForwardError::OtherModel { run, what: what.into() });
        }
        let (past, context) = (state.len, self.spec.context_length as usize);
        if new > context.saturating_sub(past) {
            return Err(ForwardError::ContextFull { run, past, new, context });
        }
        Ok(())
    }

    fn pass(&self, runs: &mut [GraphRun<'_>], states: &mut [GraphState]) -> Result<Vec<Tensor>> {
        let ids: Vec<u32> = runs.iter().flat_map(|run| run.tokens).copied().collect();
        let ids = Tensor::new(ids, self.embedding.device())?;
        let mut hidden = self.embedding.index_select(&ids, 0)?;
        if let Some(scale) = self.spec.embedding_scale {
            hidden = hidden.affine(scale, 0.0)?;
        }
        let pass = self.begin(runs, states)?;
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = layer.apply(index, &hidden, &pass, states)?;
            hidden = tap(index, hidden, runs, &pass)?;
        }
        let normed = self.final_norm.apply(&hidden)?;
        let normed = tap(self.layers.len(), normed, runs, &pass)?;
        pass.segments.iter().map(|segment| segment.sequences(&normed)).collect()
    }

    /// Counts the new positions, and makes what all layers share.
    fn begin(&self, runs: &[GraphRun<'_>], states: &mut [GraphState]) -> Result<Pass> {
        let (mut segments, mut positions, mut row) = (Vec::new(), Vec::new(), 0);
        for (run, state) in runs.iter().zip(states) {
            let (batch, past) = (state.batch, state.len);
            let count = run.tokens.len() / batch;
            state.advance(count, None)?;
            let rows = row..row + run.tokens.len();
            row = rows.end;
            positions.extend((0..batch).flat_map(|_| past..past + count));
            let slot_bias = state.bias.clone();
            let mut segment = Segment { rows, batch, count, past, masks: Vec::new(), slot_bias };
            for window in self.windows() {
                let mask = segment.mask(window, self.embedding.device())?;
                segment.masks.push((window, mask));
            }
            segments.push(segment);
        }
        let turns = self.ropes.iter().map(|rope| self.turns(rope, &positions));
        Ok(Pass { turns: turns.collect::<Result<_>>()?, segments, whole: false })
    }

    /// The distinct windows of the layers.
    pub(super) fn windows(&self) -> BTreeSet<Option<usize>> {
        let windows = self.spec.blocks.iter().filter_map(|block| match &block.mixer {
            Some(MixerSpec::Attention(spec)) => Some(spec.window.map(|window| window as usize)),
            _ => None,
        });
        windows.collect()
    }
}

impl Layer {
    pub(super) fn apply(
        &self,
        index: usize,
        hidden: &Tensor,
        pass: &Pass,
        states: &mut [GraphState],
    ) -> Result<Tensor> {
        let mixed = match &self.mixer {
            Some(mixer) => mixer.apply(index, hidden, pass, states)?,
            None => hidden.clone(),
        };
        let Some(mlp) = &self.mlp else { return Ok(mixed) };
        let input = mlp.norm.apply(if mlp.parallel { hidden } else { &mixed })?;
        match &mlp.after_norm {
            Some(norm) => mixed + norm.apply(&mlp.mlp.apply(&input)?)?,
            None => mlp.mlp.apply_added(&input, &mixed),
        }
    }
}

impl MixerLayer {
    fn apply(
        &self,
        index: usize,
        hidden: &Tensor,
        pass: &Pass,
        states: &mut [GraphState],
    ) -> Result<Tensor> {
        let input = self.norm.apply(hidden)?;
        let mixed = match &self.mixer {
            Mixer::Attention(mixer) => mixer.apply(index, &input, pass, states)?,
            Mixer::Mamba(mixer) => mixer.apply(index, &input, pass, states)?,
            Mixer::Mamba2(mixer) => mixer.apply(index, &input, pass, states)?,
        };
        match &self.after_norm {
            Some(norm) => hidden + norm.apply(&self.out.apply(&mixed)?)?,
            None => self.out.apply_added(&mixed, hidden),
        }
    }
}

impl Segment {
    /// Its rows of `[rows, width]` as `[batch, count, width]`.
    fn sequences(&self, x: &Tensor) -> Result<Tensor> {
        let own = x.narrow(0, self.rows.start, self.rows.len())?;
        own.reshape((self.batch, self.count, ()))
    }
}

/// Shows the hidden states to the runs that want them, and goes on with what they give.
fn tap(layer: usize, hidden: Tensor, runs: &mut [GraphRun<'_>], pass: &Pass) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(runs.len());
    let mut changed = false;
    for (run, segment) in runs.iter_mut().zip(&pass.segments) {
        let given = match &mut run.taps {
            Some(taps) if taps.wants(layer) => {
                taps.after_layer(layer, segment.past, &segment.sequences(&hidden)?)?
            }
            _ => None,
        };
        changed |= given.is_some();
        parts.push(match given {
            Some(given) => given.reshape((segment.rows.len(), ()))?,
            None => hidden.narrow(0, segment.rows.start, segment.rows.len())?,
        });
    }
    match (changed, parts.len()) {
        (false, _) => Ok(hidden),
        (true, 1) => Ok(parts.remove(0)),
        (true, _) => Tensor::cat(&parts, 0),
    }
}
