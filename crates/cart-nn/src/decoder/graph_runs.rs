//! Runs of sessions through the graph.

use std::ops::Range;

use candle_core::Tensor;

use super::{Run, State};
use crate::forward::{ForwardError, Logits};
use crate::graph::{DType, Graph, GraphRun, GraphState, GraphTaps};
use crate::taps::Taps;

/// Positions of a run that go through the layers together.
const CHUNK_ROWS: usize = 512;

/// Rows whose logits are computed together.
const HEAD_ROWS: usize = 64;

/// Runs of one token go through the layers together; a longer one by itself, in chunks.
pub(super) fn forward(graph: &Graph, runs: &mut [Run<'_>]) -> Result<Vec<Logits>, ForwardError> {
    let mut before = Vec::with_capacity(runs.len());
    for (index, run) in runs.iter().enumerate() {
        let State::Graph(state) = &*run.state else {
            return Err(ForwardError::OtherDecoder { run: index });
        };
        graph.check(index, state, run.tokens)?;
        before.push(state.clone());
    }
    let result = checked(graph, runs);
    if result.is_err() {
        // States are values: what a part of the runs has read is undone.
        runs.iter_mut().zip(before).for_each(|(run, state)| *run.state = State::Graph(state));
    }
    result
}

fn checked(graph: &Graph, runs: &mut [Run<'_>]) -> Result<Vec<Logits>, ForwardError> {
    let vocab = graph.spec().vocab_size as usize;
    let mut logits = vec![Logits { vocab, ..Logits::default() }; runs.len()];
    let (steps, longer): (Vec<usize>, Vec<usize>) =
        (0..runs.len()).partition(|&index| runs[index].tokens.len() == 1);
    chunk(graph, runs, &steps, 0..1, &mut logits)?;
    for index in longer {
        let total = runs[index].tokens.len();
        for start in (0..total).step_by(CHUNK_ROWS) {
            let tokens = start..total.min(start + CHUNK_ROWS);
            chunk(graph, runs, &[index], tokens, &mut logits)?;
        }
    }
    Ok(logits)
}

/// Runs `tokens` of the runs at `which`, and appends the logits that they ask for.
fn chunk(
    graph: &Graph,
    runs: &mut [Run<'_>],
    which: &[usize],
    tokens: Range<usize>,
    logits: &mut [Logits],
) -> Result<(), ForwardError> {
    if which.is_empty() {
        return Ok(());
    }
    let mut taps: Vec<Option<Slices<'_>>> = Vec::new();
    let mut parts: Vec<(&mut GraphState, &[u32])> = Vec::new();
    let mut wanted = Vec::new();
    for (index, run) in runs.iter_mut().enumerate() {
        let State::Graph(state) = &mut *run.state else { continue };
        if !which.contains(&index) {
            continue;
        }
        parts.push((state, &run.tokens[tokens.clone()]));
        taps.push(run.taps.as_mut().map(|taps| Slices(&mut **taps)));
        let total = run.tokens.len();
        let first = (total - run.logits.rows(total)).max(tokens.start);
        wanted.push((index, tokens.end.saturating_sub(first)));
    }
    let mut graph_runs: Vec<GraphRun<'_>> = parts
        .into_iter()
        .zip(&mut taps)
        .map(|((state, tokens), taps)| GraphRun {
            state,
            tokens,
            taps: taps.as_mut().map(|taps| taps as &mut dyn GraphTaps),
        })
        .collect();
    let hidden = graph.hidden(&mut graph_runs)?;
    let mut rows = Vec::new();
    for (hidden, &(_, count)) in hidden.iter().zip(&wanted) {
        let (_batch, total, width) = hidden.dims3()?;
        if count > 0 {
            rows.push(hidden.narrow(1, total - count, count)?.reshape((count, width))?);
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let owners: Vec<usize> =
        wanted.into_iter().flat_map(|(index, count)| std::iter::repeat_n(index, count)).collect();
    let rows = Tensor::cat(&rows, 0)?;
    let total = rows.dim(0)?;
    for start in (0..total).step_by(HEAD_ROWS) {
        let part = rows.narrow(0, start, HEAD_ROWS.min(total - start))?;
        let values = floats(&graph.logits(&part)?)?;
        let mut rows = values.chunks_exact(graph.spec().vocab_size as usize);
        for of_run in owners[start..].chunk_by(|a, b| a == b) {
            let some: Vec<&[f32]> = rows.by_ref().take(of_run.len()).collect();
            let run = &runs[of_run[0]];
            logits[of_run[0]].take((run.logits, run.tokens), &some, None);
        }
    }
    Ok(())
}

/// Shows tensors as slices, and changes them.
struct Slices<'a>(&'a mut dyn Taps);

impl GraphTaps for Slices<'_> {
    fn wants(&self, layer: usize) -> bool {
        self.0.wants(layer)
    }

    fn after_layer(
        &mut self,
        layer: usize,
        first_position: usize,
        hidden: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        self.0.after_layer(layer, first_position, &floats(hidden)?);
        let shifted = match self.0.shift(layer) {
            Some(shift) => {
                let shift = Tensor::new(shift, hidden.device())?.to_dtype(hidden.dtype())?;
                Some(hidden.broadcast_add(&shift)?)
            }
            None => None,
        };
        let seen = shifted.as_ref().unwrap_or(hidden);
        let Some(replaced) = self.0.replaced(layer, &floats(seen)?)? else { return Ok(shifted) };
        let replaced = Tensor::from_vec(replaced, hidden.dims(), hidden.device())?;
        replaced.to_dtype(hidden.dtype()).map(Some)
    }
}

fn floats(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
