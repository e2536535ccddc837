//! Rows of an embedding.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::floats::{Floats, each_block, numbers, storage};
use super::gathering::gathered;

/// The row of each token: `[tokens, width]`.
///
/// * `embedding`: `[vocab, width]`
pub(in crate::graph) fn embed(embedding: &Tensor, tokens: &[u32]) -> Result<Tensor> {
    embedding.contiguous()?.apply_op1(Embed { tokens: tokens.to_vec() })
}

struct Embed {
    tokens: Vec<u32>,
}

impl CustomOp1 for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, embedding: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (vocab, width) = layout.shape().dims2()?;
        if let Some(token) = self.tokens.iter().find(|&&token| token as usize >= vocab) {
            bail!("token {token} of a vocabulary of {vocab}");
        }
        let embedding = numbers(embedding, layout)?;
        let mut out = vec![0.0; self.tokens.len() * width];
        each_block(&mut out, width, |first, block| {
            let rows = block.chunks_exact_mut(width.max(1)).zip(&self.tokens[first..]);
            for (row, &token) in rows {
                row.copy_from_slice(&embedding[token as usize * width..][..width]);
            }
        });
        Ok(storage(out, (self.tokens.len(), width)))
    }

    fn bwd(&self, embedding: &Tensor, _out: &Tensor, slope: &Tensor) -> Result<Option<Tensor>> {
        let (_vocab, width) = embedding.dims2()?;
        let slope = slope.contiguous()?;
        let slope = Floats::of(&slope)?;
        // One after the other: a token may be there more than once.
        gathered(embedding, |sum| {
            for (slope, &token) in slope.chunks_exact(width.max(1)).zip(&self.tokens) {
                let row = &mut sum[token as usize * width..][..width];
                row.iter_mut().zip(slope).for_each(|(sum, slope)| *sum += slope);
            }
        })
    }
}
