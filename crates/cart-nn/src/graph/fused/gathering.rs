//! Gradients of variables, added up where an optimizer keeps them.
//!
//! The tensor library makes zeros of a variable's size for its gradient, adds the first part to them in a third
//! tensor, and so on for each part: a head of 100 MB goes through memory four times for a sum of one. While
//! gradients are gathered, an operation that knows how to adds its part itself and gives the library none.

use std::cell::RefCell;
use std::collections::HashMap;

use candle_core::{Result, Tensor, TensorId};
use rayon::prelude::*;

/// Sums of gradients, `[elements]`, by the variable.
pub(in crate::graph) type Sums = HashMap<TensorId, Vec<f32>>;

/// Numbers that a task adds.
const BLOCK: usize = 1 << 14;

thread_local! {
    static SUMS: RefCell<Sums> = RefCell::new(Sums::new());
}

/// Does some work, on this thread, whose operations add gradients of these variables to `sums`. Returns what
/// they came to.
pub(in crate::graph) fn gathering<T>(sums: Sums, work: impl FnOnce() -> T) -> (T, Sums) {
    /// Puts back what was before, also where the work panics.
    struct Before(Sums);
    impl Drop for Before {
        fn drop(&mut self) {
            SUMS.set(std::mem::take(&mut self.0));
        }
    }
    let _before = Before(SUMS.replace(sums));
    let found = work();
    (found, SUMS.take())
}

/// A part of a variable's gradient: added to its sum where that is gathered, else as a tensor.
///
/// * `part`: gets the sum, and adds to it; or zeros
pub(super) fn gathered(variable: &Tensor, part: impl FnOnce(&mut [f32])) -> Result<Option<Tensor>> {
    let sum = SUMS.with_borrow_mut(|sums| sums.remove(&variable.id()));
    let Some(mut sum) = sum else {
        let mut values = vec![0.0; variable.elem_count()];
        part(&mut values);
        return super::floats::tensor(values, variable.dims()).map(Some);
    };
    part(&mut sum);
    SUMS.with_borrow_mut(|sums| sums.insert(variable.id(), sum));
    Ok(None)
}

/// `sum ← sum + factor · values`, by all threads.
pub(in crate::graph) fn add_scaled(sum: &mut [f32], values: &[f32], factor: f32) {
    let parts = sum.par_chunks_mut(BLOCK).zip(values.par_chunks(BLOCK));
    parts.for_each(|(sum, values)| {
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
    });
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;
    use crate::graph::fused::product;

    /// What is gathered is what the tensor library adds up, also of a variable that is used twice and of
    /// one that no operation of ours knows.
    #[test]
    fn what_is_gathered_is_what_the_library_adds_up() {
        let var = |from: f32, shape: (usize, usize)| {
            let values: Vec<f32> =
                (0..shape.0 * shape.1).map(|at| (at as f32 * 0.37 + from).sin()).collect();
            Var::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        let (x, twice, plain) = (var(0.1, (5, 6)), var(0.7, (6, 6)), var(1.3, (5, 6)));
        let loss = || {
            let once = product(&x, &twice).unwrap();
            let both = product(&once, &twice).unwrap();
            (both * plain.as_tensor()).unwrap().sum_all().unwrap()
        };
        let expected = loss().backward().unwrap();
        let before = vec![0.5; 36];
        let sums = Sums::from([(twice.id(), before)]);
        let (rest, sums) = gathering(sums, || loss().backward());
        let rest = rest.unwrap();
        assert!(rest.get(&twice).is_none());
        for other in [&x, &plain] {
            let [a, b] = [&expected, &rest].map(|of| of.get(other).unwrap().to_vec2::<f32>());
            assert_eq!(a.unwrap(), b.unwrap());
        }
        let expected = expected.get(&twice).unwrap().flatten_all().unwrap().to_vec1::<f32>();
        for (sum, part) in sums[&twice.id()].iter().zip(expected.unwrap()) {
            assert!((sum - 0.5 - part).abs() < 1e-5, "{sum} {part}");
        }
        // Nobody gathers any more.
        assert!(loss().backward().unwrap().get(&twice).is_some());
    }
}
