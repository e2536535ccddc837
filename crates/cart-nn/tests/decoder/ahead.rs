//! Weights that were packed before the model was loaded.

use std::num::NonZeroUsize;

use cart_format::DType;
use cart_nn::{LogitsFor, Model, PackedAhead, Threads, WeightTensor};

use crate::specimens::{Specimen, all, tensor, tokens};
use crate::{forward, model};

/// The specimen with random blocks for all matrices that such blocks fit.
fn in_blocks(mut specimen: Specimen) -> Specimen {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let small = |name: &str| ["norm", "conv"].iter().any(|part| name.contains(part));
    let tensors = specimen.tensors.iter_mut().filter(|(name, stored)| {
        name.ends_with(".weight") && !small(name) && stored.shape.len() > 1
    });
    for (_, stored) in tensors {
        if stored.shape.last().is_some_and(|inputs| inputs.is_multiple_of(32)) {
            let blocks = stored.shape.iter().product::<usize>() / 32;
            let block = |_| {
                let mut block = vec![0x00, 0x1c];
                block.extend(std::iter::repeat_with(&mut next).take(32));
                block
            };
            let bytes: Vec<u8> = (0..blocks).flat_map(block).collect();
            *stored = tensor(DType::Q8_0, &stored.shape, &bytes);
        }
    }
    specimen
}

fn ahead(specimen: &Specimen) -> PackedAhead {
    let shape = |stored: &WeightTensor| stored.shape.iter().map(|&dim| dim as u64).collect();
    let shapes: Vec<Vec<u64>> = specimen.tensors.values().map(shape).collect();
    let stored = specimen.tensors.iter().zip(&shapes);
    let stored = stored.map(|((name, tensor), shape)| (name.as_str(), tensor.dtype, &shape[..]));
    PackedAhead::new(&specimen.spec, stored)
}

/// Shown in pieces that fit nothing, by two threads, backwards, twice, in part or not at all: the
/// logits are the same to the bit.
#[test]
fn packed_ahead_or_at_load_is_the_same() {
    let threads = Threads::new(NonZeroUsize::new(2).unwrap()).unwrap();
    let mut grains = 0;
    for (name, specimen) in all() {
        let specimen = in_blocks(specimen);
        let tokens = tokens(20);
        let at_load = model(&specimen);
        let expected = forward(&at_load, &mut at_load.new_state(), &tokens, LogitsFor::All);
        for (piece, shown) in [(1, 1.0), (1000, 1.0), (5000, 0.5), (1 << 20, 1.0), (1, 0.0)] {
            let ahead = ahead(&specimen);
            let show = |backwards: bool| {
                for (name, tensor) in &specimen.tensors {
                    let Some(grain) = ahead.grain(name) else { continue };
                    let bytes = &tensor.bytes[..(tensor.bytes.len() as f64 * shown) as usize];
                    let size = if piece == 1 { grain } else { piece };
                    let mut pieces: Vec<(usize, &[u8])> = bytes.chunks(size).enumerate().collect();
                    if backwards {
                        pieces.reverse();
                    }
                    pieces.iter().for_each(|(at, bytes)| ahead.see(name, at * size, bytes));
                }
            };
            std::thread::scope(|scope| {
                scope.spawn(|| show(false));
                show(true);
            });
            grains += specimen.tensors.keys().filter(|name| ahead.grain(name).is_some()).count();
            let loaded =
                Model::load_packed(&threads, &specimen.spec, &specimen.tensors, ahead).unwrap();
            let found = forward(&loaded, &mut loaded.new_state(), &tokens, LogitsFor::All);
            assert_eq!(found, expected, "{name}, pieces of {piece}, {shown} of them");
            assert_eq!(loaded.weight_bytes(), at_load.weight_bytes(), "{name}");
        }
    }
    assert!(grains > 100);
}

/// Bytes that were shown are those that count: the source's own are not read again.
#[test]
fn what_was_shown_is_not_read_again() {
    let specimen = in_blocks(crate::specimens::llama());
    let expected = {
        let model = model(&specimen);
        forward(&model, &mut model.new_state(), &tokens(9), LogitsFor::All)
    };
    let ahead = ahead(&specimen);
    let mut emptied = in_blocks(crate::specimens::llama());
    for (name, stored) in &mut emptied.tensors {
        if ahead.grain(name).is_some() {
            ahead.see(name, 0, &stored.bytes);
            *stored = tensor(stored.dtype, &stored.shape, &vec![0; stored.bytes.len()]);
        }
    }
    let model =
        Model::load_packed(Threads::shared(), &emptied.spec, &emptied.tensors, ahead).unwrap();
    assert_eq!(forward(&model, &mut model.new_state(), &tokens(9), LogitsFor::All), expected);
}

/// What is stored may say anything about itself before it is checked.
#[test]
fn nothing_is_packed_ahead_of_what_can_not_be() {
    let specimen = crate::specimens::llama();
    let name = "model.layers.1.self_attn.q_proj.weight";
    for (dtype, shape) in [
        (DType::F32, &[32, 32][..]),
        (DType::Q8_0, &[32]),
        (DType::Q8_0, &[32, 31]),
        (DType::Q8_0, &[0, 32]),
        (DType::Q8_0, &[1 << 40, 1 << 20]),
        (DType::Q8_0, &[1 << 60, 1 << 62]),
        (DType::IQ4_XS, &[32, 256]),
    ] {
        let ahead = PackedAhead::new(&specimen.spec, [(name, dtype, shape)].into_iter());
        assert_eq!(ahead.grain(name), None, "{dtype} {shape:?}");
    }
    let ahead = PackedAhead::new(&specimen.spec, [(name, DType::Q8_0, &[40, 64][..])].into_iter());
    assert_eq!(ahead.grain(name), Some(16 * 2 * 34));
    // Of another shape than the architecture says: refused as it is without.
    let mut other = specimen;
    other.tensors.insert(name.to_owned(), tensor(DType::Q8_0, &[40, 64], &vec![0; 40 * 68]));
    let error = Model::load_packed(Threads::shared(), &other.spec, &other.tensors, ahead);
    assert!(matches!(error, Err(cart_nn::LoadError::Shape { name: found, .. }) if found == name));
}
