//! A dirty file loses a name, perhaps its last: what is in the journal of it is not needed then.
//!
//! What always holds: where it may be the last one, the journal says so, durably, before the backend is asked; so a file that is
//! found gone after a crash is known to be gone because of us; where it was not lost after all the journal says so, as durably,
//! before the program hears of it. What is begun meanwhile says so for itself.

use super::WriteBack;
use super::dirty::{DirtyFile, FileState};
use super::layers::Layer;
use crate::journal::{AppendError, Generation, Record, Room, Sequence};
use crate::types::Attributes;
use std::sync::Arc;

impl WriteBack {
    /// A file is about to lose a name, perhaps its last: on NFS any descriptor of ours would leave an .nfsXXXX behind.
    pub(super) fn prepare_loss(&self, file: &DirtyFile) {
        let (unused, layers) = {
            let mut state = file.state();
            state.losses.0 += 1;
            let unused = match state.handles {
                0 => state.file.take(),
                _ => None,
            };
            (unused, begun(&state))
        };
        drop(unused);
        if let Err(error) = self.announce_loss(&layers) {
            tracing::warn!(%error, "a file that is being removed will be looked for after a crash");
        }
    }

    fn announce_loss(&self, layers: &[(Generation, Sequence)]) -> Result<(), AppendError> {
        for (generation, first) in layers {
            let losing = Record::Losing {
                generation: *generation,
            };
            let sequence = self.journal.append(&losing, Room::Uploads)?;
            // A batch is there as a whole or not at all.
            if *first != sequence {
                self.journal.make_durable(sequence)?;
            }
        }
        Ok(())
    }

    /// It has lost a name; `before` are its attributes from then.
    pub(super) fn finish_loss(&self, file: &Arc<DirtyFile>, before: &Attributes) {
        if before.link_count > 1 {
            return self.note_change(Some(file));
        }
        let is_open = {
            let mut state = file.state();
            state.is_nameless = true;
            state.handles > 0
        };
        match is_open {
            true => {
                self.note_change(Some(file));
                self.note_nameless(file);
            }
            false => self.forget(file),
        }
        self.table.release(file);
    }

    /// What was said to be lost is, or is not. The latter durably, before anybody hears of it: after a crash the file may be
    /// gone because of somebody else.
    pub(super) fn end_loss(&self, file: &DirtyFile) {
        let kept = {
            let mut state = file.state();
            state.losses.1 += 1;
            // One that has another may have lost the one that it had here.
            state.is_name_doubtful |= !state.is_nameless;
            match state.is_nameless {
                true => Vec::new(),
                false => begun(&state),
            }
        };
        for (generation, _) in &kept {
            let generation = *generation;
            self.tell_of_loss(&Record::Kept { generation });
        }
        if !kept.is_empty()
            && let Err(error) = self.journal.make_durable(self.journal.last_told())
        {
            tracing::warn!(%error, "a file that was not removed may be taken for removed here after a crash");
        }
    }

    /// What is in the journal of a file is not needed: it has lost its last name, and nobody has it open.
    pub(super) fn forget(&self, file: &DirtyFile) {
        let (open, frozen) = {
            let mut state = file.state();
            (state.open.take(), state.frozen.take())
        };
        let frozen = frozen.map(|frozen| (*frozen.layer).clone());
        for layer in open.into_iter().chain(frozen) {
            let generation = layer.generation;
            self.tell_of_loss(&Record::Forget { generation });
            self.table.end(generation, layer.first, &self.journal);
            self.pressure.ease(layer.extents.total_bytes());
        }
    }

    /// A file without a name is not looked for after a restart.
    fn note_nameless(&self, file: &DirtyFile) {
        let layers = begun(&file.state());
        for (generation, _) in layers {
            self.tell_of_loss(&Record::Forget { generation });
        }
    }

    pub(super) fn tell_of_loss(&self, record: &Record) {
        if let Err(error) = self.journal.append(record, Room::Uploads) {
            tracing::warn!(%error, "a removed file will be looked for after a crash");
        }
    }
}

/// What the journal is told of a generation that has begun while its file is losing a name, or has just lost it.
pub(super) fn told_of_loss(generation: Generation, state: &FileState) -> Option<Record> {
    match state.is_nameless {
        true => Some(Record::Forget { generation }),
        false if state.losses.0 != state.losses.1 => Some(Record::Losing { generation }),
        false => None,
    }
}

fn begun(state: &FileState) -> Vec<(Generation, Sequence)> {
    let layers = state.layers();
    let names = |layer: &&Layer| (layer.generation, layer.first);
    layers.iter().map(names).collect()
}
