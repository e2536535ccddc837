//! Who sees the bytes of blobs while they are verified.

use cart_format::BlobId;

use crate::blob_source::BlobLocation;

/// What a [`Witness`] wants of a blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interest {
    /// Nothing.
    #[default]
    None,
    /// Its bytes, piece by piece, as they are read to be hashed: [`Witness::see`].
    Pieces {
        /// Bytes that belong together, counted from the start of the blob. Pieces end where such a
        /// group ends, as far as reading and segments let them.
        grain: usize,
    },
    /// To be called when its digest has matched, as early as can be: [`Witness::matched`].
    Whole,
}

/// Sees blobs while they are verified, so that bytes which have to be read anyway are worked on
/// while they are in the processor's cache. Called from several threads at once.
///
/// What it makes of pieces is worth nothing before [`Cartridge::verify_before`] has given a
/// [`Verified`]: a piece is shown before anybody knows whether it is the right one.
///
/// [`Cartridge::verify_before`]: crate::Cartridge::verify_before
/// [`Verified`]: crate::Verified
pub trait Witness: Sync {
    /// What it wants of a blob.
    fn interest(&self, _blob: &BlobId) -> Interest {
        Interest::None
    }

    /// Some of a blob's bytes, which have not been verified. Every byte is shown at most once.
    ///
    /// * `at`: where they begin in the blob
    fn see(&self, _blob: &BlobId, _at: u64, _bytes: &[u8]) {}

    /// Every byte of the blob was hashed, and all digests are the manifest's.
    fn matched(&self, _blob: &BlobId, _location: &BlobLocation) {}
}

/// Wants nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Nobody;

impl Witness for Nobody {}
