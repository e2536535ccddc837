//! How `cart serve` watches what a swap has put in place.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cart_engine::runtime::{CollapseOptions, RuntimeOptions, WatchOptions};
use cart_server::{RequestLog, WatchLog};
use cart_store::Store;
use clap::Args;

use crate::failure::Failure;

/// How long the cartridge before stays, and when it comes back by itself.
#[derive(Args)]
#[command(next_help_heading = "After a swap")]
pub(crate) struct WatchArgs {
    /// Seconds for which the cartridge before stays loaded, to be rolled back to
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0)]
    rollback_window: f64,
    /// Of these, seconds for which the new one is watched and left again by itself where its logits are no numbers, its
    /// output collapses or its probes move; 0 for not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0)]
    watch_seconds: f64,
    /// Seconds between two runs of its golden probes meanwhile; where it has none, of a few texts as it answered them first
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    watch_probes: f64,
    /// Streams whose output has to collapse, and at least half of those that were looked at
    #[arg(long, value_name = "N", default_value = "3")]
    collapse_streams: NonZeroUsize,
    /// Tokens in a row over which an output is judged
    #[arg(long, value_name = "N", default_value = "64")]
    collapse_tokens: NonZeroUsize,
    /// Mean entropy up to which it has collapsed, in nats, if it repeats itself too
    #[arg(long, value_name = "NATS", default_value_t = 0.1)]
    collapse_entropy: f64,
    /// Share of different ones among runs of three tokens up to which it repeats itself
    #[arg(long, value_name = "SHARE", default_value_t = 0.25)]
    collapse_distinct: f64,
    /// Share of different tokens up to which it has collapsed, whatever the entropy
    #[arg(long, value_name = "SHARE", default_value_t = 0.0625)]
    collapse_few: f64,
}

impl WatchArgs {
    /// The runtime's options with these.
    pub(crate) fn applied_to(
        &self,
        store: &Store,
        log: RequestLog,
        options: RuntimeOptions,
    ) -> Result<RuntimeOptions, Failure> {
        let collapse = CollapseOptions {
            tokens: self.collapse_tokens,
            entropy: within("--collapse-entropy", self.collapse_entropy, 20.0)?,
            distinct: within("--collapse-distinct", self.collapse_distinct, 1.0)?,
            few: within("--collapse-few", self.collapse_few, 1.0)?,
            streams: self.collapse_streams,
        };
        let probes_every = seconds("--watch-probes", self.watch_probes)?;
        if probes_every.is_zero() {
            return Err(Failure::arguments("--watch-probes is 0; allowed: more than 0 seconds"));
        }
        let window = seconds("--watch-seconds", self.watch_seconds)?;
        Ok(RuntimeOptions {
            rollback_window: seconds("--rollback-window", self.rollback_window)?,
            watch: WatchOptions { window, probes_every, collapse },
            listener: Some(Arc::new(WatchLog(log))),
            journal: Some(beside(store, ".journal")),
            ..options
        })
    }
}

/// A folder beside the store, of its name and an ending.
pub(super) fn beside(store: &Store, ending: &str) -> PathBuf {
    let mut name = store.root().as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

pub(super) fn seconds(option: &str, found: f64) -> Result<Duration, Failure> {
    const MOST: f64 = 1e6;
    within(option, found, MOST).map(Duration::from_secs_f64)
}

fn within(option: &str, found: f64, most: f64) -> Result<f64, Failure> {
    if (0.0..=most).contains(&found) {
        return Ok(found);
    }
    Err(Failure::arguments(format!("{option} is {found}; allowed: 0 to {most}")))
}
