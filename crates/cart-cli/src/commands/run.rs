//! `cart run`.

use std::io::Read as _;

use cart_engine::{GenerateEvent, Generation, Prompt};
use cart_format::{Recipe, TokenLogprob};
use cart_store::RefName;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::sampling::{MemoryArgs, SamplingArgs};

/// Complete a prompt.
///
/// Verifies and loads the cartridge, completes the raw prompt, and prints only the new text to
/// stdout. Memory is off unless --memory is given; --save keeps what it wrote.
#[derive(Args)]
#[command(after_help = "Examples:
  cart run smol -p 'The capital of France is' -n 8
  cart run smol -p 'The code of the vault is 4821.' -n 0 --memory --save smol:told
  cart run smol:told -p 'The code of the vault is' -n 8 --memory
  echo 'def fib(n):' | cart run smol -p - -n 40 --temperature 0.7 --seed 1
  cart --json run smol -p 'Hello' -n 1 --top-logprobs 5")]
pub(crate) struct RunArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// The text to complete; `-` reads stdin
    #[arg(short, long, value_name = "TEXT")]
    prompt: String,
    /// At most so many new tokens; 0 only reads the prompt
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// Go on after an end-of-text token
    #[arg(long)]
    ignore_eos: bool,
    /// Report the K best tokens of each step with their log-probabilities (with --json)
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_logprobs: usize,
    /// Save the cartridge with its memory under this name
    #[arg(long, value_name = "NAME[:TAG]", requires = "memory")]
    save: Option<RefName>,
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
    recall: f64,
    prefill: f64,
    decode: f64,
}

/// Where a memory was saved.
#[derive(Serialize)]
pub(crate) struct Saved {
    name: String,
    manifest: String,
    commit: String,
}

pub(crate) fn run(context: &Context, args: &RunArgs) -> Result<(), Failure> {
    let prompt = read_prompt(&args.prompt)?;
    let mut options = args.sampling.options(args.max_tokens, args.memory.options());
    options.top_logprobs = args.top_logprobs;
    options.ignore_eos = args.ignore_eos;
    options.check().map_err(|error| Failure::arguments(error.to_string()))?;
    let (agent, origin) = history::load(context, &args.reference)?;
    let mut broken = None;
    let generation = agent
        .generate(&Prompt::Raw(prompt), &options, |event: &GenerateEvent| {
            if !context.json && broken.is_none() {
                broken = report::stdout(event.text_delta.as_bytes()).err();
            }
        })
        .map_err(Failure::refused)?;
    if let Some(failure) = broken {
        return Err(failure);
    }
    let saved = match &args.save {
        Some(name) => Some(save(context, &agent, &origin, name, "run")?),
        None => None,
    };
    if context.json {
        return print_report(&agent, generation, saved);
    }
    if args.max_tokens > 0 {
        report::line("")?;
    }
    say_what_happened(context, &generation, saved.as_ref());
    Ok(())
}

fn read_prompt(prompt: &str) -> Result<String, Failure> {
    if prompt != "-" {
        return Ok(prompt.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(Failure::refused)?;
    Ok(text)
}

/// Saves the agent with its memory as a new commit on top of where it came from.
pub(crate) fn save(
    context: &Context,
    agent: &cart_engine::Agent,
    origin: &history::LoadedFrom,
    name: &RefName,
    kind: &str,
) -> Result<Saved, Failure> {
    let store = context.store_or_new()?;
    let held = store.hold().map_err(Failure::refused)?;
    let manifest = history::save_agent(&store, agent, origin)?;
    let slots = agent.memory().map(|memory| memory.report());
    let slots = slots.as_ref().map_or((0, 0), |report| (report.stm.slots, report.ltm.slots));
    let recipe = Recipe::new(kind)
        .with("tool", history::tool())
        .with("from", Value::from(origin.manifest.hex()))
        .with("stm_slots", slots.0)
        .with("ltm_slots", slots.1);
    let new = history::NewCommit {
        manifest,
        parent: origin.commit,
        recipe,
        message: String::new(),
        probes: origin.probes.clone(),
    };
    let commit = history::commit(&store, new, Some(name))?;
    drop(held);
    Ok(Saved { name: name.to_string(), manifest: manifest.hex(), commit: commit.hex() })
}

fn print_report(
    agent: &cart_engine::Agent,
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
        context.remark(&format!("saved {}  sha256:{}", saved.name, saved.manifest));
    }
}
