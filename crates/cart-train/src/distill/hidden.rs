//! Hidden states of a student and its teacher, compared.

use cart_nn::Taps;
use cart_nn::graph::{D, DType, GraphTaps, Tensor, TensorError};
use serde::Serialize;

use super::DistillError;
use super::projections::Projections;

/// Which hidden states of a student are to be like which of the teacher.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HiddenOptions {
    /// What a position's mean squared difference is worth, beside the distance of its prediction.
    pub weight: f64,
    /// Pairs of a layer of the student and one of the teacher, from 0; what comes out of them is
    /// compared.
    pub map: Vec<(usize, usize)>,
    /// Whether each hidden state is divided by its root mean square first. Where it is not, the few
    /// dimensions that some models make huge decide alone.
    pub normed: bool,
}

impl HiddenOptions {
    /// Every layer of the student with that of the teacher at the same share of the depth.
    pub fn proportional(student: usize, teacher: usize) -> Vec<(usize, usize)> {
        let at = |layer: usize| ((layer + 1) * teacher).div_ceil(student) - 1;
        (0..student).map(|layer| (layer, at(layer).min(teacher - 1))).collect()
    }

    /// Refuses layers that are not there.
    pub(super) fn check(&self, student: usize, teacher: usize) -> Result<(), DistillError> {
        for &(of_student, of_teacher) in &self.map {
            if of_student >= student {
                return Err(DistillError::StudentLayer { found: of_student, last: student - 1 });
            }
            if of_teacher >= teacher {
                return Err(DistillError::TeacherLayer { found: of_teacher, last: teacher - 1 });
            }
        }
        Ok(())
    }

    /// The sum over positions of the mean squared difference over numbers and pairs, times the
    /// weight: one number.
    ///
    /// * `projections`: to the teacher's width, where the student's is another one
    pub(super) fn loss(
        &self,
        student: &StudentStates,
        teacher: &TeacherStates,
        projections: Option<&Projections>,
    ) -> Result<Tensor, TensorError> {
        let mut sum: Option<Tensor> = None;
        for &pair in &self.map {
            let own = student.of(pair.0).flatten(0, 1)?;
            let said = teacher.of(pair.1, own.dim(0)?)?;
            // The student's before it is projected: a matrix learns quickest from what has size 1.
            let (own, said) =
                if self.normed { (normed(&own)?, normed(&said)?) } else { (own, said) };
            let own = match projections {
                Some(projections) => projections.apply(pair, &own)?,
                None => own,
            };
            let part = (own - said)?.sqr()?.mean(D::Minus1)?.sum_all()?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        let sum = sum.expect("a map has a pair");
        sum.affine(self.weight / self.map.len() as f64, 0.0)
    }
}

fn normed(x: &Tensor) -> Result<Tensor, TensorError> {
    let size = x.sqr()?.mean_keepdim(D::Minus1)?.affine(1.0, 1e-6)?.sqrt()?;
    x.broadcast_div(&size)
}

/// Hidden states of a student's pass, with their gradients.
pub(super) struct StudentStates {
    layers: Vec<(usize, Option<Tensor>)>,
}

impl StudentStates {
    pub(super) fn wanted(options: &HiddenOptions) -> Self {
        Self { layers: options.map.iter().map(|&(layer, _)| (layer, None)).collect() }
    }

    fn of(&self, layer: usize) -> &Tensor {
        let found = self.layers.iter().find(|(wanted, _)| *wanted == layer);
        found.and_then(|(_, tensor)| tensor.as_ref()).expect("the pass went through the layer")
    }
}

impl GraphTaps for StudentStates {
    fn wants(&self, layer: usize) -> bool {
        self.layers.iter().any(|(wanted, _)| *wanted == layer)
    }

    fn after_layer(
        &mut self,
        layer: usize,
        _first_position: usize,
        hidden: &Tensor,
    ) -> Result<Option<Tensor>, TensorError> {
        for (wanted, tensor) in &mut self.layers {
            if *wanted == layer {
                *tensor = Some(hidden.clone());
            }
        }
        Ok(None)
    }
}

/// Hidden states of a teacher's passes, sequence after sequence.
pub(super) struct TeacherStates {
    layers: Vec<(usize, Vec<f32>)>,
}

impl TeacherStates {
    pub(super) fn wanted(options: &HiddenOptions) -> Self {
        let mut layers: Vec<usize> = options.map.iter().map(|&(_, layer)| layer).collect();
        layers.sort_unstable();
        layers.dedup();
        Self { layers: layers.into_iter().map(|layer| (layer, Vec::new())).collect() }
    }

    /// `[positions, width]`.
    fn of(&self, layer: usize, positions: usize) -> Result<Tensor, TensorError> {
        let found = self.layers.iter().find(|(wanted, _)| *wanted == layer);
        let (_, numbers) = found.expect("the pass went through the layer");
        let width = numbers.len() / positions;
        Tensor::from_slice(numbers, (positions, width), &cart_nn::graph::Device::Cpu)
    }

    fn keeps(&self, layer: usize) -> bool {
        self.layers.iter().any(|(wanted, _)| *wanted == layer)
    }

    fn keep(&mut self, layer: usize, hidden: &[f32]) {
        let wanted = self.layers.iter_mut().filter(|(wanted, _)| *wanted == layer);
        wanted.for_each(|(_, rows)| rows.extend_from_slice(hidden));
    }
}

impl Taps for TeacherStates {
    fn wants(&self, layer: usize) -> bool {
        self.keeps(layer)
    }

    fn after_layer(&mut self, layer: usize, _first_position: usize, hidden: &[f32]) {
        self.keep(layer, hidden);
    }
}

impl GraphTaps for TeacherStates {
    fn wants(&self, layer: usize) -> bool {
        self.keeps(layer)
    }

    fn after_layer(
        &mut self,
        layer: usize,
        _first_position: usize,
        hidden: &Tensor,
    ) -> Result<Option<Tensor>, TensorError> {
        self.keep(layer, &hidden.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use cart_nn::graph::{Device, Var};

    use super::*;

    #[test]
    fn layers_are_paired_over_the_whole_depth() {
        assert_eq!(HiddenOptions::proportional(3, 9), [(0, 2), (1, 5), (2, 8)]);
        assert_eq!(HiddenOptions::proportional(2, 2), [(0, 0), (1, 1)]);
        assert_eq!(HiddenOptions::proportional(4, 2), [(0, 0), (1, 0), (2, 1), (3, 1)]);
    }

    #[test]
    fn equal_states_cost_nothing_and_others_are_pulled_together() {
        let variable =
            Var::from_slice(&[1.0_f32, 2.0, 3.0, -1.0], (1, 2, 2), &Device::Cpu).unwrap();
        let cost = |normed, rows: &[f32]| {
            let options = HiddenOptions { weight: 0.5, map: vec![(1, 3)], normed };
            let mut student = StudentStates::wanted(&options);
            assert!(student.wants(1) && !student.wants(0));
            student.after_layer(1, 0, &variable).unwrap();
            let mut teacher = TeacherStates::wanted(&options);
            teacher.keep(3, rows);
            let loss = options.loss(&student, &teacher, None).unwrap();
            let gradients = loss.backward().unwrap();
            let slopes = gradients.get(&variable).unwrap().flatten_all().unwrap();
            let number = loss.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
            (number, slopes.to_vec1::<f32>().unwrap())
        };
        assert_eq!(cost(false, &[1.0, 2.0, 3.0, -1.0]).0, 0.0);
        // Twice as long, and in the same direction.
        assert!(cost(true, &[2.0, 4.0, 6.0, -2.0]).0 < 1e-6);
        let (found, slopes) = cost(false, &[1.0, 2.0, 3.0, 3.0]);
        // ½ · (4² / 2), and its slope ½ · 2 · (−4) / 2.
        assert_eq!((found, &slopes[..]), (4.0, &[0.0, 0.0, 0.0, -2.0][..]));
    }

    #[test]
    fn layers_that_are_not_there_are_refused() {
        let options = |map| HiddenOptions { weight: 1.0, map, normed: true };
        options(vec![(1, 3)]).check(2, 4).unwrap();
        let refused = options(vec![(2, 3)]).check(2, 4).unwrap_err().to_string();
        assert!(refused.contains("layer 2 of the student"), "{refused}");
        let refused = options(vec![(1, 4)]).check(2, 4).unwrap_err().to_string();
        assert!(refused.contains("layer 4 of the teacher"), "{refused}");
    }
}
