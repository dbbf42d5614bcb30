//! Queues of entries, and where an entry stands in one.

/// 4 KiB blocks.
pub type Blocks = u64;

pub const QUEUES: usize = 8;
pub const HITS_MAX: u8 = 7;

const POSITION_BITS: u32 = 58;
const HITS_BITS: u32 = 3;
const POSITION_MAX: u64 = (1 << POSITION_BITS) - 1;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Queue(u8);

impl Queue {
    /// What has proved its worth; all files of a cache that had no queues yet are there.
    pub const MAIN: Self = Self(0);
    /// What came in lately, and has to prove it.
    pub const PROBATION: Self = Self(1);
    /// What somebody asked for with a warm-up: nothing goes of it while that goes on, and it is like any other then.
    pub const WARMED: Self = Self(6);
    /// What is pinned: no policy is asked about it.
    pub const PINNED: Self = Self(7);

    pub fn all() -> impl Iterator<Item = Self> {
        (0..QUEUES as u8).map(Self)
    }

    /// One of the [`QUEUES`].
    pub fn at(index: usize) -> Self {
        assert!(index < QUEUES, "there are no more queues");
        Self(index as u8)
    }

    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Where an entry stands. The lowest position of a queue is its first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    pub queue: Queue,
    /// Up to [`HITS_MAX`], as the policy counts them.
    pub hits: u8,
    /// What the access clock said when it came to stand there.
    pub position: Blocks,
}

impl Place {
    pub fn new(queue: Queue, position: Blocks) -> Self {
        Self {
            queue,
            hits: 0,
            position,
        }
    }

    /// As it is stored: queue, hits and position, from the highest bit on.
    pub fn bits(self) -> u64 {
        self.order() | (u64::from(self.hits.min(HITS_MAX)) << POSITION_BITS)
    }

    pub fn from_bits(bits: u64) -> Self {
        Self {
            queue: Queue((bits >> (POSITION_BITS + HITS_BITS)) as u8),
            hits: (bits >> POSITION_BITS) as u8 & HITS_MAX,
            position: bits & POSITION_MAX,
        }
    }

    /// Sorts places by queue, then by position. A hit does not change it.
    pub fn order(self) -> u64 {
        (u64::from(self.queue.0) << (POSITION_BITS + HITS_BITS)) | self.position.min(POSITION_MAX)
    }

    /// Clock that passed since it came to stand there.
    pub fn age(self, now: Blocks) -> Blocks {
        now.saturating_sub(self.position)
    }
}

/// The queues as far as a choice between them needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Heads {
    /// The position of each queue's first, `None` where it is empty.
    pub positions: [Option<Blocks>; QUEUES],
    /// All that stands in [`Queue::PROBATION`].
    pub probation_blocks: Blocks,
    /// What has come in, but has no place yet.
    pub unplaced_blocks: Blocks,
}

impl Heads {
    fn has(&self, queue: Queue) -> bool {
        self.positions[queue.index()].is_some()
    }

    /// The queue, of those that `may` be it, whose first has the lowest `rank`.
    pub(super) fn lowest(
        &self,
        may: impl Fn(Queue) -> bool,
        rank: impl Fn(Queue, Blocks) -> Blocks,
    ) -> Option<Queue> {
        let filled = Queue::all().filter(|queue| may(*queue));
        filled
            .filter_map(|queue| Some((rank(queue, self.positions[queue.index()]?), queue)))
            .min()
            .map(|(_, queue)| queue)
    }

    /// [`Queue::PROBATION`] while more is in it, or on its way to it, than `target_blocks`; else what is first elsewhere.
    pub(super) fn probation_above(&self, target_blocks: Blocks) -> Option<Queue> {
        if self.probation_blocks + self.unplaced_blocks > target_blocks {
            if self.has(Queue::PROBATION) {
                return Some(Queue::PROBATION);
            }
            if self.unplaced_blocks > 0 {
                return None;
            }
        }
        let elsewhere = self.lowest(|queue| queue != Queue::PROBATION, |_, position| position);
        elsewhere.or(self.has(Queue::PROBATION).then_some(Queue::PROBATION))
    }
}
