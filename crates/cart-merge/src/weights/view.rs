//! The inputs of one tensor, read in chunks on all cores.
//!
//! Chunks are cut by the tensor's shape alone, so that sums over chunks, added up in the order of
//! chunks, are the same at every number of threads.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use cart_format::{DType, TensorName};
use rayon::prelude::*;

use crate::weights::chance::Chance;
use crate::weights::elements;
use crate::weights::error::{MergeError, Trouble};
use crate::weights::float_type::FloatType;
use crate::weights::rows::{RowSource, Rows};

/// Elements of a chunk, where rows do not make it longer.
pub(crate) const CHUNK: usize = 32 << 10;

/// Gives the bytes of input tensors.
pub trait Tensors: Sync {
    /// A tensor of a model of the plan.
    ///
    /// # Errors
    /// It can't be read.
    fn open(&self, model: usize, tensor: &TensorName) -> Result<Box<dyn TensorBytes>, Trouble>;
}

/// The bytes of a tensor. Called from several threads at once.
pub trait TensorBytes: Send + Sync {
    /// Fills `buffer` from byte `at` on.
    ///
    /// # Errors
    /// They can't be read.
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), Trouble>;

    /// The bytes from `at` on, where they are in memory or mapped to it.
    fn bytes(&self, _at: u64, _len: usize) -> Option<&[u8]> {
        None
    }

    /// These bytes are not needed for now.
    fn release(&self, _at: u64, _len: usize) {}
}

/// Hears how far a merge is, and is asked whether to go on. Called from several threads at once.
pub trait Watch: Sync {
    /// So many bytes of inputs were worked through.
    fn add(&self, _bytes: u64) {}

    /// Whether to stop.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Hears nothing and never stops.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}

/// How a tensor is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grain {
    /// Anywhere.
    Elements,
    /// Between rows of so many elements.
    Rows(usize),
}

/// One input.
pub(crate) struct Input {
    pub(crate) bytes: Arc<dyn TensorBytes>,
    pub(crate) dtype: DType,
    /// Where its rows come from, if they are not its own in order.
    pub(crate) rows: Option<Arc<Rows>>,
}

/// The inputs of one tensor, all of one shape.
pub(crate) struct View<'a> {
    pub(crate) name: &'a TensorName,
    pub(crate) shape: &'a [u64],
    pub(crate) inputs: Vec<Input>,
    pub(crate) rounded: Option<FloatType>,
    pub(crate) seed: u64,
    /// Whether all cores work on this tensor; else other tensors are worked on beside it.
    pub(crate) parallel: bool,
    pub(crate) watch: &'a dyn Watch,
}

/// Some elements of every input.
pub(crate) struct Chunk<'a> {
    /// Which chunk, from 0.
    pub(crate) index: usize,
    /// Its first element.
    pub(crate) first: usize,
    /// The values of each input.
    pub(crate) inputs: &'a [Vec<f32>],
}

impl Chunk<'_> {
    pub(crate) fn len(&self) -> usize {
        self.inputs.first().map_or(0, Vec::len)
    }
}

/// Buffers of a thread.
#[derive(Default)]
struct Scratch {
    bytes: Vec<u8>,
    values: Vec<Vec<f32>>,
    out: Vec<f32>,
    encoded: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Vec<Scratch>> = const { RefCell::new(Vec::new()) };
}

/// Runs `work` with buffers of this thread. (Work that rayon starts inside other work gets others.)
fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    let mut scratch = SCRATCH.with_borrow_mut(Vec::pop).unwrap_or_default();
    let done = work(&mut scratch);
    SCRATCH.with_borrow_mut(|stack| stack.push(scratch));
    done
}

impl View<'_> {
    /// Elements.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product::<u64>() as usize
    }

    /// Elements of the last axis.
    pub(crate) fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1) as usize
    }

    /// The numbers that decide by chance about input `index`.
    pub(crate) fn chance(&self, index: usize) -> Chance {
        Chance::of(self.seed, self.name.as_str(), index)
    }

    fn chunk_len(grain: Grain) -> usize {
        match grain {
            Grain::Elements => CHUNK,
            Grain::Rows(row) => (CHUNK / row.max(1)).max(1) * row.max(1),
        }
    }

    /// Chunks of this grain.
    pub(crate) fn chunks(&self, grain: Grain) -> usize {
        self.len().div_ceil(Self::chunk_len(grain))
    }

    fn range(&self, grain: Grain, index: usize) -> Range<usize> {
        let len = Self::chunk_len(grain);
        index * len..((index + 1) * len).min(self.len())
    }

    /// What `work` makes of each chunk, in order.
    pub(crate) fn map<T: Send>(
        &self,
        grain: Grain,
        work: impl Fn(&Chunk<'_>) -> T + Sync,
    ) -> Result<Vec<T>, MergeError> {
        let one = |index| self.with_chunk(grain, index, |chunk, _| Ok(work(chunk)));
        if !self.parallel {
            return (0..self.chunks(grain)).map(one).collect();
        }
        (0..self.chunks(grain)).into_par_iter().map(one).collect()
    }

    /// One value of all chunks, by operations whose order does not matter.
    pub(crate) fn gather<T: Send>(
        &self,
        grain: Grain,
        start: impl Fn() -> T + Sync,
        work: impl Fn(&mut T, &Chunk<'_>) + Sync,
        join: impl Fn(T, T) -> T + Sync,
    ) -> Result<T, MergeError> {
        let chunks = self.chunks(grain);
        let threads = if self.parallel { rayon::current_num_threads() * 2 } else { 1 };
        let pieces = threads.min(chunks).max(1);
        let piece = |piece: usize| {
            let mut value = start();
            for index in chunks * piece / pieces..chunks * (piece + 1) / pieces {
                self.with_chunk(grain, index, |chunk, _| {
                    work(&mut value, chunk);
                    Ok(())
                })?;
            }
            Ok(value)
        };
        if pieces == 1 {
            return piece(0);
        }
        (0..pieces).into_par_iter().map(piece).try_reduce(&start, |a, b| Ok(join(a, b)))
    }

    /// Makes the output chunk by chunk and hands it over as bytes of `dtype`.
    ///
    /// * `work`: fills the values of a chunk
    /// * `take`: the first byte, the values, and their bytes; in order unless the view is parallel
    pub(crate) fn emit(
        &self,
        grain: Grain,
        dtype: DType,
        work: impl Fn(&Chunk<'_>, &mut [f32]) + Sync,
        take: impl Fn(u64, &[f32], &[u8]) -> Result<(), MergeError> + Sync,
    ) -> Result<(), MergeError> {
        let one = |index| {
            self.with_chunk(grain, index, |chunk, (out, encoded)| {
                out.resize(chunk.len(), 0.0);
                work(chunk, out);
                elements::encode(dtype, out, encoded);
                let at = elements::bytes_of(dtype, chunk.first) as u64;
                take(at, out, encoded)
            })
        };
        if !self.parallel {
            return (0..self.chunks(grain)).try_for_each(one);
        }
        (0..self.chunks(grain)).into_par_iter().try_for_each(one)
    }

    fn with_chunk<T>(
        &self,
        grain: Grain,
        index: usize,
        work: impl FnOnce(&Chunk<'_>, (&mut Vec<f32>, &mut Vec<u8>)) -> Result<T, MergeError>,
    ) -> Result<T, MergeError> {
        if self.watch.cancelled() {
            return Err(MergeError::Cancelled);
        }
        let range = self.range(grain, index);
        with_scratch(|scratch| {
            let Scratch { bytes, values, out, encoded } = scratch;
            values.resize_with(self.inputs.len(), Vec::new);
            for (input, values) in self.inputs.iter().zip(values.iter_mut()) {
                values.resize(range.len(), 0.0);
                self.read(input, range.start, bytes, values)?;
            }
            let inputs = &values[..self.inputs.len()];
            work(&Chunk { index, first: range.start, inputs }, (out, encoded))
        })
    }

    /// Reads the values from element `first` on.
    fn read(
        &self,
        input: &Input,
        first: usize,
        bytes: &mut Vec<u8>,
        values: &mut [f32],
    ) -> Result<(), MergeError> {
        match &input.rows {
            None => self.read_plain(&*input.bytes, input.dtype, first, bytes, values),
            Some(rows) => self.read_rows(rows, first, bytes, values),
        }
    }

    fn read_plain(
        &self,
        from: &dyn TensorBytes,
        dtype: DType,
        first: usize,
        bytes: &mut Vec<u8>,
        values: &mut [f32],
    ) -> Result<(), MergeError> {
        let len = elements::bytes_of(dtype, values.len());
        let at = elements::bytes_of(dtype, first) as u64;
        if let Some(bytes) = from.bytes(at, len) {
            elements::decode(dtype, bytes, values, self.rounded);
            if self.parallel {
                from.release(at, len);
            }
        } else {
            bytes.resize(len, 0);
            from.read_at(at, bytes).map_err(|source| self.unreadable(source))?;
            elements::decode(dtype, bytes, values, self.rounded);
        }
        self.watch.add(len as u64);
        Ok(())
    }

    /// Reads rows, or parts of them, from where they are.
    fn read_rows(
        &self,
        rows: &Rows,
        first: usize,
        bytes: &mut Vec<u8>,
        values: &mut [f32],
    ) -> Result<(), MergeError> {
        let columns = self.columns();
        let mut part = Vec::new();
        let (mut at, mut rest) = (first, values);
        while !rest.is_empty() {
            let (row, column) = (at / columns, at % columns);
            let (now, later) = rest.split_at_mut((columns - column).min(rest.len()));
            now.fill(0.0);
            if let RowSource::Mean(of) = &rows.sources[row] {
                part.resize(now.len(), 0.0);
                for &(donor, row) in of {
                    let (from, dtype) = &rows.donors[donor];
                    let place = row as usize * columns + column;
                    self.read_plain(&**from, *dtype, place, bytes, &mut part)?;
                    now.iter_mut().zip(&part).for_each(|(sum, value)| *sum += value);
                }
                let count = of.len() as f32;
                now.iter_mut().for_each(|value| *value /= count);
            }
            at += now.len();
            rest = later;
        }
        Ok(())
    }

    fn unreadable(&self, source: Trouble) -> MergeError {
        MergeError::Source { tensor: self.name.to_string(), source }
    }
}
