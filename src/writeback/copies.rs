//! A copy that is put beside a file.
//!
//! What always holds: a copy has its name only when all of it is on stable storage of the backend, and so has the list of
//! its ranges; what is begun has a name that the next try finds, and takes away.

use super::WriteBack;
use super::layers::{Layer, Origin, origins};
use super::sending::{CHUNK_BYTES, write_all};
use super::upload::{UploadError, is_refusal};
use crate::backend::Place;
use crate::backend::writing::{NewFile, WritableFile, WriteAccess};
use crate::journal::checksum::crc64;
use crate::types::{ByteRange, Credentials, FileKey, Removal, RenameMode, Version};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;

/// Names that are taken are passed over, so many at most.
const NAME_TRIES: u32 = 100;
/// A name on any usual filesystem is not longer.
const NAME_BYTES_MAX: usize = 255;
const RANGES: &str = ".ranges";

/// What is put beside a file.
pub(super) struct Laying<'a> {
    pub directory: &'a Place,
    pub name: &'a OsStr,
    pub suffix: String,
    pub mode: u32,
    pub opener: &'a Credentials,
    pub key: &'a FileKey,
    /// What is cached of this version is what the layers and their base show.
    pub cached: Option<Version>,
    /// From the top down.
    pub layers: &'a [&'a Layer],
    pub size_bytes: u64,
}

/// What was put there.
pub(super) struct Beside {
    pub path: PathBuf,
    /// Which ranges of it were written here; without: all of it.
    pub ranges: Option<PathBuf>,
    pub file: Arc<dyn WritableFile>,
}

impl WriteBack {
    /// Writes what layers show, as the opener, and where that is refused as the daemon. Blocks on the backend. An error
    /// leaves nothing behind, as far as the backend takes that.
    pub(super) fn lay_beside(&self, laying: &Laying<'_>) -> Result<Beside, UploadError> {
        let [copy, ranges] = ["", RANGES].map(|which| laying.begun_name(&self.host, which));
        let laid = self.lay(laying, &copy, &ranges);
        if laid.is_err() {
            for name in [&copy, &ranges] {
                let _ = self.remove_begun(laying, name);
            }
        }
        laid
    }

    fn lay(
        &self,
        laying: &Laying<'_>,
        copy: &OsStr,
        ranges: &OsStr,
    ) -> Result<Beside, UploadError> {
        let file = self.begin_beside(laying, copy)?;
        let missing = self.write_view(laying, &*file)?;
        let name = self.free_name(laying)?;
        let list = (!missing.is_empty()).then(|| beside_name(&name, RANGES, 0));
        if let Some(list) = &list {
            let told = self.begin_beside(laying, ranges)?;
            let text = manifest(laying.layers, laying.size_bytes);
            write_all(&*told, text.as_bytes(), 0)?;
            told.sync(false)?;
            self.give_name(laying, ranges, list)?;
        }
        self.give_name(laying, copy, &name)?;
        self.inner.sync_directory(laying.directory)?;
        let path = |name: OsString| laying.directory.path.join(name);
        Ok(Beside {
            path: path(name),
            ranges: list.map(path),
            file,
        })
    }

    fn as_opener<T>(
        &self,
        laying: &Laying<'_>,
        call: impl Fn(&Credentials) -> io::Result<T>,
    ) -> io::Result<T> {
        match call(laying.opener) {
            Err(error) if is_refusal(&error) => call(&self.own),
            made => made,
        }
    }

    /// A new file in the place of one that was begun before.
    fn begin_beside(&self, laying: &Laying<'_>, name: &OsStr) -> io::Result<Arc<dyn WritableFile>> {
        let new = NewFile {
            mode: laying.mode | 0o600,
            umask: 0,
            access: WriteAccess::WriteOnly,
        };
        self.remove_begun(laying, name)?;
        let make = |who: &Credentials| self.inner.create(laying.directory, name, new, who);
        self.as_opener(laying, make).map(|(_, file)| file)
    }

    fn remove_begun(&self, laying: &Laying<'_>, name: &OsStr) -> io::Result<()> {
        let remove = |who: &Credentials| {
            self.inner
                .remove(laying.directory, name, Removal::File, who)
        };
        match self.as_opener(laying, remove) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn free_name(&self, laying: &Laying<'_>) -> io::Result<OsString> {
        for number in 0..NAME_TRIES {
            let name = beside_name(laying.name, &laying.suffix, number);
            if !self.is_taken(laying, &name)? {
                return Ok(name);
            }
        }
        Err(super::file::errno(libc::EEXIST))
    }

    fn is_taken(&self, laying: &Laying<'_>, name: &OsStr) -> io::Result<bool> {
        match self.inner.lookup(laying.directory, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            found => found.map(|_| true),
        }
    }

    fn give_name(&self, laying: &Laying<'_>, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let rename = |mode| {
            let places = ((laying.directory, from), (laying.directory, to));
            self.as_opener(laying, |who| {
                self.inner.rename(places.0, places.1, mode, who)
            })
        };
        match rename(RenameMode::NoReplace) {
            // As of NFS, which cannot be asked so.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                match self.is_taken(laying, to)? {
                    true => Err(super::file::errno(libc::EEXIST)),
                    false => rename(RenameMode::Replace),
                }
            }
            renamed => renamed,
        }
    }

    /// Writes what layers show, over what is cached of their base; what only the backend has had is left out, and answered.
    fn write_view(
        &self,
        laying: &Laying<'_>,
        into: &dyn WritableFile,
    ) -> Result<Vec<ByteRange>, UploadError> {
        let size_bytes = laying.size_bytes;
        let mut missing = Vec::new();
        for (range, origin) in origins(laying.layers, ByteRange::new(0, size_bytes)) {
            match origin {
                Origin::Zeros => {}
                Origin::Backend if self.write_cached(laying, range, into)? => {}
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

    /// Whether all of a range is cached, and written.
    fn write_cached(
        &self,
        laying: &Laying<'_>,
        range: ByteRange,
        into: &dyn WritableFile,
    ) -> io::Result<bool> {
        let (Some(version), Some(read)) = (&laying.cached, self.read_cached.get()) else {
            return Ok(false);
        };
        let mut at = range.start;
        while at < range.end {
            let mut data = vec![0; (range.end - at).min(CHUNK_BYTES) as usize];
            if !read(laying.key, version, &mut data, at) {
                return Ok(false);
            }
            write_all(into, &data, at)?;
            at += data.len() as u64;
        }
        Ok(true)
    }
}

impl Laying<'_> {
    /// The same for a file whenever it is tried.
    fn begun_name(&self, host: &str, which: &str) -> OsString {
        let suffix = format!("-{:016x}{which}.begun", crc64(&self.key.0));
        beside_name(OsStr::new(&format!(".nfs-cachefs-{host}")), &suffix, 0)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
