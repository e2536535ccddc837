//! Gates of a memory's slots, by back-propagation through the bias of recalled spans (spec 80 §5).

use std::collections::BTreeMap;

use cart_nn::graph::operations::sigmoid;
use cart_nn::graph::{CrossEntropy, Device, Graph, GraphRun, GraphSpan, GraphState, Tensor, Var};

use crate::chance::Chance;
use crate::error::TrainError;
use crate::trainer::{Loss, Objective, StepReport, TrainOptions, Trainer};

/// What chance in here is for.
const LESSONS: u64 = 14;

/// Keeps the logarithm finite, as in `cart_memory::gate`.
const EPSILON: f64 = 1e-6;

/// Positions whose logits are in memory together.
const LOSS_CHUNK: usize = 256;

/// A question with what it recalls.
#[derive(Clone, Debug, PartialEq)]
pub struct GateLesson {
    /// What stands before the prompt: the place of the slot among all gates, and its tokens.
    pub spans: Vec<(usize, Vec<u32>)>,
    /// Up to where the answer begins; one token or more.
    pub prompt: Vec<u32>,
    /// The answer, with what ends it.
    pub answer: Vec<u32>,
}

/// What gates learn from.
#[derive(Clone, Debug, Default)]
pub struct GateTask {
    /// What stands before the spans.
    pub header: Vec<u32>,
    /// Added to the scores of each span beside `ln(σ(A) · weight + ε)`.
    pub offset: f32,
    /// `energy · decay` of each slot.
    pub weights: Vec<f32>,
    /// `A` of each slot as it is.
    pub gates: Vec<f32>,
    /// Questions.
    pub lessons: Vec<GateLesson>,
}

/// What does not change while gates learn.
#[derive(Clone, Debug, PartialEq)]
pub struct GateRecipe {
    /// Lessons of a step's part.
    pub batch: usize,
    /// What an open gate on a slot of energy 1 is worth, in nats for each lesson's mean: the auxiliary loss
    /// that rewards attending to memories of high energy.
    pub energy_reward: f64,
    /// How the run learns.
    pub options: TrainOptions,
}

/// Gates in training.
#[derive(Debug)]
pub struct GateTraining<'g> {
    learner: Learner<'g>,
    trainer: Trainer,
}

struct Learner<'g> {
    graph: &'g Graph,
    task: GateTask,
    recipe: GateRecipe,
    gates: Var,
    /// The header, read.
    before: GraphState,
    /// Each lesson's spans, read alone.
    spans: Vec<Vec<(usize, GraphSpan)>>,
}

impl std::fmt::Debug for Learner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Learner").field("recipe", &self.recipe).finish_non_exhaustive()
    }
}

impl<'g> GateTraining<'g> {
    /// Gates before their first step: as they are.
    ///
    /// # Errors
    /// There is nothing to learn from, a layer is recurrent, or an option is out of range.
    pub fn new(graph: &'g Graph, task: GateTask, recipe: GateRecipe) -> Result<Self, TrainError> {
        if task.lessons.is_empty() {
            return Err(TrainError::NoLessons);
        }
        if recipe.batch == 0 {
            let (found, allowed) = ("0".to_owned(), "1 or more");
            return Err(TrainError::Option { option: "the batch", found, allowed });
        }
        let gates = Var::from_tensor(&Tensor::new(task.gates.as_slice(), &Device::Cpu)?)?;
        let mut before = graph.new_state(1);
        if !task.header.is_empty() {
            let header = graph.encode_span(&[], &task.header)?;
            graph.push_span(&mut before, &header, None)?;
        }
        let mut read: BTreeMap<&[u32], GraphSpan> = BTreeMap::new();
        let mut spans = Vec::with_capacity(task.lessons.len());
        for lesson in &task.lessons {
            let mut own = Vec::new();
            for (slot, tokens) in &lesson.spans {
                if !read.contains_key(tokens.as_slice()) {
                    read.insert(tokens, graph.encode_span(&task.header, tokens)?);
                }
                own.push((*slot, read[tokens.as_slice()].clone()));
            }
            spans.push(own);
        }
        drop(read);
        let trainer =
            Trainer::new(recipe.options, [("gates".to_owned(), gates.clone())], |_| true)?;
        Ok(Self { learner: Learner { graph, task, recipe, gates, before, spans }, trainer })
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

    /// `A` of each slot as it is now.
    ///
    /// # Errors
    /// The tensor library failed.
    pub fn gates(&self) -> Result<Vec<f32>, TrainError> {
        Ok(self.learner.gates.to_vec1()?)
    }
}

impl Learner<'_> {
    /// The sum of −ln p over the tokens of an answer, less what open gates are worth.
    fn of_lesson(&self, place: usize) -> Result<Tensor, TrainError> {
        let lesson = &self.task.lessons[place];
        let open = sigmoid(self.gates.as_tensor())?;
        let mut state = self.before.clone();
        let mut worth = None;
        for (slot, span) in &self.spans[place] {
            let weight = f64::from(self.task.weights[*slot]);
            let gated = open.narrow(0, *slot, 1)?.affine(weight, 0.0)?;
            let bias =
                gated.affine(1.0, EPSILON)?.log()?.affine(1.0, f64::from(self.task.offset))?;
            let bias = bias.broadcast_as(span.len)?.contiguous()?;
            self.graph.push_span(&mut state, span, Some(&bias))?;
            worth = Some(match worth {
                Some(worth) => (worth + gated)?,
                None => gated,
            });
        }
        let tokens: Vec<u32> = lesson.prompt.iter().chain(&lesson.answer).copied().collect();
        let read = &tokens[..tokens.len() - 1];
        let run = GraphRun { state: &mut state, tokens: read, taps: None };
        let hidden = self.graph.hidden(&mut [run])?.remove(0).squeeze(0)?;
        let weights: Vec<f32> =
            (1..tokens.len()).map(|at| f32::from(u8::from(at >= lesson.prompt.len()))).collect();
        let soft_cap = self.graph.spec().logit_softcap;
        let loss = CrossEntropy { head: self.graph.head(), soft_cap, chunk: LOSS_CHUNK };
        let sum = loss.sum(&hidden, &tokens[1..], &weights)?;
        let Some(worth) = worth else { return Ok(sum) };
        let share = self.recipe.energy_reward * lesson.answer.len() as f64
            / self.spans[place].len().max(1) as f64;
        Ok((sum - worth.sum_all()?.affine(share, 0.0)?)?)
    }

    /// The lessons of a part, counted from the beginning of the run.
    fn places(&self, part: u64) -> Vec<usize> {
        let all = self.task.lessons.len();
        let batch = self.recipe.batch.min(all);
        let parts = (all / batch) as u64;
        let order = Chance::new(self.recipe.options.seed, &[LESSONS, part / parts]).order(all);
        let first = (part % parts) as usize * batch;
        order[first..first + batch].to_vec()
    }
}

impl Objective for Learner<'_> {
    fn loss(&self, step: u64, part: u64) -> Result<Loss, TrainError> {
        let mut loss: Option<Tensor> = None;
        let (mut count, mut tokens) = (0, 0);
        for place in self.places(step * self.recipe.options.accumulate + part) {
            let own = self.of_lesson(place)?;
            loss = Some(match loss {
                Some(loss) => (loss + own)?,
                None => own,
            });
            let lesson = &self.task.lessons[place];
            count += lesson.answer.len();
            tokens += lesson.prompt.len() + lesson.answer.len() - 1;
        }
        Ok(Loss { sum: loss.expect("a part has a lesson"), count, tokens })
    }
}
