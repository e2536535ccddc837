//! What was measured, as the report has it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Size;
use super::bound::Bound;
use super::driver::Outcome;

/// The report of `cart bench engine`.
#[derive(Serialize)]
pub(crate) struct EngineReport {
    pub(crate) machine: Machine,
    pub(crate) rounds: u16,
    /// Whether every process was kept on as many cores as it had threads.
    pub(crate) pinned: bool,
    pub(crate) models: Vec<ModelReport>,
}

/// What the machine can do.
#[derive(Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    /// The best kernel level.
    pub(crate) kernels: String,
    pub(crate) bounds: Vec<Bound>,
}

/// One model.
#[derive(Serialize)]
pub(crate) struct ModelReport {
    pub(crate) file: String,
    pub(crate) bytes: u64,
    /// Bytes of weights that one token reads.
    pub(crate) token_bytes: u64,
    /// Multiply-adds of one token of a prompt, without the head.
    pub(crate) prompt_products: u64,
    pub(crate) prefill_tokens: usize,
    pub(crate) decode_tokens: usize,
    pub(crate) long_tokens: usize,
    pub(crate) sessions: usize,
    pub(crate) rows: Vec<Row>,
}

/// One engine with so many threads.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) engine: String,
    pub(crate) version: String,
    pub(crate) threads: u16,
    /// Tokens a second: `prefill`, `decode`, `long_prefill`, `long_decode`, `many_decode`.
    pub(crate) tokens_per_second: BTreeMap<String, Figure>,
    /// From the start of the process to its first token.
    pub(crate) first_token_seconds: Option<Figure>,
    /// Most memory of a process that read a long prompt and generated.
    pub(crate) peak_bytes: Option<u64>,
    /// Cart's advantage over this engine by measure: over 1, cart is faster or smaller.
    pub(crate) cart_is_ahead: BTreeMap<String, f64>,
    /// Cart's share of what the machine can do.
    pub(crate) share_of_bound: BTreeMap<String, f64>,
    /// Jobs without a result, and why.
    pub(crate) problems: Vec<String>,
}

/// One measure over the rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Figure {
    pub(crate) best: f64,
    pub(crate) median: f64,
    pub(crate) samples: Vec<f64>,
}

impl Figure {
    /// * `better`: picks the better of two
    fn add(figure: Option<Self>, sample: f64, better: fn(f64, f64) -> f64) -> Self {
        let mut samples = figure.map_or_else(Vec::new, |figure| figure.samples);
        samples.push(sample);
        let best = samples.iter().copied().reduce(better).expect("there is a sample");
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Self { best, median, samples }
    }
}

impl Row {
    pub(crate) fn new(name: &str, threads: u16) -> Self {
        Self {
            name: name.to_owned(),
            engine: name.to_owned(),
            version: String::new(),
            threads,
            tokens_per_second: BTreeMap::new(),
            first_token_seconds: None,
            peak_bytes: None,
            cart_is_ahead: BTreeMap::new(),
            share_of_bound: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Whether a job failed before, so that it is not tried again.
    pub(crate) fn gave_up(&self, job: &str) -> bool {
        self.problems.iter().any(|problem| problem.starts_with(&format!("{job}: ")))
    }

    /// Takes in a job's outcome. Memory counts where the long prompt was read.
    pub(crate) fn add(&mut self, job: &str, outcome: &Outcome) {
        if let Some((engine, version)) = &outcome.engine {
            (self.engine, self.version) = (engine.clone(), version.clone());
        }
        for measure in &outcome.measures {
            let speed = measure.tokens as f64 / measure.seconds;
            let before = self.tokens_per_second.remove(&measure.what);
            self.tokens_per_second
                .insert(measure.what.clone(), Figure::add(before, speed, f64::max));
        }
        if let Some(first) = outcome.first {
            let before = self.first_token_seconds.take();
            self.first_token_seconds = Some(Figure::add(before, first.as_secs_f64(), f64::min));
        }
        if let (Some(peak), "short") = (outcome.peak, job) {
            self.peak_bytes = Some(self.peak_bytes.map_or(peak, |before| before.max(peak)));
        }
        let empty = outcome.measures.is_empty() && outcome.first.is_none();
        if empty {
            self.problems.push(format!("{job}: its driver does not measure this"));
        }
    }

    /// Best tokens a second of a measure.
    pub(crate) fn speed(&self, what: &str) -> Option<f64> {
        self.tokens_per_second.get(what).map(|figure| figure.best)
    }

    /// Fills in cart's advantage over this engine.
    pub(crate) fn compare_with(&mut self, cart: &Self) {
        for (what, figure) in &self.tokens_per_second {
            if let Some(own) = cart.speed(what) {
                self.cart_is_ahead.insert(what.clone(), own / figure.best);
            }
        }
        if let (Some(its), Some(own)) = (&self.first_token_seconds, &cart.first_token_seconds) {
            self.cart_is_ahead.insert("first_token".to_owned(), its.best / own.best);
        }
        if let (Some(its), Some(own)) = (self.peak_bytes, cart.peak_bytes) {
            self.cart_is_ahead.insert("peak_memory".to_owned(), its as f64 / own as f64);
        }
    }

    /// Fills in cart's share of what the machine can do.
    pub(crate) fn compare_with_bound(&mut self, bound: &Bound, size: &Size) {
        let bytes = size.token_bytes as f64 / bound.read_bytes_per_second;
        let operations = 2.0 * size.prompt_products as f64 / bound.int8_operations_per_second;
        let (decode, prefill) = (self.speed("decode"), self.speed("prefill"));
        let mut share = |name: &str, share: f64| self.share_of_bound.insert(name.to_owned(), share);
        if let Some(speed) = decode {
            share("decode_of_bandwidth", speed * bytes);
        }
        if let Some(speed) = prefill {
            share("prefill_of_int8", speed * operations);
        }
        let together = self.speed("many_decode");
        if let (Some(together), Some(alone)) = (together, decode) {
            self.share_of_bound.insert("sessions_over_one".to_owned(), together / alone);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::driver::Measure;
    use super::*;

    fn outcome(speed: f64, first: u64, peak: u64) -> Outcome {
        let measure = Measure { what: "decode".to_owned(), tokens: 100, seconds: 100.0 / speed };
        Outcome {
            engine: Some(("x".to_owned(), "1".to_owned())),
            measures: vec![measure],
            first: Some(Duration::from_millis(first)),
            peak: Some(peak),
        }
    }

    #[test]
    fn ratios_are_of_the_best_and_over_one_where_cart_is_ahead() {
        let (mut cart, mut rival) = (Row::new("cart", 1), Row::new("x", 1));
        for (speed, first) in [(40.0, 200), (50.0, 100), (45.0, 300)] {
            cart.add("short", &outcome(speed, first, 1000));
        }
        rival.add("short", &outcome(25.0, 400, 3000));
        rival.compare_with(&cart);
        let ahead: Vec<_> = rival.cart_is_ahead.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        assert_eq!(ahead, [("decode", 2.0), ("first_token", 4.0), ("peak_memory", 3.0)]);
        assert_eq!(cart.tokens_per_second["decode"].median, 45.0);
        let size = Size { file: 0, token_bytes: 10, prompt_products: 0 };
        let bound =
            Bound { threads: 1, read_bytes_per_second: 1000.0, int8_operations_per_second: 1.0 };
        cart.compare_with_bound(&bound, &size);
        assert_eq!(cart.share_of_bound["decode_of_bandwidth"], 0.5);
        assert!(!cart.share_of_bound.contains_key("prefill_of_int8"));
    }

    #[test]
    fn a_job_that_failed_is_not_tried_again() {
        let mut row = Row::new("x", 1);
        row.add("long", &Outcome::default());
        assert!(row.gave_up("long") && !row.gave_up("short"));
    }
}
