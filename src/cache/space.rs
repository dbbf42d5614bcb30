//! How many bytes the cache may hold and how many it holds, what is in flight included.
//!
//! Invariants: `used + reserved <= limit` at every instant; a fill reserves before its first byte; what is reserved
//! is within what the disk was last seen to have room for.

use super::watermarks::{HeldMarks, percent_of};
use parking_lot::Mutex;

/// The space of one cache directory.
#[derive(Debug, Default)]
pub struct Space {
    counts: Mutex<Counts>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    limit_bytes: u64,
    used_bytes: u64,
    reserved_bytes: u64,
    /// Of those in use, what is about to leave the disk.
    leaving_bytes: u64,
    room_bytes: u64,
    marks: Option<HeldMarks>,
    /// Something found no room since eviction was last begun.
    was_refused: bool,
}

impl Space {
    /// Nothing fits until [`Space::set_limit`] and [`Space::set_room`].
    pub fn new() -> Self {
        Self::default()
    }

    /// What the disk has room for, as it is now; what is reserved may come to be written yet.
    pub fn set_room(&self, room_bytes: u64) {
        let mut counts = self.counts.lock();
        counts.room_bytes = room_bytes.saturating_sub(counts.reserved_bytes);
    }

    pub(super) fn set_watermarks(&self, marks: Option<HeldMarks>) {
        self.counts.lock().marks = marks;
    }

    pub fn set_limit(&self, limit_bytes: u64) {
        self.counts.lock().limit_bytes = limit_bytes;
    }

    /// Sets what is on the disk already, as start-up finds it; may be over the limit.
    pub fn set_used(&self, used_bytes: u64) {
        self.counts.lock().used_bytes = used_bytes;
    }

    /// Sets bytes aside for a fill; false when the limit would be passed, or the disk has no room.
    pub fn reserve(&self, bytes: u64) -> bool {
        let mut counts = self.counts.lock();
        let held_bytes = counts.used_bytes + counts.reserved_bytes;
        if held_bytes + bytes > counts.limit_bytes {
            counts.was_refused = true;
            return false;
        }
        if bytes > counts.room_bytes {
            return false;
        }
        counts.reserved_bytes += bytes;
        counts.room_bytes -= bytes;
        true
    }

    /// The fill landed: reserved bytes become used ones.
    pub fn commit(&self, bytes: u64) {
        let mut counts = self.counts.lock();
        counts.reserved_bytes = counts.reserved_bytes.saturating_sub(bytes);
        counts.used_bytes += bytes;
    }

    /// Bytes on the disk that nobody reserved, and nobody could refuse.
    pub(super) fn grow(&self, bytes: u64) {
        self.counts.lock().used_bytes += bytes;
    }

    /// The fill did not happen.
    pub fn cancel(&self, bytes: u64) {
        let mut counts = self.counts.lock();
        counts.reserved_bytes = counts.reserved_bytes.saturating_sub(bytes);
    }

    /// The fill did not begin.
    pub(super) fn give_back(&self, bytes: u64) {
        let mut counts = self.counts.lock();
        counts.reserved_bytes = counts.reserved_bytes.saturating_sub(bytes);
        counts.room_bytes = counts.room_bytes.saturating_add(bytes);
    }

    /// Bytes that left the disk.
    pub fn release(&self, bytes: u64) {
        let mut counts = self.counts.lock();
        counts.used_bytes = counts.used_bytes.saturating_sub(bytes);
    }

    /// Bytes that are to leave the disk soon: no reason to evict more, and no room yet.
    pub(super) fn begin_release(&self, bytes: u64) {
        self.counts.lock().leaving_bytes += bytes;
    }

    /// They have left it, or they stay.
    pub(super) fn end_release(&self, bytes: u64, have_left: bool) {
        self.counts.lock().leaving_bytes -= bytes;
        if have_left {
            self.release(bytes);
        }
    }

    pub fn used_bytes(&self) -> u64 {
        self.counts.lock().used_bytes
    }

    pub fn limit_bytes(&self) -> u64 {
        self.counts.lock().limit_bytes
    }

    /// Bytes over the high watermark: reclaim starts when there are any. Reservations count.
    pub fn excess_over_high(&self) -> u64 {
        let counts = *self.counts.lock();
        counts.excess_over(counts.high_bytes())
    }

    /// Bytes over the low watermark: what reclaim frees once it has started.
    pub fn excess_over_low(&self) -> u64 {
        let counts = *self.counts.lock();
        counts.excess_over(counts.low_bytes())
    }

    /// What eviction ends at.
    pub(super) fn low_bytes(&self) -> u64 {
        self.counts.lock().low_bytes()
    }

    /// Whether so much more is within the limit.
    pub(super) fn has_place_for(&self, bytes: u64) -> bool {
        let counts = *self.counts.lock();
        counts.used_bytes + counts.reserved_bytes + bytes <= counts.limit_bytes
    }

    /// Whether the disk has room for so much more.
    pub(super) fn has_disk_for(&self, bytes: u64) -> bool {
        bytes <= self.counts.lock().room_bytes
    }

    /// Whether eviction is to begin.
    pub fn wants_room(&self) -> bool {
        let was_refused = std::mem::take(&mut self.counts.lock().was_refused);
        was_refused || self.excess_over_high() > 0
    }
}

impl Counts {
    /// A twentieth of the limit, and room for what is in flight where the cache is not tiny.
    fn headroom(&self) -> u64 {
        (self.limit_bytes / 20).max((16 << 20).min(self.limit_bytes / 8))
    }

    fn high_bytes(&self) -> u64 {
        match self.marks {
            Some(marks) => percent_of(self.limit_bytes, marks.high_percent),
            None => self.limit_bytes - self.headroom(),
        }
    }

    fn low_bytes(&self) -> u64 {
        match self.marks {
            Some(marks) => percent_of(self.limit_bytes, marks.low_percent),
            None => self.limit_bytes - 2 * self.headroom(),
        }
    }

    fn excess_over(&self, mark_bytes: u64) -> u64 {
        let held_bytes = self.used_bytes + self.reserved_bytes;
        held_bytes.saturating_sub(mark_bytes + self.leaving_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Space {
        pub(in crate::cache) fn reserved_bytes(&self) -> u64 {
            self.counts.lock().reserved_bytes
        }

        /// All that the limit is for.
        pub(in crate::cache) fn held_bytes(&self) -> u64 {
            let counts = *self.counts.lock();
            counts.used_bytes + counts.reserved_bytes
        }
    }

    #[test]
    fn the_limit_counts_what_is_in_flight() {
        let space = Space::new();
        space.set_limit(1000);
        space.set_room(u64::MAX);
        assert!(space.reserve(600));
        assert!(!space.reserve(401));
        assert!(space.reserve(400));
        space.commit(600);
        space.cancel(400);
        assert_eq!(space.used_bytes(), 600);
        assert_eq!(space.excess_over_high(), 0);
        assert!(space.reserve(300));
        assert_eq!(space.excess_over_high(), 25);
        assert_eq!(space.excess_over_low(), 150);
        space.cancel(300);
        space.release(600);
        assert!(space.reserve(1000));
    }

    #[test]
    fn watermarks_say_when_eviction_begins_and_ends_and_so_does_a_refusal() {
        let space = Space::new();
        space.set_limit(1000);
        space.set_room(u64::MAX);
        space.set_watermarks(Some(HeldMarks {
            high_percent: 80,
            low_percent: 50,
        }));
        assert!(space.reserve(800));
        assert!(!space.wants_room());
        assert!(!space.reserve(201));
        assert!(space.wants_room());
        assert!(!space.wants_room());
        assert_eq!(space.excess_over_low(), 300);
        assert!(space.reserve(1));
        assert!(space.wants_room());
    }

    #[test]
    fn what_the_disk_has_room_for_counts_what_is_in_flight() {
        let space = Space::new();
        space.set_limit(1000);
        assert!(!space.reserve(1));
        space.set_room(500);
        assert!(space.reserve(300));
        assert!(!space.reserve(201));
        space.set_room(500);
        assert!(space.reserve(200));
        space.set_room(0);
        assert!(!space.reserve(1));
    }
}
