//! fallocate and copy_file_range.

use super::FileSystem;
use super::error::FsError;
use super::open_file::{Handle, Writing};
use super::operations::{Done, RangeCopy, RequestContext};
use super::order::Touch;
use super::writing::whole_file;
use crate::io::FillSource;
use crate::types::{ByteRange, HandleId};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl FileSystem {
    pub(super) fn allocate_range(
        &self,
        context: RequestContext,
        id: HandleId,
        mode: i32,
        range: ByteRange,
        done: Done<()>,
    ) {
        let (handle, writing) = match self.writing(id) {
            Ok(found) => found,
            Err(error) => return done(Err(error)),
        };
        let pending = self.begin_transfer(context, done);
        // It may move the end of the file.
        let writes = writing.writes.clone();
        self.in_order(
            &writes,
            whole_file(),
            Touch::Changes,
            &pending,
            move |fs, pending| {
                let outcome = fs.change_bytes(&writing.of(&handle.node), || {
                    writing.writer.unsynced.store(true, Ordering::Release);
                    let outcome = writing.writer.file.allocate(mode, range);
                    follow_allocation(&writing, mode, range, &outcome);
                    outcome
                });
                pending.finish(outcome);
            },
        );
    }

    pub(super) fn copy_file_range(
        &self,
        context: RequestContext,
        copy: RangeCopy,
        done: Done<u64>,
    ) {
        let (to, writing) = match self.writing(copy.to) {
            Ok(found) => found,
            Err(error) => return done(Err(error)),
        };
        let Some(from) = self.handles.get(copy.from) else {
            return done(Err(FsError::UnknownNode));
        };
        let filesystem = to.node.filesystem;
        if from.node.filesystem != filesystem || !self.backend.copies_by_itself(filesystem) {
            return done(Err(FsError::NotSupported));
        }
        let pending = self.begin_transfer(context, done);
        let range = ByteRange::at(copy.to_offset, copy.length_bytes);
        let writes = writing.writes.clone();
        self.in_order(
            &writes,
            range,
            Touch::Changes,
            &pending,
            move |fs, pending| {
                let outcome = fs.change_bytes(&writing.of(&to.node), || {
                    let source = fs.copy_source(&from)?;
                    writing.writer.unsynced.store(true, Ordering::Release);
                    let file = &writing.writer.file;
                    let copied = file.copy_from(&source, copy.from_offset, range);
                    if let Some(followers) = writing.writes.followers() {
                        match &copied {
                            Ok(copied) => followers.miss(ByteRange::at(range.start, *copied)),
                            Err(_) => followers.doubt(range),
                        }
                    }
                    let copied = copied?;
                    follow_copy(&fs, &to, &writing, ByteRange::at(range.start, copied))?;
                    Ok(copied)
                });
                pending.finish(outcome);
            },
        );
    }

    fn copy_source(&self, from: &Arc<Handle>) -> io::Result<FillSource> {
        if let Some(writes) = from.open.changing()
            && let Some(writer) = writes.readable_writer()
        {
            return Ok(writer.file.source());
        }
        let place = from.node.place_for(&from.open.reader);
        let opened = self.backend.open_to_copy(&place);
        // Without a name any more, perhaps: the handle can be read all the same.
        opened.map_err(|_| io::Error::from_raw_os_error(libc::EOPNOTSUPP))
    }
}

fn follow_allocation(writing: &Writing, mode: i32, range: ByteRange, outcome: &io::Result<()>) {
    let Some(followers) = writing.writes.followers().filter(|all| !all.is_empty()) else {
        return;
    };
    if outcome.is_err() {
        return followers.lose_kept();
    }
    let zeroes = mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0;
    let keeps_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match zeroes {
        true => followers.zero(range, !keeps_size),
        false if keeps_size => {}
        false => followers.zero(ByteRange::new(range.end, range.end), true),
    }
}

/// What was copied is read back: its bytes have not come this way.
fn follow_copy(
    fs: &FileSystem,
    to: &Handle,
    writing: &Writing,
    copied: ByteRange,
) -> io::Result<()> {
    const PIECE_BYTES: u64 = 1 << 20;
    let Some(followers) = writing.writes.followers().filter(|all| all.are_shown()) else {
        return Ok(());
    };
    let mut buffer = fs.cache.buffer(PIECE_BYTES as usize);
    let mut offset = copied.start;
    while offset < copied.end {
        let length = PIECE_BYTES.min(copied.end - offset) as usize;
        let read = fs.read_present(to, &writing.writes, &mut buffer[..length], offset)?;
        if read == 0 {
            break;
        }
        followers.write(&buffer[..read], offset);
        offset += read as u64;
    }
    Ok(())
}
