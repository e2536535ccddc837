//! What goes in comes out, for every element type, alone and against bases near and far.

use proptest::prelude::*;

use super::*;

/// A generator of pseudo-random numbers: splitmix64.
fn chance(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Near a bell curve around 0: the sum of four even numbers.
fn bell(next: &mut impl FnMut() -> u64) -> f64 {
    let even = |bits: u64| (bits >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
    (0..4).map(|_| even(next())).sum()
}

/// Elements of a type, `count` of them, with values like those of weights where it has values.
fn weights(dtype: DType, count: usize, seed: u64, noise: f64) -> Vec<u8> {
    let (mut values, mut noises) = (chance(seed), chance(seed ^ 0xabcd));
    let mut value = || 0.02 * bell(&mut values) + noise * bell(&mut noises);
    let mut bytes = Vec::new();
    for _ in 0..count {
        match dtype {
            DType::F64 => bytes.extend(value().to_le_bytes()),
            DType::F32 => bytes.extend((value() as f32).to_le_bytes()),
            DType::C64 => {
                bytes.extend((value() as f32).to_le_bytes());
                bytes.extend((value() as f32).to_le_bytes());
            }
            DType::BF16 => bytes.extend(half::bf16::from_f64(value()).to_le_bytes()),
            DType::F16 => bytes.extend(half::f16::from_f64(value()).to_le_bytes()),
            other => {
                for _ in 0..other.block_bytes() {
                    bytes.push((value() * 2000.0) as i8 as u8);
                }
            }
        }
    }
    bytes
}

/// Packs, unpacks, compares; gives the mode and the packed length.
fn round_trip(elements: Elements, bytes: &[u8], base: Option<&[u8]>) -> (Mode, usize) {
    let mut codec = Codec::default();
    let mut packed = vec![7];
    let mode = codec.pack(elements, bytes, base, &mut packed);
    assert_eq!(packed[1], mode as u8);
    assert!(packed.len() <= bytes.len() + 2);
    let mut back = vec![0xaa; bytes.len()];
    codec.unpack(elements, &packed[1..], base, &mut back).unwrap();
    assert!(back == bytes, "{elements:?} {mode:?}");
    let mut again = vec![7];
    Codec::default().pack(elements, bytes, base, &mut again);
    assert_eq!(again, packed, "buffers that were used before change nothing");
    (mode, packed.len() - 1)
}

#[test]
fn every_type_comes_back_alone_and_against_a_base() {
    for &dtype in DType::ALL {
        for count in [0, 1, 7, 16, 33, 5000] {
            let (base, near, far) = (
                weights(dtype, count, 1, 0.0),
                weights(dtype, count, 1, 1e-5),
                weights(dtype, count, 2, 0.0),
            );
            round_trip(Elements::Of(dtype), &near, None);
            for base in [&base, &near, &far] {
                round_trip(Elements::Of(dtype), &near, Some(base));
            }
        }
    }
}

#[test]
fn weights_shrink_as_far_as_their_exponents_do() {
    let share = |dtype: DType, base: Option<f64>| {
        let count = Elements::Of(dtype).chunk_bytes() / dtype.block_bytes();
        let bytes = weights(dtype, count as usize, 3, 1e-5);
        let base = base.map(|noise| weights(dtype, count as usize, 3, noise));
        let (mode, len) = round_trip(Elements::Of(dtype), &bytes, base.as_deref());
        (mode, len as f64 / bytes.len() as f64)
    };
    for (dtype, alone, apart) in
        [(DType::BF16, 0.66, 0.06), (DType::F32, 0.83, 0.5), (DType::F16, 0.84, 0.2)]
    {
        let (mode, found) = share(dtype, None);
        assert!(mode == Mode::Float && found < alone, "{dtype}: {found}");
        let (mode, found) = share(dtype, Some(0.0));
        assert!(mode == Mode::Difference && found < apart, "{dtype}: {found}");
        assert_eq!(share(dtype, Some(1e-5)).0, Mode::Same);
        assert_eq!(share(dtype, Some(9.0)).0, Mode::Float, "a base that is no help is not used");
    }
}

#[test]
fn more_tokens_than_symbols_come_back() {
    // Every exponent and every beginning of a mantissa: 1,024 tokens.
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for dtype in [DType::BF16, DType::F16] {
        round_trip(Elements::Of(dtype), &all, None);
    }
    let mut some = weights(DType::BF16, 100_000, 5, 0.0);
    for (at, word) in (0..=u16::MAX).step_by(60).enumerate() {
        some[at * 40..at * 40 + 2].copy_from_slice(&word.to_le_bytes());
    }
    let (mode, len) = round_trip(Elements::Of(DType::BF16), &some, None);
    assert!(mode == Mode::Float && len < some.len() * 7 / 10, "{len}");
}

#[test]
fn a_document_near_its_base_takes_little() {
    let lines: Vec<String> =
        (0..20_000).map(|at| format!("{{\"id\":{},\"t\":\"x\"}}", at * 7919)).collect();
    let base = lines.join("\n").into_bytes();
    let changed = lines.join("\n").replace("{\"id\":79190,", "{\"id\":1,").into_bytes();
    let (_, alone) = round_trip(Elements::Document, &changed, None);
    let (mode, apart) = round_trip(Elements::Document, &changed, Some(&base));
    assert_eq!(mode, Mode::ZstdOfBase);
    assert!(apart < 200 && apart * 100 < alone, "{apart} {alone}");
}

#[test]
fn a_damaged_chunk_is_refused_or_gives_other_bytes_and_never_panics() {
    let mut next = chance(11);
    for dtype in [DType::BF16, DType::F32, DType::F64, DType::Q4_1, DType::I32] {
        let (bytes, base) = (weights(dtype, 700, 1, 1e-4), weights(dtype, 700, 1, 0.0));
        for base in [None, Some(base.as_slice())] {
            let mut packed = Vec::new();
            let mut codec = Codec::default();
            codec.pack(Elements::Of(dtype), &bytes, base, &mut packed);
            let mut back = vec![0; bytes.len()];
            for _ in 0..3000 {
                let mut damaged = packed.clone();
                let at = (next() % damaged.len().min(400) as u64) as usize;
                damaged[at] ^= (next() % 255) as u8 + 1;
                let _ = codec.unpack(Elements::Of(dtype), &damaged, base, &mut back);
            }
            for len in 0..packed.len().min(600) {
                let cut = codec.unpack(Elements::Of(dtype), &packed[..len], base, &mut back);
                assert!(cut.is_err(), "{dtype} cut to {len}");
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_come_back(
        which in 0..DType::ALL.len(),
        words in prop::collection::vec(any::<u64>(), 0..200),
        mask in any::<u64>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        with_base in any::<bool>(),
    ) {
        let dtype = DType::ALL[which];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| (word & mask).to_le_bytes()).collect();
        bytes.truncate(bytes.len() / dtype.block_bytes() as usize * dtype.block_bytes() as usize);
        let mut base = bytes.clone();
        let flips = if base.is_empty() { &[][..] } else { &flips };
        for (at, byte) in flips {
            let at = at.index(base.len());
            base[at] ^= byte;
        }
        round_trip(Elements::Of(dtype), &bytes, with_base.then_some(&base));
        round_trip(Elements::Document, &bytes, (with_base && !base.is_empty()).then_some(&base));
    }
}
