//! Page-aligned buffers from a pool of bounded size. The memory of one pool is one mapping cut into
//! equal slots, so that it can be registered with io_uring once, as one fixed buffer.
//!
//! Invariant: a [`Buffer`] owns its slot. Only its drop gives the slot back, so whoever hands memory
//! to the kernel keeps the `Buffer` until the completion arrives.

#![allow(unsafe_code)]

use parking_lot::{Condvar, Mutex};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Slots of one size cut from one anonymous mapping.
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    mapping: Mapping,
    slot_bytes: usize,
    slots: usize,
    free: Mutex<Vec<u32>>,
    returned: Condvar,
}

struct Mapping {
    address: *mut u8,
    length_bytes: usize,
}

// SAFETY: the mapping is plain memory; access to its slots is handed out once each by the free list.
unsafe impl Send for Mapping {}
// SAFETY: as above, shared references give out addresses only, bytes are reached through owned slots.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: address and length are those mmap returned, and every Buffer holds the Arc, so no
        // slot is in use.
        unsafe {
            libc::munmap(self.address.cast(), self.length_bytes);
        }
    }
}

impl BufferPool {
    /// Maps `slots` slots of `slot_bytes` (a multiple of the page size). `huge_pages` asks for
    /// transparent huge pages; without them it works the same. ENOMEM as an error.
    pub fn new(slots: usize, slot_bytes: usize, huge_pages: bool) -> std::io::Result<Self> {
        let length_bytes = slots * slot_bytes;
        // SAFETY: a fresh anonymous private mapping, no existing memory is touched.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        if huge_pages {
            // SAFETY: the range was mapped just above; the advice changes no contents.
            unsafe {
                libc::madvise(address, length_bytes, libc::MADV_HUGEPAGE);
            }
        }
        let mapping = Mapping {
            address: address.cast(),
            length_bytes,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                mapping,
                slot_bytes,
                slots,
                free: Mutex::new((0..slots as u32).rev().collect()),
                returned: Condvar::new(),
            }),
        })
    }

    pub fn slot_bytes(&self) -> usize {
        self.shared.slot_bytes
    }

    /// The whole mapping, for registration as one fixed buffer: address and length.
    pub fn region(&self) -> (*mut u8, usize) {
        (
            self.shared.mapping.address,
            self.shared.mapping.length_bytes,
        )
    }

    /// Whether the kernel gives huge pages for this pool, tried by touching the first of them. Both outcomes
    /// are sentences for the operator. Source: proc(5), smaps; madvise(2).
    pub fn huge_pages(&self) -> Result<String, String> {
        const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;
        let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
            .map_err(|error| format!("this kernel has no transparent huge pages: {error}"))?;
        if setting.contains("[never]") {
            return Err("transparent huge pages are off (transparent_hugepage/enabled)".to_owned());
        }
        let (address, length_bytes) = self.region();
        let first = (address as usize).next_multiple_of(HUGE_PAGE_BYTES);
        if first + HUGE_PAGE_BYTES > address as usize + length_bytes {
            return Err("the buffers are smaller than a huge page".to_owned());
        }
        // SAFETY: the range lies inside the mapping; populating it changes no contents.
        unsafe {
            libc::madvise(
                first as *mut libc::c_void,
                HUGE_PAGE_BYTES,
                libc::MADV_POPULATE_WRITE,
            );
        }
        let smaps = std::fs::read_to_string("/proc/thread-self/smaps")
            .or_else(|_| std::fs::read_to_string("/proc/self/smaps"))
            .map_err(|error| format!("cannot be told: /proc/self/smaps: {error}"))?;
        if huge_bytes_of(&smaps, first) > 0 {
            Ok("transparent huge pages back the large buffers".to_owned())
        } else {
            Err("the kernel gave none; memory may be fragmented".to_owned())
        }
    }

    /// Slots not handed out now.
    pub fn free_slots(&self) -> usize {
        self.shared.free.lock().len()
    }

    pub fn slots(&self) -> usize {
        self.shared.slots
    }

    /// A buffer if one is free.
    pub fn try_take(&self) -> Option<Buffer> {
        let slot = self.shared.free.lock().pop()?;
        Some(self.buffer(slot))
    }

    /// A buffer, waiting at most `timeout` for one to come back.
    pub fn take(&self, timeout: std::time::Duration) -> Option<Buffer> {
        let deadline = std::time::Instant::now() + timeout;
        let mut free = self.shared.free.lock();
        loop {
            if let Some(slot) = free.pop() {
                drop(free);
                return Some(self.buffer(slot));
            }
            if self
                .shared
                .returned
                .wait_until(&mut free, deadline)
                .timed_out()
            {
                return None;
            }
        }
    }

    fn buffer(&self, slot: u32) -> Buffer {
        Buffer {
            memory: Memory::Slot {
                pool: self.shared.clone(),
                slot,
            },
        }
    }
}

/// Exclusive use of one slot, or of memory of its own where no pool had one left. Dereferences to its
/// bytes, whose contents are whatever was there before.
pub struct Buffer {
    memory: Memory,
}

enum Memory {
    Slot { pool: Arc<Shared>, slot: u32 },
    Heap(Vec<u8>),
}

impl Buffer {
    /// A buffer outside every pool: not aligned, not registered, zeroed.
    pub fn unpooled(length_bytes: usize) -> Self {
        Self {
            memory: Memory::Heap(vec![0; length_bytes]),
        }
    }

    /// Whether the memory lies in `pool`'s registered region.
    pub fn belongs_to(&self, pool: &BufferPool) -> bool {
        match &self.memory {
            Memory::Slot { pool: own, .. } => Arc::ptr_eq(own, &pool.shared),
            Memory::Heap(_) => false,
        }
    }

    /// Page-aligned, so that O_DIRECT accepts it.
    pub fn is_aligned(&self) -> bool {
        matches!(self.memory, Memory::Slot { .. })
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.memory {
            // SAFETY: the slot lies inside the mapping, which the Arc keeps, and is ours alone.
            Memory::Slot { pool, slot } => unsafe {
                std::slice::from_raw_parts(
                    pool.mapping.address.add(*slot as usize * pool.slot_bytes),
                    pool.slot_bytes,
                )
            },
            Memory::Heap(bytes) => bytes,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            // SAFETY: as in deref; `&mut self` makes the access exclusive.
            Memory::Slot { pool, slot } => unsafe {
                std::slice::from_raw_parts_mut(
                    pool.mapping.address.add(*slot as usize * pool.slot_bytes),
                    pool.slot_bytes,
                )
            },
            Memory::Heap(bytes) => bytes,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Memory::Slot { pool, slot } = &self.memory {
            pool.free.lock().push(*slot);
            pool.returned.notify_one();
        }
    }
}

/// The huge pages, in bytes, of the mapping around `address` in the text of smaps.
fn huge_bytes_of(smaps: &str, address: usize) -> u64 {
    let mut inside = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-') {
            let bound = |text| usize::from_str_radix(text, 16).unwrap_or(0);
            inside = (bound(start)..bound(end)).contains(&address);
        } else if inside && first == "AnonHugePages:" {
            let kib: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            return kib * 1024;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_slot_is_given_out_once_and_comes_back() {
        let pool = BufferPool::new(2, 8192, false).unwrap();
        let mut first = pool.try_take().unwrap();
        let mut second = pool.try_take().unwrap();
        first.fill(1);
        second.fill(2);
        assert!(first.iter().all(|byte| *byte == 1));
        assert_eq!(first.as_ptr() as usize % 4096, 0);
        assert!(pool.try_take().is_none());
        assert!(pool.take(Duration::from_millis(5)).is_none());
        drop(first);
        assert!(pool.try_take().is_some());
        drop(second);
        assert_eq!(pool.free_slots(), 2);
    }

    #[test]
    fn a_buffer_outlives_its_pool() {
        let pool = BufferPool::new(1, 4096, false).unwrap();
        let mut buffer = pool.try_take().unwrap();
        drop(pool);
        buffer.fill(7);
        assert_eq!(buffer[4095], 7);
    }
}
