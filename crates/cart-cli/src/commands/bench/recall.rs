//! `cart bench recall`.

use cart_engine::{Agent, GenerateOptions, MemoryControl, MemoryOptions, Message, Prompt};
use cart_format::Recipe;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::facts::{self, Fact};
use crate::failure::Failure;
use crate::history;
use crate::report;
use crate::saved::{self, Kept};
use crate::table::Table;

/// Tell made-up facts in one process, ask for them in another with an empty context.
///
/// Prints the share of right answers with memory, without it, with the memory's texts exchanged
/// (a control), and with the fact in the context. The answer must be among the first words.
#[derive(Args)]
#[command(after_help = "Examples:
  cart bench recall smol
  cart --json bench recall smol --facts 100 --seed 3")]
pub(crate) struct RecallArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// How many facts
    #[arg(long, value_name = "N", default_value_t = 40)]
    facts: usize,
    /// Which facts
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// One half of the measurement, in a process of its own
    #[arg(long, hide = true)]
    phase: Option<Phase>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Phase {
    Tell,
    Ask,
}

#[derive(Serialize, Deserialize)]
struct RecallReport {
    facts: usize,
    seed: u64,
    manifest: String,
    told: String,
    slots: usize,
    rows: Vec<RecallRow>,
}

/// Right answers to one form of asking.
#[derive(Clone, Serialize, Deserialize)]
struct RecallRow {
    form: String,
    memory: usize,
    none: usize,
    shuffled: usize,
    context: usize,
}

pub(crate) fn run(context: &Context, args: &RecallArgs) -> Result<(), Failure> {
    match args.phase {
        None => recall(context, args),
        Some(Phase::Tell) => tell(context, args),
        Some(Phase::Ask) => ask(context, args),
    }
}

fn recall(context: &Context, args: &RecallArgs) -> Result<(), Failure> {
    let told = "bench/recall:told";
    context.remark(&format!("telling {} facts in one process …", args.facts));
    crate::child::cart(context, &recall_arguments(args, &args.reference, "tell"))?;
    context.remark("asking in another, four ways …");
    let output = crate::child::cart(context, &recall_arguments(args, told, "ask"))?;
    let body: RecallReport = serde_json::from_str(&output).map_err(Failure::bug)?;
    if context.json {
        return report::print("bench-recall", &body);
    }
    let mut table =
        Table::new(&["ASKED AS", ">MEMORY", ">NONE", ">SHUFFLED", ">IN CONTEXT", "of facts"]);
    for row in &body.rows {
        let [memory, none, shuffled, context] =
            [row.memory, row.none, row.shuffled, row.context].map(|count| count.to_string());
        table.row([row.form.clone(), memory, none, shuffled, context, body.facts.to_string()]);
    }
    report::stdout(table.render().as_bytes())
}

fn recall_arguments(args: &RecallArgs, reference: &str, phase: &str) -> Vec<String> {
    let (facts, seed) = (args.facts.to_string(), args.seed.to_string());
    let words =
        ["bench", "recall", reference, "--facts", &facts, "--seed", &seed, "--phase", phase];
    words.map(str::to_owned).to_vec()
}

/// Each fact is told in a context of its own, and only the memory is kept.
fn tell(context: &Context, args: &RecallArgs) -> Result<(), Failure> {
    let (agent, origin) = history::load(context, &args.reference)?;
    for fact in facts::generate(args.facts, args.seed) {
        let options = GenerateOptions {
            max_tokens: Some(0),
            memory: MemoryOptions::write_only(),
            ..GenerateOptions::default()
        };
        agent.generate(&Prompt::Raw(fact.told), &options, |_| {}).map_err(Failure::refused)?;
    }
    let name = "bench/recall:told".parse().map_err(Failure::bug)?;
    let memory = agent.memory();
    let kept = Kept { memory: memory.as_deref(), session: None };
    saved::save(context, &origin, kept, &name, Recipe::new("bench"))?;
    Ok(())
}

fn ask(context: &Context, args: &RecallArgs) -> Result<(), Failure> {
    let (agent, origin) = history::load(context, &args.reference)?;
    let facts = facts::generate(args.facts, args.seed);
    let slots = agent.memory().map_or(0, |memory| memory.slots().count());
    let mut rows =
        vec![ask_all(&agent, &facts, "completion", |fact| Prompt::Raw(fact.completion.clone()))?];
    rows.push(ask_all(&agent, &facts, "question", |fact| {
        Prompt::Raw(format!("Question: {}\nAnswer:", fact.question))
    })?);
    if agent.chat_template().is_some() {
        rows.push(ask_all(&agent, &facts, "chat", |fact| {
            Prompt::Chat(vec![Message::new("user", fact.question.clone())])
        })?);
    }
    let body = RecallReport {
        facts: facts.len(),
        seed: args.seed,
        manifest: origin.manifest.hex(),
        told: args.reference.clone(),
        slots,
        rows,
    };
    let text = serde_json::to_string(&body).map_err(Failure::bug)?;
    report::line(&text)
}

fn ask_all(
    agent: &Agent,
    facts: &[Fact],
    form: &str,
    prompt: impl Fn(&Fact) -> Prompt,
) -> Result<RecallRow, Failure> {
    let shuffled =
        MemoryOptions { control: MemoryControl::Shuffled(1), ..MemoryOptions::read_only() };
    let mut row = RecallRow { form: form.to_owned(), memory: 0, none: 0, shuffled: 0, context: 0 };
    for fact in facts {
        let asked = prompt(fact);
        let shown = match &asked {
            Prompt::Chat(_) => {
                let text = format!("{} {}", fact.told, fact.question);
                Prompt::Chat(vec![Message::new("user", text)])
            }
            Prompt::Raw(text) => Prompt::Raw(format!("{}\n{text}", fact.told)),
            Prompt::Tokens(ids) => Prompt::Tokens(ids.clone()),
        };
        row.memory += usize::from(answer(agent, fact, asked.clone(), MemoryOptions::read_only())?);
        row.none += usize::from(answer(agent, fact, asked.clone(), MemoryOptions::default())?);
        row.shuffled += usize::from(answer(agent, fact, asked, shuffled.clone())?);
        row.context += usize::from(answer(agent, fact, shown, MemoryOptions::default())?);
    }
    Ok(row)
}

fn answer(
    agent: &Agent,
    fact: &Fact,
    prompt: Prompt,
    memory: MemoryOptions,
) -> Result<bool, Failure> {
    let options = GenerateOptions { max_tokens: Some(16), memory, ..GenerateOptions::default() };
    let generation = agent.generate(&prompt, &options, |_| {}).map_err(Failure::refused)?;
    Ok(fact.is_answered_by(&generation.text))
}
