//! Finding the first bad commit between a good one and a bad one, over histories with merges.

use std::collections::{BTreeMap, BTreeSet};

use cart_format::CommitId;

use crate::objects::ObjectError;
use crate::store::Store;

/// What a judge said of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be.
    Good,
    /// It is not.
    Bad,
    /// It can't be judged.
    Skip,
}

/// A search for the first bad commit: one that is bad and whose parents are good. It assumes that what came of
/// a bad commit is bad.
#[derive(Clone, Debug)]
pub struct Bisection {
    /// Commits of which one is the first bad one, each with its parents among them.
    suspects: BTreeMap<CommitId, Vec<CommitId>>,
    /// The earliest that is known to be bad; all suspects are its ancestors, or itself.
    bad: CommitId,
    skipped: BTreeSet<CommitId>,
}

impl Store {
    /// Begins a search. Suspects are `bad` and what it came from, but for `good` and what that came from.
    ///
    /// # Errors
    /// A commit is damaged.
    pub fn bisection(&self, good: &CommitId, bad: &CommitId) -> Result<Bisection, ObjectError> {
        let cleared = self.ancestors(good)?;
        let mut parents = BTreeMap::new();
        for (id, _) in self.ancestors(bad)? {
            match self.commit(&id) {
                // Where the store lacks a commit, history ends.
                Err(ObjectError::Absent { .. }) if id != *bad => {}
                commit => {
                    parents.insert(id, commit?.parents);
                }
            }
        }
        Ok(Bisection::new(parents, cleared.keys(), *bad))
    }
}

impl Bisection {
    /// * `parents`: those of `bad` and everything that it came from
    /// * `cleared`: what is known to be good
    fn new<'a>(
        mut parents: BTreeMap<CommitId, Vec<CommitId>>,
        cleared: impl IntoIterator<Item = &'a CommitId>,
        bad: CommitId,
    ) -> Self {
        for good in cleared {
            parents.remove(good);
        }
        let mut search = Self { suspects: parents, bad, skipped: BTreeSet::new() };
        search.tidy();
        search
    }

    /// How many commits may be the first bad one.
    pub fn suspects(&self) -> usize {
        self.suspects.len()
    }

    /// The commits that may be the first bad one.
    pub fn remaining(&self) -> impl Iterator<Item = CommitId> {
        self.suspects.keys().copied()
    }

    /// The first bad commit, if it is known.
    pub fn found(&self) -> Option<CommitId> {
        (self.suspects.len() == 1).then_some(self.bad)
    }

    /// Which commit to judge: the one that leaves the fewest suspects at worst. None where the first bad commit is
    /// known, or nothing is left that can be judged.
    pub fn next(&self) -> Option<CommitId> {
        let all = self.suspects.len();
        let judged = |id: &&CommitId| **id != self.bad && !self.skipped.contains(*id);
        let worth = |id: &CommitId| {
            let before = self.before(id).len();
            before.min(all - before)
        };
        let candidates = self.suspects.keys().filter(judged);
        candidates.max_by_key(|id| (worth(id), std::cmp::Reverse(**id))).copied()
    }

    /// Takes a verdict down.
    pub fn mark(&mut self, commit: CommitId, verdict: Verdict) {
        match verdict {
            Verdict::Good => {
                for good in self.before(&commit) {
                    self.suspects.remove(&good);
                }
            }
            Verdict::Bad => {
                let before = self.before(&commit);
                self.suspects.retain(|id, _| before.contains(id));
                self.bad = commit;
            }
            Verdict::Skip => {
                self.skipped.insert(commit);
            }
        }
        self.tidy();
    }

    /// A suspect and those that it came from.
    fn before(&self, commit: &CommitId) -> BTreeSet<CommitId> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![*commit];
        while let Some(id) = waiting.pop() {
            if let Some(parents) = self.suspects.get(&id)
                && found.insert(id)
            {
                waiting.extend(parents);
            }
        }
        found
    }

    /// Forgets parents that are no suspects.
    fn tidy(&mut self) {
        let suspects: BTreeSet<CommitId> = self.suspects.keys().copied().collect();
        for parents in self.suspects.values_mut() {
            parents.retain(|parent| suspects.contains(parent));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: usize) -> CommitId {
        CommitId::of(&number.to_le_bytes())
    }

    /// Runs a search to its end; gives what it found and how often it asked.
    fn search(
        parents: &BTreeMap<CommitId, Vec<CommitId>>,
        judge: impl Fn(&CommitId) -> Verdict,
        last: usize,
    ) -> (Bisection, usize) {
        let mut search = Bisection::new(parents.clone(), [&id(0)], id(last));
        let mut steps = 0;
        while let Some(next) = search.next() {
            search.mark(next, judge(&next));
            steps += 1;
        }
        (search, steps)
    }

    #[test]
    fn a_line_of_64_takes_six_steps() {
        let line: BTreeMap<CommitId, Vec<CommitId>> =
            (0..=64).map(|at| (id(at), if at == 0 { vec![] } else { vec![id(at - 1)] })).collect();
        for first in 1..=64 {
            let bad: BTreeSet<CommitId> = (first..=64).map(id).collect();
            let judge =
                |one: &CommitId| if bad.contains(one) { Verdict::Bad } else { Verdict::Good };
            let (found, steps) = search(&line, judge, 64);
            assert_eq!(found.found(), Some(id(first)));
            assert!(steps <= 6, "{steps}");
        }
    }

    #[test]
    fn what_cannot_be_judged_is_left_as_a_suspect() {
        let line: BTreeMap<CommitId, Vec<CommitId>> =
            (0..=8).map(|at| (id(at), if at == 0 { vec![] } else { vec![id(at - 1)] })).collect();
        let judge = |one: &CommitId| match (0..=8).find(|at| id(*at) == *one).unwrap() {
            0..=2 => Verdict::Good,
            3 | 4 => Verdict::Skip,
            _ => Verdict::Bad,
        };
        let (found, _) = search(&line, judge, 8);
        assert_eq!(found.found(), None);
        let left: BTreeSet<CommitId> = found.remaining().collect();
        assert_eq!(left, [3, 4, 5].map(id).into_iter().collect());
    }

    proptest! {
        #[test]
        fn in_any_history_the_first_bad_commit_is_found(
            links in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<bool>()), 1..60),
            first in any::<prop::sample::Index>(),
        ) {
            let last = links.len();
            let mut parents = BTreeMap::from([(id(0), Vec::new())]);
            for (at, (one, other, merges)) in links.iter().enumerate() {
                let mut of = vec![id(one.index(at + 1))];
                if *merges {
                    of.push(id(other.index(at + 1)));
                }
                parents.insert(id(at + 1), of);
            }
            // Bad is a commit and all that came of it; the last is one of them.
            let first = 1 + first.index(last);
            let mut bad = BTreeSet::from([id(first)]);
            for at in first + 1..=last {
                if parents[&id(at)].iter().any(|parent| bad.contains(parent)) {
                    bad.insert(id(at));
                }
            }
            prop_assume!(bad.contains(&id(last)));
            // What the last did not come from is no part of the search.
            let whole = Bisection::new(parents.clone(), [], id(last));
            let mut reached = whole.before(&id(last));
            reached.insert(id(0));
            let parents = parents.into_iter().filter(|(id, _)| reached.contains(id)).collect();
            let judge = |one: &CommitId| if bad.contains(one) { Verdict::Bad } else { Verdict::Good };
            let (found, steps) = search(&parents, judge, last);
            prop_assert_eq!(found.found(), Some(id(first)));
            prop_assert!(steps < 60);
        }
    }
}
