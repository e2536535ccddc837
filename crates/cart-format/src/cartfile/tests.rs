//! The layout and its reader against each other.

use proptest::prelude::*;

use super::plan::{Parts, header};
use super::*;
use crate::commit::{Commit, Recipe};
use crate::digest::{BlobId, ManifestId};
use crate::dtype::DType;
use crate::limits::{DATA_ALIGN, HEADER_BYTES, MANIFEST_BYTES, PAYLOAD_ALIGN};
use crate::manifest::{BlobEntry, Manifest, TensorEntry};
use crate::names::TensorName;
use crate::safetensors::Parsed;

/// Tensors of these names, types and lengths in elements. The first letter decides the content, so
/// some are tied.
fn manifest(tensors: &[(String, DType, u64)]) -> Manifest {
    let mut manifest = Manifest::new();
    for (name, dtype, elements) in tensors {
        let shape = vec![*elements * dtype.block_elements()];
        let size = dtype.size_of(&shape).unwrap();
        let blob = BlobId::of(format!("{}{size}", &name[..1]).as_bytes());
        if manifest.model.tensors.contains_key(name.as_str()) {
            continue;
        }
        manifest.blobs.insert(blob, BlobEntry { size, segments: vec![] });
        let entry = TensorEntry { dtype: *dtype, shape, blob };
        manifest.model.tensors.insert(TensorName::new(name.clone()).unwrap(), entry);
    }
    manifest
}

fn tensors() -> impl Strategy<Value = Vec<(String, DType, u64)>> {
    let dtype = prop::sample::select(vec![DType::F32, DType::BF16, DType::Q4_1, DType::U8]);
    let tensor = ("[abc](art\\.blob\\.|art\\.)?[a-z\"é]{0,8}", dtype, 0..200_u64);
    prop::collection::vec(tensor, 0..40)
}

fn head_of(plan: &CartPlan) -> CartHead {
    match CartHead::parse(&plan.header, plan.len()).unwrap() {
        Parsed::Head(head) => head,
        Parsed::NeedMore(_) => panic!("the whole header was given"),
    }
}

proptest! {
    #[test]
    fn every_plan_is_aligned_without_holes_and_reads_back_as_itself(tensors in tensors()) {
        let manifest = manifest(&tensors);
        let bytes = manifest.to_bytes().unwrap();
        let commit = Commit::new(ManifestId::of(&bytes), 1, Recipe::new("test"));
        let commit = commit.to_bytes().unwrap();
        for commit in [None, Some(&commit[..])] {
            let plan = CartPlan::new(&manifest, &bytes, commit).unwrap();
            let mut end = plan.header.len() as u64;
            prop_assert!(end.is_multiple_of(DATA_ALIGN));
            prop_assert_eq!(&plan.parts[0].name, MANIFEST_TENSOR);
            for part in &plan.parts {
                prop_assert_eq!(part.range.start, end);
                let padding = part.content == Content::Padding;
                prop_assert!(padding || part.range.start.is_multiple_of(PAYLOAD_ALIGN));
                prop_assert!(!padding || part.range.end - part.range.start < PAYLOAD_ALIGN);
                end = part.range.end;
            }
            let mut blobs: Vec<BlobId> = plan.parts.iter().filter_map(|part| match part.content {
                Content::Blob(blob) => Some(blob),
                _ => None,
            }).collect();
            blobs.sort();
            prop_assert!(blobs.iter().eq(manifest.blobs.keys()), "each blob once");
            let (again, _, _) = head_of(&plan).check(&plan.header, &bytes, commit).unwrap();
            prop_assert_eq!(&again, &manifest);
        }
    }

    #[test]
    fn no_other_header_is_accepted(
        tensors in tensors(),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let manifest = manifest(&tensors);
        let bytes = manifest.to_bytes().unwrap();
        let plan = CartPlan::new(&manifest, &bytes, None).unwrap();
        let mut header = plan.header.clone();
        let at = at.index(header.len());
        prop_assume!(header[at] != byte);
        header[at] = byte;
        if let Ok(Parsed::Head(head)) = CartHead::parse(&header, plan.len()) {
            prop_assert!(head.check(&header, &bytes, None).is_err(), "byte {}", at);
        }
    }
}

#[test]
fn documents_over_their_limits_are_refused_before_they_are_read() {
    let manifest = Manifest::new();
    let bytes = manifest.to_bytes().unwrap();
    let mut parts = Parts::default();
    parts.push(MANIFEST_TENSOR.to_owned(), Content::Manifest, MANIFEST_BYTES + 1);
    let header = header(&parts.0, ManifestId::of(&bytes), None).unwrap();
    let len = header.len() as u64 + MANIFEST_BYTES + 1;
    assert!(matches!(CartHead::parse(&header, len), Err(CartFileError::TooLarge { .. })));
}

#[test]
fn a_header_over_its_limit_is_not_made() {
    let mut parts = Parts::default();
    let name = "n".repeat(512);
    for _ in 0..HEADER_BYTES / 512 {
        parts.push(name.clone(), Content::Padding, 64);
    }
    let made = header(&parts.0, ManifestId::of(b""), None);
    assert!(matches!(made, Err(CartFileError::HeaderTooLarge { .. })));
}

#[test]
fn a_commit_of_another_manifest_is_refused() {
    let bytes = Manifest::new().to_bytes().unwrap();
    let commit = Commit::new(ManifestId::of(b"other"), 1, Recipe::new("test"));
    let commit = commit.to_bytes().unwrap();
    let plan = CartPlan::new(&Manifest::new(), &bytes, Some(&commit)).unwrap();
    let checked = head_of(&plan).check(&plan.header, &bytes, Some(&commit));
    assert!(matches!(checked, Err(CartFileError::OtherManifest { .. })));
}
