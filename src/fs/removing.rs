//! Names that go: unlink, rmdir, and rename, which may replace one.
//!
//! A file that programs have open is held on the backend before it loses a name, so that they go on with it. One that
//! nobody has open is let go of first: on NFS any descriptor of ours would leave an .nfsXXXX behind.

use super::FileSystem;
use super::claims::Claim;
use super::node::Node;
use super::open_file::Held;
use super::operations::{Done, RequestContext};
use crate::types::{Credentials, FileKind, NodeId, Removal, RenameMode};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;

/// A node about to lose a name, and what keeps its file if programs have it open.
struct Losing {
    node: Arc<Node>,
    held: Option<Held>,
    is_last_name: bool,
}

impl FileSystem {
    pub(super) fn remove_name(
        &self,
        context: RequestContext,
        parent: NodeId,
        name: &OsStr,
        removal: Removal,
        done: Done<()>,
    ) {
        let parent = match self.node(parent) {
            Ok(parent) => parent,
            Err(error) => return done(Err(error)),
        };
        let name = name.to_owned();
        let mut claims = vec![Claim::Name(parent.id, name.clone())];
        claims.extend(self.claim_of(&parent, &name));
        self.change(
            context,
            claims,
            done,
            move |fs, caller| {
                let losing = fs.prepare_loss(&parent, &name, caller);
                let place = fs.place(&parent, caller);
                let remove = || fs.backend.remove(&place, &name, removal, caller);
                let outcome = fs.remove_once_closed(losing.as_ref(), remove);
                fs.names_changed(&parent);
                finish_loss(fs, losing, &outcome);
                if outcome.is_ok() {
                    fs.name_is_gone(&parent, &name);
                }
                fs.sync_names(&parent, caller, outcome?)
            },
            |_, ()| (),
        );
    }

    pub(super) fn rename_node(
        &self,
        context: RequestContext,
        from: (NodeId, &OsStr),
        to: (NodeId, &OsStr),
        mode: RenameMode,
        done: Done<()>,
    ) {
        let (old, new) = match (self.node(from.0), self.node(to.0)) {
            (Ok(old), Ok(new)) => (old, new),
            (Err(error), _) | (_, Err(error)) => return done(Err(error)),
        };
        let (from, to) = (from.1.to_owned(), to.1.to_owned());
        let mut claims = vec![
            Claim::Name(old.id, from.clone()),
            Claim::Name(new.id, to.clone()),
        ];
        claims.extend(self.claim_of(&old, &from));
        claims.extend(self.claim_of(&new, &to));
        self.change(
            context,
            claims,
            done,
            move |fs, caller| {
                let moving = fs.nodes.by_name(old.id, &from);
                let met = fs.nodes.by_name(new.id, &to);
                let replaces = mode == RenameMode::Replace && !same_node(&moving, &met);
                let losing = replaces
                    .then(|| fs.prepare_loss(&new, &to, caller))
                    .flatten();
                let rename = || {
                    let (from_place, to_place) = (fs.place(&old, caller), fs.place(&new, caller));
                    let (from_name, to_name) = ((&from_place, &*from), (&to_place, &*to));
                    fs.backend.rename(from_name, to_name, mode, caller)?;
                    fs.nodes.moved((&old, &from), (&new, &to), mode);
                    fs.note_renamed((&old, &from), (&new, &to), mode, [&moving, &met]);
                    Ok(())
                };
                let outcome = match &moving {
                    Some(moving) => fs.change_keeping(moving, caller, rename),
                    None => rename(),
                };
                fs.names_changed(&old);
                fs.names_changed(&new);
                if let Some(met) = met {
                    fs.expire(&met);
                }
                finish_loss(fs, losing, &outcome);
                fs.sync_names(&old, caller, outcome?)?;
                fs.sync_names(&new, caller, ())
            },
            |_, ()| (),
        );
    }

    fn claim_of(&self, parent: &Node, name: &OsStr) -> Option<Claim> {
        let node = self.nodes.by_name(parent.id, name)?;
        Some(Claim::Inode(node.id))
    }

    /// Blocks on the backend.
    fn prepare_loss(&self, parent: &Node, name: &OsStr, caller: &Credentials) -> Option<Losing> {
        let node = self.nodes.by_name(parent.id, name)?;
        let (kind, link_count, is_open) = {
            let state = node.state.lock();
            let attributes = node.attributes(&state);
            (attributes.kind, attributes.link_count, state.open.is_some())
        };
        if kind == FileKind::Directory {
            return Some(Losing {
                node,
                held: None,
                is_last_name: true,
            });
        }
        let mut losing = Losing {
            node,
            held: None,
            is_last_name: link_count <= 1,
        };
        if !is_open {
            self.let_go(&losing.node);
        } else if let Ok((found, held)) =
            self.backend.hold(&self.place(parent, caller), name, caller)
            && losing.node.is_of(&found)
        {
            losing.is_last_name = found.attributes.link_count <= 1;
            losing.held = Some(Held {
                file: held,
                in_the_way: self.descriptors.count(&parent.key),
            });
        }
        Some(losing)
    }

    /// A file that nobody has open is to be open here no more.
    fn let_go(&self, node: &Node) {
        self.cache.let_go(&node.key);
        let is_open = |node: &Arc<Node>| node.state.lock().open.is_some();
        if !self.nodes.of_file(node).iter().any(is_open) {
            self.descriptors.wait_until_closed(&node.key);
        }
    }

    /// What is left in a directory may be files without a name that are just being closed.
    fn remove_once_closed(
        &self,
        losing: Option<&Losing>,
        remove: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        let refused = match remove() {
            Err(error) if error.raw_os_error() == Some(libc::ENOTEMPTY) => error,
            outcome => return outcome,
        };
        let directory = losing.map(|losing| &losing.node.key);
        let Some(key) = directory.filter(|key| self.descriptors.is_any(key)) else {
            return Err(refused);
        };
        self.descriptors.wait_until_closed(key);
        remove()
    }
}

fn same_node(one: &Option<Arc<Node>>, other: &Option<Arc<Node>>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if Arc::ptr_eq(one, other))
}

fn finish_loss(fs: &FileSystem, losing: Option<Losing>, outcome: &io::Result<()>) {
    let Some(losing) = losing.filter(|_| outcome.is_ok()) else {
        return;
    };
    if losing.is_last_name {
        // Its inode number may come back with another file.
        fs.nodes.supersede(&losing.node);
        fs.listings.forget(&losing.node);
    }
    fs.backend.forget_directory(&losing.node.place_for(&None));
    fs.expire(&losing.node);
    let open = losing.node.state.lock().open.clone();
    match open {
        Some(open) => *open.held.lock() = losing.held,
        None if losing.is_last_name => fs.cache.note_removed(losing.node.key.clone()),
        None => {}
    }
}
