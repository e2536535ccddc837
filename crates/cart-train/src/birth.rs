//! The numbers that a model begins with.

use cart_format::ArchSpec;
use cart_format::arch::{Global, MixerSpec, Part, TensorSpec};
use cart_nn::graph::{Device, Parameters, Tensor, Var};

use crate::chance::Chance;
use crate::error::TrainError;

/// What chance in here is for.
const PURPOSE: u64 = 2;

/// Deviation of the numbers of a matrix.
const DEVIATION: f64 = 0.02;

/// Time steps at birth lie between these (Gu and Dao, 2023, §3.6).
const TIME_STEPS: [f64; 2] = [0.001, 0.1];

/// What the tensors of an architecture begin with, where nothing else is known.
///
/// Matrices are normal with a deviation of 0.02, those that write to the residual stream with
/// `1/√(2 · layers)` of that (Radford et al., 2019); norms are 1, biases 0. Of Mamba, A is
/// `−1 … −state_size` for every channel and time steps are spread evenly over their logarithm.
pub(crate) struct Birth {
    kinds: Kinds,
    seed: u64,
}

impl Birth {
    pub(crate) fn of(spec: &ArchSpec, seed: u64) -> Self {
        Self { kinds: Kinds::of(spec), seed }
    }

    /// The tensor that is `index`th of those that the architecture asks for.
    pub(crate) fn tensor(&self, index: usize, asked: &TensorSpec) -> Result<Tensor, TrainError> {
        let shape: Vec<usize> = asked.shape.iter().map(|&dim| dim as usize).collect();
        let mut chance = Chance::new(self.seed, &[PURPOSE, index as u64]);
        let values = self.kinds.values(&asked.name, &shape, &mut chance);
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

/// Variables for every tensor of an architecture.
pub(crate) fn variables(spec: &ArchSpec, seed: u64) -> Result<Vec<(String, Var)>, TrainError> {
    let birth = Birth::of(spec, seed);
    let variable = |(index, asked): (usize, TensorSpec)| {
        let tensor = birth.tensor(index, &asked)?;
        Ok((asked.name, Var::from_tensor(&tensor)?))
    };
    spec.tensors().into_iter().enumerate().map(variable).collect()
}

/// The parameters that these variables are.
pub(crate) fn parameters(variables: &[(String, Var)]) -> Parameters {
    let tensor = |(name, var): &(String, Var)| (name.clone(), var.as_tensor().clone());
    variables.iter().map(tensor).collect()
}

/// Names of tensors that do not begin like a matrix.
struct Kinds {
    residual: Vec<String>,
    decays: Vec<String>,
    ones: Vec<String>,
    skips: Vec<String>,
    time_step_biases: Vec<String>,
    time_steps: Vec<String>,
    filters: Vec<String>,
    deviation: f64,
    /// What a norm that changes nothing is stored as.
    norm: f32,
}

impl Kinds {
    fn of(spec: &ArchSpec) -> Self {
        let layers = spec.layers.len() as f64;
        let mut kinds = Self {
            residual: Vec::new(),
            decays: Vec::new(),
            skips: Vec::new(),
            ones: vec![format!("{}.weight", spec.naming.global(Global::FinalNorm))],
            time_step_biases: Vec::new(),
            time_steps: Vec::new(),
            filters: Vec::new(),
            deviation: DEVIATION / (2.0 * layers).sqrt(),
            norm: if spec.final_norm.unit_offset { 0.0 } else { 1.0 },
        };
        for (index, block) in spec.layer_blocks().enumerate() {
            let name = |part| spec.naming.part(index, part, block);
            let weight = |part| name(part) + ".weight";
            kinds.residual.extend([Part::Out, Part::Down, Part::SsmOut].map(weight));
            let norms = [Part::MixerNorm, Part::MlpNorm, Part::QueryNorm, Part::KeyNorm];
            kinds.ones.extend(norms.map(weight));
            kinds.ones.extend([Part::AfterMixerNorm, Part::AfterMlpNorm].map(weight));
            if let Some(MixerSpec::Mamba(_)) = &block.mixer {
                kinds.skips.push(name(Part::Skip));
                kinds.decays.push(name(Part::Decay));
                kinds.time_step_biases.push(name(Part::TimeStep) + ".bias");
                kinds.time_steps.push(weight(Part::TimeStep));
                kinds.filters.push(weight(Part::SsmConv));
            }
        }
        kinds
    }

    fn values(&self, name: &str, shape: &[usize], chance: &mut Chance) -> Vec<f32> {
        let count: usize = shape.iter().product();
        let last = shape.last().copied().unwrap_or(1);
        let within = |names: &[String]| names.iter().any(|known| known == name);
        let mut even = |most: f64| ((2.0 * chance.unit() - 1.0) * most) as f32;
        if within(&self.ones) {
            return vec![self.norm; count];
        }
        if within(&self.skips) {
            return vec![1.0; count];
        }
        if within(&self.decays) {
            return (0..count).map(|at| ((at % last + 1) as f32).ln()).collect();
        }
        if within(&self.time_steps) || within(&self.filters) {
            let most = (last as f64).powf(-0.5);
            return (0..count).map(|_| even(most)).collect();
        }
        if within(&self.time_step_biases) {
            return (0..count).map(|_| time_step_bias(chance)).collect();
        }
        if shape.len() < 2 {
            return vec![0.0; count];
        }
        let deviation = if within(&self.residual) { self.deviation } else { DEVIATION };
        (0..count).map(|_| (chance.normal() * deviation) as f32).collect()
    }
}

/// What softplus makes a time step of.
fn time_step_bias(chance: &mut Chance) -> f32 {
    let [low, high] = TIME_STEPS.map(f64::ln);
    let step = (low + chance.unit() * (high - low)).exp();
    step.exp_m1().ln() as f32
}
