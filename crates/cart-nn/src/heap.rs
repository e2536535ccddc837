//! What the process does with memory that it no longer needs.

/// Gives memory that was freed back to the system, as far as whole pages of it are free.
///
/// The C library keeps what lies between numbers that are still in use, so a process that serves for long, and whose
/// requests are of all sizes, would stay as large as its busiest moment. This takes milliseconds; what is asked for
/// next is cleared by the system again.
///
/// Elsewhere than with the GNU C library this does nothing.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it changes nothing but what is free, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Has the process keep what it frees, up to two gigabytes, for what it asks for next.
///
/// A training step makes and drops the same large tensors over and over. The C library gives each back
/// to the system and asks for it again, which clears it: a third of the time of a small model's step.
/// Not for a process that serves: it would stay as large as it ever was.
///
/// Elsewhere than with the GNU C library this does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const GIGABYTE: i32 = 1 << 30;
        // SAFETY: these set numbers of the allocator, which it reads under its own locks.
        unsafe {
            if libc::mallopt(libc::M_MMAP_THRESHOLD, GIGABYTE) == 0 {
                // Older ones allow 32 MiB at most, but no maps at all.
                libc::mallopt(libc::M_MMAP_MAX, 0);
            }
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            libc::mallopt(libc::M_TOP_PAD, GIGABYTE / 4);
        }
    }
}
