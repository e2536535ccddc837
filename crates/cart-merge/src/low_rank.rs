//! Low-rank changes of weights: found between two cartridges, and added to one (spec 66).
//!
//! [`extract()`] approximates the difference of two cartridges by products of two factors;
//! [`plan()`] says what becomes of a base's tensors when such products are added to them, as a
//! [`Plan`](crate::weights::Plan) that is carried out like a merge, with [`Added`] as its source of tensors.

mod added;
mod error;
mod extract;
mod plan;
mod product;
mod subspace;

pub use added::Added;
pub use error::{AdditionError, ExtractionError};
pub use extract::{Extraction, extract};
pub use plan::{REPLACED, plan};
