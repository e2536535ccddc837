//! What is written comes back; what is damaged or edited is refused by what it is.

use super::*;

fn values(dtype: DType, shape: &[u64]) -> Values {
    let size = dtype.size_of(shape).unwrap();
    Values { dtype, shape: shape.to_vec(), bytes: (0..size).map(|at| (at * 37) as u8).collect() }
}

fn sample() -> LowRank {
    let name = |name: &str| TensorName::new(name).unwrap();
    let (up, down) = (values(DType::BF16, &[5, 2]), values(DType::F32, &[2, 7]));
    let add = How::Add { scale: 0.5, up, down, error: Some(0.125) };
    LowRank {
        base: ManifestId::of(b"base"),
        source: Source::Difference { target: ManifestId::of(b"target"), rank: 2, error: 0.25 },
        tensors: vec![
            Change { name: name("a"), how: add },
            Change { name: name("a.up"), how: How::Replace(values(DType::Q8_0, &[2, 32])) },
            Change { name: name("b \"quoted\""), how: How::Replace(values(DType::F16, &[3])) },
        ],
    }
}

#[test]
fn what_is_written_comes_back() {
    let delta = sample();
    let bytes = delta.to_bytes().unwrap();
    assert!(LowRank::is_likely(&bytes[..200]));
    assert_eq!(LowRank::from_bytes(&bytes).unwrap(), delta);
    let adapter = LowRank {
        source: Source::Adapter { weights: BlobId::of(b"weights") },
        tensors: Vec::new(),
        ..delta
    };
    assert_eq!(LowRank::from_bytes(&adapter.to_bytes().unwrap()).unwrap(), adapter);
    assert_eq!(sample().tensors[0].rank(), Some(2));
    assert_eq!(sample().tensors[0].shape(), [5, 7]);
}

#[test]
fn a_bit_that_was_changed_anywhere_is_noticed() {
    let bytes = sample().to_bytes().unwrap();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(LowRank::from_bytes(&damaged).is_err(), "byte {at}");
        assert!(LowRank::from_bytes(&bytes[..at]).is_err(), "cut to {at}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(LowRank::from_bytes(&longer).is_err());
}

#[test]
fn each_thing_that_is_wrong_has_its_error() {
    let bytes = sample().to_bytes().unwrap();
    let find = |what: &[u8]| bytes.windows(what.len()).position(|window| window == what).unwrap();
    let edit = |from: &[u8], to: &[u8]| {
        let mut edited = bytes.clone();
        edited[find(from)..][..to.len()].copy_from_slice(to);
        LowRank::from_bytes(&edited).unwrap_err()
    };
    assert!(matches!(edit(b"cart-low-rank", b"cart-low-runk"), LowRankError::Foreign));
    assert!(matches!(edit(b"\"1.0\"", b"\"2.0\""), LowRankError::NewerMajor { .. }));
    assert!(matches!(edit(b"bf16", b"bf17"), LowRankError::IndexDigest));
    assert!(matches!(edit(b"\"base\":\"", b"\"bass\":\""), LowRankError::Header { .. }));
    assert!(matches!(LowRank::from_bytes(&bytes[..40]), Err(LowRankError::Safetensors(_))));
    let mut damaged = bytes.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let error = LowRank::from_bytes(&damaged).unwrap_err();
    assert!(matches!(&error, LowRankError::Damaged { part: "values", .. }), "{error}");
    assert!(matches!(LowRank::from_bytes(b"\x02\0\0\0\0\0\0\0{}"), Err(LowRankError::Foreign)));
}

#[test]
fn contradictions_are_refused_before_they_are_written() {
    type Edit = fn(&mut LowRank);
    let cases: [(Edit, &str); 6] = [
        (|delta| delta.tensors.swap(0, 1), "out of order"),
        (|delta| delta.tensors[1] = delta.tensors[0].clone(), "twice"),
        (|delta| add(delta).1.bytes.truncate(3), "other bytes"),
        (|delta| *add(delta).1 = values(DType::I8, &[5, 2]), "no matrices"),
        (|delta| *add(delta).1 = values(DType::F32, &[5, 3]), "can't be multiplied"),
        (|delta| *add(delta).0 = f64::NAN, "finite"),
    ];
    for (edit, expected) in cases {
        let mut delta = sample();
        edit(&mut delta);
        let said = delta.to_bytes().unwrap_err().to_string();
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let mut delta = sample();
    delta.tensors[2].name = TensorName::new("x".repeat(510)).unwrap();
    assert!(matches!(delta.to_bytes(), Err(LowRankError::Name(_))));
}

/// Scale and first factor of the first tensor.
fn add(delta: &mut LowRank) -> (&mut f64, &mut Values) {
    match &mut delta.tensors[0].how {
        How::Add { scale, up, .. } => (scale, up),
        How::Replace(_) => unreachable!("the sample adds to its first tensor"),
    }
}
