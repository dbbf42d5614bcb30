//! The heap of the C library: how many arenas it spreads over, and what it keeps that nobody uses.
//!
//! glibc makes eight arenas per processor. With many threads each arena has gaps as large as the busiest moment left
//! them, so a daemon of many threads holds several times what it uses.

#![allow(unsafe_code)]

/// Confines the heap to `count` arenas; called before threads start. No effect on other C libraries.
pub fn limit_arenas(count: u16) {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and changes only settings of the allocator; M_ARENA_MAX with a positive
    // value is valid (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, count.into());
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
}

/// Heap bytes that are free and still held; 0 where that cannot be told. Takes each arena's lock for a moment.
fn free_heap_bytes() -> usize {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallinfo2 only reads the allocator's figures, under its locks (mallinfo(3)).
        unsafe { libc::mallinfo2().fordblks }
    }
    #[cfg(not(target_env = "gnu"))]
    0
}

/// Gives whole free pages back to the kernel, milliseconds for a heap of a hundred megabytes.
fn give_back_free_pages() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim touches free memory only, under the allocator's locks (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Decides when giving pages back is worth the walk over the heap.
#[derive(Debug, Default)]
pub struct HeapKeeper {
    left_bytes: usize,
}

impl HeapKeeper {
    /// Free memory beyond what could not be given back last time.
    const WORTH_BYTES: usize = 4 << 20;

    /// Called now and then.
    pub fn tend(&mut self) {
        let free_bytes = free_heap_bytes();
        self.left_bytes = self.left_bytes.min(free_bytes);
        if free_bytes - self.left_bytes < Self::WORTH_BYTES {
            return;
        }
        give_back_free_pages();
        // fordblks counts pages given back too: what is free now is not worth another walk.
        self.left_bytes = free_heap_bytes();
    }
}
