//! What loading checks, and what it copies.

use std::cell::RefCell;
use std::collections::BTreeSet;

use cart_format::DType;
use cart_nn::{LoadError, LogitsFor, Model, SharedBytes, WeightSource, WeightTensor};

use crate::specimens::{Specimen, all, llama, phi, tensor, tokens};
use crate::{forward, model};

const QUERY: &str = "model.layers.1.self_attn.q_proj.weight";

#[test]
fn tensors_that_do_not_fit_are_named() {
    let refuse = |name: &str, replacement: Option<(DType, &[usize], usize)>| {
        let mut specimen = llama();
        specimen.tensors.remove(name).unwrap();
        if let Some((dtype, shape, bytes)) = replacement {
            specimen.tensors.insert(name.to_owned(), tensor(dtype, shape, &vec![0; bytes]));
        }
        Model::load(&specimen.spec, &specimen.tensors).unwrap_err()
    };
    assert!(matches!(refuse(QUERY, None), LoadError::Missing { name } if name == QUERY));
    assert_eq!(
        refuse(QUERY, Some((DType::F32, &[32, 31], 32 * 31 * 4))).to_string(),
        format!("tensor `{QUERY}` is [32, 31], but the architecture says [32, 32]")
    );
    let error = refuse(QUERY, Some((DType::I8, &[32, 32], 32 * 32))).to_string();
    assert!(
        error.starts_with(&format!("tensor `{QUERY}` is i8; supported here: f32, f16, bf16, q4_0"))
    );
    let error = refuse(QUERY, Some((DType::F16, &[32, 32], 7)));
    assert!(matches!(error, LoadError::Size { found: 7, expected: 2048, .. }));
    let error = refuse(QUERY, Some((DType::Q4_K, &[32, 32], 7)));
    assert!(matches!(error, LoadError::Blocks { name, .. } if name == QUERY));
    let error = refuse("model.norm.weight", Some((DType::Q8_0, &[32], 34)));
    assert!(matches!(error, LoadError::UnsupportedDType { found: DType::Q8_0, .. }));
    let mut specimen = phi();
    specimen.tensors.remove("blk.2.attn_k.bias").unwrap();
    let error = Model::load(&specimen.spec, &specimen.tensors).unwrap_err();
    assert!(matches!(error, LoadError::Missing { name } if name == "blk.2.attn_k.bias"));
    specimen.spec.blocks[0].norm.eps = -1.0;
    let error = Model::load(&specimen.spec, &specimen.tensors).unwrap_err();
    assert!(matches!(error, LoadError::Arch(_)));
}

/// A source that notes what it is asked for.
struct Asked<'a> {
    specimen: &'a Specimen,
    names: RefCell<BTreeSet<String>>,
}

impl WeightSource for Asked<'_> {
    fn tensor(&self, name: &str) -> Option<WeightTensor> {
        self.names.borrow_mut().insert(name.to_owned());
        self.specimen.tensors.get(name).cloned()
    }
}

#[test]
fn loading_asks_for_the_tensors_that_the_architecture_lists() {
    for (name, specimen) in all() {
        let asked = Asked { specimen: &specimen, names: RefCell::default() };
        Model::load(&specimen.spec, &asked).unwrap();
        let listed = specimen.spec.tensors().into_iter().map(|tensor| tensor.name).collect();
        assert_eq!(asked.names.into_inner(), listed, "{name}");
    }
}

#[test]
fn only_weights_at_odd_addresses_are_copied() {
    let mut specimen = llama();
    let tokens = tokens(20);
    let straight = model(&specimen);
    let expected = forward(&straight, &mut straight.new_state(), &tokens, LogitsFor::All);
    let vectors = (3 * 2 + 1) * 32 * 4;
    let total: usize = specimen.tensors.values().map(|tensor| tensor.bytes.len()).sum();
    assert_eq!(straight.weight_bytes().copied, vectors);
    assert_eq!(straight.weight_bytes().mapped, total as u64 - vectors);
    assert_eq!(straight.token_bytes(), total as u64 - vectors);

    let query = specimen.tensors.get_mut(QUERY).unwrap();
    let shifted = [&[0], &*query.bytes].concat();
    let start = usize::from(shifted.as_ptr().addr().is_multiple_of(2));
    let shifted = if start == 1 { shifted } else { query.bytes.to_vec() };
    query.bytes = SharedBytes::new(shifted).slice(start..start + 4096).unwrap();
    let copied = model(&specimen);
    if !specimen.tensors[QUERY].bytes.as_ptr().addr().is_multiple_of(4) {
        assert_eq!(copied.weight_bytes().copied, vectors + 4096);
    }
    let found = forward(&copied, &mut copied.new_state(), &tokens, LogitsFor::All);
    assert_eq!(found, expected);
}
