//! Merging weights.
//!
//! [`MergeConfig`] says what to merge and how, as mergekit's YAML does. [`Plan::new`] decides, from
//! manifests alone, what becomes of every tensor; [`Plan::run`] reads the inputs from a [`Tensors`],
//! computes in chunks, and writes to a [`Sink`]; [`Plan::manifest`] is the result.

pub(crate) mod chance;
mod config;
pub(crate) mod elements;
mod error;
mod float_type;
pub(crate) mod layers;
mod method;
mod plan;
mod retype;
mod rows;
mod run;
mod select;
mod setting;
mod step;
mod steps;
mod view;
mod vocabulary;

pub use config::{
    ConfigError, MergeConfig, ModelInput, OutputSlice, Parameters, SliceSource, TokenizerConfig,
};
pub use error::{MergeError, Trouble};
pub use float_type::FloatType;
pub use method::{
    BaseUse, Default, Kind, Method, Parameter, Scope, Sparsify, TaskKind, UnknownMethod,
};
pub use plan::{
    Cause, How, Merging, Model, OnConflict, Operand, Output, Plan, PlanError, PlanOptions,
    PlannedTensor, ThreeWay, TokenizerPlan,
};
pub use retype::{RetypeError, TypeRule, TypeRules};
pub use run::{QuantizationError, Sink};
pub use setting::{Case, Scalar, Setting};
pub use step::{Axis, Step, StepError, TaskModel, TaskStep};
pub(crate) use steps::dot;
pub use view::{TensorBytes, Tensors, Unwatched, Watch};
pub(crate) use vocabulary::Vocabulary;
pub use vocabulary::{Differences, VocabularyError};
