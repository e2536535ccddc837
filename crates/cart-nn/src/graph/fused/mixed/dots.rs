//! Products by the processor's instructions for `bf16`.
//!
//! The side with fewer numbers across is packed once; the other one is cut into strips, each of which a thread
//! packs and multiplies with all of the first. Sums go over blocks of the inner side in their order, so
//! they depend on its length alone.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use crate::graph::fused::matrix::{Matrix, Out};
use crate::kernel::bf16::{Bf16Dots, COLUMNS, LANES, ROWS, Side, Target};

/// Most numbers of the inner side that are added up in registers.
const BLOCK: usize = 512;

/// Most numbers of the inner side that are packed together: what is packed whole is to stay in caches
/// that cores share.
const LONG: usize = 8 * BLOCK;

/// Multiplications of a strip, about.
const WORK: usize = 1 << 22;

/// Most lanes of a strip: they are to stay in a core's cache.
const MOST: usize = 192;

/// Lanes of the left side that are packed together: whole tiles of what packs and of what multiplies.
const LEFT: usize = 48;

/// Groups of lanes that are worth another thread's packing.
const GROUPS: usize = 4;

/// A matrix as a side of a product.
///
/// * `of`: `[lanes, inner]`
fn side(of: Matrix<'_>) -> Side {
    let is_lane_by_lane = of.column_stride == 1;
    assert!(is_lane_by_lane || of.row_stride == 1, "numbers of one axis follow each other");
    Side {
        start: of.at(0, 0),
        lanes: of.rows,
        inner: of.columns,
        stride: if is_lane_by_lane { of.row_stride } else { of.column_stride },
        is_lane_by_lane,
    }
}

/// Which side of a product.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Left,
    Right,
}

impl Which {
    fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    /// Lanes that are packed together.
    fn group(self) -> usize {
        match self {
            Self::Left => LEFT,
            Self::Right => COLUMNS,
        }
    }
}

/// Some lanes of a side in one block of the inner side.
#[derive(Default)]
struct Packed {
    pairs: Vec<u32>,
    /// Of the left side: pairs from a lane to the next. Of the right side: pairs of a lane.
    stride: usize,
}

thread_local! {
    /// What was packed before, to be packed over: a new one would be cleared first.
    static SPARE: RefCell<Vec<Vec<u32>>> = const { RefCell::new(Vec::new()) };
}

impl Packed {
    /// One of what was packed before on this thread, where something was.
    fn spare() -> Self {
        let pairs = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
        Self { pairs, stride: 0 }
    }

    fn give_back(self) {
        SPARE.with_borrow_mut(|spare| spare.push(self.pairs));
    }
}

/// A product, or what a part of the inner side adds to it.
struct Job {
    dots: Bf16Dots,
    /// `[rows, inner]`.
    left: Side,
    /// `[columns, inner]`.
    right: Side,
    out: Out,
    added: bool,
}

// SAFETY: the sides are only read; threads write parts of the product, none of which has numbers of another.
unsafe impl Sync for Job {}

/// # Safety
/// `out` is a place for the product that nobody else has; where `added`, there are numbers in it.
pub(super) unsafe fn fill(dots: Bf16Dots, a: Matrix<'_>, b: Matrix<'_>, out: Out, added: bool) {
    let strips = if a.rows >= b.columns { Which::Left } else { Which::Right };
    let (left, right) = (side(a), side(b.t()));
    // Where the inner side has no numbers, the product is written all the same.
    for at in (0..left.inner.max(1)).step_by(LONG) {
        let part = |side: Side| side.part(0, at, side.lanes, LONG);
        let job = Job { dots, left: part(left), right: part(right), out, added: added || at > 0 };
        // SAFETY: passed on to the caller; the sides are of matrices, which lie inside of their slices.
        unsafe { job.run(strips) };
    }
}

impl Job {
    fn side(&self, which: Which) -> Side {
        match which {
            Which::Left => self.left,
            Which::Right => self.right,
        }
    }

    /// Blocks of the inner side, about equal: one or more, and the numbers of each but the last.
    fn blocks(&self) -> (usize, usize) {
        let count = self.left.inner.div_ceil(BLOCK).max(1);
        (count, self.left.inner.div_ceil(count).next_multiple_of(2 * LANES))
    }

    /// Multiplies in strips of one side.
    ///
    /// # Safety
    /// As [`fill`].
    unsafe fn run(&self, strips: Which) {
        let (cut, kept) = (self.side(strips).lanes, self.side(strips.other()).lanes);
        let width = (WORK / (kept * self.left.inner).max(1)).clamp(1, MOST);
        let width = width.next_multiple_of(strips.group());
        let whole: Vec<Packed> = (0..self.blocks().0)
            .map(|block| self.packed(strips.other(), 0..kept, block, Packed::spare()))
            .collect();
        let strip = |strip: usize| {
            let lanes = strip * width..cut.min((strip + 1) * width);
            let mut own = Packed::spare();
            for (block, whole) in whole.iter().enumerate() {
                own = self.packed(strips, lanes.clone(), block, own);
                // SAFETY: this strip of the product is this task's; the rest is the caller's promise.
                unsafe {
                    match strips {
                        Which::Left => self.multiply((&own, &lanes), (whole, &(0..kept)), block),
                        Which::Right => self.multiply((whole, &(0..kept)), (&own, &lanes), block),
                    }
                }
            }
            own.give_back();
        };
        (0..cut.div_ceil(width)).into_par_iter().with_max_len(1).for_each(strip);
        whole.into_iter().for_each(Packed::give_back);
    }

    /// Packs lanes of a side in a block of the inner side, over what was packed before.
    fn packed(&self, which: Which, lanes: Range<usize>, block: usize, before: Packed) -> Packed {
        let (_count, long) = self.blocks();
        let side = self.side(which).part(lanes.start, block * long, lanes.len(), long);
        let stride = match which {
            Which::Left => side.pairs().next_multiple_of(LANES).max(LANES),
            Which::Right => side.pairs(),
        };
        let mut pairs = before.pairs;
        pairs.resize(lanes.len().next_multiple_of(which.group()) * stride, 0);
        let pack = |(index, out): (usize, &mut [u32])| {
            let part = side.part(index * which.group(), 0, which.group(), side.inner);
            // SAFETY: a part of a side, which lies inside of its slice and is borrowed for reading.
            unsafe {
                match which {
                    Which::Left => self.dots.pack_left(part, stride, out),
                    Which::Right => self.dots.pack_right(part, out),
                }
            }
        };
        let groups = pairs.par_chunks_mut((which.group() * stride).max(1)).enumerate();
        groups.with_min_len(GROUPS).for_each(pack);
        Packed { pairs, stride }
    }

    /// Writes the products of some rows with some columns over a block of the inner side.
    ///
    /// # Safety
    /// Nobody else has these rows and columns of the product.
    unsafe fn multiply(
        &self,
        (left, rows): (&Packed, &Range<usize>),
        (right, columns): (&Packed, &Range<usize>),
        block: usize,
    ) {
        let panel = right.stride * COLUMNS;
        for column in (0..columns.len()).step_by(COLUMNS) {
            let panel = &right.pairs[column / COLUMNS * panel..][..panel];
            for row in (0..rows.len()).step_by(ROWS) {
                let place = (rows.start + row) * self.right.lanes + columns.start + column;
                let target = Target {
                    start: self.out.at(place),
                    stride: self.right.lanes,
                    rows: ROWS.min(rows.len() - row),
                    columns: COLUMNS.min(columns.len() - column),
                    added: self.added || block > 0,
                };
                let left = (&left.pairs[row * left.stride..], left.stride);
                // SAFETY: inside of the rows and columns, which are the caller's.
                unsafe { self.dots.multiply(left, panel, target) };
            }
        }
    }
}
