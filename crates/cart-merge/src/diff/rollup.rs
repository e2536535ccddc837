//! Differences added up by layer and by module.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::diff::module::{Module, Place};
use crate::diff::plan::DiffPlan;
use crate::diff::run::TensorDelta;
use crate::diff::sums::Sums;

/// Differences added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Total {
    /// Tensors that both sides have in one shape.
    pub tensors: u64,
    /// Of these, those with other bytes.
    pub differing: u64,
    /// Their elements, those of equal tensors too.
    pub elements: u64,
    /// Elements that changed.
    pub changed: u64,
    /// max |Δ|.
    pub max_abs: f64,
    /// ‖Δ‖/‖A‖ over the tensors that differ; none where there are none, or A is zero.
    pub relative: Option<f64>,
    /// The cosine of A and B over the tensors that differ.
    pub cosine: Option<f64>,
    #[serde(skip)]
    sums: Sums,
}

impl Total {
    fn same(&mut self, elements: u64) {
        self.tensors += 1;
        self.elements += elements;
    }

    fn add(&mut self, delta: &TensorDelta) {
        self.same(delta.elements);
        self.differing += 1;
        self.changed += delta.changed.unwrap_or(delta.elements);
        if let Some(numbers) = &delta.numbers {
            self.sums.add(&numbers.sums);
            self.max_abs = self.sums.largest;
            self.relative = self.sums.relative();
            self.cosine = self.sums.cosine();
        }
    }

    /// The share of elements that changed, 0 to 1.
    pub fn share(&self) -> f64 {
        self.changed as f64 / self.elements.max(1) as f64
    }
}

/// Differences of one part of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What.
    #[serde(flatten)]
    pub total: Total,
}

/// Differences of a layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LayerTotal {
    /// Which, from 0.
    pub layer: u64,
    /// What.
    #[serde(flatten)]
    pub total: Total,
}

/// Differences of a part of a model, over all layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModuleTotal {
    /// Which.
    pub module: Module,
    /// What.
    #[serde(flatten)]
    pub total: Total,
}

/// Differences by layer, by module, by both, and of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RollUp {
    /// Of all tensors.
    pub all: Total,
    /// Layer by layer, where there are layers.
    pub layers: Vec<LayerTotal>,
    /// Module by module.
    pub modules: Vec<ModuleTotal>,
    /// Each module of each layer, in order; those of the whole model first.
    pub cells: Vec<Cell>,
}

impl RollUp {
    /// Adds up what a plan found.
    pub fn new(plan: &DiffPlan, deltas: &[TensorDelta]) -> Self {
        let mut roll = Self::default();
        let (mut layers, mut modules, mut cells) =
            (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut each = |place: Place, add: &dyn Fn(&mut Total)| {
            add(&mut roll.all);
            add(modules.entry(place.module).or_default());
            add(cells.entry(place).or_default());
            if let Some(layer) = place.layer {
                add(layers.entry(layer).or_default());
            }
        };
        for lone in &plan.same {
            each(lone.place, &|total| total.same(lone.elements));
        }
        for renamed in &plan.renamed {
            each(Place::of(&renamed.b), &|total| total.same(renamed.elements));
        }
        for delta in deltas {
            each(delta.place, &|total| total.add(delta));
        }
        roll.layers =
            layers.into_iter().map(|(layer, total)| LayerTotal { layer, total }).collect();
        roll.modules =
            modules.into_iter().map(|(module, total)| ModuleTotal { module, total }).collect();
        roll.cells = cells.into_iter().map(|(place, total)| Cell { place, total }).collect();
        roll
    }
}
