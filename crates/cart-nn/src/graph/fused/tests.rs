//! Every operation's gradient is that of finite differences, and every number of threads gives the
//! same bits.

use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use cart_format::arch::{Activation, NormKind, RopePairing};

use super::*;
use crate::graph::operations::{NormWeights, Turns};
use crate::graph::{Divergence, RowGroups, TeacherLoss, TeacherTargets, TokenGroups};

/// Numbers between −1 and 1 that look random.
fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut unit = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| unit()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn variables(shapes: &[&[usize]]) -> Vec<Var> {
    let one = |(seed, shape): (usize, &&[usize])| {
        Var::from_tensor(&random(seed as u64 + 3, shape)).unwrap()
    };
    shapes.iter().enumerate().map(one).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The product of what an operation gives with fixed numbers, summed in `f64`.
fn number(out: &Tensor) -> f64 {
    let factors = values(&random(99, out.dims()));
    values(out).iter().zip(factors).map(|(x, by)| f64::from(*x) * f64::from(by)).sum()
}

/// Holds gradients to differences over four points, whose error is of fourth order, so that a step
/// may be large enough for `f32`. Of a large variable some numbers are looked at.
fn assert_gradients(what: &str, variables: &[Var], work: impl Fn() -> Tensor) {
    let out = work();
    let factors = random(99, out.dims());
    let gradients = (out * factors).unwrap().sum_all().unwrap().backward().unwrap();
    for (index, variable) in variables.iter().enumerate() {
        let gradient = gradients.get(variable);
        let gradient = values(gradient.unwrap_or_else(|| panic!("{what}: {index} has none")));
        assert!(gradient.iter().any(|slope| *slope != 0.0), "{what}: variable {index} is 0");
        let before = values(variable);
        for at in (0..before.len()).step_by(before.len().div_ceil(40)) {
            let moved = |by: f32| {
                let mut numbers = before.clone();
                numbers[at] += by;
                set(variable, numbers);
                number(&work())
            };
            let step = 1.0 / 64.0;
            let near = moved(step) - moved(-step);
            let far = moved(2.0 * step) - moved(-2.0 * step);
            let slope = (8.0 * near - far) / (12.0 * f64::from(step));
            let error = (slope - f64::from(gradient[at])).abs();
            let most = 4e-4 * slope.abs().max(1.0);
            assert!(error < most, "{what}: variable {index}[{at}]: {} {slope}", gradient[at]);
        }
        set(variable, before);
    }
}

fn set(variable: &Var, numbers: Vec<f32>) {
    let tensor = Tensor::from_vec(numbers, variable.dims(), &Device::Cpu).unwrap();
    variable.set(&tensor).unwrap();
}

#[test]
fn products() {
    let vars = variables(&[&[5, 40], &[3, 40], &[5, 3]]);
    assert_gradients("product", &vars[..2], || product(&vars[0], &vars[1]).unwrap());
    assert_gradients("added", &vars, || product_added(&vars[0], &vars[1], &vars[2]).unwrap());
}

#[test]
fn norms() {
    let vars = variables(&[&[37, 24], &[24], &[24]]);
    for (kind, unit_offset) in
        [(NormKind::Rms, false), (NormKind::Rms, true), (NormKind::Layer, false)]
    {
        let of = NormWeights {
            kind,
            eps: 1e-3,
            unit_offset,
            weight: vars[1].as_tensor().clone(),
            bias: (kind == NormKind::Layer).then(|| vars[2].as_tensor().clone()),
        };
        let used = if kind == NormKind::Layer { 3 } else { 2 };
        assert_gradients(&format!("{kind:?}"), &vars[..used], || {
            norm(&vars[0], &of).unwrap().unwrap()
        });
    }
}

#[test]
fn gates() {
    let vars = variables(&[&[5, 8], &[11, 8], &[11, 8]]);
    for activation in [Activation::Silu, Activation::GeluTanh] {
        assert_gradients(&format!("{activation:?}"), &vars, || {
            gated(activation, &vars[0], &vars[1], &vars[2]).unwrap().unwrap()
        });
    }
    assert!(gated(Activation::Relu, &vars[0], &vars[1], &vars[2]).unwrap().is_none());
    let vars = variables(&[&[40, 7], &[40, 7]]);
    assert_gradients("times silu", &vars, || times_silu(&vars[0], &vars[1]).unwrap());
}

fn shape(count: usize, window: Option<usize>) -> AttentionShape {
    AttentionShape { batch: 2, count, heads: 4, kv_heads: 2, head_dim: 8, scale: 0.4, window }
}

#[test]
fn attention_in_blocks_windows_and_groups() {
    for (count, window, pairing, pairs) in [
        (5, None, RopePairing::Halves, 4),
        (7, Some(3), RopePairing::Interleaved, 3),
        (70, None, RopePairing::Interleaved, 4),
        (131, Some(40), RopePairing::Halves, 2),
    ] {
        let shape = shape(count, window);
        let rows = 2 * count;
        let (cosines, sines) = (random(1, &[rows, pairs]), random(2, &[rows, pairs]));
        let turns = Turns { pairing, cosines, sines };
        let vars = variables(&[&[rows, 64]]);
        for turns in [None, Some(&turns)] {
            assert_gradients(&format!("attention {count}"), &vars, || {
                CausalAttention::new(shape, turns).unwrap().apply(&vars[0]).unwrap()
            });
        }
    }
}

#[test]
fn convolutions_and_scans() {
    let vars = variables(&[&[2, 9, 5], &[5, 4], &[5]]);
    assert_gradients("convolution", &vars, || conv_silu(&vars[0], &vars[1], &vars[2]).unwrap());
    let vars = variables(&[&[2, 9, 20], &[2, 9, 20], &[20, 3], &[20], &[2, 9, 3], &[2, 9, 3]]);
    assert_gradients("selective scan", &vars, || {
        let of = SelectiveInput {
            x: &vars[0],
            steps: &vars[1],
            decay: &vars[2],
            skip: &vars[3],
            b: &vars[4],
            c: &vars[5],
        };
        selective(&of).unwrap()
    });
}

#[test]
fn losses() {
    let vars = variables(&[&[70, 6], &[33, 6]]);
    let targets: Vec<u32> = (0..70).map(|row| row * 7 % 33).collect();
    // Some rows do not count.
    let weights: Vec<f32> = (0..70).map(|row| (row % 4) as f32 * 0.5).collect();
    for (soft_cap, chunk) in [(None, 1), (None, 40), (Some(0.8), 17), (None, 100)] {
        assert_gradients("cross-entropy", &vars, || {
            let (targets, weights) = (targets.clone(), weights.clone());
            let targets = LossTargets { targets, weights, soft_cap, chunk };
            cross_entropy(&vars[0], &vars[1], targets).unwrap()
        });
    }
    let targets = LossTargets { targets: vec![33], weights: vec![1.0], soft_cap: None, chunk: 1 };
    let refused = cross_entropy(&random(1, &[1, 6]), &vars[1], targets).unwrap_err();
    assert!(refused.to_string().contains("target 33 of a vocabulary of 33"), "{refused}");
}

/// What a teacher might say of 33 tokens: five of them one by one, others with almost nothing, with
/// nothing and with much.
fn teacher_of(rows: usize, divergence: Divergence, temperature: f64, chunk: usize) -> Teacher {
    let (mut tokens, mut logs) = (Vec::new(), Vec::new());
    for row in 0..rows {
        tokens.extend((0..5).map(|at| ((row * 7 + at * 5) % 33) as u32));
        let others = [0.2_f32, 1e-6, 0.0, 0.9][row % 4];
        let of_best = [0.4_f32, 0.3, 0.2, 0.1 - 1e-6, 1e-6];
        logs.extend(of_best.map(|part| (part * (1.0 - others)).ln()));
        logs.push(others.ln());
    }
    Teacher {
        best: 5,
        groups: None,
        tokens,
        logs,
        // Rows with both losses, with one, with none.
        weights: (0..rows).map(|row| (row % 3) as f32 * 0.5).collect(),
        labels: (0..rows).map(|row| (row * 11 % 33) as u32).collect(),
        label_weights: (0..rows).map(|row| (row % 5) as f32 * 0.2).collect(),
        divergence,
        temperature,
        soft_cap: None,
        chunk,
    }
}

/// The same of groups of the 33 tokens, row by row in one of two ways.
fn teacher_of_groups(
    rows: usize,
    divergence: Divergence,
    temperature: f64,
    chunk: usize,
) -> Teacher {
    let ways =
        vec![(0..33).map(|token| token % 11).collect(), (0..33).map(|token| token / 2).collect()];
    let groups = Arc::new(TokenGroups::new(ways));
    let named = |row: usize| (0..5).map(move |at| ((row * 7 + at * 2) % 11) as u32);
    let of_tokens = teacher_of(rows, divergence, temperature, chunk);
    Teacher {
        groups: Some((groups, (0..rows).map(|row| (row % 2) as u8).collect())),
        tokens: (0..rows).flat_map(named).collect(),
        ..of_tokens
    }
}

const DIVERGENCES: [Divergence; 4] = [
    Divergence::ForwardKl,
    Divergence::ReverseKl,
    Divergence::JensenShannon { beta: 0.5 },
    Divergence::JensenShannon { beta: 0.1 },
];

#[test]
fn distances_to_a_teacher() {
    // Few rows: what differences of a sum can tell is as fine as the sum is small.
    let vars = variables(&[&[10, 6], &[33, 6]]);
    for divergence in DIVERGENCES {
        for (temperature, soft_cap, chunk) in [(1.0, None, 6), (2.0, None, 40), (0.7, Some(0.8), 4)]
        {
            for of in [teacher_of, teacher_of_groups] {
                assert_gradients(&format!("{divergence:?} at {temperature}"), &vars, || {
                    let mut says = of(10, divergence, temperature, chunk);
                    // For the same reason nothing is quite impossible here.
                    says.logs.iter_mut().for_each(|log| *log = log.max(-14.0));
                    teacher(&vars[0], &vars[1], Teacher { soft_cap, ..says }).unwrap()
                });
            }
        }
    }
}

/// In `f64`, by plain operations on the same targets.
#[test]
fn distances_are_those_of_plain_operations() {
    let double = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
    // Of large logits a side is almost sure of what it says.
    for size in [1.0, 12.0] {
        let vars = variables(&[&[70, 6], &[33, 6]]);
        set(&vars[0], values(&vars[0]).iter().map(|x| x * size).collect());
        let both = [teacher_of, teacher_of_groups];
        for (divergence, of) in DIVERGENCES.iter().flat_map(|&one| both.map(|of| (one, of))) {
            let says = of(70, divergence, 1.5, 40);
            let groups = says.groups.clone();
            let targets = TeacherTargets {
                best: says.best,
                groups: groups.as_ref().map(|(groups, ways)| RowGroups { groups, ways }),
                tokens: &says.tokens.clone(),
                logs: &says.logs.clone(),
                weights: &says.weights.clone(),
                labels: &says.labels.clone(),
                label_weights: &says.label_weights.clone(),
            };
            let own = [&vars[0], &vars[1]].map(|var| Var::from_tensor(&double(var)).unwrap());
            let loss = TeacherLoss {
                head: own[1].as_tensor(),
                soft_cap: None,
                chunk: 40,
                divergence,
                temperature: 1.5,
            };
            let expected = loss.sum(&own[0], &targets).unwrap();
            let found = teacher(&vars[0], &vars[1], says).unwrap();
            let [wide, narrow] = [&expected, &found].map(|x| double(x).to_scalar::<f64>().unwrap());
            assert!((wide - narrow).abs() < 1e-5 * wide.abs(), "{divergence:?}: {narrow} {wide}");
            let [wide, narrow] = [expected.backward().unwrap(), found.backward().unwrap()];
            for (own, var) in own.iter().zip(&vars) {
                let [wide, narrow] = [wide.get(own).unwrap(), narrow.get(var).unwrap()]
                    .map(|x| double(x).flatten_all().unwrap().to_vec1::<f64>().unwrap());
                for (wide, narrow) in wide.iter().zip(narrow) {
                    let most = 1e-4 * wide.abs().max(0.05);
                    assert!((wide - narrow).abs() < most, "{divergence:?}: {narrow} {wide}");
                }
            }
        }
    }
}

#[test]
fn a_student_that_says_what_its_teacher_says_is_at_no_distance() {
    let vars = variables(&[&[8, 6], &[33, 6]]);
    let products = vars[0].matmul(&vars[1].t().unwrap()).unwrap();
    let logs = values(&crate::graph::operations::log_softmax(&products).unwrap());
    for divergence in DIVERGENCES {
        let mut says = teacher_of(8, divergence, 1.0, 8);
        says.label_weights.fill(0.0);
        for row in 0..8 {
            let of = |token: u32| logs[row * 33 + token as usize];
            let tokens = &says.tokens[row * 5..][..5];
            let known: f32 = tokens.iter().map(|&token| of(token).exp()).sum();
            let own = tokens.iter().map(|&token| of(token)).chain([(1.0 - known).ln()]);
            says.logs.splice(row * 6..(row + 1) * 6, own.collect::<Vec<_>>());
        }
        let found = teacher(&vars[0], &vars[1], says).unwrap();
        assert!(values(&found)[0].abs() < 1e-5, "{divergence:?}: {found}");
        let gradients = found.backward().unwrap();
        let of_hidden = values(gradients.get(&vars[0]).unwrap());
        assert!(of_hidden.iter().all(|slope| slope.abs() < 1e-5), "{divergence:?}");
    }
}

#[test]
fn targets_of_a_teacher_that_do_not_fit_are_refused() {
    let vars = variables(&[&[8, 6], &[33, 6]]);
    let refused = |change: &dyn Fn(&mut Teacher)| {
        let mut says = teacher_of(8, Divergence::ForwardKl, 1.0, 8);
        change(&mut says);
        teacher(&vars[0], &vars[1], says).unwrap_err().to_string()
    };
    let twice = refused(&|says| says.tokens[6] = says.tokens[5]);
    assert!(twice.contains("row 1 has target 7 twice"), "{twice}");
    let beyond = refused(&|says| says.labels[2] = 33);
    assert!(beyond.contains("target 33 of a vocabulary of 33"), "{beyond}");
    let few = refused(&|says| says.logs.truncate(40));
    assert!(few.contains("8 rows of 5 tokens, but 40 and 40 logs"), "{few}");
    let none = refused(&|says| says.weights.truncate(7));
    assert!(none.contains("8 rows, but 7 weights"), "{none}");
    let grouped = |maps: Vec<Vec<u32>>, ways: Vec<u8>| {
        refused(&move |says| {
            says.groups = Some((Arc::new(TokenGroups::new(maps.clone())), ways.clone()));
        })
    };
    let few = grouped(vec![vec![0; 32]], vec![0; 8]);
    assert!(few.contains("groups of 32 tokens of a vocabulary of 33"), "{few}");
    let rows = grouped(vec![(0..33).collect()], vec![0; 7]);
    assert!(rows.contains("8 rows, but 7 ways of grouping"), "{rows}");
    let way = grouped(vec![(0..33).collect()], [0, 0, 0, 0, 0, 0, 0, 1].to_vec());
    assert!(way.contains("way 1 of 1 ways of grouping"), "{way}");
    let group = grouped(vec![(0..33).map(|token| token % 9).collect()], vec![0; 8]);
    assert!(group.contains("of 9 groups"), "{group}");
}

/// What an operation gives, and its gradients.
fn bits(vars: &[Var], out: &Tensor) -> Vec<u32> {
    let gradients = out.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let gradients = vars.iter().flat_map(|var| values(gradients.get(var).unwrap()));
    values(out).into_iter().chain(gradients).map(f32::to_bits).collect()
}

#[test]
fn every_number_of_threads_gives_the_same_bits() {
    let work = || {
        let vars = variables(&[&[300, 96], &[200, 96], &[200, 96], &[96]]);
        let weight = vars[3].as_tensor().clone();
        let of =
            NormWeights { kind: NormKind::Rms, eps: 1e-5, unit_offset: false, weight, bias: None };
        let normed = norm(&vars[0], &of).unwrap().unwrap();
        let inner = gated(Activation::Silu, &normed, &vars[1], &vars[2]).unwrap().unwrap();
        let mut all = bits(&vars, &inner);
        let vars = variables(&[&[300, 64]]);
        let attention = CausalAttention::new(shape(150, None), None).unwrap();
        all.extend(bits(&vars, &attention.apply(&vars[0]).unwrap()));
        let vars = variables(&[&[300, 64], &[256, 64]]);
        let targets: Vec<u32> = (0..300).map(|row| row % 256).collect();
        let targets = LossTargets { targets, weights: vec![1.0; 300], soft_cap: None, chunk: 128 };
        all.extend(bits(&vars, &cross_entropy(&vars[0], &vars[1], targets).unwrap()));
        let says = teacher_of(300, Divergence::ForwardKl, 2.0, 128);
        all.extend(bits(&vars, &teacher(&vars[0], &vars[1], says).unwrap()));
        let vars = variables(&[&[300, 64], &[33, 64]]);
        let says = teacher_of_groups(300, Divergence::ForwardKl, 2.0, 128);
        all.extend(bits(&vars, &teacher(&vars[0], &vars[1], says).unwrap()));
        all
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
