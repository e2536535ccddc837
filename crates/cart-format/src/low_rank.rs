//! What a cartridge becomes by adding low-rank products to its weights, in one file (spec 66).
//!
//! [`LowRank`] is the content: for each tensor that changes, two factors whose product is added to it, or
//! all of its new values. [`LowRank::to_bytes`] writes, [`LowRank::from_bytes`] reads and checks every byte.

mod error;
mod index;
#[cfg(test)]
mod tests;

pub use self::error::LowRankError;
use crate::digest::{BlobId, ManifestId};
use crate::dtype::DType;
use crate::limits::HEADER_BYTES;
use crate::manifest::Version;
use crate::names::TensorName;

/// The version of the layout that this crate writes.
pub const LOW_RANK_VERSION: Version = Version { major: 1, minor: 0 };
/// What the header calls the format.
pub const LOW_RANK_FORMAT: &str = "cart-low-rank";
/// Largest file, in bytes: it is read whole.
pub const LOW_RANK_BYTES: u64 = 8 << 30;

/// What turns a base into another cartridge, approximately or as an adapter says.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// What it goes with.
    pub base: ManifestId,
    /// Where it comes from.
    pub source: Source,
    /// Tensors that change, in the order of names.
    pub tensors: Vec<Change>,
}

/// Where low-rank changes come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    /// They approximate the difference of a cartridge from the base.
    Difference {
        /// That cartridge.
        target: ManifestId,
        /// The most factors of a tensor.
        rank: u64,
        /// ‖Δ − its approximation‖ / ‖Δ‖ over all changed tensors, Frobenius; 0 where nothing changed.
        error: f64,
    },
    /// They are a PEFT adapter.
    Adapter {
        /// SHA-256 of its weights' file.
        weights: BlobId,
    },
}

/// What becomes of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its name.
    pub name: TensorName,
    /// How it changes.
    pub how: How,
}

/// How a tensor changes.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// `scale · up · down` is added to it.
    Add {
        /// A factor on the product.
        scale: f64,
        /// `[rows, rank]`, floats.
        up: Values,
        /// `[rank, columns]`, floats.
        down: Values,
        /// ‖Δ − scale · up · down‖ / ‖Δ‖, where Δ is known.
        error: Option<f64>,
    },
    /// It has these values then.
    Replace(Values),
}

/// A tensor's bytes in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// The element type.
    pub dtype: DType,
    /// The shape, C order.
    pub shape: Vec<u64>,
    /// As long as type and shape say, little-endian.
    pub bytes: Vec<u8>,
}

impl Values {
    /// Whether the bytes are as many as type and shape ask for.
    fn has_its_bytes(&self) -> bool {
        self.dtype.size_of(&self.shape).is_ok_and(|size| size == self.bytes.len() as u64)
    }
}

impl Change {
    /// The rank of what is added; none where values are replaced.
    pub fn rank(&self) -> Option<u64> {
        match &self.how {
            How::Add { down, .. } => down.shape.first().copied(),
            How::Replace(_) => None,
        }
    }

    /// The shape of the tensor.
    pub fn shape(&self) -> Vec<u64> {
        match &self.how {
            How::Add { up, down, .. } => vec![up.shape[0], down.shape[1]],
            How::Replace(values) => values.shape.clone(),
        }
    }

    /// Its parts in the order of the file, each with the end of its name there.
    fn parts(&self) -> Vec<(&'static str, &Values)> {
        match &self.how {
            How::Add { up, down, .. } => vec![("up", up), ("down", down)],
            How::Replace(values) => vec![("values", values)],
        }
    }

    fn check(&self) -> Result<(), LowRankError> {
        let refuse = |what| Err(LowRankError::Tensor { name: self.name.clone(), what });
        if self.parts().iter().any(|(_, values)| !values.has_its_bytes()) {
            return refuse("with other bytes than its type and shape ask for");
        }
        let How::Add { scale, up, down, error } = &self.how else { return Ok(()) };
        let is_matrix = |values: &Values| {
            values.shape.len() == 2 && matches!(values.dtype, DType::F32 | DType::F16 | DType::BF16)
        };
        if !is_matrix(up) || !is_matrix(down) {
            return refuse("with factors that are no matrices of f32, f16 or bf16");
        }
        if up.shape[1] != down.shape[0] || up.shape[1] == 0 {
            return refuse("with factors that can't be multiplied");
        }
        if !scale.is_finite() || error.is_some_and(|error| !(error >= 0.0 && error.is_finite())) {
            return refuse("with a scale or an error that is no finite number");
        }
        Ok(())
    }
}

impl LowRank {
    /// Whether the content can be written and read back: names grow, shapes and bytes go together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), LowRankError> {
        for pair in self.tensors.windows(2) {
            if pair[0].name >= pair[1].name {
                let what = "twice, or out of order";
                return Err(LowRankError::Tensor { name: pair[1].name.clone(), what });
            }
        }
        self.tensors.iter().try_for_each(Change::check)
    }

    /// The bytes of the file. The same content gives the same bytes.
    ///
    /// # Errors
    /// As [`LowRank::check`]; or a name is too long for what is added to it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, LowRankError> {
        self.check()?;
        let index = index::write(self);
        let mut bytes = index::header(self, &index)?;
        bytes.extend_from_slice(&index);
        for (_, values) in self.tensors.iter().flat_map(Change::parts) {
            bytes.extend_from_slice(&values.bytes);
        }
        Ok(bytes)
    }

    /// Reads a file and compares every part with its digest.
    ///
    /// # Errors
    /// It is no such file, of a newer version, damaged, or contradicts itself.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LowRankError> {
        index::read(bytes)
    }

    /// Whether a file begins like one. Says nothing of whether it is intact.
    ///
    /// * `prefix`: its first bytes; 4,096 are enough
    pub fn is_likely(prefix: &[u8]) -> bool {
        let Some((length, rest)) = prefix.split_first_chunk() else { return false };
        let start = format!("{{\"__metadata__\":{{\"format\":\"{LOW_RANK_FORMAT}\"");
        u64::from_le_bytes(*length) <= HEADER_BYTES && rest.starts_with(start.as_bytes())
    }

    /// Bytes of all factors and values.
    pub fn data_bytes(&self) -> u64 {
        let parts = self.tensors.iter().flat_map(Change::parts);
        parts.map(|(_, values)| values.bytes.len() as u64).sum()
    }
}
