//! Every operation's gradient is that of finite differences.

use cart_format::arch::{Activation, NormKind, RopePairing};
use cart_nn::graph::operations::{
    NormWeights, Turns, activate, linear, log_softmax, sigmoid, soft_cap, softmax, softplus,
};
use cart_nn::graph::{
    AttentionInput, CrossEntropy, DType, DualInput, Tensor, Var, causal_conv, cross_entropy,
    dual_scan, linear_scan,
};

use crate::differences::{assert_gradients, random, variables};
use crate::{assert_close, numbers};

#[test]
fn products_and_norms() {
    let vars = variables(&[&[5, 4], &[3, 4], &[3]]);
    assert_gradients("linear", &vars, || {
        linear(&vars[0], &vars[1], Some(vars[2].as_tensor())).unwrap()
    });
    let vars = variables(&[&[3, 6], &[6], &[6]]);
    for (kind, unit_offset) in
        [(NormKind::Rms, false), (NormKind::Rms, true), (NormKind::Layer, false)]
    {
        let norm = NormWeights {
            kind,
            eps: 1e-3,
            unit_offset,
            weight: vars[1].as_tensor().clone(),
            bias: (kind == NormKind::Layer).then(|| vars[2].as_tensor().clone()),
        };
        let used = if kind == NormKind::Layer { 3 } else { 2 };
        assert_gradients(&format!("{kind:?}"), &vars[..used], || norm.apply(&vars[0]).unwrap());
    }
}

#[test]
fn functions_of_each_number_and_of_rows() {
    let vars = variables(&[&[3, 7]]);
    // Away from 0, where some have a corner.
    let x = || vars[0].affine(3.0, 0.11).unwrap();
    for activation in [
        Activation::Silu,
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::ReluSquared,
    ] {
        assert_gradients(&format!("{activation:?}"), &vars, || activate(activation, &x()).unwrap());
    }
    assert_gradients("softplus", &vars, || softplus(&x()).unwrap());
    assert_gradients("sigmoid", &vars, || sigmoid(&x()).unwrap());
    assert_gradients("soft cap", &vars, || soft_cap(&x(), 2.5).unwrap());
    assert_gradients("softmax", &vars, || softmax(&x()).unwrap());
    assert_gradients("log softmax", &vars, || log_softmax(&x()).unwrap());
}

#[test]
fn rotations() {
    for (pairing, dims) in [
        (RopePairing::Halves, 6),
        (RopePairing::Halves, 8),
        (RopePairing::Interleaved, 6),
        (RopePairing::Interleaved, 8),
    ] {
        let turns =
            Turns { pairing, cosines: random(1, &[3, dims / 2]), sines: random(2, &[3, dims / 2]) };
        let vars = variables(&[&[3, 2, 8]]);
        let what = format!("{pairing:?} {dims}");
        assert_gradients(&what, &vars, || turns.rotate(&vars[0]).unwrap());
    }
}

#[test]
fn attention_with_a_prefix_and_a_slot_bias() {
    // Two positions of a prefix, three that were read, of which two are new.
    let vars = variables(&[
        &[2, 4, 2, 3],
        &[2, 2, 3, 3],
        &[2, 2, 3, 3],
        &[2, 2, 2, 3],
        &[2, 2, 2, 3],
        &[5],
    ]);
    let hidden = f64::NEG_INFINITY;
    let mask = [[0.0, 0.0, 0.0, 0.0, hidden], [hidden, 0.0, 0.0, 0.0, 0.0]];
    let mask = Tensor::new(&mask, vars[0].device()).unwrap();
    for soft_cap in [None, Some(0.7)] {
        let attention = || AttentionInput {
            query: vars[0].as_tensor().clone(),
            keys: Tensor::cat(&[vars[3].as_tensor(), &vars[1]], 2).unwrap(),
            values: Tensor::cat(&[vars[4].as_tensor(), &vars[2]], 2).unwrap(),
            scale: 0.9,
            soft_cap,
            bias: Some(mask.broadcast_add(&vars[5]).unwrap()),
        };
        assert_gradients("attention", &vars, || attention().attend().unwrap());
    }
}

#[test]
fn scans_and_convolutions() {
    let vars = variables(&[&[2, 70, 2], &[2, 70, 2], &[2, 2]]);
    assert_gradients("linear scan", &vars, || {
        let (states, last) = linear_scan(&vars[0], &vars[1], &vars[2]).unwrap();
        Tensor::cat(&[states, last.unsqueeze(1).unwrap()], 1).unwrap()
    });
    let vars = variables(&[
        &[1, 67, 2, 2],
        &[1, 67, 2],
        &[2],
        &[1, 67, 1, 2],
        &[1, 67, 1, 2],
        &[1, 2, 2, 2],
    ]);
    let decay = || vars[2].exp().unwrap().neg().unwrap();
    assert_gradients("dual scan", &vars, || {
        let input = DualInput {
            x: vars[0].as_tensor().clone(),
            steps: softplus(&vars[1]).unwrap(),
            decay: decay(),
            b: vars[3].as_tensor().clone(),
            c: vars[4].as_tensor().clone(),
        };
        let (y, last) = dual_scan(&input, &vars[5]).unwrap();
        Tensor::cat(&[y.flatten_all().unwrap(), last.flatten_all().unwrap()], 0).unwrap()
    });
    let vars = variables(&[&[2, 5, 3], &[2, 2, 3], &[3, 1, 3], &[3]]);
    assert_gradients("convolution", &vars, || {
        let (out, after) =
            causal_conv(&vars[0], Some(vars[1].as_tensor()), &vars[2], Some(vars[3].as_tensor()))
                .unwrap();
        Tensor::cat(&[out, after.unwrap()], 1).unwrap()
    });
}

/// States of the scans step by step.
#[test]
fn scans_are_those_of_one_step_after_another() {
    let [decay, input, before] = [(1, &[2, 150, 3][..]), (2, &[2, 150, 3]), (3, &[2, 3])]
        .map(|(seed, shape)| random(seed, shape));
    let (states, last) = linear_scan(&decay, &input, &before).unwrap();
    let mut state = before;
    for at in 0..150 {
        let part = |x: &Tensor| x.narrow(1, at, 1).unwrap().squeeze(1).unwrap();
        state = ((part(&decay) * state).unwrap() + part(&input)).unwrap();
        assert_close(&numbers(&part(&states)), &numbers(&state), 1e-12, &format!("step {at}"));
    }
    assert_close(&numbers(&last), &numbers(&state), 1e-12, "the last");
}

#[test]
fn the_loss_over_chunks_has_the_gradients_of_the_whole_loss() {
    let vars = variables(&[&[7, 4], &[11, 4]]);
    let targets = [3, 10, 0, 0, 7, 5, 1];
    for (cap, chunk) in [(None, 1), (None, 3), (Some(0.8), 3), (None, 100)] {
        let loss = CrossEntropy { head: &vars[1], soft_cap: cap, chunk };
        let weights = [1.0, 0.5, 0.0, 2.0, 1.0, 1.0, 0.25];
        assert_gradients("cross-entropy", &vars, || {
            // The gradient is that of what comes after it, too.
            loss.sum(&vars[0], &targets, &weights).unwrap().sqr().unwrap()
        });
    }
    let loss = CrossEntropy { head: &vars[1], soft_cap: None, chunk: 3 };
    let chunked = loss.sum(&vars[0], &targets, &[1.0; 7]).unwrap().affine(1.0 / 7.0, 0.0).unwrap();
    let logits = linear(&vars[0], &vars[1], None).unwrap();
    let whole = cross_entropy(&logits, &targets).unwrap();
    assert_close(&numbers(&chunked), &numbers(&whole), 1e-12, "the mean");
    assert_gradients("whole cross-entropy", &vars, || {
        cross_entropy(&linear(&vars[0], &vars[1], None).unwrap(), &targets).unwrap()
    });
}

/// What is frozen takes no part in the graph: no gradient is made for it, none is missed.
#[test]
fn a_frozen_head_lets_gradients_through() {
    let x = Var::from_tensor(&random(1, &[3, 4])).unwrap();
    let head = random(2, &[9, 4]);
    let loss = CrossEntropy { head: &head, soft_cap: None, chunk: 2 };
    let sum = loss.sum(&x, &[1, 2, 3], &[1.0; 3]).unwrap();
    assert_eq!(sum.dtype(), DType::F64);
    let gradients = sum.backward().unwrap();
    assert!(gradients.get(&x).is_some() && gradients.get(&head).is_none());
}
