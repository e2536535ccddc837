//! Whole sequences, as training reads them.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use super::forward::{Pass, Segment};
use super::fused::{self, Floats};
use super::state::GraphState;
use super::taps::GraphTaps;
use super::{CrossEntropy, DType, Divergence, Graph, TeacherLoss, TeacherTargets};
use crate::forward::ForwardError;

/// Sequences of one length that nothing precedes and that nobody goes on from. They may be read in
/// parts of the layers, so that what frozen layers make of a text is computed once.
pub struct Sequences<'a> {
    graph: &'a Graph,
    pass: Pass,
}

impl Graph {
    /// Reads `batch` sequences of `count` tokens together; shorter ones are filled up at their end,
    /// where nothing before can see it.
    ///
    /// # Errors
    /// They are longer than the context.
    pub fn sequences(
        &self,
        batch: usize,
        count: usize,
    ) -> std::result::Result<Sequences<'_>, ForwardError> {
        self.check_state(0, &self.new_state(batch), count)?;
        let positions: Vec<usize> = (0..batch).flat_map(|_| 0..count).collect();
        let turns = self.ropes.iter().map(|rope| self.turns(rope, &positions));
        let turns = turns.collect::<Result<_>>()?;
        let (rows, masks) = (0..batch * count, Vec::new());
        let mut segment = Segment { rows, batch, count, past: 0, masks, slot_bias: None };
        for window in self.windows() {
            let mask = segment.mask(window, self.device())?;
            segment.masks.push((window, mask));
        }
        Ok(Sequences { graph: self, pass: Pass { turns, segments: vec![segment], whole: true } })
    }
}

impl Sequences<'_> {
    fn segment(&self) -> &Segment {
        &self.pass.segments[0]
    }

    /// What the first layer gets of `tokens`, `[batch, count]`: `[batch, count, hidden_size]`.
    ///
    /// # Errors
    /// There are not as many tokens, or one is not in the vocabulary.
    pub fn embed(&self, tokens: &[u32]) -> std::result::Result<Tensor, ForwardError> {
        let Segment { batch, count, .. } = *self.segment();
        let state = self.graph.new_state(batch);
        self.graph.check(0, &state, tokens)?;
        if tokens.len() != batch * count {
            return Err(ForwardError::Uneven { run: 0, found: tokens.len(), batch });
        }
        let embedding = &self.graph.embedding;
        let hidden = if fused::suits(embedding) {
            fused::embed(embedding, tokens)?
        } else {
            embedding.index_select(&Tensor::new(tokens, self.graph.device())?, 0)?
        };
        let hidden = match self.graph.spec.embedding_scale {
            Some(scale) => hidden.affine(scale, 0.0)?,
            None => hidden,
        };
        Ok(hidden.reshape((batch, count, ()))?)
    }

    /// Goes through some of the layers.
    ///
    /// * `hidden`: before the first of them, `[batch, count, hidden_size]`, to that after the last
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn layers(
        &self,
        layers: Range<usize>,
        hidden: &Tensor,
        mut taps: Option<&mut dyn GraphTaps>,
    ) -> std::result::Result<Tensor, ForwardError> {
        let Segment { batch, count, .. } = *self.segment();
        let mut states: Vec<GraphState> = vec![self.graph.new_state(batch)];
        let rows = |hidden: &Tensor| hidden.contiguous()?.reshape((batch * count, ()));
        let sequences = |hidden: &Tensor| hidden.reshape((batch, count, ()));
        let mut hidden = rows(hidden)?;
        for index in layers {
            hidden = self.graph.layers[index].apply(index, &hidden, &self.pass, &mut states)?;
            if let Some(taps) = taps.as_mut().filter(|taps| taps.wants(index))
                && let Some(given) = taps.after_layer(index, 0, &sequences(&hidden)?)?
            {
                hidden = rows(&given)?;
            }
        }
        Ok(sequences(&hidden)?)
    }

    /// The sum of `−weight · ln p(target)` after the final norm and the head, one number.
    ///
    /// * `hidden`: after the last layer, `[batch, count, hidden_size]`
    /// * `targets`, `weights`: `[batch · count]`; a row whose weight is 0 costs nothing
    /// * `chunk`: positions whose logits are in memory together
    ///
    /// # Errors
    /// Targets or weights are not as many as positions, or the tensor library failed.
    pub fn loss(
        &self,
        hidden: &Tensor,
        targets: &[u32],
        weights: &[f32],
        chunk: usize,
    ) -> std::result::Result<Tensor, ForwardError> {
        let normed = self.norm(hidden)?.flatten(0, 1)?;
        let soft_cap = self.graph.spec.logit_softcap;
        let loss = CrossEntropy { head: &self.graph.head, soft_cap, chunk };
        Ok(loss.sum(&normed, targets, weights)?)
    }

    /// As [`TeacherLoss::sum`], after the final norm and the head.
    ///
    /// * `hidden`: after the last layer, `[batch, count, hidden_size]`
    /// * `chunk`: positions whose logits are in memory together
    ///
    /// # Errors
    /// The targets are not as many as positions, or the tensor library failed.
    pub fn distance(
        &self,
        hidden: &Tensor,
        (divergence, temperature): (Divergence, f64),
        targets: &TeacherTargets<'_>,
        chunk: usize,
    ) -> std::result::Result<Tensor, ForwardError> {
        let normed = self.norm(hidden)?.flatten(0, 1)?;
        let (head, soft_cap) = (&self.graph.head, self.graph.spec.logit_softcap);
        let loss = TeacherLoss { head, soft_cap, chunk, divergence, temperature };
        Ok(loss.sum(&normed, targets)?)
    }

    /// Looks at the logits of all positions, by all threads, in the order of the positions.
    ///
    /// * `hidden`: after the last layer, `[batch, count, hidden_size]`
    /// * `chunk`: positions whose logits are in memory together
    /// * `look`: gets the position and its logits, `[vocab]`
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn each_logits<T: Send>(
        &self,
        hidden: &Tensor,
        chunk: usize,
        look: impl Fn(usize, &[f32]) -> T + Sync,
    ) -> std::result::Result<Vec<T>, ForwardError> {
        let normed = self.norm(hidden)?.flatten(0, 1)?;
        let (rows, vocab) = (normed.dim(0)?, self.graph.spec.vocab_size as usize);
        let mut found = Vec::with_capacity(rows);
        for first in (0..rows).step_by(chunk.max(1)) {
            let logits = self.graph.logits(&normed.narrow(0, first, chunk.min(rows - first))?)?;
            let logits = logits.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
            let logits = Floats::of(&logits)?;
            let each = logits.par_chunks_exact(vocab).enumerate();
            found.par_extend(each.map(|(row, logits)| look(first + row, logits)));
        }
        Ok(found)
    }

    /// The final norm, which [`Graph::logits`] goes on from.
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn norm(&self, hidden: &Tensor) -> std::result::Result<Tensor, ForwardError> {
        Ok(self.graph.final_norm.apply(hidden)?)
    }
}

impl std::fmt::Debug for Sequences<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Segment { batch, count, .. } = self.segment();
        f.debug_struct("Sequences")
            .field("batch", batch)
            .field("count", count)
            .finish_non_exhaustive()
    }
}
