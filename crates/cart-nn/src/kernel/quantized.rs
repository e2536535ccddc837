//! Products of quantized weights with quantized activations.

use std::ops::Range;

use cart_format::DType;

use crate::kernel::activations::Quantized;
use crate::kernel::format::{Format, GROUP, with_format};
use crate::kernel::tile::{OUTPUTS, Tile};
#[cfg(target_arch = "x86_64")]
use crate::kernel::x86;
use crate::kernel::{KernelLevel, Kernels};
use crate::parallel::{Rows, split};

/// Up to this many activation rows, weights are unpacked in registers, row by row; for more, in
/// tiles.
const FEW: usize = 4;

/// Bytes of weights that are worth a task of their own.
const TASK_BYTES: usize = 48 << 10;

/// Quantized weights, `[outputs, inputs]`.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    pub(crate) dtype: DType,
    pub(crate) bytes: &'a [u8],
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
}

/// What every format's product needs.
#[cfg(target_arch = "x86_64")]
trait Kernel: x86::Unpack {}
#[cfg(target_arch = "x86_64")]
impl<F: x86::Unpack> Kernel for F {}
#[cfg(not(target_arch = "x86_64"))]
trait Kernel: Format {}
#[cfg(not(target_arch = "x86_64"))]
impl<F: Format> Kernel for F {}

/// Writes `input · weightsᵀ` to the columns of `out` from `column` on.
pub(crate) fn product(
    kernels: Kernels,
    weights: Weights<'_>,
    input: &Quantized,
    out: Rows<'_, f32>,
    column: usize,
) {
    with_format!(
        weights.dtype,
        F => product_of::<F>(kernels, weights, input, out, column),
        else unreachable!("loading refuses block types without a product")
    );
}

fn product_of<F: Kernel>(
    kernels: Kernels,
    weights: Weights<'_>,
    input: &Quantized,
    out: Rows<'_, f32>,
    column: usize,
) {
    assert_eq!(input.groups * GROUP, weights.inputs);
    let row_bytes = weights.inputs / (F::GROUPS * GROUP) * F::BYTES;
    let rows_of =
        |outputs: Range<usize>| &weights.bytes[outputs.start * row_bytes..outputs.end * row_bytes];
    if input.rows <= FEW || kernels.is_by_row() {
        split(weights.outputs, TASK_BYTES / row_bytes, &|outputs| {
            let columns = column + outputs.start..column + outputs.end;
            few_rows::<F>(kernels, rows_of(outputs), row_bytes, input, out, columns);
        });
        return;
    }
    split(weights.outputs.div_ceil(OUTPUTS), 1, &|tiles| {
        let mut tile = Tile::new(input.groups);
        for index in tiles {
            let outputs = index * OUTPUTS..weights.outputs.min((index + 1) * OUTPUTS);
            let columns = column + outputs.start..column + outputs.end;
            pack::<F>(kernels, &mut tile, rows_of(outputs), row_bytes);
            many_rows::<F>(kernels, &tile, input, out, columns);
        }
    });
}

fn few_rows<F: Kernel>(
    kernels: Kernels,
    weights: &[u8],
    row_bytes: usize,
    input: &Quantized,
    out: Rows<'_, f32>,
    columns: Range<usize>,
) {
    // SAFETY: `product_of` gives these columns to this task only.
    let part = |row| unsafe { out.part(row, columns.clone()) };
    let mut first = 0;
    while first < input.rows {
        let part = |row| part(first + row);
        let at = (input, first);
        first += match input.rows - first {
            1 => few::<F, 1>(kernels, weights, row_bytes, at, [part(0)]),
            2 => few::<F, 2>(kernels, weights, row_bytes, at, [0, 1].map(part)),
            3 => few::<F, 3>(kernels, weights, row_bytes, at, [0, 1, 2].map(part)),
            4..8 => few::<F, 4>(kernels, weights, row_bytes, at, [0, 1, 2, 3].map(part)),
            _ => few::<F, 8>(kernels, weights, row_bytes, at, std::array::from_fn(part)),
        };
    }
}

fn few<F: Kernel, const R: usize>(
    kernels: Kernels,
    weights: &[u8],
    row_bytes: usize,
    input: (&Quantized, usize),
    out: [&mut [f32]; R],
) -> usize {
    match kernels.level() {
        KernelLevel::Portable => few_portable::<F, R>(weights, row_bytes, input, out),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` says that the processor has these instructions.
        KernelLevel::Avx2 => unsafe { x86::few_avx2::<F, R>(weights, row_bytes, input, out) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        KernelLevel::Avx512Vnni => unsafe {
            x86::few_vnni::<F, R>(weights, row_bytes, input, out);
        },
        #[cfg(not(target_arch = "x86_64"))]
        _ => few_portable::<F, R>(weights, row_bytes, input, out),
    }
    R
}

fn few_portable<F: Format, const R: usize>(
    weights: &[u8],
    row_bytes: usize,
    (input, first): (&Quantized, usize),
    mut out: [&mut [f32]; R],
) {
    for (output, row) in weights.chunks_exact(row_bytes).enumerate() {
        let mut sums = [0.0_f32; R];
        for (number, block) in row.chunks_exact(F::BYTES).enumerate() {
            for index in 0..F::GROUPS {
                let group = F::group(block, index);
                let at = number * F::GROUPS + index;
                for (row, sum) in sums.iter_mut().enumerate() {
                    let codes = &input.row_codes(first + row)[at];
                    let shared = input.row_scales(first + row)[at];
                    let mut dots = [0_i32; 2];
                    for (index, code) in group.codes.iter().enumerate() {
                        dots[index / 16] += (i32::from(*code) - F::ZERO) * codes.code(index);
                    }
                    let [low, high] = dots.map(|dot| dot as f32);
                    *sum += shared.scale * (low * group.scales[0] + high * group.scales[1])
                        + group.min * shared.sum;
                }
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            out[output] = sum;
        }
    }
}

fn pack<F: Kernel>(kernels: Kernels, tile: &mut Tile, weights: &[u8], row_bytes: usize) {
    match kernels.level() {
        KernelLevel::Portable => tile.pack::<F>(weights, row_bytes),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` says that the processor has these instructions.
        KernelLevel::Avx2 | KernelLevel::Avx512Vnni => unsafe {
            x86::pack::<F>(tile, weights, row_bytes);
        },
        #[cfg(not(target_arch = "x86_64"))]
        _ => tile.pack::<F>(weights, row_bytes),
    }
}

fn many_rows<F: Kernel>(
    kernels: Kernels,
    tile: &Tile,
    input: &Quantized,
    out: Rows<'_, f32>,
    columns: Range<usize>,
) {
    let mut row = 0;
    while row < input.rows {
        let at = (row, &columns);
        row += match input.rows - row {
            8.. if kernels.level() == KernelLevel::Avx512Vnni => {
                some_rows::<F, 8>(kernels, tile, input, out, at)
            }
            4.. => some_rows::<F, 4>(kernels, tile, input, out, at),
            2.. => some_rows::<F, 2>(kernels, tile, input, out, at),
            _ => some_rows::<F, 1>(kernels, tile, input, out, at),
        };
    }
}

fn some_rows<F: Kernel, const R: usize>(
    kernels: Kernels,
    tile: &Tile,
    input: &Quantized,
    out: Rows<'_, f32>,
    (first, columns): (usize, &Range<usize>),
) -> usize {
    let mut sums = [[0.0; OUTPUTS]; R];
    match kernels.level() {
        KernelLevel::Portable => tile.product::<F, R>(input, first, &mut sums),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Kernels` says that the processor has these instructions.
        KernelLevel::Avx2 => unsafe { x86::tile_avx2::<F, R>(tile, input, first, &mut sums) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        KernelLevel::Avx512Vnni => unsafe {
            x86::tile_vnni::<F, R>(tile, input, first, &mut sums);
        },
        #[cfg(not(target_arch = "x86_64"))]
        _ => tile.product::<F, R>(input, first, &mut sums),
    }
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: `product_of` gives these columns to this task only.
        let out = unsafe { out.part(first + row, columns.clone()) };
        out.copy_from_slice(&sums[..columns.len()]);
    }
    R
}
