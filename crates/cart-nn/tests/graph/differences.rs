//! Gradients by finite differences.

use cart_nn::graph::{DType, Device, Tensor, Var};

/// Numbers between −1 and 1 that look random.
pub(crate) fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut unit = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| unit()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

pub(crate) fn variables(shapes: &[&[usize]]) -> Vec<Var> {
    let one = |(seed, shape): (usize, &&[usize])| {
        Var::from_tensor(&random(seed as u64 + 3, shape)).unwrap()
    };
    shapes.iter().enumerate().map(one).collect()
}

/// Holds the gradient of every number of every variable to `(f(x + h) − f(x − h)) / 2h`.
///
/// * `work`: any tensor of the variables; what is differentiated is its product with fixed numbers
pub(crate) fn assert_gradients(what: &str, variables: &[Var], work: impl Fn() -> Tensor) {
    let value = || {
        let out = work();
        let factors = random(99, out.dims()).to_dtype(out.dtype()).unwrap();
        (out * factors).unwrap().sum_all().unwrap()
    };
    let number = || value().to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
    let gradients = value().backward().unwrap();
    for (index, variable) in variables.iter().enumerate() {
        let gradient = gradients.get(variable);
        let gradient = gradient.unwrap_or_else(|| panic!("{what}: variable {index} has none"));
        let gradient: Vec<f64> = gradient.flatten_all().unwrap().to_vec1().unwrap();
        assert!(gradient.iter().any(|slope| *slope != 0.0), "{what}: variable {index} is 0");
        let before: Vec<f64> = variable.flatten_all().unwrap().to_vec1().unwrap();
        for at in 0..before.len() {
            let moved = |by: f64| {
                let mut values = before.clone();
                values[at] += by;
                set(variable, values);
                number()
            };
            let step = 1e-5;
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            let error = (slope - gradient[at]).abs();
            let most = 1e-7 * slope.abs().max(1.0);
            assert!(error < most, "{what}: variable {index}[{at}]: {} {slope}", gradient[at]);
        }
        set(variable, before);
    }
}

fn set(variable: &Var, values: Vec<f64>) {
    let tensor = Tensor::from_vec(values, variable.dims(), &Device::Cpu).unwrap();
    variable.set(&tensor).unwrap();
}
