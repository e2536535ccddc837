//! How the work of attention is cut. It follows from the sizes alone, never from the number of
//! threads, so that sums are always taken in the same order.

use std::ops::Range;

use super::{Attention, Segment};
use crate::kv::BLOCK;

/// Rows of queries, heads counted, that pass over keys and values together.
const PASS_ROWS: usize = 96;

/// Up to so many rows, positions are cut into ranges.
const FEW: usize = 8;

/// Positions of a range.
const RANGE: usize = 8 * BLOCK;

/// Rows of a segment over one head's keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// Index of the segment.
    pub(super) segment: usize,
    pub(super) kv_head: usize,
    /// Rows of the segment, from 0.
    pub(super) rows: Range<usize>,
    /// Positions that are visited.
    pub(super) positions: Range<usize>,
    /// Where its sums go, if other ranges are to be added.
    pub(super) place: Option<usize>,
}

impl Pass {
    /// Multiplications.
    pub(super) fn work(&self, attention: &Attention) -> usize {
        let rows = self.rows.len() * attention.heads / attention.kv_heads;
        2 * rows * self.positions.len() * attention.head_dim
    }

    /// Whether `next` is the next range of the same rows.
    pub(super) fn goes_on(&self, next: &Self) -> bool {
        self.place.is_some()
            && next.place.is_some()
            && (self.segment, self.kv_head, &self.rows) == (next.segment, next.kv_head, &next.rows)
    }
}

/// The passes over all segments' caches; ranges of the same rows follow each other.
pub(super) fn plan(attention: &Attention, segments: &[Segment<'_>]) -> Vec<Pass> {
    let mut passes = Vec::new();
    let mut places = 0;
    let step = (PASS_ROWS * attention.kv_heads / attention.heads).max(1);
    for (index, segment) in segments.iter().enumerate() {
        let total = segment.rows.len();
        for start in (0..total).step_by(step) {
            let rows = start..total.min(start + step);
            let ranges = ranges(attention.window, segment.past, &rows, total <= FEW);
            for kv_head in 0..attention.kv_heads {
                for positions in &ranges {
                    let place = (ranges.len() > 1).then_some(places);
                    places += usize::from(place.is_some());
                    let (rows, positions) = (rows.clone(), positions.clone());
                    passes.push(Pass { segment: index, kv_head, rows, positions, place });
                }
            }
        }
    }
    passes
}

/// The positions that `rows` see, cut at multiples of [`RANGE`] where `cut`.
fn ranges(window: Option<usize>, past: usize, rows: &Range<usize>, cut: bool) -> Vec<Range<usize>> {
    let end = past + rows.end;
    let start = window.map_or(0, |window| (past + rows.start + 1).saturating_sub(window));
    // Passes visit whole blocks.
    let start = start / BLOCK * BLOCK;
    let size = if cut { RANGE } else { usize::MAX };
    let mut ranges = Vec::new();
    let mut at = start;
    while at < end {
        let next = (at / size + 1).saturating_mul(size).min(end);
        ranges.push(at..next);
        at = next;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_what_is_seen_once() {
        assert_eq!(ranges(None, 0, &(0..1), true), vec![0..1]);
        assert_eq!(ranges(None, 1200, &(0..1), true), vec![0..512, 512..1024, 1024..1201]);
        assert_eq!(ranges(None, 1200, &(96..192), false), vec![0..1392]);
        assert_eq!(ranges(Some(100), 1200, &(0..1), true), vec![1088..1201]);
        assert_eq!(ranges(Some(300), 1200, &(0..2), true), vec![896..1024, 1024..1202]);
    }
}
