//! A runtime that was unloaded, to be gone on with later.

use cart_format::ManifestId;

use super::held::Unloaded;
use super::{Runtime, RuntimeError, RuntimeOptions, SubmitError};
use crate::swap::MemoryPolicy;
use crate::swap::moving::Moving;

/// A runtime that was unloaded: the cartridge that it ran, where that lies, and what it remembered.
pub struct Parked(Unloaded);

impl std::fmt::Debug for Parked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Parked").field(&self.0.side).finish()
    }
}

impl Parked {
    /// What people call the cartridge.
    pub fn name(&self) -> &str {
        &self.0.side.name
    }

    /// The number of its generation.
    pub fn generation(&self) -> u64 {
        self.0.side.generation
    }

    /// The cartridge's id.
    pub fn manifest(&self) -> ManifestId {
        self.0.side.manifest
    }

    /// Goes on with it: verifies, loads and warms up the cartridge again, with the memory that it had.
    ///
    /// # Errors
    /// As of [`Runtime::start`]; it can be tried again.
    pub fn resume(&self, options: RuntimeOptions) -> Result<Runtime, RuntimeError> {
        let Unloaded { side, cartridge, remembered } = &self.0;
        let moving = Moving::new(MemoryPolicy::Carry, remembered.clone());
        Runtime::begin(&side.name, side.generation, cartridge.clone(), moving, options)
    }
}

impl Runtime {
    /// Ends the token loop and unloads everything; what is remembered is kept. Streams that run are cut off, so let them end
    /// before.
    ///
    /// # Errors
    /// It has been stopped.
    pub fn park(self) -> Result<Parked, SubmitError> {
        let active = self.handle.active()?;
        let unloaded = Unloaded::of(&active);
        drop(active);
        drop(self);
        Ok(Parked(unloaded))
    }
}
