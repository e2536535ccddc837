//! `cart train distill`.

mod align;
mod arguments;
mod keep;
mod memory;
mod report;
mod student;

use cart_engine::{Agent, ParseSpecial, Tokenizer};
use cart_nn::graph::Products;
use cart_train::Corpus;
use cart_train::distill::{Cache, Distillation, Teacher};
use serde_json::{Value, json};

use super::folder::RunFolder;
use super::gradients::GradientReport;
use super::pace::Pace;
use super::text;
use crate::context::Context;
use crate::failure::Failure;
use crate::history::{self, LoadedFrom};
use crate::progress::{interrupted, stop_on_interrupt};
use align::OtherTokens;
pub(crate) use arguments::DistillArgs;
use report::{DistillReport, MeasureReport};
use student::Origin;

pub(crate) fn run(
    context: &Context,
    args: &DistillArgs,
    products: Products,
) -> Result<(), Failure> {
    let texts = text::read(&args.data)?;
    let (teacher, origin) = history::load(context, &args.teacher)?;
    if !args.no_memory {
        memory::check(&teacher)?;
    }
    let mut run = Run::new(context, (args, products), &texts, (&teacher, &origin))?;
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
    /// Whose tokens the student has, where they are not the teacher's.
    tokens: Option<OtherTokens>,
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
        (args, products): (&'a DistillArgs, Products),
        texts: &[Vec<u8>],
        (teacher, origin): (&'a Agent, &'a LoadedFrom),
    ) -> Result<Self, Failure> {
        let other = OtherTokens::of(context, args)?;
        let texts_read = read(texts)?;
        let align = |other: &OtherTokens| other.alignment(teacher, (&args.data, &texts_read));
        let alignment = other.as_ref().map(align).transpose()?;
        let tokens = match &alignment {
            Some(alignment) => alignment.student_tokens().to_vec(),
            None => tokens(tokenizer(teacher)?, &texts_read)?,
        };
        let corpus = Corpus::new(tokens, args.held_out, args.context, args.batch, args.seed);
        let corpus = corpus.map_err(Failure::refused)?.fixed();
        let learned = corpus.learned();
        let epoch = corpus.parts_per_epoch().div_ceil(args.accumulate.max(1));
        let training = args.training(args.steps.unwrap_or(args.epochs * epoch), products);
        training.check().map_err(Failure::refused)?;
        let (from, student) = student::of(context, args, (teacher, origin), other.as_ref())?;
        let arithmetic = arithmetic(context, products);
        let options =
            args.options(student.architecture().layers.len(), teacher.model().spec().layers.len());
        options
            .check(student.architecture(), teacher.model().spec(), args.context)
            .map_err(Failure::refused)?;
        let mut recipe = json!({
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
        if let Some(other) = &other {
            recipe["align"] = other.described(tokenizer(teacher)?);
        }
        let path = args.run.clone().unwrap_or_else(|| RunFolder::usual(&args.tag));
        let checkpoint = RunFolder::checkpoint(&path)?;
        let first = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.steps);
        if let Some(checkpoint) = &checkpoint {
            checkpoint.check(&path, &recipe).map_err(Failure::refused)?;
        }
        let cache = args.cache.clone().unwrap_or_else(|| path.join("teacher"));
        let report = DistillReport::new(&args.teacher, origin, &from, &student, &path, learned);
        let of = Teacher {
            decoder: teacher.model(),
            basis: teacher.basis(),
            arithmetic,
            products,
            cache: Some(Cache::new(&cache)),
            alignment,
        };
        let distillation = Distillation::new(of, student, corpus, options, training);
        let distillation = distillation.map_err(Failure::refused)?;
        let report = report.with(&distillation);
        context.remark(&report.said());
        let mut run = Self {
            context,
            args,
            teacher: (teacher, origin),
            student: from,
            tokens: other,
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
            let restored = run.distillation.trainer_mut().restore(&path, checkpoint, &run.recipe);
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
        let saved = self.distillation.trainer().save(self.folder.path(), &self.recipe);
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

/// In what the teacher computes, as far as that changes its numbers.
fn arithmetic(context: &Context, products: Products) -> String {
    let device = context.device;
    match (device, context.precision) {
        (cart_nn::DeviceChoice::Cpu, _) => {
            format!("{device} {}", context.activations.unwrap_or_default())
        }
        (cart_nn::DeviceChoice::Graph, _) if products == Products::Bf16 => {
            format!("{device}, whole sequences, products in {}", products.name())
        }
        (_, Some(precision)) => format!("{device} {precision}, whole sequences"),
        (_, None) => format!("{device}, whole sequences"),
    }
}

fn tokenizer(teacher: &Agent) -> Result<&Tokenizer, Failure> {
    teacher.tokenizer().ok_or_else(|| {
        let hint = "pack the model with its tokenizer.json";
        Failure::refused_with("the teacher has no tokenizer, so texts have no tokens", hint)
    })
}

/// Texts, which tokenizers read.
fn read(texts: &[Vec<u8>]) -> Result<Vec<&str>, Failure> {
    let one = |text| {
        std::str::from_utf8(text).map_err(|error| {
            let message = format!("the data is no text in UTF-8 from byte {}", error.valid_up_to());
            Failure::refused_with(message, "convert it, or leave the file out")
        })
    };
    texts.iter().map(|text| one(text.as_slice())).collect()
}

/// The teacher's tokens of texts, each with its end.
fn tokens(tokenizer: &Tokenizer, texts: &[&str]) -> Result<Vec<u32>, Failure> {
    let mut tokens = Vec::new();
    for text in texts {
        tokens.extend(tokenizer.encode(text, ParseSpecial::No).map_err(Failure::refused)?);
        tokens.extend(tokenizer.special().eos.first());
    }
    Ok(tokens)
}
