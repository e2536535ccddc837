//! Element types: plain numbers, and the block formats of GGUF kept as they are.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Why a shape and an element type do not give a size.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum DTypeError {
    /// No element type has this name.
    #[error("unknown element type `{found}`; known: {}", known_names())]
    Unknown {
        /// The name that was found.
        found: String,
    },
    /// Rows of a block type must be whole blocks.
    #[error(
        "{dtype} packs {block} elements a block, but the last dimension of {shape:?} is not a multiple of it"
    )]
    PartialBlock {
        /// The block type.
        dtype: DType,
        /// The logical shape.
        shape: Vec<u64>,
        /// Elements in a block.
        block: u64,
    },
    /// The size does not fit 64 bits.
    #[error("{dtype} {shape:?} is larger than 2^63 bytes")]
    Overflow {
        /// The element type.
        dtype: DType,
        /// The logical shape.
        shape: Vec<u64>,
    },
}

macro_rules! dtypes {
    ($($variant:ident = $name:literal, $elements:literal, $bytes:literal, $ggml:expr, $safetensors:expr;)*) => {
        /// An element type. A block type stores `block_elements` values in `block_bytes` bytes;
        /// a plain type is a block of one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "each variant is the type that its name says")]
        #[allow(non_camel_case_types, reason = "the names of the field: Q4_K, IQ2_XXS")]
        pub enum DType { $($variant,)* }

        impl DType {
            /// Every element type of format 1.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in manifests.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Elements in a block (1 for plain types).
            pub const fn block_elements(self) -> u64 {
                match self { $(Self::$variant => $elements,)* }
            }

            /// Bytes of a block.
            pub const fn block_bytes(self) -> u64 {
                match self { $(Self::$variant => $bytes,)* }
            }

            /// The `ggml_type` number, where GGUF has this type.
            pub const fn ggml(self) -> Option<u32> {
                match self { $(Self::$variant => $ggml,)* }
            }

            /// The name in a safetensors header, where safetensors has this type.
            pub const fn safetensors(self) -> Option<&'static str> {
                match self { $(Self::$variant => $safetensors,)* }
            }
        }
    };
}

dtypes! {
    F64 = "f64", 1, 8, Some(28), Some("F64");
    F32 = "f32", 1, 4, Some(0), Some("F32");
    F16 = "f16", 1, 2, Some(1), Some("F16");
    BF16 = "bf16", 1, 2, Some(30), Some("BF16");
    F8_E4M3 = "f8_e4m3", 1, 1, None, Some("F8_E4M3");
    F8_E5M2 = "f8_e5m2", 1, 1, None, Some("F8_E5M2");
    F8_E8M0 = "f8_e8m0", 1, 1, None, Some("F8_E8M0");
    C64 = "c64", 1, 8, None, Some("C64");
    I64 = "i64", 1, 8, Some(27), Some("I64");
    I32 = "i32", 1, 4, Some(26), Some("I32");
    I16 = "i16", 1, 2, Some(25), Some("I16");
    I8 = "i8", 1, 1, Some(24), Some("I8");
    U64 = "u64", 1, 8, None, Some("U64");
    U32 = "u32", 1, 4, None, Some("U32");
    U16 = "u16", 1, 2, None, Some("U16");
    U8 = "u8", 1, 1, None, Some("U8");
    Bool = "bool", 1, 1, None, Some("BOOL");
    Q4_0 = "q4_0", 32, 18, Some(2), None;
    Q4_1 = "q4_1", 32, 20, Some(3), None;
    Q5_0 = "q5_0", 32, 22, Some(6), None;
    Q5_1 = "q5_1", 32, 24, Some(7), None;
    Q8_0 = "q8_0", 32, 34, Some(8), None;
    Q8_1 = "q8_1", 32, 36, Some(9), None;
    Q2_K = "q2_k", 256, 84, Some(10), None;
    Q3_K = "q3_k", 256, 110, Some(11), None;
    Q4_K = "q4_k", 256, 144, Some(12), None;
    Q5_K = "q5_k", 256, 176, Some(13), None;
    Q6_K = "q6_k", 256, 210, Some(14), None;
    Q8_K = "q8_k", 256, 292, Some(15), None;
    IQ2_XXS = "iq2_xxs", 256, 66, Some(16), None;
    IQ2_XS = "iq2_xs", 256, 74, Some(17), None;
    IQ3_XXS = "iq3_xxs", 256, 98, Some(18), None;
    IQ1_S = "iq1_s", 256, 50, Some(19), None;
    IQ4_NL = "iq4_nl", 32, 18, Some(20), None;
    IQ3_S = "iq3_s", 256, 110, Some(21), None;
    IQ2_S = "iq2_s", 256, 82, Some(22), None;
    IQ4_XS = "iq4_xs", 256, 136, Some(23), None;
    IQ1_M = "iq1_m", 256, 56, Some(29), None;
    TQ1_0 = "tq1_0", 256, 54, Some(34), None;
    TQ2_0 = "tq2_0", 256, 66, Some(35), None;
    MXFP4 = "mxfp4", 32, 17, Some(39), None;
}

impl DType {
    /// Whether values come in blocks that share a scale.
    pub const fn is_quantized(self) -> bool {
        self.block_elements() > 1
    }

    /// Whether this is a plain floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::F8_E4M3 | Self::F8_E5M2
        )
    }

    /// The type with this `ggml_type` number.
    pub fn from_ggml(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.ggml() == Some(number))
    }

    /// The type with this name in a safetensors header.
    pub fn from_safetensors(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dtype| dtype.safetensors() == Some(name))
    }

    /// Bytes of a tensor of logical shape `shape` (C order, the last axis is contiguous).
    ///
    /// # Errors
    /// The last axis is not whole blocks, or the size does not fit.
    pub fn size_of(self, shape: &[u64]) -> Result<u64, DTypeError> {
        let block = self.block_elements();
        let last = shape.last().copied().unwrap_or(1);
        if !last.is_multiple_of(block) {
            return Err(DTypeError::PartialBlock { dtype: self, shape: shape.to_vec(), block });
        }
        shape
            .iter()
            .try_fold(1_u64, |product, &dim| product.checked_mul(dim))
            .and_then(|elements| (elements / block).checked_mul(self.block_bytes()))
            .filter(|&bytes| i64::try_from(bytes).is_ok())
            .ok_or_else(|| DTypeError::Overflow { dtype: self, shape: shape.to_vec() })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = DTypeError;

    fn from_str(text: &str) -> Result<Self, DTypeError> {
        Self::ALL
            .iter()
            .copied()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| DTypeError::Unknown { found: text.chars().take(80).collect() })
    }
}

impl Serialize for DType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn known_names() -> String {
    DType::ALL.iter().map(|dtype| dtype.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_blocks() {
        assert_eq!(DType::F32.size_of(&[2, 3]), Ok(24));
        assert_eq!(DType::F32.size_of(&[]), Ok(4));
        assert_eq!(DType::F32.size_of(&[0, 3]), Ok(0));
        assert_eq!(DType::Q4_1.size_of(&[576, 1536]), Ok(552_960));
        assert!(matches!(DType::Q8_0.size_of(&[4, 33]), Err(DTypeError::PartialBlock { .. })));
        assert!(matches!(DType::F64.size_of(&[u64::MAX, 2]), Err(DTypeError::Overflow { .. })));
        assert!(matches!(DType::F32.size_of(&[1 << 62]), Err(DTypeError::Overflow { .. })));
    }

    #[test]
    fn names_and_numbers_are_unique() {
        for (index, dtype) in DType::ALL.iter().enumerate() {
            assert_eq!(dtype.name().parse(), Ok(*dtype));
            for other in &DType::ALL[index + 1..] {
                assert_ne!(dtype.name(), other.name());
                assert!(dtype.ggml().is_none() || dtype.ggml() != other.ggml());
                assert!(
                    dtype.safetensors().is_none() || dtype.safetensors() != other.safetensors()
                );
            }
        }
    }

    #[test]
    fn the_spec_lists_every_dtype() {
        let spec = include_str!("../../../spec/20-manifest.md");
        let listed: Vec<&str> = spec.lines().filter(|line| line.starts_with("| `")).collect();
        for dtype in DType::ALL {
            let row =
                format!("| `{dtype}` | {} | {} |", dtype.block_elements(), dtype.block_bytes());
            assert!(listed.contains(&row.as_str()), "{row}");
        }
    }
}
