//! What becomes of one tensor.

use cart_format::{DType, TensorEntry};

use crate::weights::config::MergeConfig;
use crate::weights::elements;
use crate::weights::float_type::FloatType;
use crate::weights::method::{BaseUse, Method};
use crate::weights::plan::outline::{Slice, Slot};
use crate::weights::plan::{
    Cause, How, Merging, Model, OnConflict, Operand, PlanError, PlanOptions, PlannedTensor,
};
use crate::weights::step::{ModelSources, Sources, Step};
use crate::weights::vocabulary::Mapping;

/// Plans tensors of one merge.
pub(super) struct Tensors<'a> {
    pub(super) config: &'a MergeConfig,
    pub(super) models: &'a [Model<'a>],
    pub(super) options: PlanOptions,
    pub(super) slices: &'a [Slice<'a>],
    /// How tokens are mapped, where they have to be, and which tensors have a row for each.
    pub(super) mapping: Option<(Mapping, Vec<String>)>,
}

/// An input of a slot.
#[derive(Clone, Copy)]
struct Entry<'a> {
    /// Which source of the slice.
    source: usize,
    model: usize,
    tensor: &'a TensorEntry,
}

impl<'a> Tensors<'a> {
    pub(super) fn plan(&self, slot: &'a Slot) -> Result<PlannedTensor, PlanError> {
        let slice = &self.slices[slot.slice];
        let entries = self.entries(slot, slice)?;
        let mapped = self.mapped(slot);
        if !mapped {
            self.check_shapes(slot, &entries)?;
        }
        if self.options.three_way.is_some() && !mapped {
            return self.three_way(slot, &entries);
        }
        let same = entries.iter().all(|entry| entry.tensor == entries[0].tensor);
        if !elements::is_mergeable(entries[0].tensor.dtype) && same {
            return Ok(self.take(slot, entries[0], Cause::Same));
        }
        let roles = if self.options.three_way.is_some() {
            self.roles_of_sides(&entries)
        } else {
            self.roles(slice, &entries)
        };
        self.merge(slot, slice, roles, Cause::Configured)
    }

    fn mapped(&self, slot: &Slot) -> bool {
        let names = self.mapping.as_ref().map(|(_, names)| names);
        names.is_some_and(|names| names.iter().any(|name| name == slot.name.as_str()))
    }

    /// The tensor in each source.
    fn entries(&self, slot: &Slot, slice: &Slice<'_>) -> Result<Vec<Entry<'a>>, PlanError> {
        let of = |source: usize| {
            let model = slice.sources[source].model;
            let tensor = self.models[model].manifest.model.tensors.get(&slot.inputs[source]);
            (model, tensor)
        };
        let found: Vec<_> = (0..slice.sources.len()).map(of).collect();
        let has = found.iter().find(|(_, tensor)| tensor.is_some()).map_or(0, |(model, _)| *model);
        found
            .iter()
            .enumerate()
            .map(|(source, &(model, tensor))| match tensor {
                Some(tensor) => Ok(Entry { source, model, tensor }),
                None => Err(PlanError::OneSided {
                    tensor: slot.inputs[source].clone(),
                    has: self.models[has].label.clone(),
                    lacks: self.models[model].label.clone(),
                }),
            })
            .collect()
    }

    fn check_shapes(&self, slot: &Slot, entries: &[Entry<'_>]) -> Result<(), PlanError> {
        let first = entries[0];
        match entries.iter().find(|entry| entry.tensor.shape != first.tensor.shape) {
            None => Ok(()),
            Some(other) => Err(PlanError::Shape {
                tensor: slot.name.clone(),
                a: self.models[first.model].label.clone(),
                b: self.models[other.model].label.clone(),
                shapes: Box::new([first, *other].map(|entry| entry.tensor.shape.clone())),
            }),
        }
    }

    /// Sources are ours, theirs and, where there is one, the base.
    fn three_way(&self, slot: &'a Slot, entries: &[Entry<'a>]) -> Result<PlannedTensor, PlanError> {
        let (ours, theirs, base) = (entries[0], entries[1], entries.get(2).copied());
        let is_base = |side: Entry<'_>| base.is_some_and(|base| base.tensor == side.tensor);
        if ours.tensor == theirs.tensor {
            return Ok(self.take(slot, ours, Cause::Same));
        }
        if is_base(ours) {
            return Ok(self.take(slot, theirs, Cause::Theirs));
        }
        if is_base(theirs) {
            return Ok(self.take(slot, ours, Cause::Ours));
        }
        let on_conflict =
            self.options.three_way.map_or(OnConflict::Merge, |sides| sides.on_conflict);
        match (on_conflict, base) {
            (OnConflict::Ours, _) => Ok(self.take(slot, ours, Cause::Both)),
            (OnConflict::Theirs, _) => Ok(self.take(slot, theirs, Cause::Both)),
            (OnConflict::Base, Some(base)) => Ok(self.take(slot, base, Cause::Both)),
            (OnConflict::Merge, _) => {
                let slice = &self.slices[slot.slice];
                self.merge(slot, slice, self.roles_of_sides(entries), Cause::Both)
            }
            (OnConflict::Refuse | OnConflict::Base, _) => Ok(PlannedTensor {
                name: slot.name.clone(),
                dtype: ours.tensor.dtype,
                shape: ours.tensor.shape.clone(),
                cause: Cause::Both,
                how: How::Conflict,
            }),
        }
    }

    /// The inputs of a step in its order: base, then others.
    fn roles_of_sides(&self, entries: &[Entry<'a>]) -> (Option<Entry<'a>>, Vec<Entry<'a>>) {
        let (ours, theirs, base) = (entries[0], entries[1], entries.get(2).copied());
        match self.config.merge_method {
            Method::Slerp | Method::NearSwap | Method::ArceeFusion => (Some(ours), vec![theirs]),
            method if method.base_use() == BaseUse::Required => (base, vec![ours, theirs]),
            _ => (None, vec![ours, theirs]),
        }
    }

    fn roles(
        &self,
        slice: &Slice<'_>,
        entries: &[Entry<'a>],
    ) -> (Option<Entry<'a>>, Vec<Entry<'a>>) {
        if self.config.merge_method.base_use() == BaseUse::Ignored {
            return (None, entries.to_vec());
        }
        let base = entries.iter().find(|entry| Some(entry.model) == slice.base).copied();
        let is_base = |entry: &Entry<'_>| base.is_some_and(|base| base.source == entry.source);
        (base, entries.iter().filter(|entry| !is_base(entry)).copied().collect())
    }

    fn take(&self, slot: &Slot, entry: Entry<'_>, cause: Cause) -> PlannedTensor {
        let tensor = entry.tensor;
        let dtype = self.dtype_of(&[entry]);
        let name = slot.inputs[entry.source].clone();
        let how = if dtype == tensor.dtype {
            How::Take { model: entry.model, tensor: name }
        } else {
            let step = Step::Passthrough { scale: None };
            let operands = vec![operand(slot, entry)];
            How::Merge(Merging { step, operands, rounded: None })
        };
        PlannedTensor { name: slot.name.clone(), dtype, shape: tensor.shape.clone(), cause, how }
    }

    fn merge(
        &self,
        slot: &'a Slot,
        slice: &Slice<'a>,
        (base, others): (Option<Entry<'a>>, Vec<Entry<'a>>),
        cause: Cause,
    ) -> Result<PlannedTensor, PlanError> {
        let of = |entry: &Entry<'_>| ModelSources {
            name: &self.models[entry.model].label,
            tensor: slot.inputs[entry.source].as_str(),
            own: slice.sources[entry.source].own.into_iter().collect(),
        };
        let sources = Sources {
            method: self.config.merge_method,
            tensor: slot.name.as_str(),
            t: slot.t,
            shared: slice.shared.clone(),
            models: others.iter().map(of).collect(),
            base: base.as_ref().map(of),
        };
        let step = sources.step();
        let step = step.map_err(|source| PlanError::Step { tensor: slot.name.clone(), source })?;
        let entries: Vec<Entry<'_>> = base.into_iter().chain(others).collect();
        self.check_types(slot, &entries)?;
        let dtype = self.dtype_of(&entries);
        if !elements::is_writable(dtype) {
            return Err(PlanError::Unwritable { tensor: slot.name.clone(), dtype });
        }
        let mapped = self.mapping.as_ref().filter(|_| self.mapped(slot));
        let mut shape = entries[0].tensor.shape.clone();
        let mut operands: Vec<Operand> =
            entries.iter().map(|entry| operand(slot, *entry)).collect();
        if let Some((mapping, _)) = mapped {
            let base = slice.base.and_then(|base| entries.iter().position(|one| one.model == base));
            let rows: Vec<_> = entries.iter().map(|one| (one.model, one.tensor.shape[0])).collect();
            for (index, operand) in operands.iter_mut().enumerate() {
                operand.rows = Some(mapping.rows(index, &rows, base));
            }
            shape[0] = mapping.rows_out();
        }
        let unchanged = matches!(step, Step::Passthrough { scale: None }) && mapped.is_none();
        if unchanged && dtype == entries[0].tensor.dtype && self.config.dtype.is_none() {
            return Ok(self.take(slot, entries[0], cause));
        }
        let how = How::Merge(Merging { step, operands, rounded: self.config.dtype });
        Ok(PlannedTensor { name: slot.name.clone(), dtype, shape, cause, how })
    }

    fn check_types(&self, slot: &Slot, entries: &[Entry<'_>]) -> Result<(), PlanError> {
        match entries.iter().find(|entry| !elements::is_mergeable(entry.tensor.dtype)) {
            None => Ok(()),
            Some(entry) => Err(PlanError::Unmergeable {
                tensor: slot.name.clone(),
                model: self.models[entry.model].label.clone(),
                dtype: entry.tensor.dtype,
            }),
        }
    }

    /// The type of the result: what is asked for; else that of quantized inputs, of which the first
    /// counts; else the one that all inputs fit into.
    fn dtype_of(&self, entries: &[Entry<'_>]) -> DType {
        let first = entries[0].tensor.dtype;
        if !elements::is_mergeable(first) {
            return first;
        }
        if let Some(asked) = self.config.out_dtype.or(self.config.dtype) {
            return asked.dtype();
        }
        if first.is_quantized() && !self.options.keep_float {
            return first;
        }
        let float = |dtype: DType| FloatType::of(dtype).unwrap_or(FloatType::F32);
        let types = entries.iter().map(|entry| float(entry.tensor.dtype));
        types.reduce(FloatType::promoted).unwrap_or(FloatType::F32).dtype()
    }
}

fn operand(slot: &Slot, entry: Entry<'_>) -> Operand {
    Operand {
        model: entry.model,
        tensor: slot.inputs[entry.source].clone(),
        dtype: entry.tensor.dtype,
        shape: entry.tensor.shape.clone(),
        rows: None,
    }
}
