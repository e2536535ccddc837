//! `cart run`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cart_engine::{
    Agent, Constraint, GenerateOptions, Generation, Grammar, KvFormat, LoadOptions, ParseSpecial,
    Prompt, SavedSession, Session, StartError, StepEvent,
};
use cart_format::{Recipe, TokenLogprob};
use cart_store::RefName;
use clap::{ArgGroup, Args, ValueHint};
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::sampling::{MemoryArgs, SamplingArgs};
use crate::saved::{self, Kept, Saved};

/// Complete a prompt.
///
/// Verifies and loads the cartridge, completes the raw prompt, and prints only the new text to
/// stdout. Memory is off unless --memory is given; --save keeps what it wrote. --with-session keeps
/// the session itself, so that another process goes on with --resume without reading again.
#[derive(Args)]
#[command(group = ArgGroup::new("saved").args(["memory", "with_session"]).multiple(true))]
#[command(after_help = "Examples:
  cart run smol -p 'The capital of France is' -n 8
  cart run smol -p 'The code of the vault is 4821.' -n 0 --memory --save smol:told
  cart run smol:told -p 'The code of the vault is' -n 8 --memory
  cart run smol -p 'The code is 4821.' -n 0 --memory --memory-log told.log
  cart run smol -p 'Once upon a time' -n 16 --save smol:tale --with-session
  cart run smol:tale --resume -n 64
  echo 'def fib(n):' | cart run smol -p - -n 40 --temperature 0.7 --seed 1
  cart run smol -p 'Anna is seven. As JSON: ' --json-schema person.json
  cart --json run smol -p 'Hello' -n 1 --top-logprobs 5")]
pub(crate) struct RunArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// The text to complete; `-` reads stdin. With --resume, what comes after the saved session
    #[arg(short, long, value_name = "TEXT", required_unless_present = "resume")]
    prompt: Option<String>,
    /// Continue the session that was saved in the cartridge
    #[arg(long, conflicts_with_all = ["memory", "kv"])]
    resume: bool,
    /// At most so many new tokens; 0 only reads the prompt
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// Go on after an end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Hold the answer to the JSON Schema in this file: it is JSON that fits, or its beginning where -n ends it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    json_schema: Option<PathBuf>,
    /// Say on stderr how long verifying, loading, the prompt and the new tokens took
    #[arg(long)]
    timings: bool,
    /// Report the K best tokens of each step with their log-probabilities (with --json)
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_logprobs: usize,
    /// Save the cartridge under this name, with its memory (--memory), the session, or both
    #[arg(long, value_name = "NAME[:TAG]", requires = "saved")]
    save: Option<RefName>,
    /// With --save: keep the session, to be continued with --resume
    #[arg(long, requires = "save")]
    with_session: bool,
    /// With --memory: write down everything that is done to the memory, in a new file
    #[arg(long, requires = "memory", value_name = "FILE", value_hint = ValueHint::FilePath)]
    memory_log: Option<PathBuf>,
    /// How keys and values are stored: f32, f16 or q8 [default: f16; f32 for float weights]
    #[arg(long, value_name = "FORMAT")]
    kv: Option<KvFormat>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    memory: MemoryArgs,
}

#[derive(Serialize)]
struct RunReport {
    manifest: String,
    text: String,
    prompt_ids: Vec<u32>,
    token_ids: Vec<u32>,
    logprobs: Vec<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_logprobs: Vec<Vec<TokenLogprob>>,
    finish: cart_engine::FinishReason,
    seconds: Seconds,
    memory: Option<cart_engine::MemoryUse>,
    saved: Option<Saved>,
}

#[derive(Serialize)]
struct Seconds {
    verify: f64,
    load: f64,
    /// To read the saved session and rebuild its state.
    restore: f64,
    recall: f64,
    prefill: f64,
    decode: f64,
}

/// What an answer is held to by the schema in a file.
fn constraint(path: &Path) -> Result<Constraint, Failure> {
    let refused = |error: &dyn std::fmt::Display| {
        Failure::refused_with(
            format!("{}: {error}", path.display()),
            "give a file with a JSON Schema, as {\"type\": \"object\", \"properties\": …}",
        )
    };
    let bytes = std::fs::read(path).map_err(|error| refused(&error))?;
    let schema = serde_json::from_slice(&bytes).map_err(|error| refused(&error))?;
    let grammar = Grammar::JsonSchema(schema);
    grammar.check().map_err(|error| refused(&error))?;
    Ok(Constraint::new(grammar))
}

pub(crate) fn run(context: &Context, args: &RunArgs) -> Result<(), Failure> {
    let prompt = args.prompt.as_deref().map(read_prompt).transpose()?;
    let mut options = args.sampling.options(args.max_tokens, args.memory.options());
    options.top_logprobs = args.top_logprobs;
    options.ignore_eos = args.ignore_eos;
    options.constraint = args.json_schema.as_deref().map(constraint).transpose()?;
    options.check().map_err(|error| Failure::arguments(error.to_string()))?;
    let load = LoadOptions { kv: args.kv, ..history::load_options(context) };
    let (agent, origin) = history::load_with(context, &args.reference, &load)?;
    if let Some(path) = &args.memory_log {
        super::memory::log_to(&agent, path)?;
    }
    let began = Instant::now();
    let mut session = begin(&agent, &origin, args, prompt, &options)?;
    let restored = if args.resume { began.elapsed() } else { Duration::ZERO };
    while session.finished().is_none() {
        let event = session.step(&agent).map_err(Failure::refused)?;
        if let StepEvent::Generated(event) = event
            && !context.json
        {
            report::stdout(event.text_delta.as_bytes())?;
        }
    }
    let kept = args.with_session.then(|| session.save(&agent)).transpose();
    let kept = kept.map_err(Failure::refused)?;
    let generation = session.finish(&agent).map_err(Failure::refused)?;
    let saved = match &args.save {
        Some(name) => {
            let (memory, session) = (agent.memory(), kept.as_ref());
            let kept = Kept { memory: memory.as_deref(), session };
            Some(saved::save(context, &origin, kept, name, Recipe::new("run"))?)
        }
        None => None,
    };
    if context.json {
        return print_report(&agent, &origin, restored, generation, saved);
    }
    if args.max_tokens > 0 {
        report::line("")?;
    }
    say_what_happened(context, &generation, saved.as_ref());
    if args.timings {
        say_timings(context, &origin, &generation);
    }
    Ok(())
}

/// Starts the session, or continues the saved one.
fn begin(
    agent: &Agent,
    origin: &history::LoadedFrom,
    args: &RunArgs,
    prompt: Option<String>,
    options: &GenerateOptions,
) -> Result<Session, Failure> {
    if !args.resume {
        let prompt = Prompt::Raw(prompt.unwrap_or_default());
        return Session::start(agent, &prompt, options).map_err(Failure::refused);
    }
    let saved = SavedSession::read(&origin.verified).map_err(Failure::refused)?;
    let more = match (prompt, agent.tokenizer()) {
        (Some(text), Some(tokenizer)) => {
            tokenizer.encode(&text, ParseSpecial::Yes).map_err(Failure::refused)?
        }
        (Some(_), None) => return Err(Failure::refused(StartError::NoTokenizer)),
        (None, _) => Vec::new(),
    };
    Session::resume(agent, &saved, &more, options).map_err(Failure::refused)
}

/// A prompt as given; of `-`, what is on stdin.
pub(crate) fn read_prompt(prompt: &str) -> Result<String, Failure> {
    if prompt != "-" {
        return Ok(prompt.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(Failure::refused)?;
    Ok(text)
}

fn print_report(
    agent: &Agent,
    origin: &history::LoadedFrom,
    restored: Duration,
    generation: Generation,
    saved: Option<Saved>,
) -> Result<(), Failure> {
    let timings = generation.timings;
    report::print(
        "run",
        &RunReport {
            manifest: agent.id().hex(),
            text: generation.text,
            prompt_ids: generation.prompt_ids,
            token_ids: generation.token_ids,
            logprobs: generation.logprobs,
            top_logprobs: generation.top_logprobs,
            finish: generation.finish,
            seconds: Seconds {
                verify: origin.verify.as_secs_f64(),
                load: origin.load.as_secs_f64(),
                restore: restored.as_secs_f64(),
                recall: timings.recall.as_secs_f64(),
                prefill: timings.prefill.as_secs_f64(),
                decode: timings.decode.as_secs_f64(),
            },
            memory: generation.memory,
            saved,
        },
    )
}

fn say_what_happened(context: &Context, generation: &Generation, saved: Option<&Saved>) {
    if let Some(used) = &generation.memory {
        context.remark(&format!(
            "memory: {} of {} slots read, {} spans written ({} new slots, {} consolidated)",
            used.read.len(),
            used.slots,
            used.written,
            used.slots_added,
            used.slots_consolidated,
        ));
        for read in &used.read {
            context.remark(&format!("  read {:.2}  {}", read.score, read.text.trim()));
        }
    }
    if let Some(saved) = saved {
        context.remark(&saved.said());
        if let Some(session) = &saved.session {
            let megabytes = session.bytes as f64 / 1e6;
            context.remark(&format!(
                "  session of {} positions, {megabytes:.1} MB; go on with `cart run {} --resume`",
                session.positions, saved.name
            ));
        }
    }
}

fn say_timings(context: &Context, origin: &history::LoadedFrom, generation: &Generation) {
    let timings = &generation.timings;
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    context.remark(&format!(
        "verify {:.1} ms, load {:.1} ms, recall {:.1} ms, prefill {:.1} ms ({} tokens), decode {:.1} ms ({} tokens)",
        ms(origin.verify),
        ms(origin.load),
        ms(timings.recall),
        ms(timings.prefill),
        generation.prompt_ids.len(),
        ms(timings.decode),
        generation.token_ids.len(),
    ));
}
