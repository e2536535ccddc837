//! The packed form: a cartridge in one file, compressed, alone or as what turns a base into it (spec 65).
//!
//! [`Layout`] gives the header, [`Index`] says which blobs are in the file and how; [`PackedHead`] reads.
//! What becomes of bytes is [`crate::codec`]'s.

mod error;
mod head;
mod index;
mod layout;
#[cfg(test)]
mod tests;

pub use self::error::PackedError;
pub use self::head::{Packed, PackedHead};
pub use self::index::{Index, IndexedBlob, IndexedChunk, PackedBlob};
pub use self::layout::{Ids, Layout, Lengths};
use crate::manifest::Version;

/// The version of the layout that this crate writes.
pub const PACKED_VERSION: Version = Version { major: 1, minor: 0 };
/// What the header calls the format.
pub const PACKED_FORMAT: &str = "cart-packed";
/// Where the chunks start: the header is this long.
pub const DATA_START: u64 = crate::limits::DATA_ALIGN;
