//! Tensor blocks, each once: quantized and float products, attention, `RoPE`, norms, and the one
//! decoder that an [`ArchSpec`](cart_format::ArchSpec) drives.
//!
//! Begin with [`Model`] (weights bound to an architecture), [`State`] (what a session has read so
//! far, a value), [`Run`] (tokens for one session in a batch) and [`Taps`] (where memory listens).
//! Weights come through a [`WeightSource`] as [`SharedBytes`]; quantized ones are packed for the
//! products when a model is loaded. [`Threads`] compute; [`machine`] measures what bounds their
//! speed, and [`TrialProduct`] is one product by itself.
//! [`graph`] is the same decoder as tensor operations, for GPUs and for gradients, and [`decoder`]
//! is one or the other. This is the only crate that names candle.

mod activation;
mod ahead;
mod attention;
mod bytes;
mod conv;
pub mod decoder;
mod device;
mod experts;
mod forward;
pub mod graph;
mod heap;
mod kernel;
mod kv;
pub mod logits;
pub mod machine;
mod mamba;
mod matrix;
mod model;
mod norm;
mod ops;
mod parallel;
mod profile;
mod recurrent;
mod rope;
mod saved;
mod scan;
mod span;
mod state;
mod taps;
mod threads;
mod trial;

pub use ahead::PackedAhead;
pub use bytes::{SharedBytes, WeightSource, WeightTensor};
pub use device::{DeviceChoice, DeviceError, Precision, UnknownDevice, UnknownPrecision};
pub use forward::{Counted, ForwardError, Logits, LogitsFor, Run};
pub use heap::{keep_freed_memory, return_freed_memory};
pub use kernel::{Activations, KernelError, KernelLevel, UnknownActivations};
pub use kv::{KvFormat, KvFormatError, UnknownKvFormat};
pub use model::{LoadError, Model, WeightBytes};
pub use profile::{Part, PartTime, Profile, profiled};
pub use recurrent::RecurrentShape;
pub use saved::{RestoreStateError, SavedState, StateTensor};
pub use span::SpanKv;
pub use state::{LayerShape, OtherLayers, State, TruncateError};
pub use taps::Taps;
pub use threads::{Threads, shorten_idling};
pub use trial::{TrialError, TrialProduct};
