//! Limits, checked before anything is allocated (spec 20 §7).

/// Bytes of a blob segment.
pub const SEGMENT: u64 = 16 << 20;
/// Largest safetensors header or GGUF head, in bytes.
pub const HEADER_BYTES: u64 = 64 << 20;
/// Largest manifest, in bytes.
pub const MANIFEST_BYTES: u64 = 256 << 20;
/// Largest index of a packed file, in bytes.
pub const INDEX_BYTES: u64 = 256 << 20;
/// Largest commit, in bytes.
pub const COMMIT_BYTES: u64 = 16 << 20;
/// Most tensors in a file or a manifest.
pub const TENSORS: u64 = 1_000_000;
/// Longest tensor name, in bytes.
pub const NAME_BYTES: usize = 512;
/// Most dimensions of a tensor.
pub const DIMENSIONS: usize = 8;
/// Deepest nesting of arrays and objects in a document.
pub const JSON_DEPTH: usize = 64;
/// Most memories that one was joined from.
pub const MEMORY_PARTS: u64 = 4096;
/// Most files in an imported folder.
pub const FILES: usize = 10_000;
/// Alignment of every payload in a `.cart` file.
pub const PAYLOAD_ALIGN: u64 = 64;
/// The data of a `.cart` file starts at a multiple of this.
pub const DATA_ALIGN: u64 = 4096;
