//! Reading the head of a cart file, and checking it against the documents that it points to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::error::{CartFileError, Lost};
use super::plan::CartPlan;
use super::{CART_FILE_VERSION, COMMIT_TENSOR, MANIFEST_TENSOR};
use crate::commit::Commit;
use crate::digest::{CommitId, IdError, ManifestId};
use crate::limits::{COMMIT_BYTES, DATA_ALIGN, MANIFEST_BYTES};
use crate::manifest::{Manifest, Version};
use crate::safetensors::{Head, Parsed, TensorRange};

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
