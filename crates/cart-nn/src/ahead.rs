//! Packing weights before a model is bound to them, while their bytes are read for another reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use cart_format::arch::{AttentionSpec, MixerSpec, Part, QkvLayout};
use cart_format::{ArchSpec, DType};

use crate::kernel::memory::Arena;
use crate::kernel::tiles::Tiles;

/// Quantized weights of a model on their way into tiles. Whoever reads the tensors, to check them or
/// to fetch them, shows their bytes to [`PackedAhead::see`]; [`Model::load_packed`] then packs only
/// what was not shown. Several threads may show bytes at once.
///
/// [`Model::load_packed`]: crate::Model::load_packed
#[derive(Default)]
pub struct PackedAhead {
    tensors: BTreeMap<String, Tiles>,
}

impl PackedAhead {
    /// Makes room for the weights of `spec` that are packed as they are stored, in one piece. The room
    /// takes no memory before it is written.
    ///
    /// * `tensors`: name, element type and shape of what is stored
    pub fn new<'a>(
        spec: &ArchSpec,
        tensors: impl Iterator<Item = (&'a str, DType, &'a [u64])>,
    ) -> Self {
        let cut = cut_in_rows(spec);
        let stored: BTreeMap<&str, (DType, &[u64])> =
            tensors.map(|(name, dtype, shape)| (name, (dtype, shape))).collect();
        let wanted = spec.tensors().into_iter().filter(|tensor| !cut.contains(&tensor.name));
        let mut room = 0_usize;
        let mut kinds: Vec<(String, DType, [usize; 2])> = Vec::new();
        for tensor in wanted {
            let Some(&(dtype, &[outputs, inputs])) = stored.get(tensor.name.as_str()) else {
                continue;
            };
            let shape = [outputs as usize, inputs as usize];
            if let Some(bytes) = Tiles::room(dtype, shape) {
                room = room.saturating_add(bytes);
                kinds.push((tensor.name, dtype, shape));
            }
        }
        // What there is no room for is refused when the model is loaded, if not before.
        let Some(mut arena) = Arena::with_room(room) else { return Self::default() };
        let tiles = |(name, dtype, shape)| (name, Tiles::new(&mut arena, dtype, shape));
        Self { tensors: kinds.into_iter().map(tiles).collect() }
    }

    /// Bytes that a piece of this tensor best is a multiple of, counted from the tensor's start: only
    /// groups of so many are packed that are shown at once. None if the tensor is not packed ahead.
    pub fn grain(&self, name: &str) -> Option<usize> {
        self.tensors.get(name).map(Tiles::grain)
    }

    /// Packs what is whole in these bytes of tensor `name`. What was shown before is passed over.
    ///
    /// * `at`: where they begin in the tensor
    pub fn see(&self, name: &str, at: usize, bytes: &[u8]) {
        if let Some(tiles) = self.tensors.get(name) {
            tiles.see(at, bytes);
        }
    }

    /// The tiles of a tensor, if they are of this type and shape.
    pub(crate) fn take(&mut self, name: &str, dtype: DType, shape: [usize; 2]) -> Option<Tiles> {
        let tiles = self.tensors.remove(name)?;
        (tiles.kind() == (dtype, shape)).then_some(tiles)
    }
}

impl fmt::Debug for PackedAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PackedAhead").field("tensors", &self.tensors.len()).finish_non_exhaustive()
    }
}

/// Weights whose rows go into several matrices: they are packed when those are made.
fn cut_in_rows(spec: &ArchSpec) -> BTreeSet<String> {
    let grouped = |mixer: &MixerSpec| {
        matches!(mixer, MixerSpec::Attention(AttentionSpec { qkv: QkvLayout::Grouped, .. }))
    };
    let blocks = spec.layer_blocks().enumerate();
    let cut = blocks.filter(|(_, block)| block.mixer.as_ref().is_some_and(grouped));
    cut.map(|(index, block)| format!("{}.weight", spec.naming.part(index, Part::Qkv, block)))
        .collect()
}
