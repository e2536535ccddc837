//! A student's hidden states in its teacher's width.

use std::collections::BTreeMap;

use cart_nn::graph::operations::linear;
use cart_nn::graph::{Device, Tensor, TensorError, Var};
use serde::Serialize;

use super::HiddenOptions;
use crate::chance::Chance;

/// What chance in here is for.
const PURPOSE: u64 = 15;

/// What names of these matrices begin with; no tensor of a model does.
const PREFIX: &str = "projection.";

/// A matrix for each pair of layers, from the student's width to the teacher's: the regressor of
/// Romero et al. (FitNets, 2015), without a bias, as Jiao et al. (TinyBERT, 2020, eq. 8) have it. They
/// learn with the student and are no part of it.
#[derive(Debug)]
pub(super) struct Projections {
    matrices: BTreeMap<(usize, usize), Var>,
    report: ProjectionReport,
}

/// What brings hidden states of the student to the teacher's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProjectionReport {
    /// Matrices, one for each pair of layers.
    pub matrices: usize,
    /// Numbers of a hidden state of the student.
    pub student: u64,
    /// Of one of the teacher.
    pub teacher: u64,
    /// Numbers that are trained besides the student's.
    pub parameters: usize,
}

impl Projections {
    /// Matrices that are yet to learn; none where both widths are the same.
    ///
    /// They are normal with a deviation of `1/√student`, so that what has a root mean square of 1 has
    /// about 1 afterwards.
    ///
    /// * `student`, `teacher`: widths
    pub(super) fn between(
        options: &HiddenOptions,
        (student, teacher): (u64, u64),
        seed: u64,
    ) -> Result<Option<Self>, TensorError> {
        if student == teacher {
            return Ok(None);
        }
        let deviation = (student as f64).powf(-0.5);
        let shape = (teacher as usize, student as usize);
        let matrix = |&(own, other): &(usize, usize)| {
            let mut chance = Chance::new(seed, &[PURPOSE, own as u64, other as u64]);
            let count = shape.0 * shape.1;
            let values = (0..count).map(|_| (chance.normal() * deviation) as f32).collect();
            let drawn = Tensor::from_vec(values, shape, &Device::Cpu)?;
            Ok(((own, other), Var::from_tensor(&drawn)?))
        };
        let matrices: BTreeMap<_, _> =
            options.map.iter().map(matrix).collect::<Result<_, TensorError>>()?;
        let count = matrices.len();
        let parameters = count * shape.0 * shape.1;
        let report = ProjectionReport { matrices: count, student, teacher, parameters };
        Ok(Some(Self { matrices, report }))
    }

    pub(super) fn report(&self) -> ProjectionReport {
        self.report
    }

    /// What is trained, by name.
    pub(super) fn variables(&self) -> impl Iterator<Item = (String, Var)> {
        let named = |(&(own, other), variable): (&(usize, usize), &Var)| {
            (format!("{PREFIX}{own}.{other}"), variable.clone())
        };
        self.matrices.iter().map(named)
    }

    /// Whether a variable of a run is one of these.
    pub(super) fn has(name: &str) -> bool {
        name.starts_with(PREFIX)
    }

    /// `[rows, student]` to `[rows, teacher]`.
    ///
    /// * `pair`: one of the map
    pub(super) fn apply(
        &self,
        pair: (usize, usize),
        hidden: &Tensor,
    ) -> Result<Tensor, TensorError> {
        linear(hidden, &self.matrices[&pair], None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> HiddenOptions {
        HiddenOptions { weight: 1.0, map: vec![(0, 1), (1, 3), (0, 1)], normed: true }
    }

    #[test]
    fn each_pair_has_a_matrix_that_keeps_the_size_of_states() {
        assert!(Projections::between(&options(), (64, 64), 1).unwrap().is_none());
        let found = Projections::between(&options(), (64, 96), 1).unwrap().unwrap();
        let report =
            ProjectionReport { matrices: 2, student: 64, teacher: 96, parameters: 2 * 64 * 96 };
        assert_eq!(found.report(), report);
        let names: Vec<String> = found.variables().map(|(name, _)| name).collect();
        assert_eq!(names, ["projection.0.1", "projection.1.3"]);
        assert!(names.iter().all(|name| Projections::has(name)) && !Projections::has("model"));
        let ones = Tensor::ones((5, 64), cart_nn::graph::DType::F32, &Device::Cpu).unwrap();
        let there = found.apply((1, 3), &ones).unwrap();
        assert_eq!(there.dims(), [5, 96]);
        let square = there.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
        assert!((0.6..1.5).contains(&square), "{square}");
        let numbers = |of: &Projections| {
            let numbers = |(_, var): (String, Var)| var.flatten_all().unwrap().to_vec1::<f32>();
            of.variables().flat_map(|named| numbers(named).unwrap()).collect::<Vec<_>>()
        };
        let again = Projections::between(&options(), (64, 96), 1).unwrap().unwrap();
        let other = Projections::between(&options(), (64, 96), 2).unwrap().unwrap();
        assert_eq!(numbers(&again), numbers(&found));
        assert_ne!(numbers(&other), numbers(&found));
        // Pairs don't begin alike.
        assert_ne!(numbers(&found)[..64 * 96], numbers(&found)[64 * 96..]);
    }
}
