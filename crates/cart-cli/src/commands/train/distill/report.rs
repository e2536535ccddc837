//! What a run did.

use std::path::Path;

use cart_train::distill::{
    AlignedHeldOut, AlignmentReport, Distillation, HeldOut, ProjectionReport, Student,
    StudentReport, TeacherReport,
};
use serde::Serialize;

use super::super::gradients::GradientReport;
use super::super::pace::Pace;
use super::memory::MemoryReport;
use super::student::Origin;
use crate::bytes::{grouped, seconds};
use crate::context::Context;
use crate::failure::Failure;
use crate::history::LoadedFrom;
use crate::report;

/// What a run did.
#[derive(Serialize)]
pub(super) struct DistillReport {
    teacher: ModelReport,
    /// None where it was made from the teacher.
    student: Option<ModelReport>,
    begun: StudentReport,
    /// None where no hidden states are compared, or those of both have as many numbers.
    projections: Option<ProjectionReport>,
    /// None where the student has the teacher's tokens.
    alignment: Option<AlignmentReport>,
    data_tokens: usize,
    run: String,
    pub(super) steps_planned: u64,
    steps: u64,
    /// Steps that were there when this process began.
    resumed_at: u64,
    done: bool,
    pub(super) gradients: Option<GradientReport>,
    before: Option<MeasureReport>,
    /// On the way, in this process.
    pub(super) measured: Vec<MeasureReport>,
    pub(super) after: Option<MeasureReport>,
    pub(super) kept: Option<KeptReport>,
    asked: TeacherReport,
    tokens_per_second: f64,
    seconds: f64,
    #[serde(skip)]
    origin: String,
}

/// A cartridge.
#[derive(Serialize)]
struct ModelReport {
    name: String,
    manifest: String,
}

/// How well the held-out text was predicted after a step.
#[derive(Clone, Copy, Serialize)]
pub(super) struct MeasureReport {
    pub(super) step: u64,
    pub(super) held_out: HeldOut,
}

/// Where the result is.
#[derive(Serialize)]
pub(super) struct KeptReport {
    pub(super) name: String,
    pub(super) manifest: String,
    pub(super) commit: String,
    /// None where the teacher remembers nothing, or it was left out.
    pub(super) memory: Option<MemoryReport>,
}

impl DistillReport {
    pub(super) fn new(
        teacher: &str,
        loaded: &LoadedFrom,
        origin: &Origin,
        student: &Student,
        folder: &Path,
        data_tokens: usize,
    ) -> Self {
        let packed = match origin {
            Origin::Packed { name, manifest, .. } => {
                Some(ModelReport { name: name.clone(), manifest: manifest.clone() })
            }
            Origin::Made { .. } => None,
        };
        Self {
            teacher: ModelReport { name: teacher.to_owned(), manifest: loaded.manifest.hex() },
            student: packed,
            begun: student.report().clone(),
            projections: None,
            alignment: None,
            data_tokens,
            run: folder.display().to_string(),
            steps_planned: 0,
            steps: 0,
            resumed_at: 0,
            done: false,
            gradients: None,
            before: None,
            measured: Vec::new(),
            after: None,
            kept: None,
            asked: TeacherReport::default(),
            tokens_per_second: 0.0,
            seconds: 0.0,
            origin: origin.said(),
        }
    }

    /// What learns beside the student, and how it is compared.
    pub(super) fn with(mut self, run: &Distillation<'_>) -> Self {
        self.projections = run.projections();
        self.alignment = run.alignment();
        self
    }

    pub(super) fn begin(&mut self, before: MeasureReport, resumed_at: u64, planned: u64) {
        self.before = Some(before);
        (self.resumed_at, self.steps, self.steps_planned) = (resumed_at, resumed_at, planned);
    }

    pub(super) fn finish(&mut self, run: &Distillation<'_>, pace: &Pace) {
        self.steps = run.trainer().steps();
        self.done = run.trainer().is_done();
        self.asked = run.teacher();
        self.seconds = pace.took().as_secs_f64();
        self.tokens_per_second = pace.tokens_per_second();
    }

    /// What the student is before it learns.
    pub(super) fn said(&self) -> String {
        let StudentReport { layers, hidden, parameters, trained, copied, drawn, respelled, .. } =
            self.begun;
        let numbers = format!(
            "{} parameters, {} trained",
            grouped(parameters as u64),
            grouped(trained as u64)
        );
        let begun = format!("student: {}; {layers} layers of {hidden}, {numbers}", self.origin);
        let begun = match (&self.student, drawn) {
            (Some(_), _) => begun,
            (None, 0) if respelled == 0 => format!("{begun}; all {copied} tensors are copies"),
            (None, _) => format!("{begun}; {copied} tensors are copies, {drawn} are drawn anew"),
        };
        let begun = match respelled {
            0 => begun,
            _ => format!("{begun}, {respelled} made of the teacher's rows for other tokens"),
        };
        let more = self.projections.iter().map(projected);
        more.chain(self.alignment.iter().map(super::align::said))
            .fold(begun, |said, line| said + "\n" + &line)
    }

    pub(super) fn print(&self, context: &Context) -> Result<(), Failure> {
        if context.json {
            return report::print("train-distill", self);
        }
        report::line(&format!(
            "{} of {} steps, {} tokens/s, {}; the teacher read {} sequences and was not asked for {} again",
            grouped(self.steps),
            grouped(self.steps_planned),
            grouped(self.tokens_per_second as u64),
            seconds(self.seconds),
            grouped(self.asked.read),
            grouped(self.asked.reused),
        ))?;
        if let (Some(before), Some(after)) = (&self.before, &self.after) {
            report::line(&format!(
                "held out: perplexity {:.2}, was {:.2}, the teacher's is {:.2}; it agrees with the teacher for {:.1} %, was {:.1} %",
                after.held_out.perplexity,
                before.held_out.perplexity,
                after.held_out.teacher_perplexity,
                100.0 * after.held_out.agreement,
                100.0 * before.held_out.agreement,
            ))?;
            if let (Some(before), Some(after)) = (before.held_out.aligned, after.held_out.aligned) {
                report::line(&aligned(before, after))?;
            }
        }
        let Some(kept) = &self.kept else {
            return report::line("nothing was saved but the checkpoint");
        };
        if let Some(memory) = &kept.memory {
            report::line(&memory.said())?;
        }
        report::line(&format!("saved {}  sha256:{}", kept.name, kept.manifest))
    }
}

fn aligned(before: AlignedHeldOut, after: AlignedHeldOut) -> String {
    format!(
        "bits per byte: {:.4}, was {:.4}, the teacher's are {:.4}; both were compared at {} positions",
        after.bits_per_byte,
        before.bits_per_byte,
        after.teacher_bits_per_byte,
        grouped(after.compared as u64),
    )
}

fn projected(projections: &ProjectionReport) -> String {
    let ProjectionReport { matrices, student, teacher, parameters } = projections;
    format!(
        "hidden states go from {student} to {teacher} numbers through {matrices} matrices, {} parameters, which learn too and are not kept",
        grouped(*parameters as u64)
    )
}

impl MeasureReport {
    pub(super) fn said(&self) -> String {
        let HeldOut { perplexity, teacher_perplexity, agreement, tokens, aligned } = self.held_out;
        let said = format!(
            "step {}: perplexity {perplexity:.2} of {} held-out tokens (the teacher's {teacher_perplexity:.2}), the teacher's likeliest token for {:.1} %",
            self.step,
            grouped(tokens as u64),
            100.0 * agreement
        );
        match aligned {
            Some(AlignedHeldOut { bits_per_byte, teacher_bits_per_byte, .. }) => format!(
                "{said}, {bits_per_byte:.4} bits per byte (the teacher's {teacher_bits_per_byte:.4})"
            ),
            None => said,
        }
    }
}
