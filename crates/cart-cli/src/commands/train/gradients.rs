//! The gradients of a run's first step.

use serde::Serialize;

use crate::bytes::counted;
use crate::context::Context;

/// Gradients of the first step.
#[derive(Serialize)]
pub(super) struct GradientReport {
    tensors: usize,
    smallest: f64,
    largest: f64,
}

impl GradientReport {
    /// Shows each; none where there are no norms, as in all steps but the first.
    pub(super) fn shown(context: &Context, norms: &[(String, f64)]) -> Option<Self> {
        if norms.is_empty() {
            return None;
        }
        let norm = |(_, norm): &(String, f64)| *norm;
        let found = Self {
            tensors: norms.len(),
            smallest: norms.iter().map(norm).fold(f64::INFINITY, f64::min),
            largest: norms.iter().map(norm).fold(0.0, f64::max),
        };
        context.remark(&format!(
            "the gradients of all {} are not 0: norms from {:.1e} to {:.1e}",
            counted(found.tensors as u64, "tensor"),
            found.smallest,
            found.largest
        ));
        for (name, norm) in norms {
            context.remark(&format!("  {norm:9.3e}  {name}"));
        }
        Some(found)
    }
}
