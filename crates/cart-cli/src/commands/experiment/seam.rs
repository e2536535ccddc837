//! `cart experiment seam`.

mod form;
mod report;
mod sheet;
mod told;

use std::path::PathBuf;
use std::time::Instant;

use cart_engine::{Agent, LayersOptions, LoadOptions, MemoryOptions, PrefixOptions};
use cart_memory::Input;
use cart_memory::config::{BufferRules, ContradictionPolicy, ContradictionRules, StoreRules};
use clap::{Args, ValueEnum, ValueHint};

use crate::context::Context;
use crate::drawing::{self, Format};
use crate::failure::Failure;
use crate::history;
use crate::names;
use form::Form;
use report::{Asked, Phase, PhaseReport, SeamReport, Turn};
use told::Person;

/// The correction experiment of SEAM: a name is introduced, repeated, corrected, and asked for in a new conversation.
///
/// Each pair of names has a memory of its own, with a decaying buffer and a surprise-gated store, in which what is said later under
/// nearly the same key ends what was said before. A name is told, told again some
/// times, and then another one instead; cycles of decay follow; each time the name is asked for in a context that has nothing but
/// the question. The report has the surprise of each sentence, what the store wrote for it, and the answers.
///
/// With --embedding no text is generated: what is said surprises as far as its hidden states are from what is remembered, and of
/// what matches the question about as well as the best, what weighs most is the answer.
#[derive(Args)]
#[command(after_help = "Examples:
  cart experiment seam smol:remembers
  cart experiment seam smol --way prefix --pairs 20 --plot seam.svg
  cart experiment seam smol --embedding
  cart --json experiment seam smol:remembers --names names.txt --cycles 30 > seam.json")]
pub(crate) struct SeamArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// Pairs of names
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=5000))]
    pairs: u16,
    /// Names, one a line; the first is corrected to the second, and so on [default: first names that `cart train memory` leaves out]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    names: Option<PathBuf>,
    /// How often a name is told again before it is corrected
    #[arg(long, value_name = "N", default_value_t = 5)]
    repetitions: u16,
    /// Cycles of decay after the correction
    #[arg(long, value_name = "N", default_value_t = 10)]
    cycles: u16,
    /// How memory reaches the answer [default: layers, where the cartridge has some; else prefix]
    #[arg(long, value_name = "WAY", value_enum, conflicts_with = "embedding")]
    way: Option<Way>,
    /// Cosine of two keys from which what is said later ends what was said before; 2 for never
    #[arg(long, value_name = "COSINE", default_value_t = 0.7)]
    contradiction: f32,
    /// Without generating text
    #[arg(long)]
    embedding: bool,
    /// Draw the surprises and the answers: a file that ends in .svg or .png
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    plot: Option<PathBuf>,
    /// What chance follows from: which names make a pair
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// How memory reaches the answer.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Way {
    /// Memory layers
    Layers,
    /// Recalled spans before the prompt
    Prefix,
    /// As `--memory` has it
    Usual,
    /// Everything but the goal, recalled spans beside memory layers too
    All,
}

impl Way {
    fn reading(self) -> MemoryOptions {
        let layers = Some(LayersOptions::default());
        let prefix = PrefixOptions { top_k: 2, beside_layers: true, ..PrefixOptions::default() };
        let prefix = Some(prefix);
        match self {
            Self::Layers => MemoryOptions { layers, ..MemoryOptions::default() },
            Self::Prefix => MemoryOptions { prefix, ..MemoryOptions::default() },
            Self::Usual => MemoryOptions::read_only(),
            Self::All => MemoryOptions { prefix, ..MemoryOptions::read_only() },
        }
    }
}

pub(crate) fn run(context: &Context, args: &SeamArgs) -> Result<(), Failure> {
    let began = Instant::now();
    let format = match &args.plot {
        Some(path) => Format::of(path)?,
        None => None,
    };
    let pairs = pairs(args)?;
    let (agent, origin) = history::load_with(context, &args.reference, &load(context, args))?;
    let form = form(args, &agent);
    let mut people: Vec<Person> = pairs
        .into_iter()
        .map(|(first, second)| Person::new(&agent, first, second))
        .collect::<Result<_, _>>()?;
    let phases = phases(context, args, &form, &mut people)?;
    let body = SeamReport::new(&origin, args, form.name(), &people, phases, began);
    if let (Some(path), Some(format)) = (&args.plot, format) {
        drawing::write(path, format, &sheet::Sheet(&body)).map_err(Failure::refused)?;
    }
    if context.json {
        return crate::report::print("experiment-seam", &body);
    }
    crate::report::stdout(body.table().as_bytes())
}

/// A memory as SEAM has it.
fn load(context: &Context, args: &SeamArgs) -> LoadOptions {
    let mut load = history::load_options(context);
    load.memory.buffer = Some(BufferRules::default());
    load.memory.store = Some(StoreRules::default());
    if args.contradiction <= 1.0 {
        let (policy, cosine) = (ContradictionPolicy::Newest, args.contradiction);
        load.memory.contradictions = Some(ContradictionRules { policy, cosine });
    }
    if args.embedding {
        // A distance, 0 to 2, in the place of nats.
        (load.memory.surprise_prior_mean, load.memory.surprise_prior_deviation) = (0.5, 0.25);
    }
    load
}

fn form(args: &SeamArgs, agent: &Agent) -> Form {
    if args.embedding {
        return Form::Embedding;
    }
    let has_layers = agent.manifest().memory_layers.is_some();
    let usual = if has_layers { Way::Layers } else { Way::Prefix };
    Form::Model(args.way.unwrap_or(usual).reading())
}

fn pairs(args: &SeamArgs) -> Result<Vec<(String, String)>, Failure> {
    let needed = 2 * usize::from(args.pairs);
    let all = match &args.names {
        Some(path) => names::read(path)?,
        None => names::left_out(args.seed),
    };
    if all.len() < needed {
        return Err(Failure::refused_with(
            format!("{} pairs need {needed} names, and there are {}", args.pairs, all.len()),
            "give fewer --pairs, or more --names",
        ));
    }
    Ok(all[..needed].chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
}

/// Everything that is told and asked, in order.
fn phases(
    context: &Context,
    args: &SeamArgs,
    form: &Form,
    people: &mut [Person],
) -> Result<Vec<PhaseReport>, Failure> {
    let mut phases = Vec::new();
    let mut phase = |phase: Phase, turns: Vec<Vec<Turn>>, people: &[Person]| {
        context.remark(&format!("{} …", phase.said()));
        let asked = Asked::of(form, people, phase)?;
        phases.push(PhaseReport { phase, turns, asked });
        Ok::<_, Failure>(())
    };
    let first = form.tell(people, Person::introduction)?;
    phase(Phase::Introduction, vec![first], people)?;
    let mut repeated = Vec::new();
    for _ in 0..args.repetitions {
        repeated.push(form.tell(people, Person::repetition)?);
    }
    phase(Phase::Repetition, repeated, people)?;
    let corrected = form.tell(people, Person::correction)?;
    phase(Phase::Correction, vec![corrected], people)?;
    if args.cycles > 0 {
        for person in people.iter() {
            let cycles = u32::from(args.cycles);
            let cycle =
                |memory: &cart_memory::UnifiedMemory| Input::Cycle { at: memory.now(), cycles };
            person.agent.tell_memory(cycle).map_err(Failure::refused)?;
        }
    }
    phase(Phase::Decay, Vec::new(), people)?;
    Ok(phases)
}
