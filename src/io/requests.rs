//! What an engine carries out: one read or one fill, with everything that must stay alive until it ends.
//!
//! Invariant: a request holds its files and its buffer itself, never a descriptor number, and
//! whoever holds the request calls its completion exactly once by consuming it.

use super::{Buffer, Completion, FillCompletion, FillError, FillSource};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// One read on its way to the disk.
pub(crate) struct ReadRequest {
    pub buffered: Arc<File>,
    /// The O_DIRECT descriptor, while this read may use it.
    pub direct: Option<Arc<File>>,
    pub offset: u64,
    pub length_bytes: usize,
    pub moved_bytes: usize,
    pub buffer: Buffer,
    pub done: Completion,
}

/// What an outcome of the kernel means for a read.
pub(crate) enum Progress {
    /// Not all is there yet: go on at `moved_bytes`.
    More(ReadRequest),
    /// To be finished with this.
    Ended(ReadRequest, io::Result<usize>),
}

impl ReadRequest {
    /// The descriptor that the rest of this read goes to.
    pub fn file(&self) -> &File {
        self.direct.as_deref().unwrap_or(&self.buffered)
    }

    /// Takes in one result of the kernel: bytes or a negative errno. A short transfer goes on through
    /// the page cache, because only a further 0 tells the end of the file; what O_DIRECT
    /// refuses is read through the page cache as well.
    pub fn advance(mut self, result: i32) -> Progress {
        if result > 0 {
            self.moved_bytes += result as usize;
            if self.moved_bytes >= self.length_bytes {
                let moved = self.moved_bytes;
                return Progress::Ended(self, Ok(moved));
            }
            self.direct = None;
            return Progress::More(self);
        }
        if result == 0 {
            let moved = self.moved_bytes;
            return Progress::Ended(self, Ok(moved));
        }
        match -result {
            libc::EINTR => Progress::More(self),
            libc::EINVAL | libc::EOPNOTSUPP | libc::EAGAIN if self.direct.is_some() => {
                self.direct = None;
                Progress::More(self)
            }
            errno => Progress::Ended(self, Err(io::Error::from_raw_os_error(errno))),
        }
    }

    /// Reads with pread(2) on the calling thread, then calls the completion. Blocks on the disk.
    pub fn carry_out(mut self) {
        loop {
            let offset = self.offset + self.moved_bytes as u64;
            let rest = &mut self.buffer[self.moved_bytes..self.length_bytes];
            let result = match self
                .direct
                .as_ref()
                .unwrap_or(&self.buffered)
                .read_at(rest, offset)
            {
                Ok(read) => i32::try_from(read).unwrap_or(i32::MAX),
                Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
            };
            match self.advance(result) {
                Progress::More(request) => self = request,
                Progress::Ended(request, result) => return request.finish(result),
            }
        }
    }

    /// Lets go of the files, then calls the completion. A panic in it is reported and ends there: the thread
    /// serves others too.
    pub fn finish(self, result: io::Result<usize>) {
        let (done, buffer) = (self.done, self.buffer);
        drop((self.buffered, self.direct));
        guarded("read", move || done(result, buffer));
    }

    pub fn cancel(self) {
        self.finish(Err(stopped()));
    }
}

/// One piece of fill on its way.
pub(crate) struct FillRequest {
    pub source: FillSource,
    pub buffered: Arc<File>,
    /// The O_DIRECT descriptor; `None` where the filesystem has none.
    pub direct: Option<Arc<File>>,
    pub offset: u64,
    pub length_bytes: u64,
    /// The front of the piece that is already in the destination.
    pub copied_bytes: u64,
    pub done: FillCompletion,
}

impl FillRequest {
    /// Lets go of the files, then calls the completion, see [`ReadRequest::finish`].
    pub fn finish(self, result: Result<u64, FillError>) {
        let done = self.done;
        drop((self.source, self.buffered, self.direct));
        guarded("fill", move || done(result));
    }

    pub fn cancel(self) {
        self.finish(Err(FillError::Destination(stopped())));
    }
}

/// ECANCELED: the engine is shutting down.
pub(crate) fn stopped() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

fn guarded(what: &str, call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        tracing::error!("the completion of a {what} panicked; this is a bug, please report it");
    }
}
