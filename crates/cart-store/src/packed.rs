//! Packed files: a cartridge compressed, alone or as what turns a base into it (spec 65).

mod audit;
mod file;
mod source;
#[cfg(test)]
mod tests;
mod unpack;
mod write;

pub use self::audit::PackedAudit;
pub use self::file::{PackedFile, PackedFileError};
pub use self::unpack::{UnpackError, Unpacked};
pub use self::write::{PackReport, PackedWriteError};
