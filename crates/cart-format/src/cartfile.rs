//! The single-file form: a cartridge as a safetensors file that any safetensors reader opens
//! (spec 60).
//!
//! The header is a function of the manifest and the commit, so the same commit gives the same
//! bytes, and a file that says anything else was changed. [`CartPlan`] is that function;
//! [`CartHead`] reads.

mod error;
mod head;
mod plan;
#[cfg(test)]
mod tests;

pub use self::error::{CartFileError, Lost};
pub use self::head::CartHead;
pub use self::plan::{CartPlan, Content, Part};
use crate::manifest::Version;

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
