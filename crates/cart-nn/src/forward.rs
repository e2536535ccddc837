//! A batch of runs through the decoder.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{Device, Tensor};
use thiserror::Error;

use crate::attention::Segment;
use crate::kernel::Kernels;
use crate::kernel::vector::soft_cap;
use crate::model::{DenseMlp, Layer, Mixer, MixerLayer, Mlp, MlpLayer, Model};
use crate::ops::{
    Attend, Embed, ExpertsAdd, LinearAdd, NormLinear, NormMlp, Normalize, Recur, Recurrence,
    with_floats,
};
use crate::profile::{Part, timed};
use crate::recurrent::RecurrentSegment;
use crate::rope::RopeTable;
use crate::state::{LayerCache, OtherLayers, State};
use crate::taps::Taps;

/// Rows that go through the layers together.
const CHUNK_ROWS: usize = 256;

/// Rows whose logits are computed together.
const HEAD_ROWS: usize = 64;

/// Which rows of a run need logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogitsFor {
    /// No row: the run only fills the state.
    None,
    /// The last row.
    #[default]
    Last,
    /// Every row.
    All,
}

/// Tokens for one session.
pub struct Run<'a> {
    /// What the session has read; the tokens are appended.
    pub state: &'a mut State,
    /// One or more token ids, under the vocabulary's size.
    pub tokens: &'a [u32],
    /// Rows that need logits.
    pub logits: LogitsFor,
    /// Listener on the hidden states of this run.
    pub taps: Option<&'a mut dyn Taps>,
}

/// Logits of a run's rows, before softmax.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logits {
    /// Number of rows.
    pub rows: usize,
    /// Numbers in a row: the vocabulary's size.
    pub vocab: usize,
    /// `[rows, vocab]`, row after row.
    pub data: Vec<f32>,
}

impl Logits {
    /// Logits of row `index`, `[vocab]`. Panics where there is no such row.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.data[index * self.vocab..(index + 1) * self.vocab]
    }

    /// Logits of the last row, if any.
    pub fn last(&self) -> Option<&[f32]> {
        self.rows.checked_sub(1).map(|index| self.row(index))
    }
}

/// Why a forward pass was refused. Every state is as it was before; but where the tensor library
/// failed, one with recurrent layers is lost, and says so when it is used again.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// A run without tokens.
    #[error("run {run} has no tokens; give at least one")]
    Empty {
        /// Index of the run in the batch.
        run: usize,
    },
    /// Tokens that can't be shared out among sequences of equal length.
    #[error("run {run} has {found} tokens for {batch} sequences; give each as many")]
    Uneven {
        /// Index of the run in the batch.
        run: usize,
        /// Tokens of the run.
        found: usize,
        /// Sequences of its state.
        batch: usize,
    },
    /// A token that the model does not have.
    #[error("run {run}: token {token} at index {index}; the vocabulary has {vocab} tokens")]
    TokenOutOfRange {
        /// Index of the run in the batch.
        run: usize,
        /// Index of the token in the run.
        index: usize,
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// More positions than the model was made for.
    #[error(
        "run {run}: {past} positions and {new} more exceed the context of {context}; \
         shorten the prompt or truncate the state"
    )]
    ContextFull {
        /// Index of the run in the batch.
        run: usize,
        /// Positions in the state.
        past: usize,
        /// Positions asked for.
        new: usize,
        /// Positions allowed.
        context: usize,
    },
    /// A state or a span that was made by a model of another geometry.
    #[error("run {run}: the state or span has {what}; make it with this model")]
    OtherModel {
        /// Index of the run in the batch.
        run: usize,
        /// The first difference.
        what: Box<OtherLayers>,
    },
    /// A state or a span of the graph for the CPU's kernels, or the other way.
    #[error("run {run}: the state or span was made for another device; make it with this model")]
    OtherDecoder {
        /// Index of the run in the batch.
        run: usize,
    },
    /// A state with recurrent layers that a failed pass left in between.
    #[error("run {run}: the state was lost in a pass that failed; begin again with a new one")]
    Lost {
        /// Index of the run in the batch.
        run: usize,
    },
    /// Recurrent layers have nothing that a span could be put into.
    #[error(
        "this model has no keys and values to put memory into: layer {layer} is recurrent; \
         read the span's tokens instead"
    )]
    NoKeys {
        /// The first recurrent layer.
        layer: usize,
    },
    /// The tensor library failed.
    #[error("a tensor operation failed")]
    Tensor(#[from] candle_core::Error),
}

impl Model {
    /// Runs the tokens of all `runs` through the decoder and appends them to their states.
    ///
    /// Runs of one token go through the linear layers together, row by row as if each were alone;
    /// attention works run by run. A longer run goes by itself, cut into chunks, so that working
    /// memory does not grow with it. So a run's result is, bit for bit, what it would be without
    /// the others. Runs on the model's [`Threads`](crate::Threads), after whatever they are doing.
    ///
    /// Returns one [`Logits`] for each run, in order.
    ///
    /// # Errors
    /// See [`ForwardError`]. Everything is checked before any state changes.
    pub fn forward(&self, runs: &mut [Run<'_>]) -> Result<Vec<Logits>, ForwardError> {
        for (index, run) in runs.iter().enumerate() {
            self.check(index, run)?;
        }
        let before: Vec<usize> = runs.iter().map(|run| run.state.len()).collect();
        let result = self.threads.run(|| self.forward_checked(runs));
        if result.is_err() {
            for (run, len) in runs.iter_mut().zip(before) {
                run.state.lost = run.state.truncate(len).is_err();
            }
        }
        result
    }

    fn check(&self, index: usize, run: &Run<'_>) -> Result<(), ForwardError> {
        if run.tokens.is_empty() {
            return Err(ForwardError::Empty { run: index });
        }
        let vocab = self.spec.vocab_size as usize;
        let outside = |(_, token): &(usize, &u32)| **token as usize >= vocab;
        if let Some((at, &token)) = run.tokens.iter().enumerate().find(outside) {
            return Err(ForwardError::TokenOutOfRange { run: index, index: at, token, vocab });
        }
        self.check_state(index, run.state, run.tokens.len())
    }

    /// Checks that `state` is of this model and has room for `new` positions.
    pub(crate) fn check_state(
        &self,
        run: usize,
        state: &State,
        new: usize,
    ) -> Result<(), ForwardError> {
        if let Some(what) = OtherLayers::between(state.shapes(), self.layer_shapes()) {
            return Err(ForwardError::OtherModel { run, what: what.into() });
        }
        if state.lost {
            return Err(ForwardError::Lost { run });
        }
        let (past, context) = (state.len(), self.spec.context_length as usize);
        if new > context.saturating_sub(past) {
            return Err(ForwardError::ContextFull { run, past, new, context });
        }
        Ok(())
    }

    fn forward_checked(&self, runs: &mut [Run<'_>]) -> Result<Vec<Logits>, ForwardError> {
        let vocab = self.spec.vocab_size as usize;
        let mut logits = vec![Logits { vocab, ..Logits::default() }; runs.len()];
        for (run, logits) in runs.iter().zip(&mut logits) {
            logits.data.reserve_exact(run.logits.rows(run.tokens.len()) * vocab);
        }
        let mut done = vec![0; runs.len()];
        loop {
            let pieces = next_chunk(runs, &mut done);
            if pieces.is_empty() {
                return Ok(logits);
            }
            self.forward_chunk(runs, &pieces, &mut logits)?;
        }
    }

    fn forward_chunk(
        &self,
        runs: &mut [Run<'_>],
        pieces: &[Piece],
        logits: &mut [Logits],
    ) -> Result<(), ForwardError> {
        for piece in pieces {
            runs[piece.run].state.advance(piece.tokens.len(), 0.0);
        }
        let tables: Vec<_> = self
            .ropes
            .iter()
            .map(|rope| rope.table(pieces.iter().flat_map(Piece::positions)))
            .collect();
        // All pieces of a chunk are steps, or there is one.
        let steps = pieces.iter().all(|piece| piece.is_step(runs));
        let kernels = if steps { self.kernels.by_row() } else { self.kernels };
        let mut hidden = self.embed(runs, pieces)?;
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = Self::layer((index, layer), kernels, &hidden, &tables, runs, pieces)?;
            tap(index, &hidden, runs, pieces)?;
        }
        if pieces.iter().any(|piece| runs[piece.run].wants(self.layers.len())) {
            let norm = Normalize { kernels: self.kernels, norm: &self.final_norm };
            let normed = hidden.apply_op1_no_bwd(&norm)?;
            tap(self.layers.len(), &normed, runs, pieces)?;
        }
        self.logits(kernels, &hidden, runs, pieces, logits)
    }

    fn embed(&self, runs: &[Run<'_>], pieces: &[Piece]) -> Result<Tensor, ForwardError> {
        let ids: Vec<u32> = pieces
            .iter()
            .flat_map(|piece| &runs[piece.run].tokens[piece.tokens.clone()])
            .copied()
            .collect();
        let scale = self.spec.embedding_scale.map(|scale| scale as f32);
        let embed = Embed { kernels: self.kernels, embedding: &self.embedding, scale };
        let count = ids.len();
        let ids = Tensor::from_vec(ids, count, &Device::Cpu)?;
        Ok(timed(Part::Embedding, None, || ids.apply_op1_no_bwd(&embed))?)
    }

    fn layer(
        (index, layer): (usize, &Layer),
        kernels: Kernels,
        hidden: &Tensor,
        tables: &[RopeTable],
        runs: &mut [Run<'_>],
        pieces: &[Piece],
    ) -> Result<Tensor, ForwardError> {
        let mixed = match &layer.mixer {
            Some(mixer) => Self::mix((index, mixer), kernels, hidden, tables, runs, pieces)?,
            None => hidden.clone(),
        };
        match &layer.mlp {
            Some(mlp) if mlp.parallel => Self::mlp(mlp, kernels, hidden, &mixed),
            Some(mlp) => Self::mlp(mlp, kernels, &mixed, &mixed),
            None => Ok(mixed),
        }
    }

    fn mix(
        (index, layer): (usize, &MixerLayer),
        kernels: Kernels,
        hidden: &Tensor,
        tables: &[RopeTable],
        runs: &mut [Run<'_>],
        pieces: &[Piece],
    ) -> Result<Tensor, ForwardError> {
        let rows = hidden.dim(0)?;
        let (input, out) = (&layer.input, &layer.out);
        let norm_input = NormLinear { kernels, norm: &layer.norm, linear: input };
        let out_add = LinearAdd { kernels, linear: out, norm: layer.after_norm.as_ref() };
        let input =
            timed(Part::MixerInput, Some((input, rows)), || hidden.apply_op1_no_bwd(&norm_input))?;
        let mixed = timed(Part::Mixer, None, || match &layer.mixer {
            Mixer::Attention(attention) => input.apply_op1_no_bwd(&Attend {
                kernels,
                attention,
                table: attention.rope.map(|rope| &tables[rope]),
                segments: RefCell::new(segments(index, runs, pieces)),
            }),
            Mixer::Mamba(mixer) => {
                let segments = RefCell::new(recurrent_segments(index, runs, pieces));
                let mixer = Recurrence::Mamba(mixer);
                input.apply_op1_no_bwd(&Recur { kernels, mixer, segments })
            }
            Mixer::Mamba2(mixer) => {
                let segments = RefCell::new(recurrent_segments(index, runs, pieces));
                let mixer = Recurrence::Mamba2(mixer);
                input.apply_op1_no_bwd(&Recur { kernels, mixer, segments })
            }
        })?;
        let mixed = timed(Part::MixerOutput, Some((out, rows)), || {
            mixed.apply_op2_no_bwd(hidden, &out_add)
        })?;
        Ok(mixed)
    }

    /// * `input`: what the MLP works on
    /// * `residual`: what its output is added to
    fn mlp(
        layer: &MlpLayer,
        kernels: Kernels,
        input: &Tensor,
        residual: &Tensor,
    ) -> Result<Tensor, ForwardError> {
        let (norm, after) = (&layer.norm, layer.after_norm.as_ref());
        let dense = match &layer.mlp {
            Mlp::Dense(dense) => dense,
            Mlp::Experts(experts) => {
                let add = ExpertsAdd { kernels, norm, experts, after };
                return Ok(timed(Part::Experts, None, || input.apply_op2_no_bwd(residual, &add))?);
            }
        };
        let rows = input.dim(0)?;
        let &DenseMlp { ref up, gated, activation, ref down } = dense;
        let norm_up = NormMlp { kernels, norm, linear: up, gated, activation };
        let down_add = LinearAdd { kernels, linear: down, norm: after };
        let up = timed(Part::MlpInput, Some((up, rows)), || input.apply_op1_no_bwd(&norm_up))?;
        let down = timed(Part::MlpOutput, Some((down, rows)), || {
            up.apply_op2_no_bwd(residual, &down_add)
        })?;
        Ok(down)
    }

    /// Appends the logits of the rows that ask for them.
    fn logits(
        &self,
        kernels: Kernels,
        hidden: &Tensor,
        runs: &[Run<'_>],
        pieces: &[Piece],
        logits: &mut [Logits],
    ) -> Result<(), ForwardError> {
        let vocab = self.spec.vocab_size as usize;
        let head = NormLinear { kernels, norm: &self.final_norm, linear: &self.head };
        let wanted: Vec<(usize, usize)> = pieces
            .iter()
            .flat_map(|piece| {
                let total = runs[piece.run].tokens.len();
                let first = total - runs[piece.run].logits.rows(total);
                let rows = first.max(piece.tokens.start)..piece.tokens.end;
                rows.map(|token| (piece.run, piece.rows.start + token - piece.tokens.start))
            })
            .collect();
        for group in wanted.chunk_by(|a, b| a.1 + 1 == b.1) {
            for part in group.chunks(HEAD_ROWS) {
                let rows = hidden.narrow(0, part[0].1, part.len())?;
                let rows = timed(Part::Head, Some((&self.head, part.len())), || {
                    rows.apply_op1_no_bwd(&head)
                })?;
                with_floats(&rows, |rows| {
                    for (row, (run, _)) in rows.chunks_exact(vocab).zip(part) {
                        let logits = &mut logits[*run];
                        let start = logits.data.len();
                        logits.data.extend_from_slice(row);
                        logits.rows += 1;
                        if let Some(cap) = self.spec.logit_softcap {
                            soft_cap(kernels, &mut logits.data[start..], cap as f32);
                        }
                    }
                })?;
            }
        }
        Ok(())
    }
}

impl LogitsFor {
    /// How many of `total` rows, counted from the last.
    pub(crate) fn rows(self, total: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last => total.min(1),
            Self::All => total,
        }
    }
}

impl Run<'_> {
    fn wants(&self, layer: usize) -> bool {
        self.taps.as_ref().is_some_and(|taps| taps.wants(layer))
    }
}

/// Consecutive tokens of a run in a chunk.
struct Piece {
    run: usize,
    /// Indices into the run's tokens.
    tokens: Range<usize>,
    /// Rows of the chunk.
    rows: Range<usize>,
    /// Positions in the run's state before these.
    past: usize,
}

impl Piece {
    /// Whether this is the only token of its run.
    fn is_step(&self, runs: &[Run<'_>]) -> bool {
        runs[self.run].tokens.len() == 1
    }

    fn positions(&self) -> Range<usize> {
        self.past..self.past + self.tokens.len()
    }
}

/// The next rows: of the first run that is not done a chunk, or, if that run is one token, of all
/// runs of one token, up to a chunk.
fn next_chunk(runs: &[Run<'_>], done: &mut [usize]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut row = 0;
    for (index, (run, done)) in runs.iter().zip(done).enumerate() {
        if pieces.first().is_some_and(|first| run.tokens.len() > 1 || !first.is_step(runs)) {
            continue;
        }
        let count = (run.tokens.len() - *done).min(CHUNK_ROWS - row);
        if count > 0 {
            let (tokens, rows) = (*done..*done + count, row..row + count);
            pieces.push(Piece { run: index, tokens, rows, past: run.state.len() });
            *done += count;
            row += count;
        }
    }
    pieces
}

/// The caches of layer `layer`, which attends, that the pieces belong to.
fn segments<'a>(layer: usize, runs: &'a mut [Run<'_>], pieces: &[Piece]) -> Vec<Segment<'a>> {
    let mut pieces = pieces.iter().peekable();
    let mut segments = Vec::new();
    for (index, run) in runs.iter_mut().enumerate() {
        if let Some(piece) = pieces.next_if(|piece| piece.run == index) {
            let State { layers, bias, .. } = &mut *run.state;
            let LayerCache::Attention(cache) = &mut layers[layer] else {
                unreachable!("a state's layers are checked against the model's")
            };
            segments.push(Segment {
                rows: piece.rows.clone(),
                past: piece.past,
                cache,
                bias: bias.as_deref(),
            });
        }
    }
    segments
}

/// The states of layer `layer`, which is recurrent, that the pieces belong to.
fn recurrent_segments<'a>(
    layer: usize,
    runs: &'a mut [Run<'_>],
    pieces: &[Piece],
) -> Vec<RecurrentSegment<'a>> {
    let mut pieces = pieces.iter().peekable();
    let mut segments = Vec::new();
    for (index, run) in runs.iter_mut().enumerate() {
        if let Some(piece) = pieces.next_if(|piece| piece.run == index) {
            let LayerCache::Recurrent(state) = &mut run.state.layers[layer] else {
                unreachable!("a state's layers are checked against the model's")
            };
            segments.push(RecurrentSegment { rows: piece.rows.clone(), state });
        }
    }
    segments
}

fn tap(
    layer: usize,
    hidden: &Tensor,
    runs: &mut [Run<'_>],
    pieces: &[Piece],
) -> Result<(), ForwardError> {
    for piece in pieces {
        let run = &mut runs[piece.run];
        if !run.wants(layer) {
            continue;
        }
        if let Some(taps) = run.taps.as_mut() {
            let rows = hidden.narrow(0, piece.rows.start, piece.rows.len())?;
            with_floats(&rows, |rows| taps.after_layer(layer, piece.past, rows))?;
        }
    }
    Ok(())
}
