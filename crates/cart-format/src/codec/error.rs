//! Why a chunk can't be unpacked.

use thiserror::Error;

/// Why a chunk can't be unpacked.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Its first byte names no mode.
    #[error("its mode is {found}; 0 to 7 are known")]
    Mode {
        /// The byte.
        found: u8,
    },
    /// A mode for other elements, or that needs a base where there is none.
    #[error("mode {mode} does not go with its elements or needs a base that it has not")]
    Unfit {
        /// The mode.
        mode: u8,
    },
    /// It ends too early.
    #[error("it ends too early")]
    Cut,
    /// It goes on after its end.
    #[error("{bytes} bytes follow its end")]
    Rest {
        /// How many.
        bytes: usize,
    },
    /// It is of another length.
    #[error("it has {found} bytes where {expected} belong")]
    Length {
        /// Bytes that there are.
        found: usize,
        /// Bytes that belong there.
        expected: usize,
    },
    /// A table of frequencies that is none.
    #[error("its table of frequencies is not one")]
    Frequencies,
    /// Coded symbols that do not end where they began.
    #[error("its coded symbols are not those of its table")]
    Symbols,
    /// A value that the elements don't have.
    #[error("it holds a value that its elements do not have")]
    Value,
    /// A zstd frame that can't be read.
    #[error("its zstd frame: {0}")]
    Zstd(std::io::Error),
}
