//! Products of weights with activations, at the level that the processor allows.

pub(crate) mod activations;
#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
pub(crate) mod bf16;
pub(crate) mod float;
pub(crate) mod floats;
pub(crate) mod format;
mod lanes;
pub(crate) mod memory;
pub(crate) mod packed;
pub(crate) mod product;
#[cfg(test)]
mod tests;
pub(crate) mod tiles;
pub(crate) mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Which instructions the products use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelLevel {
    /// Plain Rust, on every processor.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 (F, BW, VL) and its 8-bit dot products (VNNI).
    Avx512Vnni,
    /// The same with tiles of 8-bit products (Intel AMX) where whole blocks of rows are multiplied.
    Amx,
    /// 64-bit Arm with NEON and its 8-bit dot products (`dotprod`).
    Neon,
}

/// A kernel level that can't be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KernelError {
    /// The processor lacks the instructions.
    #[error("this processor does not have kernel level {level}; the best it has is {best}")]
    Unsupported {
        /// The level asked for.
        level: KernelLevel,
        /// The best level here.
        best: KernelLevel,
    },
    /// No level has this name.
    #[error("unknown kernel level `{found}`; known: portable, avx2, avx512vnni, amx, neon")]
    Unknown {
        /// The name found.
        found: String,
    },
}

impl KernelLevel {
    /// Every level, slowest first.
    pub const ALL: [Self; 5] =
        [Self::Portable, Self::Avx2, Self::Avx512Vnni, Self::Amx, Self::Neon];

    /// The best level of this processor.
    pub fn detect() -> Self {
        Self::ALL.into_iter().rfind(|level| level.is_supported()).unwrap_or(Self::Portable)
    }

    /// Whether this processor has the instructions.
    pub fn is_supported(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512Vnni.is_supported() && amx::is_supported(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(any(not(target_arch = "x86_64"), not(target_arch = "aarch64")))]
            _ => false,
        }
    }

    /// The name, as [`FromStr`] reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512vnni",
            Self::Amx => "amx",
            Self::Neon => "neon",
        }
    }
}

impl fmt::Display for KernelLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KernelLevel {
    type Err = KernelError;

    fn from_str(text: &str) -> Result<Self, KernelError> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or_else(|| KernelError::Unknown { found: text.chars().take(80).collect() })
    }
}

/// A level that this processor was seen to have: holding one is why calling its kernels is sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernels {
    level: KernelLevel,
    activations: Activations,
}

/// In how many bits the products of quantized weights take their other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Activations {
    /// Sixteen: the products of `f32`, to within its rounding.
    Exact,
    /// Eight, and sixteen for the groups that stand out of their rows: faster where many rows are
    /// multiplied, and four times as near to exact as eight for all.
    #[default]
    Mixed,
}

/// No choice of activations has this name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("unknown activations `{found}`; known: exact, mixed")]
pub struct UnknownActivations {
    /// The name found.
    pub found: String,
}

impl Activations {
    /// The name, as [`FromStr`] reads it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Mixed => "mixed",
        }
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activations {
    type Err = UnknownActivations;

    fn from_str(text: &str) -> Result<Self, UnknownActivations> {
        [Self::Exact, Self::Mixed]
            .into_iter()
            .find(|activations| activations.name() == text)
            .ok_or_else(|| UnknownActivations { found: text.chars().take(80).collect() })
    }
}

impl Kernels {
    pub(crate) fn new(level: KernelLevel) -> Result<Self, KernelError> {
        if level.is_supported() {
            return Ok(Self { level, ..Self::detect() });
        }
        Err(KernelError::Unsupported { level, best: KernelLevel::detect() })
    }

    pub(crate) fn detect() -> Self {
        let activations = Activations::default();
        Self { level: KernelLevel::detect(), activations }
    }

    pub(crate) fn level(self) -> KernelLevel {
        self.level
    }

    /// The same with activations of other bits.
    pub(crate) fn with_activations(self, activations: Activations) -> Self {
        Self { activations, ..self }
    }

    pub(crate) fn activations(self) -> Activations {
        self.activations
    }
}
