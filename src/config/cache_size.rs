//! How many bytes the cache may take, given the disks it lies on.

use super::units::{MIB, show_size};
use std::fmt;

/// The smallest cache that can work: what is in flight has to fit beside what is kept.
pub const MINIMUM_CACHE_BYTES: u64 = 16 * MIB;

/// The size limit as the operator gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSize {
    /// From the disk: the smaller of 80 % of it and what leaves 5 % of it free.
    Derived,
    Bytes(u64),
    /// Of the disks' total size, 1 to 95.
    PercentOfDisk(u8),
}

/// One disk (filesystem) that holds cache directories, counted once however many lie on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskShare {
    pub total_bytes: u64,
    pub available_bytes: u64,
    /// What the cache has on it already.
    pub used_by_cache_bytes: u64,
}

impl CacheSize {
    /// The limit over all disks together, in bytes. May be below what the cache holds already, which
    /// then shrinks. An error text when they could not even hold the minimum.
    pub fn limit_bytes(&self, disks: &[DiskShare]) -> Result<u64, String> {
        let limit = match self {
            Self::Bytes(bytes) => *bytes,
            Self::PercentOfDisk(percent) => disks
                .iter()
                .map(|disk| percent_of(disk.total_bytes, u64::from(*percent)))
                .sum(),
            Self::Derived => disks.iter().map(derived_bytes).sum(),
        };
        if limit < MINIMUM_CACHE_BYTES {
            let free: u64 = disks.iter().map(|disk| disk.available_bytes).sum();
            return Err(format!(
                "the cache would get {limit} bytes and needs at least {}: the cache disk has {} free; \
                 make room there, name another cache_dir, or set cache_size",
                show_size(MINIMUM_CACHE_BYTES),
                show_size(free / MIB * MIB),
            ));
        }
        Ok(limit)
    }
}

fn derived_bytes(disk: &DiskShare) -> u64 {
    percent_of(disk.total_bytes, 80).min(
        disk.capacity_bytes()
            .saturating_sub(percent_of(disk.total_bytes, 5)),
    )
}

impl DiskShare {
    /// What the cache may grow to on it. A disk that is full now may have room later: it counts with what it
    /// could hold.
    pub fn capacity_bytes(&self) -> u64 {
        let reachable_bytes = self
            .available_bytes
            .saturating_add(self.used_by_cache_bytes);
        match reachable_bytes < MINIMUM_CACHE_BYTES + percent_of(self.total_bytes, 5) {
            true => percent_of(self.total_bytes, 85).max(1),
            false => reachable_bytes,
        }
    }
}

fn percent_of(bytes: u64, percent: u64) -> u64 {
    (u128::from(bytes) * u128::from(percent) / 100) as u64
}

impl fmt::Display for CacheSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Derived => f.write_str("derived from the disk"),
            Self::Bytes(bytes) => f.write_str(&show_size(*bytes)),
            Self::PercentOfDisk(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(total_mib: u64, available_mib: u64, used_mib: u64) -> DiskShare {
        DiskShare {
            total_bytes: total_mib * MIB,
            available_bytes: available_mib * MIB,
            used_by_cache_bytes: used_mib * MIB,
        }
    }

    #[test]
    fn an_empty_disk_gives_eighty_percent() {
        assert_eq!(
            CacheSize::Derived.limit_bytes(&[disk(1000, 1000, 0)]),
            Ok(800 * MIB)
        );
    }

    #[test]
    fn a_busy_disk_keeps_five_percent_free_and_a_restart_changes_nothing() {
        let first = CacheSize::Derived.limit_bytes(&[disk(1000, 500, 0)]);
        let again = CacheSize::Derived.limit_bytes(&[disk(1000, 100, 400)]);
        assert_eq!(first, Ok(450 * MIB));
        assert_eq!(first, again);
    }

    #[test]
    fn a_disk_that_is_full_now_gives_what_it_could_hold() {
        let full = CacheSize::Derived.limit_bytes(&[disk(1000, 55, 0)]);
        assert_eq!(full, Ok(800 * MIB));
    }

    #[test]
    fn several_disks_add_up_and_too_little_is_said() {
        let two = [disk(1000, 1000, 0), disk(100, 100, 0)];
        assert_eq!(
            CacheSize::PercentOfDisk(50).limit_bytes(&two),
            Ok(550 * MIB)
        );
        let error = CacheSize::Derived
            .limit_bytes(&[disk(10, 10, 0)])
            .unwrap_err();
        assert!(
            error.contains("16M") && error.contains("cache_size"),
            "{error}"
        );
    }
}
