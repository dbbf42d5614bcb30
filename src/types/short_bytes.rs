//! Byte strings that are kept by the million: short ones lie in the value itself.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

/// What fits beside the two marks in 24 bytes.
const INLINE_BYTES: usize = 22;

/// Immutable bytes in 24 bytes of memory; more than 22 of them lie on the heap.
#[derive(Clone)]
pub struct ShortBytes(Held);

#[derive(Clone)]
enum Held {
    Inline {
        length: u8,
        bytes: [u8; INLINE_BYTES],
    },
    Heap(Box<[u8]>),
}

impl Deref for ShortBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Held::Heap(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for ShortBytes {
    fn from(from: &[u8]) -> Self {
        if from.len() > INLINE_BYTES {
            return Self(Held::Heap(from.into()));
        }
        let mut bytes = [0; INLINE_BYTES];
        bytes[..from.len()].copy_from_slice(from);
        Self(Held::Inline {
            length: from.len() as u8,
            bytes,
        })
    }
}

impl From<Vec<u8>> for ShortBytes {
    fn from(from: Vec<u8>) -> Self {
        from.as_slice().into()
    }
}

impl PartialEq for ShortBytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for ShortBytes {}

impl Ord for ShortBytes {
    fn cmp(&self, other: &Self) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl PartialOrd for ShortBytes {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for ShortBytes {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl Borrow<[u8]> for ShortBytes {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for ShortBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_any_length_come_back_and_compare_as_slices() {
        assert_eq!(size_of::<ShortBytes>(), 24);
        let all: Vec<Vec<u8>> = (0..60u8).map(|length| (0..length).collect()).collect();
        for one in &all {
            let short = ShortBytes::from(one.as_slice());
            assert_eq!(*short, **one);
            assert_eq!(short.clone(), short);
            for other in &all {
                let other_short = ShortBytes::from(other.as_slice());
                assert_eq!(short.cmp(&other_short), one.cmp(other));
            }
        }
    }
}
