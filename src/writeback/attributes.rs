//! Attributes of a dirty file are changed on the backend at once, before its bytes get there.
//!
//! What always holds: the bytes that were there before such a change are durable here before it is made, so that after a crash
//! a mount shows both or the bytes alone; the change, and its trace in the file's version, is never taken for somebody else's.

use super::WriteBack;
use super::dirty::DirtyFile;
use super::layers::{Layer, Touch};
use crate::backend::Place;
use crate::journal::{AppendError, Generation, Record, Room};
use crate::types::{Attributes, TimeChange, Timestamp};
use std::io;
use std::sync::Arc;

impl WriteBack {
    /// Makes a change of attributes. Where an upload is under way, or somebody else was there, the bytes go first.
    pub(super) fn change_attributes(
        &self,
        file: &Arc<DirtyFile>,
        place: &Place,
        modify_time: TimeChange,
        change: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(uploading) = file.uploading.try_lock() else {
            return self.with_settled(file, change);
        };
        let turn = file.turn.lock();
        let touch = Touch {
            modify_time: match modify_time {
                TimeChange::To(time) => Some(time),
                TimeChange::Keep | TimeChange::Now => None,
            },
        };
        let announced = match modify_time {
            // What time that will be nobody knows.
            TimeChange::Now => Ok(None),
            TimeChange::Keep | TimeChange::To(_) => self.announce(file, place, touch),
        };
        let Some(generation) = announced? else {
            drop((turn, uploading));
            return self.with_settled(file, change);
        };
        let changed = change();
        let after = self.inner.attributes(place)?;
        let stamp = touch.modify_time.map(|_| match changed {
            Ok(()) => after.mtime,
            Err(_) => file.shown(after).mtime,
        });
        self.note_touched(file, generation, after, stamp)?;
        changed
    }

    /// Has it in the journal, behind all that was written, that the file is about to be touched; `None` where its bytes have
    /// to go first.
    fn announce(
        &self,
        file: &DirtyFile,
        place: &Place,
        touch: Touch,
    ) -> io::Result<Option<Generation>> {
        let (generation, expected) = {
            let state = file.state();
            match &state.open {
                Some(open) if state.frozen.is_none() => (open.generation, state.expected(open)),
                _ => return Ok(None),
            }
        };
        if expected != Some(self.inner.attributes(place)?.version()) {
            return Ok(None);
        }
        let record = Record::Touch {
            generation,
            modify_time: touch.modify_time,
        };
        let durable = self
            .journal
            .append(&record, Room::Writers)
            .and_then(|sequence| self.journal.make_durable(sequence));
        match durable {
            Ok(()) => {}
            Err(AppendError::Full) => return Ok(None),
            Err(AppendError::Failed(_)) => return Err(super::file::errno(libc::EIO)),
        }
        if let Some(open) = &mut file.state().open {
            open.touched = Some(touch);
        }
        Ok(Some(generation))
    }

    /// This is what the backend has from now on, below what is dirty; `stamp` is what the upload leaves behind.
    fn note_touched(
        &self,
        file: &DirtyFile,
        generation: Generation,
        after: Attributes,
        stamp: Option<Timestamp>,
    ) -> io::Result<()> {
        let version = after.version();
        let size_bytes = {
            let mut state = file.state();
            state.base = Some(after);
            let open = state.open.as_mut().expect("in this turn nobody takes it");
            open.base = Some(version);
            open.touched = None;
            open.size_bytes
        };
        let base = Record::Base {
            generation,
            version,
        };
        let mut noted = self.journal.append(&base, Room::Uploads);
        if let Some(stamp) = stamp {
            let size = Record::Size {
                generation,
                size_bytes,
                stamp,
            };
            noted = noted.and_then(|_| self.journal.append(&size, Room::Uploads));
        }
        let sequence = noted.map_err(|_| super::file::errno(libc::EIO))?;
        let set = |layer: &mut Layer| {
            if let Some(stamp) = stamp {
                layer.set_size(size_bytes, stamp);
            }
        };
        self.change(file, set, Some(sequence));
        Ok(())
    }
}
