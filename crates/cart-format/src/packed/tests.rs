//! The header is a function of the layout, and nothing else is accepted.

use super::*;
use crate::codec::{Codec, Elements};
use crate::safetensors::Parsed;
use crate::{BlobEntry, BlobId, ChunkId, DType, Manifest, ManifestId, TensorEntry, TensorName};

/// A manifest of one tensor, and a packed file of it.
fn sample(base: Option<ManifestId>) -> Vec<u8> {
    let bytes = [7; 40];
    let blob = BlobId::of(&bytes);
    let mut manifest = Manifest::new();
    let entry = TensorEntry { dtype: DType::F32, shape: vec![10], blob };
    manifest.model.tensors.insert(TensorName::new("w").unwrap(), entry);
    manifest.blobs.insert(blob, BlobEntry { size: 40, segments: Vec::new() });
    let manifest = manifest.to_bytes().unwrap();
    let mut codec = Codec::default();
    let (mut chunk, mut packed) = (Vec::new(), Vec::new());
    codec.pack(Elements::Of(DType::F32), &bytes, None, &mut chunk);
    codec.pack(Elements::Document, &manifest, None, &mut packed);
    let chunks = vec![IndexedChunk(chunk.len() as u64, ChunkId::of(&chunk))];
    let blobs = vec![IndexedBlob { blob, base: None, dtype: Some(DType::F32), chunks }];
    let index =
        Index { base, manifest: IndexedChunk(manifest.len() as u64, ChunkId::of(&packed)), blobs }
            .to_bytes();
    let ids =
        Ids { manifest: ManifestId::of(&manifest), base, commit: None, index: BlobId::of(&index) };
    let [data, index_len, manifest] =
        [chunk.len(), index.len(), packed.len()].map(|len| len as u64);
    let layout = Layout { ids, lengths: Lengths { data, index: index_len, manifest, commit: 0 } };
    let file = [layout.header(), chunk, index, packed].concat();
    assert_eq!(file.len() as u64, layout.len());
    file
}

fn read(file: &[u8]) -> Result<Packed, PackedError> {
    let Parsed::Head(head) = PackedHead::parse(file, file.len() as u64)? else {
        panic!("the whole file was given")
    };
    let of = |range: std::ops::Range<u64>| &file[range.start as usize..range.end as usize];
    let layout = head.layout();
    head.check(of(layout.index()), of(layout.manifest()), layout.commit().map(of))
}

#[test]
fn a_packed_file_reads_back_as_itself() {
    for base in [None, Some(ManifestId::of(b"base"))] {
        let file = sample(base);
        assert!(PackedHead::is_likely(&file));
        let packed = read(&file).unwrap();
        assert_eq!(packed.base, base);
        assert_eq!(packed.blobs.len(), 1);
        assert_eq!(packed.blobs[0].chunks[0].0.start, DATA_START);
    }
}

#[test]
fn a_byte_changed_before_or_after_the_chunks_is_found() {
    let file = sample(Some(ManifestId::of(b"base")));
    let data = read(&file).unwrap().blobs[0].chunks[0].0.clone();
    // A later minor version is read, and its header may say more.
    let minor = file.windows(3).position(|bytes| bytes == b"1.0").unwrap() + 2;
    for at in (0..file.len()).filter(|at| !data.contains(&(*at as u64)) && *at != minor) {
        let mut damaged = file.clone();
        damaged[at] ^= 1;
        assert!(read(&damaged).is_err(), "byte {at}");
    }
    for len in 0..file.len() {
        assert!(PackedHead::parse(&file[..len], len as u64).is_err(), "cut to {len}");
    }
}

#[test]
fn what_is_no_packed_file_is_not_taken_for_one() {
    let other = b"{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    let file = [&(other.len() as u64).to_le_bytes()[..], other, &[0]].concat();
    assert!(!PackedHead::is_likely(&file));
    assert!(matches!(read(&file), Err(PackedError::Foreign)));
}
