//! What computes a model.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use thiserror::Error;

use crate::graph::DType;

/// What computes a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU's own kernels, on weights as they are stored.
    #[default]
    Cpu,
    /// The graph of tensor operations, on the CPU: slower, and the same code as on a GPU.
    Graph,
    /// The graph on an NVIDIA GPU, by its number.
    Cuda(usize),
    /// The graph on a GPU of Apple, by its number.
    Metal(usize),
}

/// No device has this name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown device `{found}`; known: cpu, graph, cuda, cuda:N, metal, metal:N")]
pub struct UnknownDevice {
    /// The name found.
    pub found: String,
}

/// A device that can't be used.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The code for it was left out when this program was built.
    #[error(
        "this cart was built without `{asked}`; build it with `cargo build --release --features {feature}`, or take --device cpu"
    )]
    NotBuilt {
        /// The device asked for.
        asked: DeviceChoice,
        /// The feature of the build that brings it.
        feature: &'static str,
    },
    /// The system does not give it.
    #[error("device `{asked}` can't be used; take one that this machine has, or --device cpu")]
    Unavailable {
        /// The device asked for.
        asked: DeviceChoice,
        /// What the system said.
        source: candle_core::Error,
    },
}

impl DeviceChoice {
    /// The device of the graph; none where the CPU's own kernels compute.
    ///
    /// # Errors
    /// It was not built in, or the machine does not have it.
    pub fn open(self) -> Result<Option<Device>, DeviceError> {
        let (built, feature, open): (bool, _, fn(usize) -> _) = match self {
            Self::Cpu => return Ok(None),
            Self::Graph => return Ok(Some(Device::Cpu)),
            Self::Cuda(_) => (cfg!(feature = "cuda"), "cuda", Device::new_cuda),
            Self::Metal(_) => (cfg!(feature = "metal"), "metal", Device::new_metal),
        };
        if !built {
            return Err(DeviceError::NotBuilt { asked: self, feature });
        }
        let (Self::Cuda(index) | Self::Metal(index)) = self else { return Ok(None) };
        let unavailable = |source| DeviceError::Unavailable { asked: self, source };
        open(index).map(Some).map_err(unavailable)
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Graph => f.write_str("graph"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Metal(0) => f.write_str("metal"),
            Self::Metal(index) => write!(f, "metal:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        let unknown = || UnknownDevice { found: text.chars().take(80).collect() };
        let (name, index) = match text.split_once(':') {
            // A sign would be read as part of a number.
            Some((name, index)) if index.bytes().all(|byte| byte.is_ascii_digit()) => {
                (name, Some(index.parse().map_err(|_| unknown())?))
            }
            Some(_) => return Err(unknown()),
            None => (text, None),
        };
        match (name, index) {
            ("cpu", None) => Ok(Self::Cpu),
            ("graph", None) => Ok(Self::Graph),
            ("cuda", index) => Ok(Self::Cuda(index.unwrap_or(0))),
            ("metal", index) => Ok(Self::Metal(index.unwrap_or(0))),
            _ => Err(unknown()),
        }
    }
}

/// In what the graph keeps matrices, hidden states, keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// 16-bit floats with 11 bits of precision.
    F16,
    /// 16-bit floats with the range of 32-bit ones and 8 bits of precision.
    BF16,
}

/// No precision has this name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("unknown precision `{found}`; known: f32, f16, bf16")]
pub struct UnknownPrecision {
    /// The name found.
    pub found: String,
}

impl Precision {
    /// The element type of the tensors.
    pub const fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = UnknownPrecision;

    fn from_str(text: &str) -> Result<Self, UnknownPrecision> {
        match text {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::BF16),
            _ => Err(UnknownPrecision { found: text.chars().take(80).collect() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in ["cpu", "graph", "cuda", "cuda:3", "metal", "metal:1"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        for name in ["", "gpu", "cpu:0", "graph:1", "cuda:", "cuda:+1", "cuda:x", "CUDA"] {
            assert_eq!(name.parse::<DeviceChoice>(), Err(UnknownDevice { found: name.to_owned() }));
        }
    }

    #[test]
    #[cfg(not(any(feature = "cuda", feature = "metal")))]
    fn what_was_not_built_in_names_its_feature() {
        for (choice, feature) in
            [(DeviceChoice::Cuda(1), "cuda"), (DeviceChoice::Metal(0), "metal")]
        {
            let error = choice.open().unwrap_err();
            assert!(
                matches!(error, DeviceError::NotBuilt { feature: found, .. } if found == feature)
            );
            assert!(error.to_string().contains(&format!("--features {feature}")), "{error}");
        }
    }
}
