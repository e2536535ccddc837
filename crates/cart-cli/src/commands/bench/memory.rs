//! `cart bench memory`.

mod association;
mod earlier;
mod facts;
mod goal;
mod merging;
mod outcome;
mod passkey;
mod perplexity;
mod sheet;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use cart_engine::{Agent, LoadOptions};
use cart_memory::config::GraphRules;
use clap::{Args, ValueEnum, ValueHint};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::drawing::{self, Format};
use crate::failure::Failure;
use crate::history;
use crate::report;
use earlier::Together;
use outcome::{Measured, Outcome};
use sheet::Sheet;

/// Bytes of read prompts that are kept, so that questions about one text read it once.
const PREFIX_CACHE: usize = 512 << 20;

/// Power of the scores from which reads spread along links: those of sentences lie close together.
const FOCUS: f32 = 16.0;

/// Measure what memory is worth: facts, corrections, perplexity, passkeys, goal, associations.
///
/// Each with memory, without it, with the memory's texts exchanged (a control), and with the same text in the context.
/// Everything goes the way that `cart run` goes. The cartridge's own memory takes no part, and nothing is saved. Figures
/// are means over the seeds; facts count right answers, perplexities are better where they are lower.
///
/// facts: made-up facts, told one by one and asked for in an empty context. corrections: told, told again with another
/// end, and asked for. unrelated: the perplexity of texts while memory is full of facts. knn: the perplexity of the
/// second half of a text, with neighbours from its first half. passkey: keys told amid much else. goal: the share of words
/// that belong to what the goal grew from, and the divergence that it costs. association: asked with one thing, the thing
/// that was seen right after it, by the graph and by cosine alone. merging: what two agents were told, asked from both merged
/// and from each alone, and ten contradictions between them by each policy.
#[derive(Args)]
#[command(after_help = "Examples:
  cart bench memory smol
  cart bench memory smol --only facts,corrections --seeds 5
  cart bench memory smol --only knn --text manual.txt --text module.py
  cart bench memory smol --only passkey --filler 512,8192
  cart --json bench memory smol --plot memory.svg
  cart bench memory --from facts.json --from passkey.json --plot memory.svg")]
pub(crate) struct MemoryArgs {
    /// A cartridge
    #[arg(value_name = "REF", required_unless_present = "from")]
    reference: Option<String>,
    /// Show what was measured before, with --json, and measure nothing; several are put together
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    #[arg(conflicts_with_all = ["reference", "only", "seeds", "seed", "facts", "text", "filler"])]
    from: Vec<PathBuf>,
    /// Only these
    #[arg(long, value_name = "TASK", value_enum, value_delimiter = ',')]
    only: Vec<Task>,
    /// How many seeds, from --seed on
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many facts
    #[arg(long, value_name = "N", default_value_t = 100)]
    facts: usize,
    /// Texts for unrelated, and for knn, which cuts them into halves [default: the GNU General Public License,
    /// version 3]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    text: Vec<PathBuf>,
    /// Tokens of filler for passkey
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [512, 2048, 8192, 16384, 65536])]
    filler: Vec<usize>,
    /// Draw the rows, into a file that ends in .svg or .png
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    plot: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Task {
    Facts,
    Corrections,
    Unrelated,
    Knn,
    Passkey,
    Goal,
    Association,
    Merging,
}

#[derive(Serialize)]
struct MemoryReport {
    manifest: String,
    seeds: Vec<u64>,
    rows: Vec<Measured>,
    plot: Option<String>,
    seconds: f64,
}

/// A model, and what is asked of it.
struct Bench<'a> {
    args: &'a MemoryArgs,
    /// With the settings of a memory that people have.
    agent: Agent,
    /// With room for many slots, and with links between what comes one after the other.
    wide: Agent,
}

impl Bench<'_> {
    /// The model with an empty memory.
    fn fresh(agent: &Agent) -> Result<Agent, Failure> {
        let agent = agent.fork();
        agent.set_memory(None).map_err(Failure::bug)?;
        Ok(agent)
    }

    fn run(&self, task: Task, seed: u64) -> Result<Vec<Outcome>, Failure> {
        match task {
            Task::Facts => facts::facts(self, seed),
            Task::Corrections => facts::corrections(self, seed),
            Task::Unrelated => perplexity::unrelated(self, seed),
            Task::Knn => perplexity::halves(self, seed),
            Task::Passkey => passkey::passkey(self, seed),
            Task::Goal => goal::goal(self, seed),
            Task::Association => association::association(self, seed),
            Task::Merging => merging::merging(self, seed),
        }
    }
}

pub(crate) fn run(context: &Context, args: &MemoryArgs) -> Result<(), Failure> {
    let format = args.plot.as_deref().map(format_of).transpose()?;
    let together = match &args.reference {
        Some(reference) => measured(context, args, reference)?,
        None => earlier::together(&args.from)?,
    };
    let plot = args.plot.as_ref().map(|path| path.display().to_string());
    let Together { manifest, seeds, rows, seconds } = together;
    if let (Some(path), Some(format)) = (&args.plot, format) {
        drawing::write(path, format, &Sheet::of(&rows)).map_err(Failure::refused)?;
    }
    let body = MemoryReport { manifest, seeds, rows, plot, seconds };
    if context.json {
        return report::print("bench-memory", &body);
    }
    report::stdout(outcome::table(&body.rows).render().as_bytes())
}

/// Runs the tasks.
fn measured(context: &Context, args: &MemoryArgs, reference: &str) -> Result<Together, Failure> {
    let began = Instant::now();
    let (agent, origin) = history::load(context, reference)?;
    let bench = Bench { args, wide: wide(context, reference)?, agent };
    let tasks: BTreeSet<Task> = if args.only.is_empty() {
        Task::value_variants().iter().copied().collect()
    } else {
        args.only.iter().copied().collect()
    };
    let seeds: Vec<u64> = (0..args.seeds).map(|offset| args.seed.wrapping_add(offset)).collect();
    let mut rows = Vec::new();
    for task in tasks {
        for &seed in &seeds {
            context.remark(&format!("{task:?}, seed {seed} …"));
            for outcome in bench.run(task, seed)? {
                outcome::add(&mut rows, task, outcome);
            }
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    Ok(Together { manifest: origin.manifest.hex(), seeds, rows, seconds })
}

fn format_of(path: &Path) -> Result<Format, Failure> {
    let unknown = || Failure::arguments("--plot names a file that ends in .svg or .png".to_owned());
    Format::of(path)?.ok_or_else(unknown)
}

/// The model with settings for long texts: what no longer fits into short-term memory is all kept.
fn wide(context: &Context, reference: &str) -> Result<Agent, Failure> {
    let mut load = LoadOptions { prefix_cache: PREFIX_CACHE, ..history::load_options(context) };
    load.memory.ltm_slots = 1 << 14;
    // A long text is told sentence by sentence, and its beginning is still asked for at its end.
    load.memory.prune_age = 1 << 30;
    load.memory.graph = Some(GraphRules { focus: FOCUS, ..GraphRules::default() });
    Ok(history::load_with(context, reference, &load)?.0)
}
