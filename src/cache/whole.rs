//! Small files come whole, in one go: open, read, stat on one backend thread.

use super::Cache;
use super::fetch::FetchError;
use super::file::CachedFile;
use super::pieces::{Priority, Woken};
use super::record::occupied;
use crate::backend::lanes::Lane;
use crate::io::Buffer;
use crate::types::ByteRange;
use std::sync::Arc;

impl Cache {
    /// Brings a small file whole, then calls `woken`. Does not block.
    pub fn fetch_whole(self: &Arc<Self>, file: &Arc<CachedFile>, woken: Woken) {
        self.fetch_whole_by(&self.demand_lane, file, woken);
    }

    /// The same on a lane of the caller's.
    pub fn fetch_whole_by(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        file: &Arc<CachedFile>,
        woken: Woken,
    ) {
        let range = ByteRange::new(0, file.size_bytes());
        let mut state = file.state.lock();
        if let Some(error) = file.refusal(&state) {
            drop(state);
            return woken(Err(error));
        }
        if state.extents.contains(range) {
            drop(state);
            return woken(Ok(()));
        }
        state.pieces.wait_for(range, woken);
        if state.pieces.whole {
            return;
        }
        if state.pieces.has_bytes_under_way() {
            // Two ways to the same bytes of the object must not be open at once; the rest goes this one.
            let missing = state.extents.missing(range);
            let piece_bytes = self.fill_limits.piece_bytes();
            for gap in missing {
                state.pieces.want(gap, Priority::Demand, piece_bytes);
            }
            drop(state);
            return self.drive(file);
        }
        state.pieces.whole = true;
        drop(state);
        let (cache, settled, lane) = (self.clone(), file.clone(), lane.clone());
        self.after_settling(file, move || cache.fetch_whole_now(&lane, &settled, range));
    }

    fn fetch_whole_now(
        self: &Arc<Self>,
        lane: &Arc<Lane>,
        file: &Arc<CachedFile>,
        range: ByteRange,
    ) {
        let (cache, fetched) = (self.clone(), file.clone());
        let submitted = lane.submit(move || {
            match cache.copy_whole(&fetched) {
                Ok(()) => {
                    cache.publish(&fetched, &[range]);
                    // Not before: what is no extent yet would be fetched a second time.
                    fetched.state.lock().pieces.whole = false;
                }
                Err(error) => {
                    // Not after: who came between would wait for nothing.
                    fetched.state.lock().pieces.whole = false;
                    match error {
                        FetchError::Changed => cache.discard(&fetched),
                        error => cache.fail_fetch(&fetched, &error),
                    }
                }
            }
            cache.rest(&fetched);
        });
        if submitted.is_err() {
            file.state.lock().pieces.whole = false;
            self.fail_fetch(file, &FetchError::Overloaded);
        }
    }

    /// On success the file's bytes are in its object, reserved and verified. What finds no room asks nothing of the
    /// backend.
    fn copy_whole(&self, file: &Arc<CachedFile>) -> Result<(), FetchError> {
        let Some(directory) = &file.directory else {
            return Err(FetchError::Bypass);
        };
        let bytes = occupied(ByteRange::new(0, file.size_bytes()));
        if !directory.reserve(bytes) {
            self.reclaim.wake();
            return Err(FetchError::Bypass);
        }
        let size = file.size_bytes() as usize;
        let buffer = self
            .read_whole(file)
            .inspect_err(|_| directory.unreserve(bytes))?;
        if self.settings.scrub.checksums.at_fill() {
            file.note_sums(&buffer[..size], 0);
        }
        let written = file.ensure_object().and_then(|object| match object {
            Some(object) => object.write_all_at(&buffer[..size], 0).map(|()| true),
            None => Ok(false),
        });
        match written {
            Ok(true) => Ok(()),
            Ok(false) => {
                directory.space.cancel(bytes);
                Err(FetchError::Bypass)
            }
            Err(error) => {
                directory.space.cancel(bytes);
                directory.report_disk_error("filling an object", &error);
                self.reclaim.wake();
                Err(FetchError::Bypass)
            }
        }
    }

    /// The file's bytes, and one byte of room, as its version has them.
    fn read_whole(&self, file: &Arc<CachedFile>) -> Result<Buffer, FetchError> {
        let source = self.open_backend(file)?;
        if file.may_be_written(&*source) {
            return Err(FetchError::Bypass);
        }
        let size = file.size_bytes() as usize;
        let mut buffer = (self.take_buffer)(size + 1);
        // One byte more than expected is asked for: a file that grew is another version.
        let length = source
            .read_at(&mut buffer[..size + 1], 0)
            .map_err(FetchError::of_backend)?;
        let _unchanged = file.unchanged.read();
        let attributes = source.attributes().map_err(FetchError::of_backend)?;
        if length != size || attributes.version() != file.version() {
            return Err(FetchError::Changed);
        }
        Ok(buffer)
    }
}
