//! How much memory the process has taken.

/// The largest resident set that this process has had, in bytes, where the system tells.
pub(crate) fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_process_has_taken_at_least_its_own_buffer() {
        let buffer = vec![1_u8; 8 << 20];
        assert!(super::peak_rss().unwrap() >= buffer.len() as u64);
    }
}
