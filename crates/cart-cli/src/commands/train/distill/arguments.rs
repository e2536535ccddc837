//! What `cart train distill` is asked for.

use std::path::PathBuf;

use cart_nn::graph::{Divergence, Products};
use cart_store::RefName;
use cart_train::distill::{DistillOptions, HiddenOptions, StudentSpec};
use cart_train::{Schedule, TrainOptions};
use clap::{ArgGroup, Args, ValueEnum, ValueHint};

/// Train a smaller model to say what a larger one says.
///
/// The student is STUDENT, or is made from the teacher: of --student-spec, with --take layers or evenly spread ones. Tensors of the
/// same shape are copied from the teacher, others are drawn anew. The student learns, at each position of the text, the teacher's
/// best tokens one by one and all others together; what the teacher says is kept in --cache and asked only once.
///
/// With --align the student has tokens of its own: those of STUDENT, or of --tokenizer. Both read the same text, each in its tokens. Where
/// two of them end at the same byte, groups of tokens that the next bytes decide are compared; inside a token of the teacher, the next byte.
///
/// The end of the text is held out: perplexity, and how often the likeliest token is the teacher's, are measured there before and
/// after. The result gets the teacher's tokenizer (with --align, the student's), and what the teacher remembers, read again by the student.
///
/// The run folder has a checkpoint and a log of JSON lines. The same command goes on from there; Ctrl-C leaves one behind. A run
/// that was interrupted ends in the same cartridge as one that was not.
#[derive(Args)]
#[command(group = ArgGroup::new("from").args(["student", "student_spec", "take"]).required(true).multiple(true))]
#[command(after_help = "Examples:
  cart train distill smol --student-spec layers=12 --data book.txt -t smol:small
  cart train distill smol --take 0,2,5,9,14,20,25,29 --data a.txt b.txt --steps 500 -t smol:small
  cart train distill smol --student-spec layers=12 --data a.txt --precision bf16 -t smol:quick
  cart train distill smol smol:small --data a.txt --on-policy 0.25 --divergence js -t b
  cart train distill smol --student-spec layers=6,hidden=288 --data a.txt --hard 0.5 -t mini
  cart train distill smol mini:bytes --align --data a.txt -t mini:taught
  cart train distill smol --take 0,9,19,29 --align --tokenizer mini --data a.txt -t smol:mini")]
pub(crate) struct DistillArgs {
    /// The cartridge to learn from
    #[arg(value_name = "TEACHER")]
    pub(super) teacher: String,
    /// The cartridge to begin with, of the teacher's vocabulary or with --align
    #[arg(value_name = "STUDENT", conflicts_with_all = ["student_spec", "take"])]
    pub(super) student: Option<String>,
    /// What a student made from the teacher has other than it: layers, hidden, heads, kv_heads, intermediate
    #[arg(long, value_name = "NAME=VALUE,…")]
    pub(super) student_spec: Option<StudentSpec>,
    /// The teacher's layers that it begins from [default: evenly spread, with the first and the last]
    #[arg(long, value_name = "LAYER,…", value_delimiter = ',')]
    pub(super) take: Option<Vec<usize>>,
    /// Compare other tokens than the teacher's where both speak of the same bytes
    #[arg(long, conflicts_with_all = ["hidden_weight", "on_policy"])]
    pub(super) align: bool,
    /// The cartridge whose tokenizer a student made from the teacher gets
    #[arg(long, value_name = "REF", requires = "align", conflicts_with = "student")]
    pub(super) tokenizer: Option<String>,
    /// Texts
    #[arg(long, value_name = "FILE", required = true, num_args = 1.., value_hint = ValueHint::FilePath)]
    pub(super) data: Vec<PathBuf>,
    /// The name of the result
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub(super) tag: RefName,
    /// How far the student is from the teacher
    #[arg(long, value_name = "HOW", default_value = "forward")]
    pub(super) divergence: How,
    /// Of js: 0.5 is the symmetric one, near 0 it is like forward, near 1 like reverse
    #[arg(long, value_name = "B", default_value_t = 0.5)]
    pub(super) beta: f64,
    /// What the logits of both are divided by
    #[arg(long, value_name = "T", default_value_t = 1.0)]
    pub(super) temperature: f64,
    /// The share of the loss that the text itself has, 0 to 1; at 1 the teacher is not asked
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub(super) hard: f64,
    /// Tokens of the teacher that are known one by one
    #[arg(long, value_name = "K", default_value_t = 64)]
    pub(super) top_k: usize,
    /// What hidden states that differ cost; the teacher then reads along in every step. Where the student has another width, a matrix for
    /// each pair of layers brings its states to the teacher's; they learn too and are not kept
    #[arg(long, value_name = "X")]
    pub(super) hidden_weight: Option<f64>,
    /// Layers of the student and of the teacher whose hidden states are compared [default: all, in proportion]
    #[arg(long, value_name = "S:T,…", value_delimiter = ',', value_parser = pair, requires = "hidden_weight")]
    pub(super) layer_map: Option<Vec<(usize, usize)>>,
    /// Whether hidden states are divided by their size before they are compared
    #[arg(long, value_name = "HOW", default_value = "rms", requires = "hidden_weight")]
    pub(super) hidden_norm: HiddenNorm,
    /// The share of sequences that the student goes on from itself, for the teacher to judge
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    pub(super) on_policy: f64,
    /// Tokens of the text that it goes on from [default: half of the context]
    #[arg(long, value_name = "N", requires = "on_policy")]
    pub(super) prompt: Option<usize>,
    /// Tensors that stay as they are: those whose names contain one of these
    #[arg(long, value_name = "PART,…", value_delimiter = ',')]
    pub(super) freeze: Vec<String>,
    /// Tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(super) context: usize,
    /// How often the text is read
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) epochs: u64,
    /// Steps, in place of --epochs
    #[arg(long, value_name = "N", conflicts_with = "epochs")]
    pub(super) steps: Option<u64>,
    /// Sequences of a step, or of each of its parts
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(super) batch: usize,
    /// Parts of a step, whose gradients are added up
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) accumulate: u64,
    /// The largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 3e-4)]
    pub(super) lr: f64,
    /// Steps in which it rises
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) warmup: u64,
    /// What a step takes off matrices, as a factor on the learning rate
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    pub(super) weight_decay: f64,
    /// The norm that gradients are scaled down to
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub(super) clip: f64,
    /// The share of the text, from its end, that is held out
    #[arg(long, value_name = "X", default_value_t = 0.05)]
    pub(super) held_out: f64,
    /// Held-out sequences that are measured
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) measure: u64,
    /// Steps between measurements [default: before the first and after the last]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) measure_every: Option<u64>,
    /// What chance follows from
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << 53))]
    pub(super) seed: u64,
    /// Leave out what the teacher remembers
    #[arg(long)]
    pub(super) no_memory: bool,
    /// Where the teacher's answers are kept [default: `teacher` in the run folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) cache: Option<PathBuf>,
    /// Where the checkpoint and the log are [default: train-NAME-TAG]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(super) run: Option<PathBuf>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) save_every: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum How {
    /// Kullback-Leibler from the teacher: the student covers whatever it may say
    Forward,
    /// Kullback-Leibler from the student: it keeps to what the teacher would say
    Reverse,
    /// Jensen-Shannon, between both
    Js,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum HiddenNorm {
    /// By their root mean square
    Rms,
    /// They are compared as they are
    None,
}

impl DistillArgs {
    pub(super) fn training(&self, steps: u64, products: Products) -> TrainOptions {
        TrainOptions {
            schedule: Schedule { peak: self.lr, warmup: self.warmup, steps, floor: 0.1 },
            weight_decay: self.weight_decay,
            clip: self.clip,
            accumulate: self.accumulate,
            seed: self.seed,
            products,
        }
    }

    /// * `student`, `teacher`: their numbers of layers
    pub(super) fn options(&self, student: usize, teacher: usize) -> DistillOptions {
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

/// `S:T`.
fn pair(text: &str) -> Result<(usize, usize), String> {
    let layers = text.split_once(':').and_then(|(student, teacher)| {
        Some((student.trim().parse().ok()?, teacher.trim().parse().ok()?))
    });
    layers.ok_or_else(|| format!("`{text}` is no STUDENT:TEACHER pair of layers, such as 0:2"))
}
