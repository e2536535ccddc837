//! Traces: what is done to a memory as JSON Lines that people and other programs write
//! (spec 36). The first line says what memory it is; every further line is one operation.

mod error;
mod fields;
mod view;

use cart_format::{SpaceId, json};
use serde_json::Value;

use crate::observer::Perturbation;
use crate::slot::{SlotId, SlotRef, StoreKind};
use crate::{Input, MemoryConfig, Normalization, Observation, Outcome, Tick, UnifiedMemory};
pub use error::{TraceError, TraceProblem};
use fields::Fields;
pub use view::{MemoryView, SlotView};

/// What the first line says it is.
pub const FORMAT: &str = "cart.memory-trace/1";
/// Largest line of a trace, in bytes.
pub const MAX_LINE: u64 = 64 << 20;
/// Largest dimension of a trace.
pub const MAX_DIM: u64 = 1 << 20;

/// A trace, read line by line.
#[derive(Debug)]
pub struct Trace<'t> {
    lines: std::iter::Enumerate<std::str::Lines<'t>>,
    /// The memory as the lines so far left it.
    memory: UnifiedMemory,
}

/// What one line did.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The line, counted from 1.
    pub line: usize,
    /// What was done.
    pub input: Input,
    /// What came of it.
    pub outcome: Outcome,
}

impl<'t> Trace<'t> {
    /// Reads the first line; the memory is empty.
    ///
    /// # Errors
    /// There is no line, or the first is no header.
    pub fn open(text: &'t str) -> Result<Self, TraceError> {
        let mut lines = text.lines().enumerate();
        let (line, header) = lines
            .find(|(_, line)| !line.trim().is_empty())
            .map(|(index, line)| (index + 1, line))
            .ok_or(TraceError { line: 1, field: None, problem: TraceProblem::Empty })?;
        let memory = parse(header).and_then(read_header);
        let memory = memory.map_err(|(field, problem)| TraceError { line, field, problem })?;
        Ok(Self { lines, memory })
    }

    /// The memory as the lines so far left it.
    pub fn memory(&self) -> &UnifiedMemory {
        &self.memory
    }

    /// Does the next line; none after the last. Empty lines are passed over.
    ///
    /// # Errors
    /// The line can't be read, or the memory refuses it. The memory is as it was before the line.
    pub fn step(&mut self) -> Result<Option<Step>, TraceError> {
        let Some((index, text)) = self.lines.find(|(_, line)| !line.trim().is_empty()) else {
            return Ok(None);
        };
        let line = index + 1;
        let refuse = |(field, problem)| TraceError { line, field, problem };
        let input = parse(text).and_then(|value| read_input(value, &self.memory));
        let input = input.map_err(refuse)?;
        let outcome = self.memory.apply(&input).map_err(|source| {
            let field = error::field_of(&source).map(str::to_owned);
            TraceError { line, field, problem: TraceProblem::Refused(source) }
        })?;
        Ok(Some(Step { line, input, outcome }))
    }
}

/// What is wrong, and in which field.
type Problem = (Option<String>, TraceProblem);

fn parse(line: &str) -> Result<Value, Problem> {
    json::from_strict(line.as_bytes(), MAX_LINE).map_err(|source| {
        let field = error::not_a_number(line);
        let problem = match field {
            Some(_) => TraceProblem::NotANumber,
            None => TraceProblem::Syntax(source),
        };
        (field, problem)
    })
}

fn read_header(value: Value) -> Result<UnifiedMemory, Problem> {
    let mut fields = Fields::new(value)?;
    let format = fields.text("trace")?.ok_or_else(|| fields::missing("trace"))?;
    if format != FORMAT {
        return Err((Some("trace".to_owned()), TraceProblem::Format { found: format }));
    }
    let dim = fields.whole("dim", 1..=MAX_DIM)?.ok_or_else(|| fields::missing("dim"))? as usize;
    let centre = fields.vector("centre")?.unwrap_or_else(|| vec![0.0; dim]);
    let scale = fields.vector("scale")?.unwrap_or_else(|| vec![1.0; dim]);
    for (name, found) in [("centre", centre.len()), ("scale", scale.len())] {
        if found != dim {
            return Err((Some(name.to_owned()), TraceProblem::Length { found, expected: dim }));
        }
    }
    let config: MemoryConfig = match fields.take("config") {
        None => MemoryConfig::default(),
        Some(value) => serde_json::from_value(value).map_err(|source| {
            (Some("config".to_owned()), TraceProblem::Config { message: source.to_string() })
        })?,
    };
    fields.finish()?;
    let normalization = Normalization::new(centre, scale)
        .map_err(|source| (None, TraceProblem::Normalization(source)))?;
    UnifiedMemory::new(SpaceId::of(FORMAT.as_bytes()), normalization, config)
        .map_err(|source| (Some("config".to_owned()), TraceProblem::Setting(source)))
}

fn read_input(value: Value, memory: &UnifiedMemory) -> Result<Input, Problem> {
    let mut fields = Fields::new(value)?;
    let op = fields.text("op")?.ok_or_else(|| fields::missing("op"))?;
    let input = match op.as_str() {
        "observe" => {
            let at = tick(&mut fields, memory)?;
            Input::Observe { at, seen: observation(&mut fields, memory)? }
        }
        "advance" => Input::Advance { at: tick(&mut fields, memory)? },
        "cycle" => {
            let cycles = fields.whole("cycles", 0..=u64::from(u32::MAX))?.unwrap_or(1) as u32;
            Input::Cycle { at: tick(&mut fields, memory)?, cycles }
        }
        "recall" | "recall_tokens" | "associate" | "address" => {
            read_question(&op, &mut fields, memory)?
        }
        "supersede" => {
            let (slot, by) = (fields.slot("slot")?, fields.slot("by")?);
            Input::Supersede { at: tick(&mut fields, memory)?, slot, by }
        }
        "set_gate" => {
            Input::SetGate { slot: fields.slot("slot")?, gate: fields.need_float("gate")? }
        }
        "prompt" => Input::Prompt { vector: fields.vector("vector")? },
        "attach_goal" => {
            Input::AttachGoal { slot: fields.slot("slot")?, vector: fields.need_vector("vector")? }
        }
        "counterfactual" => {
            let seed = fields.seed()?;
            let samples = fields.whole("samples", 0..=u64::from(u32::MAX))?.unwrap_or(8) as u32;
            let sigma = fields.float("sigma")?.unwrap_or(0.1);
            let how = Perturbation { seed, samples, sigma };
            Input::Counterfactual { query: fields.key("query", memory.config())?, how }
        }
        "novelty" => Input::Novelty { query: fields.key("query", memory.config())? },
        "reflect" => {
            Input::Reflect { query: fields.key("query", memory.config())?, k: fields.count_k()? }
        }
        "successors" => Input::Successors { slot: SlotId(fields.whole_needed("slot")?) },
        _ => return Err((Some("op".to_owned()), TraceProblem::UnknownOp { found: op })),
    };
    fields.finish()?;
    Ok(input)
}

fn read_question(op: &str, fields: &mut Fields, memory: &UnifiedMemory) -> Result<Input, Problem> {
    let at = tick(fields, memory)?;
    let (query, k) = (fields.key("query", memory.config())?, fields.count_k()?);
    Ok(match op {
        "recall" => Input::Recall { at, query, k },
        "recall_tokens" => {
            let token_ids = fields.tokens("token_ids")?.unwrap_or_default();
            Input::RecallTokens { at, query, token_ids, k }
        }
        "associate" => Input::Associate { at, query, k },
        _ => Input::Address { at, query, k, seed: fields.seed()? },
    })
}

/// The tick of a line; one after the last where it says none.
fn tick(fields: &mut Fields, memory: &UnifiedMemory) -> Result<Tick, Problem> {
    Ok(fields.whole("at", 0..=u64::MAX)?.unwrap_or(memory.now() + 1))
}

fn observation(fields: &mut Fields, memory: &UnifiedMemory) -> Result<Observation, Problem> {
    let key = fields.key("key", memory.config())?;
    let surprise = fields.floats_or_one("surprise")?.unwrap_or_default();
    let energy = match fields.float("energy")? {
        Some(energy) => energy,
        None => match crate::surprise::mean(&surprise) {
            Some(mean) => memory.energy_from_surprise(mean),
            None => return Err((Some("energy".to_owned()), TraceProblem::NoEnergy)),
        },
    };
    Ok(Observation {
        key,
        token_keys: fields.vector("token_keys")?.unwrap_or_default(),
        token_ids: fields.tokens("token_ids")?.unwrap_or_default(),
        text: fields.text("text")?.unwrap_or_default(),
        surprise,
        energy,
        source: fields.text("source")?.unwrap_or_else(|| "trace".to_owned()),
    })
}

/// `stm:3` or `ltm:17`.
fn slot_ref(text: &str) -> Option<SlotRef> {
    let (store, id) = text.split_once(':')?;
    let store = match store {
        "stm" => StoreKind::Stm,
        "ltm" => StoreKind::Ltm,
        _ => return None,
    };
    let digits = !id.is_empty() && id.bytes().all(|digit| digit.is_ascii_digit());
    Some(SlotRef { store, id: SlotId(id.parse().ok().filter(|_| digits)?) })
}
