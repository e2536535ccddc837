//! `cart memory replay`.

use std::path::{Path, PathBuf};

use cart_memory::log::{LogError, LogStatistics, MemoryLog};
use cart_memory::trace::{MemoryView, Trace};
use cart_memory::{Answer, MemoryEvent, UnifiedMemory};
use clap::{Args, ValueEnum, ValueHint};
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// Do to a memory what a trace or a log says, and show what came of it.
///
/// A trace is JSON Lines: the first line says what memory it is, every further line is one
/// operation. The page 36 of the specification describes it. A line that is refused is named with
/// its field. A log (page 37) is what a memory wrote down itself: every decision in it is taken
/// again, and must be the same.
#[derive(Args)]
#[command(after_help = "Examples:
  cart memory replay --trace stm.trace.jsonl
  cart --json memory replay --trace stm.trace.jsonl
  cart --json memory replay --trace stm.trace.jsonl --state last
  cart --json memory replay --log session.log
  cart memory replay --log more.log --base smol:told")]
pub(crate) struct ReplayArgs {
    /// A trace of operations
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(required_unless_present = "log", conflicts_with = "log")]
    trace: Option<PathBuf>,
    /// A log of a memory; shows energies, lifetimes, writes, reads and the goal's way
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    log: Option<PathBuf>,
    /// The cartridge with the memory that the log goes on from, where it does not begin with an empty one
    #[arg(long, value_name = "REF", requires = "log")]
    base: Option<String>,
    /// Of a log, only the first N operations, whatever comes after them
    #[arg(long, value_name = "N", requires = "log")]
    until: Option<u64>,
    /// After which operations of a trace the whole state is reported
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = States::Every)]
    #[arg(conflicts_with = "log")]
    state: States,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum States {
    /// Each
    Every,
    /// The last
    Last,
}

#[derive(Serialize)]
struct ReplayReport {
    operations: usize,
    memory_id: String,
    steps: Vec<StepRow>,
    state: MemoryView,
}

#[derive(Serialize)]
struct StepRow {
    line: usize,
    op: String,
    events: Vec<MemoryEvent>,
    answer: Option<Answer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<MemoryView>,
}

#[derive(Serialize)]
struct LogReport {
    records: usize,
    whole_bytes: usize,
    cut_bytes: usize,
    memory_id: String,
    statistics: LogStatistics,
    state: MemoryView,
}

pub(crate) fn run(context: &Context, args: &ReplayArgs) -> Result<(), Failure> {
    match (&args.trace, &args.log) {
        (Some(trace), _) => replay_trace(context, trace, args.state),
        (None, Some(log)) => replay_log(context, log, args),
        (None, None) => Err(Failure::arguments("give --trace or --log")),
    }
}

fn replay_log(context: &Context, path: &Path, args: &ReplayArgs) -> Result<(), Failure> {
    let bytes = std::fs::read(path).map_err(|source| {
        Failure::refused_with(format!("{} can't be read: {source}", path.display()), "give a log")
    })?;
    let refused = |error: LogError| refused_log(path, &error);
    let log = MemoryLog::open_first(&bytes, args.until.unwrap_or(u64::MAX)).map_err(refused)?;
    let base = match &args.base {
        Some(reference) => history::memory_of(&history::open(context, reference)?)?,
        None => None,
    };
    let memory = UnifiedMemory::replay(&log, base.as_ref()).map_err(refused)?;
    let body = LogReport {
        records: log.records.len(),
        whole_bytes: log.whole_bytes,
        cut_bytes: bytes.len() - log.whole_bytes,
        memory_id: memory.snapshot().id().hex(),
        statistics: LogStatistics::of(&log.records),
        state: memory.view(),
    };
    if context.json {
        return report::print("memory-log", &body);
    }
    let LogStatistics { ticks, writes, reads, stm, ltm, .. } = &body.statistics;
    report::line(&format!(
        "{} records, ticks {} to {}, {} bytes cut at the end; memory {}\n\
         {} observations ({:.1} % blended), {} reads of {} slots (entropy {:.2} nat a read, {:.2} of all)\n\
         {} short-term and {} long-term slots lived and went",
        body.records,
        ticks.0,
        ticks.1,
        body.cut_bytes,
        &body.memory_id[..12],
        writes.observations,
        100.0 * writes.blended,
        reads.reads,
        reads.slots,
        reads.entropy,
        reads.entropy_of_all,
        stm.lifetimes.len(),
        ltm.lifetimes.len(),
    ))
}

/// A log that can't be replayed, with what can be done.
pub(super) fn refused_log(path: &Path, error: &LogError) -> Failure {
    let hint = match error.operations_before() {
        Some(before) => format!("`--until {before}` of `cart memory replay` stops before it"),
        None if matches!(error, LogError::Base { .. }) => {
            "`--base REF` names a cartridge with that memory".to_owned()
        }
        None => "spec/37-memory-log.md describes the format".to_owned(),
    };
    Failure::refused_with(format!("{}: {error}", path.display()), hint)
}

fn replay_trace(context: &Context, path: &Path, states: States) -> Result<(), Failure> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        Failure::refused_with(
            format!("{} can't be read: {source}", path.display()),
            "give a trace, JSON Lines in UTF-8",
        )
    })?;
    let refused = |error| {
        Failure::refused_with(
            format!("{}: {error}", path.display()),
            "spec/36-memory-trace.md describes the format",
        )
    };
    let mut trace = Trace::open(&text).map_err(refused)?;
    let mut steps = Vec::new();
    while let Some(step) = trace.step().map_err(refused)? {
        let row = StepRow {
            line: step.line,
            op: step.input.name().to_owned(),
            events: step.outcome.events,
            answer: step.outcome.answer,
            state: (context.json && states == States::Every).then(|| trace.memory().view()),
        };
        if !context.json {
            report::line(&said(&row)?)?;
        }
        steps.push(row);
    }
    let memory_id = trace.memory().snapshot().id().hex();
    if context.json {
        let state = trace.memory().view();
        let operations = steps.len();
        return report::print(
            "memory-replay",
            &ReplayReport { operations, memory_id, steps, state },
        );
    }
    let view = trace.memory().report();
    report::line(&format!(
        "{} operations: {} short-term and {} long-term slots, goal {:.3} long after {} steps; memory {}",
        steps.len(),
        view.stm.slots,
        view.ltm.slots,
        view.goal_norm,
        view.goal_steps,
        &memory_id[..12],
    ))
}

/// A line for people: the operation and what was decided.
fn said(row: &StepRow) -> Result<String, Failure> {
    let decisions: Vec<String> = row
        .events
        .iter()
        .map(|event| serde_json::to_value(event).map(|event| decision(&event)))
        .collect::<Result<_, _>>()
        .map_err(Failure::bug)?;
    Ok(format!("{:>5}  {:<14} {}", row.line, row.op, decisions.join(", ")).trim_end().to_owned())
}

/// An event's name and the slots that it is about.
fn decision(event: &Value) -> String {
    let slots = ["slot", "from", "into"].into_iter().filter_map(|part| match &event[part] {
        Value::Null => None,
        Value::Number(id) => Some(format!(" {id}")),
        slot => Some(format!(" {}:{}", slot["store"].as_str().unwrap_or_default(), slot["id"])),
    });
    event["event"].as_str().unwrap_or_default().to_owned() + &slots.collect::<String>()
}
