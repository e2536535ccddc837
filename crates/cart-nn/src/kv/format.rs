//! How keys and values are stored.

use std::fmt;
use std::str::FromStr;

use cart_format::DType;
use thiserror::Error;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// 32-bit floats: exactly what the layers compute.
    F32,
    /// 16-bit floats: half the bytes, 11 bits of precision.
    F16,
    /// 8-bit codes in blocks of 32 with a 16-bit scale each: about a quarter of the bytes.
    Q8,
}

/// No format has this name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown format of keys and values `{found}`; known: f32, f16, q8")]
pub struct UnknownKvFormat {
    /// The name found.
    pub found: String,
}

/// A format that does not suit a model.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "keys and values in q8 come in blocks of 32, but layer {layer} has heads of {head_dim}; take f16"
)]
pub struct KvFormatError {
    /// The first layer that it does not suit.
    pub layer: usize,
    /// Numbers in a head.
    pub head_dim: usize,
}

impl KvFormat {
    /// Every format, widest first.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8];

    /// The name, as [`FromStr`] reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
        }
    }

    /// The element type of the tensors in which a state is saved.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Q8 => DType::Q8_0,
        }
    }

    /// Numbers that are stored together.
    pub(crate) const fn group(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 1,
            Self::Q8 => 32,
        }
    }
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvFormat {
    type Err = UnknownKvFormat;

    fn from_str(text: &str) -> Result<Self, UnknownKvFormat> {
        let known = Self::ALL.into_iter().find(|format| format.name() == text);
        known.ok_or_else(|| UnknownKvFormat { found: text.chars().take(80).collect() })
    }
}
