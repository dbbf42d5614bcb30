//! Files that are in the journal, while the backend is away: read from there, and opened for more.

use super::FileSystem;
use super::access::Asking;
use super::creating::access_of;
use super::error::FsError;
use super::node::Node;
use super::open_file::Handle;
use super::operations::{OpenReply, ReadReply};
use super::pending::Pending;
use super::recalling::Wanted;
use crate::backend::access::Access;
use crate::backend::writing::WriteAccess;
use crate::cache::{CachedFile, ReadPlan};
use crate::io::Buffer;
use crate::types::{ByteRange, Credentials};
use crate::watch::Served;
use std::sync::Arc;

impl FileSystem {
    /// The backend cannot be asked for what it has of the file, and has not all of it anyway.
    pub(super) fn is_away_and_unsent(&self, file: &CachedFile) -> bool {
        self.health.is_away() && self.backend.is_unsent(&file.key, &file.version())
    }

    /// Reads from the journal; what the backend has is waited for as ever.
    pub(super) fn read_unsent(
        &self,
        handle: Arc<Handle>,
        file: Arc<CachedFile>,
        plan: ReadPlan,
        mut buffer: Buffer,
        pending: Arc<Pending<ReadReply>>,
    ) {
        let (this, refused) = (self.this(), pending.clone());
        let wanted = ByteRange::at(plan.offset, plan.length_bytes as u64);
        let whole = ByteRange::new(0, file.size_bytes());
        let length_bytes = wanted.intersection(&whole).length_bytes() as usize;
        let submitted = self.local_lane.submit(move || {
            let into = &mut buffer[..length_bytes];
            let backend = &this.backend;
            match backend.read_unsent(&file.key, &file.version(), into, plan.offset) {
                None => this.read_missing(handle, file, plan, buffer, pending),
                Some(read) => {
                    pending.note(Served::Journal);
                    let reply = read.map(|length_bytes| {
                        this.metrics.bypass_bytes.add(length_bytes as u64);
                        ReadReply {
                            buffer,
                            length_bytes,
                        }
                    });
                    pending.finish(reply.map_err(FsError::Disk));
                }
            }
        });
        if submitted.is_err() {
            refused.finish(Err(FsError::BackendTimeout));
        }
    }

    /// Opens a file for writing by `open`, or without the backend while it does not answer.
    pub(super) fn open_or_unsent(
        &self,
        node: &Arc<Node>,
        flags: i32,
        caller: Credentials,
        pending: &Arc<Pending<OpenReply>>,
        open: impl FnOnce(Arc<FileSystem>, Arc<Pending<OpenReply>>) + Send + 'static,
    ) {
        let asking = self.asking_to_change(node, flags, &caller);
        let node = node.clone();
        let known = move |fs: &Arc<FileSystem>, pending: &Arc<Pending<OpenReply>>| {
            fs.open_unsent(&node, flags, &caller, pending)
        };
        self.ask_or_known(asking, Wanted::Nothing, pending, known, open);
    }

    /// The way there, and what opening the file so allows beside writing.
    fn asking_to_change(&self, node: &Arc<Node>, flags: i32, caller: &Credentials) -> Asking {
        let asker = self.place(node, caller).caller;
        match access_of(flags) {
            Some(WriteAccess::WriteOnly) => Asking::way_to(node, &asker),
            Some(WriteAccess::ReadWrite) | None => Asking::to(node, Access::Read, &asker),
        }
    }

    /// Opens a file for writing that has been written to, without the backend; whether it does.
    fn open_unsent(
        self: &Arc<Self>,
        node: &Arc<Node>,
        flags: i32,
        caller: &Credentials,
        pending: &Arc<Pending<OpenReply>>,
    ) -> bool {
        let Some(access) = access_of(flags).filter(|_| self.is_known(node)) else {
            return false;
        };
        let place = self.place(node, caller);
        let Some(file) = self.backend.open_unsent(&place, access, caller) else {
            return false;
        };
        let (this, node, waiting) = (self.clone(), node.clone(), pending.clone());
        let reader = place.caller;
        let submitted = self.local_lane.submit(move || {
            let given = this
                .refuse_writer(&node)
                .and_then(|()| this.give_writer(&node, file, flags, reader, &waiting));
            if let Err(error) = given {
                waiting.finish(Err(error));
            }
        });
        submitted.is_ok()
    }
}
