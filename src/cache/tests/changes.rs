//! The cache changes nothing on the backend.

use super::backend::{FakeBackend, unsupported};
use crate::backend::{Found, HeldFile, NameChanges, Place};
use crate::types::{AttributeChange, Credentials, NewNode, Removal, RenameMode};
use std::ffi::OsStr;
use std::io;

impl NameChanges for FakeBackend {
    fn make(&self, _: &Place, _: &OsStr, _: &NewNode, _: &Credentials) -> io::Result<Found> {
        unsupported()
    }

    fn link(&self, _: &Place, _: &Place, _: &OsStr, _: &Credentials) -> io::Result<Found> {
        unsupported()
    }

    fn remove(&self, _: &Place, _: &OsStr, _: Removal, _: &Credentials) -> io::Result<()> {
        unsupported()
    }

    fn rename(
        &self,
        _: (&Place, &OsStr),
        _: (&Place, &OsStr),
        _: RenameMode,
        _: &Credentials,
    ) -> io::Result<()> {
        unsupported()
    }

    fn forget_directory(&self, _: &Place) {}
    fn hold(&self, _: &Place, _: &OsStr, _: &Credentials) -> io::Result<(Found, HeldFile)> {
        unsupported()
    }

    fn set_attributes(&self, _: &Place, _: &AttributeChange, _: &Credentials) -> io::Result<()> {
        unsupported()
    }

    fn set_xattr(&self, _: &Place, _: &OsStr, _: &[u8], _: i32, _: &Credentials) -> io::Result<()> {
        unsupported()
    }

    fn remove_xattr(&self, _: &Place, _: &OsStr, _: &Credentials) -> io::Result<()> {
        unsupported()
    }

    fn sync_directory(&self, _: &Place) -> io::Result<()> {
        unsupported()
    }

    fn sync_filesystem(&self, _: &Place) -> io::Result<()> {
        unsupported()
    }
}
