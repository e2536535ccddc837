//! Memory layers that learn to say what memory says, over a model that does not change.

mod lessons;

use std::sync::{Mutex, PoisonError};

use cart_nn::graph::{
    AdamWState, Device, Graph, MemoryLayers, MemoryRows, Parameters, Sequences, Tensor, Var,
};
use serde_json::Value;

use crate::chance::Chance;
use crate::error::TrainError;
use crate::trainer::{Loss, Objective, StepReport, TrainOptions, Trainer};

use lessons::{Batch, batched};
pub use lessons::{Lesson, Remembered};

/// What chance in here is for.
const LESSONS: u64 = 11;
const ANCHORS: u64 = 12;
const OTHERS: u64 = 13;

/// Most lessons whose memories are one while an anchor is read.
const CROWD: usize = 16;

/// Positions whose logits are in memory together.
const LOSS_CHUNK: usize = 256;

/// What memory layers learn from.
#[derive(Clone, Debug, Default)]
pub struct MemoryTask {
    /// What was told, what is asked, and what is to be said.
    pub lessons: Vec<Lesson>,
    /// What memories say besides, beside some of the lessons.
    pub others: Vec<Remembered>,
    /// Other texts of equal length, whose hidden states are to stay what they are without memory.
    pub anchors: Vec<Vec<u32>>,
}

/// What does not change while memory layers learn.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryRecipe {
    /// The layers beside whose attention they stand, ascending, from 1.
    pub layers: Vec<usize>,
    /// The gate that they begin with.
    pub gate: f32,
    /// Lessons of a step's part.
    pub batch: usize,
    /// Anchors of a step's part.
    pub anchors: usize,
    /// What a change of the anchors' hidden states costs, relative to their size, in nats for each
    /// predicted token.
    pub anchor_weight: f64,
    /// How the run learns.
    pub options: TrainOptions,
}

/// Memory layers in training.
#[derive(Debug)]
pub struct MemoryTraining<'g> {
    learner: Learner<'g>,
    trainer: Trainer,
}

/// A frozen graph, memory layers on it, and what they learn from.
#[derive(Debug)]
struct Learner<'g> {
    graph: &'g Graph,
    layers: MemoryLayers,
    recipe: MemoryRecipe,
    task: MemoryTask,
    /// What goes into the first layer with memory beside it, of each text: no variable is before it.
    below: Mutex<Below>,
}

/// By their place in the task.
#[derive(Debug, Default)]
struct Below {
    lessons: Vec<Option<Tensor>>,
    /// With what comes out of the final norm where there is no memory.
    anchors: Vec<Option<(Tensor, Tensor)>>,
}

impl<'g> MemoryTraining<'g> {
    /// Layers before their first step: copies of the attention beside them.
    ///
    /// # Errors
    /// There is nothing to learn from, a layer has no attention, or an option is out of range.
    pub fn new(
        graph: &'g Graph,
        task: MemoryTask,
        recipe: MemoryRecipe,
    ) -> Result<Self, TrainError> {
        let refused = |option, found: f64, allowed| {
            Err(TrainError::Option { option, found: found.to_string(), allowed })
        };
        if task.lessons.is_empty() {
            return Err(TrainError::NoLessons);
        }
        if recipe.batch == 0 {
            return refused("the batch", 0.0, "1 or more");
        }
        if !recipe.gate.is_finite() || recipe.gate == 0.0 {
            // Through a gate of 0 no gradient reaches what is behind it.
            return refused("the gate to begin with", f64::from(recipe.gate), "above or below 0");
        }
        let birth = MemoryLayers::at_birth(graph, &recipe.layers, recipe.gate)?;
        let mut variables = Vec::new();
        let mut tensors = Parameters::new();
        for (name, tensor) in birth {
            let variable = Var::from_tensor(&tensor)?;
            tensors.insert(name.clone(), variable.as_tensor().clone());
            variables.push((name, variable));
        }
        let layers = MemoryLayers::bind(graph.spec(), &recipe.layers, &tensors)?;
        let trainer = Trainer::new(recipe.options, variables, |_| false)?;
        let below = Below {
            lessons: vec![None; task.lessons.len()],
            anchors: vec![None; task.anchors.len()],
        };
        let learner = Learner { graph, layers, recipe, task, below: Mutex::new(below) };
        Ok(Self { learner, trainer })
    }

    /// The run.
    pub fn trainer(&self) -> &Trainer {
        &self.trainer
    }

    /// The run, to go where a checkpoint was.
    pub fn trainer_mut(&mut self) -> &mut Trainer {
        &mut self.trainer
    }

    /// Makes a step.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn step(&mut self) -> Result<StepReport, TrainError> {
        self.trainer.step(&self.learner)
    }

    /// Mean of −ln p over the tokens of the answers of lessons, which need not be of the task.
    ///
    /// # Errors
    /// A pass failed.
    pub fn measure(&self, lessons: &[Lesson]) -> Result<f64, TrainError> {
        let (mut sum, mut count) = (0.0, 0);
        for lessons in lessons.chunks(self.learner.recipe.batch) {
            let lessons: Vec<&Lesson> = lessons.iter().collect();
            let batch = batched(&lessons);
            let sequences = self.learner.graph.sequences(batch.rows, batch.length)?;
            let below = sequences.embed(&batch.tokens)?;
            let below = sequences.layers(0..self.learner.first(), &below, None)?;
            let memories: Vec<_> = lessons.iter().map(|lesson| vec![&lesson.memory]).collect();
            let loss = self.learner.answers(&sequences, &below, &memories, &batch)?;
            sum += f64::from(loss.to_scalar::<f32>()?);
            count += batch.count;
        }
        Ok(sum / count.max(1) as f64)
    }

    /// `tanh(gate)` of each layer.
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn gates(&self) -> Result<Vec<f32>, TrainError> {
        Ok(self.learner.layers.gates()?)
    }

    /// The tensors as they are now.
    ///
    /// # Errors
    /// A number is not finite.
    pub fn tensors(&self) -> Result<Vec<AdamWState>, TrainError> {
        Ok(self.trainer.checkpoint(&Value::Null)?.variables)
    }
}

impl Learner<'_> {
    /// The first layer with memory beside it.
    fn first(&self) -> usize {
        self.recipe.layers[0]
    }

    /// What goes into the final norm.
    ///
    /// * `below`: what goes into the first layer with memory beside it, `[batch, count, hidden_size]`
    fn above(
        &self,
        sequences: &Sequences<'_>,
        below: &Tensor,
        rows: &MemoryRows,
    ) -> Result<Tensor, TrainError> {
        let mut hidden = below.clone();
        let ends = self.recipe.layers[1..].iter().copied();
        let ends = ends.chain([self.graph.spec().layers.len()]);
        for (&layer, end) in self.recipe.layers.iter().zip(ends) {
            hidden = self.layers.apply(layer, &hidden, rows)?.unwrap_or(hidden);
            hidden = sequences.layers(layer..end, &hidden, None)?;
        }
        Ok(hidden)
    }

    /// The sum of −ln p over the answers' tokens.
    fn answers(
        &self,
        sequences: &Sequences<'_>,
        below: &Tensor,
        memories: &[Vec<&Remembered>],
        batch: &Batch,
    ) -> Result<Tensor, TrainError> {
        let rows = self.rows(memories)?;
        let hidden = self.above(sequences, below, &rows)?;
        Ok(sequences.loss(&hidden, &batch.targets, &batch.weights, LOSS_CHUNK)?)
    }

    /// What some memories, each of one or more parts, are to the layers.
    fn rows(&self, memories: &[Vec<&Remembered>]) -> Result<MemoryRows, TrainError> {
        let width = self.graph.spec().hidden_size as usize;
        let count = |parts: &Vec<&Remembered>| parts.iter().map(|part| part.rows()).sum::<usize>();
        let longest = memories.iter().map(count).max().unwrap_or(0);
        let (mut states, shape) = (Vec::new(), (memories.len(), longest, width));
        for place in 0..self.recipe.layers.len() {
            let mut values = Vec::with_capacity(shape.0 * shape.1 * shape.2);
            for (row, parts) in memories.iter().enumerate() {
                parts.iter().for_each(|part| values.extend_from_slice(&part.states[place]));
                values.resize((row + 1) * longest * width, 0.0);
            }
            states.push(Tensor::from_vec(values, shape, &Device::Cpu)?);
        }
        let mut bias = Vec::with_capacity(shape.0 * shape.1);
        for (row, parts) in memories.iter().enumerate() {
            parts.iter().for_each(|part| bias.extend_from_slice(&part.bias));
            bias.resize((row + 1) * longest, f32::NEG_INFINITY);
        }
        let bias = Tensor::from_vec(bias, (shape.0, shape.1), &Device::Cpu)?;
        Ok(self.layers.rows(&states, &bias)?)
    }

    /// What goes into the first layer with memory beside it, of some lessons filled up to one length.
    fn below_lessons(
        &self,
        sequences: &Sequences<'_>,
        places: &[usize],
        batch: &Batch,
    ) -> Result<Tensor, TrainError> {
        let mut below = self.below.lock().unwrap_or_else(PoisonError::into_inner);
        if places.iter().any(|&place| below.lessons[place].is_none()) {
            let hidden = sequences.embed(&batch.tokens)?;
            let hidden = sequences.layers(0..self.first(), &hidden, None)?.detach();
            for (row, &place) in places.iter().enumerate() {
                let length = self.task.lessons[place].length();
                let own = hidden.narrow(0, row, 1)?.narrow(1, 0, length)?.copy()?;
                below.lessons[place] = Some(own);
            }
        }
        let own = places.iter().map(|&place| {
            let own = below.lessons[place].as_ref().expect("it was computed above");
            // What is filled up is after everything that counts, so nothing sees it.
            own.pad_with_zeros(1, 0, batch.length - own.dim(1)?)
        });
        Ok(Tensor::cat(&own.collect::<Result<Vec<_>, _>>()?, 0)?)
    }

    /// How far memory moves the hidden states of texts that it has nothing to say to: the mean squared
    /// distance over the mean square. None where there are no such texts.
    fn drift(&self, step: u64, part: u64) -> Result<Option<(Tensor, usize)>, TrainError> {
        let all = self.task.anchors.len();
        if all == 0 || self.recipe.anchors == 0 || self.recipe.anchor_weight == 0.0 {
            return Ok(None);
        }
        let mut chance = Chance::new(self.recipe.options.seed, &[ANCHORS, step, part]);
        let places: Vec<usize> = (0..self.recipe.anchors).map(|_| chance.below(all)).collect();
        let memories: Vec<Vec<&Remembered>> = places
            .iter()
            .map(|_| {
                let crowd = 1 + chance.below(CROWD);
                let one = |_| &self.task.lessons[chance.below(self.task.lessons.len())].memory;
                (0..crowd).map(one).collect()
            })
            .collect();
        let length = self.task.anchors[0].len();
        let sequences = self.graph.sequences(places.len(), length)?;
        let (below, expected) = self.below_anchors(&places)?;
        let hidden = self.above(&sequences, &below, &self.rows(&memories)?)?;
        let distance = (sequences.norm(&hidden)? - &expected)?.sqr()?.sum_all()?;
        let size = expected.sqr()?.sum_all()?.to_scalar::<f32>()?;
        let drift = distance.affine(1.0 / f64::from(size.max(f32::MIN_POSITIVE)), 0.0)?;
        Ok(Some((drift, places.len() * length)))
    }

    /// What memory says while lessons are asked: what they told, and beside every second one something
    /// else.
    fn beside_others<'l>(&'l self, lessons: &[&'l Lesson], part: u64) -> Vec<Vec<&'l Remembered>> {
        let mut chance = Chance::new(self.recipe.options.seed, &[OTHERS, part]);
        let mut memories = Vec::new();
        for (row, lesson) in lessons.iter().enumerate() {
            let mut parts = vec![&lesson.memory];
            if row % 2 == 1 && !self.task.others.is_empty() {
                parts.insert(0, &self.task.others[chance.below(self.task.others.len())]);
            }
            memories.push(parts);
        }
        memories
    }

    fn below_anchors(&self, places: &[usize]) -> Result<(Tensor, Tensor), TrainError> {
        let mut below = self.below.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for &place in places {
            if below.anchors[place].is_none() {
                let tokens = &self.task.anchors[place];
                let sequences = self.graph.sequences(1, tokens.len())?;
                let hidden = sequences.layers(0..self.first(), &sequences.embed(tokens)?, None)?;
                let layers = self.graph.spec().layers.len();
                let last = sequences.layers(self.first()..layers, &hidden, None)?;
                let normed = sequences.norm(&last)?;
                below.anchors[place] = Some((hidden.detach(), normed.detach()));
            }
            let (hidden, normed) = below.anchors[place].as_ref().expect("it was computed above");
            before.push(hidden.clone());
            after.push(normed.clone());
        }
        Ok((Tensor::cat(&before, 0)?, Tensor::cat(&after, 0)?))
    }

    /// The lessons of a part, counted from the beginning of the run: every epoch has each once, in an
    /// order of its own.
    fn places(&self, part: u64) -> Vec<usize> {
        let all = self.task.lessons.len();
        let batch = self.recipe.batch.min(all);
        let parts = (all / batch) as u64;
        let mut chance = Chance::new(self.recipe.options.seed, &[LESSONS, part / parts]);
        let order = chance.order(all);
        let first = (part % parts) as usize * batch;
        order[first..first + batch].to_vec()
    }
}

impl Objective for Learner<'_> {
    fn loss(&self, step: u64, part: u64) -> Result<Loss, TrainError> {
        let from_start = step * self.recipe.options.accumulate + part;
        let places = self.places(from_start);
        let lessons: Vec<&Lesson> = places.iter().map(|&place| &self.task.lessons[place]).collect();
        let batch = batched(&lessons);
        let sequences = self.graph.sequences(batch.rows, batch.length)?;
        let below = self.below_lessons(&sequences, &places, &batch)?;
        let memories = self.beside_others(&lessons, from_start);
        let mut sum = self.answers(&sequences, &below, &memories, &batch)?;
        let mut tokens = batch.tokens.len();
        if let Some((drift, read)) = self.drift(step, part)? {
            // The step divides by the count of predictions.
            sum = (sum + drift.affine(self.recipe.anchor_weight * batch.count as f64, 0.0)?)?;
            tokens += read;
        }
        Ok(Loss { sum, count: batch.count, tokens })
    }
}
