//! Gradients of the first step, which are looked at one by one.

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
    /// Tells of them; none where this was not the first step of a process.
    pub(super) fn shown(context: &Context, norms: &[(String, f64)]) -> Option<Self> {
        if norms.is_empty() {
            return None;
        }
        let found = Self::of(norms);
        context.remark(&found.said());
        for (name, norm) in norms {
            context.remark(&format!("  {norm:9.3e}  {name}"));
        }
        Some(found)
    }

    fn of(norms: &[(String, f64)]) -> Self {
        let norm = |(_, norm): &(String, f64)| *norm;
        Self {
            tensors: norms.len(),
            smallest: norms.iter().map(norm).fold(f64::INFINITY, f64::min),
            largest: norms.iter().map(norm).fold(0.0, f64::max),
        }
    }

    fn said(&self) -> String {
        format!(
            "the gradients of all {} are not 0: norms from {:.1e} to {:.1e}",
            counted(self.tensors as u64, "tensor"),
            self.smallest,
            self.largest
        )
    }
}
