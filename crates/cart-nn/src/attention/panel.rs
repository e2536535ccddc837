//! Products of a few rows with a block of keys or values, sums in registers.

use crate::kernel::floats::{Element, Lanes};
use crate::kv::LANE_PAD;

/// Rows whose sums are in registers together.
const ROWS: usize = 6;

/// Some rows of a matrix.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) numbers: &'a [f32],
    /// From a row to the next.
    pub(super) stride: usize,
    pub(super) rows: usize,
    /// Numbers of a row that are multiplied.
    pub(super) depth: usize,
}

/// `out[row] = left[row] · right`, or that added to `out[row] · factors[row]`, in the first `columns`.
///
/// * `right`: `[depth, width]`, `columns` a multiple of [`LANE_PAD`]
/// * `out`: `[rows, width]`
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
pub(super) unsafe fn multiply<L: Lanes, E: Element>(
    left: Left<'_>,
    right: &[E],
    (columns, width): (usize, usize),
    out: &mut [f32],
    factors: Option<&[f32]>,
) {
    let Left { numbers, stride, rows, depth } = left;
    assert!(rows > 0 && depth > 0 && columns <= width && columns.is_multiple_of(LANE_PAD));
    const { assert!(L::PANEL * L::COUNT == LANE_PAD || L::COUNT == LANE_PAD && L::PANEL == 4) };
    assert!(numbers.len() >= (rows - 1) * stride + depth);
    assert!(right.len() >= depth * width && out.len() >= rows * width);
    assert!(factors.is_none_or(|factors| factors.len() >= rows));
    let mut column = 0;
    while column < columns {
        let whole = columns - column >= L::PANEL * L::COUNT;
        let mut row = 0;
        while row < rows {
            let count = (rows - row).min(ROWS);
            let tile = Tile {
                left: numbers[row * stride..].as_ptr(),
                stride,
                depth,
                right: right[column..].as_ptr(),
                width,
                out: out[row * width + column..].as_mut_ptr(),
                factors: factors.map(|factors| factors[row..].as_ptr()),
            };
            // SAFETY: the tile's rows and columns are inside the slices, as asserted.
            unsafe {
                // Widths are multiples of 16, so that only panels of more than that leave a rest.
                if L::PANEL * L::COUNT == LANE_PAD {
                    tile.rows::<L, 2>(count);
                } else if whole {
                    tile.rows::<L, 4>(count);
                } else {
                    tile.rows::<L, 1>(count);
                }
            }
            row += count;
        }
        column += if whole { L::PANEL * L::COUNT } else { LANE_PAD };
    }
}

/// Where a tile of the product is.
#[derive(Clone, Copy)]
struct Tile<E> {
    left: *const f32,
    stride: usize,
    depth: usize,
    right: *const E,
    width: usize,
    out: *mut f32,
    factors: Option<*const f32>,
}

impl<E: Element> Tile<E> {
    #[inline(always)]
    unsafe fn rows<L: Lanes, const V: usize>(self, count: usize) {
        // SAFETY: passed on to the caller.
        unsafe {
            match count {
                1 => self.product::<L, 1, V>(),
                2 => self.product::<L, 2, V>(),
                3 => self.product::<L, 3, V>(),
                4 => self.product::<L, 4, V>(),
                5 => self.product::<L, 5, V>(),
                _ => self.product::<L, ROWS, V>(),
            }
        }
    }

    /// `R` rows and `V` vectors. The sum of a number does not depend on how many others there are.
    #[inline(always)]
    unsafe fn product<L: Lanes, const R: usize, const V: usize>(self) {
        // SAFETY: the caller promises that all of the tile is there.
        unsafe {
            let mut sums = [[L::splat(0.0); V]; R];
            if let Some(factors) = self.factors {
                for (row, sums) in sums.iter_mut().enumerate() {
                    let factor = L::splat(*factors.add(row));
                    for (vector, sum) in sums.iter_mut().enumerate() {
                        let out = self.out.add(row * self.width + vector * L::COUNT);
                        *sum = L::load(out).mul(factor);
                    }
                }
            }
            let (mut left, mut right) = (self.left, self.right);
            for _ in 0..self.depth {
                let mut numbers = [L::splat(0.0); V];
                for (vector, numbers) in numbers.iter_mut().enumerate() {
                    *numbers = E::lanes(right.add(vector * L::COUNT));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let factor = L::splat(*left.add(row * self.stride));
                    for (sum, numbers) in sums.iter_mut().zip(numbers) {
                        *sum = numbers.mul_add(factor, *sum);
                    }
                }
                left = left.add(1);
                right = right.add(self.width);
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (vector, sum) in sums.into_iter().enumerate() {
                    sum.store(self.out.add(row * self.width + vector * L::COUNT));
                }
            }
        }
    }
}
