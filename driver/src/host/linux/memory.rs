//! Memory of this process, as far as glibc's allocator keeps it. With another C library nothing is done.

/// Arenas of a process that copies. Each keeps up to 3 MiB at its end that nothing gives back once chunks of 1 MiB were
/// freed in it, and by default there may be eight for each processor.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 4;

/// At the start of a process with many threads that copy, before they begin.
pub fn keep_few_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer. That it may refuse changes nothing but how much memory is kept.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Gives memory that is free back to the kernel: after a copy between hosts that is as much as all of its buffers. Takes milliseconds, during which allocations of
/// other threads may wait; so never while something is held.
pub fn give_back_what_is_free() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
