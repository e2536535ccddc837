//! Adding up what memory does.

use std::sync::Arc;
use std::time::Duration;

use cart_memory::{Chain, Recalled};

use super::prefix;
use super::steering::Steered;
use crate::distribution;
use crate::event::{MemoryUse, SlotRead};
use crate::long_term::{Link, LongTermUse, Ticket};
use crate::options::PrefixOptions;

/// The sums behind a [`MemoryUse`].
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    pub(super) report: MemoryUse,
    pub(super) recall: Duration,
    pub(super) spent: Duration,
    lambda: f64,
    goal_kl: f64,
    goal_share: f64,
    tokens: usize,
    /// Tokens that were compared with the bare model.
    compared: usize,
    delta: f64,
    kl: f64,
    /// What was offered to a long-term memory that others share.
    pub(super) offers: Vec<Arc<Ticket>>,
}

impl Usage {
    pub(super) fn read(&mut self, recalled: &[Chain], options: Option<&PrefixOptions>) {
        self.report.read =
            recalled.iter().flat_map(Chain::slots).map(|hit| slot_read(hit, options)).collect();
    }

    /// Whether memory changed hidden states, so that logits without it are other logits.
    pub(super) fn changes_states(&self) -> bool {
        self.report.prefix_tokens > 0 || self.report.layer_tokens > 0
    }

    /// Another memory is asked from now on.
    ///
    /// * `slots`: that it has, `recalled`: for neighbours, as it is not in keys and values
    pub(super) fn turned(&mut self, slots: usize, recalled: &[Chain]) {
        self.report.slots = slots;
        let read = recalled.iter().flat_map(Chain::slots).map(|hit| slot_read(hit, None));
        self.report.read.extend(read);
    }

    pub(super) fn mixed(&mut self, lambda: f64) {
        self.report.knn_steps += 1;
        self.lambda += lambda;
    }

    pub(super) fn steered(&mut self, step: &Steered) {
        self.report.goal_steps += 1;
        self.goal_kl += step.kl;
        self.goal_share += step.share;
    }

    /// * `bare`: logits without memory, `[vocab]`; none where they are `logits`
    pub(super) fn chosen(&mut self, token: u32, logits: &[f32], bare: Option<&[f32]>) {
        self.tokens += 1;
        if self.changes_states() && bare.is_none() {
            return;
        }
        self.compared += 1;
        if let Some(bare) = bare {
            self.delta += distribution::logprob(logits, token) - distribution::logprob(bare, token);
            self.kl += distribution::kl(logits, bare);
        }
    }

    /// * `link`: to the long-term memory, where it is shared
    pub(super) fn finish(mut self, link: Option<Arc<Link>>) -> MemoryUse {
        let mean = |sum: f64, count: usize| if count == 0 { 0.0 } else { sum / count as f64 };
        self.report.knn_lambda = mean(self.lambda, self.report.knn_steps);
        self.report.goal_kl = mean(self.goal_kl, self.report.goal_steps);
        self.report.goal_share = mean(self.goal_share, self.report.goal_steps);
        let compared = self.compared == self.tokens && self.tokens > 0;
        self.report.delta_logprob = compared.then(|| mean(self.delta, self.compared));
        self.report.kl = compared.then(|| mean(self.kl, self.compared));
        let micros = (self.recall + self.spent).as_secs_f64() * 1e6;
        self.report.micros_per_token = mean(micros, self.tokens);
        self.report.long_term = link.map(|link| LongTermUse::new(link, self.offers));
        self.report
    }
}

fn slot_read(hit: &Recalled, options: Option<&PrefixOptions>) -> SlotRead {
    SlotRead {
        slot: hit.slot,
        text: hit.text.clone(),
        source: hit.source.clone(),
        score: hit.cosine,
        bias: options.map_or(hit.bias, |options| prefix::bias(hit, options)),
    }
}
