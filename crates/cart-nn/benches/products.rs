//! A product `[rows, 768] × [768, 3072]` for every type of weights: one row as when a session generates, 16 as
//! when sessions do so together, 96 as when a prompt is read. By one thread, at the best kernel level of the
//! processor, with exact activations; one row and 96 also with mixed ones. Elements are multiplications.
//!
//! `cargo bench -p cart-nn`, or `cargo bench -p cart-nn -- q4_1/exact/96` for one of them. Time for one row is close to
//! that of reading the weights; many rows are bound by 8-bit products, of which exact activations take two for
//! each multiplication.

use std::num::NonZeroUsize;

use cart_format::DType;
use cart_nn::{Activations, KernelLevel, Threads, TrialProduct};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SHAPE: [usize; 2] = [3072, 768];

const TYPES: [DType; 13] = [
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
    DType::F32,
    DType::F16,
    DType::BF16,
];

fn products(c: &mut Criterion) {
    let threads = Threads::new(NonZeroUsize::MIN).expect("one thread is no new one");
    for dtype in TYPES {
        let mut group = c.benchmark_group(dtype.name());
        for (rows, activations) in [
            (1, Activations::Exact),
            (1, Activations::Mixed),
            (16, Activations::Exact),
            (96, Activations::Exact),
            (96, Activations::Mixed),
        ] {
            let level = KernelLevel::detect();
            let product = TrialProduct::new(level, activations, dtype, SHAPE, rows)
                .expect("a type with products");
            group.throughput(Throughput::Elements(product.multiplications()));
            group.bench_function(BenchmarkId::new(activations.to_string(), rows), |b| {
                b.iter(|| product.run(&threads));
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = products
}
criterion_main!(benches);
