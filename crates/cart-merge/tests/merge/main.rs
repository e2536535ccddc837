//! Merges of small tensors in memory, and differences between them.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod agents;
mod differences;
mod memories;
mod oracle;
mod plans;
mod randomness;

use cart_merge::weights::MergeConfig;

/// Reads a configuration in YAML.
fn config(yaml: &str) -> MergeConfig {
    MergeConfig::from_yaml(yaml).unwrap()
}
