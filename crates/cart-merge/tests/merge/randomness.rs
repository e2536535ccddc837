//! The same result at every number of threads, and chance that keeps what it promises.

use std::fmt::Write as _;

use cart_merge::weights::{MergeConfig, Method, PlanOptions, Setting};

use crate::agents::{Agent, merge_planned, plan};

const NORM: &str = "model.norm.weight";
/// Several chunks and a rest, in rows.
const SHAPE: [u64; 2] = [500, 417];

/// Numbers that look random, by a linear congruence.
fn noise(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5) * scale
    };
    (0..len).map(|_| next()).collect()
}

fn agents() -> Vec<Agent> {
    let len = (SHAPE[0] * SHAPE[1]) as usize;
    let base = noise(1, len, 0.1);
    let other = |seed, scale| -> Vec<f32> {
        base.iter().zip(noise(seed, len, scale)).map(|(base, change)| base + change).collect()
    };
    vec![
        Agent::new("base").with(NORM, &SHAPE, &base),
        Agent::new("a").with(NORM, &SHAPE, &other(2, 0.01)),
        Agent::new("b").with(NORM, &SHAPE, &other(3, 0.02)),
    ]
}

fn config(method: Method, settings: &[(&str, f64)]) -> (MergeConfig, Vec<Agent>) {
    let mut agents = agents();
    let models = match method {
        Method::Passthrough => vec!["a"],
        Method::Slerp | Method::NearSwap | Method::ArceeFusion => vec!["base", "a"],
        Method::Linear | Method::Karcher => vec!["a", "b"],
        _ => vec!["base", "a", "b"],
    };
    agents.retain(|agent| models.contains(&agent.name.as_str()));
    let mut config = MergeConfig::of_models(method, models.iter().map(|name| (*name).to_owned()));
    config.base_model = models.contains(&"base").then(|| "base".to_owned());
    let allowed = method.parameters();
    for (name, value) in
        [("weight", 0.6), ("t", 0.3), ("density", 0.4), ("select_topk", 0.5)].iter().chain(settings)
    {
        if allowed.iter().any(|one| one.name == *name) {
            config.parameters.insert((*name).to_owned(), Setting::number(*value));
        }
    }
    (config, agents)
}

fn result(method: Method, settings: &[(&str, f64)], seed: u64, threads: usize) -> Vec<f32> {
    let (config, agents) = config(method, settings);
    let plan = plan(&config, &agents, PlanOptions::default()).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| merge_planned(plan, &agents, seed)).unwrap().values(NORM)
}

#[test]
fn every_method_gives_the_same_bits_at_every_number_of_threads() {
    let mut wrong = String::new();
    for &method in Method::ALL {
        let once = result(method, &[("rescale", 1.0)], 5, 1);
        for threads in [2, 5] {
            if result(method, &[("rescale", 1.0)], 5, threads) != once {
                writeln!(wrong, "{method} at {threads}").unwrap();
            }
        }
        let otherwise = result(method, &[("rescale", 1.0)], 6, 1);
        assert_eq!(
            otherwise != once,
            method.is_random(),
            "{method}: the seed counts where chance does"
        );
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The differences from the base that stayed, and all differences, of a merge of one model.
fn kept(method: Method, settings: &[(&str, f64)]) -> (Vec<f32>, Vec<f32>) {
    let mut agents = agents();
    agents.truncate(2);
    let mut config = MergeConfig::of_models(method, ["a".to_owned()]);
    config.base_model = Some("base".to_owned());
    for (name, value) in settings.iter().chain(&[("weight", 1.0)]) {
        config.parameters.insert((*name).to_owned(), Setting::number(*value));
    }
    let plan = plan(&config, &agents, PlanOptions::default()).unwrap();
    let merged = merge_planned(plan, &agents, 11).unwrap().values(NORM);
    let [base, other] = [0, 1].map(|index: usize| agents[index].values(NORM));
    let from_base = |values: &[f32]| -> Vec<f32> {
        values.iter().zip(&base).map(|(value, base)| value - base).collect()
    };
    (from_base(&merged), from_base(&other))
}

#[test]
fn a_share_stays_and_is_scaled_to_the_norm_of_all() {
    for density in [0.2, 0.7] {
        let (stayed, all) = kept(Method::DareLinear, &[("density", density)]);
        let count = stayed.iter().filter(|value| **value != 0.0).count() as f64;
        let n = all.len() as f64;
        assert!((count / n - density).abs() < 5.0 * (density * (1.0 - density) / n).sqrt());
        let l1 = |values: &[f32]| values.iter().map(|value| f64::from(value.abs())).sum::<f64>();
        assert!((l1(&stayed) / l1(&all) - 1.0).abs() < 1e-4);
        let (stayed, _) = kept(Method::DareLinear, &[("density", density), ("rescale", 0.0)]);
        let same = stayed.iter().zip(&all).filter(|(stayed, _)| **stayed != 0.0);
        assert!(
            same.clone().count() as f64 == count
                && same.into_iter().all(|(a, b)| (a - b).abs() < 1e-8)
        );
    }
}

#[test]
fn what_is_larger_in_its_row_stays_more_often() {
    let (density, epsilon) = (0.5, 0.3);
    let settings = [("density", density), ("epsilon", epsilon), ("rescale", 0.0)];
    let (stayed, all) = kept(Method::DellaLinear, &settings);
    let columns = SHAPE[1] as usize;
    // Shares of the smallest, middle and largest third of each row.
    let mut counts = [[0.0; 2]; 3];
    for (stayed, all) in stayed.chunks(columns).zip(all.chunks(columns)) {
        let mut order: Vec<usize> = (0..columns).collect();
        order.sort_by(|a, b| all[*a].abs().total_cmp(&all[*b].abs()));
        for (rank, &index) in order.iter().enumerate() {
            let third = &mut counts[rank * 3 / columns];
            third[0] += f64::from(u8::from(stayed[index] != 0.0));
            third[1] += 1.0;
        }
    }
    for (third, [stayed, all]) in counts.into_iter().enumerate() {
        let expected = density + epsilon * (2.0 * (third as f64 + 0.5) / 3.0 - 1.0);
        let deviation = (expected * (1.0 - expected) / all).sqrt();
        assert!(
            (stayed / all - expected).abs() < 5.0 * deviation + 2e-3,
            "{third}: {}",
            stayed / all
        );
    }
}

#[test]
fn of_equal_magnitudes_the_first_stay() {
    let base = vec![0.0; 100_000];
    let other: Vec<f32> =
        (0..100_000).map(|index| if index % 2 == 0 { 1.0 } else { -1.0 }).collect();
    let agents = [
        Agent::new("base").with(NORM, &[100_000], &base),
        Agent::new("a").with(NORM, &[100_000], &other),
    ];
    let stays = |method, settings: &[(&str, f64)]| {
        let mut config = MergeConfig::of_models(method, ["a".to_owned()]);
        config.base_model = Some("base".to_owned());
        for (name, value) in settings.iter().chain(&[("weight", 1.0)]) {
            config.parameters.insert((*name).to_owned(), Setting::number(*value));
        }
        let plan = plan(&config, &agents, PlanOptions::default()).unwrap();
        let merged = merge_planned(plan, &agents, 0).unwrap().values(NORM);
        merged.iter().map(|value| *value != 0.0).collect::<Vec<_>>()
    };
    let ties = stays(Method::Ties, &[("density", 0.37)]);
    assert!(ties.iter().enumerate().all(|(index, stays)| *stays == (index < 37_000)));
    // A tenth at the end of the order is too large, of the rest the end stays.
    let crumbs = stays(Method::Breadcrumbs, &[("density", 0.5), ("gamma", 0.1)]);
    assert!(
        crumbs.iter().enumerate().all(|(index, stays)| *stays == (40_000..90_000).contains(&index))
    );
}
