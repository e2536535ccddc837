//! What is done to one tensor, with every parameter resolved and checked.

use serde::Serialize;
use thiserror::Error;

use crate::weights::config::Parameters;
use crate::weights::method::{BaseUse, Default, Kind, Method, Parameter, Scope, Sparsify};
use crate::weights::setting::Scalar;

/// Why a step can't be made.
#[derive(Debug, Error, PartialEq)]
pub enum StepError {
    /// Nobody says what a parameter is.
    #[error("{method} needs `{parameter}` for {}; say it under `parameters` or with -p {parameter}=VALUE", of.as_deref().unwrap_or("the merge"))]
    Missing {
        /// The method.
        method: Method,
        /// The parameter.
        parameter: &'static str,
        /// The model, if it is a parameter of models.
        of: Option<String>,
    },
    /// A value of the wrong kind or out of range.
    #[error("`{parameter}` is {found}; allowed: {allowed}")]
    Range {
        /// The parameter.
        parameter: &'static str,
        /// Its value.
        found: String,
        /// What would be right.
        allowed: &'static str,
    },
    /// Too few or too many inputs.
    #[error("{method} got {found} inputs; allowed: {}", inputs_text(*allowed))]
    Inputs {
        /// The method.
        method: Method,
        /// Inputs, the base among them.
        found: usize,
        /// Fewest and most.
        allowed: (usize, usize),
    },
    /// The method needs a base.
    #[error("{method} needs a base; say `base_model` or --base")]
    NoBase {
        /// The method.
        method: Method,
    },
    /// Nothing is left of any input.
    #[error(
        "the weights {found:?} of {method} add up to 0, and the result would be divided by that; give weights that do not, or normalize: false"
    )]
    ZeroWeights {
        /// The method.
        method: Method,
        /// The weights.
        found: Vec<f64>,
    },
}

fn inputs_text((least, most): (usize, usize)) -> String {
    if most == usize::MAX { format!("{least} or more") } else { format!("{least} to {most}") }
}

/// Along which numbers a vector lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// All numbers are one vector.
    Whole,
    /// Those along the last axis.
    Rows,
    /// Those along the first axis.
    Columns,
}

/// What is done with a task vector.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TaskModel {
    /// Its factor in the sum.
    pub weight: f64,
    /// The share that stays.
    pub density: f64,
    /// The share of largest elements that go, of breadcrumbs.
    pub gamma: f64,
    /// How far the probability moves with the rank, of della.
    pub epsilon: f64,
}

/// A method of task arithmetic with its parameters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskStep {
    /// The inputs but the base.
    pub models: Vec<TaskModel>,
    /// How they are made sparse.
    #[serde(skip)]
    pub sparsify: Option<Sparsify>,
    /// Whether only deltas of the prevailing sign are added up.
    pub consensus: bool,
    /// Whether the sum is divided by the weights.
    pub normalize: bool,
    /// Whether a sparse task vector is scaled to its former l1 norm.
    pub rescale: bool,
    /// A factor on the sum.
    pub lambda: f64,
}

/// What is done to one tensor. Inputs are in the order of the plan's operands; where there is a base,
/// it is the first.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Step {
    /// `Σ wᵢxᵢ`, divided by `Σ wᵢ` where it is normalized.
    Linear {
        /// A factor for each input.
        weights: Vec<f64>,
        /// Whether to divide by their sum.
        normalize: bool,
    },
    /// From the base to the other along the great circle.
    Slerp {
        /// How far, 0 to 1.
        t: f64,
    },
    /// From one to the other, perhaps seen from a base.
    NuSlerp {
        /// How far, 0 to 1.
        t: f64,
        /// Along what.
        axis: Axis,
        /// Whether there is a base.
        based: bool,
    },
    /// A weighted mean on the sphere.
    MultiSlerp {
        /// A factor for each input but the base.
        weights: Vec<f64>,
        /// Whether to divide them by their sum.
        normalize: bool,
        /// What is added to norms.
        eps: f64,
        /// Whether there is a base.
        based: bool,
    },
    /// The mean on the sphere.
    Karcher {
        /// Most steps.
        max_iter: u32,
        /// Length under which nothing moves.
        tol: f64,
    },
    /// The base and a sum of task vectors.
    Task(TaskStep),
    /// Select, calculate, erase.
    Sce {
        /// The share of elements that vary most.
        select_topk: f64,
    },
    /// Means of what several changed, sums of what one changed.
    Ram {
        /// Magnitude up to which an element is not changed.
        epsilon: f64,
    },
    /// Between base and mean.
    ModelStock {
        /// Whether each row has an angle of its own.
        filter_wise: bool,
    },
    /// The other's values where they are near.
    NearSwap {
        /// The distance up to which they are taken whole.
        t: f64,
    },
    /// The other's values where they matter.
    ArceeFusion,
    /// The only input, perhaps scaled.
    Passthrough {
        /// The factor.
        #[serde(skip_serializing_if = "Option::is_none")]
        scale: Option<f64>,
    },
}

/// Where a step's parameters are looked for.
pub(crate) struct Sources<'a> {
    pub(crate) method: Method,
    /// The name that the result gets, by which shared parameters are filtered.
    pub(crate) tensor: &'a str,
    /// How far along the layers.
    pub(crate) t: f64,
    /// For all inputs, the nearest first.
    pub(crate) shared: Vec<&'a Parameters>,
    /// The inputs but the base, in order.
    pub(crate) models: Vec<ModelSources<'a>>,
    /// The base, if there is one.
    pub(crate) base: Option<ModelSources<'a>>,
}

/// Where an input's parameters are looked for.
#[derive(Clone)]
pub(crate) struct ModelSources<'a> {
    /// For people.
    pub(crate) name: &'a str,
    /// The name of its tensor, by which its parameters are filtered.
    pub(crate) tensor: &'a str,
    /// The nearest first; the shared ones follow.
    pub(crate) own: Vec<&'a Parameters>,
}

impl Sources<'_> {
    /// Makes the step.
    pub(crate) fn step(&self) -> Result<Step, StepError> {
        self.check_inputs()?;
        let method = self.method;
        Ok(match method {
            Method::Linear => {
                let (weights, normalize) = (self.all("weight")?, self.flag("normalize")?);
                self.refuse_zero(&weights, normalize, 1e-8)?;
                Step::Linear { weights, normalize }
            }
            Method::Slerp => Step::Slerp { t: self.number("t")? },
            Method::NearSwap => Step::NearSwap { t: self.number("t")? },
            Method::NuSlerp => self.nuslerp()?,
            Method::MultiSlerp => {
                let weights = self.each("weight")?;
                let normalize = self.flag("normalize_weights")?;
                self.refuse_zero(&weights, normalize, 0.0)?;
                let (eps, based) = (self.number("eps")?, self.base.is_some());
                Step::MultiSlerp { weights, normalize, eps, based }
            }
            Method::Karcher => {
                let iterations = self.number("max_iter")?;
                within("max_iter", iterations, 0.0..=10_000.0, "0 to 10000")?;
                Step::Karcher { max_iter: iterations as u32, tol: self.number("tol")? }
            }
            Method::Sce => {
                let select_topk = self.number("select_topk")?;
                share("select_topk", select_topk)?;
                Step::Sce { select_topk }
            }
            Method::Ram => Step::Ram { epsilon: self.number("epsilon")? },
            Method::ModelStock => Step::ModelStock { filter_wise: self.flag("filter_wise")? },
            Method::ArceeFusion => Step::ArceeFusion,
            Method::Passthrough => Step::Passthrough { scale: self.scale()? },
            _ => self.task()?,
        })
    }

    fn check_inputs(&self) -> Result<(), StepError> {
        let method = self.method;
        let use_of_base = method.base_use();
        if use_of_base == BaseUse::Required && self.base.is_none() {
            return Err(StepError::NoBase { method });
        }
        let base = usize::from(self.base.is_some());
        let (least, most) = match method {
            Method::NuSlerp => (2 + base, 2 + base),
            Method::MultiSlerp => (1 + base, usize::MAX),
            _ => method.inputs(),
        };
        let found = self.models.len() + base;
        if (least..=most).contains(&found) {
            return Ok(());
        }
        Err(StepError::Inputs { method, found, allowed: (least, most) })
    }

    fn nuslerp(&self) -> Result<Step, StepError> {
        let weights = self.each("weight")?;
        let total: f64 = weights.iter().sum();
        // As mergekit: half way where the weights say nothing.
        let t = if total.abs() < 1e-6 { 0.5 } else { weights[1] / total };
        let axis = match (self.flag("nuslerp_flatten")?, self.flag("nuslerp_row_wise")?) {
            (true, _) => Axis::Whole,
            (false, false) => Axis::Rows,
            (false, true) => Axis::Columns,
        };
        Ok(Step::NuSlerp { t, axis, based: self.base.is_some() })
    }

    fn task(&self) -> Result<Step, StepError> {
        let kind = self.method.task().expect("every other method has been dealt with");
        let (weights, densities) = (self.each("weight")?, self.each("density")?);
        let nothing = || Ok(vec![0.0; weights.len()]);
        let sparsify = kind.sparsify;
        let gammas = match sparsify {
            Some(Sparsify::Outliers) => self.each("gamma"),
            _ => nothing(),
        }?;
        let epsilons = match sparsify {
            Some(Sparsify::MagPrune) => self.each("epsilon"),
            _ => nothing(),
        }?;
        let mut models = Vec::new();
        for (index, &weight) in weights.iter().enumerate() {
            let (density, gamma, epsilon) = (densities[index], gammas[index], epsilons[index]);
            share("density", density)?;
            within("gamma", gamma, 0.0..=1.0, "0 to 1")?;
            let spread = density - epsilon > 0.0 && density + epsilon < 1.0 && epsilon >= 0.0;
            if sparsify == Some(Sparsify::MagPrune) && density < 1.0 && !spread {
                let allowed =
                    "such that density - epsilon and density + epsilon are between 0 and 1";
                return Err(range("epsilon", epsilon, allowed));
            }
            models.push(TaskModel { weight, density, gamma, epsilon });
        }
        if !weights.is_empty() && weights.iter().all(|weight| *weight == 0.0) {
            return Err(StepError::ZeroWeights { method: self.method, found: weights });
        }
        let (normalize, rescale) = (self.flag("normalize")?, self.flag("rescale")?);
        let (consensus, lambda) = (kind.consensus, self.number("lambda")?);
        Ok(Step::Task(TaskStep { models, sparsify, consensus, normalize, rescale, lambda }))
    }

    fn scale(&self) -> Result<Option<f64>, StepError> {
        let parameter = self.parameter("scale");
        match self.lookup(parameter, self.base.as_ref().or(self.models.first()))? {
            None => Ok(None),
            Some(value) => number_of(parameter, value).map(Some),
        }
    }

    fn refuse_zero(&self, weights: &[f64], normalize: bool, least: f64) -> Result<(), StepError> {
        let all_zero = weights.iter().all(|weight| *weight == 0.0);
        let total: f64 = weights.iter().sum();
        if all_zero || (normalize && total.abs() <= least) {
            let found = weights.to_vec();
            return Err(StepError::ZeroWeights { method: self.method, found });
        }
        Ok(())
    }

    fn parameter(&self, name: &str) -> Parameter {
        let parameters = self.method.parameters();
        *parameters.iter().find(|one| one.name == name).expect("the method has this parameter")
    }

    /// A number of each input, the base first where there is one.
    fn all(&self, name: &str) -> Result<Vec<f64>, StepError> {
        self.base
            .iter()
            .chain(&self.models)
            .map(|model| self.number_for(name, Some(model)))
            .collect()
    }

    /// A number of each input but the base.
    fn each(&self, name: &str) -> Result<Vec<f64>, StepError> {
        self.models.iter().map(|model| self.number_for(name, Some(model))).collect()
    }

    fn number(&self, name: &str) -> Result<f64, StepError> {
        self.number_for(name, None)
    }

    fn number_for(&self, name: &str, model: Option<&ModelSources<'_>>) -> Result<f64, StepError> {
        let parameter = self.parameter(name);
        let value = self.lookup(parameter, model)?;
        number_of(parameter, value.ok_or_else(|| self.missing(parameter, model))?)
    }

    fn flag(&self, name: &str) -> Result<bool, StepError> {
        let parameter = self.parameter(name);
        match self.lookup(parameter, None)? {
            Some(Scalar::Flag(flag)) => Ok(flag),
            Some(Scalar::Number(number)) if number == 0.0 || number == 1.0 => Ok(number == 1.0),
            Some(Scalar::Number(number)) => Err(range(parameter.name, number, "true or false")),
            None => Err(self.missing(parameter, None)),
        }
    }

    fn lookup(
        &self,
        parameter: Parameter,
        model: Option<&ModelSources<'_>>,
    ) -> Result<Option<Scalar>, StepError> {
        let tensor = model.map_or(self.tensor, |model| model.tensor);
        let own = model.filter(|_| parameter.scope != Scope::Shared);
        let nearest = own.into_iter().flat_map(|model| &model.own);
        let found = nearest
            .chain(&self.shared)
            .filter_map(|settings| settings.get(parameter.name))
            .find_map(|setting| setting.at(tensor, self.t));
        Ok(match (found, parameter.default) {
            (Some(found), _) => Some(found),
            (None, Default::Number(number)) => Some(Scalar::Number(number)),
            (None, Default::Flag(flag)) => Some(Scalar::Flag(flag)),
            (None, Default::Absent) => None,
            (None, Default::Required) => return Err(self.missing(parameter, model)),
        })
    }

    fn missing(&self, parameter: Parameter, model: Option<&ModelSources<'_>>) -> StepError {
        let of = model.map(|model| model.name.to_owned());
        StepError::Missing { method: self.method, parameter: parameter.name, of }
    }
}

fn number_of(parameter: Parameter, value: Scalar) -> Result<f64, StepError> {
    match value {
        Scalar::Number(number) if parameter.kind == Kind::Whole && number.fract() != 0.0 => {
            Err(range(parameter.name, number, "a whole number"))
        }
        Scalar::Number(number) => Ok(number),
        Scalar::Flag(flag) => Err(range(parameter.name, flag, "a number")),
    }
}

/// A share of something, of which none would leave nothing.
fn share(parameter: &'static str, found: f64) -> Result<(), StepError> {
    if found > 0.0 && found <= 1.0 {
        Ok(())
    } else {
        Err(range(parameter, found, "over 0, up to 1"))
    }
}

fn within(
    parameter: &'static str,
    found: f64,
    range_of: std::ops::RangeInclusive<f64>,
    allowed: &'static str,
) -> Result<(), StepError> {
    if range_of.contains(&found) { Ok(()) } else { Err(range(parameter, found, allowed)) }
}

fn range(parameter: &'static str, found: impl ToString, allowed: &'static str) -> StepError {
    StepError::Range { parameter, found: found.to_string(), allowed }
}
