//! Reads: from the object what it has, from the backend the rest; past the cache where the cache cannot serve.
//!
//! Invariant: an error of the cache disk is never an error of a read; the backend is asked instead.

use super::file::CachedFile;
use super::{Attempt, Cache, FetchError, ReadDone, ReadPlan};
use crate::backend::SeekWhence;
use crate::io::Buffer;
use crate::types::{ByteRange, RangeSeries};
use parking_lot::Mutex;
use std::sync::Arc;

impl Cache {
    /// A buffer of at least so many bytes.
    pub fn buffer(&self, length_bytes: usize) -> Buffer {
        (self.take_buffer)(length_bytes)
    }

    /// Reads what needs no waiting. A file that fails on its disk reads as missing.
    pub fn try_read(&self, file: &CachedFile, offset: u64, length_bytes: usize) -> Attempt {
        let range = clip(file, offset, length_bytes);
        let length = range.length_bytes() as usize;
        let mut buffer = (self.take_buffer)(length);
        if length == 0 {
            return Attempt::Done(buffer, 0);
        }
        let Some(began) = file.begin_read(range) else {
            return Attempt::Missing(buffer);
        };
        let is_checked = self.settings.scrub.checksums.at_read();
        let object = file.open_object_file().filter(|_| !is_checked);
        let Some(object) = object else {
            return Attempt::OnDisk(buffer);
        };
        match object.read_cached(&mut buffer[..length], offset) {
            Ok(Some(read)) if read == length && !file.was_trimmed(began) => {
                file.note_read(range);
                Attempt::Done(buffer, length)
            }
            _ => Attempt::OnDisk(buffer),
        }
    }

    /// Reads what is there of a range, all of it or nothing: whether it did. What is checked at each read is left alone.
    /// Waits for the local disk.
    pub fn read_held(&self, file: &CachedFile, buffer: &mut [u8], offset: u64) -> bool {
        let range = ByteRange::at(offset, buffer.len() as u64);
        let began = file.begin_read(range);
        let is_checked = self.settings.scrub.checksums.at_read();
        let Some(began) = began.filter(|_| !is_checked) else {
            return false;
        };
        let Ok(Some(object)) = file.object_file() else {
            return false;
        };
        let read = object.read_at(buffer, offset);
        read.is_ok_and(|read| read == buffer.len()) && !file.was_trimmed(began) && file.holds(range)
    }

    /// Reads, fetching what is missing. `done` is called once, maybe before this returns. `buffer` comes from
    /// [`Cache::try_read`].
    pub fn read(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        plan: ReadPlan,
        buffer: Buffer,
        done: ReadDone,
    ) {
        let range = clip(file, plan.offset, plan.length_bytes);
        if file.holds(range) {
            // A file still coming in was written with O_DIRECT: read back the same way, it takes no second place in
            // memory beside the kernel's pages of the mount.
            let direct = plan.random || !file.is_complete();
            return self.read_object(file, range, direct, buffer, done);
        }
        self.note_miss(file, range.start);
        let (cache, reader) = (self.clone(), file.clone());
        self.fetch(
            file,
            range,
            plan.block_bytes,
            plan.ahead,
            Box::new(move |outcome| match outcome {
                Ok(()) => cache.read_object(&reader, range, true, buffer, done),
                Err(FetchError::Bypass | FetchError::Refused) => {
                    cache.read_past(&reader, range, buffer, done)
                }
                Err(error) => done(Err(error)),
            }),
        );
    }

    /// All bytes are in the object: asynchronously from the disk, through the page cache or not (`direct`). A disk
    /// that fails sends the read past the cache.
    fn read_object(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        range: ByteRange,
        direct: bool,
        buffer: Buffer,
        done: ReadDone,
    ) {
        if self.settings.scrub.checksums.at_read() {
            return self.read_checked(file, range, buffer, done);
        }
        let length = range.length_bytes() as usize;
        // Trimmed since it was found there: holes are no bytes of the file.
        let Some(began) = file.begin_read(range) else {
            return self.read_past(file, range, buffer, done);
        };
        let object = match file.object_file() {
            Ok(Some(object)) => object,
            Ok(None) => return self.read_anew(file, range, buffer, done),
            Err(error) => {
                if let Some(directory) = &file.directory {
                    directory.report_disk_error("opening an object", &error);
                }
                return self.read_past(file, range, buffer, done);
            }
        };
        let (cache, reader) = (self.clone(), file.clone());
        object.submit_read(
            buffer,
            range.start,
            length,
            direct,
            Box::new(move |result, buffer| match result {
                // Out of use since: after a failed sync these may be other bytes than were written.
                Ok(_) if !reader.is_served() || reader.was_trimmed(began) => {
                    cache.read_past(&reader, range, buffer, done)
                }
                Ok(read) if read == length => {
                    reader.note_read(range);
                    done(Ok((buffer, length)));
                }
                Ok(_) => {
                    if let Some(directory) = &reader.directory {
                        directory.fail(
                            "an object became shorter: somebody else writes to the cache directory"
                                .to_owned(),
                        );
                    }
                    cache.read_past(&reader, range, buffer, done);
                }
                Err(error) => {
                    if let Some(directory) = &reader.directory {
                        directory.report_disk_error("reading an object", &error);
                    }
                    cache.read_past(&reader, range, buffer, done);
                }
            }),
        );
    }

    /// The object turned out not to be there: its bytes are fetched again, once.
    pub(super) fn read_anew(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        range: ByteRange,
        buffer: Buffer,
        done: ReadDone,
    ) {
        if file.holds(range) {
            return self.read_past(file, range, buffer, done);
        }
        let plan = ReadPlan {
            offset: range.start,
            length_bytes: range.length_bytes() as usize,
            block_bytes: crate::io::ALIGNMENT_BYTES,
            ahead: RangeSeries::default(),
            random: false,
        };
        self.read(file, plan, buffer, done);
    }

    /// Reads from the backend on one of its threads, nothing kept. The version must be the file's before and after.
    pub(super) fn read_past(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        range: ByteRange,
        buffer: Buffer,
        done: ReadDone,
    ) {
        let (cache, settled) = (self.clone(), file.clone());
        self.after_settling(file, move || {
            cache.read_past_now(&settled, range, buffer, done);
        });
    }

    fn read_past_now(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        range: ByteRange,
        mut buffer: Buffer,
        done: ReadDone,
    ) {
        let (cache, reader) = (self.clone(), file.clone());
        // Taken by whichever of the two ends the request: the job, or its refusal.
        let done = Arc::new(Mutex::new(Some(done)));
        let job_done = done.clone();
        let submitted = self.demand_lane.submit(move || {
            let outcome = cache.read_backend(&reader, range, &mut buffer);
            if let Some(done) = job_done.lock().take() {
                done(outcome.map(|()| (buffer, range.length_bytes() as usize)));
            }
        });
        if submitted.is_err()
            && let Some(done) = done.lock().take()
        {
            done(Err(FetchError::Overloaded));
        }
    }

    /// Reads from the backend at once, however fresh the version is: nobody may keep what was read for the version's. It must
    /// be the file's before and after. Blocks on the backend.
    pub fn read_unkept(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        offset: u64,
        length_bytes: usize,
    ) -> Result<(Buffer, usize), FetchError> {
        let range = clip(file, offset, length_bytes);
        let mut buffer = self.buffer(range.length_bytes() as usize);
        file.state.lock().given_while_written = true;
        self.read_backend(file, range, &mut buffer)?;
        Ok((buffer, range.length_bytes() as usize))
    }

    fn read_backend(
        self: &Arc<Self>,
        file: &Arc<CachedFile>,
        range: ByteRange,
        buffer: &mut [u8],
    ) -> Result<(), FetchError> {
        let length = range.length_bytes() as usize;
        let source = self.open_backend(file)?;
        let read = source
            .read_at(&mut buffer[..length], range.start)
            .map_err(FetchError::of_backend)?;
        let unchanged = file.unchanged.read();
        let attributes = source.attributes().map_err(FetchError::of_backend)?;
        let is_same = attributes.version() == file.version();
        drop(unchanged);
        if read != length || !is_same {
            self.discard(file);
            return Err(FetchError::Changed);
        }
        self.metrics.bypass_bytes.add(length as u64);
        Ok(())
    }

    /// lseek(2) for data or holes, asked of the backend. Blocks on it.
    pub fn seek_backend(
        &self,
        file: &CachedFile,
        offset: u64,
        whence: SeekWhence,
    ) -> Result<u64, FetchError> {
        self.open_backend(file)?
            .seek(offset, whence)
            .map_err(FetchError::Backend)
    }
}

fn clip(file: &CachedFile, offset: u64, length_bytes: usize) -> ByteRange {
    ByteRange::at(offset, length_bytes as u64).intersection(&ByteRange::new(0, file.size_bytes()))
}
