//! Products of rounded numbers are what their bound says, by every multiplier and at every number of threads.

use candle_core::{Device, Tensor, Var};
use cart_format::arch::Activation;

use super::*;
use crate::graph::fused::{LossTargets, cross_entropy, gated, product, product_added};

/// Sizes that are whole blocks of the kernel, one more, one less, and what is there once or not at all.
const SHAPES: [[usize; 3]; 13] = [
    [12, 32, 32],
    [13, 33, 33],
    [11, 31, 31],
    [1, 1, 1],
    [1, 70, 5],
    [5, 70, 1],
    [48, 512, 64],
    [49, 513, 65],
    [7, 1025, 200],
    [250, 40, 100],
    [200, 4100, 40],
    [3, 0, 4],
    [0, 5, 4],
];

/// Numbers between −1 and 1 that look random.
fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut unit = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
    };
    (0..len).map(|_| unit()).collect()
}

/// A matrix and how it lies in memory: row after row or column after column, with a gap or without.
struct Lying {
    data: Vec<f32>,
    rows: usize,
    columns: usize,
    gap: usize,
    is_transposed: bool,
}

impl Lying {
    fn new(seed: u64, [rows, columns]: [usize; 2], gap: usize, is_transposed: bool) -> Self {
        let (outer, inner) = if is_transposed { (columns, rows) } else { (rows, columns) };
        Self { data: random(seed, outer * (inner + gap)), rows, columns, gap, is_transposed }
    }

    fn matrix(&self) -> Matrix<'_> {
        let Self { data, rows, columns, gap, .. } = self;
        if self.is_transposed {
            return Matrix::strided(data, *columns, *rows, rows + gap).t();
        }
        Matrix::strided(data, *rows, *columns, columns + gap)
    }
}

fn by(multiplier: Multiplier, a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32], added: bool) {
    assert_eq!(out.len(), a.rows * b.columns);
    // SAFETY: `out` is borrowed for writing, and there are numbers in all of it.
    unsafe { multiplier.fill(a, b, Out::new(out.as_mut_ptr()), added) };
}

fn multipliers() -> Vec<Multiplier> {
    let mut all = vec![Multiplier::Portable];
    #[cfg(target_arch = "x86_64")]
    all.extend(Bf16Dots::detect().map(Multiplier::Dots));
    all
}

fn number(of: Matrix<'_>, row: usize, column: usize) -> f32 {
    of.data[row * of.row_stride + column * of.column_stride]
}

/// Calls `check` with a product of every shape in every order of memory.
fn each_product(check: impl Fn(&str, Matrix<'_>, Matrix<'_>)) {
    for (index, [rows, inner, columns]) in SHAPES.into_iter().enumerate() {
        for order in 0..8 {
            let gap = if order & 4 == 0 { 0 } else { 3 };
            let seed = (16 * index + order) as u64;
            let a = Lying::new(seed, [rows, inner], gap, order & 1 != 0);
            let b = Lying::new(seed + 1000, [inner, columns], gap, order & 2 != 0);
            check(&format!("{rows}×{inner}×{columns}, {order:03b}"), a.matrix(), b.matrix());
        }
    }
}

/// Of the sum of `|a · b|`, in `f64`, for each product.
fn sizes_and_products(a: Matrix<'_>, b: Matrix<'_>, of: impl Fn(f32) -> f32) -> Vec<(f64, f64)> {
    let mut all = Vec::new();
    for row in 0..a.rows {
        for column in 0..b.columns {
            let terms = (0..a.columns)
                .map(|at| f64::from(of(number(a, row, at))) * f64::from(of(number(b, at, column))));
            let terms: Vec<f64> = terms.collect();
            all.push((terms.iter().map(|term| term.abs()).sum(), terms.iter().sum()));
        }
    }
    all
}

#[test]
fn products_are_within_what_eight_bits_allow() {
    each_product(|what, a, b| {
        let exact = sizes_and_products(a, b, |x| x);
        for multiplier in multipliers() {
            let mut out = vec![f32::NAN; a.rows * b.columns];
            by(multiplier, a, b, &mut out, false);
            // Each side is rounded by half of 2⁻⁷ at most, relative to itself; then sums of f32.
            let sides = (1.0 + 2.0_f64.powi(-8)).powi(2) - 1.0;
            let sums = (a.columns as f64 + 8.0) * f64::from(f32::EPSILON);
            for (found, (size, exact)) in out.iter().zip(&exact) {
                let error = (f64::from(*found) - exact).abs();
                assert!(error <= (sides + sums) * size + 1e-30, "{what} {multiplier:?}: {error}");
            }
        }
    });
}

#[test]
fn the_kernel_multiplies_the_same_numbers_as_the_portable_path() {
    each_product(|what, a, b| {
        let rounded = sizes_and_products(a, b, to_bf16);
        for multiplier in multipliers() {
            let before = random(5, a.rows * b.columns);
            for added in [false, true] {
                let mut out = before.clone();
                by(multiplier, a, b, &mut out, added);
                let places = out.iter().zip(&before).zip(&rounded);
                for ((found, before), (size, product)) in places {
                    let expected = product + if added { f64::from(*before) } else { 0.0 };
                    let error = (f64::from(*found) - expected).abs();
                    let most = (a.columns as f64 + 8.0) * f64::from(f32::EPSILON) * (size + 1.0);
                    assert!(error <= most, "{what} {multiplier:?}: {found} {expected}");
                }
            }
        }
    });
}

#[test]
fn numbers_are_rounded_to_the_nearest_and_to_even() {
    let near = |x: f32, expected: f32| {
        assert_eq!(to_bf16(x).to_bits(), expected.to_bits(), "{x:e}");
        // By the product with 1, where the kernel rounds.
        for multiplier in multipliers() {
            let (a, b) = (vec![x; 32], vec![1.0; 32]);
            let mut out = [f32::NAN];
            let one = |data, columns| Matrix::new(data, 1, columns);
            by(multiplier, one(&a[..1], 1), one(&b[..1], 1), &mut out, false);
            assert!(out[0] == expected || out[0].is_nan() && expected.is_nan(), "{x:e} {out:?}");
        }
    };
    let step = 2.0_f32.powi(-7);
    near(1.0 + 0.5 * step, 1.0);
    near(1.0 + 1.5 * step, 1.0 + 2.0 * step);
    near(1.0 + 0.51 * step, 1.0 + step);
    near(-1.0 - 0.49 * step, -1.0);
    near(f32::MAX, f32::INFINITY);
    near(f32::NEG_INFINITY, f32::NEG_INFINITY);
    near(f32::MIN_POSITIVE, f32::MIN_POSITIVE);
    near(f32::MIN_POSITIVE / 2.0, 0.0);
    // A number that is none stays none, also where all that says so is in the last bits.
    assert!(to_bf16(f32::from_bits(0x7f80_0001)).is_nan());
}

#[test]
fn what_is_not_finite_passes_through_to_its_rows_and_columns_alone() {
    for multiplier in multipliers() {
        for (value, at) in [(f32::NAN, 0), (f32::INFINITY, 36), (f32::from_bits(0x7f80_0001), 17)] {
            let (mut left, right) = (random(1, 50 * 37), vec![1.0; 37 * 40]);
            left[20 * 37 + at] = value;
            let (a, b) = (Matrix::new(&left, 50, 37), Matrix::new(&right, 37, 40));
            let mut out = vec![0.0; 50 * 40];
            by(multiplier, a, b, &mut out, false);
            for (index, found) in out.iter().enumerate() {
                let is_here = index / 40 == 20;
                assert_eq!(found.is_finite(), !is_here, "{multiplier:?} {index}: {found}");
                assert!(!is_here || found.is_nan() == value.is_nan());
            }
            let mut out = vec![0.0; 40 * 50];
            by(multiplier, b.t(), a.t(), &mut out, false);
            for (index, found) in out.iter().enumerate() {
                assert_eq!(found.is_finite(), index % 50 != 20, "{multiplier:?} {index}: {found}");
            }
        }
    }
}

fn tensor(seed: u64, shape: (usize, usize)) -> Tensor {
    Tensor::from_vec(random(seed, shape.0 * shape.1), shape, &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// What all operations with weights give, and their gradients, each in `products`.
fn all_operations(products: Products) -> Vec<Vec<f32>> {
    let shapes = [(130, 96), (70, 96), (70, 96), (130, 70), (50, 96)];
    let vars: Vec<Var> = (0_u64..)
        .zip(shapes)
        .map(|(seed, shape)| Var::from_tensor(&tensor(seed, shape)).unwrap())
        .collect();
    let targets = (0..130).map(|row| row % 50).collect();
    let targets = LossTargets { targets, weights: vec![1.0; 130], soft_cap: None, chunk: 64 };
    let (outs, losses): (Vec<Tensor>, Vec<Tensor>) = products.during(|| {
        let outs = vec![
            product(&vars[0], &vars[1]).unwrap(),
            product_added(&vars[0], &vars[2], &vars[3]).unwrap(),
            gated(Activation::Silu, &vars[0], &vars[1], &vars[2]).unwrap().unwrap(),
            cross_entropy(&vars[0], &vars[4], targets).unwrap(),
        ];
        let losses = outs.iter().map(|out| out.sqr().unwrap().sum_all().unwrap()).collect();
        (outs, losses)
    });
    let mut all: Vec<Vec<f32>> = outs.iter().map(values).collect();
    for loss in losses {
        // Outside: an operation's gradient is made in what it was made in.
        let gradients = loss.backward().unwrap();
        all.extend(vars.iter().filter_map(|var| gradients.get(var)).map(values));
    }
    all
}

#[test]
fn every_operation_with_a_weight_multiplies_in_the_precision_of_the_step() {
    let [exact, rounded] = [Products::F32, Products::Bf16].map(all_operations);
    assert_eq!((exact.len(), rounded.len()), (14, 14));
    let mut same = 0;
    for (index, (exact, rounded)) in exact.iter().zip(&rounded).enumerate() {
        let norm = |of: &mut dyn Iterator<Item = f32>| of.map(|x| x * x).sum::<f32>().sqrt();
        let size = norm(&mut exact.iter().copied());
        let error = norm(&mut exact.iter().zip(rounded).map(|(a, b)| a - b));
        assert!(error < 0.02 * size, "{index}: {error} of {size}");
        same += usize::from(error == 0.0);
    }
    assert_eq!(same, 0, "what is rounded differs");
    let after = all_operations(Products::F32);
    assert_eq!(after, exact, "the precision ends with the work that it was said for");
}

#[test]
fn every_number_of_threads_gives_the_same_bits() {
    let work = || {
        let all = all_operations(Products::Bf16);
        let (a, b) = (random(1, 300 * 5000), random(2, 5000 * 80));
        let long = Products::Bf16.of(Matrix::new(&a, 300, 5000), Matrix::new(&b, 5000, 80));
        all.into_iter().flatten().chain(long).map(f32::to_bits).collect::<Vec<u32>>()
    };
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(work)
    };
    let one = with(1);
    for threads in [2, 3, 7] {
        assert!(with(threads) == one, "{threads} threads");
    }
}

#[test]
fn small_products_stay_exact() {
    let (a, b) = (random(1, 31 * 64), random(2, 64 * 64));
    let (a, b) = (Matrix::new(&a, 31, 64), Matrix::new(&b, 64, 64));
    assert_eq!(Products::Bf16.of(a, b), Products::F32.of(a, b));
    assert!(!pays(31, 64, 64) && !pays(64, 31, 64) && !pays(64, 64, 31) && pays(32, 32, 32));
}
