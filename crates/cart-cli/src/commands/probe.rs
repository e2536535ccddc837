//! `cart probe`.

use cart_engine::{ProbeFailure, ShowSpecial};
use cart_format::{Probe, Recipe};
use clap::Args;
use serde::Serialize;

use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// Record golden probes, or check them.
///
/// With -p, the model's best tokens for each prompt are recorded on a new commit of the cartridge
/// (its content and id stay). Without, the recorded ones are run again; exit code 1 if any answer
/// moved. A swap runs them before it activates a cartridge.
#[derive(Args)]
#[command(after_help = "Examples:
  cart probe smol -p 'The capital of France is' -p '2 + 2 ='
  cart probe smol")]
pub(crate) struct ProbeArgs {
    /// A cartridge; to record, a name
    #[arg(value_name = "REF")]
    reference: String,
    /// A raw prompt to record (may be given several times)
    #[arg(short, long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Greedy steps to record
    #[arg(long, value_name = "N", default_value_t = 4)]
    steps: usize,
    /// Best tokens to record at each step
    #[arg(long, value_name = "K", default_value_t = 5)]
    top: usize,
    /// How far a log-probability may move, in nats
    #[arg(long, value_name = "NATS", default_value_t = 0.25)]
    tolerance: f64,
    /// Replace the probes that are there, instead of adding to them
    #[arg(long, requires = "prompt")]
    replace: bool,
}

#[derive(Serialize)]
struct ProbeReport {
    manifest: String,
    commit: Option<String>,
    recorded: usize,
    probes: Vec<Outcome>,
    passed: bool,
}

#[derive(Serialize)]
struct Outcome {
    prompt: String,
    passed: bool,
    largest_shift: f64,
    tolerance: f64,
    best: String,
    reason: Option<ProbeFailure>,
}

pub(crate) fn run(context: &Context, args: &ProbeArgs) -> Result<(), Failure> {
    let (agent, origin) = history::load(context, &args.reference)?;
    let body = if args.prompt.is_empty() {
        check(&agent, &origin)?
    } else {
        record(context, args, &agent, &origin)?
    };
    if context.json {
        report::print("probe", &body)?;
    } else {
        render(&body)?;
    }
    if body.passed { Ok(()) } else { Err(Failure::Found) }
}

fn check(agent: &cart_engine::Agent, origin: &history::LoadedFrom) -> Result<ProbeReport, Failure> {
    if origin.probes.is_empty() {
        return Err(Failure::refused_with(
            "the cartridge's commit has no probes",
            "`cart probe REF -p PROMPT` records one",
        ));
    }
    let mut probes = Vec::new();
    for probe in &origin.probes {
        probes.push(outcome(agent, probe)?);
    }
    let passed = probes.iter().all(|probe| probe.passed);
    let manifest = origin.manifest.hex();
    Ok(ProbeReport { manifest, commit: None, recorded: 0, probes, passed })
}

fn record(
    context: &Context,
    args: &ProbeArgs,
    agent: &cart_engine::Agent,
    origin: &history::LoadedFrom,
) -> Result<ProbeReport, Failure> {
    let Some(name) = &origin.name else {
        return Err(Failure::arguments(format!(
            "probes are recorded on a name's new commit, and `{}` is not a name; `cart tag` gives it one",
            args.reference
        )));
    };
    if !(args.tolerance.is_finite() && args.tolerance > 0.0) {
        return Err(Failure::arguments("--tolerance must be over 0 nats"));
    }
    let mut all = if args.replace { Vec::new() } else { origin.probes.clone() };
    let kept = all.len();
    for prompt in &args.prompt {
        let mut probe = cart_engine::record_probe(agent, prompt, args.steps, args.top)
            .map_err(Failure::refused)?;
        probe.tolerance = args.tolerance;
        all.push(probe);
    }
    let mut probes = Vec::new();
    for probe in &all[kept..] {
        probes.push(outcome(agent, probe)?);
    }
    let store = context.store()?;
    let new = history::NewCommit {
        manifest: origin.manifest,
        parents: origin.commit.into_iter().collect(),
        recipe: Recipe::new("probe").with("tool", history::tool()),
        message: String::new(),
        probes: all,
    };
    let commit = history::commit(&store, new, Some(name))?;
    let passed = probes.iter().all(|probe| probe.passed);
    Ok(ProbeReport {
        manifest: origin.manifest.hex(),
        commit: Some(commit.hex()),
        recorded: probes.len(),
        probes,
        passed,
    })
}

fn outcome(agent: &cart_engine::Agent, probe: &Probe) -> Result<Outcome, Failure> {
    let checked = cart_engine::check_probe(agent, probe).map_err(Failure::refused)?;
    let best = probe.steps.iter().filter_map(|step| step.top.first()).map(|best| best.token);
    let best: Vec<u32> = best.collect();
    Ok(Outcome {
        prompt: probe.prompt.clone(),
        passed: checked.passed,
        largest_shift: checked.largest,
        tolerance: probe.tolerance,
        best: agent
            .tokenizer()
            .and_then(|tokenizer| tokenizer.decode(&best, ShowSpecial::Yes).ok())
            .unwrap_or_default(),
        reason: checked.failure,
    })
}

fn render(body: &ProbeReport) -> Result<(), Failure> {
    if let Some(commit) = &body.commit {
        let count = crate::bytes::counted(body.recorded as u64, "probe");
        report::line(&format!("recorded {count} on commit {}", &commit[..12]))?;
    }
    for probe in &body.probes {
        let verdict = if probe.passed { "pass" } else { "FAIL" };
        report::line(&format!(
            "  {verdict}  shift {:.4} of {:.2} nats  {:?} → {:?}",
            probe.largest_shift, probe.tolerance, probe.prompt, probe.best
        ))?;
    }
    Ok(())
}
