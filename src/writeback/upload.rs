//! A generation becomes what the backend has.
//!
//! What always holds: the backend is not touched before an intent is durable that says what it had; a generation is done
//! only after the backend's fsync; programs see the file as the journal has it until then.

use super::comparing::Verdict;
use super::dirty::{DirtyFile, Frozen};
use super::layers::{Layer, Origin, origins};
use super::{ConflictAnswer, WriteBack};
use crate::backend::Place;
use crate::backend::writing::{WritableFile, WriteAccess};
use crate::journal::{AppendError, BaseSum, ReadError, Record, Room};
use crate::types::{AttributeChange, Attributes, ByteRange, Credentials, Version};
use parking_lot::MutexGuard;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Sums of one record: a batch takes it beside others.
pub(super) const SUMS_IN_A_RECORD: usize = 1000;

/// S_IWUSR of inode(7).
const OWNER_WRITES: u32 = 0o200;

/// Why an upload did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("the backend: {0}")]
    Backend(#[from] io::Error),
    #[error("{0}")]
    Journal(#[from] AppendError),
    #[error("{0}")]
    Reading(#[from] ReadError),
    #[error("it is losing a name just now")]
    LosingName,
}

impl UploadError {
    /// What a program is told that waits for it.
    pub fn to_io(&self) -> io::Error {
        let code = match self {
            Self::Backend(error) => error.raw_os_error(),
            Self::Journal(AppendError::Full) => Some(libc::ENOSPC),
            Self::LosingName => Some(libc::EAGAIN),
            Self::Journal(AppendError::Failed(_)) | Self::Reading(_) => None,
        };
        io::Error::from_raw_os_error(code.unwrap_or(libc::EIO))
    }
}

/// How a file was when an upload had ended.
struct Finished {
    /// It was not forgotten meanwhile.
    was_needed: bool,
    /// What the backend has may have changed with the loss of the name, since it was asked.
    is_nameless: bool,
    /// The version that was shown, where the file is clean now and nobody else has written to it.
    shown: Option<Version>,
}

impl WriteBack {
    /// Brings what is dirty of a file to the backend; changes may go on meanwhile.
    pub(super) fn upload(&self, file: &Arc<DirtyFile>) -> Result<(), UploadError> {
        let _uploading = file.uploading.lock();
        freeze(file, &file.turn.lock());
        let outcome = self.upload_frozen(file, None);
        self.table.release(file);
        outcome
    }

    /// Makes a change that is not the journal's with all the file's data on the backend, while no other change of the
    /// file is made.
    pub(super) fn with_settled<T>(
        &self,
        file: &Arc<DirtyFile>,
        change: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let _uploading = file.uploading.lock();
        let turn = file.turn.lock();
        while file.is_dirty() {
            freeze(file, &turn);
            self.upload_frozen(file, Some(&turn))
                .map_err(|error| error.to_io())?;
        }
        let changed = change();
        // Whoever opens it from now on asks by himself.
        let below = {
            let state = file.state();
            state.file.clone().filter(|_| state.is_needed())
        };
        if let Some(Ok(fresh)) = below.map(|below| below.attributes()) {
            file.state().move_base(fresh);
        }
        drop(turn);
        self.table.release(file);
        changed
    }

    fn upload_frozen(
        &self,
        file: &Arc<DirtyFile>,
        turn: Option<&MutexGuard<'_, ()>>,
    ) -> Result<(), UploadError> {
        let (frozen, losses) = {
            let state = file.state();
            (state.frozen.clone(), state.losses)
        };
        let Some(frozen) = frozen else {
            return Ok(());
        };
        let found = self.descriptor(file).and_then(|below| {
            let present = below.attributes()?;
            Ok((below, present))
        });
        let (below, present) = match found {
            Err(error) if is_gone(&error) => {
                self.expect_gone(file, error)?;
                return self.without_file(file, losses, turn);
            }
            found => found?,
        };
        if present.link_count == 0 && !file.state().is_nameless {
            return self.without_file(file, losses, turn);
        }
        let verdict = self.judge(file, &frozen, &*below, &present)?;
        if verdict == Verdict::Foreign {
            expect_names(file, losses)?;
            // Where keys tell no more than the inode's number, another file has it by now.
            if file.state().was_losing {
                self.forget(file);
                return Ok(());
            }
        }
        let frozen = match (verdict, self.settings.conflict) {
            (Verdict::Ours, _) => frozen,
            (Verdict::Foreign, ConflictAnswer::Ours) if is_whole(&frozen.layer) => {
                write_over(file, &frozen, &present)
            }
            (Verdict::Foreign, ConflictAnswer::Ours | ConflictAnswer::KeepBoth) => {
                return self.put_beside(file, &present, turn);
            }
            (Verdict::Foreign, ConflictAnswer::Theirs) => {
                return self.give_up(file, &present, turn);
            }
        };
        if frozen.layer.changes_nothing() {
            return self.finish(file, &frozen.layer, present, turn);
        }
        let has_read = self.intend(file, &frozen, &*below, &present)?;
        // What it has may have been long to read.
        if has_read && below.attributes()?.version() != present.version() {
            if let Some(held) = &mut file.state().frozen {
                held.intent = None;
            }
            return self.upload_frozen(file, turn);
        }
        // Somebody waits for what is sent within a turn.
        let is_paced = turn.is_none();
        let bytes = frozen.layer.extents.total_bytes();
        let uploading = self.pressure.uploading(bytes, Instant::now());
        self.send(file, &frozen.layer, &*below, &present, is_paced)?;
        uploading.arrived(Instant::now());
        let after = below.attributes()?;
        self.finish(file, &frozen.layer, after, turn)
    }

    /// A server says so of what it has for a moment, as when an export is added again: the name tells. What was held of the
    /// file may be good for nothing then.
    fn expect_gone(&self, file: &DirtyFile, said: io::Error) -> io::Result<()> {
        let (place, is_nameless) = {
            let state = file.state();
            (state.place.clone(), state.is_nameless)
        };
        if is_nameless || !self.has_its_name(&place)? {
            return Ok(());
        }
        let held = file.state().file.take();
        drop(held);
        Err(said)
    }

    /// Whether the name of a file leads to it.
    pub(super) fn has_its_name(&self, place: &Place) -> io::Result<bool> {
        let (Some(parent), Some(name)) = (place.path.parent(), place.path.file_name()) else {
            return Ok(true);
        };
        let parent = self.find_directory(parent);
        match parent.and_then(|parent| self.inner.lookup(&parent, name)) {
            Ok(found) => Ok(found.key == place.key),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The file was removed by somebody else.
    fn without_file(
        &self,
        file: &Arc<DirtyFile>,
        losses: (u32, u32),
        turn: Option<&MutexGuard<'_, ()>>,
    ) -> Result<(), UploadError> {
        expect_names(file, losses)?;
        if file.state().was_losing {
            self.forget(file);
            return Ok(());
        }
        if self.settings.conflict != ConflictAnswer::Theirs {
            return self.keep_orphan(file, turn);
        }
        let path = file.state().place.path.clone();
        tracing::warn!(
            ?path,
            "removed by somebody else while it was written here: ours is given up, as conflict=theirs says"
        );
        self.forget(file);
        Ok(())
    }

    /// One that a program has, or had; else a new one: as the opener, and where that is refused by now as the daemon, or as the
    /// owner who takes his right back for it.
    fn descriptor(&self, file: &DirtyFile) -> io::Result<Arc<dyn WritableFile>> {
        let (held, place, opener) = {
            let state = file.state();
            let held = state.file.clone();
            (held, state.place.clone(), state.opener.clone())
        };
        if let Some(held) = held {
            return Ok(held);
        }
        let place = self.present_place(place)?;
        let open = |who| {
            self.inner
                .open_writable(&place, WriteAccess::WriteOnly, who)
        };
        let opened = match open(&opener) {
            Err(error) if is_refusal(&error) => match open(&self.own) {
                Err(error) if is_refusal(&error) => {
                    self.with_lent_right(file, &place, &opener, || open(&opener))
                }
                outcome => outcome,
            },
            outcome => outcome,
        }?;
        let mut state = file.state();
        state.place = place;
        Ok(state.file.get_or_insert(opened).clone())
    }

    /// Opens a file whose owner wrote it by the descriptor that made it, and may not open it for writing any more (0444): he is
    /// lent the right to for as long as that takes. A crash just then leaves it with him.
    fn with_lent_right<T>(
        &self,
        file: &DirtyFile,
        place: &Place,
        owner: &Credentials,
        open: impl Fn() -> io::Result<T>,
    ) -> io::Result<T> {
        let before = self.inner.attributes(place)?;
        let permit = |permissions| {
            let change = AttributeChange {
                permissions: Some(permissions),
                ..AttributeChange::default()
            };
            self.inner.set_attributes(place, &change, owner)
        };
        if before.uid != owner.uid || before.permissions & OWNER_WRITES != 0 {
            return open();
        }
        permit(before.permissions | OWNER_WRITES)?;
        let opened = open();
        permit(before.permissions)?;
        // The change time has moved, and that was nobody else.
        let after = self.inner.attributes(place)?;
        let mut state = file.state();
        if state
            .base
            .is_some_and(|base| base.version() == before.version())
        {
            state.base = Some(after);
        }
        opened
    }

    /// With the number that the file's filesystem has in this life: one that was not met yet is found by the way to it.
    fn present_place(&self, place: Place) -> io::Result<Place> {
        let met = self.inner.filesystem_of(&place.key);
        let filesystem = match (met, place.path.parent(), place.path.file_name()) {
            (Some(met), _, _) => met,
            (None, Some(parent), Some(name)) => {
                let directory = self.find_directory(parent)?;
                self.inner.lookup(&directory, name)?.filesystem
            }
            (None, _, _) => place.filesystem,
        };
        Ok(Place {
            filesystem,
            ..place
        })
    }

    /// Makes it durable in the journal what the backend has where the upload writes over it. Whether that had to be read.
    fn intend(
        &self,
        file: &DirtyFile,
        frozen: &Frozen,
        below: &dyn WritableFile,
        present: &Attributes,
    ) -> Result<bool, UploadError> {
        // One without a name is not looked for after a crash.
        if frozen.intent.is_some() || file.state().is_nameless {
            return Ok(false);
        }
        let generation = frozen.layer.generation;
        let base: Vec<BaseSum> = self.sums(file, &frozen.layer, below, present)?;
        let has_read = !base.is_empty();
        self.append_intent(generation, &base)?;
        self.journal.make_durable(self.journal.last_told())?;
        if let Some(held) = &mut file.state().frozen {
            held.intent = Some(Arc::new(base));
        }
        Ok(has_read)
    }

    /// All of a generation is on the backend. That is durable here before anybody takes it for so: a crash that forgets it
    /// has it made again, over what others have changed since.
    pub(super) fn finish(
        &self,
        file: &Arc<DirtyFile>,
        layer: &Layer,
        after: Attributes,
        turn: Option<&MutexGuard<'_, ()>>,
    ) -> Result<(), UploadError> {
        let _own_turn = turn.is_none().then(|| file.turn.lock());
        let done = Record::Done {
            generation: layer.generation,
            version: Some(after.version()),
        };
        let sequence = self.journal.append(&done, Room::Uploads)?;
        self.journal.make_durable(sequence)?;
        let finished = self.note_finished(file, layer, after);
        self.table.end(layer.generation, layer.first, &self.journal);
        if finished.was_needed {
            let sent = layer.extents.total_bytes();
            self.pressure.ease(sent);
        }
        if finished.is_nameless {
            self.note_change(Some(file));
        }
        if let Some(shown) = finished.shown
            && let Some(carry_over) = self.carry_over.get()
        {
            carry_over(&file.key, &shown, &after.version());
        }
        Ok(())
    }

    fn note_finished(&self, file: &DirtyFile, layer: &Layer, after: Attributes) -> Finished {
        // Before: whoever finds the file clean is to find this, too.
        self.table.note_end(&file.key);
        let mut state = file.state();
        let shown = state.shown_version(&after);
        let is_this = |frozen: &mut Frozen| frozen.layer.generation == layer.generation;
        let was_needed = state.frozen.take_if(is_this).is_some();
        state.base = Some(after);
        state.was_losing = false;
        state.note_success();
        let shown = (!state.is_dirty() && is_as_left(layer, &after)).then_some(shown);
        if let Some(shown) = shown {
            // Under the lock: whoever is shown what the backend has finds this.
            self.table.note_version(&file.key, shown, after.version());
        }
        Finished {
            was_needed,
            is_nameless: state.is_nameless,
            shown,
        }
    }
}

/// Its names are as they were: what was found is not because one of them went here.
fn expect_names(file: &DirtyFile, before: (u32, u32)) -> Result<(), UploadError> {
    let now = file.state().losses;
    match now == before && now.0 == now.1 {
        true => Ok(()),
        false => Err(UploadError::LosingName),
    }
}

/// Nothing of the file is only on the backend: parts of ours in theirs would be a file that nobody has written.
fn is_whole(layer: &Layer) -> bool {
    let all = ByteRange::new(0, layer.size_bytes);
    let mut origins = origins(&[layer], all).into_iter();
    origins.all(|(_, origin)| origin != Origin::Backend)
}

/// What somebody else has made of the file is what ours is written over.
fn write_over(file: &DirtyFile, frozen: &Frozen, present: &Attributes) -> Frozen {
    let mut layer = Layer::clone(&frozen.layer);
    layer.base = Some(present.version());
    let over = Frozen {
        layer: Arc::new(layer),
        intent: None,
    };
    let mut state = file.state();
    tracing::warn!(path = ?state.place.path, "changed by somebody else while it was written here: written over, as conflict=ours says");
    state.frozen = Some(over.clone());
    over
}

/// What takes changes is to be uploaded from now on, unless something is already. Called in the file's turn.
fn freeze(file: &DirtyFile, _turn: &MutexGuard<'_, ()>) {
    let mut state = file.state();
    if state.frozen.is_none() {
        state.frozen = state.open.take().map(|layer| Frozen {
            layer: Arc::new(layer),
            intent: None,
        });
    }
}

/// Nobody has written to the file since its size and time were set, as far as these tell: servers round times down.
fn is_as_left(layer: &Layer, after: &Attributes) -> bool {
    after.size_bytes == layer.size_bytes && after.mtime <= layer.stamp
}

/// The file is not there any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ENOENT))
}

pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}
