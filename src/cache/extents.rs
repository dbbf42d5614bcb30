//! Which bytes of a file are in its object: a sorted list of ranges that neither touch nor overlap.

use crate::types::ByteRange;

/// A set of byte ranges. Operations cost O(ranges): a file read in order has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentMap {
    ranges: Vec<ByteRange>,
}

impl ExtentMap {
    pub fn new() -> Self {
        Self::default()
    }

    /// The ranges in order, none empty, none touching the next.
    pub fn ranges(&self) -> &[ByteRange] {
        &self.ranges
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes covered.
    pub fn total_bytes(&self) -> u64 {
        self.ranges.iter().map(ByteRange::length_bytes).sum()
    }

    /// Adds a range, merging it with those it touches.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|held| held.end < range.start);
        let last = self.ranges.partition_point(|held| held.start <= range.end);
        let merged = self.ranges[first..last]
            .iter()
            .fold(range, |merged, held| merged.covering(held));
        self.ranges.splice(first..last, [merged]);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|held| held.end <= range.start);
        let last = self.ranges.partition_point(|held| held.start < range.end);
        let mut rest = Vec::with_capacity(2);
        for held in &self.ranges[first..last] {
            for kept in [
                ByteRange::new(held.start, range.start.max(held.start)),
                ByteRange::new(range.end.min(held.end), held.end),
            ] {
                if !kept.is_empty() {
                    rest.push(kept);
                }
            }
        }
        self.ranges.splice(first..last, rest);
    }

    /// Takes a range out; how many of its bytes were there.
    pub fn take(&mut self, range: ByteRange) -> u64 {
        let missing = self.missing(range);
        let absent_bytes: u64 = missing.iter().map(ByteRange::length_bytes).sum();
        self.remove(range);
        range.length_bytes() - absent_bytes
    }

    pub fn contains(&self, range: ByteRange) -> bool {
        if range.is_empty() {
            return true;
        }
        let after = self.ranges.partition_point(|held| held.end <= range.start);
        self.ranges
            .get(after)
            .is_some_and(|held| held.contains(&range))
    }

    /// The parts of `range` that are not covered, in order.
    pub fn missing(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut from = range.start;
        let first = self.ranges.partition_point(|held| held.end <= range.start);
        for held in &self.ranges[first..] {
            if held.start >= range.end {
                break;
            }
            if held.start > from {
                gaps.push(ByteRange::new(from, held.start));
            }
            from = from.max(held.end);
        }
        if from < range.end {
            gaps.push(ByteRange::new(from, range.end));
        }
        gaps
    }

    pub fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPACE: usize = 64;

    fn as_bits(map: &ExtentMap) -> Vec<bool> {
        (0..SPACE as u64)
            .map(|byte| map.contains(ByteRange::at(byte, 1)))
            .collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_bytes(
            steps in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..20), 1..60),
            query in (0u64..64, 0u64..30),
        ) {
            let mut map = ExtentMap::new();
            let mut model = vec![false; SPACE];
            for (insert, start, length) in steps {
                let range = ByteRange::new(start, (start + length).min(SPACE as u64));
                if insert { map.insert(range) } else { map.remove(range) }
                for byte in range.start..range.end {
                    model[byte as usize] = insert;
                }
                prop_assert_eq!(as_bits(&map), model.clone());
                for pair in map.ranges().windows(2) {
                    prop_assert!(pair[0].end < pair[1].start);
                }
                prop_assert_eq!(map.total_bytes(), model.iter().filter(|b| **b).count() as u64);
            }
            let query = ByteRange::new(query.0, (query.0 + query.1).min(SPACE as u64));
            let missing: Vec<u64> = map.missing(query).iter().flat_map(|r| r.start..r.end).collect();
            let expected: Vec<u64> =
                (query.start..query.end).filter(|byte| !model[*byte as usize]).collect();
            prop_assert_eq!(map.contains(query), expected.is_empty());
            prop_assert_eq!(missing, expected);
        }
    }
}
