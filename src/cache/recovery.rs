//! After start-up, in the background: objects that no record tells of are swept away (they were filled after
//! the last checkpoint of a killed daemon, or belonged to an index set aside), and the space in use is counted anew.

use super::directory::CacheDirectory;
use super::layout;
use super::record::ObjectId;
use std::collections::HashSet;
use std::sync::atomic::Ordering;

/// What a sweep found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    pub orphans: u64,
    pub records: u64,
}

impl CacheDirectory {
    /// Blocks on the local disk, seconds for a million files; serving does not wait for it. Ends early when
    /// `stopping` says so.
    pub(super) fn sweep_orphans(&self, stopping: &dyn Fn() -> bool) -> Swept {
        let mut swept = Swept::default();
        // Nothing that begins after this is an orphan.
        let first_new_object = self.first_new_object.load(Ordering::Acquire);
        let mut known: HashSet<ObjectId> = HashSet::new();
        let mut damaged = Vec::new();
        let mut recorded_bytes = 0;
        let scanned = self.index.scan(|key, record| match record {
            Some(record) => {
                known.insert(record.object);
                recorded_bytes += record.occupied_bytes();
                swept.records += 1;
            }
            None => damaged.push(key),
        });
        match scanned {
            // A record that was damaged left without telling what it had.
            Ok(counted_bytes) => self
                .space
                .release(counted_bytes.saturating_sub(recorded_bytes)),
            Err(error) => {
                self.report_index_error(&error);
                return swept;
            }
        }
        for key in damaged {
            tracing::warn!(directory = %self.name, ?key, "index record damaged, its file is fetched again");
            self.metrics.doubted.add(1);
            self.remove_record(&key, ObjectId(u64::MAX));
        }
        for low in 0..=0xff {
            if stopping() || !self.is_usable() {
                return swept;
            }
            let mut orphans = Vec::new();
            let folder = format!("{}/{low:02x}", layout::OBJECTS);
            let listed = self.io.list(&folder, &mut |name| {
                match layout::object_of_name(name) {
                    Some(object) if object.0 >= first_new_object || known.contains(&object) => {}
                    _ => orphans.push(format!("{folder}/{name}")),
                }
                true
            });
            if let Err(error) = listed {
                self.report_disk_error("looking for orphaned objects", &error);
                return swept;
            }
            for path in orphans {
                // A name that is not ours may be a directory; it stays, and harms nobody.
                match self.io.remove_file(&path) {
                    Ok(()) => swept.orphans += 1,
                    Err(error) => {
                        tracing::warn!(directory = %self.name, path, %error, "cannot remove an orphaned object");
                    }
                }
            }
        }
        swept
    }
}
