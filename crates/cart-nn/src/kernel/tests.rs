//! Every kernel against plain arithmetic on the same codes, at every level of this processor.

use std::collections::BTreeMap;
use std::ops::Range;

use cart_format::DType;
use half::{bf16, f16};
use proptest::prelude::*;

use crate::bytes::SharedBytes;
use crate::kernel::activations::{Codes, GroupScale, Quantized};
use crate::kernel::floats::Element;
use crate::kernel::format::{Format, GROUP, with_format};
use crate::kernel::memory::Arena;
use crate::kernel::packed::OUTPUTS;
use crate::kernel::product::{self, Target};
use crate::kernel::tiles::Tiles;
use crate::kernel::{Activations, KernelLevel, Kernels, float};
use crate::matrix::{Linear, Matrix};
use crate::parallel::Rows;

const BLOCK_TYPES: [DType; 10] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
];

/// A stream of numbers that looks random and is the same everywhere (SplitMix64).
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From −1 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn activations(&mut self, count: usize) -> Vec<f32> {
        // A few values far larger than the rest, as in real models.
        let large = |stream: &mut Self| if stream.next().is_multiple_of(50) { 30.0 } else { 1.0 };
        (0..count).map(|_| self.unit() * large(self)).collect()
    }

    /// Random blocks, with scales and minimums of a sensible size at `halves`.
    fn blocks(&mut self, dtype: DType, count: usize) -> Vec<u8> {
        let halves: &[usize] = match dtype {
            DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
            DType::Q2_K => &[80, 82],
            DType::Q3_K => &[108],
            DType::Q6_K => &[208],
            _ => &[0],
        };
        let size = dtype.block_bytes() as usize;
        let mut bytes: Vec<u8> = (0..count * size).map(|_| self.next() as u8).collect();
        for block in bytes.chunks_exact_mut(size) {
            for &at in halves {
                let value = f16::from_f32(self.unit() / 10.0);
                block[at..at + 2].copy_from_slice(&value.to_le_bytes());
            }
        }
        bytes
    }
}

fn levels() -> impl Iterator<Item = Kernels> {
    let levels = KernelLevel::ALL.into_iter().filter_map(|level| Kernels::new(level).ok());
    levels.flat_map(|kernels| {
        [Activations::Exact, Activations::Mixed].map(|kind| kernels.with_activations(kind))
    })
}

/// `input · weightsᵀ` in `f64`, and the sum of magnitudes, for a tolerance.
fn reference(weights: &[f32], width: usize, input: &[f32]) -> Vec<(f64, f64)> {
    let row = |x: &[f32]| {
        let terms = |w: &[f32]| {
            let products = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()))
        };
        weights.chunks_exact(width).map(terms).collect::<Vec<_>>()
    };
    input.chunks_exact(width).flat_map(row).collect()
}

fn assert_close(found: &[f32], exact: &[(f64, f64)], what: &str) {
    assert_eq!(found.len(), exact.len());
    for (index, (found, (exact, size))) in found.iter().zip(exact).enumerate() {
        let error = (f64::from(*found) - exact).abs();
        assert!(error <= size * 2e-6 + 1e-6, "{what} at {index}: {found}, exactly {exact}");
    }
}

/// The values that codes stand for.
fn values(codes: &Quantized) -> Vec<f32> {
    let group = |(row, group)| {
        let (codes, shared, rests, _) = codes.group(row, group);
        std::array::from_fn::<f32, GROUP, _>(|index| {
            shared.scale * (256.0 * f32::from(codes.0[index]) + f32::from(rests.0[index]))
        })
    };
    (0..codes.rows)
        .flat_map(|row| (0..codes.groups).map(move |at| (row, at)))
        .flat_map(group)
        .collect()
}

/// The values of blocks, by the definition of their format.
fn dequantize<F: Format>(rows: &[u8]) -> Vec<f32> {
    let half = |bits| f16::from_bits(bits).to_f32();
    let part = |block: &[u8], at: usize| -> Vec<f32> {
        let [scale, min] = F::scale_min(block).map(half);
        let [scale_factor, min_factor] = F::factors(block, at).map(f32::from);
        let count = GROUP / F::PARTS;
        let codes = &F::codes(block, at / F::PARTS)[at % F::PARTS * count..][..count];
        let value = |code: &u8| scale * scale_factor * (i32::from(*code) - F::ZERO) as f32;
        codes.iter().map(|code| value(code) + min * min_factor).collect()
    };
    rows.chunks_exact(F::BYTES)
        .flat_map(|block| (0..F::GROUPS * F::PARTS).flat_map(move |at| part(block, at)))
        .collect()
}

/// Every group.
fn groups(codes: &Quantized) -> impl Iterator<Item = (&Codes, &GroupScale, &Codes, bool)> {
    (0..codes.rows).flat_map(move |row| (0..codes.groups).map(move |group| codes.group(row, group)))
}

fn check_quantized(dtype: DType, rows: usize, outputs: usize, blocks: usize, seed: u64) {
    with_format!(
        dtype,
        F => check_format::<F>(dtype, rows, outputs, blocks, seed),
        else unreachable!()
    );
}

fn check_format<F: Format>(dtype: DType, rows: usize, outputs: usize, blocks: usize, seed: u64) {
    let mut stream = Stream(seed);
    let width = blocks * dtype.block_elements() as usize;
    let bytes = stream.blocks(dtype, outputs * blocks);
    let weights = dequantize::<F>(&bytes);
    let mut released = 0;
    let mut release = |done| released = done;
    let tiles = Tiles::new(&mut Arena::default(), dtype, [outputs, width]);
    let packed = tiles.finish(&bytes, &mut release);
    assert_eq!(released, bytes.len());
    for (row, expected) in weights.chunks_exact(width).enumerate() {
        let mut found = vec![0.0; width];
        packed.read_row::<F>(row, &mut found);
        assert_eq!(found, expected, "{dtype} row {row}");
    }
    let input = stream.activations(rows * width);
    let mut first = BTreeMap::new();
    for kernels in levels() {
        let codes = Quantized::new(kernels, &input, width);
        let taken = values(&codes);
        let exact = reference(&weights, width, &taken);
        let mut out = vec![0.0; rows * (outputs + 3)];
        let target = Target { rows: Rows::new(&mut out, outputs + 3), column: 2 };
        // SAFETY: the output is this test's alone.
        unsafe {
            let tiles = 0..outputs.div_ceil(OUTPUTS);
            product::product::<F>(kernels, &packed, tiles, &codes, target);
        }
        let found: Vec<f32> =
            out.chunks_exact(outputs + 3).flat_map(|row| &row[2..outputs + 2]).copied().collect();
        assert_close(&found, &exact, &format!("{dtype} {kernels:?}"));
        let first = first.entry(kernels.activations()).or_insert_with(|| found.clone());
        assert_eq!(*first, found, "{dtype} {kernels:?} differs from portable");
        #[cfg(target_arch = "x86_64")]
        if kernels.level() == KernelLevel::Avx512Vnni {
            let mut by_unit = vec![0.0; out.len()];
            let target = Target { rows: Rows::new(&mut by_unit, outputs + 3), column: 2 };
            let tiles = 0..outputs.div_ceil(OUTPUTS);
            // SAFETY: the processor has AVX-512; the output is this test's alone.
            unsafe { product::product_by_model::<F>(&packed, tiles, &codes, target) };
            assert_eq!(by_unit, out, "{dtype} by a model of a matrix unit");
        }
        let outside = |row: &[f32]| row[..2] == [0.0; 2] && row[outputs + 2..] == [0.0];
        assert!(out.chunks_exact(outputs + 3).all(outside), "{dtype} writes other columns");
        for row in 0..rows {
            let alone = Quantized::new(kernels, &input[row * width..][..width], width);
            let mut out = vec![0.0; outputs];
            let target = Target { rows: Rows::new(&mut out, outputs), column: 0 };
            // SAFETY: the output is this test's alone.
            unsafe {
                let tiles = 0..outputs.div_ceil(OUTPUTS);
                product::product::<F>(kernels, &packed, tiles, &alone, target);
            }
            assert_eq!(out, found[row * outputs..][..outputs], "{dtype} {kernels:?} row {row}");
        }
    }
}

#[test]
fn quantized_products_are_those_of_the_values() {
    for dtype in BLOCK_TYPES {
        for rows in [1, 2, 3, 4, 5, 8, 17, 33] {
            for (outputs, blocks) in [(1, 1), (16, 3), (37, 2)] {
                check_quantized(dtype, rows, outputs, blocks, rows as u64 * 31 + outputs as u64);
            }
        }
    }
}

#[test]
fn activations_lose_at_most_a_step() {
    let mut stream = Stream(7);
    let values = [stream.activations(96), vec![0.0; 32], vec![-2.5; 32]].concat();
    for kernels in levels() {
        let codes = Quantized::new(kernels, &values, 160);
        let taken = self::values(&codes);
        let mut wide = 0;
        for (index, value) in values.iter().enumerate() {
            let (_, shared, _, is_wide) = codes.group(index / 160, index % 160 / GROUP);
            // A step of the rests, whose 128 and −128 are left out; half a step of the codes.
            let step = if is_wide { 1.01 } else { 0.501 * 256.0 };
            wide += usize::from(is_wide);
            let error = (value - taken[index]).abs();
            assert!(error <= shared.scale * step, "{kernels:?} {index}: {value}");
        }
        match kernels.activations() {
            Activations::Exact => assert_eq!(wide, values.len()),
            Activations::Mixed => assert!((GROUP..values.len()).contains(&wide), "{wide}"),
        }
        for (codes, shared, rests, wide) in groups(&codes) {
            let half = |range: Range<usize>| -> i32 {
                let both =
                    |index: usize| 256 * i32::from(codes.0[index]) + i32::from(rests.0[index]);
                range.map(both).sum()
            };
            assert_eq!(shared.halves, [half(0..16), half(16..32)]);
            assert!(wide || *rests == Codes::default());
            let sum = shared.scale * (shared.halves[0] + shared.halves[1]) as f32;
            assert_eq!(shared.sum, sum);
        }
    }
}

#[test]
fn activations_that_are_no_numbers_stay_visible() {
    for kernels in levels() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0; 64];
            values[40] = bad;
            values[60] = bad;
            let codes = Quantized::new(kernels, &values, 64);
            let scale = |group| codes.group(0, group).1.scale;
            assert!(scale(0).is_finite() && !scale(1).is_finite());
            let exact = kernels.activations() == Activations::Exact;
            assert!(!exact || codes.group(0, 1).3, "exact products read all rests");
        }
        let codes = Quantized::new(kernels, &[1e-38; 32], 32);
        let (codes, shared, ..) = codes.group(0, 0);
        assert!(*codes == Codes::default() && shared.sum == 0.0);
    }
}

#[test]
fn every_level_quantizes_alike() {
    let values = Stream(3).activations(32 * 200);
    for kind in [Activations::Exact, Activations::Mixed] {
        let levels = levels().filter(|kernels| kernels.activations() == kind);
        let mut seen = levels.map(|kernels| Quantized::new(kernels, &values, 320));
        let portable = seen.next().unwrap();
        for other in seen {
            assert!(groups(&other).eq(groups(&portable)));
        }
    }
}

fn check_float<T: Element>(convert: fn(f32) -> T, rows: usize, outputs: usize, width: usize) {
    let mut stream = Stream((rows * 1000 + outputs) as u64);
    let weights: Vec<T> = (0..outputs * width).map(|_| convert(stream.unit())).collect();
    let wide: Vec<f32> = weights.iter().map(|weight| weight.wide()).collect();
    let input = stream.activations(rows * width);
    let exact = reference(&wide, width, &input);
    let mut first = None;
    for kernels in levels() {
        let mut widened = vec![0.0; wide.len()];
        float::widen(kernels, &weights, &mut widened);
        assert_eq!(widened, wide);
        let mut out = vec![0.0; rows * outputs];
        let target = Target { rows: Rows::new(&mut out, outputs), column: 0 };
        // SAFETY: the output is this test's alone.
        unsafe { float::product(kernels, &weights, width, 0..outputs, &input, target) };
        assert_close(&out, &exact, &format!("{kernels:?}"));
        let first = first.get_or_insert_with(|| out.clone());
        assert_eq!(*first, out, "{kernels:?} differs from portable");
        for row in 0..rows {
            let mut alone = vec![0.0; outputs];
            let target = Target { rows: Rows::new(&mut alone, outputs), column: 0 };
            let input = &input[row * width..][..width];
            // SAFETY: the output is this test's alone.
            unsafe { float::product(kernels, &weights, width, 0..outputs, input, target) };
            assert_eq!(alone, out[row * outputs..][..outputs], "{kernels:?} row {row}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn quantized_products_at_any_shape(
        dtype in prop::sample::select(&BLOCK_TYPES[..]),
        rows in 1..20_usize,
        outputs in 1..70_usize,
        blocks in 1..5_usize,
        seed: u64,
    ) {
        check_quantized(dtype, rows, outputs, blocks, seed);
    }

    #[test]
    fn float_products_at_any_shape(
        rows in 1..20_usize,
        outputs in 1..70_usize,
        width in 1..130_usize,
    ) {
        check_float::<f32>(|value| value, rows, outputs, width);
        check_float(f16::from_f32, rows, outputs, width);
        check_float(bf16::from_f32, rows, outputs, width);
    }
}

#[test]
fn some_tiles_have_what_the_whole_product_has_at_their_places() {
    let (inputs, outputs, rows) = (512, 83, 19);
    for dtype in BLOCK_TYPES {
        let mut stream = Stream(7);
        let bytes = stream.blocks(dtype, inputs * outputs / dtype.block_elements() as usize);
        let bytes = SharedBytes::new(bytes);
        let matrix = Matrix::new(&mut Arena::default(), dtype, [outputs, inputs], bytes);
        let layer = Linear::new(vec![(matrix, None)]);
        let input = stream.activations(rows * inputs);
        for kernels in levels() {
            let whole = layer.apply(kernels, &input);
            for tiles in [&[0][..], &[5], &[1, 2, 4], &[0, 3, 5], &[0, 1, 2, 3, 4, 5]] {
                let columns = |tile: &usize| tile * OUTPUTS..outputs.min((tile + 1) * OUTPUTS);
                let expected: Vec<f32> = whole
                    .chunks_exact(outputs)
                    .flat_map(|row| tiles.iter().flat_map(|tile| &row[columns(tile)]).copied())
                    .collect();
                assert_eq!(layer.tiles(kernels, &input, tiles), expected, "{dtype} {tiles:?}");
            }
        }
    }
}

/// Blocks and the values that the Python package `gguf` reads from them.
#[derive(serde::Deserialize)]
struct Case {
    dtype: DType,
    bytes: String,
    values: Vec<f32>,
}

#[test]
fn blocks_have_the_values_that_gguf_gives_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/nn/blocks.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(cases.iter().map(|case| case.dtype).collect::<Vec<_>>(), BLOCK_TYPES);
    for case in cases {
        let byte = |at: usize| u8::from_str_radix(&case.bytes[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..case.bytes.len()).step_by(2).map(byte).collect();
        let values = with_format!(case.dtype, F => dequantize::<F>(&bytes), else unreachable!());
        assert_eq!(values.len(), case.values.len());
        for (index, (found, expected)) in values.iter().zip(&case.values).enumerate() {
            let error = (found - expected).abs();
            assert!(error <= 1e-6 * expected.abs().max(0.1), "{} {index}: {found}", case.dtype);
        }
    }
}
