//! What goes when there are too many records.

use super::database::{CONFIRMED_AGAIN_AFTER_S, Failure, KINDS_THAT_STAY, NamesFile, each_from};
use super::record::believed;
use redb::Database;

/// Records that go in one commit.
const REMOVED_AT_ONCE: usize = 10_000;

impl NamesFile {
    /// Removes an eighth, of those that were not confirmed for longest.
    pub(super) fn make_room(&self, database: &Database, now: i64) -> Result<(), Failure> {
        let mut ages = [0u64; 64];
        each_from(database, &[KINDS_THAT_STAY], |key, stored| {
            ages[age_class(key, stored, now)] += 1;
            true
        })?;
        let wanted = self.record_count() - self.records_max / 8 * 7;
        let mut oldest = ages.len() - 1;
        let mut older = ages[oldest];
        while older < wanted && oldest > 0 {
            oldest -= 1;
            older += ages[oldest];
        }
        let mut from = vec![KINDS_THAT_STAY];
        let mut left = wanted as usize;
        while left > 0 {
            let mut going: Vec<Vec<u8>> = Vec::new();
            let at_once = left.min(REMOVED_AT_ONCE);
            each_from(database, &from, |key, stored| {
                if age_class(key, stored, now) >= oldest {
                    going.push(key.to_vec());
                }
                going.len() < at_once
            })?;
            let Some(last) = going.last() else {
                return Ok(());
            };
            from.clone_from(last);
            left -= going.len();
            let changes: Vec<_> = going.iter().map(|key| (key.as_slice(), None)).collect();
            self.write(database, &changes, now)?;
        }
        Ok(())
    }
}

/// Classes double in length from ten minutes on; what is damaged is oldest.
fn age_class(key: &[u8], stored: &[u8], now: i64) -> usize {
    match believed(key, stored) {
        Some((confirmed, _)) => {
            let age = (now - confirmed).max(0) / CONFIRMED_AGAIN_AFTER_S;
            (64 - age.leading_zeros() as usize).min(62)
        }
        None => 63,
    }
}
