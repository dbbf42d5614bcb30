//! What cannot become the backend's is put beside it: somebody else has changed the file meanwhile, or it is gone.

use super::WriteBack;
use super::conflicts::{Conflict, ConflictKind};
use super::copies::Laying;
use super::dirty::DirtyFile;
use super::file::errno;
use super::layers::Layer;
use super::upload::UploadError;
use crate::backend::Place;
use crate::clock::wall_clock;
use crate::journal::{Record, Room};
use crate::types::{Attributes, Credentials, FileKey};
use parking_lot::MutexGuard;
use std::ffi::OsStr;
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

impl WriteBack {
    /// Somebody else has changed the file: ours goes to a file of its own, whole or what there is of it.
    pub(super) fn put_beside(
        &self,
        file: &Arc<DirtyFile>,
        present: &Attributes,
        turn: Option<&MutexGuard<'_, ()>>,
    ) -> Result<(), UploadError> {
        let own_turn = turn.is_none().then(|| file.turn.lock());
        let (layers, place, opener) = layers_of(file);
        let views: Vec<&Layer> = layers.iter().collect();
        // Before the copy: a guard within its arguments would be held as long as the backend takes.
        let cached = file.state().cached_version();
        let Some(top) = views.first() else {
            return Ok(());
        };
        let parent = place.path.parent().unwrap_or(Path::new(""));
        let directory = self.find_directory(parent)?;
        let beside = self.lay_beside(&Laying {
            directory: &directory,
            name: place.path.file_name().unwrap_or(OsStr::new("file")),
            suffix: format!(".conflict-{}-{}", self.host, in_utc(wall_clock().seconds)),
            mode: present.permissions & 0o777,
            opener: &opener,
            key: &file.key,
            cached,
            layers: &views,
            size_bytes: top.size_bytes,
        })?;
        tracing::warn!(path = ?place.path, beside = ?beside.path, "changed by somebody else while it was written here: both are kept");
        self.conflicts.add(Conflict {
            kind: ConflictKind::Changed,
            seconds: wall_clock().seconds,
            path: place.path,
            beside: beside.path,
            ranges: beside.ranges,
            theirs: Some(present.version()),
        });
        self.finish_all(file, &layers, *present)?;
        drop(own_turn);
        Ok(())
    }

    /// The file is gone, and not because of us: what was written to it is kept where it can be found.
    pub(super) fn keep_orphan(
        &self,
        file: &Arc<DirtyFile>,
        turn: Option<&MutexGuard<'_, ()>>,
    ) -> Result<(), UploadError> {
        let own_turn = turn.is_none().then(|| file.turn.lock());
        let (layers, place, opener) = layers_of(file);
        let views: Vec<&Layer> = layers.iter().collect();
        // Before the copy: a guard within its arguments would be held as long as the backend takes.
        let cached = file.state().cached_version();
        let Some(top) = views.first() else {
            return Ok(());
        };
        let parent = place.path.parent().unwrap_or(Path::new(""));
        // The directory may have gone with it.
        let directory = self
            .find_directory(parent)
            .or_else(|_| self.find_directory(Path::new("")))?;
        let beside = self.lay_beside(&Laying {
            directory: &directory,
            name: place.path.file_name().unwrap_or(OsStr::new("file")),
            suffix: format!(".removed-{}-{}", self.host, in_utc(wall_clock().seconds)),
            mode: 0o600,
            opener: &opener,
            key: &file.key,
            cached,
            layers: &views,
            size_bytes: top.size_bytes,
        })?;
        tracing::warn!(path = ?place.path, kept = ?beside.path, "removed by somebody else while it was written here: what was written is kept");
        self.conflicts.add(Conflict {
            kind: ConflictKind::Removed,
            seconds: wall_clock().seconds,
            path: place.path,
            beside: beside.path.clone(),
            ranges: beside.ranges.clone(),
            theirs: None,
        });
        let gone = file.state().file.take();
        drop(gone);
        let after = beside.file.attributes()?;
        self.finish_all(file, &layers, after)?;
        drop(own_turn);
        Ok(())
    }

    /// Somebody else has changed the file, or removed it, and theirs is to stay: ours is given up.
    pub(super) fn give_up(
        &self,
        file: &Arc<DirtyFile>,
        present: &Attributes,
        turn: Option<&MutexGuard<'_, ()>>,
    ) -> Result<(), UploadError> {
        let own_turn = turn.is_none().then(|| file.turn.lock());
        let (layers, place, _) = layers_of(file);
        tracing::warn!(path = ?place.path, "changed by somebody else while it was written here: ours is given up, as conflict=theirs says");
        self.finish_all(file, &layers, *present)?;
        drop(own_turn);
        Ok(())
    }

    fn finish_all(
        &self,
        file: &Arc<DirtyFile>,
        layers: &[Layer],
        present: Attributes,
    ) -> Result<(), UploadError> {
        for layer in layers {
            let done = Record::Done {
                generation: layer.generation,
                version: Some(present.version()),
            };
            let sequence = self.journal.append(&done, Room::Uploads)?;
            self.journal.make_durable(sequence)?;
        }
        self.table.note_end(&file.key);
        let sent_bytes = {
            let mut state = file.state();
            let sent_bytes = state.dirty_bytes();
            state.open = None;
            state.frozen = None;
            state.base = Some(present);
            state.note_success();
            sent_bytes
        };
        self.pressure.ease(sent_bytes);
        for layer in layers {
            self.table.end(layer.generation, layer.first, &self.journal);
        }
        Ok(())
    }

    /// Looks a directory up from the root.
    pub(super) fn find_directory(&self, path: &Path) -> io::Result<Place> {
        let (mut place, _) = self.inner.root()?;
        for component in path.components() {
            let Component::Normal(name) = component else {
                return Err(errno(libc::ESTALE));
            };
            let found = self.inner.lookup(&place, name)?;
            place = Place {
                filesystem: found.filesystem,
                key: FileKey::clone(&found.key),
                inode: found.attributes.inode,
                path: place.path.join(name),
                held: None,
                caller: None,
                only_caller: false,
            };
        }
        Ok(place)
    }
}

/// From the top down.
fn layers_of(file: &DirtyFile) -> (Vec<Layer>, Place, Credentials) {
    let state = file.state();
    let layers = state.layers().into_iter().cloned().collect();
    (layers, state.place.clone(), state.opener.clone())
}

/// Seconds since 1970 as `20261122T013000Z`.
fn in_utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant, chrono-compatible low-level date algorithms: civil_from_days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = match month_from_march {
        0..10 => month_from_march + 3,
        _ => month_from_march - 9,
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_named_as_the_calendar_has_them() {
        assert_eq!(in_utc(0), "19700101T000000Z");
        assert_eq!(in_utc(951_827_696), "20000229T123456Z");
        assert_eq!(in_utc(1_795_311_045), "20261122T013045Z");
    }
}
