//! Agents that were made while their cartridge was verified.

use std::collections::BTreeMap;

use cart_engine::{Agent, LoadError, LoadOptions, Prepared};
use cart_format::{DType, Manifest, ManifestId};
use cart_store::{Silent, SourceRange, VerifyError, VerifyOptions};

use crate::given::{Shelf, fixture, greedy, raw, shelf};

/// The tiny model with random blocks for its matrices.
fn in_blocks(shelf: &Shelf) -> Manifest {
    let mut manifest = shelf.verified(shelf.import(&fixture("tiny"))).manifest().clone();
    manifest.origin = None;
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let _held = shelf.store.hold().unwrap();
    for entry in manifest.model.tensors.values_mut() {
        if let &[outputs, inputs] = &entry.shape[..]
            && inputs.is_multiple_of(32)
        {
            let block = |_| {
                let mut block = vec![0x00, 0x1c];
                block.extend(std::iter::repeat_with(&mut next).take(32));
                block
            };
            let bytes: Vec<u8> = (0..outputs * inputs / 32).flat_map(block).collect();
            let taken = shelf.store.ingest(&[SourceRange::bytes(bytes)], &Silent).unwrap();
            (entry.dtype, entry.blob) = (DType::Q8_0, taken[0].blob);
            manifest.blobs.insert(taken[0].blob, taken[0].entry.clone());
        }
    }
    let used: BTreeMap<_, _> =
        manifest.uses().into_iter().map(|(what, blob)| (blob, what)).collect();
    manifest.blobs.retain(|blob, _| used.contains_key(blob));
    manifest
}

fn prepare(shelf: &Shelf, id: ManifestId, threads: usize) -> Result<Prepared, VerifyError> {
    let found = shelf.store.resolve(&id.hex()).unwrap();
    let cartridge = shelf.store.open_cartridge(&found).unwrap();
    let verify = VerifyOptions { threads: Some(threads), whole: false };
    Prepared::verify(cartridge, &verify, LoadOptions::default(), &Silent)
}

#[test]
fn prepared_or_loaded_is_the_same() {
    let shelf = shelf();
    let floats = shelf.import(&fixture("tiny"));
    let blocks = shelf.store.put_manifest(&in_blocks(&shelf)).unwrap();
    for id in [floats, blocks] {
        let loaded = shelf.agent(id);
        let expected = raw(&loaded, "Once upon a time", &greedy(12));
        for threads in [1, 2, 3] {
            let prepared = prepare(&shelf, id, threads).unwrap();
            assert_eq!(prepared.verified().manifest_id(), id);
            let agent = Agent::load_prepared(prepared).unwrap();
            let found = raw(&agent, "Once upon a time", &greedy(12));
            assert_eq!(found.token_ids, expected.token_ids);
            assert_eq!(found.logprobs, expected.logprobs);
            assert_eq!(agent.model().weight_bytes(), loaded.model().weight_bytes());
        }
    }
    assert!(shelf.agent(blocks).model().weight_bytes().packed > 0);
}

#[test]
fn damage_is_named_and_nothing_is_made_of_it() {
    let shelf = shelf();
    let manifest = in_blocks(&shelf);
    let id = shelf.store.put_manifest(&manifest).unwrap();
    let (name, entry) =
        manifest.model.tensors.iter().find(|(_, entry)| entry.dtype == DType::Q8_0).unwrap();
    let document = manifest.tokenizer.as_ref().unwrap().document;
    for (blob, what) in
        [(entry.blob, format!("tensor `{name}`")), (document, "tokenizer document".to_owned())]
    {
        let path = shelf.store.root().join("blobs/sha256").join(blob.hex());
        let sound = std::fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        bytes[100] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let error = prepare(&shelf, id, 2).unwrap_err();
        assert!(error.to_string().contains(&what), "{error}");
        std::fs::write(&path, sound).unwrap();
    }
    assert!(prepare(&shelf, id, 2).is_ok());
}

#[test]
fn weights_that_are_no_numbers_are_refused_after_preparing_too() {
    let shelf = shelf();
    let mut manifest = in_blocks(&shelf);
    let (name, entry) =
        manifest.model.tensors.iter_mut().find(|(_, entry)| entry.dtype == DType::Q8_0).unwrap();
    let name = name.clone();
    let path = shelf.store.root().join("blobs/sha256").join(entry.blob.hex());
    let mut bytes = std::fs::read(path).unwrap();
    bytes[5 * 34..5 * 34 + 2].fill(0xff);
    let held = shelf.store.hold().unwrap();
    let taken = shelf.store.ingest(&[SourceRange::bytes(bytes)], &Silent).unwrap();
    manifest.blobs.remove(&entry.blob);
    entry.blob = taken[0].blob;
    manifest.blobs.insert(taken[0].blob, taken[0].entry.clone());
    let id = shelf.store.put_manifest(&manifest).unwrap();
    drop(held);
    let refused = Agent::load_prepared(prepare(&shelf, id, 2).unwrap());
    assert!(
        matches!(&refused, Err(LoadError::Finite(first)) if first.tensor == name),
        "{refused:?}"
    );
}
