//! What the process itself takes, under the names that Prometheus' client libraries give it.

use super::{head, line};

/// Nothing where the system does not say.
pub(super) fn render(text: &mut String) {
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory, mapped files included.", resident()),
        ("process_open_fds", "Open file descriptors.", open_files()),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            head(text, name, "gauge", help);
            line(text, name, "", value);
        }
    }
}

#[cfg(target_os = "linux")]
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(target_os = "linux")]
fn open_files() -> Option<u64> {
    // One of them is the folder that is being read.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64 - 1)
}

#[cfg(not(target_os = "linux"))]
fn resident() -> Option<u64> {
    None
}

#[cfg(not(target_os = "linux"))]
fn open_files() -> Option<u64> {
    None
}
