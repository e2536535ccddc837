//! The store of cartridges: blobs under their digests, history, names, and the ways in and out.
//!
//! A store is a folder (spec 50). Everything in it is immutable but the refs, which change by
//! compare-and-swap, and everything is written by one durable writer, so that a crash at any
//! instant leaves what was there before or what was asked for.
//!
//! Begin with [`Store`]: [`Store::ingest`] takes bytes in, [`Store::put_manifest`],
//! [`Store::put_commit`] and [`Store::update_ref`] give them a name, [`Store::resolve`] finds a
//! [`Cartridge`] by what people call it, and [`Cartridge::verify`] makes it [`Verified`], which is
//! all that an engine accepts. [`CartFile`] is the single-file form, [`PackedFile`] the compressed one.

mod ancestors;
mod audit;
mod bisect;
mod blob_source;
mod cart_file;
mod cart_writer;
mod cartridge;
mod copying;
#[cfg(test)]
mod crash_tests;
mod draft;
pub mod export;
mod faults;
mod file_error;
mod finite;
mod fsck;
mod gc;
mod hashing;
pub mod import;
mod ingest;
mod layout;
mod lock;
mod low_rank;
mod objects;
mod packed;
mod progress;
mod publish;
mod reach;
mod ref_log;
mod ref_name;
mod refs;
mod resolve;
mod source;
mod store;
mod verify;
mod witness;

pub use bisect::{Bisection, Verdict};
pub use blob_source::{BlobError, BlobLocation, BlobSource, MappedBlob};
pub use cart_file::{CartFile, CartFileError, ImportedCart};
pub use cart_writer::CartWriteError;
pub use cartridge::Cartridge;
pub use draft::Drafts;
pub use file_error::FileError;
pub use finite::{FiniteScan, NotFinite};
pub use fsck::{FsckError, FsckOptions, FsckProblem, FsckReport};
pub use gc::{GcError, GcOptions, GcReport};
pub use ingest::{IngestError, Ingested};
pub use lock::StoreGuard;
pub use low_rank::{LowRankFileError, is_low_rank, read_low_rank, write_low_rank};
pub use objects::ObjectError;
pub use packed::{
    PackReport, PackedAudit, PackedFile, PackedFileError, PackedWriteError, UnpackError, Unpacked,
};
pub use progress::{Progress, Silent};
pub use ref_log::LogEntry;
pub use ref_name::{DEFAULT_TAG, RefName, RefNameError};
pub use refs::RefError;
pub use resolve::{ResolveError, Resolved};
pub use source::{SourceRange, digest_source};
pub use store::{OpenError, STORE_VERSION, Store};
pub use verify::{Damage, DamageKind, Verified, VerifyError, VerifyOptions, VerifyReport};
pub use witness::{Interest, Witness};
