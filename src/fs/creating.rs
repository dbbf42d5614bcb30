//! New files, and opens for writing. A writer reads and writes through the daemon, so it cannot join a node that the
//! kernel reads by itself: that one is superseded, and the kernel looks up again.

use super::FileSystem;
use super::access::Asking;
use super::claims::Claim;
use super::error::FsError;
use super::new_handle::NewHandle;
use super::node::Node;
use super::open_file::{Handle, OpenFile, Writing};
use super::opener::{OpenedBy, Opener};
use super::opening::SMALL_FILE_TRIES;
use super::operations::{Created, Creation, Done, OpenReply, RequestContext};
use super::order::Touch;
use super::pending::Pending;
use super::writes::{FileWrites, Writer};
use super::writing::whole_file;
use crate::backend::Place;
use crate::backend::access::Access;
use crate::backend::writing::{NewFile, Opened, WritableFile, WriteAccess};
use crate::types::{Attributes, Credentials, FileKind, NodeId};
use std::ffi::OsStr;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The kernel forgets attributes without waiting for anything.
const FORGET_TIMEOUT: Duration = Duration::from_secs(1);

/// The backend's access for a program's; `None` where it only truncates.
pub(super) fn access_of(flags: i32) -> Option<WriteAccess> {
    match flags & libc::O_ACCMODE {
        libc::O_RDONLY => None,
        libc::O_WRONLY => Some(WriteAccess::WriteOnly),
        _ => Some(WriteAccess::ReadWrite),
    }
}

impl FileSystem {
    /// Opens for writing, or truncates on the way.
    pub(super) fn open_changing(
        &self,
        context: RequestContext,
        id: NodeId,
        flags: i32,
        done: Done<OpenReply>,
    ) {
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return done(Err(error)),
        };
        if node.state.lock().kind() != FileKind::Regular {
            return done(Err(FsError::NotRegular));
        }
        let caller = self.credentials(&context.caller);
        let pending = self.begin(context, done);
        let (known, writer) = (node.clone(), caller.clone());
        let open = move |fs: Arc<FileSystem>, pending: Arc<Pending<OpenReply>>| {
            let opened = match access_of(flags) {
                Some(access) => fs.open_writer(&node, access, flags, &caller, &pending),
                None => fs.open_truncating(&node, flags, caller, &pending),
            };
            if let Err(error) = opened {
                fs.fail(&pending, error);
            }
        };
        match self.settings.write_back {
            true => self.open_or_unsent(&known, flags, writer, &pending, open),
            false => self.on_backend(&pending, open),
        }
    }

    fn open_writer(
        self: &Arc<Self>,
        node: &Arc<Node>,
        access: WriteAccess,
        flags: i32,
        caller: &Credentials,
        pending: &Arc<Pending<OpenReply>>,
    ) -> Result<(), FsError> {
        let place = self.place_to_change(node, caller)?;
        self.refuse_writer(node)?;
        let asked = Instant::now();
        let opened = self.backend.open_writable(&place, access, caller);
        let file = opened.map_err(FsError::Backend)?;
        if access == WriteAccess::ReadWrite {
            self.note_access(node, Access::Read, &place.caller, asked, &Ok(()));
        }
        self.give_writer(node, file, flags, place.caller, pending)
    }

    pub(super) fn refuse_writer(&self, node: &Arc<Node>) -> Result<(), FsError> {
        self.refuse_if_executed(node)?;
        self.refuse_node_of_kernel(node)
    }

    /// Gives out a file that was opened for writing, truncated where that is asked for.
    pub(super) fn give_writer(
        self: &Arc<Self>,
        node: &Arc<Node>,
        file: Arc<dyn WritableFile>,
        flags: i32,
        reader: Option<Credentials>,
        pending: &Arc<Pending<OpenReply>>,
    ) -> Result<(), FsError> {
        let writing = Writing {
            writer: Writer::new(file, self.descriptors.count(&node.key)),
            writes: self.writes.of(&node.key),
        };
        let new = self.attach(node, writing.clone(), flags, reader)?;
        if flags & libc::O_TRUNC == 0 {
            self.answer(new, pending);
            return Ok(());
        }
        let (node, writes) = (node.clone(), writing.writes.clone());
        self.in_order(
            &writes,
            whole_file(),
            Touch::Changes,
            pending,
            move |fs, pending| match fs.truncate(&writing.of(&node), 0) {
                Ok(()) => fs.answer(new, &pending),
                Err(error) => fs.fail(&pending, error),
            },
        );
        Ok(())
    }

    /// Where the backend has a file under its name now, for a caller who can get there. Blocks on the backend.
    fn place_to_change(&self, node: &Arc<Node>, caller: &Credentials) -> Result<Place, FsError> {
        let place = self.place(node, caller);
        self.revalidate_name(node, &place.caller)?;
        let way = Asking::way_to(node, &place.caller);
        self.ask(&way).map_err(FsError::Backend)?;
        Ok(place)
    }

    /// O_RDONLY | O_TRUNC.
    fn open_truncating(
        self: &Arc<Self>,
        node: &Arc<Node>,
        flags: i32,
        caller: Credentials,
        pending: &Arc<Pending<OpenReply>>,
    ) -> Result<(), FsError> {
        let opener = Opener {
            flags,
            caller: self.place_to_change(node, &caller)?.caller,
            is_unasked: false,
        };
        let read = Asking::to(node, Access::Read, &opener.caller);
        self.ask(&read).map_err(FsError::Backend)?;
        let (node, writes) = (node.clone(), self.writes.of(&node.key));
        self.in_order(
            &writes.clone(),
            whole_file(),
            Touch::Changes,
            pending,
            move |fs, pending| match fs.truncate_as(&node, &writes, &caller, 0) {
                Ok(()) => fs.open_version(node, opener, pending, SMALL_FILE_TRIES),
                Err(error) => fs.fail(&pending, error),
            },
        );
        Ok(())
    }

    /// `Stale` makes the kernel look the name up again, and find another node.
    fn refuse_node_of_kernel(&self, node: &Arc<Node>) -> Result<(), FsError> {
        let open = node.state.lock().open.clone();
        if open.is_some_and(|open| open.passthrough.is_some()) {
            self.writes.expect(&node.key);
            let (forgotten, told) = crossbeam_channel::bounded(1);
            self.supersede_then(node, move || {
                let _ = forgotten.send(());
            });
            let _ = told.recv_timeout(FORGET_TIMEOUT);
        }
        match node.is_superseded() && !node.is_nameless() {
            true => Err(FsError::Stale),
            false => Ok(()),
        }
    }

    /// One more handle of the node, for writing.
    fn attach(
        self: &Arc<Self>,
        node: &Arc<Node>,
        writing: Writing,
        flags: i32,
        reader: Option<Credentials>,
    ) -> Result<NewHandle, FsError> {
        let turning = writing.writes.turning.lock();
        let (version, first_seen) = {
            let state = node.state.lock();
            (node.version(&state), state.first_seen())
        };
        let file = self.cache.file(&node.key, version);
        let placed = OpenedBy {
            node: node.clone(),
            reader: reader.clone(),
        };
        file.begin_use(Arc::new(placed), first_seen);
        let mut state = node.state.lock();
        let (open, unused) = match state.open.clone() {
            Some(open) if open.passthrough.is_some() => {
                drop(state);
                drop(turning);
                file.end_use();
                self.refuse_node_of_kernel(node)?;
                return Err(FsError::Stale);
            }
            Some(open) => {
                open.handles.fetch_add(1, Ordering::AcqRel);
                (open, Some(file))
            }
            None => {
                let open = Arc::new(OpenFile::new(file, None, reader));
                state.open = Some(open.clone());
                (open, None)
            }
        };
        open.writes.store(Some(writing.writes.clone()));
        writing.writes.add(&writing.writer);
        let keep_cache = std::mem::replace(&mut state.pages_current, true);
        drop(state);
        drop(turning);
        if let Some(unused) = unused {
            unused.end_use();
        }
        self.writes.has_come(&node.key);
        let handle = Handle {
            direct_io: self.is_direct(flags),
            writing: Some(writing),
            ..Handle::new(node.clone(), open)
        };
        Ok(self.new_handle(handle, keep_cache))
    }

    pub(super) fn create_file(
        &self,
        context: RequestContext,
        parent: NodeId,
        name: Option<&OsStr>,
        creation: Creation,
        done: Done<Created>,
    ) {
        let parent = match self.node(parent) {
            Ok(parent) => parent,
            Err(error) => return done(Err(error)),
        };
        let mode = self.callers.mode_of_new(&context.caller, creation.mode);
        let creation = Creation { mode, ..creation };
        let name = name.map(OsStr::to_owned);
        let claimed = name.iter().map(|name| Claim::Name(parent.id, name.clone()));
        self.change(
            context,
            claimed.collect(),
            done,
            move |fs, caller| fs.make_file(&parent, name.as_deref(), creation, caller),
            |fs, (node, new)| Created {
                entry: fs.give_entry(&node),
                open: new.reply(),
            },
        );
    }

    fn make_file(
        self: &Arc<Self>,
        parent: &Arc<Node>,
        name: Option<&OsStr>,
        creation: Creation,
        caller: &Credentials,
    ) -> io::Result<(Arc<Node>, NewHandle)> {
        let new = NewFile {
            mode: creation.mode,
            umask: creation.umask,
            access: access_of(creation.flags).unwrap_or(WriteAccess::ReadWrite),
        };
        let asked = Instant::now();
        let place = self.place(parent, caller);
        let made = match name {
            Some(name) => self.backend.create(&place, name, new, caller),
            None => self.backend.create_unnamed(&place, new, caller),
        };
        if name.is_some() {
            self.names_changed(parent);
        }
        let opened = made.map_err(|error| match error.raw_os_error() {
            // The kernel finds it, checks whether this caller may open it, and asks for that.
            Some(libc::EEXIST) if creation.flags & libc::O_EXCL == 0 => stale(),
            _ => error,
        })?;
        if name.is_some() {
            self.sync_names(parent, caller, ())?;
        }
        self.admit_new(parent, name, opened, (creation, place.caller), asked)
    }

    fn admit_new(
        self: &Arc<Self>,
        parent: &Arc<Node>,
        name: Option<&OsStr>,
        (found, file): Opened,
        (creation, maker): (Creation, Option<Credentials>),
        asked: Instant,
    ) -> io::Result<(Arc<Node>, NewHandle)> {
        let admit = || match name {
            Some(name) => self.admit(parent, name, &found, asked),
            None => {
                let timeout = self.first_timeout(FileKind::Regular);
                self.nodes.admit_unnamed(&found, timeout)
            }
        };
        let mut node = admit();
        if self.refuse_node_of_kernel(&node).is_err() {
            node = admit();
        }
        self.xattrs.note_made(&node);
        if self.settings.write_back {
            self.note_maker(&node, &found.attributes, &maker, asked);
        }
        let writes: Arc<FileWrites> = self.writes.of(&node.key);
        // Nothing of it is cached: it is as if it had been given up.
        writes.begin(self.keep_new(&node.key, &writes, &*file, &found.attributes));
        let writing = Writing {
            writer: Writer::new(file, self.descriptors.count(&node.key)),
            writes,
        };
        let attached = self.attach(&node, writing, creation.flags, maker);
        attached.map(|new| (node, new)).map_err(|_| stale())
    }

    /// Who has made a file and owns it may read it where its mode says so: the backend need not be asked before it is away.
    fn note_maker(
        &self,
        node: &Arc<Node>,
        found: &Attributes,
        maker: &Option<Credentials>,
        asked: Instant,
    ) {
        let is_owner = maker.as_ref().is_some_and(|maker| maker.uid == found.uid);
        if is_owner && found.permissions & libc::S_IRUSR != 0 {
            self.note_access(node, Access::Read, maker, asked, &Ok(()));
        }
    }
}

fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}
