//! A thousand positions of a store: unit keys, and beside them what a scan needs to know of each slot, so
//! that it reads from first to last and looks at no slot that it does not return.

use crate::Tick;
use crate::codes::{CodedQuery, Codes};
use crate::kernel;
use crate::sketch::{SketchedQuery, Sketches, Sums};
use crate::slot::Slot;

/// Positions of a page.
pub(crate) const ROWS: usize = 1024;

/// What is kept of rows beside their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Nothing: stores that are scanned as they are.
    Values,
    /// Codes and sketches as well: stores that may grow large.
    Shortened,
}

/// Positions of a store, at most [`ROWS`].
#[derive(Clone, Debug)]
pub(crate) struct Page {
    dim: usize,
    /// `[rows, dim]`; rows of empty positions are zero.
    units: Vec<f32>,
    /// Gated energies, `[rows]`; 0 where a position is empty.
    worth: Vec<f32>,
    /// The first tick at which a slot does not hold, `[rows]`; 0 where a position is empty.
    until: Vec<Tick>,
    shortened: Option<Shortened>,
}

#[derive(Clone, Debug, Default)]
struct Shortened {
    codes: Codes,
    sketches: Sketches,
}

/// In what a query is compared with the rows of a page.
pub(crate) enum Short {
    /// In eight bits: bounds hold.
    Codes(CodedQuery),
    /// In one bit: bounds hold but for a few rows.
    Sketches(SketchedQuery),
}

/// What a scan looks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Cosine times gated energy, of slots that hold at a tick.
    Worth(Tick),
    /// Cosine, of slots that hold at a tick.
    Cosine(Tick),
}

impl Page {
    pub(crate) fn new(dim: usize, keeps: Keeps) -> Self {
        let shortened = (keeps == Keeps::Shortened).then(Shortened::default);
        Self { dim, units: Vec::new(), worth: Vec::new(), until: Vec::new(), shortened }
    }

    pub(crate) fn rows(&self) -> usize {
        self.worth.len()
    }

    /// Makes room for this many rows, all empty.
    pub(crate) fn resize(&mut self, rows: usize) {
        self.units.resize(rows * self.dim, 0.0);
        self.worth.resize(rows, 0.0);
        self.until.resize(rows, 0);
        if let Some(shortened) = &mut self.shortened {
            shortened.codes.resize(rows, self.dim);
            shortened.sketches.resize(rows, self.dim);
        }
    }

    pub(crate) fn unit(&self, row: usize) -> &[f32] {
        &self.units[row * self.dim..][..self.dim]
    }

    pub(crate) fn set_unit(&mut self, row: usize, unit: &[f32]) {
        self.units[row * self.dim..][..self.dim].copy_from_slice(unit);
        if let Some(shortened) = &mut self.shortened {
            shortened.codes.set(row, unit);
            shortened.sketches.set(row, unit);
        }
    }

    pub(crate) fn worth(&self, row: usize) -> f32 {
        self.worth[row]
    }

    /// Whether what is noted of a row is not what its slot says.
    pub(crate) fn differs(&self, row: usize, slot: Option<&Slot>) -> bool {
        (self.worth[row], self.until[row]) != noted(slot)
    }

    /// Notes what a scan needs to know of a slot.
    pub(crate) fn note(&mut self, row: usize, slot: Option<&Slot>) {
        (self.worth[row], self.until[row]) = noted(slot);
    }

    /// Unit keys, `[rows, dim]`, flat.
    pub(crate) fn units(&self) -> &[f32] {
        &self.units
    }

    /// What each row's place in an order can be at most; −∞ where it has none.
    ///
    /// * `bounds`: `[rows]`, is overwritten
    pub(crate) fn bounds(&self, query: &Short, order: Order, bounds: &mut [f32]) {
        let shortened = self.shortened();
        match query {
            Short::Codes(query) => {
                shortened.codes.bounds(query, &mut [0; ROWS][..self.rows()], bounds);
            }
            Short::Sketches(query) => {
                shortened.sketches.bounds(query, &mut Sums::default(), bounds);
            }
        }
        let noted = self.worth.iter().zip(&self.until);
        for (bound, (&worth, &until)) in bounds.iter_mut().zip(noted) {
            *bound = order.place(*bound, worth, until);
        }
    }

    /// As [`Page::bounds`] in eight bits, of one row.
    pub(crate) fn bound(&self, query: &CodedQuery, order: Order, row: usize) -> f32 {
        let bound = self.shortened().codes.bound(query, row);
        order.place(bound, self.worth[row], self.until[row])
    }

    /// Asks for what [`Page::bound`] looks at.
    pub(crate) fn prefetch(&self, query: &CodedQuery, row: usize) {
        self.shortened().codes.prefetch(query, row);
        kernel::prefetch(&self.worth[row..=row]);
        kernel::prefetch(&self.until[row..=row]);
    }

    fn shortened(&self) -> &Shortened {
        self.shortened.as_ref().expect("large stores keep shortened rows")
    }
}

impl Order {
    fn place(self, cosine: f32, worth: f32, until: Tick) -> f32 {
        let (at, weight) = match self {
            Self::Worth(at) => (at, worth),
            Self::Cosine(at) => (at, 1.0),
        };
        if at < until { cosine.max(-1.0) * weight } else { f32::NEG_INFINITY }
    }
}

fn noted(slot: Option<&Slot>) -> (f32, Tick) {
    slot.map_or((0.0, 0), |slot| (slot.gated_energy(), slot.validity.until.unwrap_or(Tick::MAX)))
}
