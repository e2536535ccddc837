//! `cart bench session`.

use std::time::Duration;

use cart_engine::ParseSpecial;
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::bytes::{grouped, human, seconds};
use crate::child;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::report;

/// Compare continuing a saved session with reading its text again.
///
/// One process reads a text and saves the session; others continue it, or read the text anew, in
/// turn. Says whether the tokens that follow are the same, and how long each took: to read or to
/// restore the state, and from the start of the process to its first output, with verifying and
/// loading the model in it. Works in a temporary store.
#[derive(Args)]
#[command(after_help = "Examples:
  cart bench session smol
  cart --json bench session smol --tokens 8000 --rounds 5")]
pub(crate) struct SessionArgs {
    /// A cartridge with a tokenizer
    #[arg(value_name = "REF")]
    reference: String,
    /// Tokens that are read before the session is saved
    #[arg(long, value_name = "N", default_value_t = 4000,
        value_parser = clap::value_parser!(u32).range(2..=10_000_000))]
    tokens: u32,
    /// Tokens that are generated after
    #[arg(long, value_name = "N", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    going_on: u32,
    /// How many times each way is measured; the best counts
    #[arg(long, value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
}

#[derive(Serialize)]
struct SessionBenchReport {
    manifest: String,
    /// Tokens of the prompt that was read.
    tokens: usize,
    session_bytes: u64,
    rounds: u16,
    /// Tokens generated each way.
    generated: usize,
    same_tokens: bool,
    state: Pair,
    first_output: Pair,
}

/// Best seconds of the two ways.
#[derive(Serialize)]
struct Pair {
    read_seconds: f64,
    restore_seconds: f64,
    restore_over_read: f64,
}

/// The cartridge in a store of its own, and the text.
struct Bench {
    inner: Context,
    text: String,
    going_on: String,
}

/// What a process is to do.
struct Way<'a> {
    arguments: &'a [&'a str],
    /// What it reads on its stdin.
    text: Option<&'a str>,
}

/// One process that generated.
struct Ran {
    manifest: String,
    prompt: usize,
    token_ids: Vec<u64>,
    /// Seconds until the state was there: read or restored.
    state: f64,
}

const NAME: &str = "session";
const SAVED: &str = "session:read";

pub(crate) fn run(context: &Context, args: &SessionArgs) -> Result<(), Failure> {
    let scratch = tempfile::tempdir().map_err(Failure::refused)?;
    let text = text(context, args)?;
    let file = scratch.path().join("model.cart");
    history::write_cart(context, history::open(context, &args.reference)?, &file)?;
    let inner = context.with_store(scratch.path().join("store"));
    child::cart(&inner, &words(&["pack", &file.display().to_string(), "-t", NAME]))?;
    let bench = Bench { inner, text, going_on: args.going_on.to_string() };
    let body = bench.run(context, args.rounds)?;
    if context.json {
        return report::print("bench-session", &body);
    }
    show(&body)
}

/// A text of so many tokens, the one before prompts included.
fn text(context: &Context, args: &SessionArgs) -> Result<String, Failure> {
    let (agent, _) = history::load(context, &args.reference)?;
    let tokenizer = agent.tokenizer().ok_or_else(|| {
        Failure::refused("the cartridge has no tokenizer, so there is no text to read")
    })?;
    let (asked, room) = ((args.tokens + args.going_on) as usize, agent.context_length());
    if asked >= room {
        return Err(Failure::refused_with(
            format!("{asked} tokens in all; the context has room for {room}"),
            "give fewer with --tokens or --going-on",
        ));
    }
    let ids = tokenizer.encode(super::TEXT, ParseSpecial::No).map_err(Failure::refused)?;
    let bos = usize::from(tokenizer.special().add_bos);
    let ids: Vec<u32> = ids.into_iter().cycle().take(args.tokens as usize - bos).collect();
    tokenizer.decode(&ids, cart_engine::ShowSpecial::No).map_err(Failure::refused)
}

impl Bench {
    fn run(&self, context: &Context, rounds: u16) -> Result<SessionBenchReport, Failure> {
        context.remark("reading the text and saving the session …");
        let save = ["run", NAME, "-p", "-", "-n", "0", "--save", SAVED, "--with-session"];
        let kept = self.json(&self.reads(&save))?;
        let read = ["run", NAME, "-p", "-", "-n", &self.going_on, "--ignore-eos"];
        let resume = ["run", SAVED, "--resume", "-n", &self.going_on, "--ignore-eos"];
        let (read, resume) = (self.reads(&read), Way { arguments: &resume, text: None });
        let (mut state, mut first) = (Pair::new(), Pair::new());
        let mut ran = None;
        for round in 1..=rounds {
            context.remark(&format!("round {round} of {rounds} …"));
            let (whole, resumed) = (self.generate(&read)?, self.generate(&resume)?);
            state.add(whole.state, resumed.state);
            first.add(self.first_output(&read)?, self.first_output(&resume)?);
            ran = Some((whole, resumed));
        }
        let (whole, resumed) = ran.expect("there is at least one round");
        Ok(SessionBenchReport {
            tokens: whole.prompt,
            session_bytes: kept["saved"]["session"]["bytes"].as_u64().unwrap_or_default(),
            rounds,
            generated: resumed.token_ids.len(),
            same_tokens: whole.token_ids == resumed.token_ids,
            manifest: whole.manifest,
            state,
            first_output: first,
        })
    }

    /// A process that reads the text.
    fn reads<'a>(&'a self, arguments: &'a [&str]) -> Way<'a> {
        Way { arguments, text: Some(&self.text) }
    }

    fn generate(&self, way: &Way<'_>) -> Result<Ran, Failure> {
        let report = self.json(way)?;
        let ids = |field: &str| -> Vec<u64> {
            report[field].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
        };
        let part = |name: &str| report["seconds"][name].as_f64().unwrap_or_default();
        Ok(Ran {
            manifest: report["manifest"].as_str().unwrap_or_default().to_owned(),
            prompt: ids("prompt_ids").len(),
            token_ids: ids("token_ids"),
            state: part("prefill") + part("restore"),
        })
    }

    fn json(&self, way: &Way<'_>) -> Result<Value, Failure> {
        let arguments = words(&[&["--json"], way.arguments].concat());
        let output = child::cart_reading(&self.inner, &arguments, way.text)?;
        serde_json::from_str(&output).map_err(Failure::bug)
    }

    fn first_output(&self, way: &Way<'_>) -> Result<f64, Failure> {
        let took = child::first_output(&self.inner, &words(way.arguments), way.text)?;
        Ok(Duration::as_secs_f64(&took))
    }
}

impl Pair {
    fn new() -> Self {
        let never = f64::INFINITY;
        Self { read_seconds: never, restore_seconds: never, restore_over_read: never }
    }

    fn add(&mut self, read: f64, restore: f64) {
        self.read_seconds = self.read_seconds.min(read);
        self.restore_seconds = self.restore_seconds.min(restore);
        self.restore_over_read = self.restore_seconds / self.read_seconds;
    }
}

fn show(body: &SessionBenchReport) -> Result<(), Failure> {
    let line = |what: &str, pair: &Pair| {
        report::line(&format!(
            "{what}  read {}, restored {}: 1/{:.0}",
            seconds(pair.read_seconds),
            seconds(pair.restore_seconds),
            1.0 / pair.restore_over_read
        ))
    };
    let (tokens, bytes) = (grouped(body.tokens as u64), human(body.session_bytes));
    let same = if body.same_tokens { "the same" } else { "NOT the same" };
    report::line(&format!("{tokens} tokens in a session of {bytes}"))?;
    report::line(&format!("next {} tokens  {same}", body.generated))?;
    line("state         ", &body.state)?;
    line("first output  ", &body.first_output)
}

fn words(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&word| word.to_owned()).collect()
}
