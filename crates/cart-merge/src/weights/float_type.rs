//! Float types that results may have.

use cart_format::DType;
use serde::{Deserialize, Serialize};

/// A float type that a merge can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FloatType {
    /// 32 bits.
    #[serde(rename = "float32", alias = "f32")]
    F32,
    /// 16 bits, 5 of them exponent.
    #[serde(rename = "float16", alias = "f16")]
    F16,
    /// 16 bits, 8 of them exponent.
    #[serde(rename = "bfloat16", alias = "bf16")]
    BF16,
}

impl FloatType {
    /// The element type.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }

    /// The float type that an element type is, if it can be merged.
    pub const fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    /// The smallest type that has all values of both.
    #[must_use]
    pub fn promoted(self, other: Self) -> Self {
        if self == other { self } else { Self::F32 }
    }
}
