//! `cart train distill`.

mod keep;
mod memory;
mod report;
mod student;

use std::path::PathBuf;

use cart_engine::{Agent, ParseSpecial};
use cart_nn::graph::Divergence;
use cart_store::RefName;
use cart_train::distill::{
    Cache, DistillOptions, Distillation, HiddenOptions, StudentSpec, Teacher,
};
use cart_train::{Corpus, Schedule, TrainOptions};
use clap::{ArgGroup, Args, ValueEnum, ValueHint};
use serde_json::{Value, json};

use super::folder::RunFolder;
use super::gradients::GradientReport;
use super::pace::Pace;
use super::text;
use crate::context::Context;
use crate::failure::Failure;
use crate::history::{self, LoadedFrom};
use crate::progress::{interrupted, stop_on_interrupt};
use report::{DistillReport, MeasureReport};
use student::Origin;

/// Train a smaller model to say what a larger one says.
///
/// The student is STUDENT, or is made from the teacher: of --student-spec, with --take layers or evenly spread ones. Tensors of the
/// same shape are copied from the teacher, others are drawn anew. The student learns, at each position of the text, the teacher's
/// best tokens one by one and all others together; what the teacher says is kept in --cache and asked only once.
///
/// The end of the text is held out: perplexity, and how often the likeliest token is the teacher's, are measured there before and
/// after. The result gets the teacher's tokenizer, and what the teacher remembers, read again by the student.
///
/// The run folder has a checkpoint and a log of JSON lines. The same command goes on from there; Ctrl-C leaves one behind. A run
/// that was interrupted ends in the same cartridge as one that was not.
#[derive(Args)]
#[command(group = ArgGroup::new("from").args(["student", "student_spec", "take"]).required(true).multiple(true))]
#[command(after_help = "Examples:
  cart train distill smol --student-spec layers=12 --data book.txt -t smol:small
  cart train distill smol --take 0,2,5,9,14,20,25,29 --data a.txt b.txt --steps 500 -t smol:small
  cart train distill smol smol:small --data a.txt --on-policy 0.25 --divergence js -t smol:better
  cart train distill smol --student-spec layers=6,hidden=288 --data a.txt --hard 0.5 --temperature 2 -t mini")]
pub(crate) struct DistillArgs {
    /// The cartridge to learn from
    #[arg(value_name = "TEACHER")]
    teacher: String,
    /// The cartridge to begin with, of the teacher's vocabulary
    #[arg(value_name = "STUDENT", conflicts_with_all = ["student_spec", "take"])]
    student: Option<String>,
    /// What a student made from the teacher has other than it: layers, hidden, heads, kv_heads, intermediate
    #[arg(long, value_name = "NAME=VALUE,…")]
    student_spec: Option<StudentSpec>,
    /// The teacher's layers that it begins from [default: evenly spread, with the first and the last]
    #[arg(long, value_name = "LAYER,…", value_delimiter = ',')]
    take: Option<Vec<usize>>,
    /// Texts
    #[arg(long, value_name = "FILE", required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    data: Vec<PathBuf>,
    /// The name of the result
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: RefName,
    /// How far the student is from the teacher
    #[arg(long, value_name = "HOW", default_value = "forward")]
    divergence: How,
    /// Of js: 0.5 is the symmetric one, near 0 it is like forward, near 1 like reverse
    #[arg(long, value_name = "B", default_value_t = 0.5)]
    beta: f64,
    /// What the logits of both are divided by
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    temperature: f64,
    /// The share of the loss that the text itself has, 0 to 1; at 1 the teacher is not asked
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    hard: f64,
    /// Tokens of the teacher that are known one by one
    #[arg(long, value_name = "K", default_value_t = 64)]
    top_k: usize,
    /// What hidden states that differ cost; the teacher then reads along in every step
    #[arg(long, value_name = "X")]
    hidden_weight: Option<f64>,
    /// Layers of the student and of the teacher whose hidden states are compared [default: all, in proportion]
    #[arg(long, value_name = "S:T,…", value_delimiter = ',', value_parser = pair, requires = "hidden_weight")]
    layer_map: Option<Vec<(usize, usize)>>,
    /// Whether hidden states are divided by their size before they are compared
    #[arg(long, value_name = "HOW", default_value = "rms", requires = "hidden_weight")]
    hidden_norm: HiddenNorm,
    /// The share of sequences that the student goes on from itself, for the teacher to judge
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    on_policy: f64,
    /// Tokens of the text that it goes on from [default: half of the context]
    #[arg(long, value_name = "N", requires = "on_policy")]
    prompt: Option<usize>,
    /// Tensors that stay as they are: those whose names contain one of these
    #[arg(long, value_name = "PART,…", value_delimiter = ',')]
    freeze: Vec<String>,
    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 256)]
    context: usize,
    /// How often the text is read
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: u64,
    /// Steps, in place of --epochs
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    steps: Option<u64>,
    /// Sequences of a step, or of each of its parts
    #[arg(long, value_name = "N", default_value_t = 4)]
    batch: usize,
    /// Parts of a step, whose gradients are added up
    #[arg(long, value_name = "N", default_value_t = 1)]
    accumulate: u64,
    /// The largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 3e-4)]
    lr: f64,
    /// Steps in which it rises
    #[arg(long, value_name = "N", default_value_t = 20)]
    warmup: u64,
    /// What a step takes off matrices, as a factor on the learning rate
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    weight_decay: f64,
    /// The norm that gradients are scaled down to
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    clip: f64,
    /// The share of the text, from its end, that is held out
    #[arg(long, value_name = "X", default_value_t = 0.05)]
    held_out: f64,
    /// Held-out sequences that are measured
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..))]
    measure: u64,
    /// Steps between measurements [default: before the first and after the last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    measure_every: Option<u64>,
    /// What chance follows from
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << 53))]
    seed: u64,
    /// Leave out what the teacher remembers
    #[arg(long)]
    no_memory: bool,
    /// Where the teacher's answers are kept [default: `teacher` in the run folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    cache: Option<PathBuf>,
    /// Where the checkpoint and the log are [default: train-NAME-TAG]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    run: Option<PathBuf>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// Kullback-Leibler from the teacher: the student covers whatever it may say
    Forward,
    /// Kullback-Leibler from the student: it keeps to what the teacher would say
    Reverse,
    /// Jensen-Shannon, between both
    Js,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HiddenNorm {
    /// By their root mean square
    Rms,
    /// They are compared as they are
    None,
}

pub(crate) fn run(context: &Context, args: &DistillArgs) -> Result<(), Failure> {
    let texts = text::read(&args.data)?;
    let (teacher, origin) = history::load(context, &args.teacher)?;
    if !args.no_memory {
        memory::check(&teacher)?;
    }
    let mut run = Run::new(context, args, &texts, (&teacher, &origin))?;
    stop_on_interrupt();
    while !run.distillation.trainer().is_done() && !interrupted() {
        if let Err(error) = run.step() {
            return Err(run.stopped_by(error));
        }
    }
    run.finish()
}

/// A run on its way.
struct Run<'a> {
    context: &'a Context,
    args: &'a DistillArgs,
    teacher: (&'a Agent, &'a LoadedFrom),
    student: Origin,
    distillation: Distillation<'a>,
    recipe: Value,
    folder: RunFolder,
    report: DistillReport,
    pace: Pace,
    /// The step of the checkpoint in the folder.
    saved: u64,
}

impl<'a> Run<'a> {
    /// Refuses what can't be learned from before anything is made.
    fn new(
        context: &'a Context,
        args: &'a DistillArgs,
        texts: &[Vec<u8>],
        (teacher, origin): (&'a Agent, &'a LoadedFrom),
    ) -> Result<Self, Failure> {
        let tokens = tokens(teacher, texts)?;
        let corpus = Corpus::new(tokens, args.held_out, args.context, args.batch, args.seed);
        let corpus = corpus.map_err(Failure::refused)?.fixed();
        let learned = corpus.learned();
        let epoch = corpus.parts_per_epoch().div_ceil(args.accumulate.max(1));
        let training = args.training(args.steps.unwrap_or(args.epochs * epoch));
        training.check().map_err(Failure::refused)?;
        let (from, student) = student::of(context, args, origin)?;
        let arithmetic = arithmetic(context);
        let options =
            args.options(student.architecture().layers.len(), teacher.model().spec().layers.len());
        options
            .check(student.architecture(), teacher.model().spec(), args.context)
            .map_err(Failure::refused)?;
        let recipe = json!({
            "tool": history::tool(),
            "what": "distill",
            "teacher": origin.manifest.hex(),
            "arithmetic": arithmetic,
            "student": from.described(),
            "frozen": args.freeze,
            "data": text::described(texts),
            "held_out": args.held_out,
            "context": args.context,
            "batch": args.batch,
            "distance": options.to_value(),
            "options": training,
        });
        let path = args.run.clone().unwrap_or_else(|| RunFolder::usual(&args.tag));
        let checkpoint = RunFolder::checkpoint(&path)?;
        let first = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.steps);
        if let Some(checkpoint) = &checkpoint {
            checkpoint.check(&path, &recipe).map_err(Failure::refused)?;
        }
        let cache = args.cache.clone().unwrap_or_else(|| path.join("teacher"));
        let report = DistillReport::new(&args.teacher, origin, &from, &student, &path, learned);
        let answers = Cache::open(&cache).map_err(Failure::refused)?;
        let of = Teacher {
            decoder: teacher.model(),
            id: origin.manifest,
            arithmetic,
            cache: Some(answers),
        };
        let distillation = Distillation::new(of, student, corpus, options, training);
        let distillation = distillation.map_err(Failure::refused)?;
        context.remark(&report.said());
        let mut run = Self {
            context,
            args,
            teacher: (teacher, origin),
            student: from,
            recipe,
            report,
            pace: Pace::new(first),
            saved: first,
            distillation,
            folder: RunFolder::open(&path, first)?,
        };
        // Also of a run that is gone on with: this student is the one that it began with.
        let before = run.measured(0)?;
        if first == 0 {
            run.folder.say(&before)?;
        }
        run.report.begin(before, first, run.distillation.trainer().planned());
        if let Some(checkpoint) = checkpoint {
            let restored = run.distillation.restore(&path, checkpoint, &run.recipe);
            restored.map_err(Failure::refused)?;
            context.remark(&format!("going on after step {first} of {}", path.display()));
        }
        run.pace = Pace::new(first);
        Ok(run)
    }

    fn step(&mut self) -> Result<(), Failure> {
        let report = self.distillation.step().map_err(Failure::refused)?;
        self.folder.say(&report)?;
        for damage in self.distillation.damage() {
            self.context.remark(&format!("{damage}; the teacher read that again"));
        }
        if let Some(found) = GradientReport::shown(self.context, &report.norms) {
            self.report.gradients = Some(found);
        }
        self.pace.count(self.context, &report, self.report.steps_planned);
        let step = report.step;
        let is_done = self.distillation.trainer().is_done();
        if !is_done && self.args.measure_every.is_some_and(|every| step.is_multiple_of(every)) {
            let measured = self.measured(step)?;
            self.folder.say(&measured)?;
            self.report.measured.push(measured);
        }
        if is_done || step.is_multiple_of(self.args.save_every) {
            self.save()?;
        }
        Ok(())
    }

    fn measured(&self, step: u64) -> Result<MeasureReport, Failure> {
        let held_out = self.distillation.measure(self.args.measure as usize);
        let measured = MeasureReport { step, held_out: held_out.map_err(Failure::refused)? };
        self.context.remark(&measured.said());
        Ok(measured)
    }

    fn save(&mut self) -> Result<(), Failure> {
        let saved = self.distillation.save(self.folder.path(), &self.recipe);
        saved.map_err(Failure::refused)?;
        self.saved = self.distillation.trainer().steps();
        Ok(())
    }

    /// What a run that has to stop leaves: the checkpoint before.
    fn stopped_by(&self, error: Failure) -> Failure {
        let folder = self.folder.path().display();
        if self.saved > 0 {
            self.context.remark(&format!("the checkpoint of step {} is in {folder}", self.saved));
        }
        error
    }

    fn finish(mut self) -> Result<(), Failure> {
        let step = self.distillation.trainer().steps();
        self.report.finish(&self.distillation, &self.pace);
        if self.distillation.trainer().is_done() {
            let after = self.measured(step)?;
            let kept = self.keep(after)?;
            self.folder.say(&after)?;
            self.report.after = Some(after);
            self.report.kept = Some(kept);
        } else {
            self.save()?;
            self.context.remark(&format!(
                "interrupted after step {step}; the same command goes on from there"
            ));
        }
        self.report.print(self.context)
    }
}

impl DistillArgs {
    fn training(&self, steps: u64) -> TrainOptions {
        TrainOptions {
            schedule: Schedule { peak: self.lr, warmup: self.warmup, steps, floor: 0.1 },
            weight_decay: self.weight_decay,
            clip: self.clip,
            accumulate: self.accumulate,
            seed: self.seed,
        }
    }

    /// * `student`, `teacher`: their numbers of layers
    fn options(&self, student: usize, teacher: usize) -> DistillOptions {
        let divergence = match self.divergence {
            How::Forward => Divergence::ForwardKl,
            How::Reverse => Divergence::ReverseKl,
            How::Js => Divergence::JensenShannon { beta: self.beta },
        };
        let map = || HiddenOptions::proportional(student, teacher);
        let hidden = self.hidden_weight.map(|weight| HiddenOptions {
            weight,
            map: self.layer_map.clone().unwrap_or_else(map),
            normed: self.hidden_norm == HiddenNorm::Rms,
        });
        DistillOptions {
            divergence,
            temperature: self.temperature,
            hard: self.hard,
            best: self.top_k,
            hidden,
            on_policy: self.on_policy,
            prompt: self.prompt.unwrap_or(self.context.div_ceil(2)),
        }
    }
}

/// In what the teacher computes, as far as that changes its numbers.
fn arithmetic(context: &Context) -> String {
    let mut said = context.device.to_string();
    match (context.device, context.precision) {
        (cart_nn::DeviceChoice::Cpu, _) => {
            said += &format!(" {}", context.activations.unwrap_or_default());
        }
        (_, Some(precision)) => said += &format!(" {precision}"),
        (_, None) => {}
    }
    said
}

/// The teacher's tokens of texts, each with its end.
fn tokens(teacher: &Agent, texts: &[Vec<u8>]) -> Result<Vec<u32>, Failure> {
    let tokenizer = teacher.tokenizer().ok_or_else(|| {
        let hint = "pack the model with its tokenizer.json";
        Failure::refused_with("the teacher has no tokenizer, so texts have no tokens", hint)
    })?;
    let mut tokens = Vec::new();
    for text in texts {
        let text = std::str::from_utf8(text).map_err(|error| {
            let message = format!("the data is no text in UTF-8 from byte {}", error.valid_up_to());
            Failure::refused_with(message, "convert it, or leave the file out")
        })?;
        let found = tokenizer.encode(text, ParseSpecial::No).map_err(Failure::refused)?;
        tokens.extend(found);
        tokens.extend(tokenizer.special().eos.first());
    }
    Ok(tokens)
}

/// `S:T`.
fn pair(text: &str) -> Result<(usize, usize), String> {
    let layers = text.split_once(':').and_then(|(student, teacher)| {
        Some((student.trim().parse().ok()?, teacher.trim().parse().ok()?))
    });
    layers.ok_or_else(|| format!("`{text}` is no STUDENT:TEACHER pair of layers, such as 0:2"))
}
