//! What is cached of one file, for whoever asks; asking is no use of it.

use super::Cache;
use super::file::CachedFile;
use super::history::{Loss, Miss};
use super::layout::object_path;
use super::staying::Stay;
use super::sums::blocks_of;
use crate::types::{ByteRange, FileKey, Version};

/// What the cache knows of a file.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The cache directory that has it, or would; `None` where it passes by.
    pub directory: Option<String>,
    /// Why that directory, or any, takes nothing new.
    pub trouble: Option<String>,
    pub stored: Option<Stored>,
    pub last_miss: Option<Miss>,
    /// What became of it before now.
    pub last_loss: Option<Loss>,
}

/// What is there of it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub version: Version,
    pub extents: Vec<ByteRange>,
    /// Relative to the cache directory; `None` while there is none.
    pub object: Option<String>,
    pub filled_at_seconds: i64,
    /// The kernel was given the object.
    pub is_given: bool,
    /// Its reads go past the cache: no room, or the disk refused.
    pub is_bypassed: bool,
    pub is_pinned: bool,
    /// It was warmed up, and goes after all else.
    pub is_warmed: bool,
    pub blocks: u64,
    /// Of these, with a checksum.
    pub summed_blocks: u64,
}

impl Stored {
    pub fn cached_bytes(&self) -> u64 {
        self.extents.iter().map(ByteRange::length_bytes).sum()
    }

    pub fn is_complete(&self) -> bool {
        self.cached_bytes() == self.version.size_bytes
    }
}

impl Cache {
    /// Waits for the local disk.
    pub fn tell(&self, key: &FileKey, size_bytes: u64) -> Told {
        let is_cached = size_bytes >= self.settings.min_file_size_bytes;
        let directory = self.directory_of(key).filter(|_| is_cached);
        let Some(directory) = directory else {
            let failed = self.directories.iter().find_map(|directory| {
                let reason = directory.failure()?;
                Some(format!("{}: {reason}", directory.name))
            });
            return Told {
                trouble: failed.filter(|_| is_cached),
                ..Told::default()
            };
        };
        Told {
            directory: Some(directory.name.clone()),
            trouble: directory.shortage(),
            stored: directory.stored_file(key).map(|file| file.tell()),
            last_miss: directory.history.last_miss(key),
            last_loss: directory.history.last_loss(key),
        }
    }

    /// A read is about to wait for the backend.
    pub fn note_miss(&self, file: &CachedFile, offset: u64) {
        if let Some(directory) = &file.directory {
            directory.history.note_miss(&file.key, offset);
        }
    }
}

impl CachedFile {
    fn tell(&self) -> Stored {
        let (extents, object, stored) = {
            let state = self.state.lock();
            let object = state.object.map(|object| object.id);
            let stored = Stored {
                version: self.version(),
                extents: state.extents.ranges().to_vec(),
                object: object.map(object_path),
                filled_at_seconds: state.filled_at_seconds,
                is_given: state.given_to_kernel,
                is_bypassed: state.bypass,
                is_pinned: state.stay == Stay::Pinned,
                is_warmed: matches!(state.stay, Stay::Warmed(_)),
                blocks: 0,
                summed_blocks: 0,
            };
            (state.extents.clone(), object, stored)
        };
        let sums = extents.ranges().iter().flat_map(|range| {
            let object = object.into_iter();
            object.flat_map(|object| self.known_sums(object, *range))
        });
        let blocks = extents.ranges().iter().map(|range| blocks_of(*range));
        Stored {
            blocks: blocks.map(|blocks| blocks.end - blocks.start).sum(),
            summed_blocks: sums.flatten().count() as u64,
            ..stored
        }
    }
}
