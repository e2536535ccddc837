//! Whether a generation fits beside those that are loaded.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use cart_format::{BlobId, Manifest};
use thiserror::Error;

/// What a generation takes and what there is, in bytes.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "its weights, tokenizer and memory take {} and {} {limit}, while {} are loaded; swap with stop_first, which unloads what runs before (`cart swap --stop-first`), or {}",
    Mebibytes(*needed), Mebibytes(*free), Mebibytes(*loaded), limit.remedy()
)]
pub struct NoRoom {
    /// What it takes.
    pub needed: u64,
    /// What is loaded.
    pub loaded: u64,
    /// What is free.
    pub free: u64,
    /// Who says so.
    pub limit: RoomLimit,
}

/// Who says how much memory there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomLimit {
    /// Whoever started the runtime: so much for all generations together.
    Budget(u64),
    /// The system, or the control group that the process is in.
    System,
}

impl RoomLimit {
    fn remedy(self) -> &'static str {
        match self {
            Self::Budget(_) => "raise the budget",
            Self::System => "free some memory",
        }
    }
}

impl fmt::Display for RoomLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Budget(allowed) => {
                write!(f, "are left of the memory budget of {}", Mebibytes(*allowed))
            }
            Self::System => f.write_str("are available on this system"),
        }
    }
}

/// Bytes as people read them.
struct Mebibytes(u64);

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} MiB", self.0 as f64 / f64::from(1 << 20))
    }
}

/// What a cartridge takes when it is loaded, in bytes: as much as its blobs, of which weights are mapped or packed one to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    whole: u64,
    /// Where its weights and tokenizer are loaded: its memory alone.
    beside: u64,
}

impl Footprint {
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let weights = manifest.model.tensors.values().map(|tensor| tensor.blob);
        let document = manifest.tokenizer.iter().map(|text| text.document);
        let shared: HashSet<BlobId> = weights.chain(document).collect();
        let sizes = shared.iter().filter_map(|blob| manifest.blobs.get(blob)).map(|blob| blob.size);
        let whole = manifest.total_bytes();
        Self { whole, beside: whole - sizes.sum::<u64>() }
    }

    /// * `shares_weights`: whether its weights and tokenizer are loaded
    pub(crate) fn bytes(self, shares_weights: bool) -> u64 {
        if shares_weights { self.beside } else { self.whole }
    }
}

/// Whether so much fits.
///
/// * `loaded`: what is loaded of cartridges
/// * `unloads`: what of that goes before
pub(crate) fn check(
    needed: u64,
    loaded: u64,
    unloads: u64,
    budget: Option<u64>,
) -> Result<(), NoRoom> {
    let refused = |free, limit| NoRoom { needed, loaded, free, limit };
    if let Some(allowed) = budget {
        let free = allowed.saturating_sub(loaded - unloads.min(loaded));
        if needed > free {
            return Err(refused(free, RoomLimit::Budget(allowed)));
        }
    }
    match available() {
        Some(free) if needed > free.saturating_add(unloads) => {
            Err(refused(free, RoomLimit::System))
        }
        _ => Ok(()),
    }
}

/// What the process may still take, where the system tells: the least of what is available and of what is left in each
/// of its control groups.
fn available() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    groups.lines().filter_map(group_left).chain(system).min()
}

/// What is left in a control group and those above it.
///
/// * `line`: `0::/path` of version 2, or `N:memory:/path` of version 1
fn group_left(line: &str) -> Option<u64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
    let (root, most, used, reclaimable) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        "memory" => (
            "/sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
        _ => return None,
    };
    let folder: PathBuf = Path::new(root).join(path);
    let up_to_root = folder.ancestors().take_while(|folder| folder.starts_with(root));
    let left = up_to_root.filter_map(|folder| {
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        // What is used is only asked where there is a limit: the system adds it up anew each time.
        let most = limit(&read(most)?)?;
        left(most, &read(used)?, &read("memory.stat")?, reclaimable)
    });
    left.min()
}

/// A group's limit; none where there is none, which version 1 says by the largest number of whole pages.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|most| *most < 1 << 62)
}

/// What is left of a limit.
fn left(most: u64, used: &str, stat: &str, reclaimable: &str) -> Option<u64> {
    let used: u64 = used.trim().parse().ok()?;
    let cached = stat.lines().find_map(|line| line.strip_prefix(reclaimable)?.trim().parse().ok());
    Some(most.saturating_sub(used.saturating_sub(cached.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_left_what_is_not_used_or_can_be_had_back() {
        let stat = "anon 600\ninactive_file 150\nactive_file 50\n";
        assert_eq!(left(1000, "700\n", stat, "inactive_file"), Some(450));
        assert_eq!(left(1000, "1200", stat, "inactive_file"), Some(0));
        let limits = ["1000\n", "max\n", "9223372036854771712\n"].map(limit);
        assert_eq!(limits, [Some(1000), None, None]);
    }

    #[test]
    fn a_budget_is_for_all_and_what_is_unloaded_counts_as_free() {
        assert_eq!(check(40, 60, 0, Some(100)), Ok(()));
        let refused = check(41, 60, 0, Some(100)).unwrap_err();
        assert_eq!((refused.free, refused.limit), (40, RoomLimit::Budget(100)));
        assert_eq!(check(100, 60, 60, Some(100)), Ok(()));
        assert!(check(101, 60, 60, Some(100)).is_err());
        assert_eq!(check(1, 0, 0, None), Ok(()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn more_than_the_system_has_does_not_fit() {
        let refused = check(u64::MAX / 2, 0, 0, None).unwrap_err();
        assert_eq!(refused.limit, RoomLimit::System);
        assert!(refused.free > 0 && refused.to_string().contains("available on this system"));
    }
}
