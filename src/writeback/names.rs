//! Changes of names: they go through at once, and what they stand for goes before them. Those of attributes go through at once.

use super::WriteBack;
use super::dirty::DirtyFile;
use super::table::Named;
use crate::backend::{Found, HeldFile, NameChanges, Place};
use crate::types::{
    AttributeChange, Attributes, Credentials, NewNode, Removal, RenameMode, TimeChange,
};
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

impl WriteBack {
    /// The file of this name, if it is one that is open for writing or dirty.
    fn known_name(&self, parent: &Place, name: &OsStr) -> Option<(Arc<DirtyFile>, Attributes)> {
        if let Named::Nothing = self.table.named(&parent.path.join(name)) {
            return None;
        }
        let found = self.inner.lookup(parent, name).ok()?;
        let file = self.table.get(&found.key)?;
        Some((file, found.attributes))
    }

    /// The file that is about to be moved, if it is one that is open for writing or dirty.
    fn moving(&self, parent: &Place, name: &OsStr) -> io::Result<Option<Arc<DirtyFile>>> {
        match self.table.named(&parent.path.join(name)) {
            Named::Nothing => return Ok(None),
            Named::File(file) => return Ok(Some(file)),
            Named::Unknown => {}
        }
        match self.inner.lookup(parent, name) {
            Ok(found) => Ok(self.table.get(&found.key)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is below a directory of this name goes to the backend.
    fn settle_below(&self, parent: &Place, name: &OsStr) -> io::Result<()> {
        for file in self.table.beneath(&parent.path.join(name)) {
            self.with_settled(&file, || Ok(()))?;
        }
        Ok(())
    }

    /// Renames with the data of what is moved on the backend.
    fn rename_settled(
        &self,
        moving: Option<&Arc<DirtyFile>>,
        from: (&Place, &OsStr),
        to: (&Place, &OsStr),
        mode: RenameMode,
        caller: &Credentials,
    ) -> io::Result<()> {
        let rename = || self.inner.rename(from, to, mode, caller);
        if moving.is_none() {
            self.settle_below(from.0, from.1)?;
        }
        let met = match mode {
            RenameMode::Exchange => self.moving(to.0, to.1)?,
            RenameMode::Replace | RenameMode::NoReplace => None,
        };
        if mode == RenameMode::Exchange && met.is_none() {
            self.settle_below(to.0, to.1)?;
        }
        let mut files: Vec<_> = moving.into_iter().chain(&met).collect();
        // Others who exchange the same two wait for the same one first.
        files.sort_by(|one, other| one.key.cmp(&other.key));
        files.dedup_by(|one, other| Arc::ptr_eq(one, other));
        match files[..] {
            [one] => self.with_settled(one, rename),
            [one, other] => self.with_settled(one, || self.with_settled(other, rename)),
            _ => rename(),
        }
    }

    /// A name of this file was changed, and with it its version.
    pub(super) fn note_change(&self, file: Option<&Arc<DirtyFile>>) {
        let Some(file) = file else {
            return;
        };
        let (below, place) = {
            let state = file.state();
            (state.file.clone(), state.place.clone())
        };
        let fresh = match below {
            Some(below) => below.attributes(),
            None => self.inner.attributes(&place),
        };
        if let Ok(fresh) = fresh {
            file.state().move_base(fresh);
        }
    }

    fn moved(&self, from: (&Place, &OsStr), to: (&Place, &OsStr), mode: RenameMode) {
        let (old, new) = (from.0.path.join(from.1), to.0.path.join(to.1));
        let (forth, back) = (self.table.beneath(&old), self.table.beneath(&new));
        move_paths(&forth, &old, &new);
        if mode == RenameMode::Exchange {
            move_paths(&back, &new, &old);
        }
    }
}

fn move_paths(files: &[Arc<DirtyFile>], old: &Path, new: &Path) {
    for file in files {
        let mut state = file.state();
        if let Ok(rest) = state.place.path.strip_prefix(old) {
            state.place.path = match rest.as_os_str().is_empty() {
                true => new.to_owned(),
                false => new.join(rest),
            };
        }
    }
}

impl NameChanges for WriteBack {
    fn make(
        &self,
        parent: &Place,
        name: &OsStr,
        new: &NewNode,
        caller: &Credentials,
    ) -> io::Result<Found> {
        self.inner.make(parent, name, new, caller)
    }

    fn link(
        &self,
        file: &Place,
        parent: &Place,
        name: &OsStr,
        caller: &Credentials,
    ) -> io::Result<Found> {
        let link = || self.inner.link(file, parent, name, caller);
        let Some(named) = self.table.get(&file.key) else {
            return link();
        };
        self.with_settled(&named, || {
            let linked = link()?;
            let mut state = named.state();
            state.is_nameless = false;
            state.place.path = parent.path.join(name);
            Ok(linked)
        })
    }

    fn remove(
        &self,
        parent: &Place,
        name: &OsStr,
        removal: Removal,
        caller: &Credentials,
    ) -> io::Result<()> {
        let known = match removal {
            Removal::File => self.known_name(parent, name),
            Removal::Directory => None,
        };
        let remove = || self.inner.remove(parent, name, removal, caller);
        match &known {
            None => remove(),
            // It goes on by its other names, in another version.
            Some((file, before)) if before.link_count > 1 => self.with_settled(file, || {
                self.prepare_loss(file);
                let removed = remove();
                self.end_loss(file);
                removed
            }),
            Some((file, before)) => {
                self.prepare_loss(file);
                let removed = remove();
                if removed.is_ok() {
                    self.finish_loss(file, before);
                }
                self.end_loss(file);
                removed
            }
        }
    }

    fn rename(
        &self,
        from: (&Place, &OsStr),
        to: (&Place, &OsStr),
        mode: RenameMode,
        caller: &Credentials,
    ) -> io::Result<()> {
        let replaced = match mode {
            RenameMode::Exchange => None,
            RenameMode::Replace | RenameMode::NoReplace => self.known_name(to.0, to.1),
        };
        if let Some((file, before)) = &replaced {
            if before.link_count > 1 {
                self.with_settled(file, || Ok(()))?;
            }
            self.prepare_loss(file);
        }
        let (moving, renamed) = match self.moving(from.0, from.1) {
            Ok(moving) => {
                let renamed = self.rename_settled(moving.as_ref(), from, to, mode, caller);
                (moving, renamed)
            }
            Err(error) => (None, Err(error)),
        };
        // Two names of one file: both stay.
        let is_same = |file| {
            let moving = moving.as_ref();
            moving.is_some_and(|moving| Arc::ptr_eq(moving, file))
        };
        if let Some((file, before)) = &replaced {
            if renamed.is_ok() && !is_same(file) {
                self.finish_loss(file, before);
            }
            self.end_loss(file);
        }
        renamed?;
        self.moved(from, to, mode);
        Ok(())
    }

    fn forget_directory(&self, place: &Place) {
        self.inner.forget_directory(place);
    }

    fn hold(
        &self,
        parent: &Place,
        name: &OsStr,
        caller: &Credentials,
    ) -> io::Result<(Found, HeldFile)> {
        self.inner.hold(parent, name, caller)
    }

    fn set_attributes(
        &self,
        place: &Place,
        change: &AttributeChange,
        caller: &Credentials,
    ) -> io::Result<()> {
        let set = || self.inner.set_attributes(place, change, caller);
        match self.table.get(&place.key) {
            Some(file) => self.change_attributes(&file, place, change.modify_time, set),
            None => set(),
        }
    }

    fn set_xattr(
        &self,
        place: &Place,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        caller: &Credentials,
    ) -> io::Result<()> {
        let set = || self.inner.set_xattr(place, name, value, flags, caller);
        match self.table.get(&place.key) {
            Some(file) => self.change_attributes(&file, place, TimeChange::Keep, set),
            None => set(),
        }
    }

    fn remove_xattr(&self, place: &Place, name: &OsStr, caller: &Credentials) -> io::Result<()> {
        let remove = || self.inner.remove_xattr(place, name, caller);
        match self.table.get(&place.key) {
            Some(file) => self.change_attributes(&file, place, TimeChange::Keep, remove),
            None => remove(),
        }
    }

    fn sync_directory(&self, place: &Place) -> io::Result<()> {
        self.inner.sync_directory(place)
    }

    fn sync_filesystem(&self, place: &Place) -> io::Result<()> {
        let written = self.journal.sync(self.journal.last_told());
        written.map_err(|_| super::file::errno(libc::EIO))?;
        self.inner.sync_filesystem(place)
    }
}
