//! From a verified cartridge to generated text: tokenizer, chat, sampling, sessions, and memory
//! read and written while the model generates.
//!
//! Begin with [`Agent`], a loaded cartridge, whose only way in is `Verified`; [`GenerateOptions`] and
//! [`Prompt`], what is asked of it; [`Session`], one generation as a value that is stepped, alone or
//! with others in one batch ([`step_many`]); and [`MemoryOptions`], how memory takes part.

mod event;
mod options;
mod sampling;

pub use event::{FinishReason, GenerateEvent, Generation, MemoryUse, SlotRead, StepEvent, Timings};
pub use options::{
    GenerateOptions, KnnOptions, KnnScope, MAX_STOPS, MAX_TOP_LOGPROBS, MemoryControl,
    MemoryOptions, Message, OptionsError, PrefixOptions, Prompt,
};
pub use sampling::{SamplingError, SamplingOptions};
