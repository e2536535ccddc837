//! Which tensors of two manifests belong together, and which of them have to be read.

use std::collections::BTreeMap;

use cart_format::{BlobId, DType, Manifest, TensorEntry, TensorName};
use serde::Serialize;

use crate::diff::module::Place;
use crate::weights::layers::LayerName;

/// What the tensors of A have to do with those of B, from the manifests alone.
#[derive(Clone, Debug, Default)]
pub struct DiffPlan {
    /// Of the same name, type, shape and digest.
    pub same: Vec<Lone>,
    /// Of the same name and shape, but with other bytes: these are read.
    pub changed: Vec<Pair>,
    /// Of the same name but other shapes.
    pub reshaped: Vec<Reshaped>,
    /// Of the same digest, type and shape under another name.
    pub renamed: Vec<Renamed>,
    /// Only in A.
    pub removed: Vec<Lone>,
    /// Only in B.
    pub added: Vec<Lone>,
}

/// Two tensors to compare.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The name in both.
    pub name: TensorName,
    /// Where in the model.
    pub place: Place,
    /// The shape of both.
    pub shape: Vec<u64>,
    /// The element types of A and B.
    pub dtypes: [DType; 2],
}

/// A tensor by itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Lone {
    /// Its name.
    pub name: TensorName,
    /// Where in the model.
    #[serde(flatten)]
    pub place: Place,
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its elements.
    pub elements: u64,
}

/// A tensor whose shape changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reshaped {
    /// Its name.
    pub name: TensorName,
    /// Where in the model.
    #[serde(flatten)]
    pub place: Place,
    /// Its element type in A.
    pub dtype_a: DType,
    /// Its element type in B.
    pub dtype_b: DType,
    /// Its shape in A.
    pub shape_a: Vec<u64>,
    /// Its shape in B.
    pub shape_b: Vec<u64>,
}

/// A tensor that has another name.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Renamed {
    /// Its name in A.
    pub a: TensorName,
    /// Its name in B.
    pub b: TensorName,
    /// Whether the names differ in the number of the layer alone.
    pub moved: bool,
    /// Its elements.
    pub elements: u64,
}

impl Lone {
    fn new(name: &TensorName, entry: &TensorEntry) -> Self {
        Self {
            name: name.clone(),
            place: Place::of(name),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            elements: elements(&entry.shape),
        }
    }
}

impl Pair {
    /// Elements of each.
    pub fn elements(&self) -> u64 {
        elements(&self.shape)
    }

    /// Bytes of both.
    pub fn bytes(&self) -> u64 {
        self.dtypes.iter().map(|dtype| dtype.size_of(&self.shape).unwrap_or(0)).sum()
    }
}

fn elements(shape: &[u64]) -> u64 {
    shape.iter().product()
}

/// What makes two tensors one under two names.
type Content<'m> = (BlobId, DType, &'m [u64]);

fn content(entry: &TensorEntry) -> Content<'_> {
    (entry.blob, entry.dtype, &entry.shape)
}

impl DiffPlan {
    /// Pairs the tensors of two manifests by name, then those that are left by digest.
    pub fn new(a: &Manifest, b: &Manifest) -> Self {
        let mut plan = Self::default();
        let mut gone: BTreeMap<Content<'_>, Vec<&TensorName>> = BTreeMap::new();
        for (name, entry) in &a.model.tensors {
            match b.model.tensors.get(name) {
                Some(other) => plan.of_one_name(name, entry, other),
                None => gone.entry(content(entry)).or_default().push(name),
            }
        }
        for (name, entry) in &b.model.tensors {
            if a.model.tensors.contains_key(name) {
                continue;
            }
            let before = gone.get_mut(&content(entry)).and_then(|names| nearest(names, name));
            match before {
                Some(before) => plan.renamed.push(Renamed {
                    a: before.clone(),
                    b: name.clone(),
                    moved: is_moved(before, name),
                    elements: elements(&entry.shape),
                }),
                None => plan.added.push(Lone::new(name, entry)),
            }
        }
        let mut left: Vec<&TensorName> = gone.into_values().flatten().collect();
        left.sort();
        plan.removed =
            left.into_iter().map(|name| Lone::new(name, &a.model.tensors[name])).collect();
        plan
    }

    fn of_one_name(&mut self, name: &TensorName, a: &TensorEntry, b: &TensorEntry) {
        let place = Place::of(name);
        if a == b {
            self.same.push(Lone::new(name, a));
        } else if a.shape == b.shape {
            let dtypes = [a.dtype, b.dtype];
            self.changed.push(Pair { name: name.clone(), place, shape: a.shape.clone(), dtypes });
        } else {
            self.reshaped.push(Reshaped {
                name: name.clone(),
                place,
                dtype_a: a.dtype,
                dtype_b: b.dtype,
                shape_a: a.shape.clone(),
                shape_b: b.shape.clone(),
            });
        }
    }

    /// Bytes that have to be read.
    pub fn work(&self) -> u64 {
        self.changed.iter().map(Pair::bytes).sum()
    }
}

/// Takes the name out that differs in the layer alone, else the first.
fn nearest<'m>(names: &mut Vec<&'m TensorName>, name: &TensorName) -> Option<&'m TensorName> {
    let at = names.iter().position(|before| is_moved(before, name)).unwrap_or(0);
    (at < names.len()).then(|| names.remove(at))
}

fn is_moved(a: &TensorName, b: &TensorName) -> bool {
    match (LayerName::of(a), LayerName::of(b)) {
        (Some(a), Some(b)) => a.before == b.before && a.after == b.after,
        _ => false,
    }
}
