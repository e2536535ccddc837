//! From a verified cartridge to generated text: tokenizer, chat, sampling, sessions, and memory
//! read and written while the model generates.
//!
//! Begin with [`Agent`], a loaded cartridge, whose only way in is `Verified`; [`GenerateOptions`] and
//! [`Prompt`], what is asked of it; [`Session`], one generation as a value that is stepped, alone or
//! with others in one batch ([`step_many`]); and [`MemoryOptions`], how memory takes part.

mod agent;
mod calendar;
mod calibration;
mod chat;
mod distribution;
mod event;
mod hidden_tap;
mod memory_cell;
mod memory_loop;
mod memory_section;
mod options;
mod perplexity;
mod probe;
mod prompt_text;
pub mod runtime;
mod sampling;
mod session;
mod space;
mod stop;
pub mod swap;
mod text_stream;
mod tokenizer;
mod weights;

pub use agent::{Agent, LoadError, LoadOptions};
pub use calibration::CalibrationError;
pub use chat::{ChatError, ChatTemplate, Ending};
pub use event::{FinishReason, GenerateEvent, Generation, MemoryUse, SlotRead, StepEvent, Timings};
pub use memory_loop::MemoryLoopError;
pub use memory_section::{
    MemorySectionError, SaveError, Saved, read_memory, with_memory, without_memory,
};
pub use options::{
    GenerateOptions, KnnOptions, KnnScope, MAX_STOPS, MAX_TOP_LOGPROBS, MemoryControl,
    MemoryOptions, Message, OptionsError, PrefixOptions, Prompt,
};
pub use perplexity::{PerplexityError, PerplexityReport, perplexity};
pub use probe::{
    FiniteError, FiniteReport, ProbeError, ProbeFailure, ProbeOutcome, TOLERANCE, check_probe,
    finite_check, record_probe,
};
pub use sampling::{SamplingError, SamplingOptions};
pub use session::{GenerateError, PREFILL_CHUNK, Session, StartError, StepError, step_many};
pub use text_stream::TextStream;
pub use tokenizer::{ParseSpecial, ShowSpecial, Tokenizer, TokenizerError};
