//! The ways to merge tensors, and the parameters of each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A name that is no method's.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("there is no merge method `{found}`; allowed: {}", names())]
pub struct UnknownMethod {
    /// The name that was found.
    pub found: String,
}

/// What a method does with a base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseUse {
    /// It is an input like any other.
    Ignored,
    /// It is the origin of the others where there is one.
    Optional,
    /// The method can't do without.
    Required,
}

/// Whose a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One value for a tensor.
    Shared,
    /// A value for each input.
    Input,
    /// A value for each input but the base.
    NonBase,
}

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A finite number.
    Number,
    /// A whole number.
    Whole,
    /// `true` or `false`.
    Flag,
}

/// What holds where nobody says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Default {
    /// It must be said.
    Required,
    /// The parameter may be absent.
    Absent,
    /// This number.
    Number(f64),
    /// This flag.
    Flag(bool),
}

/// A parameter of a method.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Whose it is.
    pub scope: Scope,
    /// What it takes.
    pub kind: Kind,
    /// What holds where nobody says.
    pub default: Default,
}

/// How the smaller part of a task vector is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sparsify {
    /// The largest magnitudes stay.
    Magnitude,
    /// Each element stays by chance.
    Random,
    /// The largest are dropped, then the smallest.
    Outliers,
    /// Each element stays by chance, the more likely the larger it is in its row.
    MagPrune,
}

/// What a task-arithmetic method is put together from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskKind {
    /// How task vectors are made sparse.
    pub sparsify: Option<Sparsify>,
    /// Whether only deltas of the prevailing sign are added up.
    pub consensus: bool,
    /// Whether the sum is divided by the weights, where nobody says.
    pub normalize: bool,
    /// Whether a sparse task vector is scaled to its former l1 norm, where nobody says.
    pub rescale: bool,
}

macro_rules! methods {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $base:ident, $inputs:expr;)*) => {
        /// A way to merge tensors, by its name in mergekit.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Method { $($(#[$doc])* $variant,)* }

        impl Method {
            /// Every method.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it does with a base.
            pub const fn base_use(self) -> BaseUse {
                match self { $(Self::$variant => BaseUse::$base,)* }
            }

            /// Fewest and most inputs, the base among them where there is one.
            pub const fn inputs(self) -> (usize, usize) {
                match self { $(Self::$variant => $inputs,)* }
            }
        }
    };
}

const MANY: usize = usize::MAX;

methods! {
    /// Weighted mean (Wortsman et al. 2022, arXiv 2203.05482).
    Linear = "linear", Ignored, (1, MANY);
    /// Along the great circle between two tensors (Shoemake 1985).
    Slerp = "slerp", Required, (2, 2);
    /// As slerp, by weights, whole or by rows or columns, perhaps from a base.
    NuSlerp = "nuslerp", Optional, (2, 3);
    /// A weighted mean on the sphere, by one step in the tangent space.
    MultiSlerp = "multislerp", Optional, (1, MANY);
    /// The mean on the sphere (Karcher 1977; arXiv 2603.04972).
    Karcher = "karcher", Ignored, (1, MANY);
    /// Sums of differences from the base (Ilharco et al. 2022, arXiv 2212.04089).
    TaskArithmetic = "task_arithmetic", Required, (1, MANY);
    /// Trim, elect signs, merge (Yadav et al. 2023, arXiv 2306.01708).
    Ties = "ties", Required, (1, MANY);
    /// Drop by chance and rescale (Yu et al. 2023, arXiv 2311.03099).
    DareLinear = "dare_linear", Required, (1, MANY);
    /// As dare_linear, with elected signs.
    DareTies = "dare_ties", Required, (1, MANY);
    /// Drop by chance, by rank of magnitude (Deep et al. 2024, arXiv 2406.11617).
    Della = "della", Required, (1, MANY);
    /// As della, without elected signs.
    DellaLinear = "della_linear", Required, (1, MANY);
    /// Without the largest and smallest deltas (Davari and Belilovsky 2023, arXiv 2312.06795).
    Breadcrumbs = "breadcrumbs", Required, (1, MANY);
    /// As breadcrumbs, with elected signs.
    BreadcrumbsTies = "breadcrumbs_ties", Required, (1, MANY);
    /// Select, calculate, erase (Wan et al. 2024, arXiv 2408.07990).
    Sce = "sce", Required, (1, MANY);
    /// Means of what several changed, sums of what one changed (arXiv 2601.13572).
    Ram = "ram", Required, (1, MANY);
    /// Between base and mean, by the angle of the differences (Jang et al. 2024, arXiv 2403.19522).
    ModelStock = "model_stock", Required, (3, MANY);
    /// The other's values where they are near the base's.
    NearSwap = "nearswap", Required, (2, 2);
    /// The other's values where they differ most and matter.
    ArceeFusion = "arcee_fusion", Required, (2, 2);
    /// The only input, perhaps scaled.
    Passthrough = "passthrough", Ignored, (1, 1);
}

const fn number(name: &'static str, scope: Scope, default: Default) -> Parameter {
    Parameter { name, scope, kind: Kind::Number, default }
}

const fn flag(name: &'static str, default: bool) -> Parameter {
    Parameter { name, scope: Scope::Shared, kind: Kind::Flag, default: Default::Flag(default) }
}

impl Method {
    /// What the method is put together from, if it is one of task arithmetic.
    pub const fn task(self) -> Option<TaskKind> {
        Some(match self {
            Self::TaskArithmetic => kind(None, false, false, false),
            Self::Ties => kind(Some(Sparsify::Magnitude), true, true, false),
            Self::DareLinear => kind(Some(Sparsify::Random), false, false, true),
            Self::DareTies => kind(Some(Sparsify::Random), true, false, true),
            Self::Della => kind(Some(Sparsify::MagPrune), true, true, true),
            Self::DellaLinear => kind(Some(Sparsify::MagPrune), false, false, true),
            Self::Breadcrumbs => kind(Some(Sparsify::Outliers), false, false, false),
            Self::BreadcrumbsTies => kind(Some(Sparsify::Outliers), true, false, false),
            _ => return None,
        })
    }

    /// Its parameters. Names and defaults are those of mergekit 0.1.5.
    pub fn parameters(self) -> Vec<Parameter> {
        let required = |name, scope| number(name, scope, Default::Required);
        let shared = |name, default| number(name, Scope::Shared, Default::Number(default));
        match self {
            Self::Linear => vec![required("weight", Scope::Input), flag("normalize", true)],
            Self::Slerp | Self::NearSwap => vec![required("t", Scope::Shared)],
            Self::NuSlerp => vec![
                required("weight", Scope::NonBase),
                flag("nuslerp_row_wise", false),
                flag("nuslerp_flatten", true),
            ],
            Self::MultiSlerp => vec![
                required("weight", Scope::NonBase),
                flag("normalize_weights", true),
                shared("eps", 1e-8),
            ],
            Self::Karcher => vec![
                Parameter { kind: Kind::Whole, ..shared("max_iter", 10.0) },
                shared("tol", 1e-5),
            ],
            Self::Sce => vec![flag("int8_mask", false), shared("select_topk", 1.0)],
            Self::Ram => vec![shared("epsilon", 1e-5)],
            Self::ModelStock => vec![flag("filter_wise", false)],
            Self::ArceeFusion => Vec::new(),
            Self::Passthrough => vec![number("scale", Scope::Input, Default::Absent)],
            _ => self.task().map(task_parameters).unwrap_or_default(),
        }
    }

    /// Whether chance has a part in it.
    pub fn is_random(self) -> bool {
        let sparsify = self.task().and_then(|task| task.sparsify);
        matches!(sparsify, Some(Sparsify::Random | Sparsify::MagPrune))
    }
}

const fn kind(
    sparsify: Option<Sparsify>,
    consensus: bool,
    normalize: bool,
    rescale: bool,
) -> TaskKind {
    TaskKind { sparsify, consensus, normalize, rescale }
}

fn task_parameters(task: TaskKind) -> Vec<Parameter> {
    let of_model = |name, default| number(name, Scope::NonBase, default);
    let mut parameters = vec![
        flag("int8_mask", false),
        flag("normalize", task.normalize),
        flag("rescale", task.rescale),
        number("lambda", Scope::Shared, Default::Number(1.0)),
        of_model("weight", Default::Required),
        of_model("density", Default::Number(1.0)),
    ];
    match task.sparsify {
        Some(Sparsify::Outliers) => parameters.push(of_model("gamma", Default::Number(0.01))),
        Some(Sparsify::MagPrune) => parameters.push(of_model("epsilon", Default::Number(0.15))),
        _ => {}
    }
    parameters
}

fn names() -> String {
    Method::ALL.iter().map(|method| method.name()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(text: &str) -> Result<Self, UnknownMethod> {
        let found = Self::ALL.iter().copied().find(|method| method.name() == text);
        found.ok_or_else(|| UnknownMethod { found: text.chars().take(80).collect() })
    }
}

impl Serialize for Method {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Method {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
