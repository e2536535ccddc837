//! The run: lessons, steps, the cartridge, and the exam.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cart_engine::{Agent, LayerTensor, with_memory_layers};
use cart_format::Recipe;
use cart_nn::graph::{Graph, MemoryLayers, Products};
use cart_store::Silent;
use cart_train::memory::{MemoryRecipe, MemoryTask, MemoryTraining};
use serde_json::Value;

use super::super::folder::RunFolder;
use super::super::gates::Frozen;
use super::super::pace::Pace;
use super::exam::{Elsewhere, Recall};
use super::report::MemoryReport;
use super::task::Task;
use super::{MemoryArgs, lessons};
use crate::commands::bench::TEXT;
use crate::context::Context;
use crate::failure::Failure;
use crate::history::{self, LoadedFrom};
use crate::progress::{interrupted, stop_on_interrupt};

/// Anchors that are written before the first step.
const ANCHORS: usize = 32;

/// The time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

pub(super) fn run(context: &Context, args: &MemoryArgs, products: Products) -> Result<(), Failure> {
    let began = Instant::now();
    let task = Task::of(args)?;
    let text = match &args.text {
        Some(path) => std::fs::read_to_string(path).map_err(|source| {
            let (path, action) = (path.clone(), "read");
            Failure::refused(cart_train::TrainError::File { path, action, source })
        })?,
        None => TEXT.to_owned(),
    };
    let (agent, origin) = history::load_with(context, &args.reference, &MemoryArgs::load(context))?;
    let depth = agent.model().spec().layers.len();
    let recipe = args.recipe(depth, products);
    // Before anything is told: it takes its time.
    MemoryLayers::shapes(agent.model().spec(), &recipe.layers).map_err(Failure::refused)?;
    let described = super::described(&origin.manifest.hex(), &recipe, &task.described);
    let frozen = Frozen::of(context, &args.reference)?;
    let graph = frozen.graph();
    let mut report = MemoryReport::new(args, &recipe, &task);
    let tensors = if args.steps == 0 {
        untrained(graph, &recipe)?
    } else {
        let run =
            Run { context, args, agent: &agent, graph, recipe: &recipe, described: &described };
        match run.trained(&task, &mut report)? {
            Some(tensors) => tensors,
            None => return report.finish(context, began),
        }
    };
    report.kept(keep(context, args, &origin, &recipe, (&described, &tensors))?);
    let (taught, _) =
        history::load_with(context, &args.tag.to_string(), &MemoryArgs::load(context))?;
    context.remark(&format!("asking {} lessons that were held out …", task.held_out.len()));
    report.recall = Some(Recall::of(&taught, &task.held_out)?);
    report.elsewhere = Elsewhere::of(&taught, &task.held_out, &text)?;
    report.finish(context, began)
}

struct Run<'a> {
    context: &'a Context,
    args: &'a MemoryArgs,
    agent: &'a Agent,
    graph: &'a Graph,
    recipe: &'a MemoryRecipe,
    described: &'a Value,
}

impl Run<'_> {
    /// The layers after the last step; none where the run was interrupted.
    fn trained(
        &self,
        task: &Task,
        report: &mut MemoryReport,
    ) -> Result<Option<Vec<LayerTensor>>, Failure> {
        let path = self.args.folder();
        let checkpoint = RunFolder::checkpoint(&path)?;
        if let Some(checkpoint) = &checkpoint {
            checkpoint.check(&path, self.described).map_err(Failure::refused)?;
        }
        let (taught, held_out) = self.lessons(task)?;
        let mut training = MemoryTraining::new(self.graph, taught, self.recipe.clone())
            .map_err(Failure::refused)?;
        let first = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.steps);
        if let Some(checkpoint) = checkpoint {
            let restored = training.trainer_mut().restore(&path, checkpoint, self.described);
            restored.map_err(Failure::refused)?;
            self.context.remark(&format!("going on after step {first} of {}", path.display()));
        }
        let mut folder = RunFolder::open(&path, first)?;
        let mut pace = Pace::new(first);
        report.begin(&path, training.trainer().parameters(), first);
        stop_on_interrupt();
        while !training.trainer().is_done() && !interrupted() {
            let step = match training.step() {
                Ok(step) => step,
                Err(error) => {
                    let folder = path.display();
                    self.context.remark(&format!("the last checkpoint is in {folder}"));
                    return Err(Failure::refused(error));
                }
            };
            folder.say(&step)?;
            report.gradients(self.context, &step.norms);
            pace.count(self.context, &step, training.trainer().planned());
            if step.step.is_multiple_of(self.args.save_every) {
                self.save(&training, path.clone())?;
            }
        }
        self.save(&training, path)?;
        report.steps(training.trainer().steps(), &pace);
        if !training.trainer().is_done() {
            let step = training.trainer().steps();
            self.context.remark(&format!(
                "interrupted after step {step}; the same command goes on from there"
            ));
            return Ok(None);
        }
        report.loss = Some(training.measure(&held_out).map_err(Failure::refused)?);
        report.gates = training.gates().map_err(Failure::refused)?;
        let state = training.tensors().map_err(Failure::refused)?;
        let tensor = |state: cart_nn::graph::AdamWState| LayerTensor {
            name: state.name,
            shape: state.shape,
            values: state.values,
        };
        Ok(Some(state.into_iter().map(tensor).collect()))
    }

    fn save(&self, training: &MemoryTraining<'_>, path: PathBuf) -> Result<(), Failure> {
        training.trainer().save(&path, self.described).map_err(Failure::refused)
    }

    /// What is learned from, and what is measured.
    fn lessons(
        &self,
        task: &Task,
    ) -> Result<(MemoryTask, Vec<cart_train::memory::Lesson>), Failure> {
        let count = task.lessons.len();
        self.context.remark(&format!("telling {count} lessons …"));
        let layers = &self.recipe.layers;
        let mut said = Instant::now();
        let learned = lessons::taught(self.agent, &task.lessons, layers, |done| {
            if said.elapsed() >= PROGRESS {
                said = Instant::now();
                self.context.remark(&format!("told {done} of {count}"));
            }
        })?;
        let held_out = lessons::taught(self.agent, &task.held_out, layers, |_| {})?;
        let anchors = if self.recipe.anchors == 0 { 0 } else { ANCHORS };
        let anchors = lessons::anchors(self.agent, anchors, self.args.seed)?;
        let others = lessons::others(self.agent, &anchors, layers)?;
        Ok((MemoryTask { lessons: learned, others, anchors }, held_out))
    }
}

/// Layers as they are born, behind gates that are shut.
fn untrained(graph: &Graph, recipe: &MemoryRecipe) -> Result<Vec<LayerTensor>, Failure> {
    let born = MemoryLayers::at_birth(graph, &recipe.layers, 0.0).map_err(Failure::refused)?;
    let tensor = |(name, tensor): (String, cart_nn::graph::Tensor)| {
        let shape = tensor.dims().to_vec();
        let values = tensor.flatten_all().and_then(|flat| flat.to_vec1()).map_err(Failure::bug)?;
        Ok(LayerTensor { name, shape, values })
    };
    born.into_iter().map(tensor).collect()
}

/// Makes the cartridge, and looks at every byte of it again.
fn keep(
    context: &Context,
    args: &MemoryArgs,
    origin: &LoadedFrom,
    recipe: &MemoryRecipe,
    (described, tensors): (&Value, &[LayerTensor]),
) -> Result<(String, String), Failure> {
    let store = context.store_or_new()?;
    let held = store.hold().map_err(Failure::refused)?;
    if let Some(file) = &origin.file {
        store.import_cart(file, &Silent).map_err(Failure::refused)?;
    }
    let base = origin.verified.manifest();
    let manifest = with_memory_layers(base, &recipe.layers, tensors, &store);
    let manifest = store.put_manifest(&manifest.map_err(Failure::refused)?);
    let manifest = manifest.map_err(Failure::refused)?;
    let said = Recipe::new("train").with("tool", history::tool()).with("run", described.clone());
    let commit = args.commit(&store, origin, manifest, said)?;
    drop(held);
    history::verified(context, &args.tag.to_string())?;
    Ok((manifest.hex(), commit.hex()))
}
