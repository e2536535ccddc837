//! Whether what a stream says has collapsed: no entropy and nothing but repetition, or hardly any different tokens.

use std::collections::{BTreeSet, VecDeque};

use super::CollapseOptions;

/// The last tokens of a stream, with the entropy of what each was drawn from.
#[derive(Clone, Debug, Default)]
pub(in crate::runtime) struct Meter {
    last: VecDeque<(u32, f64)>,
    entropy: f64,
}

/// How a stream looks over as many tokens as it takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::runtime) struct Reading {
    /// Mean entropy in nats.
    pub(in crate::runtime) entropy: f64,
    /// Share of different ones among runs of three tokens.
    pub(in crate::runtime) distinct: f64,
    /// Whether an output has collapsed that looks like this.
    pub(in crate::runtime) collapsed: bool,
}

impl Meter {
    /// Takes a token; gives a reading as soon as there are enough of them.
    pub(in crate::runtime) fn take(
        &mut self,
        token: u32,
        entropy: f64,
        options: &CollapseOptions,
    ) -> Option<Reading> {
        self.last.push_back((token, entropy));
        self.entropy += entropy;
        if self.last.len() > options.tokens.get() {
            let (_, gone) = self.last.pop_front()?;
            self.entropy -= gone;
        }
        if self.last.len() < options.tokens.get() {
            return None;
        }
        let entropy = (self.entropy / self.last.len() as f64).max(0.0);
        let tokens: BTreeSet<u32> = self.last.iter().map(|&(token, _)| token).collect();
        let few = tokens.len() as f64 <= options.few * self.last.len() as f64;
        let sure = entropy <= options.entropy;
        // Runs are counted only where it may matter.
        let distinct = if few || sure { self.distinct() } else { 1.0 };
        let collapsed = few || (sure && distinct <= options.distinct);
        Some(Reading { entropy, distinct, collapsed })
    }

    fn distinct(&self) -> f64 {
        let tokens: Vec<u32> = self.last.iter().map(|&(token, _)| token).collect();
        let runs = tokens.windows(3);
        let count = runs.len();
        let different: BTreeSet<&[u32]> = runs.collect();
        if count == 0 { 1.0 } else { different.len() as f64 / count as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(tokens: impl Iterator<Item = (u32, f64)>) -> Vec<Reading> {
        let mut meter = Meter::default();
        let options = CollapseOptions::default();
        tokens.filter_map(|(token, entropy)| meter.take(token, entropy, &options)).collect()
    }

    #[test]
    fn only_a_loop_without_entropy_has_collapsed() {
        let loops = readings((0..80).map(|at| (at % 5, 0.01)));
        assert_eq!(loops.len(), 80 - 63);
        assert!(loops.iter().all(|reading| reading.collapsed), "{loops:?}");
        let sure = readings((0..80).map(|at| (at, 0.01)));
        assert!(sure.iter().all(|reading| !reading.collapsed && reading.distinct > 0.99));
        let open = readings((0..80).map(|at| (at % 5, 1.0)));
        assert!(open.iter().all(|reading| !reading.collapsed));
    }

    #[test]
    fn a_few_tokens_that_share_all_probability_are_a_collapse_too() {
        let dashes = readings((0..80).map(|at| (at * at % 4, 1.3)));
        assert!(dashes.iter().all(|reading| reading.collapsed), "{dashes:?}");
    }

    #[test]
    fn a_stream_that_was_well_collapses_when_the_window_has_passed_over_that() {
        let mixed = readings((0..200).map(|at| if at < 64 { (at, 2.0) } else { (7, 0.0) }));
        let first = mixed.iter().position(|reading| reading.collapsed).unwrap();
        // 3 tokens of entropy 2 among 64 have a mean of 0.094.
        assert_eq!(first, 64 - 3);
        assert!(mixed[first..].iter().all(|reading| reading.collapsed));
    }
}
