//! Which figures there are.

use plotters::prelude::DrawingBackend;

use super::{Material, charts};
use crate::drawing::{Area, Done, Figures};

/// A drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Slots,
    Survival,
    Energy,
    Goal,
    Cosines,
    Graph,
}

impl Figure {
    pub(super) const ALL: [Self; 6] =
        [Self::Slots, Self::Survival, Self::Energy, Self::Goal, Self::Cosines, Self::Graph];

    /// Its name in reports and of its file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Survival => "survival",
            Self::Energy => "energy",
            Self::Goal => "goal",
            Self::Cosines => "cosines",
            Self::Graph => "graph",
        }
    }
}

/// Figures of one memory.
pub(super) struct Sheet<'a> {
    pub(super) material: &'a Material,
    pub(super) figures: &'a [Figure],
}

impl Figures for Sheet<'_> {
    fn count(&self) -> usize {
        self.figures.len()
    }

    fn draw<DB: DrawingBackend>(&self, index: usize, area: &Area<DB>) -> Done<DB> {
        charts::draw(area, self.figures[index], self.material)
    }
}
