//! All files that are open for writing or dirty, and which generations are needed.

use super::dirty::DirtyFile;
use crate::backend::Place;
use crate::journal::{Generation, Journal, Sequence};
use crate::types::{Credentials, FileKey, Version};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

/// More uploads than end while the backend answers once.
const ENDS_KEPT: usize = 1024;

/// With more of them than this the backend tells sooner where a name leads.
const NAMES_COMPARED_MAX: usize = 10_000;

/// What a name leads to.
pub(super) enum Named {
    /// None of the files that are open for writing or dirty.
    Nothing,
    File(Arc<DirtyFile>),
    /// Only the backend can tell.
    Unknown,
}

#[derive(Default)]
pub(super) struct Table {
    files: Mutex<HashMap<FileKey, Arc<DirtyFile>>>,
    ends: Mutex<Ends>,
    /// Generations that are needed, by a batch that none of them begins before.
    live: Mutex<BTreeSet<(Sequence, Generation)>>,
}

/// Uploads that have ended, the last ones by their files: from one moment to the next a file is shown as the backend has it.
#[derive(Default)]
struct Ends {
    count: u64,
    last: VecDeque<FileKey>,
    /// The version shown until then, and the one that the backend shows.
    versions: VecDeque<(FileKey, Version, Version)>,
}

impl Table {
    pub fn get(&self, key: &FileKey) -> Option<Arc<DirtyFile>> {
        self.files.lock().get(key).cloned()
    }

    /// The file with one handle more.
    pub fn open(&self, place: &Place, opener: &Credentials) -> Arc<DirtyFile> {
        let mut files = self.files.lock();
        let file = files.entry(place.key.clone()).or_insert_with(|| {
            let place = Place {
                caller: None,
                only_caller: false,
                ..place.clone()
            };
            Arc::new(DirtyFile::new(place.key.clone(), place, opener.clone()))
        });
        file.state().handles += 1;
        file.clone()
    }

    /// The same without a handle, for what an earlier life has left.
    pub fn restore(&self, place: Place, opener: Credentials) -> Arc<DirtyFile> {
        let mut files = self.files.lock();
        let made = || Arc::new(DirtyFile::new(place.key.clone(), place.clone(), opener));
        files.entry(place.key.clone()).or_insert_with(made).clone()
    }

    /// Forgets a file that nobody needs. It may have been forgotten before, and its key be another's by now.
    pub fn release(&self, file: &Arc<DirtyFile>) {
        let mut files = self.files.lock();
        if !files
            .get(&file.key)
            .is_some_and(|held| Arc::ptr_eq(held, file))
        {
            return;
        }
        let unused = {
            let mut state = file.state();
            match state.is_needed() {
                true => return,
                false => state.file.take(),
            }
        };
        files.remove(&file.key);
        drop(files);
        // Closing a descriptor of the backend may wait for it.
        drop(unused);
    }

    pub fn all(&self) -> Vec<Arc<DirtyFile>> {
        self.files.lock().values().cloned().collect()
    }

    pub fn beneath(&self, directory: &Path) -> Vec<Arc<DirtyFile>> {
        let mut all = self.all();
        all.retain(|file| file.state().place.path.starts_with(directory));
        all
    }

    /// Which of these files a name leads to, as far as is known here.
    pub fn named(&self, path: &Path) -> Named {
        let files = self.files.lock();
        if files.len() > NAMES_COMPARED_MAX {
            return Named::Unknown;
        }
        let mut found = Named::Nothing;
        for file in files.values() {
            let state = file.state();
            if state.is_nameless {
                continue;
            }
            let is_certain = state.has_known_names();
            match (&found, state.place.path == path) {
                (Named::Nothing, true) if is_certain => found = Named::File(file.clone()),
                (_, false) if is_certain => {}
                _ => return Named::Unknown,
            }
        }
        found
    }

    /// A moment, for [`Table::has_ended_since`].
    pub fn ends(&self) -> u64 {
        self.ends.lock().count
    }

    pub fn note_end(&self, key: &FileKey) {
        let mut ends = self.ends.lock();
        ends.count += 1;
        ends.last.push_front(key.clone());
        ends.last.truncate(ENDS_KEPT);
    }

    /// An upload makes a file's version another, and none of its bytes.
    pub fn note_version(&self, key: &FileKey, shown: Version, present: Version) {
        let mut ends = self.ends.lock();
        ends.versions.push_front((key.clone(), shown, present));
        ends.versions.truncate(ENDS_KEPT);
    }

    pub fn has_become(&self, key: &FileKey, one: &Version, other: &Version) -> bool {
        let ends = self.ends.lock();
        let mut noted = ends.versions.iter();
        noted.any(|(of, shown, present)| (of, shown, present) == (key, one, other))
    }

    /// Whether an upload of this file has ended since then, as far as can be told.
    pub fn has_ended_since(&self, moment: u64, key: &FileKey) -> bool {
        let ends = self.ends.lock();
        let since = (ends.count - moment) as usize;
        since > ends.last.len() || ends.last.iter().take(since).any(|ended| ended == key)
    }

    /// A generation is about to begin: nothing from here on is trimmed until it ends.
    pub fn begin(&self, generation: Generation, journal: &Journal) -> Sequence {
        let mut live = self.live.lock();
        let first = journal.open_batch();
        live.insert((first, generation));
        first
    }

    pub fn restored(&self, generation: Generation, first: Sequence) {
        self.live.lock().insert((first, generation));
    }

    /// What keeps the journal from being trimmed further.
    pub fn oldest(&self) -> Option<(Sequence, Generation)> {
        self.live.lock().first().copied()
    }

    /// A generation is not needed any more.
    pub fn end(&self, generation: Generation, first: Sequence, journal: &Journal) {
        let mut live = self.live.lock();
        live.remove(&(first, generation));
        let needed = live.first().map(|(first, _)| *first);
        let needed = needed.unwrap_or_else(|| journal.open_batch());
        journal.trim(needed.before());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::FilesystemIndex;
    use crate::types::{Attributes, FileKind, Timestamp};

    const TIME: Timestamp = Timestamp {
        seconds: 1,
        nanoseconds: 0,
    };

    fn place(key: u8, path: &str) -> Place {
        Place {
            filesystem: FilesystemIndex(0),
            key: FileKey(vec![key].into()),
            inode: key.into(),
            path: path.into(),
            held: None,
            caller: None,
            only_caller: false,
        }
    }

    fn opener() -> Credentials {
        Credentials {
            uid: 0,
            gid: 0,
            groups: [].into(),
        }
    }

    fn with_links(link_count: u32) -> Attributes {
        Attributes {
            inode: 1,
            kind: FileKind::Regular,
            permissions: 0o644,
            link_count,
            uid: 0,
            gid: 0,
            rdev: 0,
            size_bytes: 0,
            blocks_512: 0,
            block_size_bytes: 4096,
            atime: TIME,
            mtime: TIME,
            ctime: TIME,
        }
    }

    #[test]
    fn a_file_that_was_forgotten_before_takes_no_other_with_it() {
        let table = Table::default();
        let (place, opener) = (place(1, "file"), opener());
        let first = table.open(&place, &opener);
        first.state().handles = 0;
        table.release(&first);
        let second = table.open(&place, &opener);
        table.release(&first);
        let held = table.get(&place.key).expect("it is open");
        assert!(Arc::ptr_eq(&held, &second));
    }

    #[test]
    fn a_name_is_believed_only_where_no_file_may_have_another() {
        let table = Table::default();
        let [one, other] = [(1, "one"), (2, "other")].map(|(key, path)| {
            let file = table.open(&place(key, path), &opener());
            file.state().base = Some(with_links(1));
            file
        });
        let named = |path: &str| table.named(Path::new(path));
        assert!(matches!(named("one"), Named::File(file) if Arc::ptr_eq(&file, &one)));
        assert!(matches!(named("none"), Named::Nothing));
        other.state().base = Some(with_links(2));
        assert!(matches!(named("one"), Named::Unknown));
        assert!(matches!(named("none"), Named::Unknown));
        other.state().base = Some(with_links(1));
        other.state().is_name_doubtful = true;
        assert!(matches!(named("none"), Named::Unknown));
        other.state().is_nameless = true;
        assert!(matches!(named("none"), Named::Nothing));
        assert!(matches!(named("other"), Named::Nothing));
    }
}
