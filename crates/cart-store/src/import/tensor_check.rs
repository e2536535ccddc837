//! Whether a model has the tensors that its configuration asks for.

use std::collections::BTreeMap;

use cart_format::ArchSpec;
use cart_format::arch::TensorSpec;

use crate::import::error::ImportError;

/// What came of comparing configuration and tensors that do not contradict each other.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Every tensor is there.
    Full {
        /// Tensors that the architecture does not use.
        unused: Vec<String>,
    },
    /// None of the names is there: the tensors are named in another way.
    OtherNames,
}

/// Compares the tensors that `spec` asks for with those that are there.
pub(crate) fn check(spec: &ArchSpec, shapes: &BTreeMap<&str, &[u64]>) -> Result<Fit, ImportError> {
    let expected = spec.tensors();
    if !expected.iter().any(|tensor| shapes.contains_key(tensor.name.as_str())) {
        return Ok(Fit::OtherNames);
    }
    for TensorSpec { name, shape } in &expected {
        let Some(&found) = shapes.get(name.as_str()) else {
            let (tensor, expected) = (name.clone(), shape.clone());
            return Err(ImportError::MissingTensor { tensor, expected });
        };
        if found != shape.as_slice() {
            let (tensor, found, expected) = (name.clone(), found.to_vec(), shape.clone());
            return Err(ImportError::TensorShape { tensor, found, expected });
        }
    }
    let used: std::collections::BTreeSet<&str> =
        expected.iter().map(|tensor| tensor.name.as_str()).collect();
    let unused = shapes.keys().filter(|name| !used.contains(**name));
    Ok(Fit::Full { unused: unused.map(|&name| name.to_owned()).collect() })
}
