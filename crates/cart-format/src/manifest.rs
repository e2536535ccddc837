//! What a cartridge is: architecture, tensors, tokenizer, memory, metadata, and the blobs that hold
//! them (spec 20).

mod check;
mod error;
mod version;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::{BasisId, BlobId, ManifestId, SegmentId, SpaceId};
use crate::dtype::DType;
use crate::json;
use crate::limits::MANIFEST_BYTES;
use crate::names::TensorName;

pub use error::ManifestError;
pub use version::Version;

/// The version that this crate writes, where a manifest needs no later one.
pub const FORMAT_VERSION: Version = Version { major: 1, minor: 0 };

/// The version from which a manifest may have a session, and the last that this crate knows whole.
pub const SESSION_VERSION: Version = Version { major: 1, minor: 1 };

/// From this version on a memory has [`MemorySection::parts`].
pub const PARTS_VERSION: Version = Version { major: 1, minor: 2 };

/// From this version on a manifest may have [`Manifest::memory_layers`].
pub const LAYERS_VERSION: Version = Version { major: 1, minor: 3 };

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
    /// Trained layers that read memory. The version is at least [`LAYERS_VERSION`] then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_layers: Option<MemoryLayersSection>,
    /// A session that was saved to be continued. The version is at least [`SESSION_VERSION`] then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionSection>,
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
    /// The memories that this one was joined from (spec 42), by state; empty for a memory that lived. Then
    /// the version is at least [`PARTS_VERSION`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<MemorySection>,
    /// Fields of later minor versions, kept as they are.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

impl MemorySection {
    /// Itself, without the memories that it was joined from.
    #[must_use]
    pub fn alone(&self) -> Self {
        Self { parts: Vec::new(), ..self.clone() }
    }

    /// The memories that lived: its parts, or itself.
    pub fn lived(&self) -> Vec<Self> {
        if self.parts.is_empty() { vec![self.clone()] } else { self.parts.clone() }
    }

    fn uses(&self, section: &str) -> Vec<(String, BlobId)> {
        let mut uses = vec![(format!("{section} state"), self.state)];
        uses.extend(block_uses(section, &self.tensors));
        for (place, part) in self.parts.iter().enumerate() {
            uses.extend(part.uses(&format!("{section} part {place}")));
        }
        uses
    }
}

/// Trained layers through which the model attends to what memory says (spec 39).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryLayersSection {
    /// The weights, architecture and tokenizer that they were trained for. Layers of another basis
    /// are refused.
    pub basis: BasisId,
    /// The layers beside whose attention they stand, from 0, ascending.
    pub layers: Vec<u64>,
    /// Their weights, `LAYER.PART`.
    pub tensors: BTreeMap<TensorName, TensorEntry>,
    /// Fields of later minor versions, kept as they are.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// A session that was saved to be continued (spec 35).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionSection {
    /// What the numbers depend on. A state of another basis is refused.
    pub basis: BasisId,
    /// Positions that were read, remembered spans before the text included.
    pub positions: u64,
    /// Element type of keys and values.
    pub kv: DType,
    /// A canonical JSON document: the token ids, and how many of them were read.
    pub state: BlobId,
    /// What the layers keep, in row blocks, and the logits of the last token if all were read.
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
            memory_layers: None,
            session: None,
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
        let whole = json::read_canonical::<Self>(bytes, MANIFEST_BYTES);
        if let Some(manifest) = whole.filter(|manifest| manifest.check().is_ok()) {
            return Ok(manifest);
        }
        // What is wrong with it is said in the order of page 20 §6.
        let value = json::from_canonical(bytes, MANIFEST_BYTES)?;
        check::check_version(&value)?;
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

    /// The lowest version that has everything that is in it, as far as this crate knows.
    pub fn lowest_version(&self) -> Version {
        if self.memory_layers.is_some() {
            return LAYERS_VERSION;
        }
        let has_parts = self.memory.as_ref().is_some_and(|memory| !memory.parts.is_empty());
        match (has_parts, &self.session) {
            (true, _) => PARTS_VERSION,
            (false, Some(_)) => SESSION_VERSION,
            (false, None) => FORMAT_VERSION,
        }
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
            uses.extend(memory.uses("memory"));
        }
        for (name, tensor) in self.memory_layers.iter().flat_map(|layers| &layers.tensors) {
            uses.push((format!("memory layers' tensor `{name}`"), tensor.blob));
        }
        if let Some(session) = &self.session {
            uses.push(("session state".to_owned(), session.state));
            uses.extend(block_uses("session", &session.tensors));
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
}

/// Every block of a section's tensors, with a description for people.
fn block_uses<'a>(
    section: &'a str,
    tensors: &'a BTreeMap<TensorName, BlockedTensor>,
) -> impl Iterator<Item = (String, BlobId)> + 'a {
    tensors.iter().flat_map(move |(name, tensor)| {
        let blocks = tensor.blocks.iter().enumerate();
        blocks.map(move |(at, blob)| (format!("{section} tensor `{name}` block {at}"), *blob))
    })
}

impl Default for Manifest {
    fn default() -> Self {
        Self::new()
    }
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
            parts: Vec::new(),
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
    fn a_session_needs_its_version_and_all_its_rows() {
        let with = |version: Version, rows: u64| {
            let mut manifest = sample();
            let memory = manifest.memory.clone().unwrap();
            manifest.cart = version;
            let mut session = SessionSection {
                basis: BasisId::of(b"basis"),
                positions: 3,
                kv: DType::F32,
                state: memory.state,
                tensors: memory.tensors,
                extra: BTreeMap::new(),
            };
            session.tensors.values_mut().for_each(|tensor| tensor.shape[0] = rows);
            manifest.session = Some(session);
            Manifest::from_bytes(&manifest.to_bytes().unwrap())
        };
        let later = Version { major: 1, minor: 4 };
        for version in [SESSION_VERSION, PARTS_VERSION, LAYERS_VERSION, later] {
            let read = with(version, 3).unwrap();
            assert!(read.uses().iter().any(|(what, _)| what == "session state"));
        }
        let early = with(FORMAT_VERSION, 3).unwrap_err();
        assert!(matches!(early, ManifestError::SectionVersion { section: "session", .. }));
        assert!(matches!(with(SESSION_VERSION, 7).unwrap_err(), ManifestError::Blocks { .. }));
        assert!(matches!(with(SESSION_VERSION, 4).unwrap_err(), ManifestError::Size { .. }));
    }

    #[test]
    fn parts_of_a_memory_need_their_version_and_have_none_themselves() {
        let with = |version: Version, change: &dyn Fn(&mut MemorySection)| {
            let mut manifest = sample();
            manifest.cart = version;
            let memory = manifest.memory.as_mut().unwrap();
            let mut part = memory.alone();
            change(&mut part);
            memory.parts = vec![part];
            Manifest::from_bytes(&manifest.to_bytes().unwrap())
        };
        let read = with(PARTS_VERSION, &|_| {}).unwrap();
        assert_eq!(read.lowest_version(), PARTS_VERSION);
        assert!(read.uses().iter().any(|(what, _)| what == "memory part 0 state"));
        let early = with(SESSION_VERSION, &|_| {}).unwrap_err();
        assert!(matches!(early, ManifestError::SectionVersion { section: "memory.parts", .. }));
        let nested = with(PARTS_VERSION, &|part| part.parts = vec![part.clone()]).unwrap_err();
        assert!(matches!(nested, ManifestError::MemoryPart { .. }), "{nested}");
        let foreign = with(PARTS_VERSION, &|part| part.space = SpaceId::of(b"other")).unwrap_err();
        assert!(matches!(foreign, ManifestError::MemoryPart { .. }), "{foreign}");
        let short = with(PARTS_VERSION, &|part| {
            part.tensors.values_mut().for_each(|tensor| tensor.shape[0] = 99);
        });
        assert!(matches!(short.unwrap_err(), ManifestError::Blocks { .. }));
    }

    #[test]
    fn memory_layers_need_their_version_and_whole_tensors() {
        let with = |version: Version, layers: &[u64], rows: u64| {
            let mut manifest = sample();
            manifest.cart = version;
            let name = TensorName::new("3.query.weight").unwrap();
            let tensor = TensorEntry {
                dtype: DType::F32,
                shape: vec![rows, 4],
                blob: BlobId::of(b"weights"),
            };
            manifest.memory_layers = Some(MemoryLayersSection {
                basis: BasisId::of(b"basis"),
                layers: layers.to_vec(),
                tensors: BTreeMap::from([(name, tensor)]),
                extra: BTreeMap::new(),
            });
            Manifest::from_bytes(&manifest.to_bytes().unwrap())
        };
        let read = with(LAYERS_VERSION, &[3], 2).unwrap();
        assert_eq!(read.lowest_version(), LAYERS_VERSION);
        assert!(read.uses().iter().any(|(what, _)| what.contains("`3.query.weight`")));
        let early = with(PARTS_VERSION, &[3], 2).unwrap_err();
        assert!(matches!(early, ManifestError::SectionVersion { section: "memory_layers", .. }));
        let size = with(LAYERS_VERSION, &[3], 3).unwrap_err();
        assert!(matches!(size, ManifestError::Size { .. }));
        for wrong in [&[][..], &[3, 3], &[4, 3]] {
            let refused = with(LAYERS_VERSION, wrong, 2).unwrap_err();
            assert!(matches!(refused, ManifestError::MemoryLayers { .. }), "{refused}");
        }
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
