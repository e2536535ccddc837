//! The states of a generation, and the steps between them.

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::sync::Mutex;

/// Where a generation is between being asked for and being gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapState {
    /// Asked for; nothing was read yet.
    Staged,
    /// Every digest was recomputed and matched.
    Verified,
    /// Weights, tokenizer and memory are loaded and fit each other.
    Loaded,
    /// It has computed: its logits are finite and its golden probes passed.
    Warm,
    /// New streams run on it.
    Active,
    /// New streams run on another; its own streams may end on it, and it can be rolled back to.
    Draining,
    /// Nothing uses it any more.
    Dropped,
}

/// A step that does not exist.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a generation that is {from:?} can't become {to:?}; this is a bug")]
pub struct IllegalStep {
    /// Where it was.
    pub from: SwapState,
    /// Where it should have gone.
    pub to: SwapState,
}

impl SwapState {
    /// Every state, in order.
    pub const ALL: [Self; 7] = [
        Self::Staged,
        Self::Verified,
        Self::Loaded,
        Self::Warm,
        Self::Active,
        Self::Draining,
        Self::Dropped,
    ];

    /// Whether a generation may go from here to there.
    ///
    /// Up to `Warm` the way leads one state on, or to `Dropped`. From `Warm` on the owner of the
    /// token loop decides: activate, drain, roll back to (`Draining` to `Active`), drop.
    pub fn may_become(self, to: Self) -> bool {
        use SwapState::{Active, Draining, Dropped, Loaded, Staged, Verified, Warm};
        let next: &[Self] = match self {
            Staged => &[Verified, Dropped],
            Verified => &[Loaded, Dropped],
            Loaded => &[Warm, Dropped],
            Warm | Draining => &[Active, Dropped],
            Active => &[Draining],
            Dropped => &[],
        };
        next.contains(&to)
    }
}

/// The state of one generation, which only moves along legal steps.
#[derive(Debug)]
pub struct Lifecycle(Mutex<SwapState>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(Mutex::new(SwapState::Staged))
    }
}

impl Lifecycle {
    /// Where it is.
    pub fn state(&self) -> SwapState {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes to a state.
    ///
    /// # Errors
    /// There is no such step from where it is; it stays there.
    pub fn step(&self, to: SwapState) -> Result<(), IllegalStep> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.may_become(to) {
            return Err(IllegalStep { from: *state, to });
        }
        *state = to;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_way_to_active_skips_nothing() {
        for (index, &from) in SwapState::ALL.iter().enumerate() {
            for &to in SwapState::ALL.iter().skip(index + 2) {
                if to != SwapState::Dropped {
                    assert!(!from.may_become(to), "{from:?} to {to:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_active_is_never_dropped_without_draining() {
        assert!(!SwapState::Active.may_become(SwapState::Dropped));
        assert!(SwapState::ALL.iter().all(|&to| !SwapState::Dropped.may_become(to)));
    }

    proptest! {
        /// Whatever is asked for, in whatever order: the state changes exactly by legal steps, and
        /// activity is always preceded by verification, load and warm-up.
        #[test]
        fn only_legal_steps_are_taken(asked in prop::collection::vec(0_usize..7, 0..60)) {
            let lifecycle = Lifecycle::default();
            let mut taken = vec![SwapState::Staged];
            for to in asked.into_iter().map(|index| SwapState::ALL[index]) {
                let before = lifecycle.state();
                match lifecycle.step(to) {
                    Ok(()) => taken.push(to),
                    Err(refused) => {
                        prop_assert_eq!(refused, IllegalStep { from: before, to });
                        prop_assert_eq!(lifecycle.state(), before);
                    }
                }
            }
            prop_assert_eq!(lifecycle.state(), taken[taken.len() - 1]);
            if let Some(active) = taken.iter().position(|&state| state == SwapState::Active) {
                let way = &SwapState::ALL[..4];
                prop_assert_eq!(&taken[..active], way);
            }
        }
    }
}
