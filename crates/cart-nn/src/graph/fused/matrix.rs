//! Products of matrices that lie in memory in any order.
//!
//! A product is cut into blocks that one thread computes each, by a kernel of the `gemm` crate, whose
//! own threads wait for each other. How it is cut follows from the shapes alone, so
//! that every number of threads gives the same bits.

use std::ops::Range;

use gemm::Parallelism;
use rayon::prelude::*;

/// Multiplications of a block, about: a tenth of a millisecond.
const BLOCK: usize = 1 << 23;

/// Most blocks of a product.
const MOST: usize = 64;

/// Rows and columns that a block has whole multiples of, but at the end: the kernel's tiles have 6 rows of
/// four vectors.
const TILE: [usize; 2] = [48, 64];

/// A matrix in a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `[rows, columns]`, row after row.
    pub(super) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// `[rows, columns]`, whose rows begin `stride` numbers after one another.
    pub(super) fn strided(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        let end = if rows == 0 { 0 } else { (rows - 1) * stride + columns };
        assert!(end <= data.len(), "a matrix lies inside of its slice");
        Self { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// The transposed matrix.
    pub(super) fn t(self) -> Self {
        let (rows, columns) = (self.columns, self.rows);
        let (row_stride, column_stride) = (self.column_stride, self.row_stride);
        Self { rows, columns, row_stride, column_stride, ..self }
    }

    /// Other numbers in the same places.
    pub(super) fn with(self, data: &'a [f32]) -> Self {
        assert_eq!(data.len(), self.data.len(), "as many numbers");
        Self { data, ..self }
    }

    /// Where a number is. It may lie behind the last one of an empty matrix.
    pub(super) fn at(&self, row: usize, column: usize) -> *const f32 {
        self.data.as_ptr().wrapping_add(row * self.row_stride + column * self.column_stride)
    }
}

/// Who multiplies.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// This thread.
    One,
    /// All of them.
    All,
}

/// `out ← scale · a · b`, or `out ← out + scale · a · b` where `added`.
///
/// * `a`: `[rows, inner]`, `b`: `[inner, columns]`, `out`: `[rows, columns]`, row after row
pub(super) fn multiply(
    a: Matrix<'_>,
    b: Matrix<'_>,
    out: &mut [f32],
    scale: f32,
    added: bool,
    by: By,
) {
    assert_eq!(out.len(), a.rows * b.columns, "a product fills what it is written to");
    let out = Out(out.as_mut_ptr());
    // SAFETY: `out` is borrowed for writing, and there are numbers in all of it.
    unsafe { fill(a, b, out, scale, added, by) };
}

/// Where a product is written.
#[derive(Clone, Copy)]
pub(super) struct Out(*mut f32);

// SAFETY: threads write blocks of it, none of which has numbers of another.
unsafe impl Send for Out {}
// SAFETY: as for `Send`.
unsafe impl Sync for Out {}

impl Out {
    pub(super) fn new(start: *mut f32) -> Self {
        Self(start)
    }

    pub(super) fn at(self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}

/// # Safety
/// `out` is a place for the product that nobody else has; where `added`, there are numbers in it.
pub(super) unsafe fn fill(a: Matrix<'_>, b: Matrix<'_>, out: Out, scale: f32, added: bool, by: By) {
    assert_eq!(a.columns, b.rows, "the inner sides of a product are equal");
    // SAFETY: the blocks are inside of the product and of both sides, which `Matrix` was checked to lie
    // inside of its slice for; no two of them share a number.
    let block = |rows: Range<usize>, columns: Range<usize>| unsafe {
        gemm::gemm(
            rows.len(),
            columns.len(),
            a.columns,
            out.at(rows.start * b.columns + columns.start),
            1,
            b.columns as isize,
            added,
            a.at(rows.start, 0),
            a.column_stride as isize,
            a.row_stride as isize,
            b.at(0, columns.start),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0_f32,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    };
    if by == By::One {
        return block(0..a.rows, 0..b.columns);
    }
    let [height, width] = block_shape(a.rows, a.columns, b.columns);
    let across = b.columns.div_ceil(width);
    let blocks = 0..a.rows.div_ceil(height) * across;
    blocks.into_par_iter().with_max_len(1).for_each(|index| {
        let (row, column) = (index / across * height, index % across * width);
        block(row..a.rows.min(row + height), column..b.columns.min(column + width));
    });
}

/// Rows and columns of a product's blocks: of all ways to cut it into so many, the one that reads the
/// least of both sides again.
fn block_shape(rows: usize, inner: usize, columns: usize) -> [usize; 2] {
    let count = (rows * inner * columns / BLOCK).clamp(1, MOST);
    let side = |len: usize, parts: usize, tile: usize| {
        if parts == 1 { len.max(1) } else { len.div_ceil(parts).next_multiple_of(tile) }
    };
    let shape =
        |down: usize| [side(rows, down, TILE[0]), side(columns, count.div_ceil(down), TILE[1])];
    let read = |[height, width]: &[usize; 2]| {
        columns.div_ceil(*width) * rows + rows.div_ceil(*height) * columns
    };
    (1..=count).map(shape).min_by_key(read).expect("there is one block or more")
}
