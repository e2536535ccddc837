//! Products of matrices that lie in memory in any order.

use gemm::Parallelism;

/// A matrix in a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
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
    let (rows, columns, inner) = (a.rows, b.columns, a.columns);
    assert_eq!(inner, b.rows, "the inner sides of a product are equal");
    assert_eq!(out.len(), rows * columns, "a product fills what it is written to");
    let threads = if by == By::All { rayon::current_num_threads() } else { 1 };
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    // SAFETY: `Matrix` was checked to lie inside of its slice, `out` just now, and `out` is borrowed
    // for writing, so it overlaps neither.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            out.as_mut_ptr(),
            1,
            columns as isize,
            added,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0_f32,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `a · b`, by all threads.
pub(super) fn product_of(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let mut out = vec![0.0; a.rows * b.columns];
    multiply(a, b, &mut out, 1.0, false, By::All);
    out
}
