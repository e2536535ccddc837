//! Factors against matrices whose singular values are known.

use std::collections::BTreeMap;

use cart_format::{BlobEntry, BlobId, TensorEntry, TensorName};

use super::*;
use crate::low_rank::product::Product;
use crate::weights::{TensorBytes, Trouble, Unwatched};

/// Two models in memory.
struct Both([BTreeMap<TensorName, Vec<u8>>; 2]);

struct Bytes(Vec<u8>);

impl TensorBytes for Bytes {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), Trouble> {
        buffer.copy_from_slice(&self.0[at as usize..][..buffer.len()]);
        Ok(())
    }
}

impl Tensors for Both {
    fn open(&self, model: usize, tensor: &TensorName) -> Result<Box<dyn TensorBytes>, Trouble> {
        Ok(Box::new(Bytes(self.0[model][tensor].clone())))
    }
}

fn manifest(tensors: &[(&str, Vec<u64>, Vec<f32>)]) -> (Manifest, BTreeMap<TensorName, Vec<u8>>) {
    let mut manifest = Manifest::new();
    let mut bytes = BTreeMap::new();
    for (name, shape, values) in tensors {
        let name = TensorName::new(*name).unwrap();
        let content: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let blob = BlobId::of(&content);
        let entry = TensorEntry { dtype: DType::F32, shape: shape.clone(), blob };
        manifest.model.tensors.insert(name.clone(), entry);
        let entry = BlobEntry { size: content.len() as u64, segments: Vec::new() };
        manifest.blobs.insert(blob, entry);
        bytes.insert(name, content);
    }
    (manifest, bytes)
}

fn noise(seed: u64, len: usize) -> Vec<f32> {
    let chance = Chance::of(seed, "noise", 0);
    (0..len as u64).map(|at| chance.draw(at) as f32 / 2_f32.powi(31) - 1.0).collect()
}

/// A sum of outer products of random vectors, each of this size.
fn outer(rows: usize, columns: usize, sizes: &[f32], seed: u64) -> Vec<f32> {
    let mut sum = vec![0.0; rows * columns];
    for (k, size) in sizes.iter().enumerate() {
        let (left, right) = (noise(seed + k as u64, rows), noise(seed + 100 + k as u64, columns));
        for (at, value) in sum.iter_mut().enumerate() {
            *value += size * left[at / columns] * right[at % columns];
        }
    }
    sum
}

type Tensor = (&'static str, Vec<u64>, Vec<f32>);

fn extracted(a: &[Tensor], b: &[Tensor], rank: u64) -> Result<Extraction, ExtractionError> {
    let ((a, of_a), (b, of_b)) = (manifest(a), manifest(b));
    let ids = [a.id().unwrap(), b.id().unwrap()];
    extract([(ids[0], &a), (ids[1], &b)], rank, &Both([of_a, of_b]), &Unwatched)
}

fn added(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

#[test]
fn a_change_of_low_rank_is_found_whole_and_noise_as_far_as_its_rank_goes() {
    for (rows, columns) in [(150, 70), (33, 200), (64, 64)] {
        let shape = vec![rows as u64, columns as u64];
        let base = noise(1, rows * columns);
        let low = outer(rows, columns, &[1.0, 0.5, 0.01], 7);
        let some = |values: &[f32]| [("w", shape.clone(), values.to_vec())];
        let exact = extracted(&some(&base), &some(&added(&base, &low)), 3).unwrap();
        let How::Add { error, up, .. } = &exact.delta.tensors[0].how else { panic!("factors") };
        assert_eq!(up.shape, [rows as u64, 3]);
        assert!(error.unwrap() < 1e-5, "{error:?}");
        let mut product = vec![0.0; rows * columns];
        Product::of(&exact.delta.tensors[0].how).unwrap().fill(0, &mut product);
        assert!(product.iter().zip(&low).all(|(found, low)| (found - low).abs() < 1e-5));
        // Of noise, no approximation of this rank leaves less than the other singular values.
        let noisy = extracted(&some(&base), &some(&noise(2, rows * columns)), 4).unwrap();
        let Source::Difference { error, .. } = noisy.delta.source else { panic!("a difference") };
        let delta: Vec<f32> =
            noise(2, rows * columns).iter().zip(&base).map(|(b, a)| b - a).collect();
        let tall = Tall { columns, values: delta };
        let values = Eigen::of(tall.gram(), columns).values;
        let best = (values[4..].iter().sum::<f64>() / values.iter().sum::<f64>()).sqrt();
        assert!(error >= best - 1e-6 && error < best * 1.01, "{error} {best}");
    }
}

#[test]
fn the_factors_are_the_same_at_every_number_of_threads() {
    let shape = vec![90, 80];
    let a = [("w", shape.clone(), noise(1, 7200)), ("v", vec![9], noise(3, 9))];
    let b = [("w", shape, noise(2, 7200)), ("v", vec![9], noise(4, 9))];
    let found = [1, 2, 5].map(|threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| extracted(&a, &b, 3).unwrap()).delta
    });
    assert_eq!(found[0], found[1]);
    assert_eq!(found[0], found[2]);
    let bytes = found[0].to_bytes().unwrap();
    assert_eq!(LowRank::from_bytes(&bytes).unwrap(), found[0]);
    // What is no matrix is there as it is.
    let vector = How::Replace(Values {
        dtype: DType::F32,
        shape: vec![9],
        bytes: noise(4, 9).iter().flat_map(|value| value.to_le_bytes()).collect(),
    });
    assert_eq!(found[0].tensors[0].how, vector);
}

#[test]
fn what_low_rank_cannot_say_is_refused() {
    let one = |name, shape: Vec<u64>, seed| {
        let len = shape.iter().product::<u64>() as usize;
        [(name, shape, noise(seed, len))]
    };
    let a = one("w", vec![30, 20], 1);
    let said = |b: &[Tensor]| extracted(&a, b, 2).unwrap_err().to_string();
    assert!(said(&a).contains("same weights"));
    assert!(said(&one("w", vec![20, 30], 2)).contains("[30, 20] in A and [20, 30] in B"));
    assert!(said(&one("x", vec![30, 20], 2)).contains("in A alone"));
    assert!(said(&one("x", vec![30, 20], 1)).contains("called `x` in B"));
    let mut broken = one("w", vec![30, 20], 2);
    broken[0].2[7] = f32::NAN;
    assert!(said(&broken).contains("`w` has values that are not finite"));
}
