//! `cart train memory`.

mod exam;
mod lessons;
mod report;
mod run;
mod task;

use std::path::{Path, PathBuf};

use cart_engine::{LoadOptions, without_memory_layers};
use cart_format::Recipe;
use cart_memory::config::{BufferRules, StoreRules};
use cart_nn::graph::Products;
use cart_store::RefName;
use cart_train::memory::MemoryRecipe;
use cart_train::{Schedule, TrainOptions};
use clap::{Args, ValueHint};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::history::{self, LoadedFrom};
pub(crate) use lessons::{answer_tokens, prompt_tokens, said};

/// Train memory layers: cross-attention to what memory says, beside the attention of some layers, over a model that does not change.
///
/// The layers begin as copies of the attention beside them, behind a gate. They learn from lessons: something is told, the context
/// is gone, and something is asked. The built-in task is names: told one, asked for it, and told another one after that. A FILE has a
/// lesson a line, {"told": TEXT or [TEXT, …], "ask": TEXT, "answer": TEXT}. Some lessons are held out; after training they are
/// asked in the cartridge that was saved, with memory, with another's memory, without, and with what was told in the context.
///
/// Memory that has nothing to say is to change nothing: texts that the model wrote itself are read beside the lessons, and
/// hidden states that move cost. The perplexity of another text is measured with and without.
///
/// The same command goes on from the run folder's checkpoint, and ends in the same cartridge.
#[derive(Args)]
#[command(after_help = "Examples:
  cart train memory smol -t smol:remembers
  cart train memory smol --names names.txt --steps 150 -t smol:remembers
  cart train memory smol --precision bf16 -t smol:remembers
  cart train memory smol --task lessons.jsonl --held-out 20 -t smol:taught
  cart train memory smol --steps 0 -t smol:layers
  cart train memory smol:remembers --remove -t smol:bare")]
pub(crate) struct MemoryArgs {
    /// A cartridge
    #[arg(value_name = "REF")]
    reference: String,
    /// The name of the result
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: RefName,
    /// What is learned: `names`, or a file of lessons
    #[arg(long, value_name = "names|FILE", default_value = "names", value_hint = ValueHint::FilePath)]
    task: String,
    /// Names for `names`, one a line [default: 1,000 first names]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    names: Option<PathBuf>,
    /// Names to learn from
    #[arg(long, value_name = "N", default_value_t = 500)]
    count: usize,
    /// Lessons that are held out, and asked at the end
    #[arg(long, value_name = "N", default_value_t = 50)]
    held_out: usize,
    /// The layers beside whose attention they stand, from 0 [default: five, from a third of the depth on]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    layers: Vec<usize>,
    /// Steps; with 0 the layers are there and shut, and nothing changes
    #[arg(long, value_name = "N", default_value_t = 300)]
    steps: u64,
    /// The gate to begin with: tanh(gate) weighs what is read
    #[arg(long, value_name = "X", default_value_t = 0.3)]
    gate: f32,
    /// Lessons of a step, or of each of its parts
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Parts of a step, whose gradients are added up
    #[arg(long, value_name = "N", default_value_t = 1)]
    accumulate: u64,
    /// The largest learning rate
    #[arg(long, value_name = "RATE", default_value_t = 5e-4)]
    lr: f64,
    /// Steps in which it rises
    #[arg(long, value_name = "N", default_value_t = 10)]
    warmup: u64,
    /// What a step takes off matrices, as a factor on the learning rate
    #[arg(long, value_name = "X", default_value_t = 0.01)]
    weight_decay: f64,
    /// The norm that gradients are scaled down to
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    clip: f64,
    /// Texts of the model's own that are read beside the lessons of each part; 0 for none
    #[arg(long, value_name = "N", default_value_t = 2)]
    anchors: usize,
    /// What it costs that memory moves them
    #[arg(long, value_name = "X", default_value_t = 60.0)]
    anchor_weight: f64,
    /// A text whose perplexity is measured with and without [default: the GNU General Public License, version 3]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    text: Option<PathBuf>,
    /// What chance follows from
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << 53))]
    seed: u64,
    /// Where the checkpoint and the log are [default: train-NAME-TAG]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    run: Option<PathBuf>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
    /// Take the memory layers out: what is left is the cartridge as it was without them
    #[arg(long)]
    remove: bool,
}

pub(crate) fn run(context: &Context, args: &MemoryArgs, products: Products) -> Result<(), Failure> {
    if args.remove {
        return remove(context, args);
    }
    run::run(context, args, products)
}

/// Saves the cartridge without its memory layers.
fn remove(context: &Context, args: &MemoryArgs) -> Result<(), Failure> {
    let origin = history::verified_origin(context, &args.reference)?;
    let before = origin.verified.manifest();
    if before.memory_layers.is_none() {
        return Err(Failure::refused_with(
            format!("{} has no memory layers", args.reference),
            "cart train memory gives it some",
        ));
    }
    let store = context.store_or_new()?;
    let held = store.hold().map_err(Failure::refused)?;
    if let Some(file) = &origin.file {
        store.import_cart(file, &cart_store::Silent).map_err(Failure::refused)?;
    }
    let manifest = store.put_manifest(&without_memory_layers(before)).map_err(Failure::refused)?;
    let recipe =
        Recipe::new("train").with("tool", history::tool()).with("what", "remove memory layers");
    let commit = args.commit(&store, &origin, manifest, recipe)?;
    drop(held);
    let removed = report::Removed::new(&args.tag, manifest, commit);
    if context.json {
        return crate::report::print("train-memory-removed", &removed);
    }
    crate::report::line(&removed.said())
}

impl MemoryArgs {
    /// How an agent is loaded that lives with such layers: with a decaying buffer and a
    /// surprise-gated store, as SEAM has them.
    fn load(context: &Context) -> LoadOptions {
        let mut load = history::load_options(context);
        load.memory.buffer = Some(BufferRules::default());
        load.memory.store = Some(StoreRules::default());
        load
    }

    /// Five layers, evenly from a third of the depth on.
    fn layers(&self, depth: usize) -> Vec<usize> {
        let mut layers = self.layers.clone();
        if layers.is_empty() {
            layers = (0..5).map(|place| depth / 3 + place * depth * 2 / 15).collect();
            layers.retain(|&layer| layer > 0);
        }
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    fn recipe(&self, depth: usize, products: Products) -> MemoryRecipe {
        let schedule =
            Schedule { peak: self.lr, warmup: self.warmup, steps: self.steps, floor: 0.1 };
        MemoryRecipe {
            layers: self.layers(depth),
            gate: self.gate,
            batch: self.batch,
            anchors: self.anchors,
            anchor_weight: self.anchor_weight,
            options: TrainOptions {
                schedule,
                weight_decay: self.weight_decay,
                clip: self.clip,
                accumulate: self.accumulate,
                seed: self.seed,
                products,
            },
        }
    }

    fn folder(&self) -> PathBuf {
        self.run.clone().unwrap_or_else(|| {
            Path::new(".").join(format!("train-{}", self.tag.to_string().replace([':', '/'], "-")))
        })
    }

    fn commit(
        &self,
        store: &cart_store::Store,
        origin: &LoadedFrom,
        manifest: cart_format::ManifestId,
        recipe: Recipe,
    ) -> Result<cart_format::CommitId, Failure> {
        let new = history::NewCommit {
            manifest,
            parents: origin.commit.into_iter().collect(),
            recipe,
            message: String::new(),
            // Without a memory they change nothing, so what the base answers, this one does.
            probes: origin.probes.clone(),
        };
        history::commit(store, new, Some(&self.tag))
    }
}

/// Everything that the result depends on.
fn described(base: &str, recipe: &MemoryRecipe, task: &Value) -> Value {
    json!({
        "tool": history::tool(),
        "what": "memory layers",
        "base": base,
        "task": task,
        "layers": recipe.layers,
        "gate": recipe.gate,
        "batch": recipe.batch,
        "anchors": recipe.anchors,
        "anchor_weight": recipe.anchor_weight,
        "options": recipe.options,
    })
}
