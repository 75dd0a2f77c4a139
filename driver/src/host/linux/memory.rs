//! Memory of this process.

/// Gives memory that is free back to the kernel. glibc keeps what many threads have freed, as each has an arena of its
/// own: after a copy between hosts that is as much as all of its buffers. Takes milliseconds, during which allocations of
/// other threads may wait; so never while something is held.
pub fn give_back_what_is_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
