//! Which memories go into the memory of a merged cartridge.
//!
//! A memory that was joined before gives what it was joined from, one that comes twice counts once, and one that another input
//! has lived on from does not count beside that. So the parts are a set, of which the joined memory is a
//! function (`cart_memory::join`).

use cart_format::{Manifest, MemorySection, SpaceId};

/// A memory that lived.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryPart {
    /// The first input that has it.
    pub input: usize,
    /// The memory.
    pub section: MemorySection,
}

/// The memories of inputs, by what becomes of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryPlan {
    /// What is joined, by state. One alone is taken as it is.
    pub parts: Vec<MemoryPart>,
    /// What another input has lived on from.
    pub outlived: Vec<MemoryPart>,
    /// What is of another space than the result, and would be joined if it were not, by state.
    pub foreign: Vec<MemoryPart>,
}

impl MemoryPlan {
    /// Sorts the memories of inputs.
    ///
    /// * `space`: of the result; none where its weights are new, so that no memory fits
    /// * `outlived`: whether an input has lived on from a memory, which is not one of its own any more
    pub fn new(
        inputs: &[&Manifest],
        space: Option<SpaceId>,
        outlived: impl Fn(usize, &MemorySection) -> bool,
    ) -> Self {
        let mut plan = Self::default();
        let lived: Vec<Vec<MemorySection>> = inputs
            .iter()
            .map(|input| input.memory.as_ref().map_or_else(Vec::new, MemorySection::lived))
            .collect();
        for (input, sections) in lived.iter().enumerate() {
            for section in sections {
                let part = MemoryPart { input, section: section.clone() };
                let known = plan.parts.iter().chain(&plan.outlived).chain(&plan.foreign);
                if known.into_iter().any(|other| other.section == *section) {
                    continue;
                }
                let by = |other: usize| !lived[other].contains(section) && outlived(other, section);
                let is_outlived = (0..inputs.len()).any(by);
                let fits = Some(section.space) == space;
                match (is_outlived, fits) {
                    (true, _) => plan.outlived.push(part),
                    (false, true) => plan.parts.push(part),
                    (false, false) => plan.foreign.push(part),
                }
            }
        }
        plan.parts.sort_by_key(|part| part.section.state);
        plan.foreign.sort_by_key(|part| part.section.state);
        plan
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cart_format::BlobId;

    use super::*;

    fn section(name: &[u8]) -> MemorySection {
        MemorySection {
            space: SpaceId::of(b"space"),
            dim: 2,
            state: BlobId::of(name),
            tensors: BTreeMap::new(),
            parts: Vec::new(),
            extra: BTreeMap::new(),
        }
    }

    fn manifest(names: &[&[u8]]) -> Manifest {
        let mut memory = section(names.concat().as_slice());
        if names.len() > 1 {
            memory.parts = names.iter().map(|name| section(name)).collect();
        }
        Manifest { memory: Some(memory), ..Manifest::new() }
    }

    fn states(parts: &[MemoryPart]) -> Vec<BlobId> {
        parts.iter().map(|part| part.section.state).collect()
    }

    fn sorted(names: &[&[u8]]) -> Vec<BlobId> {
        let mut ids: Vec<BlobId> = names.iter().map(|name| BlobId::of(name)).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn joined_memories_give_what_went_into_them_once() {
        let (ab, bc) = (manifest(&[b"a", b"b"]), manifest(&[b"b", b"c"]));
        let space = Some(SpaceId::of(b"space"));
        let plan = MemoryPlan::new(&[&ab, &bc], space, |_, _| false);
        assert_eq!(states(&plan.parts), sorted(&[b"a", b"b", b"c"]));
        assert_eq!(plan.parts.iter().filter(|part| part.input == 1).count(), 1);
        let none = MemoryPlan::new(&[&ab, &bc], None, |_, _| false);
        assert_eq!((none.parts.len(), states(&none.foreign)), (0, states(&plan.parts)));
    }

    #[test]
    fn what_another_input_has_lived_on_from_does_not_count_beside_it() {
        let (a, x) = (manifest(&[b"a"]), manifest(&[b"x"]));
        let space = Some(SpaceId::of(b"space"));
        let came_from_a =
            |input: usize, section: &MemorySection| input == 1 && section.state == BlobId::of(b"a");
        let plan = MemoryPlan::new(&[&a, &x], space, came_from_a);
        assert_eq!(
            (states(&plan.parts), states(&plan.outlived)),
            (sorted(&[b"x"]), sorted(&[b"a"]))
        );
        // What it still has as a part, it has not lived on from.
        let ax = manifest(&[b"a", b"x"]);
        let plan = MemoryPlan::new(&[&a, &ax], space, came_from_a);
        assert_eq!(states(&plan.parts), sorted(&[b"a", b"x"]));
    }
}
