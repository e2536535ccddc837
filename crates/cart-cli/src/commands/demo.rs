//! `cart demo`.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueHint};
use serde::Serialize;
use serde_json::{Value, json};

use crate::bytes::milliseconds;
use crate::child::{self, Server};
use crate::context::Context;
use crate::failure::Failure;
use crate::report;

/// Show the whole road on a model: pack, verify, tell, recall, serve, swap, diff.
///
/// Every step is a `cart` process of its own, printed before it runs, so the fact that is recalled
/// came out of the saved cartridge and not out of a context. Works in a temporary store.
#[derive(Args)]
#[command(after_help = "Examples:
  cart demo --model SmolLM2-135M-Instruct.gguf
  cart demo --tiny")]
pub(crate) struct DemoArgs {
    /// A model: a folder, .gguf or .safetensors
    #[arg(long, value_name = "FILE", value_hint = ValueHint::AnyPath, required_unless_present = "tiny", conflicts_with = "tiny")]
    model: Option<PathBuf>,
    /// The small model of this repository: no download, modest answers
    #[arg(long)]
    tiny: bool,
    /// Keep the store in this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    keep: Option<PathBuf>,
}

/// What was seen.
#[derive(Serialize)]
struct DemoReport {
    manifest: String,
    told_manifest: String,
    fact: &'static str,
    question: &'static str,
    answer_without_memory: String,
    answer_with_memory: String,
    recalled: bool,
    stream: StreamReport,
    swap: Value,
    learned: Vec<String>,
    seconds: f64,
}

#[derive(Serialize)]
struct StreamReport {
    events: usize,
    events_before_swap: usize,
    characters: usize,
    completed: bool,
}

const FACT: &str = "The access code of the red boat is 4821.";
const QUESTION: &str = "The access code of the red boat is";
const ANSWER: &str = "4821";

/// The steps of the demo, each a process.
struct Demo<'c> {
    context: &'c Context,
    store: PathBuf,
    shown: bool,
}

pub(crate) fn run(context: &Context, args: &DemoArgs) -> Result<(), Failure> {
    let start = Instant::now();
    let scratch = tempfile::tempdir().map_err(Failure::refused)?;
    let store = args.keep.clone().unwrap_or_else(|| scratch.path().join("store"));
    let model = match &args.model {
        Some(model) => model.clone(),
        None => tiny_model()?,
    };
    let inner = context.with_store(store.clone());
    let demo = Demo { context: &inner, store, shown: !context.json };
    let mut body = demo.run(&model)?;
    body.seconds = start.elapsed().as_secs_f64();
    if context.json {
        return report::print("demo", &body);
    }
    demo.summary(&body)?;
    if args.keep.is_some() {
        context.remark(&format!("the store is kept in {}", demo.store.display()));
    }
    Ok(())
}

impl Demo<'_> {
    fn run(&self, model: &std::path::Path) -> Result<DemoReport, Failure> {
        self.title("1. Pack: every tensor becomes a blob under its SHA-256")?;
        let model = model.display().to_string();
        self.show(&["pack", &model, "-t", "demo"])?;
        self.title("2. Verify: recompute every digest")?;
        self.show(&["verify", "demo"])?;

        self.title("3. Tell it a fact, in a process that ends")?;
        self.show(&["run", "demo", "-p", FACT, "-n", "0", "--memory", "--save", "demo:told"])?;
        self.title("4. Ask in new processes, with an empty context")?;
        let ask = ["run", "demo:told", "-p", QUESTION, "-n", "8"];
        let without = self.show(&ask)?;
        let with = self.show(&[&ask[..], &["--memory", "--read-only"]].concat())?;

        self.title("5. Serve, stream, and swap under the stream")?;
        let (stream, swap) = self.serve_and_swap()?;
        self.title("6. What was learned")?;
        let diff = child::cart(self.context, &words(&["--json", "diff", "demo", "demo:told"]))?;
        self.show(&["diff", "demo", "demo:told"])?;
        let diff: Value = serde_json::from_str(&diff).map_err(Failure::bug)?;
        let learned = diff["memory"]["added"].as_array().cloned().unwrap_or_default();
        let texts = learned.iter().filter_map(|slot| slot["text"].as_str().map(str::to_owned));
        Ok(DemoReport {
            manifest: diff["a"].as_str().unwrap_or_default().to_owned(),
            told_manifest: diff["b"].as_str().unwrap_or_default().to_owned(),
            fact: FACT,
            question: QUESTION,
            recalled: with.contains(ANSWER) && !without.contains(ANSWER),
            answer_without_memory: without.trim().to_owned(),
            answer_with_memory: with.trim().to_owned(),
            stream,
            swap,
            learned: texts.collect(),
            seconds: 0.0,
        })
    }

    fn serve_and_swap(&self) -> Result<(StreamReport, Value), Failure> {
        self.command(&["serve", "demo", "--listen", "127.0.0.1:0"])?;
        let server = Server::start(self.context, "demo")?;
        self.say(&format!("listening on {}", server.url))?;
        let events = AtomicUsize::new(0);
        let streaming = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let stream = scope.spawn(|| {
                let done = read_stream(&server.url, &events);
                streaming.store(false, Ordering::SeqCst);
                done
            });
            while events.load(Ordering::SeqCst) < 5 && streaming.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(2));
            }
            let before = events.load(Ordering::SeqCst);
            let swap =
                ["--json", "swap", "demo:told", "--server", &server.url, "--in-flight", "boundary"];
            self.command(&swap[1..])?;
            let swapped = child::cart(self.context, &words(&swap));
            let text = stream.join().expect("the reader of the stream does not panic")?;
            let swapped: Value = serde_json::from_str(&swapped?).map_err(Failure::bug)?;
            self.say(&format!(
                "swapped under the stream: pause {}, streams dropped {}",
                milliseconds(&swapped["pause_ms"]),
                swapped["streams_dropped"]
            ))?;
            let stream = StreamReport {
                events: events.load(Ordering::SeqCst),
                events_before_swap: before,
                characters: text.text.chars().count(),
                completed: text.completed,
            };
            Ok((stream, swapped))
        })
    }

    fn summary(&self, body: &DemoReport) -> Result<(), Failure> {
        self.title("What was seen")?;
        let yes = |good: bool| if good { "yes" } else { "NO" };
        self.say(&format!("fact told                {:?}", body.fact))?;
        self.say(&format!("asked without memory     {:?}", body.answer_without_memory))?;
        self.say(&format!("asked with memory        {:?}", body.answer_with_memory))?;
        self.say(&format!("recalled by memory only  {}", yes(body.recalled)))?;
        self.say(&format!(
            "stream over the swap     {} events ({} before it), complete: {}",
            body.stream.events,
            body.stream.events_before_swap,
            yes(body.stream.completed)
        ))?;
        self.say(&format!(
            "swap                     pause {}, streams moved {}, dropped {}",
            milliseconds(&body.swap["pause_ms"]),
            body.swap["streams_moved"],
            body.swap["streams_dropped"]
        ))?;
        self.say(&format!("learned                  {}", body.learned.len()))?;
        self.say(&format!("took                     {}", crate::bytes::seconds(body.seconds)))
    }

    fn title(&self, text: &str) -> Result<(), Failure> {
        self.say(&format!("\n{text}"))
    }

    fn command(&self, arguments: &[&str]) -> Result<(), Failure> {
        let quoted = arguments.iter().map(|word| {
            let plain = word.chars().all(|c| c.is_alphanumeric() || "-_.:/@".contains(c));
            if plain { (*word).to_owned() } else { format!("'{word}'") }
        });
        self.say(&format!("$ cart {}", quoted.collect::<Vec<_>>().join(" ")))
    }

    /// Prints a command, runs it, prints and gives its output.
    fn show(&self, arguments: &[&str]) -> Result<String, Failure> {
        self.command(arguments)?;
        let output = child::cart(self.context, &words(arguments))?;
        self.say(output.trim_end())?;
        Ok(output)
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        if self.shown { report::line(text) } else { Ok(()) }
    }
}

struct Streamed {
    text: String,
    completed: bool,
}

fn read_stream(url: &str, events: &AtomicUsize) -> Result<Streamed, Failure> {
    let body = json!({
        "prompt": "Once upon a time there was a small boat that",
        "max_tokens": 160, "temperature": 0, "stream": true,
    });
    let mut response =
        ureq::post(format!("{url}/v1/completions")).send_json(&body).map_err(Failure::refused)?;
    let mut streamed = Streamed { text: String::new(), completed: false };
    for line in BufReader::new(response.body_mut().as_reader()).lines() {
        let line = line.map_err(Failure::refused)?;
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            streamed.completed = true;
            break;
        }
        let event: Value = serde_json::from_str(data).map_err(Failure::refused)?;
        streamed.text.push_str(event["choices"][0]["text"].as_str().unwrap_or_default());
        events.fetch_add(1, Ordering::SeqCst);
    }
    Ok(streamed)
}

/// `fixtures/tiny` of the repository that this was built from, or of the folder one stands in.
fn tiny_model() -> Result<PathBuf, Failure> {
    let built_from = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tiny"));
    let here = PathBuf::from("fixtures/tiny");
    [here, built_from].into_iter().find(|folder| folder.join("config.json").is_file()).ok_or_else(
        || {
            Failure::refused_with(
                "fixtures/tiny is not here",
                "stand in the repository's folder, or give --model FILE",
            )
        },
    )
}

fn words(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&word| word.to_owned()).collect()
}
