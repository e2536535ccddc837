//! How the tokens of a batch are cut into chunks, and which caches a chunk's rows belong to.

use std::ops::Range;

use super::Run;
use crate::attention::Segment;
use crate::recurrent::RecurrentSegment;
use crate::state::{LayerCache, State};

/// Rows that go through the layers together.
const CHUNK_ROWS: usize = 96;
/// So few rows at the end of a run go with those before them: alone they would take as long as reading all weights does.
const REST_ROWS: usize = 32;

/// Consecutive tokens of a run in a chunk.
pub(super) struct Piece {
    pub(super) run: usize,
    /// Indices into the run's tokens.
    pub(super) tokens: Range<usize>,
    /// Rows of the chunk.
    pub(super) rows: Range<usize>,
    /// Positions in the run's state before these.
    pub(super) past: usize,
}

impl Piece {
    /// Whether this is the only token of its run.
    pub(super) fn is_step(&self, runs: &[Run<'_>]) -> bool {
        runs[self.run].tokens.len() == 1
    }

    pub(super) fn positions(&self) -> Range<usize> {
        self.past..self.past + self.tokens.len()
    }
}

/// The next rows: of the first run that is not done a chunk, or, if that run is one token, of all
/// runs of one token, up to a chunk.
pub(super) fn next_chunk(runs: &[Run<'_>], done: &mut [usize]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut row = 0;
    for (index, (run, done)) in runs.iter().zip(done).enumerate() {
        if pieces.first().is_some_and(|first| run.tokens.len() > 1 || !first.is_step(runs)) {
            continue;
        }
        let left = run.tokens.len() - *done;
        let count = if row == 0 && left <= CHUNK_ROWS + REST_ROWS {
            left
        } else {
            left.min(CHUNK_ROWS.saturating_sub(row))
        };
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
pub(super) fn segments<'a>(
    layer: usize,
    runs: &'a mut [Run<'_>],
    pieces: &[Piece],
) -> Vec<Segment<'a>> {
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
pub(super) fn recurrent_segments<'a>(
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
