//! `cart bench engine`.

pub(crate) mod bound;
mod driver;
mod figures;
mod plan;
mod rivals;
mod shown;
pub(crate) mod worker;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cart_engine::Agent;
use cart_nn::{KernelLevel, machine};
use clap::{Args, ValueHint};

use crate::child;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;
use bound::Bound;
use driver::{DriverError, Outcome, Speech};
use figures::{EngineReport, Machine, ModelReport, Row};
use plan::{Job, Plan};
use rivals::Rival;

/// Measure the engine's speed and memory on this machine, alone or beside its rivals.
///
/// Runs cart and every rival on the same file with the same tokens and threads, in turn, each in a
/// process of its own. Prints tokens a second (the best of the rounds), the time from the start of
/// the process to the first token, peak memory, cart's ratio to each rival (over 1: cart is ahead),
/// and how near cart comes to what the machine can do. scripts/install-rivals installs rivals;
/// without --rivals cart runs alone, and there are no ratios.
#[derive(Args)]
#[command(after_help = "Examples:
  cart bench engine SmolLM2-135M-Instruct.Q4_1.gguf --rivals ~/rivals
  cart --json bench engine a.gguf b.gguf --rivals ~/rivals --with-threads 1,2 --rounds 5
  cart bench engine SmolLM2-135M-Instruct.Q4_1.gguf
  cart bench engine a.gguf --jobs short --prefix 'chrt -r 5'")]
pub(crate) struct EngineArgs {
    /// Models that every engine reads: GGUF files
    #[arg(value_name = "MODEL", required = true, value_hint = ValueHint::FilePath)]
    models: Vec<PathBuf>,
    /// The folder that scripts/install-rivals filled; without it cart runs alone
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    rivals: Option<PathBuf>,
    /// Only the rivals of these names (folders in DIR)
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "rivals")]
    only: Vec<String>,
    /// Numbers of threads to measure with
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 2],
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    with_threads: Vec<u16>,
    /// How many times every engine has its turn
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// What to measure
    #[arg(long, value_name = "JOB", value_enum, value_delimiter = ',',
        default_values_t = [Job::Short, Job::First, Job::Many, Job::Long])]
    jobs: Vec<Job>,
    /// Longest time of one process, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    limit: u64,
    /// A command in front of every engine's, such as `chrt -r 5` on a machine with other work
    #[arg(long, value_name = "COMMAND")]
    prefix: Option<String>,
}

pub(crate) fn run(context: &Context, args: &EngineArgs) -> Result<(), Failure> {
    for model in &args.models {
        std::fs::metadata(model).map_err(|source| {
            let path = model.display();
            Failure::refused_with(
                format!("{path} can't be read: {source}"),
                "give a GGUF file (scripts/fetch-models brings two) or a model folder",
            )
        })?;
    }
    let rivals = rivals::find(args.rivals.as_deref(), &args.only)?;
    let scratch = tempfile::tempdir().map_err(Failure::refused)?;
    context.remark("measuring what the machine can do …");
    let launcher = Launcher { prefix: args.prefix.as_deref(), pins: pins() };
    let machine = machine_report(&launcher, &args.with_threads)?;
    let mut models = Vec::new();
    for path in &args.models {
        let bench = Bench::new(context, args, &launcher, scratch.path(), path, &rivals)?;
        models.push(bench.run(&machine)?);
    }
    let body = EngineReport { machine, rounds: args.rounds, pinned: launcher.pins, models };
    if context.json {
        return report::print("bench-engine", &body);
    }
    shown::print(&body)
}

fn machine_report(launcher: &Launcher<'_>, threads: &[u16]) -> Result<Machine, Failure> {
    let bounds = threads.iter().map(|&threads| bound::measure(launcher.cart(threads)?, threads));
    Ok(Machine {
        processor: machine::processor_name(),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        kernels: KernelLevel::detect().name().to_owned(),
        bounds: bounds.collect::<Result<_, _>>()?,
    })
}

/// Whether processes can be kept on as many cores as they have threads.
fn pins() -> bool {
    cfg!(target_os = "linux")
        && Command::new("taskset").arg("--version").output().is_ok_and(|done| done.status.success())
}

/// How processes are started: all alike.
struct Launcher<'a> {
    prefix: Option<&'a str>,
    pins: bool,
}

impl Launcher<'_> {
    /// A program behind the prefix, on as many cores as it has threads.
    fn command(&self, program: &Path, threads: u16) -> Command {
        let prefix = self.prefix.unwrap_or_default().split_whitespace().map(str::to_owned);
        let mut words: Vec<String> = prefix.collect();
        if self.pins {
            words.extend(["taskset".to_owned(), "-c".to_owned(), format!("0-{}", threads - 1)]);
        }
        let Some((first, rest)) = words.split_first() else { return Command::new(program) };
        let mut command = Command::new(first);
        command.args(rest).arg(program);
        command
    }

    /// This program.
    fn cart(&self, threads: u16) -> Result<Command, Failure> {
        let program = std::env::current_exe().map_err(Failure::refused)?;
        Ok(self.command(&program, threads))
    }
}

/// One model with everyone who runs it.
struct Bench<'a> {
    args: &'a EngineArgs,
    context: Context,
    path: &'a Path,
    rivals: &'a [Rival],
    plan: Plan,
    plan_path: PathBuf,
    size: Size,
    launcher: &'a Launcher<'a>,
}

/// What a token costs.
struct Size {
    file: u64,
    /// Bytes of weights that one token reads.
    token_bytes: u64,
    /// Multiply-adds of a prompt's token: every projection, without the head.
    prompt_products: u64,
}

/// The name of the packed model in the scratch store.
const NAME: &str = "bench";

impl<'a> Bench<'a> {
    fn new(
        context: &Context,
        args: &'a EngineArgs,
        launcher: &'a Launcher<'a>,
        scratch: &Path,
        path: &'a Path,
        rivals: &'a [Rival],
    ) -> Result<Self, Failure> {
        let context = context.with_store(scratch.join("store"));
        context.remark(&format!("packing {} …", path.display()));
        let words = ["pack", &path.display().to_string(), "-t", NAME].map(str::to_owned);
        child::cart(&context, &words)?;
        let (agent, _) = history::load(&context, NAME)?;
        let tokenizer = agent.tokenizer().ok_or_else(|| {
            Failure::refused(format!("{} has no tokenizer, so there is no prompt", path.display()))
        })?;
        let plan = Plan::new(tokenizer, agent.context_length())?;
        let plan_path = scratch.join("plan.json");
        let text = serde_json::to_vec(&plan).map_err(Failure::bug)?;
        std::fs::write(&plan_path, text).map_err(Failure::refused)?;
        let size = Size::of(&agent, path)?;
        Ok(Self { args, context, path, rivals, plan, plan_path, size, launcher })
    }

    fn run(&self, machine: &Machine) -> Result<ModelReport, Failure> {
        let mut rows = Vec::new();
        for (&threads, bound) in self.args.with_threads.iter().zip(&machine.bounds) {
            rows.extend(self.measure(threads, bound)?);
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(ModelReport {
            file: name,
            bytes: self.size.file,
            token_bytes: self.size.token_bytes,
            prompt_products: self.size.prompt_products,
            prefill_tokens: self.plan.prefill,
            decode_tokens: self.plan.decode,
            long_tokens: self.plan.long_prefill,
            sessions: self.plan.sessions,
            rows,
        })
    }

    /// Every engine in turn, as many times as asked; cart is first.
    fn measure(&self, threads: u16, bound: &Bound) -> Result<Vec<Row>, Failure> {
        let engines: Vec<Option<&Rival>> =
            std::iter::once(None).chain(self.rivals.iter().map(Some)).collect();
        let names = engines.iter().map(|rival| rival.map_or("cart", |rival| &rival.name));
        let mut rows: Vec<Row> = names.map(|name| Row::new(name, threads)).collect();
        for round in 1..=self.args.rounds {
            for &job in &self.args.jobs {
                for (rival, row) in engines.iter().zip(&mut rows) {
                    if row.gave_up(job.name()) {
                        continue;
                    }
                    self.context.remark(&format!(
                        "round {round} of {}, {threads} threads, {}: {} …",
                        self.args.rounds,
                        job.name(),
                        row.name
                    ));
                    match self.one(*rival, job, threads)? {
                        Ok(outcome) => row.add(job.name(), &outcome),
                        Err(error) => self.problem(row, job, &error),
                    }
                }
            }
        }
        let (cart, others) = rows.split_first_mut().expect("cart is always there");
        cart.compare_with_bound(bound, &self.size);
        for rival in others {
            rival.compare_with(cart);
        }
        Ok(rows)
    }

    fn problem(&self, row: &mut Row, job: Job, error: &DriverError) {
        self.context.remark(&format!("  {}: {error}", row.name));
        row.problems.push(format!("{}: {error}", job.name()));
    }

    /// One job of one engine. The outer error ends the benchmark: cart itself must work.
    fn one(
        &self,
        rival: Option<&Rival>,
        job: Job,
        threads: u16,
    ) -> Result<Result<Outcome, DriverError>, Failure> {
        let limit = Duration::from_secs(self.args.limit);
        let Some(rival) = rival else {
            let (command, speech) = self.cart(job, threads)?;
            return Ok(Ok(driver::run(command, speech, limit).map_err(Failure::refused)?));
        };
        let mut command = self.launcher.command(&rival.run, threads);
        command.arg(self.path).arg(threads.to_string()).arg(job.name()).arg(&self.plan_path);
        Ok(driver::run(command, Speech::Lines, limit))
    }

    fn cart(&self, job: Job, threads: u16) -> Result<(Command, Speech), Failure> {
        let mut command = self.launcher.cart(threads)?;
        command.arg("--quiet").arg("--store").arg(self.context.store_root()?);
        command.arg("--threads").arg(threads.to_string()).args(self.context.of_computing());
        if job == Job::First {
            command.args(["run", NAME, "-n", "1", "-p", &self.plan.text.prompt]);
            return Ok((command, Speech::Text));
        }
        command.args(["bench", "engine-job", NAME, job.name()]).arg(&self.plan_path);
        Ok((command, Speech::Lines))
    }
}

impl Size {
    fn of(agent: &Agent, path: &Path) -> Result<Self, Failure> {
        let metadata = std::fs::metadata(path).map_err(Failure::refused)?;
        let folder = agent.manifest().total_bytes();
        let file = if metadata.is_file() { metadata.len() } else { folder };
        let vocabulary = agent.model().spec().vocab_size;
        let tensors = agent.manifest().model.tensors.values();
        let prompt_products = tensors
            .filter(|tensor| tensor.shape.len() == 2 && tensor.shape[0] != vocabulary)
            .map(|tensor| tensor.shape.iter().product::<u64>())
            .sum();
        Ok(Self { file, token_bytes: agent.model().token_bytes(), prompt_products })
    }
}
