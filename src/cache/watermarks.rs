//! When eviction begins and where it ends: by what the cache holds of its limit, and by what the disk has free.

use crate::io::DiskSpace;

/// Of a disk this part is kept free: enough for the index, and for the filesystem to work well.
const KEPT_FREE_PART: u64 = 64;
const KEPT_FREE_BYTES_MAX: u64 = 1 << 30;

/// As the operator set them; what is `None` goes by the size of the cache and of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watermarks {
    pub held: Option<HeldMarks>,
    pub free_bytes: Option<FreeMarks>,
    pub free_inodes: Option<FreeMarks>,
}

/// Per cent of the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldMarks {
    /// Eviction begins above it,
    pub high_percent: u8,
    /// and ends here.
    pub low_percent: u8,
}

/// Per cent of the disk, as in cachefilesd.conf(5): `run` above `cull` above `stop`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FreeMarks {
    /// With so much free eviction ends.
    pub run_percent: u8,
    /// With less free it begins.
    pub cull_percent: u8,
    /// With less free nothing new is taken.
    pub stop_percent: u8,
}

/// The same in bytes or inodes.
#[derive(Clone, Copy)]
struct Marks {
    run: u64,
    cull: u64,
    stop: u64,
}

/// What a look at the disk says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Look {
    /// What may be taken.
    pub room_bytes: u64,
    /// Less is little: what is taken and given back around it changes nothing.
    pub little_bytes: u64,
    /// What has to go.
    pub missing_bytes: u64,
    pub missing_files: u64,
}

impl Look {
    pub fn is_short(&self) -> bool {
        self.missing_bytes > 0 || self.missing_files > 0
    }
}

pub(super) fn percent_of(whole: u64, percent: u8) -> u64 {
    (u128::from(whole) * u128::from(percent) / 100) as u64
}

impl Marks {
    fn of(marks: FreeMarks, whole: u64) -> Self {
        Self {
            run: percent_of(whole, marks.run_percent),
            cull: percent_of(whole, marks.cull_percent),
            stop: percent_of(whole, marks.stop_percent),
        }
    }

    /// What is missing, once it has begun up to where it ends.
    fn missing(&self, free: u64, has_begun: bool) -> u64 {
        match free < self.cull || has_begun {
            true => self.run.saturating_sub(free),
            false => 0,
        }
    }
}

impl Watermarks {
    /// `has_begun`: the look before this one found something missing.
    pub(super) fn look(&self, disk: &DiskSpace, has_begun: bool) -> Look {
        let kept_bytes = (disk.total_bytes / KEPT_FREE_PART).min(KEPT_FREE_BYTES_MAX);
        let mut bytes = Marks {
            run: kept_bytes / 2,
            cull: kept_bytes / 2,
            stop: kept_bytes,
        };
        if let Some(marks) = self.free_bytes {
            let wanted = Marks::of(marks, disk.total_bytes);
            bytes = Marks {
                run: wanted.run.max(bytes.run),
                cull: wanted.cull.max(bytes.cull),
                stop: wanted.stop.max(bytes.stop),
            };
        }
        let mut look = Look {
            room_bytes: disk.available_bytes.saturating_sub(bytes.stop),
            little_bytes: kept_bytes / 4,
            missing_bytes: bytes.missing(disk.available_bytes, has_begun),
            missing_files: 0,
        };
        // Some filesystems make inodes as they need them, and count none.
        if let Some(marks) = self.free_inodes.filter(|_| disk.total_inodes > 0) {
            let inodes = Marks::of(marks, disk.total_inodes);
            look.missing_files = inodes.missing(disk.available_inodes, has_begun);
            if disk.available_inodes < inodes.stop {
                look.room_bytes = 0;
            }
        }
        look
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKS: FreeMarks = FreeMarks {
        run_percent: 30,
        cull_percent: 20,
        stop_percent: 10,
    };

    fn disk(available_bytes: u64, available_inodes: u64) -> DiskSpace {
        DiskSpace {
            total_bytes: 6400,
            available_bytes,
            total_inodes: 1000,
            available_inodes,
        }
    }

    #[test]
    fn without_marks_a_part_of_the_disk_is_kept_free() {
        let look = |free| Watermarks::default().look(&disk(free, 0), false);
        assert_eq!((look(1000).room_bytes, look(1000).missing_bytes), (900, 0));
        assert_eq!((look(60).room_bytes, look(60).missing_bytes), (0, 0));
        assert_eq!((look(40).room_bytes, look(40).missing_bytes), (0, 10));
        assert_eq!(look(1000).missing_files, 0);
    }

    #[test]
    fn eviction_begins_at_the_low_mark_and_goes_on_to_the_high_one() {
        let marks = Watermarks {
            free_bytes: Some(MARKS),
            ..Watermarks::default()
        };
        let look = |free, has_begun| marks.look(&disk(free, 0), has_begun).missing_bytes;
        assert_eq!(look(1280, false), 0);
        assert_eq!(look(1279, false), 1920 - 1279);
        assert_eq!(look(1500, true), 420);
        assert_eq!(look(1920, true), 0);
        assert_eq!(marks.look(&disk(700, 0), false).room_bytes, 60);
        assert_eq!(marks.look(&disk(639, 0), false).room_bytes, 0);
    }

    #[test]
    fn inodes_have_marks_of_their_own_where_they_are_counted() {
        let marks = Watermarks {
            free_inodes: Some(MARKS),
            ..Watermarks::default()
        };
        let look = |inodes| marks.look(&disk(6400, inodes), false);
        assert_eq!((look(200).missing_files, look(200).room_bytes), (0, 6300));
        assert_eq!((look(150).missing_files, look(150).room_bytes), (150, 6300));
        assert_eq!((look(99).missing_files, look(99).room_bytes), (201, 0));
        let uncounted = DiskSpace {
            total_inodes: 0,
            ..disk(6400, 0)
        };
        assert!(!marks.look(&uncounted, false).is_short());
    }
}
