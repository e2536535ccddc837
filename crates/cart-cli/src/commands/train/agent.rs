//! `cart train agent`.

mod epoch;
mod memory;
mod report;

use std::path::PathBuf;

use cart_format::CommitId;
use cart_nn::graph::Products;
use cart_store::RefName;
use cart_train::agent::{Agent, AgentSpec, AgentTokenizer, Notebook};
use cart_train::{Corpus, Schedule, TrainError, TrainOptions};
use clap::{Args, ValueHint};
use serde_json::{Value, json};

use super::folder::RunFolder;
use super::gradients::GradientReport;
use super::pace::Pace;
use super::text;
use crate::context::Context;
use crate::failure::Failure;
use crate::history;
use crate::progress::{interrupted, stop_on_interrupt};
use epoch::Epochs;
use report::{AgentReport, EpochReport};

/// Train a small model from nothing but text.
///
/// Tokens are bytes, or with --bpe pieces of text that are frequent in what is learned from. The end of the text is held out. After each
/// epoch the model is measured on that, in bits per byte, goes on from --prompt, and is kept as a commit on top of the one before; the
/// cartridge runs like any other.
///
/// With --memory it remembers what it was trained on: before each step it reads a sequence of it, and sentences that surprise it are
/// noted. Each epoch's cartridge has them in its memory, read by the model of that epoch.
///
/// The run folder has a checkpoint and a log of JSON lines. The same command goes on from there; Ctrl-C leaves one behind. A run
/// that was interrupted ends in the same cartridge as one that was not.
#[derive(Args)]
#[command(after_help = "Examples:
  cart train agent --data shakespeare.txt -t bard
  cart train agent --data a.txt b.txt --spec layers=4,hidden=256,context=256 --epochs 3 -t mini
  cart train agent --data a.txt --bpe 4096 -t mini:pieces
  cart train agent --data a.txt --precision bf16 -t mini:quick
  cart train agent --data a.txt --spec shape=mamba,layers=4,hidden=192 --steps 2000 -t mini:mamba
  cart train agent --data a.txt --epochs 3 --memory 256 -t mini
  cart memory recall mini --prompt 'Where is the harbour?'
  cart run mini -p 'Once upon a time' -n 100")]
pub(crate) struct AgentArgs {
    /// Texts
    #[arg(long, value_name = "FILE", required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    data: Vec<PathBuf>,
    /// The model: shape (llama, mamba), layers, hidden, heads, kv_heads, intermediate, state, context
    #[arg(long, value_name = "NAME=VALUE,…", default_value = "layers=4,hidden=256,context=256")]
    spec: AgentSpec,
    /// Fit a tokenizer of so many tokens to the text (byte-level BPE, 258 to 65536) [default: tokens are bytes]
    #[arg(long, value_name = "TOKENS")]
    bpe: Option<usize>,
    /// The name of the result
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: RefName,
    /// How often the text is read
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: u64,
    /// Steps, in place of --epochs
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    steps: Option<u64>,
    /// Sequences of a step, or of each of its parts
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Parts of a step, whose gradients are added up
    #[arg(long, value_name = "N", default_value_t = 1)]
    accumulate: u64,
    /// The largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 2e-3)]
    lr: f64,
    /// Steps in which it rises
    #[arg(long, value_name = "N", default_value_t = 100)]
    warmup: u64,
    /// What a step takes off matrices, as a factor on the learning rate
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    weight_decay: f64,
    /// The norm that gradients are scaled down to
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    clip: f64,
    /// The share of the text, from its end, that is held out
    #[arg(long, value_name = "X", default_value_t = 0.05)]
    held_out: f64,
    /// Held-out sequences that are measured after each epoch
    #[arg(long, value_name = "N", default_value_t = 128)]
    measure: usize,
    /// Remember up to N sentences that surprised the model when it came to them, as it reads them at the end of an epoch
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096))]
    memory: Option<u64>,
    /// What chance follows from
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << 53))]
    seed: u64,
    /// What samples go on from
    #[arg(long, value_name = "TEXT", default_value = "\n")]
    prompt: String,
    /// Tokens of a sample
    #[arg(long, value_name = "N", default_value_t = 120)]
    sample: usize,
    /// Where the checkpoint and the log are [default: train-NAME-TAG]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    run: Option<PathBuf>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
}

pub(crate) fn run(context: &Context, args: &AgentArgs, products: Products) -> Result<(), Failure> {
    let mut run = Run::new(context, args, products)?;
    stop_on_interrupt();
    while !run.agent.trainer().is_done() && !interrupted() {
        if let Err(error) = run.step() {
            return Err(run.stopped_by(error));
        }
    }
    run.finish()
}

/// A run on its way.
struct Run<'a> {
    context: &'a Context,
    args: &'a AgentArgs,
    agent: Agent,
    recipe: Value,
    folder: RunFolder,
    epochs: Epochs<'a>,
    report: AgentReport,
    pace: Pace,
    /// The step of the checkpoint in the folder.
    saved: u64,
}

impl<'a> Run<'a> {
    /// Refuses what can't be learned from before anything is made.
    fn new(context: &'a Context, args: &'a AgentArgs, products: Products) -> Result<Self, Failure> {
        let texts = text::read(&args.data)?;
        let tokenizer = args.tokenizer(context, &texts)?;
        let tokens = tokenizer.encode_all(texts.iter().map(Vec::as_slice));
        let tokens = tokens.map_err(Failure::refused)?;
        let size = args.spec.context as usize;
        let corpus = Corpus::new(tokens, args.held_out, size, args.batch, args.seed);
        let corpus = corpus.map_err(Failure::refused)?;
        let epoch = corpus.parts_per_epoch().div_ceil(args.accumulate.max(1));
        let options = args.options(args.steps.unwrap_or(args.epochs * epoch), products);
        let recipe = args.recipe(&texts, &options);
        let path = args.run.clone().unwrap_or_else(|| RunFolder::usual(&args.tag));
        let checkpoint = RunFolder::checkpoint(&path)?;
        let learned = corpus.learned();
        let agent = Agent::new(&args.spec, tokenizer, corpus, options);
        let mut agent = agent.map_err(Failure::refused)?;
        if let Some(most) = args.memory {
            agent = agent.with_notebook(Notebook::new(most as usize));
        }
        let first = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.steps);
        if let Some(checkpoint) = checkpoint {
            let restored = agent.restore(&path, checkpoint, &recipe);
            restored.map_err(Failure::refused)?;
            context.remark(&format!("going on after step {first} of {}", path.display()));
        }
        let folder = RunFolder::open(&path, first)?;
        let report = AgentReport::new(args, &agent, &path, learned, first);
        let epochs = Epochs::new(context, args, epoch);
        Ok(Self {
            context,
            args,
            agent,
            recipe,
            folder,
            epochs,
            report,
            pace: Pace::new(first),
            saved: first,
        })
    }

    fn step(&mut self) -> Result<(), Failure> {
        let report = self.agent.step().map_err(Failure::refused)?;
        self.folder.say(&report)?;
        if let Some(found) = GradientReport::shown(self.context, &report.norms) {
            self.report.gradients = Some(found);
        }
        self.pace.count(self.context, &report, self.report.steps_planned);
        let step = report.step;
        if self.epochs.ends_at(step) || self.agent.trainer().is_done() {
            self.end_epoch(step)?;
            self.save()?;
        } else if step.is_multiple_of(self.args.save_every) {
            self.save()?;
        }
        Ok(())
    }

    fn end_epoch(&mut self, step: u64) -> Result<(), Failure> {
        let epoch = self.epoch(step)?;
        self.folder.say(&epoch)?;
        self.report.epochs.push(epoch);
        Ok(())
    }

    /// Measures, samples and keeps.
    fn epoch(&self, step: u64) -> Result<EpochReport, Failure> {
        let measured = self.agent.measure(self.args.measure).map_err(Failure::refused)?;
        let sample = self.agent.sample(&self.args.prompt, self.args.sample);
        let sample = sample.map_err(Failure::refused)?;
        let kept = self.epochs.keep(&self.agent, step, measured, &self.recipe)?;
        let epoch = EpochReport::new(self.epochs.number(step), step, measured, sample, kept);
        self.context.remark(&epoch.said(self.args.tag.to_string().as_str()));
        Ok(epoch)
    }

    fn save(&mut self) -> Result<(), Failure> {
        let checkpoint = self.agent.checkpoint(&self.recipe).map_err(Failure::refused)?;
        checkpoint.write(self.folder.path()).map_err(Failure::refused)?;
        self.saved = self.agent.trainer().steps();
        Ok(())
    }

    /// What a run that has to stop leaves: the checkpoint before.
    fn stopped_by(&self, error: Failure) -> Failure {
        let folder = self.folder.path().display();
        self.context.remark(&format!("the checkpoint of step {} is in {folder}", self.saved));
        error
    }

    fn finish(mut self) -> Result<(), Failure> {
        let done = self.agent.trainer().is_done();
        if !done {
            self.save()?;
            let step = self.agent.trainer().steps();
            self.context.remark(&format!(
                "interrupted after step {step}; the same command goes on from there"
            ));
        }
        if done && self.report.epochs.is_empty() {
            // It was done before; what came of it is told again.
            let step = self.agent.trainer().steps();
            let epoch = self.epoch(step)?;
            self.report.epochs.push(epoch);
        }
        self.report.finish(&self.agent, &self.pace);
        self.report.print(self.context, self.args.tag.to_string().as_str())
    }
}

impl AgentArgs {
    fn options(&self, steps: u64, products: Products) -> TrainOptions {
        TrainOptions {
            schedule: Schedule { peak: self.lr, warmup: self.warmup, steps, floor: 0.1 },
            weight_decay: self.weight_decay,
            clip: self.clip,
            accumulate: self.accumulate,
            seed: self.seed,
            products,
        }
    }

    /// Tokens are bytes, or what is frequent in the part of the texts that is learned from.
    fn tokenizer(&self, context: &Context, texts: &[Vec<u8>]) -> Result<AgentTokenizer, Failure> {
        let Some(size) = self.bpe else { return Ok(AgentTokenizer::bytes()) };
        context.remark(&format!("fitting a tokenizer of {size} tokens …"));
        let bytes: usize = texts.iter().map(Vec::len).sum();
        let mut left = (bytes as f64 * (1.0 - self.held_out.clamp(0.0, 1.0))) as usize;
        let mut learned = Vec::new();
        for (path, text) in self.data.iter().zip(texts) {
            let text = std::str::from_utf8(text).map_err(|error| {
                let (path, at) = (path.clone(), error.valid_up_to());
                Failure::refused(TrainError::NotText { path, at })
            })?;
            let part = &text[..text.floor_char_boundary(left)];
            left -= part.len();
            learned.push(part);
        }
        AgentTokenizer::fitted(&learned, size).map_err(Failure::refused)
    }

    /// Everything that the result depends on.
    fn recipe(&self, texts: &[Vec<u8>], options: &TrainOptions) -> Value {
        let mut recipe = json!({
            "tool": history::tool(),
            "what": "agent",
            "spec": self.spec.to_string(),
            "data": text::described(texts),
            "held_out": self.held_out,
            "batch": self.batch,
            "options": options,
        });
        if let Some(most) = self.memory {
            recipe["memory"] = json!({ "most": most });
        }
        if let Some(size) = self.bpe {
            recipe["tokenizer"] = json!({ "kind": "bpe", "tokens": size });
        }
        recipe
    }
}

/// What a commit is of.
struct Kept {
    manifest: String,
    commit: CommitId,
    /// What it remembers, where it was to remember anything.
    memory: Option<memory::MemoryReport>,
}
