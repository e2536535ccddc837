//! A batch of runs through the decoder.

mod error;
mod piece;
mod rows;
mod sampled;

use std::cell::RefCell;

use candle_core::{Device, Tensor};

use crate::kernel::Kernels;
use crate::model::{DenseMlp, Layer, Mixer, MixerLayer, Mlp, MlpLayer, Model};
use crate::ops::{
    Attend, Embed, ExpertsAdd, LinearAdd, NormLinear, NormMlp, Normalize, Recur, Recurrence,
    with_floats,
};
use crate::profile::{Part, timed};
use crate::rope::RopeTable;
use crate::state::{OtherLayers, State};
use crate::taps::Taps;
pub use error::ForwardError;
use piece::{Piece, next_chunk, recurrent_segments, segments};
pub use rows::{Counted, Logits, LogitsFor};
pub(crate) use sampled::Sample;

/// Rows whose logits are computed together.
const HEAD_ROWS: usize = 64;

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
        for (run, len) in runs.iter_mut().zip(before) {
            run.state.lost = match result {
                Ok(_) => run.ends_after().is_some(),
                Err(_) => run.state.truncate(len).is_err(),
            };
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
            logits.data.reserve_exact(run.logits.kept(run.tokens.len()) * vocab);
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
        let kernels = self.kernels;
        let mut hidden = self.embed(runs, pieces)?;
        // The last layer that anybody wants; none where some want all.
        let ends = pieces.iter().map(|piece| runs[piece.run].ends_after());
        let ends = ends.reduce(|a, b| Some(a?.max(b?))).flatten();
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = Self::layer((index, layer), kernels, &hidden, &tables, runs, pieces)?;
            tap(index, &hidden, runs, pieces)?;
            hidden = shift(index, hidden, runs, pieces)?;
            hidden = replace(index, hidden, runs, pieces)?;
            if ends == Some(index) {
                return Ok(());
            }
        }
        if pieces.iter().any(|piece| runs[piece.run].wants(self.layers.len())) {
            let norm = Normalize { kernels: self.kernels, norm: &self.final_norm };
            let normed = hidden.apply_op1_no_bwd(&norm)?;
            tap(self.layers.len(), &normed, runs, pieces)?;
        }
        self.follow_by_sample(&hidden, runs, pieces, logits)?;
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
        let recur = |mixer, runs: &mut [Run<'_>]| {
            let segments = RefCell::new(recurrent_segments(index, runs, pieces));
            input.apply_op1_no_bwd(&Recur { kernels, mixer, segments })
        };
        let mixed = timed(Part::Mixer, None, || match &layer.mixer {
            Mixer::Attention(attention) => input.apply_op1_no_bwd(&Attend {
                kernels,
                attention,
                table: attention.rope.map(|rope| &tables[rope]),
                segments: RefCell::new(segments(index, runs, pieces)),
            }),
            Mixer::Mamba(mixer) => recur(Recurrence::Mamba(mixer), runs),
            Mixer::Mamba2(mixer) => recur(Recurrence::Mamba2(mixer), runs),
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
                let first = total - self.whole_rows(&runs[piece.run]);
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
                    let mut rows = rows.chunks_exact(vocab);
                    for of_run in part.chunk_by(|a, b| a.0 == b.0) {
                        let run = of_run[0].0;
                        let rows: Vec<&[f32]> = rows.by_ref().take(of_run.len()).collect();
                        let cap = self.spec.logit_softcap.map(|cap| (kernels, cap as f32));
                        logits[run].take((runs[run].logits, runs[run].tokens), &rows, cap);
                    }
                })?;
            }
        }
        Ok(())
    }
}

impl Run<'_> {
    /// The last layer that it has to go through, if it need not go through all.
    fn ends_after(&self) -> Option<usize> {
        self.taps.as_ref()?.ends_after().filter(|_| self.logits == LogitsFor::None)
    }

    fn wants(&self, layer: usize) -> bool {
        self.taps.as_ref().is_some_and(|taps| taps.wants(layer))
    }
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

/// Puts what the taps of the runs give in place of their rows, where any gives something.
fn replace(
    layer: usize,
    hidden: Tensor,
    runs: &mut [Run<'_>],
    pieces: &[Piece],
) -> Result<Tensor, ForwardError> {
    let mut given = Vec::new();
    for piece in pieces {
        let run = &mut runs[piece.run];
        let Some(taps) = run.taps.as_mut().filter(|taps| taps.wants(layer)) else { continue };
        let rows = hidden.narrow(0, piece.rows.start, piece.rows.len())?;
        let replaced = with_floats(&rows, |rows| taps.replaced(layer, rows))??;
        given.extend(replaced.map(|values| (piece.rows.clone(), values)));
    }
    if given.is_empty() {
        return Ok(hidden);
    }
    let (rows, width) = hidden.dims2()?;
    let mut values = hidden.flatten_all()?.to_vec1::<f32>()?;
    for (rows, given) in given {
        values[rows.start * width..rows.end * width].copy_from_slice(&given);
    }
    Ok(Tensor::from_vec(values, (rows, width), hidden.device())?)
}

/// Adds what the taps of the runs shift the residual stream by, where any does.
fn shift(
    layer: usize,
    hidden: Tensor,
    runs: &[Run<'_>],
    pieces: &[Piece],
) -> Result<Tensor, ForwardError> {
    let of = |run: usize| runs[run].taps.as_ref().filter(|taps| taps.wants(layer))?.shift(layer);
    if pieces.iter().all(|piece| of(piece.run).is_none()) {
        return Ok(hidden);
    }
    let (rows, width) = hidden.dims2()?;
    let mut values = hidden.flatten_all()?.to_vec1::<f32>()?;
    for piece in pieces {
        let Some(shift) = of(piece.run) else { continue };
        for row in values[piece.rows.start * width..piece.rows.end * width].chunks_exact_mut(width)
        {
            row.iter_mut().zip(shift).for_each(|(value, shift)| *value += shift);
        }
    }
    Ok(Tensor::from_vec(values, (rows, width), hidden.device())?)
}
