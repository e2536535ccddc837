//! From a verified cartridge to generated text: tokenizer, chat, sampling, sessions, and memory
//! read and written while the model generates.
//!
//! Open a cartridge and stream tokens:
//!
//! ```
//! use cart_engine::{Agent, GenerateOptions, LoadOptions, Prompt};
//! use cart_store::import::{ImportOptions, import};
//! use cart_store::{Silent, Store, VerifyOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let (place, model) = (folder.path(), concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tiny"));
//! // Once, as `cart pack` does: every tensor becomes a blob under its digest.
//! let store = Store::open_or_create(place)?;
//! let packed = import(&store, model.as_ref(), &ImportOptions::default(), &Silent)?;
//!
//! // Nothing is loaded whose digests were not recomputed.
//! let found = store.resolve(&packed.manifest_id.hex())?;
//! let verified = store.open_cartridge(&found)?.verify(&VerifyOptions::default(), &Silent)?;
//! let agent = Agent::load(&verified, &LoadOptions::default())?;
//!
//! let prompt = Prompt::Raw("The code of the red boat is 4821. The code of the red boat is".into());
//! let options = GenerateOptions { max_tokens: Some(6), ..GenerateOptions::default() };
//! let generation = agent.generate(&prompt, &options, |event| print!("{}", event.text_delta))?;
//! println!("\n{:.0} ms for the prompt", generation.timings.prefill.as_secs_f64() * 1e3);
//! # assert!(generation.text.starts_with(" 4821."), "{}", generation.text);
//! # Ok(())
//! # }
//! ```
//!
//! Begin with [`Agent`], a loaded cartridge, whose only way in is `Verified`; [`GenerateOptions`]
//! and
//! [`Prompt`], what is asked of it; [`Session`], one generation as a value that is stepped, alone
//! or with others in one batch ([`step_many`]); and [`MemoryOptions`], how memory takes part.

mod agent;
mod behaviour;
mod calendar;
mod calibration;
mod chat;
mod code_pages;
mod constraint;
mod distribution;
mod event;
mod hidden_tap;
pub mod long_term;
mod memory_cell;
mod memory_layers;
mod memory_log;
mod memory_loop;
mod memory_section;
mod migration;
mod options;
mod perplexity;
mod prefix_cache;
mod prepared;
mod probe;
mod prompt_text;
pub mod runtime;
mod sampling;
mod section_blobs;
mod session;
mod session_report;
mod session_section;
mod space;
mod stop;
pub mod swap;
mod sync;
mod text_stream;
mod tokenizer;
mod weights;

pub use agent::{Agent, LoadError, LoadOptions};
pub use behaviour::{BehaviourError, BehaviourReport, PromptBehaviour, compare_behaviour};
pub use calibration::CalibrationError;
pub use cart_nn::{
    Activations, Counted, DeviceChoice, DeviceError, KvFormat, Precision, UnknownActivations,
    UnknownDevice, UnknownKvFormat, UnknownPrecision,
};
pub use chat::{ChatError, ChatTemplate, Ending, Rendered, Said, ToolFormat, ToolParser};
pub use constraint::{Constraint, ConstraintError, Grammar, MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH};
pub use event::{FinishReason, GenerateEvent, Generation, MemoryUse, SlotRead, StepEvent, Timings};
pub use memory_layers::{
    LayerTensor, MemoryLayersError, RememberedStates, with_memory_layers, without_memory_layers,
};
pub use memory_log::MemoryLogError;
pub use memory_loop::{
    EncodeError, MemoryLoopError, MemoryQuery, Observations, RecalledError, RecalledSpan,
    RecalledSpans, Telling,
};
pub use memory_section::{
    JoinedSection, MemorySectionError, SaveError, Saved, memory_space, read_memory, read_section,
    with_memory, without_memory,
};
pub use migration::{
    MAP_THRESHOLD, MapReport, MigrateBy, MigrationError, MigrationOptions, MigrationReport,
    RecallReport, migrate, migrate_by_text,
};
pub use options::{
    GenerateOptions, GoalOptions, KnnOptions, KnnScope, KnnTrust, LayersOptions, MAX_SESSION_NAME,
    MAX_STOPS, MAX_TOP_LOGPROBS, MemoryControl, MemoryOptions, Message, OptionsError,
    PrefixOptions, Prompt, ToolCall,
};
pub use perplexity::{PerplexityError, PerplexityReport, Scored, perplexity, perplexity_of};
pub use prefix_cache::PrefixCacheReport;
pub use prepared::Prepared;
pub use probe::{
    FiniteError, FiniteReport, ProbeError, ProbeFailure, ProbeOutcome, TOLERANCE, check_probe,
    finite_check, record_probe,
};
pub use sampling::{SamplingError, SamplingOptions};
pub use session::{GenerateError, PREFILL_CHUNK, Session, StartError, StepError, step_many};
pub use session_report::SavedSessionReport;
pub use session_section::{
    ResumeError, SaveSessionError, SavedSession, with_session, without_session,
};
pub use text_stream::TextStream;
pub use tokenizer::{ParseSpecial, ShowSpecial, Tokenizer, TokenizerError};
pub use weights::weights;

/// The example of the README is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
