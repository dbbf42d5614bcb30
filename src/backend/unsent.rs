//! What was written here and the backend does not have yet: known without it.

use super::Place;
use super::writing::{WritableFile, WriteAccess};
use crate::types::{Attributes, Credentials, FileKey, Timestamp, Version};
use std::io;
use std::sync::Arc;

/// The calls that never wait for the backend. One that has all there is answers that it has.
pub trait Unsent {
    /// Attributes known from before, of the file as it is here.
    fn as_it_is_here(&self, _key: &FileKey, known: Attributes) -> Attributes {
        known
    }

    /// The change time that the backend has, of a file that is shown with another.
    fn change_time_there(&self, _key: &FileKey) -> Option<Timestamp> {
        None
    }

    /// Whether a file has this version because of something that the backend does not have.
    fn is_unsent(&self, _key: &FileKey, _version: &Version) -> bool {
        false
    }

    /// Reads bytes of this version of a file, like pread(2). Waits for the local disk. `None` where the backend has some of them.
    fn read_unsent(
        &self,
        _key: &FileKey,
        _version: &Version,
        _buffer: &mut [u8],
        _offset: u64,
    ) -> Option<io::Result<usize>> {
        None
    }

    /// Opens a file for more changes, for whom the backend has let make those that it does not have.
    fn open_unsent(
        &self,
        _place: &Place,
        _access: WriteAccess,
        _opener: &Credentials,
    ) -> Option<Arc<dyn WritableFile>> {
        None
    }
}
