//! What differs between two sets of tensors: against numpy, at every number of threads, and by laws.

use std::path::Path;

use cart_format::DType;
use cart_format::safetensors::{Head, Parsed};
use cart_merge::diff::{DiffOptions, DiffPlan, Module, RollUp, TensorDelta};
use cart_merge::weights::Unwatched;
use proptest::prelude::*;
use serde_json::Value;

use crate::agents::{Agent, Held, bytes_of};

fn diff_with(a: Agent, b: Agent, options: &DiffOptions) -> (DiffPlan, Vec<TensorDelta>) {
    let plan = DiffPlan::new(&a.manifest, &b.manifest);
    let deltas = plan.run(options, &Held(&[a, b]), &Unwatched).unwrap();
    (plan, deltas)
}

fn diff(a: Agent, b: Agent) -> (DiffPlan, Vec<TensorDelta>) {
    diff_with(a, b, &DiffOptions { rank: Some(1), histograms: true })
}

/// Values that look random, from a number alone.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 16_777_216.0 - 0.5
    };
    // A sum of four is near enough to a normal one.
    (0..len).map(|_| next() + next() + next() + next()).collect()
}

fn near(found: f64, expected: f64, what: &str) {
    // Differences of f32 values are rounded to f32.
    let bound = 3e-7 * expected.abs().max(1e-9);
    assert!((found - expected).abs() <= bound, "{what}: {found} is not {expected}");
}

#[test]
fn every_type_gives_what_numpy_gives() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/diff");
    let bytes = std::fs::read(folder.join("pairs.safetensors")).unwrap();
    let Parsed::Head(head) = Head::parse(&bytes, bytes.len() as u64).unwrap() else { panic!() };
    let data = |name: String| {
        let tensor = head.tensors.iter().find(|tensor| tensor.name.as_str() == name).unwrap();
        bytes[tensor.range.start as usize..tensor.range.end as usize].to_vec()
    };
    let cases = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
    assert_eq!(cases.len(), 36);
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let dtype =
            |side: usize| -> DType { case["dtypes"][side].as_str().unwrap().parse().unwrap() };
        let agent = |side: usize, letter: &str| {
            Agent::new(letter).with_bytes(
                "x",
                dtype(side),
                &[4, 256],
                data(format!("{name}/{letter}")),
            )
        };
        let (_, deltas) = diff(agent(0, "a"), agent(1, "b"));
        let what = format!("{} and {}", dtype(0), dtype(1));
        let numbers = deltas[0].numbers.as_ref().unwrap_or_else(|| panic!("{what}"));
        assert_eq!(deltas[0].changed, case["changed"].as_u64(), "{what}");
        let not_finite = [numbers.not_finite_a, numbers.not_finite_b];
        assert_eq!(serde_json::json!(not_finite), case["not_finite"], "{what}");
        for (found, field) in [
            (numbers.max_abs, "max_abs"),
            (numbers.mean_abs, "mean_abs"),
            (numbers.norm, "norm"),
            (numbers.norm_a, "norm_a"),
            (numbers.norm_b, "norm_b"),
            (numbers.relative.unwrap(), "relative"),
            (numbers.cosine.unwrap(), "cosine"),
        ] {
            near(found, case[field].as_f64().unwrap(), &format!("{what}, {field}"));
        }
        let mean = case["mean"].as_f64().unwrap();
        assert!((numbers.mean - mean).abs() <= 1e-7 * numbers.mean_abs.max(1e-9), "{what}");
        if let (Some(found), Some(expected)) = (numbers.rank, case["rank"].as_f64()) {
            assert!((found - expected).abs() < 1e-4 * expected, "{what}: {found} {expected}");
        }
        let counted: u64 =
            numbers.histogram.positive.iter().chain(&numbers.histogram.negative).sum();
        let finite = 1024 - not_finite.iter().max().unwrap();
        assert!(counted <= deltas[0].changed.unwrap() && counted <= finite, "{what}");
    }
    let ranked = cases.iter().filter(|case| case["rank"].is_f64()).count();
    assert!(ranked > 20, "{ranked}");
}

#[test]
fn equal_tensors_are_not_read_and_others_are_found_by_name_or_digest() {
    struct Unreadable;
    impl cart_merge::weights::Tensors for Unreadable {
        fn open(
            &self,
            _: usize,
            tensor: &cart_format::TensorName,
        ) -> Result<Box<dyn cart_merge::weights::TensorBytes>, cart_merge::weights::Trouble>
        {
            Err(format!("{tensor} was opened").into())
        }
    }
    let values = noise(1, 12);
    let a = Agent::new("a")
        .with("model.layers.0.mlp.up_proj.weight", &[3, 4], &values)
        .with("model.layers.1.mlp.up_proj.weight", &[3, 4], &noise(2, 12))
        .with("gone", &[2], &[1.0, 2.0])
        .with("turned", &[3, 4], &values)
        .with("embed", &[4], &noise(3, 4));
    let b = Agent::new("b")
        .with("model.layers.0.mlp.up_proj.weight", &[3, 4], &values)
        .with("model.layers.2.mlp.up_proj.weight", &[3, 4], &noise(2, 12))
        .with("new", &[2], &[1.0, 3.0])
        .with("turned", &[4, 3], &values)
        .with("wte", &[4], &noise(3, 4));
    let plan = DiffPlan::new(&a.manifest, &b.manifest);
    assert_eq!(plan.work(), 0);
    assert!(plan.run(&DiffOptions::default(), &Unreadable, &Unwatched).unwrap().is_empty());
    let names = |renamed: &[cart_merge::diff::Renamed]| -> Vec<(String, String, bool)> {
        renamed.iter().map(|one| (one.a.to_string(), one.b.to_string(), one.moved)).collect()
    };
    let layer = |layer: u32| format!("model.layers.{layer}.mlp.up_proj.weight");
    assert_eq!(
        names(&plan.renamed),
        [(layer(1), layer(2), true), ("embed".into(), "wte".into(), false)]
    );
    let of = |lone: &[cart_merge::diff::Lone]| -> Vec<String> {
        lone.iter().map(|one| one.name.to_string()).collect()
    };
    assert_eq!(
        (of(&plan.same), of(&plan.removed), of(&plan.added)),
        (vec![layer(0)], vec!["gone".into()], vec!["new".into()])
    );
    assert_eq!(plan.reshaped[0].name.as_str(), "turned");
    assert_eq!(DiffPlan::new(&b.manifest, &b.manifest).same.len(), 5);
    let c = Agent::new("c").with("embed", &[4], &noise(9, 4));
    let failed = DiffPlan::new(&a.manifest, &c.manifest)
        .run(&DiffOptions::default(), &Unreadable, &Unwatched)
        .unwrap_err();
    assert_eq!(failed.to_string(), "tensor `embed` of A can't be read: embed was opened");
}

#[test]
fn numbers_are_the_same_at_every_number_of_threads() {
    // More than one piece, and a rest.
    let (rows, columns) = (700, 1100);
    let values = noise(5, rows * columns);
    let moved: Vec<f32> =
        values.iter().zip(noise(6, rows * columns)).map(|(x, d)| x + 0.01 * d).collect();
    let shape = [rows as u64, columns as u64];
    let found = [1, 2, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let a = Agent::new("a").with("x", &shape, &values).with("y", &[3], &values[..3]);
        let b = Agent::new("b").with("x", &shape, &moved).with("y", &[3], &moved[..3]);
        let (_, deltas) = pool.install(|| diff(a, b));
        serde_json::to_string(&deltas).unwrap()
    });
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0], found[2]);
}

/// `(Σ σ²)² / Σ σ⁴`, from the whole Gram matrix.
fn exact_rank(values: &[f32], columns: usize) -> f64 {
    let rows: Vec<&[f32]> = values.chunks(columns).collect();
    let dot = |x: &[f32], y: &[f32]| -> f64 {
        x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let trace: f64 = rows.iter().map(|row| dot(row, row)).sum();
    let squares: f64 = rows.iter().flat_map(|x| rows.iter().map(|y| dot(x, y).powi(2))).sum();
    trace * trace / squares
}

#[test]
fn ranks_are_near_those_of_the_whole_matrix() {
    for (rows, columns, rank) in [
        (300, 600, 1),
        (300, 600, 4),
        (600, 300, 12),
        (300, 700, 40),
        (260, 520, 0),
        (50, 400, 3),
        (400, 30, 0),
    ] {
        // A product of two thin matrices, or noise.
        let delta: Vec<f32> = if rank == 0 {
            noise(3, rows * columns)
        } else {
            let (left, right) = (noise(1, rows * rank), noise(2, rank * columns));
            let at = |row: usize, column: usize| {
                (0..rank).map(|k| left[row * rank + k] * right[k * columns + column]).sum()
            };
            (0..rows * columns).map(|at_| at(at_ / columns, at_ % columns)).collect()
        };
        let shape = [rows as u64, columns as u64];
        let zeros = vec![0.0; rows * columns];
        let expected = exact_rank(&delta, columns);
        for seed in [1, 2, 3] {
            let a = Agent::new("a").with("x", &shape, &zeros);
            let b = Agent::new("b").with("x", &shape, &delta);
            let (_, deltas) = diff_with(a, b, &DiffOptions { rank: Some(seed), histograms: false });
            let found = deltas[0].numbers.as_ref().unwrap().rank.unwrap();
            let apart = (found / expected - 1.0).abs();
            let exact = rows <= 64 || columns <= 64;
            assert!(
                apart < if exact { 1e-5 } else { 0.12 },
                "{rows}×{columns}, {rank}: {found} for {expected}"
            );
        }
    }
    let vectors = |of: f32| Agent::new("v").with("x", &[8], &[of; 8]);
    assert_eq!(diff(vectors(1.0), vectors(2.0)).1[0].numbers.as_ref().unwrap().rank, None);
}

#[test]
fn layers_and_modules_add_up_to_the_whole() {
    let names = [
        ("model.embed_tokens.weight", None, Module::Embedding),
        ("model.layers.0.self_attn.q_proj.weight", Some(0), Module::Query),
        ("model.layers.0.mlp.down_proj.weight", Some(0), Module::Down),
        ("model.layers.1.self_attn.q_proj.weight", Some(1), Module::Query),
        ("model.layers.1.mlp.down_proj.weight", Some(1), Module::Down),
    ];
    let (mut a, mut b) = (Agent::new("a"), Agent::new("b"));
    for (index, (name, layer, _)) in names.iter().enumerate() {
        let values = noise(index as u64 + 1, 64);
        let step = if layer.is_some() { 0.1 * index as f32 } else { 0.0 };
        let moved: Vec<f32> = values.iter().map(|value| value + step).collect();
        (a, b) = (a.with(name, &[8, 8], &values), b.with(name, &[8, 8], &moved));
    }
    let (plan, deltas) = diff(a, b);
    let roll = RollUp::new(&plan, &deltas);
    assert_eq!((roll.all.tensors, roll.all.differing, roll.all.elements), (5, 4, 320));
    assert_eq!(roll.all.changed, 256);
    assert!((roll.all.share() - 0.8).abs() < 1e-12);
    assert_eq!(roll.cells.len(), 5);
    for (_, layer, module) in names {
        assert!(
            roll.cells.iter().any(|cell| (cell.place.layer, cell.place.module) == (layer, module))
        );
    }
    let squares = |norms: &mut dyn Iterator<Item = f64>| norms.map(|norm| norm * norm).sum::<f64>();
    let numbers = || deltas.iter().map(|delta| delta.numbers.as_ref().unwrap());
    let expected = (squares(&mut numbers().map(|one| one.norm))
        / squares(&mut numbers().map(|one| one.norm_a)))
    .sqrt();
    assert!((roll.all.relative.unwrap() - expected).abs() < 1e-12);
    assert!(roll.layers[1].total.relative > roll.layers[0].total.relative);
    let embedding = &roll.modules[0];
    assert_eq!(
        (embedding.module, embedding.total.differing, embedding.total.relative),
        (Module::Embedding, 0, None)
    );
    assert!((roll.all.max_abs - 0.4).abs() < 1e-6);
}

#[test]
fn blocks_of_unknown_values_are_compared_as_bytes() {
    let bytes = |second: u8| [vec![7; 66], vec![second; 66]].concat();
    let agent = |second| Agent::new("a").with_bytes("x", DType::IQ2_XXS, &[2, 256], bytes(second));
    let (_, deltas) = diff(agent(1), agent(2));
    assert_eq!((deltas[0].changed, deltas[0].numbers.is_none()), (Some(256), true));
    let (_, deltas) = diff(agent(1), Agent::new("b").with("x", &[2, 256], &noise(1, 512)));
    assert_eq!((deltas[0].changed, deltas[0].numbers.is_none()), (None, true));
}

proptest! {
    /// Turned around, a difference has the same sizes and other signs; of equal tensors there is none.
    #[test]
    fn a_difference_turned_around_is_the_same_with_other_signs(
        pairs in prop::collection::vec((-1e6_f32..1e6, -1e6_f32..1e6, any::<bool>()), 1..600),
    ) {
        let a: Vec<f32> = pairs.iter().map(|(x, _, _)| *x).collect();
        let b: Vec<f32> = pairs.iter().map(|(x, y, same)| if *same { *x } else { *y }).collect();
        let shape = [a.len() as u64];
        let agent = |values: &[f32]| Agent::new("a").with_bytes("x", DType::F32, &shape, bytes_of(values));
        let (plan, there) = diff(agent(&a), agent(&b));
        let (_, back) = diff(agent(&b), agent(&a));
        if a == b {
            prop_assert_eq!(plan.same.len(), 1);
            return Ok(());
        }
        let [there, back] = [&there[0], &back[0]];
        prop_assert_eq!(there.changed, back.changed);
        prop_assert_eq!(there.changed.unwrap(), a.iter().zip(&b).filter(|(x, y)| x != y).count() as u64);
        let [there, back] = [there, back].map(|delta| delta.numbers.as_ref().unwrap());
        prop_assert_eq!(there.norm, back.norm);
        prop_assert_eq!(there.max_abs, back.max_abs);
        prop_assert_eq!(there.mean, -back.mean);
        prop_assert_eq!(&there.histogram.positive, &back.histogram.negative);
        prop_assert_eq!(there.cosine, back.cosine);
        prop_assert!(there.mean_abs <= there.max_abs && there.mean.abs() <= there.mean_abs * (1.0 + 1e-12));
    }
}
