//! What cannot become the backend's is put beside it: somebody else has changed the file meanwhile, or it is gone.

use super::WriteBack;
use super::conflicts::{Conflict, ConflictKind};
use super::dirty::DirtyFile;
use super::file::errno;
use super::layers::{Layer, Origin, origins};
use super::upload::{CHUNK_BYTES, UploadError, is_refusal, write_all};
use crate::backend::Place;
use crate::backend::writing::{NewFile, WritableFile, WriteAccess};
use crate::clock::wall_clock;
use crate::journal::{Record, Room};
use crate::types::{Attributes, ByteRange, Credentials, FileKey};
use parking_lot::MutexGuard;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Names that are taken are passed over, so many at most.
const NAME_TRIES: u32 = 100;
/// A name on any usual filesystem is not longer.
const NAME_BYTES_MAX: usize = 255;
/// A file that is written beside another.
struct Beside {
    path: PathBuf,
    file: Arc<dyn WritableFile>,
}

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
        let Some(top) = views.first() else {
            return Ok(());
        };
        let parent = place.path.parent().unwrap_or(Path::new(""));
        let directory = self.find_directory(parent)?;
        let name = place.path.file_name().unwrap_or(OsStr::new("file"));
        let suffix = format!(".conflict-{}-{}", self.host, in_utc(wall_clock().seconds));
        let mode = present.permissions & 0o777;
        let beside = self.make_beside(&directory, name, &suffix, mode, &opener)?;
        let missing = self.write_view(&views, top.size_bytes, &*beside.file)?;
        let ranges = match missing.is_empty() {
            true => None,
            false => Some(self.tell_ranges(&directory, &beside, &views, mode, &opener)?),
        };
        self.inner.sync_directory(&directory)?;
        tracing::warn!(path = ?place.path, beside = ?beside.path, "changed by somebody else while it was written here: both are kept");
        self.conflicts.add(Conflict {
            kind: ConflictKind::Changed,
            seconds: wall_clock().seconds,
            path: place.path,
            beside: beside.path,
            ranges,
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
        let Some(top) = views.first() else {
            return Ok(());
        };
        let parent = place.path.parent().unwrap_or(Path::new(""));
        let name = place.path.file_name().unwrap_or(OsStr::new("file"));
        let suffix = format!(".removed-{}-{}", self.host, in_utc(wall_clock().seconds));
        // The directory may have gone with it.
        let directory = self
            .find_directory(parent)
            .or_else(|_| self.find_directory(Path::new("")))?;
        let beside = self.make_beside(&directory, name, &suffix, 0o600, &opener)?;
        let missing = self.write_view(&views, top.size_bytes, &*beside.file)?;
        let ranges = match missing.is_empty() {
            true => None,
            false => Some(self.tell_ranges(&directory, &beside, &views, 0o600, &opener)?),
        };
        self.inner.sync_directory(&directory)?;
        tracing::warn!(path = ?place.path, kept = ?beside.path, "removed by somebody else while it was written here: what was written is kept");
        self.conflicts.add(Conflict {
            kind: ConflictKind::Removed,
            seconds: wall_clock().seconds,
            path: place.path,
            beside: beside.path.clone(),
            ranges,
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
        self.pressure.sent(sent_bytes, Instant::now());
        for layer in layers {
            self.table.end(layer.generation, layer.first, &self.journal);
        }
        Ok(())
    }

    /// Writes what layers show; what only the backend has had is left out, and answered.
    fn write_view(
        &self,
        layers: &[&Layer],
        size_bytes: u64,
        into: &dyn WritableFile,
    ) -> Result<Vec<ByteRange>, UploadError> {
        let mut missing = Vec::new();
        for (range, origin) in origins(layers, ByteRange::new(0, size_bytes)) {
            match origin {
                Origin::Zeros => {}
                Origin::Backend => missing.push(range),
                Origin::Journal(part) => {
                    debug_assert!(range.length_bytes() <= CHUNK_BYTES);
                    let mut data = vec![0; range.length_bytes() as usize];
                    self.journal.read(&part.piece, part.skip, &mut data)?;
                    write_all(into, &data, range.start)?;
                }
            }
        }
        into.set_size(size_bytes)?;
        into.sync(false)?;
        Ok(missing)
    }

    /// Which ranges of what lies beside were written here, in a file of its own.
    fn tell_ranges(
        &self,
        directory: &Place,
        beside: &Beside,
        layers: &[&Layer],
        mode: u32,
        opener: &Credentials,
    ) -> Result<PathBuf, UploadError> {
        let name = beside.path.file_name().unwrap_or(OsStr::new("file"));
        let size_bytes = layers.first().map_or(0, |top| top.size_bytes);
        let made = self.make_beside(directory, name, ".ranges", mode, opener)?;
        write_all(&*made.file, manifest(layers, size_bytes).as_bytes(), 0)?;
        made.file.sync(false)?;
        Ok(made.path)
    }

    fn make_beside(
        &self,
        directory: &Place,
        name: &OsStr,
        suffix: &str,
        mode: u32,
        opener: &Credentials,
    ) -> io::Result<Beside> {
        let new = NewFile {
            mode: mode | 0o600,
            umask: 0,
            access: WriteAccess::WriteOnly,
        };
        for number in 0..NAME_TRIES {
            let name = beside_name(name, suffix, number);
            let make = |who| self.inner.create(directory, &name, new, who);
            let made = match make(opener) {
                Err(error) if is_refusal(&error) => make(&self.own),
                made => made,
            };
            match made {
                Ok((_, file)) => {
                    let path = directory.path.join(name);
                    return Ok(Beside { path, file });
                }
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Err(errno(libc::EEXIST))
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

/// NAME and suffix, cut so that it is a name; with a number where that one is taken.
fn beside_name(name: &OsStr, suffix: &str, number: u32) -> OsString {
    let suffix = match number {
        0 => suffix.to_owned(),
        _ => format!("{suffix}-{number}"),
    };
    let mut bytes = cut(name, NAME_BYTES_MAX - suffix.len()).to_vec();
    bytes.extend_from_slice(suffix.as_bytes());
    OsString::from_vec(bytes)
}

/// As much of a name as fits, and no part of a character where it is text.
fn cut(name: &OsStr, length_max: usize) -> &[u8] {
    let mut end = name.len().min(length_max);
    if let Some(text) = name.to_str() {
        while !text.is_char_boundary(end) {
            end -= 1;
        }
    }
    &name.as_bytes()[..end]
}

/// Which ranges of a file were written here, a line each.
fn manifest(layers: &[&Layer], size_bytes: u64) -> String {
    let all = origins(layers, ByteRange::new(0, size_bytes)).into_iter();
    let ours = all.filter(|(_, origin)| *origin != Origin::Backend);
    let mut written: Vec<ByteRange> = Vec::new();
    for (range, _) in ours {
        match written.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => written.push(range),
        }
    }
    let mut text = format!("size {size_bytes}\n");
    for range in written {
        let _ = writeln!(text, "{} {}", range.start, range.end);
    }
    text
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

    #[test]
    fn a_name_beside_another_is_a_name_however_long_that_is() {
        let long = OsString::from("n".repeat(255));
        for number in [0, 7, 99] {
            let beside = beside_name(&long, ".conflict-host-20261122T013045Z", number);
            assert!(beside.len() <= 255, "{beside:?}");
            assert!(beside.to_string_lossy().contains(".conflict-host-"));
        }
    }
}
