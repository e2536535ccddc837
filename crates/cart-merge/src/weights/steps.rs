//! The arithmetic of each method.
//!
//! Where nothing but the elements themselves decides, they are computed in f32, in the order in which
//! mergekit 0.1.5 does it. Sums over elements are added up in f64, and where the result follows from
//! them (on the sphere, model stock, sce), it is computed in f64 and rounded once.

mod fusion;
mod gram;
mod mask;
mod prune;
mod ram;
mod sce;
mod sphere;
mod stock;
mod task;
mod weighted;

pub(crate) use gram::dot;

use crate::weights::error::MergeError;
use crate::weights::step::{Step, TaskStep};
use crate::weights::view::{Chunk, Grain, View};

/// Fills the values of a chunk of the output.
pub(crate) type Fill<'a> = Box<dyn Fn(&Chunk<'_>, &mut [f32]) + Sync + 'a>;

/// What was found out about a tensor, ready to make its output.
pub(crate) struct Ready<'a> {
    pub(crate) grain: Grain,
    pub(crate) fill: Fill<'a>,
}

impl<'a> Ready<'a> {
    fn elements(fill: impl Fn(&Chunk<'_>, &mut [f32]) + Sync + 'a) -> Self {
        Self { grain: Grain::Elements, fill: Box::new(fill) }
    }

    fn grains(grain: Grain, fill: impl Fn(&Chunk<'_>, &mut [f32]) + Sync + 'a) -> Self {
        Self { grain, fill: Box::new(fill) }
    }
}

/// Makes the passes over the inputs that a step needs before its output.
pub(crate) fn prepare<'a>(step: &'a Step, view: &'a View<'a>) -> Result<Ready<'a>, MergeError> {
    match step {
        Step::Linear { weights, normalize } => Ok(weighted::linear(weights, *normalize)),
        Step::Passthrough { scale } => Ok(weighted::passthrough(*scale)),
        Step::NearSwap { t } => Ok(weighted::near_swap(*t as f32)),
        Step::Ram { epsilon } => Ok(ram::ram(*epsilon as f32)),
        Step::Slerp { t } => sphere::slerp(view, *t),
        Step::NuSlerp { t, axis, based } => sphere::nuslerp(view, *t, *axis, *based),
        Step::MultiSlerp { weights, normalize, eps, based } => {
            sphere::multislerp(view, weights, *normalize, *eps, *based)
        }
        Step::Karcher { max_iter, tol } => sphere::karcher(view, *max_iter, *tol),
        Step::ModelStock { filter_wise } => stock::model_stock(view, *filter_wise),
        Step::ArceeFusion => fusion::arcee_fusion(view),
        Step::Sce { select_topk } => sce::sce(view, *select_topk),
        Step::Task(task) => task::task(view, task),
    }
}

/// How many passes over the inputs a step makes, at most.
pub(crate) fn passes(step: &Step) -> u64 {
    let is_sparse = |task: &TaskStep| task.sparsify.is_some();
    match step {
        Step::Linear { .. }
        | Step::Passthrough { .. }
        | Step::NearSwap { .. }
        | Step::Ram { .. } => 1,
        Step::Task(task) => 1 + 3 * u64::from(is_sparse(task)),
        Step::ArceeFusion => 4,
        Step::Sce { .. } => 5,
        _ => 2,
    }
}
