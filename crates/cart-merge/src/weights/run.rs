//! Carrying out a plan: tensor by tensor, in chunks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cart_format::first_not_finite;
use rayon::prelude::*;
use serde::Serialize;

use crate::weights::elements;
use crate::weights::error::{MergeError, Trouble};
use crate::weights::plan::{How, Merging, Plan, PlannedTensor};
use crate::weights::rows::Rows;
use crate::weights::steps;
use crate::weights::view::{Input, Tensors, View, Watch};

/// Tensors from this size on are merged one at a time, on all cores; smaller ones side by side.
const LARGE: u64 = 16 << 20;

/// Takes the tensors of the result. Called from several threads at once.
pub trait Sink: Sync {
    /// Some bytes of a tensor. They come in any order, every byte once.
    ///
    /// * `tensor`: its index in [`Plan::tensors`]
    ///
    /// # Errors
    /// They can't be kept.
    fn write(&self, tensor: usize, at: u64, bytes: &[u8]) -> Result<(), Trouble>;

    /// All bytes of a tensor were written.
    ///
    /// # Errors
    /// They can't be kept.
    fn seal(&self, tensor: usize) -> Result<(), Trouble>;

    /// One or two tensors, whole.
    ///
    /// # Errors
    /// They can't be kept.
    fn keep(&self, tensors: &[(usize, Vec<u8>)]) -> Result<(), Trouble> {
        tensors.iter().try_for_each(|(tensor, bytes)| {
            self.write(*tensor, 0, bytes)?;
            self.seal(*tensor)
        })
    }
}

/// What quantizing a tensor again lost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct QuantizationError {
    /// Root of the mean squared difference of what was written from what was computed.
    pub rmse: f64,
    /// Root of the mean square of what was computed.
    pub rms: f64,
}

impl Plan {
    /// Bytes of inputs that will be worked through, for a progress bar. It may be fewer.
    pub fn work(&self) -> u64 {
        let of = |tensor: &PlannedTensor| match &tensor.how {
            How::Merge(merging) => {
                let bytes = |operand: &crate::weights::plan::Operand| {
                    operand.dtype.size_of(&operand.shape).unwrap_or(0)
                };
                let inputs: u64 = merging.operands.iter().map(bytes).sum();
                inputs * steps::passes(&merging.step)
            }
            How::Take { .. } | How::Conflict => 0,
        };
        self.tensors.iter().map(of).sum()
    }

    /// Computes every tensor that is not taken, on the current rayon pool. The bytes depend on the
    /// plan, the inputs and the seed alone. Memory does not grow with the tensors but by a bit for
    /// an element where della chooses.
    ///
    /// Returns what quantizing lost, by the index of the tensor.
    ///
    /// # Errors
    /// A source or the sink fails, the watch cancelled, or a result is not finite.
    pub fn run(
        &self,
        seed: u64,
        tensors: &dyn Tensors,
        sink: &dyn Sink,
        watch: &dyn Watch,
    ) -> Result<BTreeMap<usize, QuantizationError>, MergeError> {
        let run = Run {
            plan: self,
            seed,
            tensors,
            sink,
            watch,
            lost: Mutex::default(),
            buffers: Mutex::default(),
        };
        let mut order: Vec<usize> = (0..self.tensors.len())
            .filter(|&index| matches!(self.tensors[index].how, How::Merge(_)))
            .collect();
        order.sort_by_key(|&index| std::cmp::Reverse(self.tensors[index].bytes()));
        let large = order.partition_point(|&index| self.tensors[index].bytes() > LARGE);
        let (large, small) = order.split_at(large);
        for &index in large {
            run.large(index)?;
        }
        // Sealing a large tensor is work for one thread; the small ones go on beside it.
        let seal = |index: usize| sink.seal(index).map_err(|source| run.unwritten(index, source));
        let (left, right) = rayon::join(
            || large.par_iter().try_for_each(|&index| seal(index)),
            || small.par_chunks(2).with_max_len(1).try_for_each(|pair| run.small(pair)),
        );
        left.and(right)?;
        Ok(run.lost.into_inner().expect("no thread panics holding it"))
    }
}

struct Run<'a> {
    plan: &'a Plan,
    seed: u64,
    tensors: &'a dyn Tensors,
    sink: &'a dyn Sink,
    watch: &'a dyn Watch,
    lost: Mutex<BTreeMap<usize, QuantizationError>>,
    /// For small tensors, to be used again.
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl Run<'_> {
    /// On all cores, piece by piece.
    fn large(&self, index: usize) -> Result<(), MergeError> {
        self.tensor(index, true, |at, bytes| {
            let written = self.sink.write(index, at, bytes);
            written.map_err(|source| self.unwritten(index, source))
        })
    }

    /// One or two tensors, each whole, on this thread.
    fn small(&self, pair: &[usize]) -> Result<(), MergeError> {
        let mut made = Vec::new();
        for &index in pair {
            let buffer = self.buffers.lock().expect("no thread panics holding it").pop();
            let mut buffer = buffer.unwrap_or_default();
            buffer.clear();
            let buffer = Mutex::new(buffer);
            self.tensor(index, false, |_, bytes| {
                buffer.lock().expect("no thread panics holding it").extend_from_slice(bytes);
                Ok(())
            })?;
            made.push((index, buffer.into_inner().expect("no thread panics holding it")));
        }
        self.sink.keep(&made).map_err(|source| self.unwritten(pair[0], source))?;
        let buffers = made.into_iter().map(|(_, buffer)| buffer);
        self.buffers.lock().expect("no thread panics holding it").extend(buffers);
        Ok(())
    }

    /// * `take`: the first byte, and the bytes
    fn tensor(
        &self,
        index: usize,
        parallel: bool,
        take: impl Fn(u64, &[u8]) -> Result<(), MergeError> + Sync,
    ) -> Result<(), MergeError> {
        let planned = &self.plan.tensors[index];
        let How::Merge(merging) = &planned.how else { return Ok(()) };
        let view = self.view(planned, merging, parallel)?;
        if view.len() == 0 {
            return Ok(());
        }
        let ready = steps::prepare(&merging.step, &view)?;
        let dtype = planned.dtype;
        let errors = Mutex::new(BTreeMap::new());
        view.emit(ready.grain, dtype, &ready.fill, |at, values, bytes| {
            if let Some(element) = first_not_finite(dtype, bytes) {
                let block = dtype.block_bytes();
                let element = at / block * dtype.block_elements() + element;
                return Err(MergeError::NotFinite { tensor: planned.name.to_string(), element });
            }
            if dtype.is_quantized() {
                let lost = elements::squares_lost(dtype, values, bytes);
                errors.lock().expect("no thread panics holding it").insert(at, lost);
            }
            take(at, bytes)
        })?;
        if dtype.is_quantized() {
            let errors = errors.into_inner().expect("no thread panics holding it");
            let sum = |which: usize| errors.values().map(|one| one[which]).sum::<f64>();
            let root = |sum: f64| (sum / view.len() as f64).sqrt();
            let lost = QuantizationError { rmse: root(sum(0)), rms: root(sum(1)) };
            self.lost.lock().expect("no thread panics holding it").insert(index, lost);
        }
        Ok(())
    }

    fn view<'v>(
        &'v self,
        planned: &'v PlannedTensor,
        merging: &Merging,
        parallel: bool,
    ) -> Result<View<'v>, MergeError> {
        let unread = |source| MergeError::Source { tensor: planned.name.to_string(), source };
        let mut opened = Vec::new();
        for operand in &merging.operands {
            let bytes = self.tensors.open(operand.model, &operand.tensor).map_err(unread)?;
            opened.push((Arc::from(bytes), operand.dtype));
        }
        let input = |(operand, (bytes, dtype)): (&crate::weights::plan::Operand, &(Arc<_>, _))| {
            let rows = operand
                .rows
                .as_ref()
                .map(|sources| Arc::new(Rows { donors: opened.clone(), sources: sources.clone() }));
            Input { bytes: Arc::clone(bytes), dtype: *dtype, rows }
        };
        let inputs = merging.operands.iter().zip(&opened).map(input).collect();
        Ok(View {
            name: &planned.name,
            shape: &planned.shape,
            inputs,
            rounded: merging.rounded,
            seed: self.seed,
            parallel,
            watch: self.watch,
        })
    }

    fn unwritten(&self, index: usize, source: Trouble) -> MergeError {
        MergeError::Sink { tensor: self.plan.tensors[index].name.to_string(), source }
    }
}
