//! Short-term add and recall at 32 × 576, long-term recall at 128 and 10,000 × 576, and the
//! neighbour scan over 4,000 × 576.
//!
//! `cargo bench -p cart-memory`

use std::hint::black_box;
use std::time::{Duration, Instant};

use cart_format::SpaceId;
use cart_memory::{MemoryConfig, NextTokenQuery, Normalization, Observation, UnifiedMemory};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

/// Values in a key, unless said otherwise: the hidden size of SmolLM2-135M.
const DIM: usize = 576;

/// Values in −1 to 1, the same in every run.
struct Numbers(u64);

impl Numbers {
    fn row(&mut self) -> Vec<f32> {
        (0..DIM).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn memory(config: MemoryConfig) -> UnifiedMemory {
    let normalization = Normalization::identity(DIM).expect("the dimension is over 0");
    UnifiedMemory::new(SpaceId::of(b"bench"), normalization, config).expect("allowed settings")
}

fn observation(numbers: &mut Numbers, index: u32, tokens: u32) -> Observation {
    Observation {
        key: numbers.row(),
        token_keys: (0..tokens).flat_map(|_| numbers.row()).collect(),
        token_ids: (0..tokens.max(1)).map(|token| index * 64 + token).collect(),
        text: format!("text {index}"),
        surprise: vec![3.0],
        energy: 1.0,
        source: "bench".to_owned(),
    }
}

fn filled(config: MemoryConfig, count: u32, tokens: u32) -> (UnifiedMemory, Numbers) {
    let mut numbers = Numbers(1);
    let mut memory = memory(config);
    for index in 0..count {
        let seen = observation(&mut numbers, index, tokens);
        memory.observe(u64::from(index), &seen).expect("well formed");
    }
    (memory, numbers)
}

/// Settings under which every observation reaches long-term memory at once.
fn eager(ltm_slots: u32) -> MemoryConfig {
    MemoryConfig { ltm_slots, observer_interval: 1, prune_age: 1 << 40, ..Default::default() }
}

fn short_term(c: &mut Criterion) {
    let quiet = MemoryConfig { consolidate_threshold: 1.0, ..Default::default() };
    let (memory, mut numbers) = filled(quiet, 32, 0);
    let seen = observation(&mut numbers, 99, 0);
    let query = numbers.row();
    c.bench_function("stm add 32x576", |b| {
        b.iter_batched_ref(
            || memory.clone(),
            |memory| memory.observe(40, black_box(&seen)),
            BatchSize::SmallInput,
        );
    });
    c.bench_function("stm recall 32x576", |b| b.iter(|| memory.peek(40, black_box(&query), 8)));
}

fn long_term(c: &mut Criterion) {
    for slots in [128, 1_000, 10_000, 100_000] {
        let (memory, mut numbers) = filled(eager(slots), slots, 0);
        assert_eq!(memory.report().ltm.slots, slots as usize);
        let query = numbers.row();
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let pool = pool.expect("threads start");
            c.bench_function(&format!("ltm recall {slots}x576, {threads} threads"), |b| {
                b.iter_custom(|times| pool.install(|| timed(&memory, &query, times)));
            });
        }
    }
}

fn timed(memory: &UnifiedMemory, query: &[f32], times: u64) -> Duration {
    let began = Instant::now();
    for _ in 0..times {
        black_box(memory.peek(memory.now(), black_box(query), 10)).expect("well formed");
    }
    began.elapsed()
}

fn neighbours(c: &mut Criterion) {
    let (memory, mut numbers) = filled(eager(128), 128, 32);
    let query = numbers.row();
    c.bench_function(&format!("knn {}x576", memory.knn_rows()), |b| {
        b.iter(|| memory.knn(NextTokenQuery::of_state(black_box(&query)), 16));
    });
}

fn snapshots(c: &mut Criterion) {
    let (memory, _) = filled(eager(128), 128, 32);
    let snapshot = memory.snapshot();
    c.bench_function("snapshot 160 slots", |b| b.iter(|| memory.snapshot()));
    c.bench_function("restore 160 slots", |b| b.iter(|| UnifiedMemory::restore(&snapshot)));
}

criterion_group!(benches, short_term, long_term, neighbours, snapshots);
criterion_main!(benches);
