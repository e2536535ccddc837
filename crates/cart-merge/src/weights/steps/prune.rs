//! Della's choice: each element by chance, the more likely the larger it is among those of its row.

use crate::weights::error::MergeError;
use crate::weights::step::TaskModel;
use crate::weights::steps::mask::Mask;
use crate::weights::view::{Chunk, Grain, View};

/// Rows are along the second axis, as in mergekit; a vector is one row.
pub(super) fn grain(view: &View<'_>) -> Grain {
    let slab = match view.shape {
        [] | [_] => view.len(),
        [_, rest @ ..] => rest.iter().product::<u64>() as usize,
    };
    Grain::Rows(slab.max(1))
}

/// Which elements of a task vector stay, for each chunk of [`grain`].
pub(super) fn masks(
    view: &View<'_>,
    index: usize,
    model: &TaskModel,
    differences: impl Fn(&Chunk<'_>) -> Vec<f32> + Sync,
) -> Result<Vec<Mask>, MergeError> {
    let Grain::Rows(slab) = grain(view) else { unreachable!("the grain is of rows") };
    let row = view.shape.get(1).map_or(slab, |row| *row as usize).max(1);
    let stride = slab / row;
    let chance = view.chance(index);
    let (lowest, twice) = ((model.density - model.epsilon) as f32, model.epsilon as f32);
    view.map(grain(view), |chunk| {
        let delta = differences(chunk);
        let mut mask = Mask::none(delta.len());
        let mut order: Vec<u64> = Vec::with_capacity(row);
        for slab_at in (0..delta.len()).step_by(slab) {
            for lane in 0..stride {
                let at = |place: usize| slab_at + place * stride + lane;
                order.clear();
                // By magnitude, then by place: the bits of a magnitude order as it does.
                let key =
                    |place: usize| u64::from(delta[at(place)].abs().to_bits()) << 32 | place as u64;
                order.extend((0..row).map(key));
                order.sort_unstable();
                let last = (row - 1).max(1) as f32;
                for (rank, key) in order.iter().enumerate() {
                    let place = at(*key as u32 as usize);
                    let probability = lowest + rank as f32 / last * 2.0 * twice;
                    mask.set(place, chance.keeps((chunk.first + place) as u64, probability));
                }
            }
        }
        mask
    })
}
