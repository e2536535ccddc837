//! What a cartridge is: architecture, tensors, tokenizer, memory, metadata, and the blobs that hold
//! them (spec 20).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use thiserror::Error;

use crate::digest::{BlobId, ManifestId, SegmentId, SpaceId};
use crate::dtype::{DType, DTypeError};
use crate::json::{self, JsonError};
use crate::limits::{DIMENSIONS, FILES, MANIFEST_BYTES, SEGMENT, TENSORS};
use crate::names::TensorName;

/// The version that this crate writes.
pub const FORMAT_VERSION: Version = Version { major: 1, minor: 0 };

/// The critical features that this crate understands: none so far.
const KNOWN_CRITICAL: &[&str] = &[];

/// Why bytes are not a manifest that this version can use.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// Not a canonical document.
    #[error("the manifest is damaged or foreign: {0}")]
    Json(#[from] JsonError),
    /// No `cart` field with a version.
    #[error(
        "the document is not a cart manifest: its field `cart` is {found}; allowed: a version such as \"1.0\""
    )]
    NotAManifest {
        /// What the field holds.
        found: String,
    },
    /// A major version of the future.
    #[error("the manifest has format version {found}; this cart reads up to {}.x: update cart", FORMAT_VERSION.major)]
    NewerMajor {
        /// Its version.
        found: Version,
    },
    /// A feature that must be understood and is not.
    #[error(
        "the manifest needs the feature `{feature}`, which this cart does not know: update cart"
    )]
    UnknownCritical {
        /// The feature.
        feature: String,
    },
    /// A field is missing, unknown in kind, or of the wrong type.
    #[error("the manifest does not fit its schema: {0}")]
    Schema(#[source] serde_json::Error),
    /// Over a limit.
    #[error("the manifest lists {found} {what}; allowed: {allowed}")]
    TooMany {
        /// Tensors, dimensions, files.
        what: &'static str,
        /// How many.
        found: u64,
        /// The limit.
        allowed: u64,
    },
    /// A blob is named, but not in the table of blobs.
    #[error("{what} names blob {blob}, which is not in the manifest's table of blobs")]
    UnlistedBlob {
        /// Who names it.
        what: String,
        /// The blob.
        blob: BlobId,
    },
    /// A blob is in the table, but nothing names it.
    #[error("the manifest lists blob {blob}, which nothing in it uses")]
    UnusedBlob {
        /// The blob.
        blob: BlobId,
    },
    /// Shape and element type don't give a size.
    #[error("tensor `{tensor}`: {source}")]
    Shape {
        /// The tensor.
        tensor: String,
        /// The reason.
        source: DTypeError,
    },
    /// Shape and element type give another size than the blob has.
    #[error("tensor `{tensor}` ({dtype} {shape:?}) needs {needed} bytes, but its blob has {found}")]
    Size {
        /// The tensor.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<u64>,
        /// Bytes by shape.
        needed: u64,
        /// Bytes of the blob.
        found: u64,
    },
    /// A blob's list of segments does not fit its size.
    #[error("blob {blob} of {size} bytes lists {found} segments; allowed: {allowed}")]
    Segments {
        /// The blob.
        blob: BlobId,
        /// Its size.
        size: u64,
        /// Segments listed.
        found: u64,
        /// Segments that its size asks for.
        allowed: u64,
    },
    /// A memory tensor's blocks don't cover its rows.
    #[error(
        "memory tensor `{tensor}` has {rows} rows in blocks of {rows_per_block}, but lists {found} blocks"
    )]
    Blocks {
        /// The tensor.
        tensor: String,
        /// Its first dimension.
        rows: u64,
        /// Rows in each block but the last.
        rows_per_block: u64,
        /// Blocks listed.
        found: u64,
    },
    /// A file of the origin has a path that leaves its folder, or comes twice.
    #[error(
        "the origin's file path {path:?} is not acceptable; allowed: relative, unique, without `..`, `\\` or control characters"
    )]
    Path {
        /// The path.
        path: String,
    },
    /// The pieces of a file don't add up to its size.
    #[error("the origin's file `{path}` has {size} bytes, but its pieces add up to {found}")]
    Pieces {
        /// The file.
        path: String,
        /// Its size.
        size: u64,
        /// The sum of its pieces.
        found: u64,
    },
}

/// A format version, written `major.minor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Readers refuse a larger one.
    pub major: u32,
    /// Readers accept a larger one, and keep what they don't know.
    pub minor: u32,
}

/// The content of a cartridge. Its canonical bytes' SHA-256 is the cartridge's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format version.
    pub cart: Version,
    /// Features that a reader must understand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub critical: Vec<String>,
    /// Architecture and tensors.
    pub model: ModelSection,
    /// The tokenizer, if the cartridge has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerSection>,
    /// The memory, if the cartridge has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemorySection>,
    /// The files that the cartridge was imported from, for exact export.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// Free-form facts: name, licence, languages. Never time, host or path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Value>,
    /// Every blob that the sections name.
    pub blobs: BTreeMap<BlobId, BlobEntry>,
    /// Sections of later minor versions, kept as they are.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// The weights and what they compute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelSection {
    /// The architecture ([`crate::ArchSpec`] reads it); absent for a bare set of tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Value>,
    /// The tensors.
    pub tensors: BTreeMap<TensorName, TensorEntry>,
    /// Fields of later minor versions, kept as they are.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// A tensor: what its blob's bytes mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// The element type.
    pub dtype: DType,
    /// The logical shape, C order: the last axis is contiguous.
    pub shape: Vec<u64>,
    /// The bytes.
    pub blob: BlobId,
}

/// How text becomes token ids and back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenizerSection {
    /// A `tokenizer.json` document of Hugging Face `tokenizers`.
    pub document: BlobId,
    /// Ids that the tokenizer can produce are below this.
    pub vocab_size: u64,
    /// A Jinja template that turns a conversation into text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<BlobId>,
    /// Tokens with a role.
    #[serde(default)]
    pub special: SpecialTokens,
    /// Fields of later minor versions, kept as they are.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// Tokens with a role.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecialTokens {
    /// Begins a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<u32>,
    /// Any of these ends a text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eos: Vec<u32>,
    /// Fills a batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad: Option<u32>,
    /// Stands for what the vocabulary lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unk: Option<u32>,
    /// Whether a raw prompt gets `bos` put before it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub add_bos: bool,
}

/// An agent's memory (spec 30).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemorySection {
    /// What produced the vectors. A memory of another space is refused.
    pub space: SpaceId,
    /// Width of a key.
    pub dim: u64,
    /// A canonical JSON document: configuration, slots' texts and ticks, counters.
    pub state: BlobId,
    /// Vectors, in row blocks.
    pub tensors: BTreeMap<TensorName, BlockedTensor>,
    /// Fields of later minor versions, kept as they are.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// A tensor cut into blocks of rows, so that a new row rewrites one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedTensor {
    /// The element type.
    pub dtype: DType,
    /// The whole shape; the first axis is rows.
    pub shape: Vec<u64>,
    /// Rows in each block but the last, which may have fewer.
    pub rows_per_block: u64,
    /// The blocks, in row order.
    pub blocks: Vec<BlobId>,
}

/// Where the cartridge came from, exactly enough to give it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What kind of thing was imported.
    pub kind: OriginKind,
    /// Its files, sorted by path. A lone file has the path `model.gguf` or `model.safetensors`.
    pub files: Vec<OriginFile>,
}

/// What kind of thing was imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginKind {
    /// A Hugging Face model folder.
    Hf,
    /// One GGUF file.
    Gguf,
    /// One safetensors file.
    Safetensors,
}

/// An imported file, as the pieces that make it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginFile {
    /// Relative to the imported folder, with `/`.
    pub path: String,
    /// Its length.
    pub size: u64,
    /// SHA-256 of the whole file.
    pub sha256: BlobId,
    /// Its bytes, in order.
    pub pieces: Vec<Piece>,
}

/// Some bytes of an imported file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// A whole blob.
    Blob(BlobId),
    /// So many zero bytes.
    Zeros(u64),
}

/// What the manifest says about a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobEntry {
    /// Its length in bytes.
    pub size: u64,
    /// Digests of its 16 MiB segments, if it is longer than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub segments: Vec<SegmentId>,
}

impl Manifest {
    /// A manifest of this version that names nothing yet.
    pub fn new() -> Self {
        Self {
            cart: FORMAT_VERSION,
            critical: Vec::new(),
            model: ModelSection::default(),
            tokenizer: None,
            memory: None,
            origin: None,
            metadata: BTreeMap::new(),
            blobs: BTreeMap::new(),
            extra: BTreeMap::new(),
        }
    }

    /// Reads a manifest from its canonical bytes and checks everything that can be checked without
    /// the blobs.
    ///
    /// # Errors
    /// Not canonical, of a newer major version, with an unknown critical feature, or with parts
    /// that contradict each other.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ManifestError> {
        let value = json::from_canonical(bytes, MANIFEST_BYTES)?;
        check_version(&value)?;
        let manifest: Self = serde_json::from_value(value).map_err(ManifestError::Schema)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// A number in `metadata` or `extra` has no canonical form.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        Ok(json::to_canonical(self)?)
    }

    /// The cartridge's id: SHA-256 of [`Manifest::to_bytes`].
    ///
    /// # Errors
    /// As [`Manifest::to_bytes`].
    pub fn id(&self) -> Result<ManifestId, ManifestError> {
        Ok(ManifestId::of(&self.to_bytes()?))
    }

    /// Bytes of all blobs together.
    pub fn total_bytes(&self) -> u64 {
        self.blobs.values().map(|entry| entry.size).sum()
    }

    /// Every place that names a blob, with a description for people: `tensor \`x\``, `tokenizer`.
    pub fn uses(&self) -> Vec<(String, BlobId)> {
        let mut uses = Vec::new();
        for (name, tensor) in &self.model.tensors {
            uses.push((format!("tensor `{name}`"), tensor.blob));
        }
        if let Some(tokenizer) = &self.tokenizer {
            uses.push(("tokenizer document".to_owned(), tokenizer.document));
            uses.extend(tokenizer.chat_template.map(|blob| ("chat template".to_owned(), blob)));
        }
        if let Some(memory) = &self.memory {
            uses.push(("memory state".to_owned(), memory.state));
            for (name, tensor) in &memory.tensors {
                let blocks = tensor.blocks.iter().enumerate();
                uses.extend(
                    blocks.map(|(at, blob)| (format!("memory tensor `{name}` block {at}"), *blob)),
                );
            }
        }
        for file in self.origin.iter().flat_map(|origin| &origin.files) {
            for piece in &file.pieces {
                if let Piece::Blob(blob) = piece {
                    uses.push((format!("file `{}`", file.path), *blob));
                }
            }
        }
        uses
    }

    /// Checks limits, sizes and references.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self) -> Result<(), ManifestError> {
        self.check_version()?;
        at_most("tensors", self.model.tensors.len() as u64, TENSORS)?;
        for (blob, entry) in &self.blobs {
            entry.check(*blob)?;
        }
        self.check_uses()?;
        for (name, tensor) in &self.model.tensors {
            self.check_tensor(name, tensor)?;
        }
        if let Some(memory) = &self.memory {
            at_most("memory tensors", memory.tensors.len() as u64, TENSORS)?;
            for (name, tensor) in &memory.tensors {
                self.check_blocked(name, tensor)?;
            }
        }
        self.origin.as_ref().map_or(Ok(()), |origin| self.check_origin(origin))
    }

    fn check_version(&self) -> Result<(), ManifestError> {
        if self.cart.major > FORMAT_VERSION.major {
            return Err(ManifestError::NewerMajor { found: self.cart });
        }
        match self.critical.iter().find(|feature| !KNOWN_CRITICAL.contains(&feature.as_str())) {
            Some(feature) => Err(ManifestError::UnknownCritical { feature: feature.clone() }),
            None => Ok(()),
        }
    }

    fn check_uses(&self) -> Result<(), ManifestError> {
        let mut unused: std::collections::BTreeSet<BlobId> = self.blobs.keys().copied().collect();
        for (what, blob) in self.uses() {
            if !self.blobs.contains_key(&blob) {
                return Err(ManifestError::UnlistedBlob { what, blob });
            }
            unused.remove(&blob);
        }
        // A later minor version may name blobs in sections that we only carry along.
        match unused.first() {
            Some(&blob) if self.cart <= FORMAT_VERSION => Err(ManifestError::UnusedBlob { blob }),
            _ => Ok(()),
        }
    }

    fn check_tensor(&self, name: &TensorName, tensor: &TensorEntry) -> Result<(), ManifestError> {
        at_most("dimensions", tensor.shape.len() as u64, DIMENSIONS as u64)?;
        let needed = size_of(name, tensor.dtype, &tensor.shape)?;
        self.check_size(name, tensor.dtype, &tensor.shape, tensor.blob, needed)
    }

    fn check_blocked(
        &self,
        name: &TensorName,
        tensor: &BlockedTensor,
    ) -> Result<(), ManifestError> {
        at_most("dimensions", tensor.shape.len() as u64, DIMENSIONS as u64)?;
        let rows = tensor.shape.first().copied().unwrap_or(0);
        let per_block = tensor.rows_per_block;
        let found = tensor.blocks.len() as u64;
        if tensor.shape.is_empty() || per_block == 0 || rows.div_ceil(per_block) != found {
            return Err(ManifestError::Blocks {
                tensor: name.to_string(),
                rows,
                rows_per_block: per_block,
                found,
            });
        }
        for (index, &blob) in tensor.blocks.iter().enumerate() {
            let mut shape = tensor.shape.clone();
            shape[0] = per_block.min(rows - per_block * index as u64);
            let needed = size_of(name, tensor.dtype, &shape)?;
            self.check_size(name, tensor.dtype, &shape, blob, needed)?;
        }
        Ok(())
    }

    fn check_size(
        &self,
        name: &TensorName,
        dtype: DType,
        shape: &[u64],
        blob: BlobId,
        needed: u64,
    ) -> Result<(), ManifestError> {
        let found = self.blobs[&blob].size;
        if needed == found {
            return Ok(());
        }
        let (tensor, shape) = (name.to_string(), shape.to_vec());
        Err(ManifestError::Size { tensor, dtype, shape, needed, found })
    }

    fn check_origin(&self, origin: &Origin) -> Result<(), ManifestError> {
        at_most("files", origin.files.len() as u64, FILES as u64)?;
        let mut previous: Option<&str> = None;
        for file in &origin.files {
            if !is_plain_path(&file.path)
                || previous.is_some_and(|previous| previous >= file.path.as_str())
            {
                return Err(ManifestError::Path { path: file.path.clone() });
            }
            previous = Some(&file.path);
            let found = file.pieces.iter().try_fold(0_u64, |sum, piece| match piece {
                Piece::Blob(blob) => sum.checked_add(self.blobs[blob].size),
                Piece::Zeros(zeros) => sum.checked_add(*zeros),
            });
            if found != Some(file.size) {
                return Err(ManifestError::Pieces {
                    path: file.path.clone(),
                    size: file.size,
                    found: found.unwrap_or(u64::MAX),
                });
            }
        }
        Ok(())
    }
}

impl Default for Manifest {
    fn default() -> Self {
        Self::new()
    }
}

impl BlobEntry {
    /// How many segment digests a blob of this size carries: none up to 16 MiB.
    pub const fn segments_for(size: u64) -> u64 {
        if size > SEGMENT { size.div_ceil(SEGMENT) } else { 0 }
    }

    fn check(&self, blob: BlobId) -> Result<(), ManifestError> {
        let allowed = Self::segments_for(self.size);
        let found = self.segments.len() as u64;
        if found == allowed {
            return Ok(());
        }
        Err(ManifestError::Segments { blob, size: self.size, found, allowed })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once('.').unwrap_or((text, ""));
        Ok(Self { major: major.parse()?, minor: minor.parse()? })
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Version and critical features come before the schema, so that a manifest of the future is
/// refused by name and not as a broken one.
fn check_version(value: &Value) -> Result<(), ManifestError> {
    let field = value.get("cart");
    let version: Version = field
        .and_then(Value::as_str)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| ManifestError::NotAManifest {
            found: field.map_or_else(|| "absent".to_owned(), ToString::to_string),
        })?;
    let critical = value.get("critical").and_then(Value::as_array).into_iter().flatten();
    let probe = Manifest {
        cart: version,
        critical: critical.filter_map(Value::as_str).map(str::to_owned).collect(),
        ..Manifest::new()
    };
    probe.check_version()
}

fn size_of(name: &TensorName, dtype: DType, shape: &[u64]) -> Result<u64, ManifestError> {
    dtype.size_of(shape).map_err(|source| ManifestError::Shape { tensor: name.to_string(), source })
}

fn at_most(what: &'static str, found: u64, allowed: u64) -> Result<(), ManifestError> {
    if found > allowed {
        return Err(ManifestError::TooMany { what, found, allowed });
    }
    Ok(())
}

fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 1024
        && !path.contains('\\')
        && !path.chars().any(char::is_control)
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Two tensors that share a blob, one memory tensor in two blocks, one file.
    fn sample() -> Manifest {
        let (weights, row, last) =
            (BlobId::of(b"weights"), BlobId::of(b"row"), BlobId::of(b"last"));
        let state = BlobId::of(b"state");
        let entry = |shape: Vec<u64>| TensorEntry { dtype: DType::F32, shape, blob: weights };
        let mut manifest = Manifest::new();
        let name = |name: &str| TensorName::new(name).unwrap();
        manifest.model.tensors.insert(name("embed"), entry(vec![2, 4]));
        manifest.model.tensors.insert(name("head"), entry(vec![4, 2]));
        let keys = BlockedTensor {
            dtype: DType::F32,
            shape: vec![3, 2],
            rows_per_block: 2,
            blocks: vec![row, last],
        };
        manifest.memory = Some(MemorySection {
            space: SpaceId::of(b"space"),
            dim: 2,
            state,
            tensors: BTreeMap::from([(name("keys"), keys)]),
            extra: BTreeMap::new(),
        });
        let pieces = vec![Piece::Blob(weights), Piece::Zeros(4)];
        let file =
            OriginFile { path: "a/b.bin".into(), size: 36, sha256: BlobId::of(b"file"), pieces };
        manifest.origin = Some(Origin { kind: OriginKind::Safetensors, files: vec![file] });
        for (blob, size) in [(weights, 32), (row, 16), (last, 8), (state, 9)] {
            manifest.blobs.insert(blob, BlobEntry { size, segments: Vec::new() });
        }
        manifest
    }

    #[test]
    fn a_manifest_survives_its_bytes() {
        let manifest = sample();
        let bytes = manifest.to_bytes().unwrap();
        let back = Manifest::from_bytes(&bytes).unwrap();
        assert_eq!(back, manifest);
        assert_eq!(back.id().unwrap(), ManifestId::of(&bytes));
    }

    #[test]
    fn what_is_not_known_is_kept() {
        let mut manifest = sample();
        manifest.cart.minor = 9;
        manifest.extra.insert("later".into(), json!({"a": [1, 2.5]}));
        manifest.model.extra.insert("sparsity".into(), json!("2:4"));
        let bytes = manifest.to_bytes().unwrap();
        assert_eq!(Manifest::from_bytes(&bytes).unwrap().to_bytes().unwrap(), bytes);
    }

    #[test]
    fn the_future_is_refused_by_name() {
        let mut manifest = sample();
        manifest.critical.push("encrypted-tensors".into());
        let error = Manifest::from_bytes(&manifest.to_bytes().unwrap()).unwrap_err();
        assert!(error.to_string().contains("encrypted-tensors"), "{error}");
        let newer = br#"{"cart":"2.0","nothing":"else fits"}"#;
        assert!(matches!(Manifest::from_bytes(newer), Err(ManifestError::NewerMajor { .. })));
        let foreign = br#"{"name":"package.json"}"#;
        assert!(matches!(Manifest::from_bytes(foreign), Err(ManifestError::NotAManifest { .. })));
    }

    /// Each edit of the good sample must cause its own error.
    #[test]
    fn contradictions_are_refused() {
        type Edit = fn(&mut Manifest);
        type Expected = fn(&ManifestError) -> bool;
        let cases: [(Edit, Expected); 9] = [
            (
                |m| m.model.tensors.values_mut().for_each(|tensor| tensor.shape = vec![9]),
                |e| matches!(e, ManifestError::Size { .. }),
            ),
            (
                |m| m.model.tensors.values_mut().for_each(|tensor| tensor.dtype = DType::Q8_0),
                |e| matches!(e, ManifestError::Shape { .. }),
            ),
            (
                |m| m.model.tensors.values_mut().for_each(|tensor| tensor.shape = vec![1; 9]),
                |e| matches!(e, ManifestError::TooMany { .. }),
            ),
            (
                |m| {
                    m.blobs.pop_first();
                },
                |e| matches!(e, ManifestError::UnlistedBlob { .. }),
            ),
            (
                |m| {
                    m.blobs.insert(BlobId::of(b"more"), BlobEntry { size: 1, segments: vec![] });
                },
                |e| matches!(e, ManifestError::UnusedBlob { .. }),
            ),
            (
                |m| m.blobs.values_mut().for_each(|entry| entry.segments.push(SegmentId::of(b""))),
                |e| matches!(e, ManifestError::Segments { .. }),
            ),
            (
                |m| {
                    let memory = m.memory.as_mut().unwrap();
                    memory.tensors.values_mut().for_each(|tensor| tensor.rows_per_block = 1);
                },
                |e| matches!(e, ManifestError::Blocks { .. }),
            ),
            (
                |m| m.origin.as_mut().unwrap().files[0].path = "../escape".into(),
                |e| matches!(e, ManifestError::Path { .. }),
            ),
            (
                |m| m.origin.as_mut().unwrap().files[0].size = 35,
                |e| matches!(e, ManifestError::Pieces { .. }),
            ),
        ];
        for (index, (edit, expected)) in cases.into_iter().enumerate() {
            let mut manifest = sample();
            edit(&mut manifest);
            let error = Manifest::from_bytes(&manifest.to_bytes().unwrap()).unwrap_err();
            assert!(expected(&error), "case {index}: {error}");
        }
    }
}
