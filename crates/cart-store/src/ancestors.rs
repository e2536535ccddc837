//! Where two histories meet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cart_format::CommitId;

use crate::objects::ObjectError;
use crate::store::Store;

impl Store {
    /// A commit and everything that it came from, with the fewest steps to each. History ends where
    /// the store lacks a commit.
    ///
    /// # Errors
    /// A commit is damaged.
    pub fn ancestors(&self, of: &CommitId) -> Result<BTreeMap<CommitId, u64>, ObjectError> {
        let mut found = BTreeMap::from([(*of, 0)]);
        let mut waiting = VecDeque::from([*of]);
        while let Some(id) = waiting.pop_front() {
            let commit = match self.commit(&id) {
                Err(ObjectError::Absent { .. }) if id != *of => continue,
                commit => commit?,
            };
            let steps = found[&id] + 1;
            for parent in commit.parents {
                if let std::collections::btree_map::Entry::Vacant(place) = found.entry(parent) {
                    place.insert(steps);
                    waiting.push_back(parent);
                }
            }
        }
        Ok(found)
    }

    /// The commits that both came from and that are no ancestors of others such, the nearest first.
    /// There are several where histories crossed.
    ///
    /// # Errors
    /// A commit is damaged.
    pub fn common_ancestors(
        &self,
        a: &CommitId,
        b: &CommitId,
    ) -> Result<Vec<CommitId>, ObjectError> {
        let (of_a, of_b) = (self.ancestors(a)?, self.ancestors(b)?);
        let mut common: Vec<(u64, CommitId)> = Vec::new();
        for (id, steps) in &of_a {
            if let Some(others) = of_b.get(id) {
                common.push((steps + others, *id));
            }
        }
        common.sort_unstable();
        let mut covered: BTreeSet<CommitId> = BTreeSet::new();
        let mut best = Vec::new();
        for (_, id) in common {
            // What is nearer in steps may still be an ancestor of what comes later: look again below.
            if !covered.contains(&id) {
                covered.extend(self.ancestors(&id)?.into_keys().filter(|other| *other != id));
                best.push(id);
            }
        }
        best.retain(|id| !covered.contains(id));
        Ok(best)
    }
}

#[cfg(test)]
mod tests {
    use cart_format::{Commit, Manifest, Recipe};

    use super::*;

    #[test]
    fn histories_meet_at_their_nearest_common_commit() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(folder.path().join("store")).unwrap();
        let manifest = store.put_manifest(&Manifest::new()).unwrap();
        let commit = |time: u64, parents: &[CommitId]| {
            let mut commit = Commit::new(manifest, time, Recipe::new("test"));
            commit.parents = parents.to_vec();
            store.put_commit(&commit).unwrap()
        };
        let root = commit(0, &[]);
        let fork = commit(1, &[root]);
        let (left, right) = (commit(2, &[fork]), commit(3, &[fork]));
        assert_eq!(store.common_ancestors(&left, &right).unwrap(), [fork]);
        assert_eq!(store.common_ancestors(&fork, &right).unwrap(), [fork]);
        let merged = commit(4, &[left, right]);
        let on = commit(5, &[right]);
        assert_eq!(store.common_ancestors(&merged, &on).unwrap(), [right]);
        let stranger = commit(6, &[]);
        assert!(store.common_ancestors(&merged, &stranger).unwrap().is_empty());
        let crossed = [commit(7, &[left, right]), commit(8, &[right, left])];
        let mut both = vec![left, right];
        both.sort_unstable();
        assert_eq!(store.common_ancestors(&crossed[0], &crossed[1]).unwrap(), both);
    }
}
