//! `cart bench profile`.

use std::time::{Duration, Instant};

use cart_engine::{Agent, ParseSpecial};
use cart_nn::decoder::{Decoder, Run, State};
use cart_nn::{Activations, KernelLevel, LogitsFor, Part, Profile, machine, profiled};
use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::table::Table;

/// Show where the time of a token goes, part by part, against what the machine could do at best.
///
/// Three phases: a prompt is read, one session generates, and many sessions generate together. AT BEST
/// is the time in which memory could deliver a part's weights, or in which the processor could
/// multiply them, whichever is longer; both bounds are measured first. What is no product has none.
#[derive(Args)]
#[command(after_help = "Examples:
  cart bench profile smol
  cart bench profile smol --activations mixed --threads 1
  cart --json bench profile smol --prompt 2000 --tokens 256")]
pub(crate) struct ProfileArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    prompt: u32,
    /// Tokens that are generated in each session
    #[arg(long, short = 'n', value_name = "N", default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tokens: u32,
    /// Sessions that generate together
    #[arg(long, value_name = "N", default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..=256))]
    sessions: u16,
}

#[derive(Serialize)]
struct ProfileReport {
    manifest: String,
    kernels: String,
    activations: String,
    threads: usize,
    read_bytes_per_second: f64,
    /// Multiplications and additions counted apart.
    int8_operations_per_second: f64,
    phases: Vec<Phase>,
}

#[derive(Serialize)]
struct Phase {
    what: &'static str,
    tokens: usize,
    tokens_per_second: f64,
    seconds: f64,
    parts: Vec<PartRow>,
    /// What the parts leave: tables, sums of the last row, copies of logits.
    rest_seconds: f64,
}

#[derive(Serialize)]
struct PartRow {
    part: &'static str,
    calls: u64,
    seconds: f64,
    share: f64,
    weight_bytes: u64,
    products: u64,
    /// What bounds it: `memory`, `int8`, or nothing known.
    bound: Option<&'static str>,
    bound_seconds: Option<f64>,
}

/// What the machine does in a second, at best.
struct Bounds {
    bytes: f64,
    /// Multiplications of a weight with an activation of the bits in use.
    products: f64,
}

pub(crate) fn run(context: &Context, args: &ProfileArgs) -> Result<(), Failure> {
    let verified = history::verified(context, &args.reference)?;
    let options = history::load_options(context);
    let activations = options.activations.unwrap_or_default();
    let agent = Agent::load(&verified, &options).map_err(Failure::refused)?;
    let Some(level) = agent.model().kernel_level() else {
        return Err(Failure::refused(
            "tensor operations of --device graph and of GPUs are not timed part by part; \
             leave out --device, or use the profiler of the device",
        ));
    };
    let threads = rayon::current_num_threads();
    context.remark("what the machine can do at best …");
    let read = machine::read_bandwidth(threads);
    let int8 = machine::int8_throughput(level, threads);
    // An activation of 16 bits is multiplied byte by byte.
    let bytes = if activations == Activations::Exact { 2.0 } else { 1.0 };
    let bounds = Bounds { bytes: read, products: int8 / 2.0 / bytes };
    let body = ProfileReport {
        manifest: agent.id().hex(),
        kernels: level.name().to_owned(),
        activations: activations.to_string(),
        threads,
        read_bytes_per_second: read,
        int8_operations_per_second: int8,
        phases: phases(context, args, &agent, &bounds)?,
    };
    if context.json {
        return report::print("bench-profile", &body);
    }
    show(&body, level)
}

fn phases(
    context: &Context,
    args: &ProfileArgs,
    agent: &Agent,
    bounds: &Bounds,
) -> Result<Vec<Phase>, Failure> {
    let (prompt, tokens) = (args.prompt as usize, args.tokens as usize);
    let model = agent.model();
    if prompt + tokens > agent.context_length() {
        return Err(Failure::arguments(format!(
            "--prompt {prompt} and --tokens {tokens} are more than the model's context of {}; \
             give fewer",
            agent.context_length()
        )));
    }
    let ids = ids(agent, prompt)?;
    context.remark("once without a clock …");
    Pass::new(model, 1).read(&ids)?;
    let mut phases = Vec::new();
    let sessions = usize::from(args.sessions);
    for (what, count, read) in
        [("prompt", 1, true), ("one-session", 1, false), ("many-sessions", sessions, false)]
    {
        context.remark(&format!("{what} …"));
        let mut pass = Pass::new(model, count);
        let began = Instant::now();
        let (done, profile) = if read {
            let (done, profile) = profiled(|| pass.read(&ids));
            done?;
            (prompt, profile)
        } else {
            let (done, profile) = profiled(|| pass.generate(ids[0], tokens));
            done?;
            (tokens * count, profile)
        };
        phases.push(phase(what, done, began.elapsed(), &profile, bounds));
    }
    Ok(phases)
}

/// Token ids of a text as long as is asked for.
fn ids(agent: &Agent, count: usize) -> Result<Vec<u32>, Failure> {
    let tokenizer = agent.tokenizer().ok_or_else(|| {
        Failure::refused("the cartridge has no tokenizer, so there is no text to read")
    })?;
    let ids = tokenizer.encode(super::TEXT, ParseSpecial::No).map_err(Failure::refused)?;
    Ok(ids.into_iter().cycle().take(count).collect())
}

/// Sessions that go through the model together.
struct Pass<'a> {
    model: &'a Decoder,
    states: Vec<State>,
}

impl<'a> Pass<'a> {
    fn new(model: &'a Decoder, sessions: usize) -> Self {
        Self { model, states: (0..sessions).map(|_| model.new_state()).collect() }
    }

    /// Reads `ids` in each session.
    fn read(&mut self, ids: &[u32]) -> Result<(), Failure> {
        self.forward(&vec![ids; self.states.len()]).map(drop)
    }

    /// Generates `tokens` in each session, the likeliest each time; session `i` begins with token
    /// `first + i`.
    fn generate(&mut self, first: u32, tokens: usize) -> Result<(), Failure> {
        let vocabulary = self.model.spec().vocab_size as u32;
        let mut last: Vec<[u32; 1]> =
            (0..self.states.len()).map(|index| [(first + index as u32) % vocabulary]).collect();
        for _ in 0..tokens {
            let runs: Vec<&[u32]> = last.iter().map(<[u32; 1]>::as_slice).collect();
            last = self.forward(&runs)?;
        }
        Ok(())
    }

    /// The likeliest tokens after `tokens`.
    fn forward(&mut self, tokens: &[&[u32]]) -> Result<Vec<[u32; 1]>, Failure> {
        let run = |(state, &tokens)| Run { state, tokens, logits: LogitsFor::Last, taps: None };
        let mut runs: Vec<Run<'_>> = self.states.iter_mut().zip(tokens).map(run).collect();
        let logits = self.model.forward(&mut runs).map_err(Failure::refused)?;
        let best = |row: &[f32]| [super::top(row) as u32];
        Ok(logits.iter().filter_map(|logits| logits.last().map(best)).collect())
    }
}

fn phase(
    what: &'static str,
    tokens: usize,
    time: Duration,
    profile: &Profile,
    bounds: &Bounds,
) -> Phase {
    let seconds = time.as_secs_f64();
    let taken = Part::ALL.into_iter().map(|part| (part, profile.part(part)));
    let rows = taken.filter(|(_, taken)| taken.calls > 0).map(|(part, taken)| {
        let memory = taken.weight_bytes as f64 / bounds.bytes;
        let int8 = taken.products as f64 / bounds.products;
        let bounded = taken.products > 0;
        PartRow {
            part: part.name(),
            calls: taken.calls,
            seconds: taken.time.as_secs_f64(),
            share: taken.time.as_secs_f64() / seconds,
            weight_bytes: taken.weight_bytes,
            products: taken.products,
            bound: bounded.then_some(if memory > int8 { "memory" } else { "int8" }),
            bound_seconds: bounded.then_some(memory.max(int8)),
        }
    });
    Phase {
        what,
        tokens,
        tokens_per_second: tokens as f64 / seconds,
        seconds,
        parts: rows.collect(),
        rest_seconds: (time.saturating_sub(profile.time())).as_secs_f64(),
    }
}

/// Characters of a bar for a whole.
const BAR: f64 = 30.0;

fn show(body: &ProfileReport, level: KernelLevel) -> Result<(), Failure> {
    report::line(&format!(
        "{} kernels, {} activations, {} threads; at best {:.1} GB/s and {:.2} TOP/s of int8",
        level.name(),
        body.activations,
        body.threads,
        body.read_bytes_per_second / 1e9,
        body.int8_operations_per_second / 1e12,
    ))?;
    for phase in &body.phases {
        let what = match phase.what {
            "prompt" => "a prompt is read",
            "one-session" => "one session generates",
            _ => "sessions generate together",
        };
        report::line(&format!(
            "\n{what}: {} tokens, {:.0} tokens/s",
            phase.tokens, phase.tokens_per_second
        ))?;
        let mut table =
            Table::new(&["PART", ">µs A TOKEN", ">AT BEST", ">OF BOUND", "BOUND BY", "SHARE"]);
        let each = |seconds: f64| format!("{:.1}", seconds * 1e6 / phase.tokens as f64);
        let bar = |share: f64| {
            format!("{} {:.0} %", "█".repeat((share * BAR).round() as usize), share * 100.0)
        };
        for row in &phase.parts {
            let reached = row.bound_seconds.map(|bound| bound / row.seconds);
            table.row([
                row.part.to_owned(),
                each(row.seconds),
                row.bound_seconds.map_or_else(|| "–".to_owned(), each),
                reached.map_or_else(|| "–".to_owned(), |share| format!("{:.0} %", share * 100.0)),
                row.bound.unwrap_or("–").to_owned(),
                bar(row.share),
            ]);
        }
        let none = || "–".to_owned();
        let share = phase.rest_seconds / phase.seconds;
        let rest =
            ["the rest".to_owned(), each(phase.rest_seconds), none(), none(), none(), bar(share)];
        table.row(rest);
        report::stdout(table.render().as_bytes())?;
    }
    Ok(())
}
