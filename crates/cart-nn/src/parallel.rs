//! Splitting work over the threads at hand, and output that several tasks write.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use crate::threads::{at_hand, share};

/// Parts for a thread: enough that one that was held up does not hold up the others for long.
const PARTS: usize = 4;

/// Calls `work` on parts of `0..len` that cover it without overlap, by the threads at hand. Parts
/// have at least `grain` items, and there are at most four for a thread.
pub(crate) fn split(len: usize, grain: usize, work: &(impl Fn(Range<usize>) + Sync)) {
    let threads = at_hand();
    let grain = grain.max(len.div_ceil(PARTS * threads)).max(1);
    if threads == 1 || len <= grain {
        if len > 0 {
            work(0..len);
        }
        return;
    }
    let parts = len.div_ceil(grain);
    share(parts, &|part| work(part * grain..len.min((part + 1) * grain)));
}

/// `len` values that `fill` writes.
///
/// # Safety
/// It writes every one of them.
pub(crate) unsafe fn written<T: Copy>(
    len: usize,
    width: usize,
    fill: impl FnOnce(Rows<'_, T>),
) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    fill(Rows::empty(&mut values.spare_capacity_mut()[..len], width));
    // SAFETY: the caller's promise.
    unsafe { values.set_len(len) };
    values
}

/// A matrix that several tasks write, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    start: *mut T,
    len: usize,
    width: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: the parts are handed out by unsafe methods whose callers promise that no part is held
// twice, so sharing this between threads is sharing disjoint `&mut [T]`.
unsafe impl<T: Send> Sync for Rows<'_, T> {}
// SAFETY: as for `Sync`.
unsafe impl<T: Send> Send for Rows<'_, T> {}

impl<'a, T> Rows<'a, T> {
    /// `values` as rows of `width`.
    pub(crate) fn new(values: &'a mut [T], width: usize) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), width, owner: PhantomData }
    }

    /// Room for rows of `width`, of which only [`Self::write`] may be called: there is nothing in
    /// it yet.
    pub(crate) fn empty(room: &'a mut [MaybeUninit<T>], width: usize) -> Self {
        Self { start: room.as_mut_ptr().cast(), len: room.len(), width, owner: PhantomData }
    }

    /// Writes `values` to row `index`, from `column` on.
    ///
    /// # Safety
    /// Nobody else holds or writes any of these places.
    #[inline(always)]
    pub(crate) unsafe fn write(&self, index: usize, column: usize, values: &[T])
    where
        T: Copy,
    {
        assert!(column + values.len() <= self.width && (index + 1) * self.width <= self.len);
        // SAFETY: inside the matrix, as just checked; unshared, as the caller promises.
        unsafe {
            let to = self.start.add(index * self.width + column);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }

    /// Row `index`.
    ///
    /// # Safety
    /// Nobody else holds any part of this row.
    #[inline(always)]
    pub(crate) unsafe fn row(&self, index: usize) -> &'a mut [T] {
        // SAFETY: passed on to the caller.
        unsafe { self.part(index, 0..self.width) }
    }

    /// Columns `columns` of row `index`.
    ///
    /// # Safety
    /// Nobody else holds any of these.
    #[inline(always)]
    pub(crate) unsafe fn part(&self, index: usize, columns: Range<usize>) -> &'a mut [T] {
        assert!(columns.end <= self.width && (index + 1) * self.width <= self.len);
        // SAFETY: inside the slice, as just checked; unshared, as the caller promises.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.start.add(index * self.width + columns.start),
                columns.len(),
            )
        }
    }
}
