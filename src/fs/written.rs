//! What is kept of a file that was changed through this mount: when it may be, and when what was kept is believed
//! (docs/decisions/006-what-was-written-is-kept.md).
//!
//! What always holds: what is believed is of a version that the server told after the last sync, and all changes that led
//! to it from a version known before were ours: proven by a lease, or vouched for by the administrator.

use super::FileSystem;
use super::node::Node;
use super::open_file::OpenFile;
use super::writes::{FileWrites, Writer};
use super::writing::Changing;
use crate::backend::alone::Alone;
use crate::backend::writing::WritableFile;
use crate::cache::{Followers, Keep};
use crate::types::{Attributes, FileKey, Version};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Which files stay cached while they are written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepWritten {
    /// Those that provably nobody else had open.
    Proven,
    /// All: nobody else writes to what is being written here.
    Always,
    Never,
}

impl FileSystem {
    /// What is to be kept of a file that is about to be changed. Blocks on the backend.
    pub(super) fn may_keep(&self, changing: &Changing<'_>) -> io::Result<Option<Keep>> {
        let Changing { node, writes, file } = changing;
        let Some(alone) = self.vouched_for(&node.key, || writes.take_hold(*file)) else {
            return Ok(None);
        };
        let present = file.attributes()?.version();
        Ok(Some(Keep { present, alone }))
    }

    /// The same for a file just made, that was `found` empty. May block on the backend.
    pub(super) fn keep_new(
        &self,
        key: &FileKey,
        writes: &FileWrites,
        file: &dyn WritableFile,
        found: &Attributes,
    ) -> Followers {
        let present = found.version();
        let unchanged = |alone: bool| {
            !alone || matches!(file.attributes(), Ok(now) if now.version() == present)
        };
        let keep = self
            .vouched_for(key, || writes.take_hold(file))
            .filter(|alone| present.size_bytes == 0 && unchanged(*alone))
            .map(|alone| Keep { present, alone });
        keep.map_or_else(Followers::default, |keep| self.cache.begin_new(key, keep))
    }

    /// Whether all changes of a file are ours; `Some(true)` where that is certain.
    fn vouched_for(&self, key: &FileKey, is_alone: impl FnOnce() -> bool) -> Option<bool> {
        match self.settings.keep_written {
            KeepWritten::Never => None,
            KeepWritten::Proven => is_alone().then_some(true),
            // Who locks does so because of others.
            KeepWritten::Always => (!self.locks.is_noted(key)).then_some(false),
        }
    }

    /// Reads what is kept of a file being changed.
    pub(super) fn read_kept(
        &self,
        node: &Node,
        writes: &FileWrites,
        buffer: &mut [u8],
        offset: u64,
    ) -> Option<usize> {
        let followers = writes.followers()?;
        self.vouched_for(&node.key, || writes.is_alone())?;
        followers.read_kept(buffer, offset)
    }

    /// The changes have led to this version, which the server has told after the last of them: what was kept of the
    /// file is believed from now on, if all was as it should be. Whether it is.
    pub(super) fn believe_kept(
        &self,
        node: &Node,
        writes: &FileWrites,
        followers: &Followers,
        version: Version,
    ) -> bool {
        let vouched_for = self.vouched_for(&node.key, || writes.is_alone());
        let is_settled = match vouched_for {
            Some(true) => self.hold_until_settled(writes, &version),
            Some(false) => true,
            None => false,
        };
        if !is_settled || !writes.is_synced() {
            followers.lose_kept();
            return false;
        }
        followers.adopt_kept(version)
    }

    /// Whether nobody else can make a change that leaves the version as it is.
    fn hold_until_settled(&self, writes: &FileWrites, version: &Version) -> bool {
        // A filesystem that keeps whole seconds only.
        if version.ctime.nanoseconds == 0 && version.mtime.nanoseconds == 0 {
            return false;
        }
        let Some(held) = writes.hold() else {
            return false;
        };
        match held.settle(version.ctime) {
            Ok(true) => true,
            Ok(false) => {
                let lane = self.write_lane.clone();
                let release = move || {
                    // Refused, the descriptor is closed here: nothing else can be done with it.
                    let _ = lane.submit(move || drop(held));
                };
                self.timers
                    .after(Alone::settles_within(), Box::new(release));
                true
            }
            Err(_) => false,
        }
    }

    /// close(2) with all written and synced: what the changes led to is a version like any other, for those who have the
    /// file open, too. Called in a turn of the whole file; blocks on the backend.
    pub(super) fn conclude(&self, node: &Arc<Node>, writes: &Arc<FileWrites>, writer: &Writer) {
        let _turning = writes.turning.lock();
        let followers = writes.followers().filter(|followers| followers.keep());
        let (Some(followers), Some(open)) = (followers, self.open_with(node, writes)) else {
            return;
        };
        if !writes.is_synced() {
            return;
        }
        let asked = Instant::now();
        let Ok(fresh) = writer.file.attributes() else {
            return;
        };
        if !self.believe_kept(node, writes, &followers, fresh.version()) {
            return;
        }
        // What still follows rests when nobody else has it.
        drop(followers);
        self.go_on_with(node, &open, &fresh);
        writes.pause();
        writes.rest(Some(fresh.version()));
        self.take_attributes(node, fresh, asked);
    }

    /// The open file of a node that these writes concern.
    pub(super) fn open_with(&self, node: &Node, writes: &Arc<FileWrites>) -> Option<Arc<OpenFile>> {
        let open = node.state.lock().open.clone()?;
        let attached = open.writes.load_full()?;
        Arc::ptr_eq(&attached, writes).then_some(open)
    }

    /// Those who have the file open read this version from now on.
    pub(super) fn go_on_with(&self, node: &Arc<Node>, open: &OpenFile, fresh: &Attributes) {
        let new = self.cache.file(&node.key, fresh.version());
        new.begin_use(open.opened(node), Instant::now());
        open.move_on_to(new).end_use();
    }
}
