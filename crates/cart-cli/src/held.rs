//! The tensors of cartridges, as plans read them.

use cart_format::TensorName;
use cart_merge::weights::{TensorBytes, Tensors, Trouble, Watch};
use cart_store::{BlobLocation, Cartridge, MappedBlob, Progress as _};

use crate::progress::Bar;

/// Cartridges, by their number in a plan.
pub(crate) struct Held<'a>(pub(crate) Vec<&'a Cartridge>);

/// Tensors up to this are read; larger ones are mapped, so that nothing is copied. What was used of a map is
/// let go, lest it counts as memory.
const MAPPED_FROM: u64 = 64 << 10;

enum Located {
    File(BlobLocation),
    Mapped(MappedBlob),
}

impl Tensors for Held<'_> {
    fn open(&self, model: usize, tensor: &TensorName) -> Result<Box<dyn TensorBytes>, Trouble> {
        let cartridge = self.0[model];
        let blob = cartridge.manifest().model.tensors[tensor].blob;
        let location = cartridge.locate(&blob)?;
        Ok(Box::new(match location.len {
            MAPPED_FROM.. => Located::Mapped(location.map()?),
            _ => Located::File(location),
        }))
    }
}

impl TensorBytes for Located {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), Trouble> {
        match self {
            Self::File(location) => location.read_at(buffer, at)?,
            Self::Mapped(map) => buffer.copy_from_slice(&map[at as usize..][..buffer.len()]),
        }
        Ok(())
    }

    fn bytes(&self, at: u64, len: usize) -> Option<&[u8]> {
        match self {
            Self::File(_) => None,
            Self::Mapped(map) => Some(&map[at as usize..][..len]),
        }
    }

    fn release(&self, at: u64, len: usize) {
        if let Self::Mapped(map) = self {
            map.release(at as usize..at as usize + len);
        }
    }
}

/// A bar that plans show their progress on.
pub(crate) struct Watching<'a>(pub(crate) &'a Bar);

impl Watch for Watching<'_> {
    fn add(&self, bytes: u64) {
        self.0.add(bytes);
    }

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
