//! The single-file form: a cartridge as a safetensors file that any safetensors reader opens
//! (spec 60).
//!
//! The header is a function of the manifest and the commit, so the same commit gives the same bytes,
//! and a file that says anything else was changed. [`CartPlan`] is that function; [`CartHead`] reads.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use thiserror::Error;

use crate::commit::{Commit, CommitError};
use crate::digest::{BlobId, CommitId, IdError, ManifestId};
use crate::head::codes;
use crate::limits::{COMMIT_BYTES, DATA_ALIGN, HEADER_BYTES, MANIFEST_BYTES, PAYLOAD_ALIGN};
use crate::manifest::{Manifest, ManifestError, Version};
use crate::safetensors::{Head, LENGTH_BYTES, Parsed, SafetensorsError, TensorRange};

/// The version of the layout that this crate writes.
pub const CART_FILE_VERSION: Version = Version { major: 1, minor: 0 };
/// The tensor that holds the manifest's bytes. Always the first.
pub const MANIFEST_TENSOR: &str = "cart.manifest";
/// The tensor that holds the commit's bytes. The second, if there is a commit.
pub const COMMIT_TENSOR: &str = "cart.commit";
/// Begins the names of tensors that hold other blobs, followed by the blob's id.
pub const BLOB_PREFIX: &str = "cart.blob.";
/// Begins the names of tensors that are padding, followed by a number.
pub const PAD_PREFIX: &str = "cart.pad.";

/// Names with this beginning are the format's.
const OWN_PREFIX: &str = "cart.";

/// Why a file is not a cart file, or a cartridge can't become one.
#[derive(Debug, Error)]
pub enum CartFileError {
    /// Not a safetensors file, cut short, too long, or with tensors that overlap.
    #[error("the file is damaged, or not a cart file: {0}")]
    Safetensors(#[from] SafetensorsError),
    /// Safetensors, but not ours.
    #[error(
        "this is a safetensors file, but not a cart file: it has no tensor `{MANIFEST_TENSOR}`; `cart pack` makes a cartridge of it"
    )]
    Foreign,
    /// Ours, but written again by a tool that does not know what must be kept.
    #[error(
        "this was a cart file, and a tool that does not know the format saved it again: {lost}; get the original, or pack the tensors anew"
    )]
    Resaved {
        /// What was lost.
        lost: Lost,
    },
    /// The header names another version.
    #[error(
        "the cart file has layout version {found}; this cart reads up to {}.x: update cart",
        CART_FILE_VERSION.major
    )]
    NewerMajor {
        /// Its version.
        found: Version,
    },
    /// A field of the header's metadata is missing or has no sense.
    #[error("the header's metadata field `{field}` is {found:?}; the file was edited")]
    Metadata {
        /// The field.
        field: &'static str,
        /// What it holds.
        found: Option<String>,
    },
    /// An id in the header is not one.
    #[error("the header's metadata field `{field}`: {source}")]
    Id {
        /// The field.
        field: &'static str,
        /// The reason.
        source: IdError,
    },
    /// Manifest or commit over their limits.
    #[error("tensor `{tensor}` has {found} bytes; allowed: {allowed}")]
    TooLarge {
        /// The tensor.
        tensor: &'static str,
        /// Its length.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// The bytes of manifest or commit were changed.
    #[error(
        "tensor `{tensor}` is damaged: the header says its digest is {expected}, found {found}"
    )]
    Digest {
        /// The tensor.
        tensor: &'static str,
        /// The digest in the header.
        expected: String,
        /// The digest of the bytes.
        found: String,
    },
    /// The manifest is intact, but this version can't use it.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The commit is intact, but this version can't use it.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The commit is about another manifest.
    #[error("the commit is of manifest {found}, but the file holds manifest {expected}")]
    OtherManifest {
        /// What the commit names.
        found: ManifestId,
        /// What the file holds.
        expected: ManifestId,
    },
    /// A tensor of the header is not where, or what, the manifest asks for.
    #[error("tensor `{name}` should be {expected}, but is {found}; the file was edited")]
    Tensor {
        /// Its name.
        name: String,
        /// By the manifest.
        expected: String,
        /// By the header.
        found: String,
    },
    /// The header means the right thing and has other bytes.
    #[error("byte {at} of the header differs from what its manifest asks for; the file was edited")]
    Header {
        /// The first byte that differs, counted from the start of the file.
        at: u64,
    },
    /// Padding that is not zeros.
    #[error("padding `{name}` is not zeros; the file was edited or is damaged")]
    Padding {
        /// The padding's name.
        name: String,
    },
    /// Too many tensors for a header.
    #[error(
        "the header would have {found} bytes; allowed: {HEADER_BYTES}; keep this cartridge in a store"
    )]
    HeaderTooLarge {
        /// Its length.
        found: u64,
    },
}

codes! { CartFileError {
    Safetensors => "safetensors",
    Foreign => "foreign",
    Resaved => "resaved",
    NewerMajor => "newer_major",
    Metadata => "metadata",
    Id => "id",
    TooLarge => "too_large",
    Digest => "digest",
    Manifest => "manifest",
    Commit => "commit",
    OtherManifest => "other_manifest",
    Tensor => "tensor",
    Header => "header",
    Padding => "padding",
    HeaderTooLarge => "header_too_large",
} }

/// What a tool lost that saved a cart file again.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Lost {
    /// The metadata.
    #[error("the header's metadata is lost")]
    Metadata,
    /// The alignment of the data.
    #[error("the data starts at byte {found}, not at a multiple of {DATA_ALIGN}")]
    DataStart {
        /// Where it starts.
        found: u64,
    },
    /// The order of the tensors.
    #[error("tensor `{found}` stands where `{expected}` belongs")]
    Order {
        /// Which tensor is there.
        found: String,
        /// Which should be.
        expected: String,
    },
    /// A tensor.
    #[error("tensor `{name}` is lost")]
    Tensor {
        /// Its name.
        name: String,
    },
}

/// What fills a part of a cart file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The manifest's bytes.
    Manifest,
    /// The commit's bytes.
    Commit,
    /// A blob.
    Blob(BlobId),
    /// Zeros.
    Padding,
}

/// A tensor of a cart file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name in the header.
    pub name: String,
    /// Its element type, as safetensors calls it.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<u64>,
    /// What it holds.
    pub content: Content,
    /// Its bytes, counted from the start of the file.
    pub range: Range<u64>,
}

/// A cart file, laid out: write `header`, then the parts in order.
#[derive(Clone, Debug)]
pub struct CartPlan {
    /// The file's first bytes: the header's length, the header, and spaces up to the data.
    pub header: Vec<u8>,
    /// The rest of the file, without holes.
    pub parts: Vec<Part>,
}

impl CartPlan {
    /// Lays out a cartridge. `manifest_bytes` and `commit_bytes` are the canonical bytes.
    ///
    /// # Errors
    /// The header would be over its limit.
    pub fn new(
        manifest: &Manifest,
        manifest_bytes: &[u8],
        commit_bytes: Option<&[u8]>,
    ) -> Result<Self, CartFileError> {
        let mut parts = Parts::default();
        parts.push(MANIFEST_TENSOR.to_owned(), Content::Manifest, manifest_bytes.len() as u64);
        if let Some(bytes) = commit_bytes {
            parts.push(COMMIT_TENSOR.to_owned(), Content::Commit, bytes.len() as u64);
        }
        let mut rest: BTreeSet<BlobId> = manifest.blobs.keys().copied().collect();
        for (name, tensor) in &manifest.model.tensors {
            // A tied tensor's blob is there under the first of its names.
            if name.as_str().starts_with(OWN_PREFIX) || !rest.remove(&tensor.blob) {
                continue;
            }
            let size = manifest.blobs[&tensor.blob].size;
            let name = name.to_string();
            match tensor.dtype.safetensors() {
                Some(dtype) => {
                    let shape = tensor.shape.clone();
                    parts.push_as(name, dtype, shape, Content::Blob(tensor.blob), size);
                }
                None => parts.push(name, Content::Blob(tensor.blob), size),
            }
        }
        for blob in rest {
            parts.push(
                format!("{BLOB_PREFIX}{blob}"),
                Content::Blob(blob),
                manifest.blobs[&blob].size,
            );
        }
        let manifest_id = ManifestId::of(manifest_bytes);
        let header = header(&parts.0, manifest_id, commit_bytes.map(CommitId::of))?;
        let data = header.len() as u64;
        let moved =
            |part: Part| Part { range: part.range.start + data..part.range.end + data, ..part };
        Ok(Self { parts: parts.0.into_iter().map(moved).collect(), header })
    }

    /// Bytes of the whole file.
    pub fn len(&self) -> u64 {
        self.parts.last().map_or(self.header.len() as u64, |part| part.range.end)
    }

    /// Never: a cart file has a manifest.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

/// Parts that follow each other, counted from the start of the data.
#[derive(Default)]
struct Parts(Vec<Part>);

impl Parts {
    /// A part that safetensors sees as bytes.
    fn push(&mut self, name: String, content: Content, size: u64) {
        self.push_as(name, "U8", vec![size], content, size);
    }

    fn push_as(
        &mut self,
        name: String,
        dtype: &'static str,
        shape: Vec<u64>,
        content: Content,
        size: u64,
    ) {
        let end = self.0.last().map_or(0, |part| part.range.end);
        let start = end.next_multiple_of(PAYLOAD_ALIGN);
        if start > end {
            let (name, shape) = (format!("{PAD_PREFIX}{}", self.0.len()), vec![start - end]);
            let content = Content::Padding;
            self.0.push(Part { name, dtype: "U8", shape, content, range: end..start });
        }
        self.0.push(Part { name, dtype, shape, content, range: start..start + size });
    }
}

/// The length, the header, and spaces up to a multiple of 4096.
fn header(
    parts: &[Part],
    manifest: ManifestId,
    commit: Option<CommitId>,
) -> Result<Vec<u8>, CartFileError> {
    use std::fmt::Write as _;
    let mut text = format!(
        "{{\"__metadata__\":{{\"format\":\"cart\",\"version\":\"{CART_FILE_VERSION}\",\"manifest\":\"{manifest}\""
    );
    if let Some(commit) = commit {
        write!(text, ",\"commit\":\"{commit}\"").expect("writing to a string does not fail");
    }
    text.push('}');
    for part in parts {
        let name = serde_json::to_string(&part.name).expect("text has a JSON form");
        let Part { dtype, shape, range: Range { start, end }, .. } = part;
        let shape = shape.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        write!(
            text,
            ",{name}:{{\"dtype\":\"{dtype}\",\"shape\":[{shape}],\"data_offsets\":[{start},{end}]}}"
        )
        .expect("writing to a string does not fail");
    }
    text.push('}');
    let data = (LENGTH_BYTES + text.len() as u64).next_multiple_of(DATA_ALIGN);
    let length = data - LENGTH_BYTES;
    if length > HEADER_BYTES {
        return Err(CartFileError::HeaderTooLarge { found: length });
    }
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(data as usize, b' ');
    Ok(bytes)
}

/// The head of a cart file: where the manifest and the commit are, and what their ids must be.
#[derive(Clone, Debug)]
pub struct CartHead {
    version: Version,
    manifest: (ManifestId, Range<u64>),
    commit: Option<(CommitId, Range<u64>)>,
    /// Where the data starts.
    data_start: u64,
    tensors: Vec<TensorRange>,
}

impl CartHead {
    /// Reads the head of a file of `file_len` bytes from its first bytes.
    ///
    /// # Errors
    /// Not safetensors, not a cart file, or one that was saved again by another tool.
    pub fn parse(prefix: &[u8], file_len: u64) -> Result<Parsed<Self>, CartFileError> {
        match Head::parse(prefix, file_len)? {
            Parsed::NeedMore(bytes) => Ok(Parsed::NeedMore(bytes)),
            Parsed::Head(head) => Ok(Parsed::Head(Self::of(head)?)),
        }
    }

    fn of(head: Head) -> Result<Self, CartFileError> {
        let ours = head.metadata.get("format").is_some_and(|format| format == "cart");
        let range_of = |name: &str| {
            let found = head.tensors.iter().find(|tensor| tensor.name.as_str() == name);
            found.map(|tensor| tensor.range.clone())
        };
        let manifest = match range_of(MANIFEST_TENSOR) {
            Some(range) if ours => range,
            Some(_) => return Err(CartFileError::Resaved { lost: Lost::Metadata }),
            None if ours => {
                let lost = Lost::Tensor { name: MANIFEST_TENSOR.to_owned() };
                return Err(CartFileError::Resaved { lost });
            }
            None => return Err(CartFileError::Foreign),
        };
        let version = version(&head.metadata)?;
        let manifest = (id_of(&head.metadata, "manifest")?, manifest);
        check_size(MANIFEST_TENSOR, &manifest.1, MANIFEST_BYTES)?;
        let commit = match range_of(COMMIT_TENSOR) {
            Some(range) => {
                check_size(COMMIT_TENSOR, &range, COMMIT_BYTES)?;
                Some((id_of(&head.metadata, "commit")?, range))
            }
            None if head.metadata.contains_key("commit") => {
                let lost = Lost::Tensor { name: COMMIT_TENSOR.to_owned() };
                return Err(CartFileError::Resaved { lost });
            }
            None => None,
        };
        let Head { data_start, tensors, .. } = head;
        Ok(Self { version, manifest, commit, data_start, tensors })
    }

    /// Where the manifest's bytes are in the file; at most 256 MiB.
    pub fn manifest_range(&self) -> Range<u64> {
        self.manifest.1.clone()
    }

    /// Where the commit's bytes are in the file; at most 16 MiB.
    pub fn commit_range(&self) -> Option<Range<u64>> {
        self.commit.as_ref().map(|(_, range)| range.clone())
    }

    /// Where the data starts: the header is before it.
    pub fn data_start(&self) -> u64 {
        self.data_start
    }

    /// Checks the whole head against the documents that it points to. `header` is the file's bytes
    /// before the data.
    ///
    /// # Errors
    /// A document is damaged, or the header is not the one that they ask for.
    pub fn check(
        &self,
        header: &[u8],
        manifest_bytes: &[u8],
        commit_bytes: Option<&[u8]>,
    ) -> Result<(Manifest, Option<Commit>, CartPlan), CartFileError> {
        let manifest = self.check_manifest(manifest_bytes)?;
        let commit = commit_bytes.map(|bytes| self.check_commit(bytes)).transpose()?;
        let plan = CartPlan::new(&manifest, manifest_bytes, commit_bytes)?;
        self.compare(&plan)?;
        // A later minor version may say more in the metadata.
        if self.version == CART_FILE_VERSION && plan.header != header {
            let same = plan.header.iter().zip(header).take_while(|(a, b)| a == b).count();
            return Err(CartFileError::Header { at: same as u64 });
        }
        Ok((manifest, commit, plan))
    }

    fn check_manifest(&self, bytes: &[u8]) -> Result<Manifest, CartFileError> {
        let (found, expected) = (ManifestId::of(bytes), self.manifest.0);
        if found != expected {
            let (expected, found) = (expected.hex(), found.hex());
            return Err(CartFileError::Digest { tensor: MANIFEST_TENSOR, expected, found });
        }
        Ok(Manifest::from_bytes(bytes)?)
    }

    fn check_commit(&self, bytes: &[u8]) -> Result<Commit, CartFileError> {
        let found = CommitId::of(bytes);
        let expected = self.commit.as_ref().map(|(id, _)| *id);
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            let (expected, found) = (expected.hex(), found.hex());
            return Err(CartFileError::Digest { tensor: COMMIT_TENSOR, expected, found });
        }
        let commit = Commit::from_bytes(bytes)?;
        if commit.manifest != self.manifest.0 {
            let (found, expected) = (commit.manifest, self.manifest.0);
            return Err(CartFileError::OtherManifest { found, expected });
        }
        Ok(commit)
    }

    /// Says in what the tensors differ from the plan, as precisely as can be known.
    fn compare(&self, plan: &CartPlan) -> Result<(), CartFileError> {
        let names: BTreeSet<&str> = self.tensors.iter().map(|t| t.name.as_str()).collect();
        if let Some(part) = plan.parts.iter().find(|part| !names.contains(part.name.as_str())) {
            let lost = Lost::Tensor { name: part.name.clone() };
            return Err(CartFileError::Resaved { lost });
        }
        if !self.data_start.is_multiple_of(DATA_ALIGN) {
            let lost = Lost::DataStart { found: self.data_start };
            return Err(CartFileError::Resaved { lost });
        }
        for (index, found) in self.tensors.iter().enumerate() {
            let Some(part) = plan.parts.get(index) else {
                let (name, expected) = (found.name.to_string(), "absent".to_owned());
                return Err(CartFileError::Tensor { name, expected, found: describe(found) });
            };
            if part.name != found.name.as_str() {
                let (found, expected) = (found.name.to_string(), part.name.clone());
                return Err(CartFileError::Resaved { lost: Lost::Order { found, expected } });
            }
            let dtype = found.dtype.safetensors();
            let same = dtype == Some(part.dtype)
                && (&part.shape, &part.range) == (&found.shape, &found.range);
            if !same {
                let expected = format!("{} {:?} at {:?}", part.dtype, part.shape, part.range);
                let name = part.name.clone();
                return Err(CartFileError::Tensor { name, expected, found: describe(found) });
            }
        }
        Ok(())
    }
}

fn describe(tensor: &TensorRange) -> String {
    let dtype = tensor.dtype.safetensors().unwrap_or(tensor.dtype.name());
    format!("{dtype} {:?} at {:?}", tensor.shape, tensor.range)
}

fn version(metadata: &BTreeMap<String, String>) -> Result<Version, CartFileError> {
    let found = metadata.get("version");
    let version: Version = found
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| CartFileError::Metadata { field: "version", found: found.cloned() })?;
    if version.major > CART_FILE_VERSION.major {
        return Err(CartFileError::NewerMajor { found: version });
    }
    Ok(version)
}

fn id_of<T: std::str::FromStr<Err = IdError>>(
    metadata: &BTreeMap<String, String>,
    field: &'static str,
) -> Result<T, CartFileError> {
    let Some(text) = metadata.get(field) else {
        return Err(CartFileError::Metadata { field, found: None });
    };
    text.parse().map_err(|source| CartFileError::Id { field, source })
}

fn check_size(tensor: &'static str, range: &Range<u64>, allowed: u64) -> Result<(), CartFileError> {
    let found = range.end - range.start;
    if found > allowed {
        return Err(CartFileError::TooLarge { tensor, found, allowed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::commit::Recipe;
    use crate::dtype::DType;
    use crate::manifest::{BlobEntry, TensorEntry};
    use crate::names::TensorName;

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
}
