//! Reads under `checksum=read`: whole blocks are read and compared with their sums before any byte of them is given out.
//!
//! Invariant: a block that has a sum and another content is not given out; who asked for it is answered by the backend.

use super::file::CachedFile;
use super::sums::{SUM_BLOCK_BYTES, bad_blocks};
use super::{Cache, FetchError, ReadDone};
use crate::io::{Buffer, IoFile};
use crate::types::ByteRange;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;

/// What a checked read led to.
enum Checked {
    /// The buffer and where in it the bytes begin.
    Good(Buffer, usize),
    Bad(Vec<ByteRange>),
    /// Trimmed or given up meanwhile.
    Gone,
    /// There is no object any more.
    Lost,
}

impl Cache {
    /// All bytes are in the object. On a thread that may wait for the disk: the sums are there, too.
    pub(super) fn read_checked(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        range: ByteRange,
        buffer: Buffer,
        done: ReadDone,
    ) {
        let (cache, reader) = (self.clone(), file.clone());
        // Taken by whichever of the two ends the request: the job, or its refusal.
        let done = Arc::new(Mutex::new(Some(done)));
        let job_done = done.clone();
        let submitted = self.checks_lane.submit(move || {
            if let Some(done) = job_done.lock().take() {
                cache.read_checked_now(&reader, range, buffer, done);
            }
        });
        if submitted.is_err()
            && let Some(done) = done.lock().take()
        {
            done(Err(FetchError::Overloaded));
        }
    }

    fn read_checked_now(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        range: ByteRange,
        buffer: Buffer,
        done: ReadDone,
    ) {
        let length = range.length_bytes() as usize;
        match self.check_read(file, range) {
            Ok(Checked::Good(mut found, skipped)) => {
                found.copy_within(skipped..skipped + length, 0);
                file.note_read(range);
                done(Ok((found, length)));
            }
            Ok(Checked::Bad(bad)) => {
                self.note_damage(file, bad);
                self.read_past(file, range, buffer, done);
            }
            Ok(Checked::Gone) => self.read_past(file, range, buffer, done),
            Ok(Checked::Lost) => self.read_anew(file, range, buffer, done),
            Err(error) => {
                if let Some(directory) = &file.directory {
                    directory.report_disk_error("reading an object", &error);
                }
                self.read_past(file, range, buffer, done);
            }
        }
    }

    fn check_read(&self, file: &CachedFile, range: ByteRange) -> io::Result<Checked> {
        let blocks = range
            .aligned_out(SUM_BLOCK_BYTES)
            .intersection(&ByteRange::new(0, file.size_bytes()));
        let Some(began) = file.begin_read(blocks) else {
            return Ok(Checked::Gone);
        };
        let Some(object) = file.object_file()? else {
            return Ok(Checked::Lost);
        };
        let id = file.state.lock().object.map(|object| object.id);
        let known = id.map_or_else(Vec::new, |id| file.known_sums(id, blocks));
        let length = blocks.length_bytes() as usize;
        let mut buffer = self.buffer(length);
        let read_bytes = read_to_the_end(&*object, &mut buffer[..length], blocks.start)?;
        if !file.is_served() || file.was_trimmed(began) || !file.holds(blocks) {
            return Ok(Checked::Gone);
        }
        if read_bytes < length {
            return Err(io::Error::other(
                "an object became shorter: somebody else writes to the cache directory",
            ));
        }
        let bad = bad_blocks(&buffer[..length], blocks, &known, file.size_bytes());
        Ok(match bad.is_empty() {
            true => Checked::Good(buffer, (range.start - blocks.start) as usize),
            false => Checked::Bad(bad),
        })
    }
}

/// Short at the end of the object only.
fn read_to_the_end(object: &dyn IoFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut moved = 0;
    while moved < buffer.len() {
        match object.read_at(&mut buffer[moved..], offset + moved as u64)? {
            0 => break,
            read => moved += read,
        }
    }
    Ok(moved)
}
