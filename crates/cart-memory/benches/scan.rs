//! Recall over vectors that a script gives (`rivals.py`), and how much of the machine's memory bandwidth
//! the exact scans reach. Prints a line of JSON for each measurement.
//!
//! `cargo bench -p cart-memory --bench scan -- recall DIM ROWS.f32 QUERIES.f32`, with raw little-endian
//! f32 files, or `-- stm DIM`, or `-- knn DIM ROWS`.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use cart_format::SpaceId;
use cart_memory::config::SearchRule;
use cart_memory::{MemoryConfig, NextTokenQuery, Normalization, Observation, UnifiedMemory};
use serde_json::{Value, json};

/// How many are asked for.
const TOP_K: usize = 10;
/// Bytes that [`bandwidth`] reads in one pass: several times the caches of today.
const BUFFER: usize = 256 << 20;
/// Passes over all queries, of which each query's best counts.
const PASSES: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["recall", dim, rows, queries] => recall(number(dim), Path::new(rows), Path::new(queries)),
        ["stm", dim] => short_term(number(dim)),
        ["knn", dim, rows] => neighbours(number(dim), number(rows)),
        _ => println!("nothing to measure: see the first lines of benches/scan.rs"),
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("a whole number")
}

fn recall(dim: usize, rows: &Path, queries: &Path) {
    let (rows, queries) = (floats(rows), floats(queries));
    let count = rows.len() / dim;
    let config = MemoryConfig {
        ltm_slots: count as u32,
        observer_interval: 1,
        prune_interval: 1 << 40,
        ..Default::default()
    };
    let began = Instant::now();
    let mut memory = memory(dim, config);
    for (index, key) in rows.chunks_exact(dim).enumerate() {
        memory.observe(index as u64, &observation(index, key)).expect("well formed");
    }
    assert_eq!(memory.report().ltm.slots, count);
    drop(rows);
    let fill_us = began.elapsed().as_secs_f64() * 1e6 / count as f64;
    let exact = memory.searching(SearchRule::Exact);
    let short = count > 1024;
    // Codes with step, rest, worth and end of each row; or the values as they are.
    let bytes = count * if short { dim.next_multiple_of(64) + 20 } else { dim * 4 };
    for threads in [1, 2] {
        let bandwidth = bandwidth(threads);
        for (search, memory) in [("exact", &exact), ("quick", &memory)] {
            if search == "quick" && count < 1 << 16 {
                continue;
            }
            let (micros, best, found) = on(threads, || timed(memory, &queries, dim));
            let mut line = json!({"what": "ltm recall", "rows": count, "dim": dim, "search": search,
                "threads": threads, "us": micros, "fill_us": fill_us, "found": found});
            if search == "exact" {
                line["bandwidth"] = fraction(bytes, best, bandwidth);
            }
            println!("{line}");
        }
    }
}

/// Median over the queries of the best time of each, the best of all, both in microseconds, and what was
/// found.
fn timed(memory: &UnifiedMemory, queries: &[f32], dim: usize) -> (f64, f64, Vec<Vec<usize>>) {
    let (mut best, mut found) = (vec![f64::INFINITY; queries.len() / dim], Vec::new());
    for _ in 0..PASSES {
        found.clear();
        for (query, best) in queries.chunks_exact(dim).zip(&mut best) {
            let began = Instant::now();
            let recalled = memory.peek(memory.now(), black_box(query), TOP_K).expect("well formed");
            *best = best.min(began.elapsed().as_secs_f64() * 1e6);
            found.push(recalled.iter().map(|hit| number(&hit.text)).collect());
        }
    }
    let (micros, least) = summary(best);
    (micros, least, found)
}

fn short_term(dim: usize) {
    let mut memory = memory(dim, MemoryConfig { consolidate_threshold: 1.0, ..Default::default() });
    let mut chance = Chance(1);
    let seen: Vec<Observation> =
        (0..5000).map(|index| observation(index, &chance.row(dim))).collect();
    let mut times = Vec::new();
    for (at, seen) in seen.iter().enumerate() {
        let began = Instant::now();
        memory.observe(at as u64, black_box(seen)).expect("well formed");
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    println!("{}", json!({"what": "stm add", "rows": 32, "dim": dim, "us": median(times)}));
    let mut times = Vec::new();
    for _ in 0..5000 {
        let query = chance.row(dim);
        let began = Instant::now();
        black_box(memory.peek(memory.now(), black_box(&query), TOP_K)).expect("well formed");
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    println!("{}", json!({"what": "stm recall", "rows": 32, "dim": dim, "us": median(times)}));
}

/// The exact scan over the tokens of all spans, in f32.
fn neighbours(dim: usize, rows: usize) {
    const TOKENS: usize = 64;
    let slots = rows / TOKENS;
    let config = MemoryConfig {
        ltm_slots: slots as u32,
        observer_interval: 1,
        prune_interval: 1 << 40,
        ..Default::default()
    };
    let (mut memory, mut chance) = (memory(dim, config), Chance(2));
    for index in 0..slots {
        let token_keys = (0..TOKENS).flat_map(|_| chance.row(dim)).collect();
        let token_ids = (0..TOKENS as u32).collect();
        let seen = Observation { token_keys, token_ids, ..observation(index, &chance.row(dim)) };
        memory.observe(index as u64, &seen).expect("well formed");
    }
    let queries: Vec<Vec<f32>> = (0..20).map(|_| chance.row(dim)).collect();
    let rows = memory.knn_rows();
    for threads in [1, 2] {
        let bandwidth = bandwidth(threads);
        let (micros, least) = on(threads, || {
            let mut best = vec![f64::INFINITY; queries.len()];
            for _ in 0..PASSES {
                for (query, best) in queries.iter().zip(&mut best) {
                    let began = Instant::now();
                    black_box(memory.knn(NextTokenQuery::of_state(black_box(query)), 16))
                        .expect("well formed");
                    *best = best.min(began.elapsed().as_secs_f64() * 1e6);
                }
            }
            summary(best)
        });
        println!(
            "{}",
            json!({"what": "knn", "rows": rows, "dim": dim, "threads": threads,
            "us": micros, "bandwidth": fraction(rows * dim * 4, least, bandwidth)})
        );
    }
}

fn memory(dim: usize, config: MemoryConfig) -> UnifiedMemory {
    let normalization = Normalization::identity(dim).expect("the dimension is over 0");
    UnifiedMemory::new(SpaceId::of(b"bench"), normalization, config).expect("allowed settings")
}

fn observation(index: usize, key: &[f32]) -> Observation {
    Observation {
        key: key.to_vec(),
        token_keys: Vec::new(),
        token_ids: vec![index as u32],
        text: index.to_string(),
        surprise: Vec::new(),
        energy: 1.0,
        source: String::new(),
    }
}

fn on<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("threads start").install(work)
}

/// The median and the least.
fn summary(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

fn median(times: Vec<f64>) -> f64 {
    summary(times).0
}

/// What a scan reads a second, what the machine does at best, and the one over the other.
fn fraction(bytes: usize, micros: f64, best: f64) -> Value {
    let reached = bytes as f64 / micros * 1e6;
    json!({"bytes": bytes, "gb_s": reached / 1e9, "best_gb_s": best / 1e9, "fraction": reached / best})
}

/// Bytes a second that threads read from memory, each its own part: the best of several passes.
fn bandwidth(threads: usize) -> f64 {
    let words = vec![1_u64; BUFFER / size_of::<u64>()];
    let part = words.len() / threads;
    let pass = || {
        let began = Instant::now();
        on_parts(threads, |index| {
            black_box(sum(&words[index * part..][..part]));
        });
        began.elapsed().as_secs_f64()
    };
    let best = (0..2 * PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min);
    BUFFER as f64 / best
}

fn on_parts(threads: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for index in 1..threads {
            let work = &work;
            scope.spawn(move || work(index));
        }
        work(0);
    });
}

fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 32];
    for chunk in words.as_chunks::<32>().0 {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).expect("the file can be read");
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Values in −1 to 1, the same in every run.
struct Chance(u64);

impl Chance {
    fn row(&mut self, dim: usize) -> Vec<f32> {
        (0..dim).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
