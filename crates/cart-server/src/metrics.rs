//! Numbers for an operator, as Prometheus reads them.

mod process;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cart_engine::long_term::LongTermState;
use cart_engine::runtime::{RuntimeState, WatchState};

use crate::keys::KeyName;
use crate::models::{Listed, Models};

/// Upper bounds in seconds of the buckets for waiting times.
const WAIT_BOUNDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Upper bounds in seconds of the buckets for the pause of a swap.
const PAUSE_BOUNDS: [f64; 10] =
    [0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_5, 0.001, 0.01, 0.1, 1.0];

/// Counters and histograms of the server. Gauges come from the runtime's state.
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(String, u16), u64>>,
    swaps: Mutex<BTreeMap<&'static str, u64>>,
    keys: Mutex<BTreeMap<KeyName, Used>>,
    sessions_saved: AtomicU64,
    sessions_failed: AtomicU64,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
    first_token: Histogram,
    per_token: Histogram,
    pause: Histogram,
}

/// What the holder of a key has used.
#[derive(Clone, Copy, Default)]
struct Used {
    requests: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// Counts of durations by upper bound.
struct Histogram {
    bounds: &'static [f64],
    /// One more than there are bounds: the last is for what is over all of them.
    counts: Vec<AtomicU64>,
    sum_nanos: AtomicU64,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            requests: Mutex::default(),
            swaps: Mutex::default(),
            keys: Mutex::default(),
            sessions_saved: AtomicU64::new(0),
            sessions_failed: AtomicU64::new(0),
            prompt_tokens: AtomicU64::new(0),
            completion_tokens: AtomicU64::new(0),
            first_token: Histogram::new(&WAIT_BOUNDS),
            per_token: Histogram::new(&WAIT_BOUNDS),
            pause: Histogram::new(&PAUSE_BOUNDS),
        }
    }

    /// A request was answered. `route` is the pattern of the route, so that the number of series
    /// does not depend on clients.
    pub(crate) fn answered(&self, route: &str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route.to_owned(), status)).or_default() += 1;
    }

    /// A swap or a rollback ended.
    pub(crate) fn swapped(&self, outcome: &'static str, pause: Option<Duration>) {
        let mut swaps = self.swaps.lock().unwrap_or_else(PoisonError::into_inner);
        *swaps.entry(outcome).or_default() += 1;
        if let Some(pause) = pause {
            self.pause.observe(pause);
        }
    }

    /// The holder of a key used something; nothing is counted where there are no keys.
    pub(crate) fn used(&self, holder: Option<&KeyName>, requests: u64, prompt: u64, written: u64) {
        let Some(holder) = holder else { return };
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let used = keys.entry(holder.clone()).or_default();
        used.requests += requests;
        used.prompt_tokens += prompt;
        used.completion_tokens += written;
    }

    /// What was remembered in an answer was saved, or not.
    pub(crate) fn session_saved(&self, saved: bool) {
        let counter = if saved { &self.sessions_saved } else { &self.sessions_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn prompt(&self, tokens: usize) {
        self.prompt_tokens.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    /// A token came, so long after the request or after the token before.
    pub(crate) fn token(&self, first: bool, waited: Duration) {
        self.completion_tokens.fetch_add(1, Ordering::Relaxed);
        if first { self.first_token.observe(waited) } else { self.per_token.observe(waited) }
    }

    /// All of it, in the text format of Prometheus.
    ///
    /// * `state`: of the first cartridge
    pub(crate) fn render(&self, state: &RuntimeState, models: &Models) -> String {
        let mut text = String::new();
        self.render_requests(&mut text);
        self.render_tokens(&mut text);
        self.render_keys(&mut text);
        self.render_swaps(&mut text);
        render_gauges(&mut text, state);
        render_models(&mut text, models);
        process::render(&mut text);
        if let Some(long_term) = &state.long_term {
            render_long_term(&mut text, long_term);
        }
        self.first_token.render(
            &mut text,
            "cart_time_to_first_token_seconds",
            "From the request to its first token.",
        );
        self.per_token.render(
            &mut text,
            "cart_time_per_token_seconds",
            "Between two tokens of a stream.",
        );
        self.pause.render(
            &mut text,
            "cart_swap_pause_seconds",
            "How long the token loop stood still for a swap.",
        );
        text
    }

    fn render_requests(&self, text: &mut String) {
        head(text, "cart_requests_total", "counter", "Requests answered, by route and status.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((route, status), count) in requests.iter() {
            let labels = format!("{{route=\"{route}\",status=\"{status}\"}}");
            line(text, "cart_requests_total", &labels, *count);
        }
    }

    fn render_tokens(&self, text: &mut String) {
        head(text, "cart_tokens_total", "counter", "Tokens read and generated.");
        let prompt = self.prompt_tokens.load(Ordering::Relaxed);
        let completion = self.completion_tokens.load(Ordering::Relaxed);
        line(text, "cart_tokens_total", "{kind=\"prompt\"}", prompt);
        line(text, "cart_tokens_total", "{kind=\"completion\"}", completion);
    }

    /// Nothing where nobody has used a key.
    fn render_keys(&self, text: &mut String) {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.is_empty() {
            return;
        }
        head(text, "cart_key_requests_total", "counter", "Requests with a key, by its name.");
        for (name, used) in keys.iter() {
            let labels = format!("{{key=\"{}\"}}", name.as_str());
            line(text, "cart_key_requests_total", &labels, used.requests);
        }
        head(text, "cart_key_tokens_total", "counter", "Tokens read and generated, by key.");
        for (name, used) in keys.iter() {
            let kinds = [("prompt", used.prompt_tokens), ("completion", used.completion_tokens)];
            for (kind, count) in kinds {
                let labels = format!("{{key=\"{}\",kind=\"{kind}\"}}", name.as_str());
                line(text, "cart_key_tokens_total", &labels, count);
            }
        }
    }

    fn render_swaps(&self, text: &mut String) {
        let name = "cart_session_saves_total";
        head(text, name, "counter", "Answers whose memory was saved, by outcome.");
        let saved = self.sessions_saved.load(Ordering::Relaxed);
        let failed = self.sessions_failed.load(Ordering::Relaxed);
        line(text, name, "{outcome=\"saved\"}", saved);
        line(text, name, "{outcome=\"failed\"}", failed);
        head(text, "cart_swaps_total", "counter", "Swaps, by outcome.");
        let swaps = self.swaps.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in ["done", "refused", "rolled_back"] {
            let count = swaps.get(outcome).copied().unwrap_or(0);
            line(text, "cart_swaps_total", &format!("{{outcome=\"{outcome}\"}}"), count);
        }
    }
}

fn render_long_term(text: &mut String, state: &LongTermState) {
    let gauges = [
        ("reachable", "Whether the shared long-term memory answers.", u64::from(state.reachable)),
        ("pending", "Offers that wait for their commit.", state.pending),
        ("entries", "Entries in the snapshot that is read.", state.entries as u64),
        ("conversations", "Conversations that are open.", state.conversations as u64),
        (
            "conversation_bytes",
            "Bytes of the short-term memories of open conversations.",
            state.conversation_bytes as u64,
        ),
    ];
    for (name, help, value) in gauges {
        let name = format!("cart_long_term_{name}");
        head(text, &name, "gauge", help);
        line(text, &name, "", value);
    }
    let name = "cart_long_term_offers_total";
    head(text, name, "counter", "Offers that were settled, by outcome.");
    let outcomes =
        [("taken", state.taken), ("outranked", state.outranked), ("refused", state.refused)];
    for (outcome, count) in outcomes {
        line(text, name, &format!("{{outcome=\"{outcome}\"}}"), count);
    }
    head(text, "cart_long_term_retries_total", "counter", "Commits that were tried again.");
    line(text, "cart_long_term_retries_total", "", state.retries);
}

fn render_gauges(text: &mut String, state: &RuntimeState) {
    let gauge = |text: &mut String, name, help, value: u64| {
        head(text, name, "gauge", help);
        line(text, name, "", value);
    };
    gauge(text, "cart_streams_active", "Streams being generated.", state.streams as u64);
    gauge(text, "cart_queue_length", "Requests that wait for a place.", state.queued as u64);
    gauge(text, "cart_generation", "Number of the active generation.", state.active.generation);
    head(text, "cart_streams_total", "counter", "Streams that ended, by outcome.");
    let ended = &state.ended;
    for (outcome, count) in
        [("finished", ended.finished), ("cancelled", ended.cancelled), ("failed", ended.failed)]
    {
        line(text, "cart_streams_total", &format!("{{outcome=\"{outcome}\"}}"), count);
    }
    render_watch(text, &state.watch);
    render_states(text, state);
    head(text, "cart_memory_slots", "gauge", "Slots in use, by store.");
    if let Some(memory) = &state.memory {
        for (store, report) in [("stm", &memory.stm), ("ltm", &memory.ltm)] {
            let labels = format!("{{store=\"{store}\"}}");
            line(text, "cart_memory_slots", &labels, report.slots as u64);
        }
    }
}

/// The cartridges that are loaded, and what they take.
fn render_models(text: &mut String, models: &Models) {
    let listed = models.list();
    let label = |listed: &Listed| format!("{{model=\"{}\"}}", escaped(&listed.name));
    let name = "cart_model_loaded";
    head(text, name, "gauge", "Whether a cartridge is loaded, or was unloaded.");
    for one in &listed {
        line(text, name, &label(one), u64::from(one.state.is_some()));
    }
    let name = "cart_model_streams";
    head(text, name, "gauge", "Streams being generated, by cartridge.");
    for (one, state) in listed.iter().filter_map(|one| Some((one, one.state.as_ref()?))) {
        line(text, name, &label(one), state.streams as u64);
    }
    let moves = models.moves();
    for (name, kind, help, value) in [
        ("cart_models_loaded_total", "counter", "Cartridges loaded for a request.", moves.loaded),
        ("cart_models_unloaded_total", "counter", "Cartridges unloaded.", moves.unloaded),
        ("cart_loaded_bytes", "gauge", "Bytes of the loaded cartridges.", models.taken()),
    ] {
        head(text, name, kind, help);
        line(text, name, "", value);
    }
}

/// A label's value as Prometheus reads it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What the watch over new cartridges has seen and done.
fn render_watch(text: &mut String, watch: &WatchState) {
    head(text, "cart_watched", "gauge", "Whether the active generation is watched.");
    line(text, "cart_watched", "", u64::from(watch.watching.is_some()));
    let name = "cart_watch_rollbacks_total";
    head(text, name, "counter", "Generations that were left by themselves, by why.");
    let trips = &watch.trips;
    for (reason, count) in [
        ("not_finite", trips.not_finite),
        ("collapsed", trips.collapsed),
        ("drifted", trips.drifted),
    ] {
        line(text, name, &format!("{{reason=\"{reason}\"}}"), count);
    }
    let last = watch.last_rollback.as_ref().filter(|last| last.trip.is_some());
    if let Some(recover_ms) = last.and_then(|last| last.recover_ms) {
        let name = "cart_watch_recovery_seconds";
        head(text, name, "gauge", "How long the last of these took, to its streams' next tokens.");
        writeln!(text, "{name} {}", recover_ms / 1e3).expect("a String takes everything");
    }
}

/// What is kept of texts that were read: the cache of prompts, and the cartridge's saved session.
fn render_states(text: &mut String, state: &RuntimeState) {
    let cache = &state.prefix_cache;
    let name = "cart_prefix_cache_lookups_total";
    head(text, name, "counter", "Prompts looked up in the cache of the active generation.");
    line(text, name, "{outcome=\"hit\"}", cache.hits);
    line(text, name, "{outcome=\"miss\"}", cache.misses);
    let name = "cart_span_cache_lookups_total";
    head(text, name, "counter", "Recalled spans looked up in the cache of the active generation.");
    line(text, name, "{outcome=\"hit\"}", cache.span_hits);
    line(text, name, "{outcome=\"miss\"}", cache.span_misses);
    let session = state.session.as_ref();
    for (name, kind, help, value) in [
        ("cart_prefix_cache_tokens_total", "counter", "Tokens not read again.", cache.tokens),
        (
            "cart_prefix_cache_entries",
            "gauge",
            "Prompts and recalled spans that are kept.",
            cache.entries as u64,
        ),
        ("cart_prefix_cache_bytes", "gauge", "Bytes that they take.", cache.bytes as u64),
        (
            "cart_saved_session_positions",
            "gauge",
            "Positions of the session in the active cartridge.",
            session.map_or(0, |session| session.positions),
        ),
        (
            "cart_saved_session_bytes",
            "gauge",
            "Bytes of the session in the active cartridge.",
            session.map_or(0, |session| session.bytes),
        ),
    ] {
        head(text, name, kind, help);
        line(text, name, "", value);
    }
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_nanos: AtomicU64::new(0) }
    }

    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    fn render(&self, text: &mut String, name: &str, help: &str) {
        head(text, name, "histogram", help);
        let mut below = 0;
        for (bound, count) in self.bounds.iter().zip(&self.counts) {
            below += count.load(Ordering::Relaxed);
            line(text, &format!("{name}_bucket"), &format!("{{le=\"{bound}\"}}"), below);
        }
        let all = below + self.counts[self.bounds.len()].load(Ordering::Relaxed);
        line(text, &format!("{name}_bucket"), "{le=\"+Inf\"}", all);
        let sum = Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64();
        writeln!(text, "{name}_sum {sum}").expect("a String takes everything");
        line(text, &format!("{name}_count"), "", all);
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
        .expect("a String takes everything");
}

fn line(text: &mut String, name: &str, labels: &str, value: u64) {
    writeln!(text, "{name}{labels} {value}").expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_each_duration_under_every_bound_that_holds_it() {
        let histogram = Histogram::new(&WAIT_BOUNDS);
        for millis in [1, 3, 700, 60_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut text = String::new();
        histogram.render(&mut text, "t", "h");
        for wanted in [
            "t_bucket{le=\"0.001\"} 1\n",
            "t_bucket{le=\"0.005\"} 2\n",
            "t_bucket{le=\"1\"} 3\n",
            "t_bucket{le=\"10\"} 3\n",
            "t_bucket{le=\"+Inf\"} 4\n",
            "t_sum 60.704\n",
            "t_count 4\n",
        ] {
            assert!(text.contains(wanted), "{wanted} in\n{text}");
        }
    }
}
